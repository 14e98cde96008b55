"""Write the captions of a table anew, without its dump: table in, table out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from rsdata import box_to_caption, places, tables
from rsdata.errors import TableError
from rsdata.records import HUMAN, SCHEMA, Box, Record, Rejection
from rsdata.selection import Selection
from rsdata.words import Words


class Rewritten(NamedTuple):
    """The manifest of rows with new captions, and the rejections of rows that their set does not take."""

    manifest: dict[str, Any]
    rejections: list[Rejection]


def caption(
    table: Path,
    output: Path,
    template: str,
    large_count: str = "vague",
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Copy `table` to `output` with the captions of another caption set, and return the new manifest.

    Captions that people wrote are kept; "none" keeps only those. Of a caption set that selects, only the rows
    that fit it are left, with no other caption: see rsdata/selection.py. The result is, to the byte, what
    `convert` would have written with these options. Raises RecipeError for a caption set or option that is
    not known, TableError where `table` is damaged or no finished table, or `output` is taken, RsdataError
    where `output` cannot be written, or no row fits.
    """
    if template != "none":
        box_to_caption.check(template, large_count=large_count)
    manifest = tables.manifest(table, whole=True)
    if places.same(output, table):
        raise TableError(f"{output}: the table is read while the new one is written; name another folder")
    choice = {"captions": template, "large_count": large_count, "seed": seed}
    about = {**tables.about(table), **choice}
    manifest["rsdata"].update(choice)
    shards = {split: tables.shards(table, [split]) for split in manifest["splits"]}
    with tables.staged(output, overwrite) as staging:
        tables.copy_lists(table, staging)
        listed = tables.read_rejections(table) if box_to_caption.judge(template) else []
        manifest, left_out = rewrite(shards, staging / "data", about, manifest, listed)
        if left_out:
            tables.write_rejections(staging / tables.REJECTIONS, [*listed, *left_out])
        tables.publish(staging, output, manifest)
    return manifest


def rewrite(
    shards: Mapping[str, Sequence[Path]],
    folder: Path,
    about: Mapping[str, Any],
    manifest: Mapping[str, Any],
    rejections: Sequence[Rejection],
) -> Rewritten:
    """Write shards, under their names, into `folder` with the captions that `about` names.

    shards: of each split. about: their new `rsdata` metadata. manifest, rejections: of the run that wrote
    them. Raises TableError where a shard is damaged, RsdataError where no row fits a set that selects,
    UnfinishedError where a shard cannot be written.
    """
    words = {name: Words(held["irregular"]) for name, held in about["datasets"].items()}
    paths = [path for held in shards.values() for path in held]
    selects = box_to_caption.judge(about["captions"]) is not None
    selection = Selection(paths, about, rejections) if selects else None
    captions: Counter[str] = Counter()
    rows: dict[str, list[int]] = {}
    for split, held in shards.items():
        for path in held:
            groups = selection.rows(path) if selection else tables.row_groups(path)
            if count := _write(groups, folder / path.name, about, words, captions):
                rows.setdefault(split, []).append(count)
            elif selection:
                places.remove(folder / path.name)
    if selection is None:
        return Rewritten(_with_captions(manifest, captions), [])
    return Rewritten(selection.account(manifest, rows), selection.rejections)


def _write(
    groups: Iterable[pa.Table],
    path: Path,
    about: Mapping[str, Any],
    words: Mapping[str, Words],
    captions: Counter[str],
) -> int:
    """Write row groups with new captions as one shard, count those by dataset, and return the rows."""
    rows = 0
    with tables.shard_writer(path, about) as writer:
        for group in groups:
            group = _recaptioned(group, about, words)
            lengths = pc.list_value_length(group["captions"]).to_pylist()
            for dataset, length in zip(group["dataset"].to_pylist(), lengths, strict=True):
                captions[dataset] += length
            writer.write(group)
            rows += group.num_rows
    return rows


def _recaptioned(rows: pa.Table, about: Mapping[str, Any], words: Mapping[str, Words]) -> pa.Table:
    """A row group with its captions and their source replaced; those of people only by a set that selects."""
    captions: list[Sequence[str]] = []
    sources: list[str | None] = []
    columns = ("image_id", "dataset", "width", "height", "gsd", "cover", "captions", "caption_source")
    polygons = about["captions"] != "none" and box_to_caption.needs_polygons(about["captions"])
    replaced = box_to_caption.judge(about["captions"]) is not None
    held = (rows[name].to_pylist() for name in columns)
    values = zip(*held, _boxes(rows["objects"], polygons), strict=True)
    for image_id, dataset, width, height, gsd, cover, old, source, boxes in values:
        if dataset not in words:
            raise TableError(f"{image_id}: dataset {dataset!r:.100} is not in the metadata (rsdata repair)")
        if source != HUMAN and about["captions"] == "none":
            old, source = [], None
        elif source != HUMAN or replaced:
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


def _with_captions(manifest: Mapping[str, Any], captions: Mapping[str, int]) -> dict[str, Any]:
    datasets = {
        name: {**held, "captions": captions.get(name, 0)} for name, held in manifest["datasets"].items()
    }
    return {**manifest, "captions": sum(captions.values()), "datasets": datasets}
