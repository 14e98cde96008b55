"""Tables on disk: a folder `data/SPLIT-00000-of-00008.parquet` + `README.md` + `manifest.json`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsdata import files
from rsdata.errors import TableError
from rsdata.records import OBJECT, REJECTION_SCHEMA, SCHEMA, Box, Rejection

ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 64 << 20
ROWS_PER_GROUP_WITHOUT_IMAGES = 10_000

_HUGGINGFACE = {"info": {"features": {"image": {"_type": "Image"}}}}
"""The image column alone: Hugging Face decodes it in every release, while declared lists break older ones."""

_TEXT = ("image_id", "dataset", "split", "image.path", "captions.list.element", "caption_source", "label")
_PLAIN = ("sha256", "annotation", "width", "height", "phash")
_EDGES = tuple(f"objects.list.element.{field}" for field in ("xmin", "ymin", "xmax", "ymax"))
_LABELS = tuple(f"objects.list.element.{field}" for field in ("label", "raw_label", "flags.list.element"))
_COLUMNS = (*_TEXT, *_PLAIN, *_EDGES, *_LABELS, "objects.list.element.polygon.list.element")
_DICTIONARY = ("dataset", "split", "captions.list.element", "caption_source", "label", "annotation", *_LABELS)


class Row(NamedTuple):
    """One row of a table; field order equals SCHEMA."""

    image_id: str
    dataset: str
    split: str
    image: bytes | None
    path: str
    width: int | None
    height: int | None
    objects: Sequence[Box]
    captions: Sequence[str]
    caption_source: str | None
    label: str | None
    phash: int | None
    sha256: str | None
    annotation: str


def batch(rows: Sequence[Row]) -> pa.Table:
    """Rows as an Arrow table of SCHEMA."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Row._fields]
    column = dict(zip(Row._fields, columns, strict=True))
    image = pa.StructArray.from_arrays(
        [pa.array(column["image"], pa.binary()), pa.array(map(utf8, column["path"]), pa.string())],
        fields=list(SCHEMA.field("image").type),
    )
    arrays = []
    for field in SCHEMA:
        if field.name == "image":
            arrays.append(image)
        elif field.name == "objects":
            arrays.append(_objects(column["objects"]))
        elif field.name == "captions":
            texts = [[utf8(caption) for caption in captions] for captions in column["captions"]]
            arrays.append(pa.array(texts, field.type))
        elif field.type == pa.string():
            arrays.append(pa.array(map(utf8, column[field.name]), field.type))
        else:
            arrays.append(pa.array(column[field.name], field.type))
    return pa.table(arrays, schema=SCHEMA)


def utf8(text: Any) -> Any:
    """`text` with what UTF-8 cannot hold (lone surrogates of odd file names and JSON escapes) replaced."""
    if isinstance(text, str) and not text.isascii():
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _objects(lists: Sequence[Sequence[Box]]) -> pa.ListArray:
    """The objects column, built by field: several times faster than from nested tuples."""
    offsets = _offsets(len(boxes) for boxes in lists)
    flat = list(chain.from_iterable(lists))
    label, raw, *edges, polygons, flags = zip(*flat, strict=True) if flat else [()] * len(Box._fields)
    points = [polygon for polygon in polygons if polygon]
    ends = _offsets(len(polygon) if polygon else 0 for polygon in polygons)
    values = np.fromiter(chain.from_iterable(points), np.float32, ends[-1])
    missing = np.array([polygon is None for polygon in polygons], dtype=bool)
    fields = [
        pa.array(map(utf8, label), pa.string()),
        pa.array(map(utf8, raw), pa.string()),
        *(pa.array(np.fromiter(edge, np.float32, len(flat))) for edge in edges),
        pa.ListArray.from_arrays(pa.array(ends), pa.array(values), mask=pa.array(missing)),
        pa.array(flags, pa.list_(pa.string())),
    ]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(fields, fields=list(OBJECT)))


