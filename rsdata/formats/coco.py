"""COCO json: one file a split, with polygons or run lengths.

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 800, "height": 800}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [x, y, width, height],
                      "segmentation": [[x1, y1, x2, y2, …]], "iscrowd": 0}],
     "categories": [{"id": 3, "name": "ship"}]}

Classes go by the file's own category names, never by id. The Box is the annotation's bbox; where that is
missing, the extremes of the polygon's vertices, or of the run lengths, whose counts must add up to
height x width (a corrupt one decodes to a wrong box without an error). Of a polygon in several parts the
largest is kept. `iscrowd` becomes the flag "crowd", which no caption counts. Source: cocoapi, mask.py.

The whole file is decoded at once into typed records. Where some part does not have its type, or the file
holds NaN, it is read again element by element, so that one bad annotation costs only itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.json

from rsdata import files
from rsdata.classes import Classes
from rsdata.columns import Array, Boxes, Columns
from rsdata.errors import AnnotationError, RecipeError
from rsdata.records import Box, Record, Rejection

ONE_FILE = "split"
LAYOUTS = [
    ("images/{split}/**.*", "annotations/{split}.json"),
    ("{split}*/**.*", "annotations/instances_{split}*.json"),
    ("{split}/**.*", "{split}/_annotations.coco.json"),
    ("images/**.*", "annotations.json"),
    ("images/**.*", "annotations/*.json"),
    ("**.*", "**.json"),
]
_CHUNK = 1024
"""Images whose boxes share columns."""
_PARSED = 1 << 14
"""Segmentations that are parsed at once."""
_BLOCK = 1 << 18
"""Bytes of them that one thread takes."""


class _Rle(msgspec.Struct, gc=False):
    counts: list[int] | str
    size: tuple[int, int]


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


_NOTHING = msgspec.Raw(b"null")


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float] | None = None
    segmentation: msgspec.Raw = _NOTHING
    iscrowd: int | bool | None = 0
    ignore: int | bool | None = 0


class _Category(msgspec.Struct, gc=False):
    id: int | str
    name: str


class _Document(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: msgspec.Raw
    categories: list[_Category] = []


_annotations = msgspec.json.Decoder(list[_Annotation])
_PIECE = 4 << 20
"""Bytes of annotations that are decoded at once."""
_NEXT = re.compile(rb"\}\s*,\s*(?=\{)")
_TRIES = 8
_segmentation = msgspec.json.Decoder(list[list[float]] | _Rle | None)
_POLYGONS = pyarrow.json.ParseOptions(pa.schema({"s": pa.list_(pa.list_(pa.float64()))}))
_NO_BBOX = (math.nan,) * 4
_LOST = {
    "images": ("rejected", "E05", ""),
    "annotations": ("dropped", "E05", ""),
    "categories": ("repaired", "E05", "; its annotations have no class"),
}
_LARGEST = 2**31 - 1
_Places: TypeAlias = dict[str, list[int]]
"""Of each kind of element, the indices that its members had in the file."""


def read(root: Path, path: str, classes: Classes, bbox: str = "xywh") -> Iterator[Record | Rejection]:
    """One Record an image, in the order of the file.

    bbox: "xywh", or "xyxy" for files that keep corners there. Raises AnnotationError where the file is no
    JSON (E01), RecipeError for another bbox.
    """
    if bbox not in ("xywh", "xyxy"):
        raise RecipeError(f"option bbox is {bbox!r}, expected 'xywh' or 'xyxy'")
    data = files.read_bytes(root, path, files.DOCUMENT)
    places: _Places | None = None
    try:
        document = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=_Document)
        held = _Images(path, document, classes, None)
        columns = _gather(_chunks(document.annotations), held, bbox == "xyxy")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        places = {"images": [], "annotations": [], "categories": []}
        document, items = _Document([], _NOTHING), list[_Annotation]()
        yield from _element_by_element(root, path, document, items, places)
        held = _Images(path, document, classes, places)
        columns = _gather([items], held, bbox == "xyxy")
        del items
    del data, document
    yield from _records(path, held, columns, places, classes, bbox == "xyxy")


def _chunks(text: msgspec.Raw) -> Iterator[list[_Annotation]]:
    """The annotations, some megabytes of them at a time. Raises MsgspecError.

    All of them as records would be most of the memory. A piece ends where one object seems to end and another
    to begin; if that was inside of something else, the piece does not decode, and the next place is tried.
    """
    view, at = memoryview(text), 1
    while (piece := _piece(view, at)) is not None:
        items, at = piece
        yield items
    yield _annotations.decode(b"".join((b"[", view[at:])) if at > 1 else text)


def _piece(view: memoryview, at: int) -> tuple[list[_Annotation], int] | None:
    """The annotations from `at` and where the next begin; None where the rest is to be decoded as one."""
    end = at + _PIECE
    for _ in range(_TRIES):
        hit = _NEXT.search(view, end)
        if hit is None:
            return None
        try:
            return _annotations.decode(b"".join((b"[", view[at : hit.start() + 1], b"]"))), hit.end()
        except msgspec.MsgspecError:
            end = hit.end()
    return None


def _element_by_element(
    root: Path, path: str, document: _Document, items: list[_Annotation], places: _Places
) -> Iterator[Rejection]:
    """Fill `document` and `items` with all elements that have their type; `places` gets their indices."""
    text, encoding = files.read_text(root, path, files.DOCUMENT)
    yield from files.foreign(path, encoding)
    kinds: dict[str, tuple[type[Any], list[Any]]] = {
        "images": (_Image, document.images),
        "annotations": (_Annotation, items),
        "categories": (_Category, document.categories),
    }
    document.categories = kinds["categories"][1]
    seen = set()
    for element in files.scan_json(text, path):
        if element.key not in kinds:
            continue
        seen.add(element.key)
        kind, found = kinds[element.key]
        value = element.value
        if element.index < 0 and value == []:
            continue
        if kind is _Annotation and isinstance(value, dict) and "segmentation" in value:
            value = {**value, "segmentation": msgspec.Raw(json.dumps(value["segmentation"]).encode())}
        try:
            found.append(msgspec.convert(value, kind, strict=False))
        except msgspec.ValidationError as error:
            salvaged = _without_bbox(element.value, value) if kind is _Annotation else None
            action, code, hint = _LOST[element.key]
            if salvaged is not None:
                action, code, hint = "repaired", "E06", "; box taken from the segmentation"
            where = f"{element.key}[{element.index}]"
            name = value.get("file_name") if isinstance(value, dict) else None
            image = (name if isinstance(name, str) else where) if kind is _Image else ""
            yield Rejection(action, code, path, element.line, image, f"{where}: {error}{hint}")
            if salvaged is None:
                continue
            found.append(salvaged)
        places[element.key].append(element.index)
    if missing := {"images", "annotations"} - seen:
        raise AnnotationError(path, 0, f"not a COCO file: no {' and no '.join(sorted(missing))}")


def _without_bbox(parsed: Any, value: Any) -> _Annotation | None:
    if not isinstance(parsed, dict) or not parsed.get("segmentation"):
        return None
    try:
        return msgspec.convert({**value, "bbox": None}, _Annotation, strict=False)
    except msgspec.ValidationError:
        return None


class _Images:
    """The images and categories of a document.

    kept: (place in the file, image), each id once; ranks: of each id its place in `kept`; doubles: the images
    whose id is taken. labels: (label, raw label) by category id.
    """

    def __init__(self, path: str, document: _Document, classes: Classes, places: _Places | None) -> None:
        self.kept: list[tuple[int, _Image]] = []
        self.ranks: dict[int | str, int] = {}
        self.doubles: list[Rejection] = []
        for place, image in zip(places["images"] if places else count(), document.images, strict=False):
            image.width, image.height = _side(image.width), _side(image.height)
            if (rank := self.ranks.setdefault(image.id, len(self.kept))) < len(self.kept):
                why = f"image id {image.id!r} is taken by {self.kept[rank][1].file_name}"
                self.doubles.append(Rejection("rejected", "E16", path, place, image.file_name, why, "images"))
            else:
                self.kept.append((place, image))
        names = {category.id: category.name for category in document.categories}
        self.labels = {key: (classes[name], name) for key, name in names.items()}


class _Gathered(NamedTuple):
    """Annotations by column: image (-1: none), whether it is odd, class code, edges, polygon.

    strays: the image ids of those whose image is unknown. rest: by index, those that are odd. Not odd is a
    bbox, a known category, one sound polygon or none, and no flag.
    """

    owner: Array
    odd: Array
    codes: Array
    edges: Array
    polygons: pa.ListArray
    strays: list[int | str]
    rest: dict[int, _Annotation]


def _gather(chunks: Iterable[list[_Annotation]], held: _Images, corners: bool) -> _Gathered:
    """All annotations by column. Polygons are parsed in a thread while the next chunk is decoded."""
    index = {key: code for code, key in enumerate(held.labels)}
    columns: list[tuple[Array, Array, Array, Array]] = []
    shapes: list[pa.ListArray] = []
    strays: list[int | str] = []
    rest: dict[int, _Annotation] = {}
    at = 0

    def finish(pending: Future[tuple[Array, pa.ListArray]] | None, items: list[_Annotation]) -> None:
        nonlocal at
        if pending is None:
            return
        unsound, polygons = pending.result()
        owner, odd, _, _ = columns[-1]
        odd |= unsound
        shapes.append(polygons)
        strays.extend(items[number].image_id for number in np.flatnonzero(owner < 0).tolist())
        for number in np.flatnonzero(odd).tolist():
            item = rest[at + number] = items[number]
            item.segmentation = item.segmentation.copy()  # which would keep the whole chunk
        at += len(items)

    with ThreadPoolExecutor(1) as thread:
        pending, before = None, list[_Annotation]()
        for items in chunks:
            finish(pending, before)
            pending, before = thread.submit(_polygons, items), items
            columns.append(_columns(items, held.ranks, index, corners))
        finish(pending, before)
    owner, odd, codes, edges = (np.concatenate(each) for each in zip(*columns, strict=True))
    return _Gathered(owner, odd, codes, edges, pa.concat_arrays(shapes), strays, rest)


def _columns(
    items: Sequence[_Annotation],
    ranks: Mapping[int | str, int],
    index: Mapping[int | str, int],
    corners: bool,
) -> tuple[Array, Array, Array, Array]:
    """Image, oddity but for the polygon, class code and edges of some annotations."""
    owner = np.array([ranks.get(item.image_id, -1) for item in items], np.int64)
    codes = np.array([index.get(item.category_id, -1) for item in items], np.int32)
    odd = np.array([bool(item.iscrowd or item.ignore) for item in items], bool) | (codes < 0)
    numbers = chain.from_iterable([item.bbox or _NO_BBOX for item in items])
    edges = np.fromiter(numbers, np.float64, 4 * len(items)).reshape(-1, 4)
    if not corners:
        edges[:, 2:] += edges[:, :2]
    odd |= np.isnan(edges).any(axis=1)
    return owner, odd, codes, edges


def _records(
    path: str,
    held: _Images,
    columns: _Gathered,
    places: _Places | None,
    classes: Classes,
    corners: bool,
) -> Iterator[Record | Rejection]:
    """The images of a document, their boxes gathered in columns: first in the file's order, then by image."""
    yield from held.doubles
    kept, labels = held.kept, held.labels
    owner, odd, codes, edges, polygons, strays, rest = columns
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(len(kept) + 1))
    lines = (order if places is None else np.array(places["annotations"], np.int64)[order]).tolist()
    for stray, line in zip(strays, lines, strict=False):
        why = f"no image has the id {stray!r}"
        yield Rejection("dropped", "E07", path, line, "", why, "annotations")
    names = [(label, raw, ()) for label, raw in labels.values()] or [("", "", ())]
    for first in range(0, len(kept), _CHUNK):
        own = ends[first : first + _CHUNK + 1]
        bounds = own.tolist()
        rows = order[own[0] : own[-1]]
        images = [image for _, image in kept[first : first + _CHUNK]]
        sizes = np.array([(image.width or np.inf, image.height or np.inf) for image in images])
        flat = _taken(polygons, rows)
        classed = np.maximum(codes[rows], 0)  # those of no category are odd, and never seen
        shared = Columns(names, classed, edges[rows], flat, own - own[0], sizes)
        strange = np.diff(np.concatenate(([0], np.cumsum(odd[rows])))[own - own[0]]).tolist()
        for number, (place, image) in enumerate(kept[first : first + _CHUNK]):
            boxes: Sequence[Box] = Boxes(shared, number)
            mine = lines[bounds[number] : bounds[number + 1]]
            if strange[number]:
                usual, indices = iter(boxes), mine
                boxes, mine = [], []
                for row, index in zip(range(*(own[number : number + 2] - own[0])), indices, strict=True):
                    box: Box | None = next(usual)
                    problem = ""
                    if odd[rows[row]]:
                        box, problem = _box(rest[rows[row]], labels, classes, image, corners)
                    if problem:
                        action = "dropped" if box is None else "repaired"
                        yield Rejection(action, "E33", path, index, image.file_name, problem, "annotations")
                    if box is not None:
                        boxes.append(box)
                        mine.append(index)
            yield Record(
                image.file_name,
                boxes,
                image.width,
                image.height,
                annotation=path,
                lines=mine,
                element="annotations",
                place=place,
            )


