"""Counts of very many keys, and what is told of numbers: distributions, histograms in octaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

PER_OCTAVE = 8
_PARTS = 16
_WAITING = 1 << 14


class Tally:
    """How often each key occurs, in 16 bytes a key: for keys that are too many for a Counter.

    Keys are uint64. They are held in parts by their lowest bits, as to sort takes several times the memory.
    """

    def __init__(self) -> None:
        self._parts: list[list[tuple[Any, Any]]] = [[] for _ in range(_PARTS)]
        self._waiting = 0
        self._held = 0

    def add(self, keys: Any, counts: Any) -> None:
        """Count keys (n,), each as often as `counts` (n,) says."""
        number = (keys % np.uint64(_PARTS)).astype(np.uint8)
        order = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=_PARTS))[:-1]
        split = zip(np.split(keys[order], ends), np.split(counts[order], ends), strict=True)
        for part, new in zip(self._parts, split, strict=True):
            part.append(new)
        self._waiting += len(keys)
        if self._waiting > max(_WAITING * _PARTS, self._held):
            self._held = sum(len(self.part(number)[0]) for number in range(_PARTS))
            self._waiting = 0

    def part(self, number: int) -> tuple[Any, Any]:
        """Distinct keys in rising order, and their counts (int64): those of one part."""
        self._parts[number] = [summed(self._parts[number])]
        return self._parts[number][0]


def parts(tallies: Sequence[Tally]) -> Iterator[tuple[Any, Any]]:
    """What several tallies have counted together, part by part: distinct keys in rising order, and counts."""
    for number in range(_PARTS):
        yield summed([tally.part(number) for tally in tallies])


def summed(several: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Several arrays of keys (uint64) and their counts as one: distinct keys in rising order, and counts."""
    keys = np.concatenate([np.zeros(0, np.uint64), *(each for each, _ in several)])
    counts = np.concatenate([np.zeros(0, np.int64), *(each for _, each in several)])
    if (keys[1:] > keys[:-1]).all():
        return keys, counts
    order = np.argsort(keys)
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[starts], np.add.reduceat(counts, starts)


def digests(texts: Iterable[str | None]) -> Any:
    """64 bits of each text (n,) uint64, the same in every run; 0 for null and for no text."""
    short = [blake2b(text.encode(), digest_size=8).digest() if text else bytes(8) for text in texts]
    return np.frombuffer(b"".join(short), np.uint64)


def mixed(numbers: Any) -> Any:
    """Numbers (n,) uint64 made to look random, each by itself (the finalizer of SplitMix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def distribution(histogram: Mapping[Any, int]) -> dict[str, float | None]:
    """Minimum, mean, median (the mean of the middle two of an even number) and maximum of a histogram."""
    if not histogram:
        return dict.fromkeys(("min", "mean", "median", "max"))
    values = sorted(histogram)
    ends = np.cumsum([histogram[value] for value in values])
    total = int(ends[-1])
    middle = np.searchsorted(ends, [(total - 1) // 2, total // 2], side="right")
    low, high = (values[at] for at in middle.tolist())
    mean = sum(value * number for value, number in histogram.items()) / total
    return {"min": values[0], "mean": mean, "median": (low + high) / 2, "max": values[-1]}


def listed(histogram: Mapping[int, int]) -> list[list[int]]:
    """A histogram as [value, count] pairs, in rising order."""
    return [[value, count] for value, count in sorted(histogram.items())]


def octaves(values: Any) -> Any:
    """The bin of each positive number (n,): eight bins double it, and one begins at 1."""
    return np.floor(np.log2(values) * PER_OCTAVE).astype(np.int64)


def lower_edges(histogram: Mapping[int, int]) -> list[list[float]]:
    """A histogram over `octaves` as [lower edge, count], in rising order; edges have six digits."""
    bins = sorted(histogram.items())
    return [[float(f"{2 ** (number / PER_OCTAVE):.6g}"), count] for number, count in bins]
