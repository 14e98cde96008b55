"""All pairs of 64-bit hashes within T bits of each other, exactly, without comparing all with all.

Cut into m segments, two hashes within T bits agree in at least m - T of them (pigeonhole). So for each choice
of m - T segments the hashes are sorted by these, and only neighbours that agree in them are compared. Bits
are moved rather than indexed: sorting moves the hashes themselves, and what lies together is compared.
Pairs are yielded as they are found, a pair perhaps more than once; no list of them is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from math import comb
from typing import Any, TypeAlias

import numpy as np

Hashes: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
Rows: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]

BITS = 64
CROWD = 4096
"""Hashes in one bucket above which it is searched by its remaining bits instead of pair by pair."""
PAIRS = 1 << 21
"""Pairs compared at a time."""
_BYTES = 56
"""Memory of a search for each hash that it holds at a time, measured."""
_MOVE, _COMPARE = 14.0, 8.0
"""Nanoseconds to move and sort a hash, and to compare a pair: what the number of segments is chosen by."""
_BLOCK = 1 << 16
"""Hashes whose bits are moved at a time: they stay in the cache."""
_FILTER = 22
"""Bits of the table by which most hashes without a counterpart are told."""


@dataclass
class Crowds:
    """Buckets of more than CROWD hashes that a search came by, and the largest of them."""

    count: int = 0
    largest: int = 0

    def add(self, size: int) -> None:
        """Count a bucket."""
        self.count += 1
        self.largest = max(self.largest, size)


def distinct(hashes: Hashes, memory: int | None = None) -> tuple[Hashes, np.ndarray[Any, np.dtype[np.bool_]]]:
    """The distinct values of `hashes` in order, and which of them occur more than once.

    memory: bytes to work in, None for as many as it takes. `hashes` may be mapped from a file.
    """
    values, repeated = [], []
    for part in _parts(hashes, _Order((0, BITS), (0,)), memory):
        starts = starts_of(part)
        values.append(part[starts])
        repeated.append(np.diff(starts, append=len(part)) > 1)
    return np.concatenate(values), np.concatenate(repeated)


def starts_of(ordered: np.ndarray[Any, Any]) -> Rows:
    """Where each value of an array in order begins."""
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return np.flatnonzero(new)


def near(
    values: Hashes, distance: int, memory: int | None = None, crowds: Crowds | None = None
) -> Iterator[tuple[Rows, Rows]]:
    """(i, j), indices of pairs of `values`, which are distinct and in order, within `distance` bits."""
    for left, right in _within(values, BITS, distance, memory, crowds or Crowds()):
        yield np.searchsorted(values, left), np.searchsorted(values, right)


def between(
    left: Hashes,
    right: Hashes,
    distance: int,
    memory: int | None = None,
    crowds: Crowds | None = None,
) -> Iterator[tuple[Rows, Rows]]:
    """(i, j), indices of pairs of `left` and `right`, each distinct and in order, within `distance` bits."""
    for one, other in _across(left, right, BITS, distance, memory, crowds or Crowds()):
        yield np.searchsorted(left, one), np.searchsorted(right, other)


def among(hashes: Hashes, values: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of `hashes` are among `values`, which are distinct and in order."""
    found = np.zeros(len(hashes), bool)
    if len(values):
        table = np.full(1 << _FILTER, -1, np.int32)
        table[_filtered(values, 0)] = np.arange(len(values))
        place = table[_filtered(np.asarray(hashes), 0)]
        likely = np.flatnonzero(place >= 0)
        held = np.asarray(hashes)[likely]
        same = values[place[likely]] == held
        found[likely[same]] = True
        likely, held = likely[~same], held[~same]  # some share the slot of another value
        place = np.minimum(np.searchsorted(values, held), len(values) - 1)
        found[likely] = values[place] == held
    return found


