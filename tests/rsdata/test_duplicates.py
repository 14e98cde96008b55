"""Groups and leaks against the definition, computed one image after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_hamming import adversarial, balanced, planted

from rsdata import duplicates


def greedy(hashes: Any, keys: Any, distance: int) -> tuple[list[int], list[int]]:
    """Twin and distance of each: an image goes if a better one that stays has a key within the distance."""
    kept: list[int] = []
    twins: list[int] = []
    bits: list[int] = []
    first: dict[int, int] = {}
    for index, value in enumerate(hashes):
        same = first.setdefault(int(value), index)
        if same != index and twins[same] != duplicates.NONE:
            twins.append(twins[same])
            bits.append(bits[same])
            continue
        nearest = np.bitwise_count(keys[kept] ^ value).min(axis=1) if kept else np.zeros(0)
        if len(nearest) and nearest.min() <= distance:
            twins.append(kept[int(np.argmin(nearest))])
            bits.append(int(nearest.min()))
        else:
            kept.append(index)
            twins.append(duplicates.NONE)
            bits.append(0)
    return twins, bits


def sets() -> list[Any]:
    rng = np.random.default_rng(4)
    chain = np.array([(1 << length) - 1 for length in range(64)], np.uint64)
    mixed = np.concatenate([planted(700, 1, 0.6), adversarial()[:900], planted(100, 1)])
    return [chain, chain[::-1].copy(), rng.permutation(chain), rng.permutation(mixed), balanced(1, 1)]


@pytest.mark.parametrize("distance", [0, 2, 4, 8, 13])
@pytest.mark.parametrize("case", range(5))
def test_stars_are_what_one_after_the_other_gives(case: int, distance: int) -> None:
    hashes = sets()[case]
    found = duplicates.stars(hashes, hashes[:, None], distance)
    twins, bits = greedy(hashes, hashes[:, None], distance)
    assert found.twin.tolist() == twins
    assert found.distance.tolist() == bits
    assert (found.variant == 0).all()


@pytest.mark.parametrize("distance", [0, 4])
def test_stars_by_several_keys(distance: int) -> None:
    hashes = planted(900, 2, 0.2)
    keys = np.stack([hashes, np.roll(hashes, 1), planted(900, 3), planted(900, 4)], axis=1)
    found = duplicates.stars(hashes, keys, distance)
    twins, bits = greedy(hashes, keys, distance)
    assert found.twin.tolist() == twins
    assert found.distance.tolist() == bits
    gone = np.flatnonzero(found.twin >= 0)
    assert len(gone) > (100 if distance else 3)
    shown = keys[found.twin[gone], found.variant[gone]]
    assert (np.bitwise_count(shown ^ hashes[gone]) == found.distance[gone]).all()


@pytest.mark.parametrize("distance", [0, 2, 4, 6])
def test_stars_leave_nothing_to_find(distance: int) -> None:
    hashes = np.concatenate([planted(3000, 7, 0.5), adversarial()])
    stay = hashes[duplicates.stars(hashes, hashes[:, None], distance).twin < 0]
    assert (duplicates.stars(stay, stay[:, None], distance).twin < 0).all()
    assert (duplicates.stars(hashes, hashes[:, None], distance).distance <= distance).all()


@pytest.mark.parametrize("distance", [0, 2, 4])
def test_chains_are_the_transitive_closure(distance: int) -> None:
    hashes = np.random.default_rng(1).permutation(np.concatenate([planted(800, 5, 0.5), adversarial()[:300]]))
    close = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= distance
    label = np.arange(len(hashes))
    while True:
        least = np.where(close, label[None], len(hashes)).min(axis=1)
        if (least == label).all():
            break
        label = least
    found = duplicates.chains(hashes, distance)
    assert np.where(found.twin < 0, np.arange(len(hashes)), found.twin).tolist() == label.tolist()
    assert (found.distance == np.bitwise_count(hashes ^ hashes[label])).all()


def test_a_chain_is_one_group_and_many_stars() -> None:
    steps = np.array([(1 << 2 * length) - 1 for length in range(9)], np.uint64)
    assert (duplicates.chains(steps, 2).twin[1:] == 0).all()
    assert duplicates.chains(steps, 2).distance.max() == 16
    assert duplicates.stars(steps, steps[:, None], 2).twin.tolist() == [-1, 0, -1, 2, -1, 4, -1, 6, -1]


@pytest.mark.parametrize("memory", [None, 200_000])
def test_resembling_is_the_nearest_then_the_first_variant_then_the_first_row(memory: int | None) -> None:
    values = np.unique(planted(3000, 8))
    keys = (
        np.random.default_rng(2).permutation(np.concatenate([values[:400], planted(400, 9)])).reshape(-1, 4)
    )
    keys[7] = keys[3]
    found = duplicates.resembling(values, keys, 6, memory)
    bits = np.bitwise_count(values[:, None, None] ^ keys[None].transpose(0, 2, 1)).astype(
        int
    )  # variants first
    flat = bits.reshape(len(values), -1)
    best = flat.argmin(axis=1)
    near = flat.min(axis=1) <= 6
    assert near.sum() > 300
    assert (found.twin >= 0).tolist() == near.tolist()
    assert found.twin[near].tolist() == (best % len(keys))[near].tolist()
    assert found.variant[near].tolist() == (best // len(keys))[near].tolist()
    assert found.distance[near].tolist() == flat.min(axis=1)[near].tolist()


def words(count: int, seed: int) -> Any:
    return balanced(4 * count, seed).reshape(-1, 4)


def pairs_of(found: tuple[Any, Any, Any, int]) -> set[tuple[int, int, int]]:
    return set(zip(*(part.tolist() for part in found[:3]), strict=True))


@pytest.mark.parametrize("quarter", range(4))
def test_an_image_with_one_quarter_covered(quarter: int) -> None:
    theirs = words(300, 1)
    ours = np.concatenate([words(500, 2), theirs[:50]])
    ours[500:, quarter] = words(50, 3)[:, 0]
    ours[500:, (quarter + 1) % 4] ^= np.uint64(0b1011)
    assert pairs_of(duplicates.overlaid(ours, theirs)) == {(500 + row, row, 3) for row in range(50)}


def test_two_quarters_covered_are_another_image() -> None:
    theirs = words(100, 1)
    ours = theirs.copy()
    ours[:, 1:3] = words(100, 3)[:, :2]
    assert not pairs_of(duplicates.overlaid(ours, theirs))


def test_plain_and_common_quarters_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = words(20, 1)
    ours = words(20, 2)
    theirs[:, 0] = ours[:, 0] = 0  # no detail
    assert not pairs_of(duplicates.overlaid(ours, theirs))
    monkeypatch.setattr(duplicates, "_SHARED", 10)
    theirs[:, 0] = ours[:, 0] = balanced(1, 5)[0]  # a watermark
    *found, shared = duplicates.overlaid(ours, theirs)
    assert shared == 2
    assert not found[0].size
    ours = theirs.copy()
    ours[:, 2] = words(20, 9)[:, 0]
    assert {(row, twin) for row, twin, _ in pairs_of(duplicates.overlaid(ours, theirs))} == {
        (row, row) for row in range(20)
    }
