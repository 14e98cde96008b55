"""Tables searched with a sentence, and their features as files that any tool opens.

OUT/data/SPLIT-00000-of-00003.parquet   one row an image: `schema`; no image bytes
OUT/index.faiss                         inner products over all rows; row number: position over the files
OUT/manifest.json                       rows, files in order, digest of the model, tables
"""

from __future__ import annotations

import heapq
import importlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from rsclip import features, store
from rsclip.encode import Encoder, Floats, digest
from rsdata import places, rasters, tables
from rsdata.errors import RsdataError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Of a contact sheet, by suffix."""
SHOWN = 400
"""Hits on a contact sheet at most: of more, the best."""
COLUMNS = 5
"""Of a contact sheet, as long as it is not higher than wide then."""
SIDE, GAP = 224, 12
"""Pixels of the longer side of a picture shown, and between two."""
INDEX = "index.faiss"
ROWS_PER_FILE, ROWS_PER_GROUP = 100_000, 10_000

_DECIMALS = 6
"""What float32 products over some hundred numbers are worth: the same image scores the same anywhere."""
_INK, _GREY, _PAPER = (20, 20, 20), (150, 150, 150), (255, 255, 255)


class Hit(NamedTuple):
    """An image found. score: cosine similarity with the query."""

    score: float
    image_id: str


class Found(NamedTuple):
    """Hits, best first. notes: what a user should know."""

    hits: list[Hit]
    notes: list[str]


class Embedded(NamedTuple):
    """What was written. files: relative to the folder, in order. notes: what a user should know."""

    rows: int
    files: list[str]
    notes: list[str]


def search(
    encoder: Encoder,
    sources: Sequence[Path],
    query: str,
    limit: int = 20,
    split: Sequence[str] = (),
    sheet: Path | None = None,
) -> Found:
    """The images of tables that fit a sentence best, with captions or without.

    limit: images found at most. split: the splits to search; without any, all. sheet: a PNG or JPEG to write,
    as `write_sheet`. Scores that are equal to six decimals are in the order of their ids; an id that several
    tables have is found once.
    Raises TableError on tables that are missing or without a readable image, RsdataError on an empty query
    and on a sheet that cannot be written.
    """
    if not query.strip():
        raise RsdataError("the query is empty")
    if sheet:
        _format_of(sheet)
    found = features.read(encoder, sources, split, "image")
    (text,) = encoder.texts([query])
    scores = (found.images @ text).astype(np.float64).round(_DECIMALS).tolist()
    best: dict[str, float] = {}
    for row, score in zip(found.rows, scores, strict=True):
        best[row.image_id] = max(score, best.get(row.image_id, score))
    first = heapq.nsmallest(limit, best.items(), key=lambda each: (-each[1], each[0]))
    hits = [Hit(score, image_id) for image_id, score in first]
    if sheet:
        write_sheet(sheet, query, hits, sources, split)
    return Found(hits, found.notes)


def write_sheet(
    path: Path, query: str, hits: Sequence[Hit], sources: Sequence[Path], split: Sequence[str] = ()
) -> None:
    """Write a contact sheet: the query, and below it thumbnails with rank, score and id, at most SHOWN.

    The pictures are of the tables `sources`; one that cannot be read is a grey tile that says so. Only row
    groups with a hit are read. Raises TableError on damaged tables, RsdataError where the suffix is not of
    FORMATS or the sheet cannot be written.
    """
    kind, shown = _format_of(path), hits[:SHOWN]
    files = [file for table in sources for file in tables.shards(table, store.splits_of(table, split))]
    tiles = _tiles(files, {hit.image_id for hit in shown})
    sheet = _sheet(query, [(hit, tiles.get(hit.image_id)) for hit in shown])
    try:
        with places.atomic_write(path) as file:
            sheet.save(file, kind, quality=90)
    except OSError as error:
        raise RsdataError(f"{path}: {error.strerror or error}") from error


def _format_of(path: Path) -> str:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise RsdataError(f"{path}: a sheet is written as {', '.join(FORMATS)}") from None


def _tiles(files: Sequence[Path], ids: set[str]) -> dict[str, Image.Image | None]:
    """Thumbnails by id, None of images that cannot be read."""
    tiles: dict[str, Image.Image | None] = {}
    for path in files:
        with store.opened(path) as file:
            for number in range(file.num_row_groups):
                wanted = pa.array(ids.difference(tiles), pa.string())
                held = file.read_row_group(number, columns=["image_id"])["image_id"].cast(pa.string())
                here = pc.is_in(held, wanted)
                if pc.any(here).as_py():
                    group = file.read_row_group(number, columns=["image_id", "image.bytes"]).filter(here)
                    for row in group.to_pylist():
                        tiles.setdefault(row["image_id"], _thumbnail(row["image"]["bytes"]))
    return tiles


def _thumbnail(data: bytes | None) -> Image.Image | None:
    try:
        image = rasters.open_image(data) if data else None
        if image is None or image.width * image.height > rasters.MAX_DECODED:
            return None
        scale = SIDE / max(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        with image, rasters.decoding():
            image.draft("RGB", (SIDE, SIDE))
            return image.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    except OSError:
        return None


def _sheet(query: str, shown: Sequence[tuple[Hit, Image.Image | None]]) -> Image.Image:
    large, small = _font(20), _font(13)
    columns = max(min(COLUMNS, len(shown)), math.isqrt(max(len(shown) - 1, 0)) + 1)
    width = GAP + columns * (SIDE + GAP)
    title = "\n".join(_wrapped(_short(query, 400), large, width - 2 * GAP))
    names = [
        "\n".join([f"{rank}   {hit.score:.4f}", *_wrapped(_short(hit.image_id, 80), small, SIDE)])
        for rank, (hit, _) in enumerate(shown, 1)
    ]
    top = 2 * GAP + 26 * (title.count("\n") + 1)
    pitch = SIDE + 2 * GAP + 17 * (1 + max((name.count("\n") for name in names), default=0))
    sheet = Image.new("RGB", (width, top + -(-len(shown) // columns) * pitch), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, _INK, large)
    for number, ((_, tile), name) in enumerate(zip(shown, names, strict=True)):
        left, upper = GAP + number % columns * (SIDE + GAP), top + number // columns * pitch
        if tile is None:
            pen.rectangle((left, upper, left + SIDE - 1, upper + SIDE - 1), _GREY)
            pen.text((left + SIDE // 2, upper + SIDE // 2), "cannot be read", _INK, small, anchor="mm")
        else:
            sheet.paste(tile, (left + (SIDE - tile.width) // 2, upper + (SIDE - tile.height) // 2))
        pen.text((left, upper + SIDE + 4), name, _INK, small)
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: Pillow's own font knows little but ASCII."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _short(text: str, most: int) -> str:
    """One line of printable characters, the middle left out where it is longer than `most`."""
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))
    return line if len(line) <= most else f"{line[: most // 2]} … {line[-most // 2 :]}"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, and within words that are longer."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append(word)
        while font.getlength(lines[-1]) > width:
            last = lines.pop()
            fits = max(n for n in range(1, len(last)) if n == 1 or font.getlength(last[:n]) <= width)
            lines += [last[:fits], last[fits:]]
    return [line for line in lines if line] or [""]


def schema(dim: int) -> pa.Schema:
    """Of the files that `embed` writes. embedding: L2-normalised; path: of the image file in the dump."""
    names = ("image_id", "dataset", "split", "path", "label")
    return pa.schema(
        [
            *((name, pa.string()) for name in names),
            ("captions", pa.list_(pa.string())),
            ("embedding", pa.list_(pa.float32(), dim)),
        ]
    )


def embed(
    encoder: Encoder,
    sources: Sequence[Path],
    output: Path,
    split: Sequence[str] = (),
    index: bool = False,
    overwrite: bool = False,
) -> Embedded:
    """Write the features of the images of tables, one row for each that can be read, to the folder `output`.

    split: the splits to read; without any, all. index: also write a faiss.IndexFlatIP over all rows.
    overwrite: replace what an earlier call wrote. Within a split, rows are in the tables' order; files are in
    the order of their names, in which a pattern finds them. The folder appears whole or not at all. Memory
    holds features, ids and captions, no images.
    Raises TableError on tables that are missing or without a readable image; RsdataError where `output` is
    taken or cannot be written, or faiss is missing: both before anything is embedded.
    """
    faiss = _faiss() if index else None
    output = output.absolute()
    _check_free(output, overwrite)
    found = features.read(encoder, sources, split, "image")
    weights = digest(encoder.clip)
    kind = schema(found.images.shape[1]).with_metadata({"rsclip": json.dumps({"weights": weights})})
    parts = _parts(found.rows)
    rows, files = len(found.rows), [name for name, _ in parts]
    about = {"rows": rows, "files": files, "weights": weights, "tables": [str(table) for table in sources]}
    with _whole(output) as folder:
        for name, numbers in parts:
            _write(folder / name, kind, found, numbers)
        if faiss:
            _write_index(faiss, folder / INDEX, found.images, parts)
        with places.atomic_write(folder / tables.MANIFEST, "w") as file:
            file.write(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return Embedded(rows, files, found.notes)


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise RsdataError(f"an index needs faiss: pip install 'rsdata[search]' ({error})") from error


def _check_free(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise RsdataError(f"{output}: is a file, expected a folder")
    if not any(output.iterdir()):
        return
    try:
        about = json.loads((output / tables.MANIFEST).read_bytes())
    except (OSError, ValueError):
        about = None
    if not isinstance(about, dict) or not {"rows", "files", "weights"} <= about.keys():
        raise RsdataError(f"{output}: not empty, and nothing that embed wrote; name another folder")
    if not overwrite:
        raise RsdataError(f"{output}: holds embeddings; name another folder, or replace them (--overwrite)")


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write to; on success it takes its place."""
    folder, old = (output.with_name(f".{output.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        folder.mkdir(parents=True)
        yield folder
        if output.exists():
            output.replace(old)
        folder.replace(output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise RsdataError(f"{error.filename or output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parts(rows: Sequence[features.Row]) -> list[tuple[str, list[int]]]:
    """The files to write, in order, and the rows of each."""
    splits: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        # another program's table may have anything for a split, and this names a file
        name = row.split if tables.SPLIT.fullmatch(row.split) else "rows"
        splits.setdefault(name, []).append(number)
    parts: list[tuple[str, list[int]]] = []
    for split, numbers in splits.items():
        chunks = [numbers[start : start + ROWS_PER_FILE] for start in range(0, len(numbers), ROWS_PER_FILE)]
        parts += zip(tables.shard_names(split, len(chunks)), chunks, strict=True)
    return sorted(parts)


def _write(path: Path, kind: pa.Schema, found: features.Features, numbers: Sequence[int]) -> None:
    strings = [field.name for field in kind if field.type == pa.string()]
    words = [*strings, "captions.list.element"]
    with (
        places.atomic_write(path) as file,
        pq.ParquetWriter(file, kind, compression="zstd", use_dictionary=words) as writer,
    ):
        for start in range(0, len(numbers), ROWS_PER_GROUP):
            chunk = numbers[start : start + ROWS_PER_GROUP]
            rows = [found.rows[number] for number in chunk]
            values = {
                "image_id": [row.image_id for row in rows],
                "dataset": [row.dataset for row in rows],
                "split": [row.split for row in rows],
                "path": [row.name for row in rows],
                "label": [row.label for row in rows],
                "captions": [row.captions for row in rows],
            }
            arrays = [pa.array(column, kind.field(name).type) for name, column in values.items()]
            vectors = pa.array(found.images[chunk].ravel())
            arrays.append(pa.FixedSizeListArray.from_arrays(vectors, found.images.shape[1]))
            writer.write_table(pa.table(arrays, schema=kind))


def _write_index(faiss: Any, path: Path, images: Floats, parts: Sequence[tuple[str, list[int]]]) -> None:
    index = faiss.IndexFlatIP(images.shape[1])
    for _, numbers in parts:
        index.add(images[numbers])
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise RsdataError(f"{path}: {error}") from error
