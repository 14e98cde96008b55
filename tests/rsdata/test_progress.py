"""What a long run tells: a bar on a terminal, else lines now and then, or JSON."""

from __future__ import annotations

import io
import json

import pytest

from rsdata.progress import EVERY, Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock) as progress:
        progress.say("the dump lies in x/")
        for images in range(0, 2500, 100):
            clock.now += 1
            progress.step(images, 10_000, 0, images // 1000)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "the dump lies in x/"
    assert lines[1] == "900 of 10,000 images, 90 images/s, 1 min 41 s left, 0 rejected"
    assert lines[-1] == "2,400 of 10,000 images, 96 images/s, 1 min 19 s left, 2 rejected"
    assert len(lines) == 4


def test_a_short_run_says_nothing() -> None:
    stream = io.StringIO()
    with Progress(stream=stream, clock=Clock()) as progress:
        progress.step(3, 3)
        progress.done()
    assert stream.getvalue() == ""


def test_what_was_done_before_does_not_count_for_the_speed() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock) as progress:
        clock.now += EVERY
        progress.step(5100, 6000, kept=5000)
    assert stream.getvalue() == "5,100 of 6,000 images, 10 images/s, 1 min 30 s left, 0 rejected\n" * 2


@pytest.mark.parametrize(
    ("total", "left"),
    [(None, ""), (1000, ", 1 min 30 s left"), (100_000, ", 2 h 46 min left"), (150, ", 5 s left")],
)
def test_time_left(total: int | None, left: str) -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock) as progress:
        clock.now += EVERY
        progress.step(100, total)
    of = "" if total is None else f" of {total:,}"
    assert stream.getvalue().splitlines()[0] == f"100{of} images, 10 images/s{left}, 0 rejected"


def test_json_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(as_json=True, stream=stream, clock=clock) as progress:
        progress.say("船")
        clock.now += EVERY
        progress.step(100, 300, 0, 7)
        progress.close()
        progress.done()
        progress.fail("Unfinished: full", 3)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(event.pop("time") for event in events)
    step = {"images": 100, "total": 300, "images_per_second": 10.0, "seconds_left": 20, "rejected": 7}
    assert events == [
        {"event": "note", "message": "船"},
        {"event": "progress", **step},
        {"event": "progress", **step},
        {"event": "done", "seconds": 10.0},
        {"event": "error", "message": "Unfinished: full", "exit": 3},
    ]


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with Progress(stream=stream) as progress:
        progress.step(10, 100, kept=5, rejected=2)
        progress.say("a note")
        progress.step(100, 100, kept=5, rejected=2)
    text = stream.getvalue()
    assert "10/100" in text
    assert "rejected=2" in text
    assert "a note\n" in text
