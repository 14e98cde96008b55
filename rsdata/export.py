"""Tables back out: COCO, YOLO, CSV for open_clip, WebDataset, image folders.

An exporter is a function (rows, folder, export) -> None of EXPORTERS. Files are named after image_id, never
after what a dump called them: `dota/P0001.png`, `potsdam/2_10_512_0_512_512.png`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from rsdata import rasters, tables
from rsdata.errors import RecipeError, TableError
from rsdata.formats import coco, yolo
from rsdata.records import SCHEMA, Box, Record

SAMPLES = 1000
"""Of a WebDataset shard."""
_SUFFIXES = {
    **{"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "TIFF": ".tif"},
    **{"BMP": ".bmp", "WEBP": ".webp", "GIF": ".gif", "JPEG2000": ".jp2"},
}
_LONGEST = 200
"""Bytes of a part of a name: disks take 255, of which a window, a number and a suffix need some."""


class Item(NamedTuple):
    """A row on its way out. name: its image file's, relative and unique; data: None without bytes."""

    split: str
    name: str
    data: bytes | None
    record: Record
    row: Mapping[str, Any]


def export(table: Path, output: Path, to: str) -> dict[str, int]:
    """Write a table as `to` into a new folder; returns how many images, objects and captions it holds.

    Raises RecipeError for another `to`, TableError where the table is unfinished, damaged or another
    program's, or lacks image bytes or sizes that `to` needs, or where `output` exists and is not empty.
    """
    if to not in EXPORTERS:
        raise RecipeError(f"--to {to}: expected one of {', '.join(EXPORTERS)}")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise TableError(f"{output}: not an empty folder")
    output = output.resolve()
    staging = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    counts: Counter[str] = Counter(images=0, objects=0, captions=0, without_bytes=0)
    try:
        EXPORTERS[to](_items(table, counts, to), staging, _labels(table))
        if output.exists():
            output.rmdir()
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return dict(counts)


def _labels(table: Path) -> list[str]:
    """All labels of a table's objects, sorted. Nothing else of the rows is read."""
    labels: set[str] = set()
    for path in tables.shards(table):
        for group in _groups(path, ["objects.list.element.label"]):
            objects = pc.list_flatten(group["objects"].combine_chunks())
            labels.update(pc.unique(pc.struct_field(objects, "label")).to_pylist())
    return sorted(labels)