def _polygons(items: Sequence[_Annotation]) -> tuple[Array, pa.ListArray]:
    """Which segmentations are not one sound polygon or none, and the polygons: null where there is none."""
    unsound, flat = [np.zeros(0, bool)], [pa.array([], pa.list_(pa.float64()))]
    for start in range(0, len(items), _PARSED):
        texts = [item.segmentation for item in items[start : start + _PARSED]]
        column, other = _parsed(texts), np.zeros(len(texts), bool)
        if column is None:
            other = np.array([bytes(text)[:1] not in (b"[", b"n") for text in texts])
            column = _parsed([b"null" if odd else text for text, odd in zip(texts, other, strict=True)])
        if column is None:
            unsound.append(np.ones(len(texts), bool))
            flat.append(pa.nulls(len(texts), pa.list_(pa.float64())))
            continue
        first = column.offsets.to_numpy()
        edges = column.values.offsets.to_numpy()[first]
        counts, lengths = np.diff(first), np.diff(edges)
        unsound.append(other | (counts > 1) | ((counts == 1) & ((lengths < 6) | (lengths % 2 == 1))))
        flat.append(
            pa.ListArray.from_arrays(pa.array(edges), column.values.values, mask=pa.array(counts == 0))
        )
    return np.concatenate(unsound), pa.concat_arrays(flat)


