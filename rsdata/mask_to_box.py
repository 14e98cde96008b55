"""M2B: class masks to boxes (RemoteCLIP, section III-B2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Region(NamedTuple):
    """One region: class value, edges in pixels (the first pixel is 0, 0, 1, 1), area in pixels or 0."""

    value: int
    xmin: int
    ymin: int
    xmax: int
    ymax: int
    area: int


def regions(mask: np.ndarray[Any, Any], values: list[int], areas: bool = False) -> list[Region]:
    """One Region per 8-connected region of each of `values`, ordered by value, left, top.

    mask: (height, width) integers. As in the paper each class is a binary image of its own whose borders
    are followed (Suzuki and Abe 1985) and whose outer contours give the extremes. The two-level hierarchy
    is asked for, because the external one alone loses an island inside a hole. Areas (holes left out)
    are counted only where asked for.
    """
    import cv2

    found = []
    for value in values:
        binary = (mask == value).view(np.uint8)
        left, top, across, down = cv2.boundingRect(binary)
        if not across:
            continue
        binary = np.ascontiguousarray(binary[top : top + down, left : left + across])
        contours, hierarchy = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        links = hierarchy[0]
        for index in np.flatnonzero(links[:, 3] == -1).tolist():
            x, y, width, height = cv2.boundingRect(contours[index])
            area = _area(contours, links, index) if areas else 0
            found.append(Region(value, x + left, y + top, x + left + width, y + top + height, area))
    return sorted(found)


def instance_regions(
    mask: np.ndarray[Any, Any], ids: np.ndarray[Any, Any], values: list[int]
) -> list[Region]:
    """One Region per instance, ordered by value, left, top.

    mask, ids: (height, width) integers; id 0 is no instance. Its value is the commonest of its pixels; an
    instance without a pixel of one of `values` is left out. Its parts make one Region.
    """
    rows, columns = np.nonzero(ids)
    if not rows.size:
        return []
    held = mask[rows, columns]
    wanted = np.isin(held, values)
    rows, columns, held = rows[wanted], columns[wanted], held[wanted].astype(np.int64)
    keys = ids[rows, columns] * (int(mask.max()) + 1) + held
    order = np.argsort(keys, kind="stable")
    keys, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    if not starts.size:
        return []
    edges = [
        reduce(axis[order], starts)
        for reduce in (np.minimum.reduceat, np.maximum.reduceat)
        for axis in (columns, rows)
    ]
    instance, value = np.divmod(keys, int(mask.max()) + 1)
    # Of an instance with pixels of several classes, the class of most of them, of all its parts.
    best: dict[int, tuple[int, int]] = {}
    for index, (owner, count) in enumerate(zip(instance.tolist(), counts.tolist(), strict=True)):
        if owner not in best or count > best[owner][0]:
            best[owner] = (count, index)
    found = []
    for count, index in best.values():
        xmin, ymin, xmax, ymax = (int(edge[index]) for edge in edges)
        found.append(Region(int(value[index]), xmin, ymin, xmax + 1, ymax + 1, count))
    return sorted(found)


def _area(contours: Any, links: np.ndarray[Any, Any], index: int) -> int:
    """Pixels of a region from its contours, by Pick's theorem: A + B/2 + 1, less the inside of each hole."""
    import cv2

    def steps(contour: np.ndarray[Any, Any]) -> int:
        points = contour[:, 0, :]
        return int(np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum())

    outer = contours[index]
    total = cv2.contourArea(outer) + steps(outer) / 2 + 1
    hole = links[index, 2]
    while hole != -1:
        total -= cv2.contourArea(contours[hole]) - steps(contours[hole]) / 2 + 1
        hole = links[hole, 0]
    return round(total)