def _groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a shard. Raises TableError where it is damaged or not in our schema."""
    with tables.reading(path) as shard:
        if not shard.schema_arrow.remove_metadata().equals(SCHEMA):
            raise TableError(f"{path}: not the columns of a table; see rsdata validate, rsdata repair")
        for group in range(shard.num_row_groups):
            yield tables.sound(path, shard.read_row_group(group, columns))


def _items(table: Path, counts: Counter[str], to: str) -> Iterator[Item]:
    taken: set[str] = set()
    for path in tables.shards(table):
        for group in _groups(path):
            for row in group.to_pylist():
                data = row["image"]["bytes"]
                if data is None and to in _NEED_BYTES:
                    raise TableError(f"{table}: has no image bytes (--no-images), which {to} needs")
                if not tables.SPLIT.fullmatch(row["split"] or ""):
                    raise TableError(f"{path}: split {row['split']!r} cannot name a folder")
                boxes = [Box(**held) for held in row["objects"]]
                name = _name(row, data, taken)
                record = Record(name, boxes, row["width"], row["height"], row["captions"], row["label"])
                counts.update(images=1, objects=len(boxes), captions=len(row["captions"]))
                counts["without_bytes"] += data is None
                yield Item(row["split"], name, data, record, row)


def _name(row: Mapping[str, Any], data: bytes | None, taken: set[str]) -> str:
    """A file name that is unique in the export, whatever stands for its folders and its suffix.

    YOLO and WebDataset know files by their names without suffix, the latter also without folders.
    """
    identity = str(row["image_id"])
    prefix = f"{row['dataset']}/{row['split']}/"
    stem = f"{row['dataset']}/{identity.removeprefix(prefix)}"
    parts = [_part(part) for part in stem.split("/")]
    suffix = _suffix(data) if data is not None else Path(row["image"]["path"] or "").suffix
    name = stem = "/".join(parts)
    number = 1
    while _key(name).casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(_key(name).casefold())
    return name + suffix


def _part(text: str) -> str:
    """`text` as a part of a path; YOLO finds labels by the last `images` in it, so none is called so."""
    safe = re.sub(r"[^\w.+-]+", "_", text).encode()[:_LONGEST].decode(errors="ignore").strip(".") or "_"
    return f"{safe}_" if safe.casefold() in ("images", "labels") else safe


def _key(name: str) -> str:
    return re.sub(r"[./]", "_", name)


def _suffix(data: bytes) -> str:
    try:
        image = rasters.open_image(data)
    except OSError:
        image = None
    return _SUFFIXES.get(image.format or "", ".img") if image else ".tif"


def _save(folder: Path, item: Item) -> None:
    if item.data is not None:
        path = folder / item.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.data)


def _nouns(record: Record) -> Record:
    """`record` with its nouns for raw labels, which are what other tools should see."""
    return record._replace(boxes=[box._replace(raw_label=box.label) for box in record.boxes])


def _coco(items: Iterator[Item], folder: Path, labels: Sequence[str]) -> None:
    """images/SPLIT/…, annotations/SPLIT.json, annotations/captions_SPLIT.json."""
    splits: dict[str, list[Record]] = {}
    for item in items:
        _save(folder / "images" / item.split, item)
        splits.setdefault(item.split, []).append(_nouns(item.record))
    (folder / "annotations").mkdir()
    for split, records in splits.items():
        coco.write(folder / "annotations" / f"{split}.json", records, categories=labels)
        images = [
            {"id": number, "file_name": one.image, "width": one.width, "height": one.height}
            for number, one in enumerate(records, 1)
        ]
        captions = [(number, text) for number, one in enumerate(records, 1) for text in one.captions]
        if captions:
            texts = [
                {"id": index, "image_id": number, "caption": text}
                for index, (number, text) in enumerate(captions, 1)
            ]
            path = folder / "annotations" / f"captions_{split}.json"
            path.write_text(json.dumps({"images": images, "annotations": texts}), encoding="utf-8")


def _yolo(items: Iterator[Item], folder: Path, labels: Sequence[str]) -> None:
    """images/SPLIT/…, labels/SPLIT/…, data.yaml; segments where there are polygons.

    data.yaml has no `path`: Ultralytics takes it from the file then, and a relative one from its settings.
    """
    import yaml

    splits: dict[str, str] = {}
    for item in items:
        if item.split in ("names", "nc", "path"):
            raise TableError(f"a split called {item.split} means something else in data.yaml")
        if item.record.boxes and not (item.record.width and item.record.height):
            why = "YOLO writes shares of the image, whose size the table does not hold (--annotations-only)"
            raise TableError(f"{item.row['image_id']}: {why}")
        splits[item.split] = f"images/{item.split}"
        _save(folder / "images" / item.split, item)
        path = (folder / "labels" / item.split / item.name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        yolo.write(path, [_of_one_kind(_nouns(item.record))], names=list(labels))
    about = {**splits, "names": dict(enumerate(labels))}
    (folder / "data.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")


def _of_one_kind(record: Record) -> Record:
    """`record` with corners for polygons where only some of its boxes have one.

    Ultralytics takes all lines of a file for segments if one is, and would read four numbers as two points.
    """
    if not any(box.polygon for box in record.boxes):
        return record
    corners = [
        box.polygon or (box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax)
        for box in record.boxes
    ]
    return record._replace(
        boxes=[box._replace(polygon=each) for box, each in zip(record.boxes, corners, strict=True)]
    )


def _csv(items: Iterator[Item], folder: Path, labels: Sequence[str]) -> None:
    """SPLIT.csv with filepath and title, tabs between, as open_clip reads it; images/…."""
    written: dict[str, Any] = {}
    try:
        for item in items:
            _save(folder / "images", item)
            if item.split not in written:
                file = (folder / f"{item.split}.csv").open("w", newline="", encoding="utf-8")
                written[item.split] = (file, csv.writer(file, delimiter="\t", lineterminator="\n"))
                written[item.split][1].writerow(["filepath", "title"])
            for caption in item.record.captions:
                written[item.split][1].writerow([f"images/{item.name}", caption])
    finally:
        for file, _ in written.values():
            file.close()


def _webdataset(items: Iterator[Item], folder: Path, labels: Sequence[str]) -> None:
    """SPLIT-000000.tar …: KEY.jpg, KEY.txt (the first caption, if any), KEY.json (all captions, objects).

    open_clip leaves out samples without a caption file, and would train on an empty one.
    """
    open_tars: dict[str, tuple[tarfile.TarFile, int]] = {}
    numbers: Counter[str] = Counter()
    try:
        for item in items:
            split = item.split
            tar, held = open_tars.get(split, (None, SAMPLES))
            if tar is None or held >= SAMPLES:
                if tar is not None:
                    tar.close()
                tar, held = tarfile.open(folder / f"{split}-{numbers[split]:06}.tar", "w"), 0  # noqa: SIM115
                numbers[split] += 1
            suffix = Path(item.name).suffix
            key = _key(item.name.removesuffix(suffix))
            about = {name: item.row[name] for name in ("image_id", "label", "captions", "objects", "gsd")}
            _add(tar, f"{key}{suffix}", item.data or b"")
            if item.record.captions:
                _add(tar, f"{key}.txt", item.record.captions[0].encode())
            _add(tar, f"{key}.json", json.dumps(about, ensure_ascii=False).encode())
            open_tars[split] = (tar, held + 1)
    finally:
        for tar, _ in open_tars.values():
            tar.close()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def _imagefolder(items: Iterator[Item], folder: Path, labels: Sequence[str]) -> None:
    """SPLIT/LABEL/… for scene classes, else SPLIT/…; metadata.jsonl: file_name, label, captions, objects.

    Without it where every row is but an image and its label: `datasets` takes labels from folders only then,
    and wants a line for each image of a split otherwise.
    """
    metadata: dict[str, Any] = {}
    needed = False
    try:
        for item in items:
            label = item.record.label
            name = f"{_part(label)}/{item.name}" if label else item.name
            _save(folder / item.split, item._replace(name=name))
            needed |= not label or bool(item.record.captions or item.record.boxes)
            if item.split not in metadata:
                path = folder / item.split / "metadata.jsonl"
                path.parent.mkdir(exist_ok=True)
                metadata[item.split] = path.open("w", encoding="utf-8")
            held = {key: item.row[key] for key in ("label", "captions", "objects")}
            line = json.dumps({"file_name": name, **held}, ensure_ascii=False)
            metadata[item.split].write(line + "\n")
    finally:
        for file in metadata.values():
            file.close()
    if not needed:
        for file in metadata.values():
            Path(file.name).unlink()


EXPORTERS: dict[str, Callable[[Iterator[Item], Path, Sequence[str]], None]] = {
    "coco": _coco,
    "yolo": _yolo,
    "csv": _csv,
    "webdataset": _webdataset,
    "imagefolder": _imagefolder,
}
_NEED_BYTES = ("webdataset", "imagefolder")