def _parsed(texts: Sequence[Any]) -> pa.ListArray | None:
    """Lists of polygons from JSON texts, or None where one of them is none.

    Arrow parses them, because it makes no Python number of a coordinate and works in threads.
    """
    joined = b'{"s":' + b'}\n{"s":'.join(texts) + b"}"
    if joined.count(b"\n") >= len(texts):
        lines = [bytes(text).replace(b"\n", b"").replace(b"\r", b"") for text in texts]
        joined = b'{"s":' + b'}\n{"s":'.join(lines) + b"}"
    for block in (_BLOCK, len(joined) + 1):
        options = pyarrow.json.ReadOptions(block_size=block)
        try:
            column = pyarrow.json.read_json(pa.BufferReader(joined), options, _POLYGONS)["s"].combine_chunks()
        except pa.ArrowException:
            continue  # no list of polygons, or one that is longer than a block
        return None if len(column) != len(texts) or column.values.values.null_count else column
    return None


def _taken(polygons: pa.ListArray, rows: Array) -> pa.ListArray:
    """`polygons.take(rows)`, several times faster."""
    ends = polygons.offsets.to_numpy()
    starts, lengths = ends[rows], ends[rows + 1] - ends[rows]
    taken = np.concatenate(([0], np.cumsum(lengths)))
    places = np.arange(taken[-1]) + np.repeat(starts - taken[:-1], lengths)
    missing = polygons.is_null().to_numpy(zero_copy_only=False)[rows]
    values = pa.array(polygons.values.to_numpy()[places])
    return pa.ListArray.from_arrays(pa.array(taken.astype(np.int32)), values, mask=pa.array(missing))


