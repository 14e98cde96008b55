"""Images on a page: found in tables, made small, boxes drawn over them, captions below."""

from __future__ import annotations

import hashlib
import heapq
import io
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from rsdata import page, rasters, tables
from rsdata.records import EDGES

SIDE = 320
"""Pixels of the longer side of a thumbnail."""
BUDGET = 4_500_000
"""Bytes of all thumbnails of a page: a third more as text."""
OUTLINES = 12_000
"""Characters of the outlines drawn over a thumbnail, of some 250 boxes: of more, the largest."""
CAPTIONS = 6
"""Captions shown of an image."""
CHIPS = 150
"""Classes to choose from: of more, those that most of the images shown have."""

LEGEND = 12
"""Classes named below an image."""

_FARTHEST = 1e7
_QUALITIES = (75, 60, 45, 30)
_LEAST = 32
_GOLDEN = 137.508
_COLUMNS = (
    *("image_id", "dataset", "split", "image.bytes", "width", "height", "label"),
    *("captions.list.element", "caption_source"),
    *(f"objects.list.element.{name}" for name in ("label", "raw_label", *EDGES)),
    "objects.list.element.flags.list.element",
    "objects.list.element.polygon.list.element",
)


class Picture(NamedTuple):
    """A JPEG and the pixels of the image that it was made from."""

    jpeg: bytes
    width: int
    height: int


