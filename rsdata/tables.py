"""Tables on disk: a folder of Parquet shards, written aside and published whole.

TABLE/data/SPLIT-00000-of-00008.parquet   one row an image, records.SCHEMA
TABLE/rejections.parquet                  what was not converted as it stands, records.REJECTION_SCHEMA
TABLE/removed.parquet                     after dedup: duplicates and leaks, with their twins
TABLE/suspects.parquet                    after dedup: what may be a leak, for a person to look at
TABLE/README.md                           dataset card (Hugging Face front matter)
TABLE/manifest.json                       written last: without it the table is an unfinished run
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET, UnsetType

from rsdata import places
from rsdata.columns import Boxes
from rsdata.errors import RsdataError, TableError, UnfinishedError
from rsdata.hashing import Hashes, Sample, finished
from rsdata.records import EDGES, OBJECT, REJECTION_SCHEMA, SCHEMA, Box, Rejection

MANIFEST = "manifest.json"
REJECTIONS = "rejections.parquet"
REMOVED = "removed.parquet"
SUSPECTS = "suspects.parquet"
LISTS = (REJECTIONS, REMOVED, SUSPECTS)
CARD = "README.md"
_STAGING = ".unfinished"

PARTS = ("written", "duplicates", "leaks", "rejected")
"""What the images found are the sum of, in every manifest."""

SPLIT = re.compile(r"\w[\w.-]{0,99}")
"""What names a split, and so files and folders: of another program's table it may be anything."""
SHARD = re.compile(r"data/[^/\\\0]+\.parquet")
"""What names a shard in a manifest."""

BATCH = 4096
"""Rows that are looked at together where no image is read."""
ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 64 << 20
ROWS_PER_GROUP_WITHOUT_IMAGES = 2_500

_HUGGINGFACE = {"info": {"features": {"image": {"_type": "Image"}}}}
"""The image column alone: Hugging Face decodes it in every release, while declared lists break older ones."""

_GEOPARQUET = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"]}},
}
"""Of shards with a footprint; without a `crs` it is OGC:CRS84, longitude and latitude."""

_TEXT = ("image_id", "dataset", "split", "image.path", "captions.list.element", "caption_source", "label")
_PLAIN = ("sha256", "annotation", "width", "height")
_HASHES = ("phash", "phashes.list.element", "dhash.list.element", "low_info", "pixels")
_EDGES = tuple(f"objects.list.element.{field}" for field in EDGES)
_LABELS = tuple(f"objects.list.element.{field}" for field in ("label", "raw_label", "flags.list.element"))
_EARTH = ("gsd", "cover.list.element.label", "cover.list.element.share", "geometry")
_POLYGON = "objects.list.element.polygon.list.element"
_COLUMNS = (*_TEXT, *_PLAIN, *_HASHES, *_EARTH, *_EDGES, *_LABELS, _POLYGON)
_DICTIONARY = ("dataset", "split", "captions.list.element", "caption_source", "label", "annotation", *_LABELS)


class Row(NamedTuple):
    """One row of a table, in the order of SCHEMA; `hashes` makes five columns of it."""

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
    hashes: Sample | Hashes | None
    sha256: str | None
    annotation: str
    gsd: float | None = None
    cover: Sequence[tuple[str, float]] = ()
    geometry: bytes | None = None


