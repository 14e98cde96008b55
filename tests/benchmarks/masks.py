"""M2B on one mask of 6000 x 6000 pixels and six classes: our regions beside the fastest ways known.

    python tests/benchmarks/masks.py [--side 6000] [--repeat 5]

Peers, each giving one box a region, 8-connected: the outer contours of OpenCV's two-level hierarchy over the
whole image of each class, OpenCV's connected components with statistics, scipy's label and find_objects.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from rsdata.mask_to_box import regions


def draw(side: int) -> np.ndarray[Any, Any]:
    """(side, side) uint8: classes 1 to 5 as blobs, rectangles, rings with islands, specks, on 0."""
    rng = np.random.default_rng(0)
    mask = np.zeros((side, side), np.uint8)
    scale = side / 6000
    for value, count, low, high in (
        (1, 60, 200, 700),
        (2, 1500, 20, 120),
        (3, 4000, 6, 30),
        (4, 1500, 10, 60),
        (5, 2500, 3, 12),
    ):
        for x, y, size in zip(
            *rng.integers(0, side, (2, count)), rng.integers(low, high, count), strict=True
        ):
            radius = max(1, int(size * scale / 2))
            if value == 2:
                cv2.rectangle(mask, (int(x), int(y)), (int(x) + 2 * radius, int(y) + radius), value, -1)
            else:
                cv2.circle(mask, (int(x), int(y)), radius, value, -1)
            if value == 1:
                cv2.circle(mask, (int(x), int(y)), radius // 2, 0, -1)
                cv2.circle(mask, (int(x), int(y)), radius // 4, value, -1)
    return mask


def ours(mask: np.ndarray[Any, Any], values: list[int]) -> int:
    return len(regions(mask, values))


def contours(mask: np.ndarray[Any, Any], values: list[int]) -> int:
    count = 0
    for value in values:
        found, links = cv2.findContours(
            (mask == value).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        outer = [each for each, link in zip(found, links[0], strict=True) if link[3] == -1]
        count += len([cv2.boundingRect(each) for each in outer])
    return count


def components(mask: np.ndarray[Any, Any], values: list[int]) -> int:
    return sum(
        len(cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)[2]) - 1
        for value in values
    )


def labels(mask: np.ndarray[Any, Any], values: list[int]) -> int:
    structure = np.ones((3, 3))
    return sum(len(ndimage.find_objects(ndimage.label(mask == value, structure)[0])) for value in values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=6000)
    parser.add_argument("--repeat", type=int, default=5)
    chosen = parser.parse_args()
    mask = draw(chosen.side)
    values = list(range(6))
    ways: list[Callable[..., int]] = [ours, contours, components, labels]
    times = {way.__name__: 1e9 for way in ways}
    counts = {}
    for _ in range(chosen.repeat):
        for way in ways:
            start = time.perf_counter()
            counts[way.__name__] = way(mask, values)
            times[way.__name__] = min(times[way.__name__], time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name:<12}{1000 * seconds:8.0f} ms{counts[name]:8d} regions{times['ours'] / seconds:8.2f} x")


if __name__ == "__main__":
    main()
