"""Whether a table keeps its promises: schema, metadata, counts, images, boxes, ids."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from rsdata import rasters, removals, tables
from rsdata.errors import TableError
from rsdata.hashing import hashes
from rsdata.records import EDGES, REJECTION_SCHEMA, SCHEMA


class Problem(NamedTuple):
    """What is wrong with a table. path: relative to it; row: 0-based in the shard, -1 for the whole file."""

    path: str
    row: int
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.row}: {self.why}" if self.row >= 0 else f"{self.path}: {self.why}"


def validate(table: Path, deep: bool = False) -> Iterator[Problem]:
    """Each problem of a table, in the order of its files and rows.

    deep: decode each image wholly and compute its hash anew; else only its header and digest are compared.
    Raises TableError where there is no manifest.
    """
    manifest = tables.manifest(table, whole=True)
    seen: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    named = {name for held in manifest["splits"].values() for name in held["files"]}
    for path in sorted((table / "data").glob("*.parquet"), key=str):
        if (name := path.relative_to(table).as_posix()) not in named:
            yield Problem(name, -1, "not in the manifest, but other programs read it")
    for split, held in manifest["splits"].items():
        rows = 0
        if not tables.SPLIT.fullmatch(split):
            yield Problem(tables.MANIFEST, -1, f"split {split!r} cannot name a file")
        for name in held["files"]:
            if not tables.SHARD.fullmatch(name):
                yield Problem(tables.MANIFEST, -1, f"{name!r} is no shard in data")
                continue
            try:
                yield from _shard(table, name, split, seen, totals, labels, deep)
                rows += tables.rows_in(table / name)
            except (pa.ArrowException, OSError) as error:
                yield Problem(name, -1, f"cannot be read: {error}")
        if rows != held["rows"]:
            yield Problem(tables.MANIFEST, -1, f"split {split}: {held['rows']} rows stated, {rows} found")
    for identity, count in seen.items():
        if count > 1:
            yield Problem(tables.MANIFEST, -1, f"image_id {identity!r} is given {count} times")
    stated: Counter[str] = Counter()
    for entry in manifest["datasets"].values():
        stated.update(entry.get("classes", {}))
    for label in sorted({*stated, *labels}):
        if stated[label] != labels[label]:
            why = f"{stated[label]} objects of class {label!r} stated, {labels[label]} found"
            yield Problem(tables.MANIFEST, -1, why)
    yield from _account(table, manifest, totals)


def _account(table: Path, manifest: Mapping[str, Any], totals: Mapping[str, int]) -> Iterator[Problem]:
    images = manifest["images"]
    parts = sum(images.get(key, 0) for key in tables.PARTS)
    if images["found"] != parts:
        yield Problem(tables.MANIFEST, -1, f"images: {images['found']} found, but the parts sum to {parts}")
    stated = {
        "images": images["written"],
        "objects": manifest["objects"]["written"],
        "captions": manifest["captions"],
    }
    for unit, count in stated.items():
        if count != totals[unit]:
            yield Problem(tables.MANIFEST, -1, f"{count} {unit} stated, {totals[unit]} found")
    yield from _removed(table, images)
    try:
        listed = tables.read(table / tables.REJECTIONS)
    except (pa.ArrowException, OSError) as error:
        yield Problem(tables.REJECTIONS, -1, f"cannot be read: {error}")
        return
    if not listed.schema.remove_metadata().equals(REJECTION_SCHEMA):
        yield Problem(tables.REJECTIONS, -1, "not the columns of rejections")
        return
    actions = Counter(listed["action"].to_pylist())
    for action, codes in manifest["reasons"].items():
        if sum(codes.values()) != actions[action]:
            yield Problem(
                tables.REJECTIONS, -1, f"{actions[action]} are {action}, {sum(codes.values())} stated"
            )


def _removed(table: Path, images: Mapping[str, int]) -> Iterator[Problem]:
    """Whether the list of what went has as many duplicates and leaks as are stated."""
    path = table / tables.REMOVED
    try:
        counts = Counter(kind for _, kind in removals.once(removals.read(path))) if path.exists() else {}
    except TableError as error:
        yield Problem(tables.REMOVED, -1, str(error))
        return
    for kind, key in (("duplicate", "duplicates"), ("leak", "leaks")):
        if (listed := counts.get(kind, 0)) != images.get(key, 0):
            yield Problem(tables.REMOVED, -1, f"{images.get(key, 0)} {key} stated, {listed} listed")


def _shard(
    table: Path,
    name: str,
    split: str,
    seen: Counter[str],
    totals: Counter[str],
    labels: Counter[str],
    deep: bool,
) -> Iterator[Problem]:
    with tables.parquet(table / name) as shard:
        schema = shard.schema_arrow
        if not schema.remove_metadata().equals(SCHEMA):
            yield Problem(name, -1, f"not the columns of a table: {_difference(schema)} (rsdata repair)")
            return
        for key in (b"huggingface", b"rsdata"):
            if key not in (schema.metadata or {}):
                yield Problem(name, -1, f"lacks the {key.decode()} metadata (rsdata repair)")
            elif not _is_json_object(schema.metadata[key]):
                yield Problem(name, -1, f"its {key.decode()} metadata is no JSON object (rsdata repair)")
        place = 0
        for group in range(shard.num_row_groups):
            for row in shard.read_row_group(group).to_pylist():
                seen[row["image_id"]] += 1
                objects = [held for held in row["objects"] or [] if held is not None]
                captions = row["captions"] or []
                if len(objects) < len(row["objects"] or []):
                    yield Problem(name, place, "an object is null")
                totals.update(images=1, objects=len(objects), captions=len(captions))
                labels.update(held["label"] for held in objects)
                for column in ("objects", "captions", "cover"):
                    if row[column] is None:
                        yield Problem(name, place, f"{column} is null, not empty")
                row.update(objects=objects, captions=captions)
                yield from (Problem(name, place, why) for why in _row(row, split, deep))
                place += 1


def _is_json_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def _difference(schema: pa.Schema) -> str:
    missing = [field.name for field in SCHEMA if field.name not in schema.names]
    others = [name for name in schema.names if name not in SCHEMA.names]
    types = [f.name for f in SCHEMA if f.name in schema.names and schema.field(f.name).type != f.type]
    told = {"missing": missing, "unknown": others, "of another type": types}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names) or "their order"


def _row(row: Mapping[str, Any], split: str, deep: bool) -> Iterator[str]:
    for key in ("image_id", "dataset", "split", "annotation"):
        if row[key] is None:
            yield f"{key} is null"
    if row["split"] != split:
        yield f"split is {row['split']!r} in a shard of {split!r}"
    if not str(row["image_id"]).startswith(f"{row['dataset']}/{row['split']}/"):
        yield f"image_id {row['image_id']!r} does not begin with dataset and split"
    width, height = row["width"], row["height"]
    for held in row["objects"]:
        edges = [held[edge] for edge in EDGES]
        points = held["polygon"] or ()
        if None in edges or not all(map(math.isfinite, edges)):
            yield f"{held['label']}: box {edges} is not of finite numbers"
        elif not (edges[0] < edges[2] and edges[1] < edges[3]):
            yield f"{held['label']}: box {edges} has no extent"
        elif edges[0] < 0 or edges[1] < 0 or (width and edges[2] > width) or (height and edges[3] > height):
            yield f"{held['label']}: box {edges} is not inside {width}x{height}"
        if len(points) % 2 or None in points or not all(map(math.isfinite, points)):
            yield f"{held['label']}: polygon is not of pairs of finite numbers"
        if not held["label"]:
            yield "an object without a label"
        if held["raw_label"] is None or held["flags"] is None or None in held["flags"]:
            yield f"{held['label']}: raw_label or flags are null"
    if any(not caption or not caption.strip() for caption in row["captions"]):
        yield "a caption is blank"
    if bool(row["captions"]) != bool(row["caption_source"]):
        yield "captions and caption_source do not go together"
    if row["image"] is None or row["image"]["path"] is None:
        yield "the image or its path is null"
    elif row["image"]["bytes"] is not None:
        yield from _image(row, row["image"]["bytes"], deep)


def _image(row: Mapping[str, Any], data: bytes, deep: bool) -> Iterator[str]:
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        yield "sha256 is not that of the image"
    try:
        image = rasters.open_image(data)
        if image is None:
            yield "the image cannot be read: no image format that is known here"
            return
        if image.size != (row["width"], row["height"]):
            yield f"the image is {image.size[0]}x{image.size[1]}, the row says {row['width']}x{row['height']}"
        if not deep or image.width * image.height > rasters.MAX_DECODED:
            return
        with rasters.decoding():
            if row["phash"] is None:
                image.load()
                return
            found = hashes(image, lambda: rasters.open_image(data))
    except OSError as error:
        yield f"the image cannot be read: {error}"
        return
    for name, value in found._asdict().items():
        if row[name] != value:
            yield f"{name} is not that of the image"


def check(table: Path, deep: bool = False) -> list[Problem]:
    """All problems of a table. Raises TableError where there is no manifest."""
    try:
        return list(validate(table, deep))
    except (KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{table}: its {tables.MANIFEST} is not whole: {error!r}") from error