def _shape(text: Any) -> list[list[float]] | _Rle | str | None:
    """One segmentation: polygons, run lengths, nothing, or, of no known shape, its text."""
    try:
        return _segmentation.decode(text) or None
    except msgspec.MsgspecError:
        return bytes(text).decode(errors="replace")


def _is_sound(part: Sequence[float]) -> bool:
    return len(part) >= 6 and len(part) % 2 == 0


def _box(
    annotation: _Annotation,
    labels: Mapping[int | str, tuple[str, str]],
    classes: Classes,
    image: _Image,
    corners: bool,
) -> tuple[Box | None, str]:
    """The Box of an annotation out of the ordinary, and what was wrong with the segmentation, if anything."""
    raw = str(annotation.category_id)
    label = labels.get(annotation.category_id) or (classes[raw], raw)
    problem, polygon, extent = "", None, None
    shape = _shape(annotation.segmentation)
    if isinstance(shape, list):
        parts = [part for part in shape if _is_sound(part)]
        if len(parts) < len(shape):
            problem = "a polygon part needs three points or more, x and y for each"
        if parts:
            polygon = max(parts, key=_area)
            xs = [x for part in parts for x in part[0::2]]
            ys = [y for part in parts for y in part[1::2]]
            extent = (min(xs), min(ys), max(xs), max(ys))
    elif isinstance(shape, _Rle):
        extent, problem = _rle_extent(shape, image, annotation.bbox is None)
    elif shape is not None:
        problem = f"segmentation is neither polygons nor run lengths: {shape[:60]}"
    if annotation.bbox is not None:
        x, y, right, bottom = annotation.bbox
        extent = (x, y, right, bottom) if corners else (x, y, x + right, y + bottom)
    if extent is None:
        return None, problem or "neither bbox nor segmentation"
    flags = ("crowd",) * bool(annotation.iscrowd) + ("ignored",) * bool(annotation.ignore)
    return Box(*label, *extent, polygon, flags), problem and problem + "; segmentation left out"


