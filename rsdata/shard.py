"""A shard's work: units of the plan → read, check, cut, caption → rows of one Parquet file.

An image file is opened once: its bytes, digest, size and perceptual hash come from one read and one decode,
and so do those of the windows of a scene.

A shard that is done is noted in the journal of its run. One whose workers died at the same unit leaves that
out (E37).
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from rsdata import (
    box_to_caption,
    checks,
    columns,
    journal,
    pictures,
    places,
    rasters,
    recipes,
    tables,
    tiles,
)
from rsdata.classes import Classes
from rsdata.engine import ATTEMPTS, Engine
from rsdata.errors import AnnotationError, UnfinishedError
from rsdata.pictures import Picture
from rsdata.plan import Unit
from rsdata.recipes import Recipe
from rsdata.records import HUMAN, Box, Record, Rejection
from rsdata.tables import Row
from rsdata.tiles import Tiling, Window
from rsdata.words import Words

_AHEAD = 1024
"""Label files that are read at a time."""
_NO_OBJECT = frozenset(["E01", "E09", "E16", "E26", "E27", "E29", "E34"])
"""Codes of what is dropped and is no object: files, repeated entries, links, captions."""


@dataclass(frozen=True)
class Options:
    """What a user chooses beside the recipe; `engine` never changes a byte of the result.

    captions: a caption set's name, or "none" to keep published captions only. large_count: how it words
    counts above ten. no_images leaves the bytes out of the table; annotations_only opens no image.
    """

    captions: str = "remoteclip"
    large_count: str = "vague"
    seed: int = 0
    splits: tuple[str, ...] = ()
    no_images: bool = False
    annotations_only: bool = False
    engine: Engine = field(default_factory=Engine)
    dry_run: bool = False
    overwrite: bool = False


class Shard(NamedTuple):
    """A task for a worker: units of one split and all that turns them into rows.

    source: index of the dump. path: the file to write, None in a dry run. about: its `rsdata` metadata. lost:
    indices of units that are left out, because workers died that had them; suspect: of the one that the last
    worker had which died.
    """

    split: str
    source: int
    root: Path
    units: Sequence[Unit]
    path: Path | None
    recipe: Recipe
    options: Options
    about: Mapping[str, Any]
    lost: frozenset[int] = frozenset()
    suspect: int | None = None


class Result(NamedTuple):
    """What a shard came to: counts of units, images (each window is one), rows, objects, captions; objects by
    label; rejections.
    """

    dataset: str
    split: str
    source: int
    units: int
    images: int
    rows: int
    objects_found: int
    objects_written: int
    labels: dict[str, int]
    captions: int
    rejections: list[Rejection]


def write_shard(shard: Shard) -> Result:
    """Turn the units of a shard into rows, write them in order, count, and note it in the journal.

    Raises UnfinishedError where the shard cannot be written, or its dump is gone.
    """
    with _writer(shard) as add, _in_hand(shard) as take:
        work = _Work(shard, add)
        for index, unit in enumerate(_read_ahead(shard, work.classes)):
            take(index)
            if index in shard.lost:
                work.leave_out(unit)
            else:
                work.convert(unit)
    if not work.rows and shard.path is not None:
        places.remove(shard.path)
    result = Result(
        shard.recipe.name,
        shard.split,
        shard.source,
        len(shard.units),
        work.images,
        work.rows,
        work.found,
        work.written,
        work.labels,
        work.captions,
        work.rejections,
    )
    if shard.path is not None:
        with tables.writing(shard.path):
            journal.note(shard.path, result)
    return result


def _read_ahead(shard: Shard, classes: Classes) -> Iterator[Unit]:
    """The units of a shard, with their Records where the reader can read many files at a time."""
    read_many = getattr(shard.recipe.reader, "read_many", None)
    if read_many is None:
        yield from shard.units
        return
    for layout, run in groupby(shard.units, lambda unit: unit.layout):
        units = iter(run)
        while some := list(islice(units, _AHEAD)):
            paths = [unit.annotation for unit in some if unit.annotation]
            records = read_many(shard.root, paths, classes, **layout.options)
            held = dict(zip(paths, records, strict=True))
            for unit in some:
                record = held.get(unit.annotation)
                yield unit if record is None else unit._replace(record=record._replace(image=unit.image))


def revise(shard: Shard, deaths: int) -> Shard | None:
    """What to try after workers died that had nothing but this shard: as engine.map_tasks asks.

    A unit at which two of them died is left out; a shard that kills them here and there is given up.
    """
    if deaths - 2 * len(shard.lost) >= ATTEMPTS:
        return None
    unit = journal.was_in_hand(shard.path) if shard.path is not None else None
    if unit is not None and unit == shard.suspect:
        return shard._replace(lost=shard.lost | {unit}, suspect=None)
    return shard._replace(suspect=unit)


def name(shard: Shard) -> str:
    """A shard by its images."""
    first, last = shard.units[0].image, shard.units[-1].image
    return first if first == last else f"{first} to {last}"


def is_object(item: Rejection) -> bool:
    """Whether a Rejection that came from a reader stands for one object that was left out."""
    return item.action == "dropped" and item.code not in _NO_OBJECT


@contextmanager
def no_collector(wanted: bool) -> Iterator[None]:
    """No garbage collection inside, if `wanted`: it searches millions of small tuples for cycles, in vain."""
    was_on = gc.isenabled()
    if wanted:
        gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _writer(shard: Shard) -> Iterator[Callable[[Row], None]]:
    if shard.path is None:
        yield lambda row: None
    else:
        with tables.shard_writer(shard.path, shard.about) as writer:
            yield writer.add


@contextmanager
def _in_hand(shard: Shard) -> Iterator[Callable[[int], None]]:
    """Yields the function that notes which unit is in hand, for `revise`."""
    if shard.path is None or not places.is_local(shard.path) or shard.options.annotations_only:
        yield lambda index: None
    else:
        with journal.in_hand(shard.path) as descriptor:
            yield lambda index: journal.hold(descriptor, index)


class _Work:
    """The units of a shard, one after the other, and the running count of what they come to."""

    def __init__(self, shard: Shard, add: Callable[[Row], None]) -> None:
        self.root, self.recipe, self.options, self._add = shard.root, shard.recipe, shard.options, add
        self.classes, self.words = shard.recipe.classes(), Words(shard.recipe.irregular)
        self.aligned = bool(getattr(shard.recipe.reader, "ALIGNED", False))
        self.given = recipes.given(shard.recipe.reader)
        template = shard.options.captions
        self.polygons = template != "none" and box_to_caption.needs_polygons(template)
        self.border = shard.recipe.rendering.border
        self.images = self.rows = self.found = self.written = self.captions = 0
        self.labels: Counter[str] = Counter()
        self.rejections: list[Rejection] = []

    def convert(self, unit: Unit) -> None:
        """Write the rows of a unit: one, or one a window. Raises UnfinishedError where the dump is gone."""
        if self.options.annotations_only:
            self._without_pixels(unit)
            return
        path = self.root / unit.image
        try:
            with places.held(path):
                self._with_pixels(unit, path)
        except OSError as error:
            self._check_dump(error)
            self._reject(unit, Rejection("rejected", "E35", unit.image, 0, unit.image, _cannot(error)))

    def leave_out(self, unit: Unit) -> None:
        """Reject a unit that kills the process which reads it."""
        why = "the process that read it died, twice: a decoder that crashes, or too little memory"
        objects = len(unit.record.boxes) if unit.record is not None else 0
        self._reject(unit, Rejection("rejected", "E37", unit.image, 0, unit.image, why), objects)

    def _with_pixels(self, unit: Unit, path: Path) -> None:
        tiling = self.recipe.tiling
        if tiling and unit.frame < 0 and self._is_larger(path, tiling):
            with pictures.opened(path, self.recipe.rendering) as scene:
                if record := self._read_scene(unit, scene.full):
                    self._windows(unit, record, tiling.windows(scene.width, scene.height), scene.picture)
        else:
            self._whole(unit)

    def _check_dump(self, error: Exception) -> None:
        """Raise UnfinishedError where not one file is missing but all are: a disk that is gone."""
        gone = FileNotFoundError
        if (isinstance(error, gone) or isinstance(error.__cause__, gone)) and places.is_local(self.root):
            try:
                there = any(self.root.iterdir())
            except OSError:
                there = False
            if not there:
                raise UnfinishedError(f"{self.root}: the dump is gone") from error

    def _is_larger(self, path: Path, tiling: Tiling) -> bool:
        return max(rasters.size(path)) - 2 * self.border > tiling.size

    def _whole(self, unit: Unit) -> None:
        """One row of a whole image."""
        record = self._read(unit)
        if record is None:
            return
        try:
            if unit.frame >= 0:
                picture = pictures.frame(self.root / unit.image, unit.frame, self.recipe.rendering)
            else:
                picture = pictures.look(self.root / unit.image, self.recipe.rendering)
        except OSError as error:
            self._check_dump(error)
            why = Rejection("rejected", "E35", unit.image, 0, unit.image, _cannot(error))
            self._reject(unit, why, len(record.boxes))
            return
        full = (picture.width + 2 * self.border, picture.height + 2 * self.border)
        boxes = self._checked(unit, record, full)
        if boxes is not None:
            self._turned(unit, picture)
            self._row(unit, record, boxes, picture)

    def _without_pixels(self, unit: Unit) -> None:
        """The row or rows of an image that is not opened: its size is what the label claims, if anything."""
        record = self._read(unit)
        if record is None:
            return
        width, height = record.width, record.height
        inner = (
            None if width is None or height is None else (width - 2 * self.border, height - 2 * self.border)
        )
        tiling = self.recipe.tiling
        if self.aligned or tiling is None or inner is None or max(inner) <= tiling.size:
            boxes = self._checked(unit, record, (width, height))
            if boxes is not None:
                inside = record if inner is None else record._replace(width=inner[0], height=inner[1])
                self._row(unit, inside, boxes, None)
        else:
            self._windows(unit, record, tiling.windows(*inner), None)

    def _read_scene(self, unit: Unit, full: tuple[int, int]) -> Record | None:
        """The Record of an image that is cut: of a mask its size only, as windows are read one by one."""
        if not self.aligned or unit.record is not None:
            return self._read(unit)
        try:
            width, height = rasters.size(self.root / unit.annotation)
        except OSError as error:
            why = f"mask cannot be read: {error.strerror or error}"
            self._reject(unit, Rejection("rejected", "E01", unit.annotation, 0, unit.image, why))
            return None
        return Record(unit.image, (), width, height, annotation=unit.annotation)

    def _windows(
        self,
        unit: Unit,
        record: Record,
        windows: Sequence[Window],
        look: Callable[[Window], Picture | None] | None,
    ) -> None:
        """One row a window."""
        tiling = self.recipe.tiling
        assert tiling is not None
        border = 2 * self.border
        full = (max(w.x + w.width for w in windows) + border, max(w.y + w.height for w in windows) + border)
        boxes = self._checked(unit, record, full)
        if boxes is None:
            return
        parts = tiles.cut(boxes, windows, tiling.visible)
        for index in parts.unseen:
            box = boxes[index]
            why = f"{box.raw_label}: no window shows {100 * tiling.visible:g} % of it"
            self._note(unit, Rejection("dropped", "E13", unit.annotation, 0, unit.image, why))
        told = False
        for window, held in zip(windows, parts.boxes, strict=True):
            part = record._replace(width=window.width, height=window.height, cover=())
            if self.aligned and unit.record is None:
                found = self._read(unit, window)
                if found is None:
                    continue
                part = found
                held = list(self._checked(unit, found, (window.width, window.height), window) or ())
            picture = None
            if look is not None:
                try:
                    picture = look(window)
                except OSError as error:
                    self._reject(unit, self._lost(unit, window, "E35", _cannot(error)), len(held))
                    continue
                if picture is None:
                    why = "no pixel of the window is data"
                    self._reject(unit, self._lost(unit, window, "E36", why), len(held))
                    continue
                if not told:
                    self._turned(unit, picture)
                    told = True
            self._row(unit, part, held, picture, window)

    def _lost(self, unit: Unit, window: Window, code: str, why: str) -> Rejection:
        return Rejection("rejected", code, unit.image, 0, f"{unit.image}#{window}", why)

    def _read(self, unit: Unit, window: Window | None = None) -> Record | None:
        """The Record of a unit or of a part of its mask; None where its annotation rejects the image."""
        if unit.record is not None:
            return unit.record
        options = dict(unit.layout.options)
        image = "" if self.options.annotations_only else unit.image
        given = {"image": image, "instances": unit.instances}
        options.update({name: value for name, value in given.items() if name in self.given})
        if window is not None:
            options["window"] = window._replace(x=window.x + self.border, y=window.y + self.border)
        record = None
        lost: list[Rejection] = []
        try:
            for item in self.recipe.reader.read(self.root, unit.annotation, self.classes, **options):
                if isinstance(item, Record):
                    record = item._replace(image=unit.image)
                elif item.action == "rejected":
                    lost.append(item)
                else:
                    self._note(unit, item, window)
        except AnnotationError as error:
            self._check_dump(error)
            lost = [Rejection("rejected", error.code, error.path, error.line, "", error.why)]
        if lost:
            self._reject(
                unit, lost[0]._replace(image=_name(unit, window)), len(record.boxes) if record else 0
            )
            return None
        return record

    def _checked(
        self, unit: Unit, record: Record, full: tuple[int | None, int | None], window: Window | None = None
    ) -> Sequence[Box] | None:
        """The sound Boxes of a Record in the pixels within the border, None where the image is rejected.

        full: width and height of the image with its border, None where unknown.
        """
        width, height = full
        if width is None or height is None:
            inner: tuple[int | None, int | None] = full
        else:
            mismatch = checks.size(record, width, height, self.aligned)
            if mismatch and mismatch.action == "rejected":
                self._reject(unit, mismatch, len(record.boxes))
                return None
            if mismatch:
                self._note(unit, mismatch, window)
            border = 0 if window is not None else self.border
            inner = (width - 2 * border, height - 2 * border)
            if border:
                moved = tiles.shifted(record.boxes, border, border)
                record = record._replace(boxes=moved, width=inner[0], height=inner[1])
        boxes, left_out = checks.boxes(record, *inner, self.classes)
        for item in left_out:
            self._note(unit, item, window)
        return boxes

    def _row(
        self,
        unit: Unit,
        record: Record,
        boxes: Sequence[Box],
        picture: Picture | None,
        window: Window | None = None,
    ) -> None:
        options = self.options
        width, height = (picture.width, picture.height) if picture else (record.width, record.height)
        image_id = f"{self.recipe.name}/{unit.split}/{unit.name}{f'#{window}' if window else ''}"
        gsds = (record.gsd, picture.gsd if picture else None, self.recipe.gsd)
        gsd = next((value for value in gsds if value is not None), None)
        captions: Sequence[str] = record.captions
        source: str | None = HUMAN
        if picture is not None and picture.stored:
            width, height = picture.stored
            factors = (width / picture.width, height / picture.height)
            boxes = tiles.scaled(boxes, *factors)
            gsd = None if gsd is None else gsd / math.sqrt(factors[0] * factors[1])
        if not captions and options.captions != "none":
            source = options.captions
            drawn = boxes if self.polygons else columns.outlines(boxes)
            seen = record._replace(boxes=drawn, width=width, height=height, gsd=gsd)
            chosen = {"large_count": options.large_count}
            captions = box_to_caption.captions(
                seen, image_id, options.captions, self.words, options.seed, **chosen
            )
        self._add(
            Row(
                image_id,
                self.recipe.name,
                unit.split,
                None if picture is None or options.no_images else picture.data,
                unit.image if unit.frame < 0 else f"{unit.image}#frame={unit.frame}",
                width,
                height,
                boxes,
                captions,
                source if captions else None,
                record.label,
                picture.sample if picture else None,
                picture.sha256 if picture else None,
                unit.annotation,
                gsd,
                record.cover,
                picture.geometry if picture else None,
            )
        )
        self.images += 1
        self.rows += 1
        self.written += len(boxes)
        self.found += len(boxes)
        self.captions += len(captions)
        self.labels.update(columns.labels(boxes))

    def _turned(self, unit: Unit, picture: Picture) -> None:
        if picture.turned:
            why = f"EXIF orientation {picture.turned}: boxes and size are those of the stored pixels"
            self._note(unit, Rejection("repaired", "E32", unit.image, 0, unit.image, why))

    def _note(self, unit: Unit, item: Rejection, window: Window | None = None) -> None:
        """List what was dropped or repaired of a unit."""
        self.found += is_object(item)
        self.rejections.append(item._replace(image=item.image or _name(unit, window)))

    def _reject(self, unit: Unit, item: Rejection, objects: int = 0) -> None:
        """List an image that is lost, with its objects."""
        self.images += 1
        self.found += objects
        self.rejections.append(item._replace(image=item.image or unit.image))


def _name(unit: Unit, window: Window | None) -> str:
    return f"{unit.image}#{window}" if window else unit.image


def _cannot(error: OSError) -> str:
    return f"the image cannot be read: {error.strerror or error}"