def batch(rows: Sequence[Row]) -> pa.Table:
    """Rows as an Arrow table of SCHEMA."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Row._fields]
    column = dict(zip(Row._fields, columns, strict=True))
    image = pa.StructArray.from_arrays(
        [pa.array(column["image"], pa.binary()), pa.array(map(utf8, column["path"]), pa.string())],
        fields=list(SCHEMA.field("image").type),
    )
    made = iter(finished([each for each in column["hashes"] if isinstance(each, Sample)]))
    hashes = [next(made) if isinstance(each, Sample) else each for each in column["hashes"]]
    arrays = []
    for field in SCHEMA:
        if field.name == "image":
            arrays.append(image)
        elif field.name == "objects":
            arrays.append(_objects(column["objects"]))
        elif field.name == "captions":
            texts = [[utf8(caption) for caption in captions] for captions in column["captions"]]
            arrays.append(pa.array(texts, field.type))
        elif field.name == "cover":
            arrays.append(
                pa.array(
                    [[(utf8(label), share) for label, share in each] for each in column["cover"]], field.type
                )
            )
        elif field.name in Hashes._fields:
            arrays.append(pa.array([each and getattr(each, field.name) for each in hashes], field.type))
        elif field.type == pa.string():
            arrays.append(pa.array(map(utf8, column[field.name]), field.type))
        else:
            arrays.append(pa.array(column[field.name], field.type))
    return pa.table(arrays, schema=SCHEMA)


def utf8(text: str | None) -> str | None:
    """`text` with what UTF-8 cannot hold (lone surrogates of odd file names and JSON escapes) replaced."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def _objects(lists: Sequence[Sequence[Box]]) -> pa.ListArray:
    """The objects column: runs of images whose Boxes are columns already are sliced, others are built."""
    parts = []
    for columns, run in groupby(lists, lambda boxes: boxes.columns if isinstance(boxes, Boxes) else None):
        if columns is None:
            parts.append(_struct(list(chain.from_iterable(run))))
        else:
            parts.extend(columns.objects.slice(rows.start, len(rows)) for rows in _joined(run))
    flat = pa.concat_arrays(parts) if parts else _struct([])
    return pa.ListArray.from_arrays(pa.array(_offsets(map(len, lists))), flat)


def _joined(run: Iterable[Any]) -> Iterator[range]:
    """The rows of Boxes of one Columns, neighbours joined."""
    rows = range(0)
    for boxes in run:
        if rows and boxes.start != rows.stop:
            yield rows
            rows = range(0)
        rows = range(rows.start if rows else boxes.start, boxes.stop)
    yield rows


def _struct(boxes: Sequence[Box]) -> pa.StructArray:
    """Boxes as an array of OBJECT, built by field: several times faster than from nested tuples."""
    label, raw, *edges, polygons, flags = zip(*boxes, strict=True) if boxes else [()] * len(Box._fields)
    points = [polygon for polygon in polygons if polygon]
    ends = _offsets(len(polygon) if polygon else 0 for polygon in polygons)
    values = np.fromiter(chain.from_iterable(points), np.float32, ends[-1])
    missing = np.array([polygon is None for polygon in polygons], dtype=bool)
    fields = [
        pa.array(map(utf8, label), pa.string()),
        pa.array(map(utf8, raw), pa.string()),
        *(pa.array(np.fromiter(edge, np.float32, len(boxes))) for edge in edges),
        pa.ListArray.from_arrays(pa.array(ends), pa.array(values), mask=pa.array(missing)),
        pa.array(flags, pa.list_(pa.string())),
    ]
    return pa.StructArray.from_arrays(fields, fields=list(OBJECT))


