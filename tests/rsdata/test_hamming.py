"""The pair search against comparing all with all."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdata import hamming
from rsdata.hamming import Crowds

Pairs = set[tuple[int, int]]


def balanced(count: int, seed: int) -> Any:
    """Hashes with 32 bits set, as those of images have."""
    rng = np.random.default_rng(seed)
    bits = rng.permuted(np.tile(np.arange(64) < 32, (count, 1)), axis=1)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def planted(count: int, seed: int, share: float = 0.3) -> Any:
    """Balanced hashes, a share of which are others with up to eight bits changed."""
    rng = np.random.default_rng(seed)
    hashes = balanced(count, seed)
    copies = rng.permutation(count)[: int(share * count)]
    changed = hashes[rng.integers(0, count, len(copies))]
    for _ in range(8):
        flip = np.uint64(1) << rng.integers(0, 64, len(copies)).astype(np.uint64)
        changed = np.where(rng.random(len(copies)) < 0.4, changed ^ flip, changed)
    hashes[copies] = changed
    return hashes


def adversarial() -> Any:
    """What breaks searches by segments: a cloud around one hash, counters in the low and the high bits, few
    bits, all zeros, all ones."""
    centre = int(balanced(1, 9)[0])
    cloud = [centre ^ (1 << one) ^ (1 << other) for one in range(64) for other in range(0, one, 5)]
    low = list(range(700))
    high = [number << 52 for number in range(1, 700)]
    few = [1 << place for place in range(64)] + [(1 << 64) - 1, (1 << 64) - 2, 0x8000000000000000]
    return np.array([*cloud, *low, *high, *few], np.uint64)


def compared(left: Any, right: Any, distance: int) -> Any:
    """Rows and columns of all pairs within the distance."""
    found = []
    for start in range(0, len(left), 512):
        close = np.bitwise_count(left[start : start + 512, None] ^ right[None]) <= distance
        rows, columns = np.nonzero(close)
        found.append((rows + start) * len(right) + columns)
    return np.sort(np.concatenate(found))


def searched(found: Any, width: int) -> Any:
    held = [rows * width + columns for rows, columns in found]
    return np.unique(np.concatenate([np.zeros(0, np.intp), *held]))


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("memory", [None, 300_000])
def test_near_equals_comparing_all(distance: int, memory: int | None) -> None:
    values, _ = hamming.distinct(np.concatenate([planted(5000, distance), adversarial()]))
    truth = compared(values, values, distance)
    truth = truth[truth // len(values) < truth % len(values)]
    pairs = [
        (np.minimum(one, other), np.maximum(one, other))
        for one, other in hamming.near(values, distance, memory)
    ]
    assert np.array_equal(searched(pairs, len(values)), truth)
    assert len(truth) > 300 or distance == 0


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0, 2, 4, 6, 8])
def test_near_equals_comparing_all_of_20000(distance: int) -> None:
    values, _ = hamming.distinct(np.concatenate([planted(18_600, 3), adversarial()]))
    assert len(values) > 20_000
    truth = compared(values, values, distance)
    truth = truth[truth // len(values) < truth % len(values)]
    pairs = [
        (np.minimum(one, other), np.maximum(one, other)) for one, other in hamming.near(values, distance)
    ]
    assert np.array_equal(searched(pairs, len(values)), truth)


@pytest.mark.parametrize("distance", [0, 2, 4, 6, 8])
@pytest.mark.parametrize("memory", [None, 300_000])
def test_between_equals_comparing_all(distance: int, memory: int | None) -> None:
    both = planted(9000, distance + 20)
    left, _ = hamming.distinct(np.concatenate([both[::2], adversarial()[::2]]))
    right, _ = hamming.distinct(np.concatenate([both[1::2], adversarial()[1::2], left[::7]]))
    found = hamming.between(left, right, distance, memory)
    assert np.array_equal(searched(found, len(right)), compared(left, right, distance))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60, unique=True),
    st.lists(st.tuples(st.integers(0, 59), st.sets(st.integers(0, 63), max_size=9)), max_size=40),
    st.integers(0, 9),
)
def test_any_hashes(hashes: list[int], changes: list[tuple[int, set[int]]], distance: int) -> None:
    for place, bits in changes:
        hashes.append(hashes[place % len(hashes)] ^ sum(1 << bit for bit in bits))
    values, _ = hamming.distinct(np.array(hashes, np.uint64))
    truth = {
        (i, j)
        for i, one in enumerate(values.tolist())
        for j, other in enumerate(values.tolist())
        if i < j and (one ^ other).bit_count() <= distance
    }
    found: Pairs = set()
    for one, other in hamming.near(values, distance):
        found.update(map(tuple, np.sort(np.stack([one, other], 1), axis=1).tolist()))
    assert found == truth


def test_crowded_buckets_are_searched_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "CROWD", 64)
    head = 0xABCDE << 44  # two of six segments in common, the rest at random
    rng = random.Random(1)
    hashes = np.array(sorted({head | rng.getrandbits(44) for _ in range(6000)}), np.uint64)
    hashes = np.unique(np.concatenate([hashes, hashes[:500] ^ np.uint64(0b101), planted(20_000, 5)]))
    crowds = Crowds()
    pairs = [
        (np.minimum(one, other), np.maximum(one, other))
        for one, other in hamming.near(hashes, 4, crowds=crowds)
    ]
    truth = compared(hashes, hashes, 4)
    assert np.array_equal(searched(pairs, len(hashes)), truth[truth // len(hashes) < truth % len(hashes)])
    assert crowds.count > 0
    assert 64 < crowds.largest <= len(hashes)
    left, right = hashes[::2], np.unique(np.concatenate([hashes[1::2], hashes[:99:2]]))
    crowds = Crowds()
    found = hamming.between(left, right, 4, crowds=crowds)
    assert np.array_equal(searched(found, len(right)), compared(left, right, 4))
    assert crowds.count > 0


@pytest.mark.parametrize("memory", [None, 10_000])
def test_distinct_values(memory: int | None) -> None:
    hashes = np.concatenate([planted(3000, 1), adversarial(), balanced(50, 2), balanced(50, 2)])
    values, repeated = hamming.distinct(hashes, memory)
    expected, counts = np.unique(hashes, return_counts=True)
    assert np.array_equal(values, expected)
    assert np.array_equal(repeated, counts > 1)


def test_nothing_to_search() -> None:
    none, some = np.zeros(0, np.uint64), balanced(5, 1)
    assert [len(part) for part in hamming.distinct(none)] == [0, 0]
    assert not list(hamming.near(none, 4))
    assert not list(hamming.between(none, np.unique(some), 4))
    assert not list(hamming.between(np.unique(some), none, 4))


def test_membership() -> None:
    hashes = np.concatenate([planted(3000, 1), adversarial()])
    values = np.unique(hashes[::3])
    assert hamming.among(hashes, values).tolist() == np.isin(hashes, values).tolist()
    assert not hamming.among(hashes, values[:0]).any()
    assert not hamming.among(hashes[:0], values).size
