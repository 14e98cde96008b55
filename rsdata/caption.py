"""Write the captions of a table anew, without its dump: table in, table out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rsdata import box_to_caption, places, tables
from rsdata.errors import TableError
from rsdata.records import HUMAN, SCHEMA, Box, Record
from rsdata.words import Words


def caption(
    table: Path,
    output: Path,
    template: str,
    large_count: str = "vague",
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Copy `table` to `output` with the captions of another caption set, and return the new manifest.

    Captions that people wrote are kept; "none" keeps only those. The result is, to the byte, what `convert`
    would have written with these options. Raises RecipeError for a caption set or option that is not known,
    TableError where `table` is damaged or no finished table, or `output` is taken, RsdataError where `output`
    cannot be written.
    """
    if template != "none":
        box_to_caption.check(template, large_count=large_count)
    manifest = tables.manifest(table)
    if places.same(output, table):
        raise TableError(f"{output}: the table is read while the new one is written; name another folder")
    choice = {"captions": template, "large_count": large_count, "seed": seed}
    about = {**tables.about(table), **choice}
    words = {name: Words(held["irregular"]) for name, held in about["datasets"].items()}
    written: Counter[str] = Counter()
    with tables.staged(output, overwrite) as staging:
        for path in tables.shards(table):
            with tables.shard_writer(staging / "data" / path.name, about) as writer:
                for group in _row_groups(path):
                    rows = _recaptioned(group, about, words)
                    lengths = pc.list_value_length(rows["captions"]).to_pylist()
                    for dataset, length in zip(rows["dataset"].to_pylist(), lengths, strict=True):
                        written[dataset] += length
                    writer.write(rows)
        tables.copy_lists(table, staging)
        manifest = _with_captions(manifest, choice, written)
        tables.publish(staging, output, manifest)
    return manifest


def _row_groups(path: Path) -> Iterator[pa.Table]:
    """The row groups of a shard, one at a time. Raises TableError where it is damaged or lacks a column."""
    try:
        with tables.parquet(path) as shard:
            if shard.schema_arrow.names != SCHEMA.names:
                raise TableError(f"{path}: not the columns of this version: convert it again")
            for group in range(shard.num_row_groups):
                yield shard.read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: damaged: {error}") from error


def _recaptioned(rows: pa.Table, about: Mapping[str, Any], words: Mapping[str, Words]) -> pa.Table:
    """A row group with its captions and their source replaced, but for those of people."""
    captions: list[Sequence[str]] = []
    sources: list[str | None] = []
    columns = ("image_id", "dataset", "width", "height", "gsd", "cover", "captions", "caption_source")
    polygons = about["captions"] != "none" and box_to_caption.needs_polygons(about["captions"])
    held = (rows[name].to_pylist() for name in columns)
    values = zip(*held, _boxes(rows["objects"], polygons), strict=True)
    for image_id, dataset, width, height, gsd, cover, old, source, boxes in values:
        if source != HUMAN and about["captions"] == "none":
            old, source = [], None
        elif source != HUMAN:
            shares = [(item["label"], item["share"]) for item in cover]
            record = Record("", boxes, width, height, gsd=gsd, cover=shares)
            options = {"seed": about["seed"], "large_count": about["large_count"]}
            old = box_to_caption.captions(record, image_id, about["captions"], words[dataset], **options)
            source = about["captions"] if old else None
        captions.append(old)
        sources.append(source)
    for name, column in (("captions", captions), ("caption_source", sources)):
        field = SCHEMA.field(name)
        rows = rows.set_column(SCHEMA.get_field_index(name), field, pa.array(column, field.type))
    return rows


def _boxes(objects: pa.ChunkedArray, polygons: bool) -> list[list[Box]]:
    """The Boxes of each row, with their polygons if those are needed."""
    column = objects.combine_chunks()
    flat = column.flatten()
    names = ("label", "raw_label", "xmin", "ymin", "xmax", "ymax")
    values = zip(
        *(flat.field(name).to_pylist() for name in names), flat.field("flags").to_pylist(), strict=True
    )
    shapes = flat.field("polygon").to_pylist() if polygons else [None] * len(flat)
    boxes = [Box._make((*value[:-1], shape, value[-1])) for value, shape in zip(values, shapes, strict=True)]
    ends = pc.list_value_length(column).to_pylist()
    start, lists = 0, []
    for length in ends:
        lists.append(boxes[start : start + length])
        start += length
    return lists


def _with_captions(
    manifest: Mapping[str, Any], choice: Mapping[str, Any], written: Mapping[str, int]
) -> dict[str, Any]:
    datasets = {
        name: {**held, "captions": written.get(name, 0)} for name, held in manifest["datasets"].items()
    }
    about = {**manifest["rsdata"], **choice}
    return {**manifest, "rsdata": about, "captions": sum(written.values()), "datasets": datasets}
