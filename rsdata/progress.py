"""What a long command tells while it runs, on stderr: a bar on a terminal, else a line now and then, or JSON.

    {"event": "progress", "images": 12000, "total": 50000, "images_per_second": 830.1, "seconds_left": 46,
     "rejected": 3, "time": "2026-11-21T10:37:30+00:00"}

Events are progress, note and, last, error (with the exit code) or done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

EVERY = 10.0
"""Seconds between two lines."""


class Progress:
    """Says how far a run is. Images that an earlier run had done count as done, but not for the speed."""

    def __init__(
        self,
        as_json: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._json, self._clock = stream or sys.stderr, as_json, clock
        self._start = self._told = clock()
        self._bar: Any = None
        self._last: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        if not self._json and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(unit=" images", leave=False, file=self._stream, smoothing=0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the bar, or say for the last time how far it came."""
        if self._bar is not None:
            self._bar.close()
        elif self._last and (self._json or self._told > self._start):
            self._tell()
        self._bar, self._last = None, {}

    def step(self, images: int, total: int | None = None, kept: int = 0, rejected: int = 0) -> None:
        """Say that so many images are done, of so many."""
        now = self._clock()
        speed = (images - kept) / max(now - self._start, 1e-9)
        left = None if total is None or images <= kept else max(0, total - images) / speed
        self._last = {
            "images": images,
            "total": total,
            "images_per_second": round(speed, 1),
            "seconds_left": None if left is None else round(left),
            "rejected": rejected,
        }
        if self._bar is not None:
            self._bar.total, self._bar.initial = total, kept
            self._bar.set_postfix(rejected=rejected, refresh=False)
            self._bar.update(images - self._bar.n)
        elif now - self._told >= EVERY:
            self._told = now
            self._tell()

    def say(self, message: str) -> None:
        """Pass on a note for the user."""
        if self._json:
            self._write(event="note", message=message)
        elif self._bar is not None:
            self._bar.write(message, file=self._stream)
        else:
            self._line(message)

    def fail(self, message: str, code: int) -> None:
        """Say why the run ends, with which exit code."""
        self.close()
        if self._json:
            self._write(event="error", message=message, exit=code)
        else:
            self._line(message)

    def done(self) -> None:
        """Say, to programs, that the run has ended well."""
        if self._json:
            self._write(event="done", seconds=round(self._clock() - self._start, 1))

    def _tell(self) -> None:
        if self._json:
            self._write(event="progress", **self._last)
            return
        held = self._last
        of = "" if held["total"] is None else f" of {held['total']:,}"
        left = "" if held["seconds_left"] is None else f", {_duration(held['seconds_left'])} left"
        speed = f"{held['images_per_second']:,.0f} images/s"
        self._line(f"{held['images']:,}{of} images, {speed}{left}, {held['rejected']:,} rejected")

    def _write(self, **event: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._line(json.dumps({**event, "time": now}, ensure_ascii=False))

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
