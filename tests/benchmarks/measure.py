"""Whole processes, measured."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

EVERY = 0.1
"""Seconds between two looks at the memory: more often they would slow down what is measured."""


class Measured(NamedTuple):
    """Wall seconds; peak MB that a process and its children have for themselves (shared pages count once)."""

    seconds: float
    peak: float


def measure(command: list[str]) -> Measured:
    """Run a process to its end. Raises CalledProcessError where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if status:
        raise subprocess.CalledProcessError(status, command)
    return Measured(seconds, peak[0] / 1024)


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_proportional, _family(process.pid))))
        time.sleep(EVERY)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def _proportional(pid: int) -> int:
    """Proportional set size in kB."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
