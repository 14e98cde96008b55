"""A shard's work: units of the plan → read, check, caption → rows of one Parquet file.

An image file is opened once: its bytes, digest, size and perceptual hash come from one read and one decode.
"""

from __future__ import annotations

import gc
import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rsdata import box_to_caption, checks, columns, rasters, tables
from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.hashing import phash
from rsdata.plan import Unit
from rsdata.recipes import Recipe
from rsdata.records import HUMAN, Record, Rejection
from rsdata.tables import Row
from rsdata.words import Words

_ORIENTATION = 0x0112
_NO_OBJECT = frozenset(["E01", "E09", "E16", "E26", "E27", "E29", "E34"])
"""Codes of what is dropped and is no object: files, repeated entries, links, captions."""


@dataclass(frozen=True)
class Options:
    """What a user chooses beside the recipe; `workers` never changes a byte of the result.

    captions: a caption set's name, or "none" to keep published captions only. large_count: how it words
    counts above ten. no_images leaves the bytes out of the table; annotations_only opens no image.
    """

    captions: str = "remoteclip"
    large_count: str = "vague"
    seed: int = 0
    splits: tuple[str, ...] = ()
    no_images: bool = False
    annotations_only: bool = False
    workers: int = 1
    dry_run: bool = False
    overwrite: bool = False


class Shard(NamedTuple):
    """A task for a worker: units of one split and all that turns them into rows.

    source: index of the dump. path: the file to write, None in a dry run. about: its `rsdata` metadata.
    """

    split: str
    source: int
    root: Path
    units: Sequence[Unit]
    path: Path | None
    recipe: Recipe
    options: Options
    about: Mapping[str, Any]


class Result(NamedTuple):
    """What a shard came to: counts of units, rows, objects, captions; objects by label; rejections."""

    split: str
    source: int
    units: int
    rows: int
    objects_found: int
    objects_written: int
    labels: Counter[str]
    captions: int
    rejections: list[Rejection]


class _Seen(NamedTuple):
    """What one look at an image file gives; `turned` is its EXIF orientation where that is not 1."""

    data: bytes
    width: int
    height: int
    phash: int | None
    sha256: str
    turned: int | None


def write_shard(shard: Shard) -> Result:
    """Turn the units of a shard into rows, write them in order, and count."""
    classes, words = shard.recipe.classes(), Words(shard.recipe.irregular)
    rejections: list[Rejection] = []
    labels: Counter[str] = Counter()
    rows = found = written = captions = 0
    with _writer(shard) as add:
        for unit in shard.units:
            record, problems = _read(unit, shard, classes)
            found += len(record.boxes) if record else 0
            found += sum(map(is_object, problems))
            row = None if record is None else _row(unit, record, shard, classes, words, problems)
            rejections.extend(item._replace(image=item.image or unit.image) for item in problems)
            if row is None:
                continue
            add(row)
            rows += 1
            written += len(row.objects)
            captions += len(row.captions)
            labels.update(columns.labels(row.objects))
    if not rows and shard.path is not None:
        shard.path.unlink()
    return Result(
        shard.split, shard.source, len(shard.units), rows, found, written, labels, captions, rejections
    )


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


def _read(unit: Unit, shard: Shard, classes: Classes) -> tuple[Record | None, list[Rejection]]:
    """The Record of a unit, None where its annotation cannot be read, and what the reader left out."""
    if unit.record is not None:
        return unit.record, []
    problems: list[Rejection] = []
    record = None
    try:
        for item in shard.recipe.reader.read(shard.root, unit.annotation, classes, **unit.layout.options):
            if isinstance(item, Rejection):
                problems.append(item)
            else:
                record = item._replace(image=unit.image)
    except AnnotationError as error:
        problems.append(Rejection("rejected", error.code, error.path, error.line, unit.image, error.why))
        return None, problems
    return record, problems


def _row(
    unit: Unit, record: Record, shard: Shard, classes: Classes, words: Words, problems: list[Rejection]
) -> Row | None:
    """The row of a unit, or None where the image is rejected; what happened is added to `problems`."""
    options = shard.options
    seen = None
    width, height = record.width, record.height
    if not options.annotations_only:
        try:
            seen = _look(shard.root / unit.image)
        except OSError as error:
            why = f"the image cannot be read: {error.strerror or error}"
            problems.append(Rejection("rejected", "E35", unit.image, 0, unit.image, why))
            return None
        width, height = seen.width, seen.height
        if seen.turned:
            why = f"EXIF orientation {seen.turned}: boxes and size are those of the stored pixels"
            problems.append(Rejection("repaired", "E32", unit.image, 0, unit.image, why))
        aligned = getattr(shard.recipe.reader, "ALIGNED", False)
        if mismatch := checks.size(record, width, height, aligned):
            problems.append(mismatch)
            if mismatch.action == "rejected":
                return None
    boxes, left_out = checks.boxes(record, width, height, classes)
    problems.extend(left_out)
    image_id = f"{shard.recipe.name}/{unit.split}/{unit.name}"
    captions: Sequence[str] = record.captions
    source: str | None = HUMAN
    if not captions and options.captions != "none":
        source = options.captions
        captions = box_to_caption.captions(
            record._replace(boxes=columns.outlines(boxes), width=width, height=height),
            image_id,
            options.captions,
            words,
            options.seed,
            large_count=options.large_count,
        )
    return Row(
        image_id,
        shard.recipe.name,
        unit.split,
        None if seen is None or options.no_images else seen.data,
        unit.image,
        width,
        height,
        boxes,
        captions,
        source if captions else None,
        record.label,
        seen.phash if seen else None,
        seen.sha256 if seen else None,
        unit.annotation,
    )


def _look(path: Path) -> _Seen:
    """Read an image file once. Raises OSError where it cannot be read or decoded."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    image = rasters.open_image(data)
    if image is None:
        return _Seen(data, *rasters.geotiff_size(data), None, digest, None)
    with image, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a damaged file means is told by its rejection
        width, height = image.size
        if width * height > rasters.MAX_DECODED:
            return _Seen(data, width, height, None, digest, None)
        try:
            turned = image.getexif().get(_ORIENTATION, 1)
            return _Seen(data, width, height, phash(image), digest, None if turned == 1 else turned)
        except OSError:
            raise
        except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
            raise OSError(f"{type(error).__name__}: {error}") from error