class _Order:
    """The order of bits in which the chosen ones of the segments between `edges` come first.

    Bits above the last edge stay. rest: number of bits that do not have to agree.
    """

    def __init__(self, edges: Sequence[int], chosen: tuple[int, ...]) -> None:
        others = [number for number in range(len(edges) - 1) if number not in chosen]
        moves: list[tuple[int, int, int]] = []  # from, to, bits; from the highest down
        at = width = edges[-1]
        for number in (*reversed(chosen), *reversed(others)):
            low, bits = edges[number], edges[number + 1] - edges[number]
            at -= bits
            if moves and moves[-1][0] == low + bits and moves[-1][1] == at + bits:
                moves[-1] = (low, at, moves[-1][2] + bits)
            else:
                moves.append((low, at, bits))
        self._moves = moves
        self._above = (1 << BITS) - (1 << width)
        self.rest = sum(edges[number + 1] - edges[number] for number in others)

    def apply(self, values: Hashes) -> Hashes:
        """The values with their bits in this order."""
        return self._moved(values, [(low, to, bits) for low, to, bits in self._moves])

    def undo(self, values: Hashes) -> Hashes:
        """What `apply` made these of."""
        return self._moved(values, [(to, low, bits) for low, to, bits in self._moves])

    def _moved(self, values: Hashes, moves: list[tuple[int, int, int]]) -> Hashes:
        moved = np.empty(len(values), np.uint64)
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            result = block & np.uint64(self._above)
            for low, to, bits in moves:
                part = block & np.uint64(((1 << bits) - 1) << low)
                if to > low:
                    part <<= np.uint64(to - low)
                elif low > to:
                    part >>= np.uint64(low - to)
                result |= part
            moved[start : start + _BLOCK] = result
        return moved


@cache
def _segments(width: int, distance: int, left: int, right: int) -> int:
    """The number of segments that costs least for so many hashes, 0 where comparing all does."""
    pairs = left * right if right else left * left / 2
    best, chosen = pairs * _COMPARE, 0
    for segments in range(distance + 1, min(width, distance + 12) + 1):
        choices = comb(segments, distance)
        agreeing = width * (segments - distance) // segments
        cost = choices * ((left + right) * _MOVE + pairs / 2**agreeing * _COMPARE)
        if agreeing and cost < best:
            best, chosen = cost, segments
    return chosen