def _offsets(lengths: Iterator[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.concatenate(([0], np.cumsum(np.fromiter(lengths, np.int64)))).astype(np.int32)


@contextmanager
def shard_writer(path: Path, about: Mapping[str, Any]) -> Iterator[ShardWriter]:
    """A shard that appears under `path` when it is closed without an error; `about` is its `rsdata` key."""
    with files.atomic_write(path) as file:
        metadata = {"huggingface": json.dumps(_HUGGINGFACE), "rsdata": json.dumps(about, sort_keys=True)}
        with pq.ParquetWriter(
            file,
            SCHEMA.with_metadata(metadata),
            compression={"image.bytes": "none", **dict.fromkeys(_COLUMNS, "zstd")},
            use_dictionary=list(_DICTIONARY),
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as parquet:
            writer = ShardWriter(parquet)
            yield writer
            writer.flush()


class ShardWriter:
    """Rows gathered into row groups of at most 100 rows and 64 MB (10,000 rows where there are no images)."""

    def __init__(self, parquet: pq.ParquetWriter) -> None:
        self._parquet = parquet
        self._rows: list[Row] = []
        self._bytes = 0

    def add(self, row: Row) -> None:
        """Append a row."""
        size = len(row.image) if row.image is not None else 0
        if self._rows and self._bytes + size > BYTES_PER_GROUP:
            self.flush()
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= (ROWS_PER_GROUP if self._bytes else ROWS_PER_GROUP_WITHOUT_IMAGES):
            self.flush()

    def flush(self) -> None:
        """Write the rows gathered so far as one row group."""
        if self._rows:
            self._parquet.write_table(batch(self._rows), row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0


def write_rejections(path: Path, rejections: Sequence[Rejection]) -> None:
    """All rejections of a run as one Parquet file of REJECTION_SCHEMA; `line` must be resolved."""
    columns = list(zip(*(rejection[:6] for rejection in rejections), strict=True)) or [()] * 6
    arrays = [
        pa.array([utf8(value) for value in column], field.type)
        for column, field in zip(columns, REJECTION_SCHEMA, strict=True)
    ]
    with files.atomic_write(path) as file:
        pq.write_table(pa.table(arrays, schema=REJECTION_SCHEMA), file, compression="zstd")


def rows_in(path: Path) -> int:
    """The number of rows that a Parquet file's footer states."""
    return int(pq.read_metadata(path).num_rows)


def about(table: Path) -> dict[str, Any]:
    """The `rsdata` key of a table's first shard: dataset, template, seed, plurals, versions, licence."""
    metadata = pq.read_schema(shards(table)[0]).metadata or {}
    try:
        return dict(json.loads(metadata[b"rsdata"]))
    except (KeyError, ValueError) as error:
        raise TableError(f"{table}: written by another program: it lacks the rsdata metadata") from error


def manifest(table: Path) -> dict[str, Any]:
    """The manifest that closed the run which wrote `table`.

    Raises TableError where the folder is no table, or an unfinished one.
    """
    path = Path(table) / "manifest.json"
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "an unfinished table" if (Path(table) / "data").is_dir() else "not a table"
        raise TableError(f"{table}: {what}: it has no manifest.json") from None
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: {error}") from error
    if not isinstance(loaded, dict):
        raise TableError(f"{path}: expected a JSON object")
    return loaded


def shards(table: Path, splits: Collection[str] = ()) -> list[Path]:
    """The Parquet files of a table in order, of all splits or of those named.

    Raises TableError where the table is unfinished, has no such split, or lacks a file.
    """
    held = manifest(table)["splits"]
    for split in splits:
        if split not in held:
            raise TableError(f"{table}: no split {split!r}; it has {', '.join(held)}")
    files = [Path(table) / name for split in splits or held for name in held[split]["files"]]
    for file in files:
        if not file.is_file():
            raise TableError(f"{file}: named in the manifest, but missing")
    return files
