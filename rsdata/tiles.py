"""Windows over large scenes, and the boxes that each window shows.

0      256     512     768   1000        size 512, overlap 256, scene 1000 wide: the last window ends
├───────┼───────┤                        at the border, so all are of one size and nothing is padded
        ├───────┼───────┤
                 ├─────────────┤
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rsdata.records import Box


class Window(NamedTuple):
    """A part of an image, in pixels of it."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"


@dataclass(frozen=True)
class Tiling:
    """How large images are cut.

    size: side of a window in pixels. overlap: of neighbours, in pixels. visible: share of an object's area
    that a window must show for the object to be in it. Raises ValueError where they make no sense.
    """

    size: int
    overlap: int = 0
    visible: float = 0.5

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 32:
            raise ValueError(f"size = {self.size!r}, expected 32 pixels or more")
        if type(self.overlap) is not int or not 0 <= self.overlap < self.size:
            raise ValueError(f"overlap = {self.overlap!r}, expected 0 to {self.size - 1} pixels")
        if type(self.visible) not in (int, float) or not 0 < self.visible <= 1:
            raise ValueError(f"visible = {self.visible!r}, expected a share above 0, up to 1")

    def windows(self, width: int, height: int) -> list[Window]:
        """The windows of an image, row by row; a side shorter than `size` is taken whole."""
        return [
            Window(x, y, min(self.size, width), min(self.size, height))
            for y in self._starts(height)
            for x in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        last = max(0, length - self.size)
        return [*range(0, last, self.size - self.overlap), last]


class Cut(NamedTuple):
    """The boxes of each window, in its own pixels; and the indices of those that no window shows."""

    boxes: list[list[Box]]
    unseen: list[int]


def cut(boxes: Sequence[Box], windows: Sequence[Window], visible: float) -> Cut:
    """Share boxes out to windows.

    boxes: sound ones (inside the image). A box is in each window that shows at least `visible` of its area
    (of its polygon where it has one, else of itself) and a pixel; a part is flagged "truncated", its polygon
    is clipped, and its edges are those of what is left.
    """
    edges = np.array([box[2:6] for box in boxes], dtype=np.float64).reshape(-1, 4)
    seen = np.zeros(len(boxes), dtype=bool)
    shared: list[list[Box]] = []
    for window in windows:
        low = np.array([window.x, window.y])
        high = low + np.array([window.width, window.height])
        touching = ((edges[:, :2] < high) & (edges[:, 2:] > low)).all(axis=1)
        inside = ((edges[:, :2] >= low) & (edges[:, 2:] <= high)).all(axis=1)
        held = []
        for index in np.flatnonzero(touching).tolist():
            box = boxes[index]
            part = _shifted(box, window) if inside[index] else _part(box, window, visible)
            if part is not None:
                held.append(part)
                seen[index] = True
        shared.append(held)
    return Cut(shared, np.flatnonzero(~seen).tolist())


def shifted(boxes: Sequence[Box], x: float, y: float) -> list[Box]:
    """Boxes in the pixels of a picture whose top-left corner is (x, y) of the old one."""
    return [_shifted(box, Window(int(x), int(y), 0, 0)) for box in boxes]


def scaled(boxes: Sequence[Box], across: float, down: float) -> list[Box]:
    """Boxes in the pixels of a picture that is scaled by these factors."""
    factors = (across, down)
    found = []
    for box in boxes:
        polygon = box.polygon
        if polygon is not None:
            polygon = [value * factors[place % 2] for place, value in enumerate(polygon)]
        edges = (box.xmin * across, box.ymin * down, box.xmax * across, box.ymax * down)
        found.append(Box(box.label, box.raw_label, *edges, polygon, box.flags))
    return found


def _shifted(box: Box, window: Window) -> Box:
    x, y = window.x, window.y
    polygon = box.polygon
    if polygon is not None:
        polygon = [value - (y if place % 2 else x) for place, value in enumerate(polygon)]
    edges = (box.xmin - x, box.ymin - y, box.xmax - x, box.ymax - y)
    return Box(box.label, box.raw_label, *edges, polygon, box.flags)


def _part(box: Box, window: Window, visible: float) -> Box | None:
    """What `window` shows of a box that reaches over its border, None where that is too little."""
    right, bottom = window.x + window.width, window.y + window.height
    inside = (max(box.xmin, window.x), max(box.ymin, window.y), min(box.xmax, right), min(box.ymax, bottom))
    polygon = None
    if box.polygon is not None and len(box.polygon) >= 6:
        clipped = _clipped(box.polygon, (window.x, window.y, right, bottom))
        if clipped is None:
            return None
        share, polygon, bounds = clipped
        low, high = map(max, inside[:2], bounds[:2]), map(min, inside[2:], bounds[2:])
        inside = (next(low), next(low), next(high), next(high))
    else:
        share = _area(inside) / _area((box.xmin, box.ymin, box.xmax, box.ymax))
    if share < visible or inside[0] >= inside[2] or inside[1] >= inside[3] or _area(inside) < 1:
        return None
    flags = box.flags if "truncated" in box.flags else (*box.flags, "truncated")
    return _shifted(Box(box.label, box.raw_label, *inside, polygon, flags), window)


def _area(edges: Sequence[float]) -> float:
    return (edges[2] - edges[0]) * (edges[3] - edges[1])


def _clipped(
    polygon: Sequence[float], frame: tuple[float, float, float, float]
) -> tuple[float, list[float], tuple[float, float, float, float]] | None:
    """(share of the area inside `frame`, its largest part, the bounds of all parts), None without any."""
    from shapely import Polygon, box, make_valid

    whole = Polygon(list(zip(polygon[0::2], polygon[1::2], strict=True)))
    if not whole.is_valid:
        whole = make_valid(whole)
    if not whole.area:
        return None
    inside = whole.intersection(box(*frame))
    parts = [part for part in _polygons(inside) if part.area]
    if not parts:
        return None
    largest = max(parts, key=lambda part: part.area)
    points = [float(value) for point in list(largest.exterior.coords)[:-1] for value in point[:2]]
    bounds = np.array([part.bounds for part in parts])
    low, high = bounds[:, :2].min(axis=0).tolist(), bounds[:, 2:].max(axis=0).tolist()
    return inside.area / whole.area, points, (*low, *high)


def _polygons(geometry: Any) -> Iterator[Any]:
    if geometry.geom_type == "Polygon":
        yield geometry
    for part in getattr(geometry, "geoms", ()):
        yield from _polygons(part)