def rows(
    shards: Sequence[Path], ids: Collection[str], side: int = SIDE, most: int | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of some images, in the order of the shards: dicts of the columns that cards show, and
    `picture`, the image by `thumbnail` of side and most, in place of `image`.

    Only row groups that hold one are read, and of these one column at a time: what is not wanted of a column
    is let go before the next is read. Raises TableError where a shard is damaged.
    """
    for row in _found(shards, ids, _COLUMNS):
        yield _whole(row, side, most)


def pictures(shards: Sequence[Path], ids: Collection[str], side: int) -> dict[str, Picture | None]:
    """The images of some rows by `thumbnail`, by image_id. Raises TableError where a shard is damaged."""
    found = _found(shards, ids, ("image_id", "image.bytes"))
    return {row["image_id"]: _picture(row, side) for row in found}


def _found(shards: Sequence[Path], ids: Collection[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    wanted = pa.array(sorted(ids), pa.string())
    for path in shards if ids else ():
        with tables.reading(path, columns) as shard:
            for number in range(shard.num_row_groups):
                met = pc.is_in(shard.read_row_group(number, columns=["image_id"])["image_id"], wanted)
                if pc.any(met).as_py():
                    yield from _group(shard, number, met, columns)


def _group(shard: Any, number: int, met: pa.ChunkedArray, wanted: Sequence[str]) -> list[dict[str, Any]]:
    held: dict[str, pa.ChunkedArray] = {}
    for name in dict.fromkeys(name.split(".")[0] for name in wanted):
        columns = [each for each in wanted if each.split(".")[0] == name]
        held[name] = shard.read_row_group(number, columns=columns).filter(met)[name]
    found: list[dict[str, Any]] = pa.table(held).to_pylist()
    return found


def _whole(row: dict[str, Any], side: int, most: int | None) -> dict[str, Any]:
    """A row with its picture, and nothing null that another program may have left so."""
    row["picture"] = _picture(row, side, most)
    row["dataset"], row["split"] = row["dataset"] or "", row["split"] or ""
    row["captions"] = [caption or "" for caption in row["captions"] or ()]
    row["objects"] = [
        {
            **item,
            "label": item["label"] or "",
            "raw_label": item["raw_label"] or "",
            **{edge: math.nan if item[edge] is None else item[edge] for edge in EDGES},
            "flags": item["flags"] or [],
        }
        for item in row["objects"] or ()
    ]
    return row


def _picture(row: dict[str, Any], side: int, most: int | None = None) -> Picture | None:
    """The picture of a row, whose `image` goes."""
    return thumbnail((row.pop("image") or {}).get("bytes"), side, most)


def chosen(shards: Iterable[Path], most: int) -> list[str]:
    """Ids of at most `most` images, such that each dataset and each class has some: datasets first, then
    classes, the commonest first, take turns.

    Each takes the images with the smallest hash of their id, so neither shards nor their order matter.
    """
    datasets: dict[str, list[tuple[bytes, str]]] = {}
    classes: dict[str, list[tuple[bytes, str]]] = {}
    objects: Counter[str] = Counter()
    for path in shards:
        for batch in tables.batches(path, ("image_id", "dataset", "objects.list.element.label")):
            _keep(batch, most, datasets, classes, objects)
    order = sorted(classes, key=lambda name: (-objects[name], name))
    groups = [*(datasets[name] for name in sorted(datasets)), *(classes[name] for name in order)]
    taken: dict[str, None] = {}
    for turn in range(most):
        for group in groups:
            if turn < len(group) and len(taken) < most:
                taken.setdefault(group[turn][1])
    return list(taken)


def _keep(
    batch: pa.RecordBatch,
    most: int,
    datasets: dict[str, list[tuple[bytes, str]]],
    classes: dict[str, list[tuple[bytes, str]]],
    objects: Counter[str],
) -> None:
    """Add what a batch has to the `most` smallest of each group."""
    keyed = [
        (hashlib.blake2b(name.encode(), digest_size=8).digest(), name)
        for name in pc.fill_null(batch["image_id"], "").to_pylist()
    ]
    labels = pc.fill_null(pc.struct_field(pc.list_flatten(batch["objects"]), "label"), "")
    objects.update({each["values"]: each["counts"] for each in pc.value_counts(labels).to_pylist()})
    pairs = pa.table({"image": pc.list_parent_indices(batch["objects"]), "label": labels})
    once = pairs.group_by(["image", "label"], use_threads=False).aggregate([]).to_pydict()
    found: dict[tuple[int, str], list[tuple[bytes, str]]] = {}
    for row, name in enumerate(pc.fill_null(batch["dataset"], "").to_pylist()):
        found.setdefault((0, name), []).append(keyed[row])
    for row, name in zip(once["image"], once["label"], strict=True):
        found.setdefault((1, name), []).append(keyed[row])
    for (kind, name), held in found.items():
        groups = (datasets, classes)[kind]
        groups[name] = heapq.nsmallest(most, [*groups.get(name, ()), *held])


def thumbnail(data: bytes | None, side: int = SIDE, most: int | None = None) -> Picture | None:
    """An image as a JPEG whose longer side is at most `side` pixels, of at most `most` bytes if those
    are a few hundred.

    None where there are no bytes, no decoder, or more pixels than are decoded.
    """
    if data is None:
        return None
    try:
        image = rasters.open_image(data)
        if image is None or image.width * image.height > rasters.MAX_DECODED:
            return None
        width, height = image.size
        with rasters.decoding():
            image.draft("RGB", (side, side))
            small = image.convert("RGB")
            small.thumbnail((side, side))
            return Picture(_encoded(small, most), width, height)
    except OSError:
        return None


def _encoded(image: Image.Image, most: int | None) -> bytes:
    """At the best quality that fits; where none does, half as large."""
    for quality in _QUALITIES:
        held = io.BytesIO()
        image.save(held, "JPEG", quality=quality)
        if most is None or held.tell() <= most:
            return held.getvalue()
    if max(image.size) <= _LEAST:
        return held.getvalue()
    return _encoded(image.reduce(2), most)


class Palette:
    """The colour of each class: neighbours in the order given are far apart in hue."""

    def __init__(self, labels: Iterable[str]) -> None:
        self._numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}

    def number(self, label: str) -> int:
        """What stands for a class in the page; one that is met first here is added."""
        return self._numbers.setdefault(label, len(self._numbers))

    def style(self, label: str) -> str:
        """The attribute that gives an element the colour of a class."""
        return f'style="--h:{self.number(label) * _GOLDEN % 360:.0f}"'


def gallery(cards: Sequence[Mapping[str, Any]], palette: Palette, note: str = "") -> str:
    """Rows as cards, with chips that choose a dataset and a class of them. note: HTML above the chips."""
    datasets = Counter(row["dataset"] for row in cards)
    classes = Counter(label for row in cards for label in {item["label"] for item in row["objects"]})
    commonest = sorted(classes.items(), key=lambda item: (-item[1], item[0]))[:CHIPS]
    numbers = {name: number for number, name in enumerate(sorted(datasets))}
    first = [_chip("dataset", numbers[name], name, datasets[name]) for name in sorted(datasets)]
    second = [_chip("classes", palette.number(name), name, count, palette) for name, count in commonest]
    body = "\n".join(card(row, palette, numbers[row["dataset"]]) for row in cards)
    return (
        f"<div data-gallery>{note}"
        f'<div class="chips" role="group" aria-label="Dataset">{"".join(first)}</div>'
        f'<div class="chips" role="group" aria-label="Class">{"".join(second)}</div>'
        f'<p class="bar-of-matches"><span data-matches aria-live="polite">{len(cards)} images</span>'
        f'<button type="button" data-clear hidden>show all</button></p>'
        f'<div class="cards">{body}</div></div>'
    )


def _chip(kind: str, value: int, name: str, count: int, palette: Palette | None = None) -> str:
    shown = page.text(name)
    swatch = f'<span class="swatch" {palette.style(name)}></span>' if palette else ""
    return (
        f'<button type="button" aria-pressed="false" data-filter="{kind}" data-value="{value}" '
        f'data-name="{shown}">{swatch}{shown} <small>{count:,}</small></button>'
    )


def card(row: Mapping[str, Any], palette: Palette, dataset: int = 0) -> str:
    """An image with its boxes, its classes, its id and its captions. dataset: the number of its chip."""
    boxes = row["objects"]
    counts = Counter(item["label"] for item in boxes)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    legend = "".join(
        f'<button type="button" {_key(palette, name)}>'
        f'<span class="swatch" {palette.style(name)}></span>{page.text(name)} {counts[name]:,}</button>'
        for name in names[:LEGEND]
    )
    more = f"and {len(names) - LEGEND} more classes" if len(names) > LEGEND else ""
    shapes = _shapes(row)
    drawn = f"<br>{len(shapes):,} of {len(boxes):,} boxes are drawn" if len(boxes) > len(shapes) else ""
    texts = "".join(f"<li>{page.text(caption)}</li>" for caption in row["captions"][:CAPTIONS])
    label = f", {page.text(row['label'])}" if row["label"] else ""
    numbers = " ".join(str(palette.number(name)) for name in names)
    return (
        f'<figure class="card" data-light data-dataset="{dataset}" data-classes="{numbers}">'
        f"{canvas(row, _outlines(shapes, palette))}"
        f"<figcaption>{page.text(row['image_id'])}{label}{drawn}"
        f'<div class="legend">{legend}{more}</div><ol>{texts}</ol></figcaption></figure>'
    )


def canvas(row: Mapping[str, Any], marks: str) -> str:
    """The picture of a row, with marks over it: SVG in the pixels that its boxes are measured in. Where no
    picture is held the marks lie on empty ground."""
    wide, high = size(row)
    shape = f'style="aspect-ratio:{wide}/{high}"'
    ground = (
        f'<img alt="" {shape} loading="lazy" decoding="async" src="{page.picture(row["picture"].jpeg)}">'
        if row["picture"]
        else f"<i {shape}>no picture held</i>"
    )
    return (
        f'<div class="picture">{ground}<svg viewBox="0 0 {wide} {high}" preserveAspectRatio="none" '
        f'role="img" aria-label="{page.text(row["image_id"])} with its boxes">{marks}</svg></div>'
    )


def size(row: Mapping[str, Any]) -> tuple[int, int]:
    """Pixels across and down, as the row states them, else of the picture, else a square's."""
    held = row["picture"]
    return row["width"] or (held.width if held else 1000), row["height"] or (held.height if held else 1000)


def _shapes(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, outline) of the boxes that are drawn over a thumbnail, the largest first."""
    tolerance = max(size(row)) / SIDE / 2
    found, length = [], 0
    for item in sorted(row["objects"], key=lambda item: -area(item)):
        shape = outline(item, tolerance)
        length += len(shape)
        if length > OUTLINES:
            break
        if shape:
            found.append((item["label"], shape))
    return found


def _outlines(shapes: Iterable[tuple[str, str]], palette: Palette) -> str:
    """Boxes as one path a class, the class with the largest below: a pointer reaches the small ones."""
    paths: dict[str, list[str]] = {}
    for label, shape in shapes:
        paths.setdefault(label, []).append(shape)
    return "".join(
        f'<path {_key(palette, label)} {palette.style(label)} d="{"".join(each)}">'
        f"<title>{page.text(label)}</title></path>"
        for label, each in paths.items()
    )


def _key(palette: Palette, label: str) -> str:
    return 'data-on="c{0}" data-key="c{0}"'.format(palette.number(label))


def outline(item: Mapping[str, Any], tolerance: float) -> str:
    """The polygon of an object, or its box, as SVG path data; "" where a number is not finite.

    tolerance: pixels by which a polygon of more than eight corners may be simplified.
    """
    points = item["polygon"]
    if not points or len(points) < 6 or len(points) % 2:
        xmin, ymin, xmax, ymax = (item[edge] for edge in EDGES)
        points = [xmin, ymin, xmax, ymin, xmax, ymax, xmin, ymax]
    corners = np.array(points, np.float32).reshape(-1, 2)
    if not (np.abs(corners) < _FARTHEST).all():
        return ""
    if len(corners) > 8:
        import cv2

        corners = np.asarray(cv2.approxPolyDP(corners, tolerance, closed=True), np.float32).reshape(-1, 2)
    digits = 1 if tolerance <= 1 else 0
    return f"M{'L'.join(f'{_short(x, digits)} {_short(y, digits)}' for x, y in corners)}Z"


def area(item: Mapping[str, Any]) -> float:
    """Square pixels, 0 where a number is not finite: what is sorted by it needs an order."""
    xmin, ymin, xmax, ymax = (item[edge] for edge in EDGES)
    area = (xmax - xmin) * (ymax - ymin)
    return area if math.isfinite(area) else 0.0


def _short(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".removesuffix(".0")