def _parts(values: Hashes, order: _Order, memory: int | None) -> Iterator[Hashes]:
    """The values moved and sorted, in parts that fit the memory; no bucket is in two of them."""
    parts = 1
    while memory is not None and len(values) * _BYTES > memory * parts and parts < 1 << 16:
        parts *= 2
    if parts == 1:
        moved = order.apply(np.asarray(values))
        moved.sort()
        yield moved
        return
    shift = np.uint64(BITS + 1 - parts.bit_length())
    step = max(1 << 12, len(values) // parts)
    for part in range(parts):
        held = []
        for start in range(0, len(values), step):
            moved = order.apply(np.asarray(values[start : start + step]))
            held.append(moved[(moved >> shift) == part])
        moved = np.concatenate(held)
        moved.sort()
        if len(moved):
            yield moved


def _orders(varied: Hashes, width: int, distance: int, left: int, right: int) -> list[_Order]:
    """The orders to search `left` hashes in (or these against `right`), none where comparing all costs less.

    varied: all of them, which differ in their lower `width` bits at most; those of a bucket are cut so that
    the segments hold alike many bits that differ at all.
    """
    places = list(range(width))
    if width < BITS:
        bits = int(np.bitwise_or.reduce(varied ^ varied[0]))
        places = [place for place in places if bits >> place & 1]
    segments = _segments(len(places), distance, left, right)
    if not segments:
        return []
    cuts = [places[len(places) * number // segments] for number in range(1, segments)]
    return [
        _Order([0, *cuts, width], chosen) for chosen in combinations(range(segments), segments - distance)
    ]


def _within(
    values: Hashes, width: int, distance: int, memory: int | None, crowds: Crowds
) -> Iterator[tuple[Hashes, Hashes]]:
    """Pairs of distinct values, which differ in their lower `width` bits at most."""
    orders = _orders(values, width, distance, len(values), 0)
    if not orders:
        yield from _each(values, None, distance)
    for order in orders:
        for moved in _parts(values, order, memory):
            if width < BITS and order is orders[0] and _is_lumped(moved, order.rest, len(orders)):
                yield from _each(values, None, distance)
                return
            for left, right in _neighbours(moved, order.rest, distance, crowds):
                yield order.undo(left), order.undo(right)


def _is_lumped(moved: Hashes, rest: int, choices: int) -> bool:
    """Whether to search a bucket by its remaining bits compares more pairs than there are."""
    ends = np.flatnonzero(((moved[1:] ^ moved[:-1]) >> np.uint64(rest)) != 0)
    sizes = np.diff(ends, prepend=-1, append=len(moved) - 1).astype(float)
    return bool(choices * (sizes**2).sum() > len(moved) ** 2)


def _neighbours(moved: Hashes, rest: int, distance: int, crowds: Crowds) -> Iterator[tuple[Hashes, Hashes]]:
    """Pairs of sorted values that agree in all but their lower `rest` bits."""
    limit = np.uint64((1 << rest) - 1)
    together = (moved[1:] ^ moved[:-1]) <= limit
    first = np.flatnonzero(together)
    some = moved[:: max(1, CROWD // 2)]  # of a larger bucket two of these are neighbours
    if ((some[1:] ^ some[:-1]) <= limit).any():
        edges = np.concatenate(([0], np.flatnonzero(~together) + 1, [len(moved)]))
        for bucket in np.flatnonzero(np.diff(edges) > CROWD):
            start, stop = int(edges[bucket]), int(edges[bucket + 1])
            crowds.add(stop - start)
            together[start : stop - 1] = False
            yield from _within(moved[start:stop], rest, distance, None, crowds)
        first = np.flatnonzero(together)
    step = 1
    while first.size:
        for at in range(0, len(first), PAIRS):
            part = first[at : at + PAIRS]
            left, right = moved[part], moved[part + step]
            close = np.bitwise_count(left ^ right) <= distance
            if close.any():
                yield left[close], right[close]
        step += 1
        first = first[first + step < len(moved)]
        first = first[(moved[first] ^ moved[first + step]) <= limit]


def _across(
    left: Hashes, right: Hashes, width: int, distance: int, memory: int | None, crowds: Crowds
) -> Iterator[tuple[Hashes, Hashes]]:
    """Pairs of a value of each side, which differ in their lower `width` bits at most."""
    if not (len(left) and len(right)):
        return
    both = np.concatenate((left, right)) if width < BITS else left
    orders = _orders(both, width, distance, len(left), len(right))
    if not orders:
        yield from _each(left, right, distance)
    step = len(left) if memory is None else max(1 << 12, memory // _BYTES)
    for order in orders:
        for there in _parts(right, order, memory):
            if width < BITS and order is orders[0] and _is_lumped(there, order.rest, len(orders)):
                yield from _each(left, right, distance)
                return
            table = np.zeros(1 << _FILTER, bool)
            table[_filtered(there, order.rest)] = True
            for start in range(0, len(left), step):
                here = order.apply(np.asarray(left[start : start + step]))
                here = here[table[_filtered(here, order.rest)]]
                for one, other in _meetings(here, there, order.rest, distance, crowds):
                    yield order.undo(one), order.undo(other)


def _filtered(moved: Hashes, rest: int) -> Rows:
    return ((moved >> np.uint64(rest)) & np.uint64((1 << _FILTER) - 1)).astype(np.intp)


def _meetings(
    here: Hashes, there: Hashes, rest: int, distance: int, crowds: Crowds
) -> Iterator[tuple[Hashes, Hashes]]:
    """Pairs of a value of `here` and one of `there`, in order, that agree in all but the lower bits."""
    shift = np.uint64(rest)
    here = np.sort(here)
    buckets = there >> shift
    prefix = here >> shift
    start = np.searchsorted(buckets, prefix, "left")
    met = np.flatnonzero((start < len(buckets)) & (buckets[np.minimum(start, len(buckets) - 1)] == prefix))
    here, prefix, start = here[met], prefix[met], start[met]
    count = np.searchsorted(buckets, prefix, "right") - start
    if count.size and count.max() > CROWD:
        edges = np.concatenate(([0], np.flatnonzero(prefix[1:] != prefix[:-1]) + 1, [len(prefix)]))
        for begin, end in pairwise(edges.tolist()):
            if count[begin] > CROWD and end - begin > 1:
                crowds.add(int(count[begin]))
                bucket = there[start[begin] : start[begin] + count[begin]]
                yield from _across(here[begin:end], bucket, rest, distance, None, crowds)
                count[begin:end] = 0
    ends = np.cumsum(count)
    at, done = 0, 0
    while at < len(count):
        stop = max(at + 1, int(np.searchsorted(ends, done + PAIRS, "right")))
        counts = count[at:stop]
        rows = np.repeat(np.arange(at, stop), counts)
        place = np.arange(len(rows)) - np.repeat(ends[at:stop] - counts - done, counts) + start[rows]
        left, right = here[rows], there[place]
        close = np.bitwise_count(left ^ right) <= distance
        if close.any():
            yield left[close], right[close]
        at, done = stop, int(ends[stop - 1])


def _each(left: Hashes, right: Hashes | None, distance: int) -> Iterator[tuple[Hashes, Hashes]]:
    """Pairs of a value of each side, or of two of one side, compared one and all."""
    other = left if right is None else right
    rows = max(1, PAIRS // max(1, len(other)))
    for start in range(0, len(left), rows):
        block = left[start : start + rows]
        held = other[start:] if right is None else other
        close = np.bitwise_count(block[:, None] ^ held[None, :]) <= distance
        if right is None:
            close = np.triu(close, 1)
        one, two = np.nonzero(close)
        if one.size:
            yield block[one], held[two]