def _offsets(lengths: Iterable[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.concatenate(([0], np.cumsum(np.fromiter(lengths, np.int64)))).astype(np.int32)


@contextmanager
def writing(where: object) -> Iterator[None]:
    """What cannot be written, for want of space above all, raises UnfinishedError: no input is at fault."""
    try:
        yield
    except OSError as error:
        why = error.strerror or (os.strerror(error.errno) if error.errno else error)
        raise UnfinishedError(f"{error.filename or where}: {why}") from error


@contextmanager
def shard_writer(path: Path, about: Mapping[str, Any]) -> Iterator[ShardWriter]:
    """A shard that appears under `path` when it is closed without an error; `about` is its `rsdata` key.

    Raises UnfinishedError where it cannot be written.
    """
    with writing(path), ExitStack() as stack:
        sink: Any
        descriptor = None
        if places.is_local(path):  # Arrow writes to a name without the detour by Python
            descriptor, sink = stack.enter_context(places.atomic_path(path))
        else:
            sink = stack.enter_context(places.atomic_write(path))
        writer = ShardWriter(sink, about, stack.enter_context(ThreadPoolExecutor(1)), descriptor)
        try:
            yield writer
            writer.flush()
        finally:
            writer.close()


class ShardWriter:
    """Rows gathered into row groups of at most 100 rows and 64 MB (2,500 rows where there are no images).

    A shard is a GeoParquet file where its first row group has a footprint: readers find that in the schema,
    which is written first.
    """

    def __init__(
        self, sink: Any, about: Mapping[str, Any], thread: ThreadPoolExecutor, descriptor: int | None = None
    ) -> None:
        """sink: the name of a file, or one that is open. descriptor: of the file on disk, if it is one."""
        self._sink, self._about, self._thread, self._descriptor = sink, about, thread, descriptor
        self._parquet: pq.ParquetWriter | None = None
        self._written: Future[None] | None = None
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
            self.write(batch(self._rows))
        self._rows, self._bytes = [], 0

    def write(self, group: pa.Table) -> None:
        """Write a table of SCHEMA as one row group; it is encoded and written while the next is gathered."""
        self.wait()
        if self._parquet is None:
            self._parquet = self._opened(group["geometry"].null_count < group.num_rows)
        self._written = self._thread.submit(self._append, self._parquet, group.cast(SCHEMA))

    def _append(self, parquet: pq.ParquetWriter, group: pa.Table) -> None:
        """Write, and have the disk begin to take it: else all of it is waited for at the end."""
        parquet.write_table(group, group.num_rows)
        if self._descriptor is not None and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _opened(self, georeferenced: bool) -> pq.ParquetWriter:
        metadata = {
            "huggingface": json.dumps(_HUGGINGFACE),
            "rsdata": json.dumps(self._about, sort_keys=True),
        }
        if georeferenced:
            metadata["geo"] = json.dumps(_GEOPARQUET)
        return pq.ParquetWriter(
            self._sink,
            SCHEMA.with_metadata(metadata),
            compression={"image.bytes": "none", **dict.fromkeys(_COLUMNS, "zstd")},
            use_dictionary=list(_DICTIONARY),
            write_page_index=True,
            use_content_defined_chunking=True,
        )

    def wait(self) -> None:
        """Wait for the row group under way. Raises UnfinishedError where it could not be written."""
        if self._written is not None:
            written, self._written = self._written, None
            where = Path(self._sink).parent if isinstance(self._sink, str) else "the store"
            with writing(where):
                written.result()

    def close(self) -> None:
        """End the file. Raises UnfinishedError as `wait`, OSError where the end cannot be written."""
        try:
            self.wait()
        finally:
            (self._parquet or self._opened(False)).close()


def read_rejections(table: Path) -> list[Rejection]:
    """The rejections that a table lists. Raises TableError where that list is damaged."""
    path = table / REJECTIONS
    try:
        return [Rejection(*row.values()) for row in read(path).cast(REJECTION_SCHEMA).to_pylist()]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{path}: {error}") from error


def write_rejections(path: Path, rejections: Sequence[Rejection]) -> None:
    """All rejections of a run as one Parquet file of REJECTION_SCHEMA; `line` must be resolved."""
    columns = list(zip(*(rejection[:6] for rejection in rejections), strict=True)) or [()] * 6
    arrays = [
        pa.array(map(utf8, column) if field.type == pa.string() else column, field.type)
        for column, field in zip(columns, REJECTION_SCHEMA, strict=True)
    ]
    with places.atomic_write(path) as file:
        pq.write_table(pa.table(arrays, schema=REJECTION_SCHEMA), file, compression="zstd")


def check_target(table: Path, overwrite: bool) -> None:
    """Raise TableError where a run may not write to `table`.

    It holds a finished table and not `overwrite`, or anything that is not ours.
    """
    if table.is_dir():
        held = {path.name for path in table.iterdir()}
        if held and MANIFEST not in held and _STAGING not in held:
            raise TableError(f"{table}: not empty, and not a table of ours; name another folder")
        if MANIFEST in held and "rsdata" not in _loaded(table):
            raise TableError(f"{table}: its {MANIFEST} is not ours; name another folder")
        if MANIFEST in held and not overwrite:
            raise TableError(
                f"{table}: holds a finished table; name another folder, or replace it (--overwrite)"
            )
    elif table.exists():
        raise TableError(f"{table}: is a file, expected a folder")


def staging_of(table: Path) -> Path:
    """The folder inside `table` in which a run writes."""
    return table / _STAGING


def stage(table: Path) -> Path:
    """Make an empty `staging_of`, and return it. Raises TableError."""
    staging = staging_of(table)
    try:
        places.remove(staging)
        places.make_folder(staging / "data")
    except OSError as error:
        raise TableError(f"{table}: cannot be written: {error.strerror}") from error
    return staging


@contextmanager
def staged(table: Path, overwrite: bool) -> Iterator[Path]:
    """The folder of `stage`, gone when the run ends. What cannot be written meanwhile raises RsdataError."""
    check_target(table, overwrite)
    with locked(table):
        staging = stage(table)
        try:
            yield staging
        except OSError as error:
            raise RsdataError(f"{error.filename or table}: {error.strerror or error}") from error
        finally:
            unstage(staging)


@contextmanager
def locked(table: Path) -> Iterator[None]:
    """Keeps other runs on this machine away from a table, until this one ends in whatever way.

    Raises TableError where another writes to it.
    """
    if not places.is_local(table) or fcntl is None:
        yield
        return
    was_there = table.exists()
    try:
        places.make_folder(table)
        descriptor = os.open(table, os.O_RDONLY)
    except OSError as error:
        raise TableError(f"{table}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise TableError(f"{table}: another run writes to it") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        if not was_there:
            with suppress(OSError):  # it is not empty, as it should be
                table.rmdir()
        os.close(descriptor)


@contextmanager
def kept(staging: Path) -> Iterator[None]:
    """The folder of a run that goes on when it is repeated: gone when the run ends, or fails for good.

    What cannot be written raises UnfinishedError. Of what was being written nothing stays.
    """
    try:
        with writing(staging.parent):
            yield
    except BaseException as error:
        for_good = isinstance(error, RsdataError) and not isinstance(error, UnfinishedError)
        (unstage if for_good else sweep)(staging)
        raise
    unstage(staging)


def sweep(staging: Path) -> None:
    """Remove what a killed run left half written."""
    if places.is_local(staging):
        for path in [*staging.rglob(".*.tmp"), *staging.rglob(".*.at")]:
            path.unlink(missing_ok=True)


def unstage(staging: Path) -> None:
    """Remove the folder of a run that has ended.

    Where the table is half published it stays, empty: by it the next run knows the table as ours.
    """
    places.remove(staging)
    if (staging.parent / "data").is_dir() and not (staging.parent / MANIFEST).is_file():
        places.make_folder(staging)


def publish(staging: Path, table: Path, manifest: Mapping[str, Any], data: str = "data") -> None:
    """Move the shards and lists of a finished run from `staging` into `table`, the manifest last.

    All is written in `staging`, which is empty when the manifest appears: a kill leaves nothing in a table.
    data: the folder of `staging` that holds the shards to publish.
    """
    places.remove(table / MANIFEST)
    places.remove(table / "data")
    places.make_folder(table / "data")
    for split, held in manifest["splits"].items():
        for path, name in zip(staged_shards(staging / data, split), held["files"], strict=True):
            places.move(path, table / name)
    for name in LISTS:
        if (staging / name).is_file():
            places.move(staging / name, table / name)
        else:
            places.remove(table / name)
    with places.atomic_write(staging / CARD, "w") as file:
        file.write(card(manifest))
    places.move(staging / CARD, table / CARD)
    with places.atomic_write(staging / MANIFEST, "w") as file:
        json.dump(manifest, file, indent=1, ensure_ascii=False)
        file.write("\n")
    for path in list(staging.iterdir()):
        if path.name != MANIFEST:
            places.remove(path)
    places.move(staging / MANIFEST, table / MANIFEST)


def staged_shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split that a run has written, in their order."""
    return sorted(folder.glob(f"{split}-[0-9]*.parquet"), key=str)


def copy_lists(table: Path, staging: Path) -> None:
    """Take along the lists that a table has."""
    for name in LISTS:
        if (table / name).is_file():
            with places.atomic_write(staging / name) as file:
                file.write(places.read_bytes(table / name))


def shard_names(split: str, count: int) -> list[str]:
    """The names of a split's `count` shards, relative to the table."""
    return [f"data/{split}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]


def card(manifest: Mapping[str, Any]) -> str:
    """The dataset card of a table, with the front matter that Hugging Face reads."""
    about, images, objects = manifest["rsdata"], manifest["images"], manifest["objects"]
    # In quotes, because YAML takes a bare "on" or "1" for something else than a name.
    splits = [f'  - split: "{split}"\n    path: "data/{split}-*.parquet"' for split in manifest["splits"]]
    rows = [f"| {split} | {held['rows']:,} |" for split, held in manifest["splits"].items()]
    title = about.get("title") or about["dataset"]
    source = [f"Source: {about[key]}\n" for key in ("homepage",) if about.get(key)]
    source += [f"Licence of the source: {about['licence']}\n"] if about.get("licence") else []
    source += [f"Please cite: {about['citation']}\n"] if about.get("citation") else []
    duplicates, leaks = images.get("duplicates", 0), images.get("leaks", 0)
    gone = f"{duplicates:,} duplicates and {leaks:,} leaks removed (`{REMOVED}`), "
    return "\n".join(
        [
            "---",
            f"pretty_name: {json.dumps(f'{title} (rsdata)', ensure_ascii=False)}",
            "license: other",
            "task_categories:\n- image-to-text\n- zero-shot-image-classification",
            "tags:\n- remote-sensing\n- vision-language",
            "configs:\n- config_name: default\n  data_files:",
            *splits,
            "---",
            f"\n# {title}\n",
            f"One row an image: image, objects (boxes in pixels) and captions ({about['captions']}), "
            f"written by rsdata {about['versions']['rsdata']}.\n",
            *source,
            "| split | images |\n|---|---|",
            *rows,
            f"\nImages: {images['found']:,} found, {images['written']:,} written, "
            f"{gone if duplicates or leaks else ''}{images['rejected']:,} rejected. "
            f"Objects: {objects['found']:,} found, {objects['written']:,} written. "
            f"What was left out, and why: `{REJECTIONS}`.",
            "",
        ]
    )


class _Parquet(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file whose content is judged as it is read: the format itself lets any bytes be a text."""

    def read_row_group(self, *arguments: Any, **named: Any) -> pa.Table:
        """As ParquetFile. Raises ArrowInvalid also for texts that are not UTF-8."""
        return _judged(super().read_row_group(*arguments, **named))

    def iter_batches(self, *arguments: Any, **named: Any) -> Iterator[pa.RecordBatch]:
        """As ParquetFile. Raises ArrowInvalid also for texts that are not UTF-8."""
        return map(_judged, super().iter_batches(*arguments, **named))


def _judged(rows: Any) -> Any:
    rows.validate(full=True)
    return rows


def parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file to read from, wherever it lies."""
    return _Parquet(**places.arrow(path))


@contextmanager
def reading(path: Path, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read from. columns: that it must have, as `iter_batches` names them.

    Raises TableError where it lacks one, or is found to be damaged, also by what is done with it inside.
    """
    try:
        with parquet(path) as file:
            held = {file.schema.column(at).path for at in range(len(file.schema))} if columns else set()
            if missing := [name for name in columns if name not in held]:
                raise TableError(f"{path}: lacks the column {missing[0]}: convert it again")
            yield file
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: damaged: {error}; convert it again") from error


def batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns of a Parquet file, BATCH rows at a time. Raises TableError as `reading`."""
    with reading(path, columns) as file:
        yield from file.iter_batches(BATCH, columns=list(columns))


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file as a whole."""
    return _judged(pq.read_table(**places.arrow(path), columns=columns))


def row_groups(
    path: Path, columns: Sequence[str] | None = None, numbers: Collection[int] | None = None
) -> Iterator[pa.Table]:
    """The row groups of a shard, one at a time: all, or those of some numbers.

    Raises TableError where it is damaged, or lacks a column of SCHEMA.
    """
    with reading(path) as shard:
        if not shard.schema_arrow.remove_metadata().equals(SCHEMA):
            raise TableError(f"{path}: not the columns of this version: convert it again")
        for number in range(shard.num_row_groups):
            if shard.metadata.row_group(number).num_rows and (numbers is None or number in numbers):
                yield sound(path, shard.read_row_group(number, columns))


_NEVER_NULL = ("image_id", "dataset", "split", "image", "objects", "captions", "cover")
_MAY_BE_NULL = ("polygon",)


def sound(path: Path, group: pa.Table) -> pa.Table:
    """Rows of SCHEMA, in which nothing is null that a table of ours never leaves so. Raises TableError."""
    for name in group.column_names:
        if name in _NEVER_NULL and _has_null(group[name].combine_chunks()):
            raise TableError(f"{path}: a null in {name} (rsdata validate tells where, rsdata repair)")
    return group


def _has_null(column: pa.Array) -> bool:
    if column.null_count:
        return True
    if pa.types.is_list(column.type):
        return _has_null(column.flatten())
    if pa.types.is_struct(column.type) and column.type != SCHEMA.field("image").type:
        names = (field.name for field in column.type if field.name not in _MAY_BE_NULL)
        return any(_has_null(column.field(name)) for name in names)
    return False


def schema_of(path: Path) -> pa.Schema:
    """The schema of a Parquet file."""
    with parquet(path) as file:
        return file.schema_arrow


def rows_in(path: Path) -> int:
    """The number of rows that a Parquet file's footer states."""
    with parquet(path) as file:
        return int(file.metadata.num_rows)


def about(table: Path) -> dict[str, Any]:
    """The `rsdata` key of a table's first shard: dataset, template, seed, plurals, versions, licence.

    Raises TableError where there is none.
    """
    if not (held := shards(table)):
        raise TableError(f"{table}: holds no shard")
    first = held[0]
    try:
        metadata = schema_of(first).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{first}: damaged: {error}") from error
    try:
        found = json.loads(metadata[b"rsdata"])
        msgspec.convert(found, _About)
        return dict(found)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise TableError(f"{table}: written by another program: it lacks the rsdata metadata") from error


class _Split(msgspec.Struct):
    files: list[str]
    rows: int


class _Dataset(msgspec.Struct):
    images: dict[str, int]
    objects: dict[str, int]
    splits: dict[str, dict[str, int]] = {}
    classes: dict[str, int] = {}
    unclaimed: int = 0
    paper: dict[str, Any] = {}


class _Words(msgspec.Struct):
    irregular: dict[str, str] = {}


class _About(msgspec.Struct):
    dataset: str
    datasets: dict[str, _Words]
    captions: str
    versions: dict[str, str]


class _Images(msgspec.Struct):
    found: int
    written: int
    rejected: int


class _Objects(msgspec.Struct):
    found: int
    written: int


class _Manifest(msgspec.Struct):
    """What the parts of a manifest must be, for those who read it. Another program may write fewer."""

    splits: dict[str, _Split]
    rsdata: _About | UnsetType = UNSET
    images: _Images | UnsetType = UNSET
    objects: _Objects | UnsetType = UNSET
    captions: int | UnsetType = UNSET
    reasons: dict[str, dict[str, int]] | UnsetType = UNSET
    datasets: dict[str, _Dataset] | UnsetType = UNSET


def manifest(table: Path, whole: bool = False) -> dict[str, Any]:
    """The manifest that closed the run which wrote `table`.

    whole: with all parts that our own have. Raises TableError where the folder is no table, or an unfinished
    one, or a part of the manifest is missing or of another type.
    """
    loaded = _loaded(table)
    try:
        msgspec.convert(loaded, _Manifest)
    except msgspec.ValidationError as error:
        raise TableError(f"{table / MANIFEST}: {error}; convert the dump again") from error
    lacking = [name for name in _Manifest.__struct_fields__ if name not in loaded]
    if whole and lacking:
        raise TableError(f"{table / MANIFEST}: lacks {', '.join(lacking)}; convert the dump again")
    return loaded


def _loaded(table: Path) -> dict[str, Any]:
    """A manifest, of us or of another program. Raises TableError."""
    path = table / MANIFEST
    try:
        loaded = json.loads(places.read_bytes(path))
    except FileNotFoundError:
        what = "an unfinished table" if (table / "data").is_dir() else "not a table"
        raise TableError(f"{table}: {what}: it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(f"{path}: {error}") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("splits"), dict):
        raise TableError(f"{path}: expected a JSON object with the splits of a table")
    return loaded


def _named(table: Path, split: str, names: list[str]) -> list[str]:
    """The files that a manifest names for a split. Raises TableError for what is no shard of the table."""
    if not SPLIT.fullmatch(split):
        raise TableError(f"{table / MANIFEST}: split {split!r:.100} cannot name a file")
    if not all(map(SHARD.fullmatch, names)):
        raise TableError(f"{table / MANIFEST}: split {split!r} names something else than files in data")
    return names


def shards(table: Path, splits: Collection[str] = ()) -> list[Path]:
    """The Parquet files of a table in order, of all splits or of those named.

    Raises TableError where the table is unfinished, has no such split, or lacks a file.
    """
    held = manifest(table)["splits"]
    for split in splits:
        if split not in held:
            raise TableError(f"{table}: no split {split!r}; it has {', '.join(held)}")
    paths = [table / name for split in splits or held for name in _named(table, split, held[split]["files"])]
    for path in paths:
        if not path.is_file():
            raise TableError(f"{path}: named in the manifest, but missing")
    return paths
