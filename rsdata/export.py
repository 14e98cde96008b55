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

import pyarrow.parquet as pq

from rsdata import rasters, tables
from rsdata.errors import RecipeError, TableError
from rsdata.formats import coco, yolo
from rsdata.records import Box, Record

SAMPLES = 1000
"""Of a WebDataset shard."""
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp"}


class Item(NamedTuple):
    """A row on its way out. name: its image file's, relative and unique; data: None without bytes."""

    split: str
    name: str
    data: bytes | None
    record: Record
    row: Mapping[str, Any]


def export(table: Path, output: Path, to: str) -> dict[str, int]:
    """Write a table as `to` into a new folder; returns how many images, objects and captions it holds.

    Raises RecipeError for another `to`, TableError where the table is unfinished or damaged, or has no image
    bytes and `to` needs them, or where `output` exists and is not empty.
    """
    if to not in EXPORTERS:
        raise RecipeError(f"--to {to}: expected one of {', '.join(EXPORTERS)}")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise TableError(f"{output}: not an empty folder")
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
    """All labels of a table, sorted, as its manifest counts them."""
    datasets = tables.manifest(table).get("datasets", {}).values()
    return sorted({label for held in datasets for label in held.get("classes", ())})


def _items(table: Path, counts: Counter[str], to: str) -> Iterator[Item]:
    taken: set[str] = set()
    for path in tables.shards(table):
        with pq.ParquetFile(path) as shard:
            for group in range(shard.num_row_groups):
                for row in shard.read_row_group(group).to_pylist():
                    data = row["image"]["bytes"]
                    if data is None and to in _NEED_BYTES:
                        raise TableError(f"{table}: has no image bytes (--no-images), which {to} needs")
                    boxes = [Box(**held) for held in row["objects"]]
                    name = _name(row, data, taken)
                    record = Record(name, boxes, row["width"], row["height"], row["captions"], row["label"])
                    counts.update(images=1, objects=len(boxes), captions=len(row["captions"]))
                    counts["without_bytes"] += data is None
                    yield Item(row["split"], name, data, record, row)


def _name(row: Mapping[str, Any], data: bytes | None, taken: set[str]) -> str:
    """A file name that is safe on any disk and unique in the export."""
    identity = str(row["image_id"])
    prefix = f"{row['dataset']}/{row['split']}/"
    stem = f"{row['dataset']}/{identity.removeprefix(prefix)}"
    parts = [re.sub(r"[^\w.+-]+", "_", part).strip(".") or "_" for part in stem.split("/")]
    suffix = _suffix(data) if data is not None else Path(row["image"]["path"]).suffix
    name = stem = "/".join(parts)
    number = 1
    while (name + suffix).casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add((name + suffix).casefold())
    return name + suffix


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
        coco.write(folder / "annotations" / f"{split}.json", records)
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
    """images/SPLIT/…, labels/SPLIT/…, data.yaml; segments where there are polygons."""
    import yaml

    splits: dict[str, str] = {}
    for item in items:
        splits[item.split] = f"images/{item.split}"
        _save(folder / "images" / item.split, item)
        path = (folder / "labels" / item.split / item.name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        yolo.write(path, [_nouns(item.record)], names=list(labels))
    about = {"path": ".", **splits, "names": dict(enumerate(labels))}
    (folder / "data.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")


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
    """SPLIT-000000.tar …: KEY.jpg, KEY.txt (the first caption), KEY.json (all captions, objects)."""
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
            key = re.sub(r"[./]", "_", str(Path(item.name).with_suffix("")))
            about = {name: item.row[name] for name in ("image_id", "label", "captions", "objects", "gsd")}
            _add(tar, f"{key}{Path(item.name).suffix}", item.data or b"")
            _add(tar, f"{key}.txt", (item.record.captions[0] if item.record.captions else "").encode())
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
    """SPLIT/LABEL/… for scene classes; else SPLIT/… with metadata.jsonl (file_name, captions, objects)."""
    metadata: dict[str, Any] = {}
    try:
        for item in items:
            label = item.record.label
            if label:
                _save(folder / item.split / re.sub(r"[^\w.+-]+", "_", label), item)
                continue
            _save(folder / item.split, item)
            if item.split not in metadata:
                path = folder / item.split / "metadata.jsonl"
                path.parent.mkdir(exist_ok=True)
                metadata[item.split] = path.open("w", encoding="utf-8")
            held = {"file_name": item.name, "captions": item.row["captions"], "objects": item.row["objects"]}
            metadata[item.split].write(json.dumps(held, ensure_ascii=False) + "\n")
    finally:
        for file in metadata.values():
            file.close()


EXPORTERS: dict[str, Callable[[Iterator[Item], Path, Sequence[str]], None]] = {
    "coco": _coco,
    "yolo": _yolo,
    "csv": _csv,
    "webdataset": _webdataset,
    "imagefolder": _imagefolder,
}
_NEED_BYTES = ("webdataset", "imagefolder")
