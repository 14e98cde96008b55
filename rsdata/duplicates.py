"""Which of many images are copies of each other: groups by their hashes, and leaks into benchmarks.

All functions take hashes as unsigned 64-bit integers, and compare exactly within `distance` bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rsdata import hamming
from rsdata.hamming import Crowds, Hashes, Rows

NONE = -1

QUARTERS = 20
"""Bits of 192 in which the three most alike quarters of two images may differ, one of them in at most
QUARTER, for the fourth to be taken for something laid over."""
QUARTER = 4
_PLAIN = (8, 56)
"""Bits set in a quarter below and above which it is too plain to be looked up."""
_SHARED = 1000
"""Images with one quarter in common above which it is not looked up: such as a watermark."""

_FAR = np.iinfo(np.int64).max
_BITS, _ROW, _VARIANT = 56, 40, 8
"""Where in a packed integer the distance begins, and how many bits a row and a variant take."""


class Twins(NamedTuple):
    """For each image: its twin (a row, NONE where it has none), their distance in bits, and the variant of
    the twin that it resembles (an index of phashes)."""

    twin: Rows
    distance: Rows
    variant: Rows


class Keys:
    """The hashes by which rows are found: several a row, and a row perhaps by the hash of another."""

    def __init__(self, keys: Hashes) -> None:
        """keys: (rows, variants)."""
        self.values, self._order, starts = _sorted(keys.ravel())
        self._start = np.append(starts, keys.size)
        self._variants = keys.shape[1]

    def owners(self, found: Rows) -> tuple[Rows, Rows, Rows]:
        """(index into `found`, row, variant) of all whose key is the value of that index."""
        counts = self._start[found + 1] - self._start[found]
        index = np.repeat(np.arange(len(found)), counts)
        place = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        flat = self._order[self._start[found][index] + place]
        return index, flat // self._variants, flat % self._variants


def stars(hashes: Hashes, keys: Hashes, distance: int, crowds: Crowds | None = None) -> Twins:
    """Groups in which each image that goes lies within `distance` of the one that stays.

    hashes: (n,), best image first. keys: (n, variants), by which an image is found by those after it: its
    hash, or those of its symmetries. An image goes if a better one that stays has a key within `distance` of
    its hash; of several, the twin is the nearest, then the best. Images of one hash go together.
    """
    values, first, inverse = _collapsed(hashes)
    keys = keys[first]
    kept = np.zeros(len(values), bool)
    undecided = np.arange(len(values))
    while undecided.size:
        blocked = np.zeros(len(values), bool)
        for better, worse, _, _ in _edges(values, keys, undecided, undecided, distance, crowds):
            blocked[worse[first[better] < first[worse]]] = True
        stay, wait = undecided[~blocked[undecided]], undecided[blocked[undecided]]
        kept[stay] = True
        gone = np.zeros(len(values), bool)
        for better, worse, _, _ in _edges(values, keys, stay, wait, distance, None):
            gone[worse[first[better] < first[worse]]] = True
        undecided = wait[~gone[wait]]
    best = np.full(len(values), _FAR)
    found = _edges(values, keys, np.flatnonzero(kept), np.flatnonzero(~kept), distance, None)
    for better, worse, bits, variant in found:
        right = first[better] < first[worse]
        packed = _packed(bits[right], first[better[right]], variant[right], _VARIANT)
        np.minimum.at(best, worse[right], packed)
    bits, twin, variant = _unpacked(best, _VARIANT)
    twin = np.where(best != _FAR, twin, first)[inverse]
    twin[twin == np.arange(len(inverse))] = NONE
    return Twins(twin, bits[inverse], variant[inverse])


def _collapsed(hashes: Hashes) -> tuple[Hashes, Rows, Rows]:
    """The distinct values in order, the first index of each, and the value's index of each hash.

    As np.unique, at a third of its time: what sorts is not stable.
    """
    values, order, starts = _sorted(hashes)
    inverse = np.empty(len(order), np.intp)
    inverse[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    first = np.minimum.reduceat(order, starts) if len(starts) else starts
    return values, first, inverse


def _sorted(hashes: Hashes) -> tuple[Hashes, Rows, Rows]:
    """The distinct values in order, the indices of all hashes in that order, and where each value begins."""
    order = np.argsort(hashes)
    held = hashes[order]
    starts = hamming.starts_of(held)
    return held[starts], order, starts


def _packed(bits: Rows, one: Rows, other: Rows, width: int) -> Rows:
    """Three numbers as one that orders by them; `width` bits for the last."""
    return (bits.astype(np.int64) << _BITS) | (one.astype(np.int64) << width) | other


def _unpacked(packed: Rows, width: int) -> tuple[Rows, Rows, Rows]:
    """What `_packed` made one of; zeros of _FAR."""
    held = np.where(packed == _FAR, 0, packed)
    one = (held & ((1 << _BITS) - 1)) >> width
    return held >> _BITS, one, held & ((1 << width) - 1)


def _edges(
    values: Hashes, keys: Hashes, owners: Rows, others: Rows, distance: int, crowds: Crowds | None
) -> Iterator[tuple[Rows, Rows, Rows, Rows]]:
    """(owner, other, bits, variant): one of `owners` has a key within `distance` of the hash of an other."""
    if owners is others and keys.shape[1] == 1:  # no image is compared with itself then
        for left, right in hamming.near(values[others], distance, crowds=crowds):
            one, other = others[left], others[right]
            bits = np.bitwise_count(values[one] ^ values[other]).astype(np.intp)
            none = np.zeros(len(one), np.intp)
            yield one, other, bits, none
            yield other, one, bits, none
        return
    held = Keys(keys[owners])
    for left, right in hamming.between(held.values, values[others], distance, crowds=crowds):
        index, row, variant = held.owners(left)
        other = others[right[index]]
        bits = np.bitwise_count(held.values[left[index]] ^ values[other]).astype(np.intp)
        yield owners[row], other, bits, variant


def chains(hashes: Hashes, distance: int, crowds: Crowds | None = None) -> Twins:
    """Groups by transitive closure, as the paper has them: the first image of each stays.

    hashes: (n,), best image first. The distance of an image from the one that stays may exceed `distance`.
    """
    values, first, inverse = _collapsed(hashes)
    order = np.argsort(first)  # so that the least label of a group is its best image
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    label = np.arange(len(values))
    for left, right in hamming.near(values, distance, crowds=crowds):
        one, other = rank[left], rank[right]
        while (differ := label[one] != label[other]).any():
            low, high = (side(label[one], label[other])[differ] for side in (np.minimum, np.maximum))
            np.minimum.at(label, high, low)
            while (shorter := label[label]).tobytes() != label.tobytes():
                label = shorter
    kept = order[label[rank]]
    bits = np.bitwise_count(values ^ values[kept]).astype(np.intp)
    twin = first[kept][inverse]
    twin[twin == np.arange(len(inverse))] = NONE
    return Twins(twin, bits[inverse], np.zeros(len(inverse), np.intp))


def resembling(
    values: Hashes, keys: Hashes, distance: int, memory: int | None = None, crowds: Crowds | None = None
) -> Twins:
    """For each hash of `values`, distinct and in order, the nearest of `keys` (rows, variants).

    Of several as near, the first variant, then the first row.
    """
    held = Keys(keys)
    best = np.full(len(values), _FAR)
    for left, right in hamming.between(values, held.values, distance, memory, crowds):
        index, row, variant = held.owners(right)
        value = left[index]
        bits = np.bitwise_count(values[value] ^ held.values[right[index]])
        np.minimum.at(best, value, _packed(bits, variant, row, _ROW))
    bits, variant, twin = _unpacked(best, _ROW)
    return Twins(np.where(best == _FAR, NONE, twin), bits, variant)


def overlaid(words: Hashes, others: Hashes, memory: int | None = None) -> tuple[Rows, Rows, Rows, int]:
    """Pairs of images that are alike but for one quarter, over which text or a border may be laid.

    words: (n, 4), others: (m, 4), the difference hashes by quarters. Returns (row, other, bits) of each pair,
    bits being those of the three most alike quarters, and how many quarters too many images share.
    """
    rows, twins, distances, shared = [], [], [], 0
    for quarter in range(4):
        left, right = (_probes(side[:, quarter]) for side in (words, others))
        shared += left.shared + right.shared
        for one, other in hamming.between(left.keys.values, right.keys.values, QUARTER, memory):
            index, row, _ = left.keys.owners(one)
            deeper, twin, _ = right.keys.owners(other[index])
            row = left.rows[row[deeper]]
            twin = right.rows[twin]
            bits = np.sort(np.bitwise_count(words[row] ^ others[twin]), axis=1)
            three = bits[:, :3].sum(axis=1).astype(np.intp)
            near = three <= QUARTERS
            rows.append(row[near])
            twins.append(twin[near])
            distances.append(three[near])
    one, other, bits = (np.concatenate([np.zeros(0, np.intp), *parts]) for parts in (rows, twins, distances))
    return one, other, bits, shared


class _Probes(NamedTuple):
    """Quarters that are looked up: keys of the images `rows`."""

    keys: Keys
    rows: Rows
    shared: int


def _probes(words: Hashes) -> _Probes:
    count = np.bitwise_count(words)
    rows = np.flatnonzero((count >= _PLAIN[0]) & (count <= _PLAIN[1]))
    inverse = _collapsed(words[rows])[2]
    common = np.bincount(inverse) > _SHARED
    rows = rows[~common[inverse]]
    return _Probes(Keys(words[rows, None]), rows, int(common.sum()))
