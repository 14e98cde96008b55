"""DOTA txt as nearly all files have it, many files parsed as one by Arrow.

Whatever is out of the ordinary is left to the reader of single files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from rsdata.classes import Classes
from rsdata.columns import Array, Boxes, Columns
from rsdata.records import Record

HEADERS = ("imagesource:", "gsd:", "acquisition dates:")
FLAGS: dict[str, tuple[str, ...]] = {"0": (), "1": ("difficult",), "2": ("truncated",)}
_HEADER_BYTES = tuple(header.encode() for header in HEADERS)
_WORDS = pa.dictionary(pa.int32(), pa.string())
_CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
_USUAL = bytes(set(range(32, 127)) - {ord(",")} | {10})


def records(
    texts: Sequence[bytes | None],
    paths: Sequence[str],
    classes: Classes,
    gsd_of: Callable[[str], float | None],
) -> list[Record | None]:
    """The Record of each file, None where it is out of the ordinary. gsd_of: reads a header line."""
    bodies: list[bytes] = []
    heads: dict[int, tuple[int, float | None]] = {}
    for place, data in enumerate(texts):
        body = data or b""
        if body and not body.endswith(b"\n"):
            body += b"\n"
        if data is None or not _is_usual(body):
            bodies.append(b"")
            continue
        skipped, gsd = 0, None
        while body[:17].lower().startswith(_HEADER_BYTES):
            line, _, body = body.partition(b"\n")
            skipped, gsd = skipped + 1, gsd or gsd_of(line.decode())
        bodies.append(body)
        heads[place] = skipped, gsd
    made: list[Record | None] = [None] * len(paths)
    for start, stop, columns in _parsed(bodies, 0, len(bodies), classes):
        for place in range(start, stop):
            if place in heads:
                boxes = Boxes(columns, place - start)
                skipped, gsd = heads[place]
                lines = range(skipped + 1, skipped + 1 + len(boxes))
                made[place] = Record("", boxes, annotation=paths[place], lines=lines, gsd=gsd)
    return made


def _is_usual(body: bytes) -> bool:
    """Whether the parser of many files takes it: plain ASCII, one blank between fields, no empty line."""
    if body.translate(None, _USUAL) or body[:1] in (b" ", b"\n"):
        return False
    return not (b"  " in body or b" \n" in body or b"\n\n" in body or b"\n " in body)


def _parsed(
    bodies: Sequence[bytes], start: int, stop: int, classes: Classes
) -> Iterator[tuple[int, int, Columns]]:
    """The boxes of `bodies[start:stop]`; what does not parse is halved until only that is left out."""
    columns = _columns(bodies[start:stop], classes)
    if columns is not None:
        yield start, stop, columns
    elif stop - start > 1:
        middle = (start + stop) // 2
        yield from _parsed(bodies, start, middle, classes)
        yield from _parsed(bodies, middle, stop, classes)


def _columns(bodies: Sequence[bytes], classes: Classes) -> Columns | None:
    """The boxes of some files, None where any line of them is not as it should be."""
    text = b"".join(bodies)
    count = text.partition(b"\n")[0].count(b" ") + 1
    names = (*_CORNERS, "raw", "difficult")[:count]
    if text and count not in (9, 10):
        return None
    ends = np.cumsum([0, *(body.count(b"\n") for body in bodies)])
    if not text:
        return _boxes(np.zeros((0, 8)), np.zeros(0, np.int32), [("", "", ())], ends)
    types = dict.fromkeys(_CORNERS, pa.float64()) | dict.fromkeys(names[8:], _WORDS)
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
            pyarrow.csv.ParseOptions(delimiter=" ", quote_char=False, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        )
    except pa.ArrowException:
        return None
    words = [table[name].combine_chunks() for name in names[8:]]
    raws, flags = words[0].dictionary.to_pylist(), words[1].dictionary.to_pylist() if count == 10 else ["0"]
    if len(table) != ends[-1] or not all(flag in FLAGS for flag in flags):
        return None
    codes = words[0].indices.to_numpy().astype(np.int32) * len(flags)
    if count == 10:
        codes += words[1].indices.to_numpy().astype(np.int32)
    kinds = [(classes[raw], raw, FLAGS[flag]) for raw in raws for flag in flags]
    quads = np.stack([table[name].to_numpy() for name in _CORNERS], axis=1)
    return _boxes(quads, codes, kinds, ends)


def _boxes(quads: Array, codes: Array, kinds: list[tuple[str, str, tuple[str, ...]]], ends: Array) -> Columns:
    """quads: (n, 8) float64."""
    xs, ys = quads[:, 0::2], quads[:, 1::2]
    edges = np.stack([xs.min(axis=1), ys.min(axis=1), xs.max(axis=1), ys.max(axis=1)], axis=1)
    offsets = pa.array(np.arange(0, quads.size + 1, 8, dtype=np.int32))
    polygons = pa.ListArray.from_arrays(offsets, pa.array(quads.ravel()))
    return Columns(kinds, codes, edges, polygons, ends, np.full((len(ends) - 1, 2), np.inf))