def _area(part: Sequence[float]) -> float:
    xs, ys = part[0::2], part[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs))))


def _rle_extent(
    rle: _Rle, image: _Image, wanted: bool
) -> tuple[tuple[float, float, float, float] | None, str]:
    height, width = rle.size
    if (image.height or height) != height or (image.width or width) != width:
        return None, f"run lengths of {width}x{height} for an image of {image.width}x{image.height}"
    try:
        counts = rle.counts if isinstance(rle.counts, list) else _uncompress(rle.counts)
    except ValueError as error:
        return None, str(error)
    if min(counts, default=0) < 0 or sum(counts) != height * width or None in (_side(height), _side(width)):
        return None, f"run lengths add up to {sum(counts)}, not to {height} x {width} = {height * width}"
    if not wanted:
        return None, ""
    if height * width >= 2**32:
        return None, f"run lengths of {width}x{height} are more than pycocotools counts"
    extent = _extent(counts, height, width)
    return extent, "" if extent else "an empty mask"


def _extent(counts: Sequence[int], height: int, width: int) -> tuple[float, float, float, float] | None:
    """The extremes of a mask by pycocotools, which takes a run of no length for one of 2^32: none is left."""
    from pycocotools import mask

    runs = [0]
    for place, length in enumerate(counts):
        if place % 2 == (len(runs) - 1) % 2:
            runs[-1] += length
        elif length:
            runs.append(length)
    encoded = mask.frPyObjects({"counts": runs, "size": [height, width]}, height, width)
    x, y, w, h = mask.toBbox(encoded).tolist()
    return (x, y, x + w, y + h) if w and h else None


def _side(side: int | None) -> int | None:
    return side if side is not None and 0 < side <= _LARGEST else None


def _uncompress(counts: str) -> list[int]:
    """COCO's compressed run lengths: base-32 digits from "0" up, differences from the third run on."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise ValueError(f"{character!r} is no digit of compressed run lengths")
        if shift > 60:
            raise ValueError("compressed run lengths hold a number of too many digits")
        value |= (digit & 0x1F) << shift
        shift += 5
        if not digit & 0x20:
            if digit & 0x10:
                value |= -1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return runs


def write(path: Path, records: Sequence[Record], bbox: str = "xywh", categories: Sequence[str] = ()) -> None:
    """All Records of a split as one file.

    categories: all raw labels, in the order of their ids; without them, those of these Records. Splits of one
    dataset need the same, as tools look classes up by id.
    """
    raws = categories or sorted({box.raw_label for record in records for box in record.boxes})
    ids = {raw: number for number, raw in enumerate(raws, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        images.append(
            {"id": number, "file_name": record.image, "width": record.width, "height": record.height}
        )
        for box in record.boxes:
            right = (box.xmax, box.ymax) if bbox == "xyxy" else (box.xmax - box.xmin, box.ymax - box.ymin)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids[box.raw_label],
                    "bbox": [box.xmin, box.ymin, *right],
                    "area": (box.xmax - box.xmin) * (box.ymax - box.ymin),
                    "iscrowd": int("crowd" in box.flags),
                    "segmentation": [list(box.polygon)] if box.polygon else [],
                }
            )
    named = [{"id": number, "name": raw} for raw, number in ids.items()]
    document = {"images": images, "annotations": annotations, "categories": named}
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")
