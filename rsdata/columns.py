"""Boxes of many images by column, for annotation files that hold a million of them.

A reader that has its numbers in arrays hands each image a Boxes: a view that makes Box tuples when one is
asked for, and that checks and tables read as arrays, without any tuple.

    Columns   codes  edges         polygons            ends      Boxes(columns, 1) = rows 2 to 5
              0      0 0 10 10     [0 0 10 0 10 10]    0
              2      5 5 9 9       null                2  ◀────  image 1 starts here
              …      …             …                   5  ◀────  and ends here
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any, overload

import numpy as np
import pyarrow as pa

from rsdata.records import OBJECT, Box

Array = np.ndarray[Any, Any]


class Columns:
    """Boxes of some images.

    names: (label, raw label, flags) of each kind of box. codes: (n,) int32 indices into it. edges: (n, 4)
    float64 xmin, ymin, xmax, ymax in pixels. polygons: n lists of float64, null where there is none. ends:
    (images + 1,) int64, image i holds rows ends[i] to ends[i + 1]. sizes: (images, 2) width and height as the
    label claims them, infinite where it does not.
    """

    def __init__(
        self,
        names: Sequence[tuple[str, str, tuple[str, ...]]],
        codes: Array,
        edges: Array,
        polygons: pa.ListArray,
        ends: Array,
        sizes: Array,
    ) -> None:
        self.names, self.codes, self.edges = names, codes, edges
        self.polygons, self.ends, self.sizes = polygons, ends, sizes

    def __reduce__(self) -> tuple[type[Columns], tuple[Any, ...]]:
        return Columns, (self.names, self.codes, self.edges, self.polygons, self.ends, self.sizes)

    @cached_property
    def bounds(self) -> list[int]:
        """`ends` as numbers."""
        return list(self.ends.tolist())

    @cached_property
    def labels(self) -> list[str]:
        """The label of each row."""
        return [self.names[code][0] for code in self.codes.tolist()]

    @cached_property
    def outlines(self) -> list[Box]:
        """All rows as Boxes without their polygons, which are most of the work."""
        return self._boxes(0, len(self.codes), repeat(None, len(self.codes)))

    def boxes(self, start: int, stop: int) -> list[Box]:
        """The rows from `start` to `stop` as Boxes."""
        return self._boxes(start, stop, self.polygons.slice(start, stop - start).to_pylist())

    def _boxes(self, start: int, stop: int, polygons: Iterable[list[float] | None]) -> list[Box]:
        labels = self.labels[start:stop]
        kinds = [self.names[code] for code in self.codes[start:stop].tolist()]
        raws, flags = [kind[1] for kind in kinds], [kind[2] for kind in kinds]
        edges = self.edges[start:stop].T.tolist()
        rows = zip(labels, raws, *edges, polygons, flags, strict=True)
        return list(map(Box._make, rows))

    @cached_property
    def objects(self) -> pa.StructArray:
        """All rows as an array of records.OBJECT."""
        labels, raws, flags = zip(*self.names, strict=True)
        kinds = pa.array(self.codes)
        texts = [pa.array(held, pa.string()).take(kinds) for held in (labels, raws)]
        flagged = pa.array(flags, pa.list_(pa.string())).take(kinds)
        with np.errstate(over="ignore"):  # rows with such edges are not sound, and not taken from here
            edges = list(map(pa.array, self.edges.T.astype(np.float32)))
        polygons = self.polygons.cast(pa.list_(pa.float32()))
        return pa.StructArray.from_arrays([*texts, *edges, polygons, flagged], fields=list(OBJECT))


class Boxes(Sequence[Box]):
    """The Boxes of one image of some Columns. image: its index there."""

    __slots__ = ("columns", "image", "start", "stop")

    def __init__(self, columns: Columns, image: int) -> None:
        self.columns, self.image = columns, image
        self.start, self.stop = columns.bounds[image], columns.bounds[image + 1]

    def __reduce__(self) -> tuple[type[Boxes], tuple[Columns, int]]:
        return Boxes, (self.columns, self.image)

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, index: int) -> Box: ...
    @overload
    def __getitem__(self, index: slice) -> list[Box]: ...
    def __getitem__(self, index: int | slice) -> Box | list[Box]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Box]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._all())

    def _all(self) -> list[Box]:
        return self.columns.boxes(self.start, self.stop)


def labels(boxes: Sequence[Box]) -> list[str]:
    """The label of each Box."""
    if isinstance(boxes, Boxes):
        return boxes.columns.labels[boxes.start : boxes.stop]
    return [box.label for box in boxes]


def outlines(boxes: Sequence[Box]) -> Sequence[Box]:
    """The Boxes, without polygons where that makes them cheaper."""
    if isinstance(boxes, Boxes):
        return boxes.columns.outlines[boxes.start : boxes.stop]
    return boxes
