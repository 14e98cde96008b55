"""M2B against scipy: boxes and areas of every 8-connected region, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from rsdata.mask_to_box import Region, regions

Mask = np.ndarray[Any, Any]


def by_scipy(mask: Mask, values: list[int]) -> list[Region]:
    found = []
    for value in values:
        labels, _ = ndimage.label(mask == value, np.ones((3, 3)))
        areas = np.bincount(labels.ravel())
        found += [
            Region(value, x.start, y.start, x.stop, y.stop, int(areas[index]))
            for index, (y, x) in enumerate(ndimage.find_objects(labels), 1)
        ]
    return sorted(found)


def drawn(text: str) -> Mask:
    return np.array([[int(character) for character in line] for line in text.split()])


SHAPES = {
    "nothing": "000 000",
    "one pixel": "1",
    "border": "111 101 111",
    "island in a hole": "11111 10001 10101 10001 11111",
    "island in a hole of an island": "111111111 100000001 101111101 101000101 101010101 101000101 101111101 "
    "100000001 111111111",
    "two holes that touch at a corner": "11111 10111 11011 11111",
    "holes through a diagonal gap": "111111 100011 110101 111001 111111",
    "a spur into a hole": "11111 10101 10101 10001 11111",
    "diagonal line": "10000 01000 00100 00010 00001",
    "diagonals that cross": "10001 01010 00100 01010 10001",
    "ring of diagonals": "00100 01010 10001 01010 00100",
    "two classes that touch": "1122 1122 2211 2211",
    "comb": "1010101 1010101 1111111",
    "corners": "101 000 101",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    mask = drawn(SHAPES[shape])
    for turned in (mask, mask.T, mask[::-1], np.pad(mask, 1), np.kron(mask, np.ones((3, 2), int))):
        assert regions(turned, [1, 2], areas=True) == by_scipy(turned, [1, 2])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16])
def test_random_masks(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    for kind in range(10):
        height, width = (int(side) for side in rng.integers(1, 48, 2))
        if kind % 2:
            mask = rng.integers(0, rng.integers(2, 5), (height, width))
        else:
            smooth = ndimage.gaussian_filter(rng.random((height, width)), rng.uniform(0.5, 3))
            mask = np.digitize(smooth, np.quantile(smooth, [0.3, 0.5, 0.8]))
        mask = mask.astype(dtype)
        assert regions(mask, [3, 1, 2], areas=True) == by_scipy(mask, [1, 2, 3])


def test_without_areas_they_are_0() -> None:
    mask = drawn(SHAPES["island in a hole"])
    assert regions(mask, [1]) == [region._replace(area=0) for region in by_scipy(mask, [1])]


def test_only_the_values_asked_for() -> None:
    mask = drawn("012 210")
    assert [region.value for region in regions(mask, [2, 7])] == [2, 2]
    assert regions(mask, []) == []
