"""Tables of (image, caption): CSV, TSV, JSON lines or Parquet, one pair a row.

    filepath<TAB>title                         open_clip's, and that of RemoteCLIP's released files
    images/a.jpg<TAB>many planes are parked .

Columns are found by name: image, filepath, filename, file_name, image_path, path or img for the image;
caption, captions, text, title, sentence or raw for the caption, which may be a list; split, where there is
one. Rows of one image are its captions, in order. Without a split column all is "train". Image bytes inside
Parquet are not read. Sources: open_clip_train's CSV convention; RemoteCLIP's released csv_file folder.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsdata import files, places
from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.records import Record, Rejection

ONE_FILE = "split"
NAMES_SPLITS = True
PLACES = ""
LAYOUTS = [
    ("**.*", "captions.csv"),
    ("**.*", "**.csv"),
    ("**.*", "**.tsv"),
    ("**.*", "**.jsonl"),
    ("**.*", "**.parquet"),
]
_IMAGE = ("image", "filepath", "filename", "file_name", "image_path", "path", "img")
_CAPTION = ("caption", "captions", "text", "title", "sentence", "raw")
_MOST = 1 << 20
"""Characters of a field."""


def read(
    root: Path, path: str, classes: Classes, image_column: str = "", caption_column: str = ""
) -> Iterator[Record | Rejection]:
    """One Record an image, in the order in which the file first names them.

    A row without a caption is dropped, and one that does not parse (E34). image_column, caption_column:
    their names, where they are others. Raises AnnotationError (E01) where the columns are not found.
    """
    rows = _parquet(root, path) if path.lower().endswith(".parquet") else _text(root, path)
    columns: tuple[str, str] | None = None
    images: dict[str, tuple[list[str], str, int]] = {}
    for line, row in rows:
        if isinstance(row, Rejection):
            yield row
            continue
        if columns is None or not set(columns) <= row.keys():
            columns = _column(path, row, image_column, _IMAGE), _column(path, row, caption_column, _CAPTION)
        name, value = row[columns[0]], row[columns[1]]
        if not isinstance(name, str) or not name.strip():
            yield Rejection("dropped", "E34", path, line, "", f"no {columns[0]}")
            continue
        split = row.get("split")
        captions, _, _ = images.setdefault(
            name, ([], split if isinstance(split, str) and split else "train", line)
        )
        for caption in value if isinstance(value, list) else [value]:
            if isinstance(caption, str) and caption.strip():
                captions.append(caption)
            else:
                yield Rejection("dropped", "E34", path, line, name, "a blank caption, or none")
    for name, (captions, split, line) in images.items():
        yield Record(name, captions=captions, split=split, annotation=path, place=line)


def _column(path: str, row: Mapping[str, Any], wanted: str, known: Sequence[str]) -> str:
    held = {str(name).strip().casefold(): name for name in row}
    for name in [wanted] if wanted else known:
        if name.casefold() in held:
            return str(held[name.casefold()])
    columns = ", ".join(map(str, list(row)[:6]))[:200]
    raise AnnotationError(path, 1, f"no column {wanted or ', '.join(known)}; it has {columns}")


def _text(root: Path, path: str) -> Iterator[tuple[int, dict[str, Any] | Rejection]]:
    """The rows of a text file, each with its line."""
    content, encoding = files.read_text(root, path, files.DOCUMENT)
    for note in files.foreign(path, encoding):
        yield 0, note
    if path.lower().endswith((".jsonl", ".json", ".ndjson")):
        yield from _json_lines(path, content)
        return
    head = content.partition("\n")[0]
    delimiter = max("\t,;", key=head.count)
    csv.field_size_limit(_MOST)
    reader = csv.reader(io.StringIO(content), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
    header: list[str] = []
    line = 1
    while True:
        start, line = line, line
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise AnnotationError(path, start, f"not a table of delimited text: {error}") from error
        line = reader.line_num + 1
        if not any(field.strip() for field in fields):
            continue
        if not header:
            header = [field.strip() for field in fields]
        elif len(fields) != len(header):
            why = f"{len(fields)} fields, expected {len(header)}: {', '.join(header)}"
            yield start, Rejection("dropped", "E34", path, start, "", why)
        else:
            yield start, dict(zip(header, fields, strict=True))


def _json_lines(path: str, content: str) -> Iterator[tuple[int, dict[str, Any] | Rejection]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(files.without_lone_surrogates(line))
        except (ValueError, RecursionError) as error:
            yield number, Rejection("dropped", "E34", path, number, "", f"not valid JSON: {error}")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            yield number, Rejection("dropped", "E34", path, number, "", "expected an object")


def _parquet(root: Path, path: str) -> Iterator[tuple[int, dict[str, Any] | Rejection]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with places.opened(root / path) as opened, pq.ParquetFile(opened) as file:
            held = {name.casefold(): name for name in file.schema_arrow.names}
            columns = [held[name] for name in (*_IMAGE, *_CAPTION, "split") if name in held]
            for batch in file.iter_batches(columns=columns or file.schema_arrow.names[:1]):
                yield from ((0, row) for row in batch.to_pylist())
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise AnnotationError(path, 0, f"not a Parquet file: {error}") from error


def write(path: Path, records: Sequence[Record]) -> None:
    """All Records as a CSV with a row for each caption."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filepath", "title", "split"])
        for record in records:
            writer.writerows([record.image, caption, record.split] for caption in record.captions)
