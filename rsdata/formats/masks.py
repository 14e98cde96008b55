"""Class masks: one raster an image; each 8-connected region of a class becomes a Box (M2B).

A mask of one band, or with a palette, is read as indices and never turned into colours: the raw label of
index 2 is "2" (LoveDA). A mask of three or four bands is read by colour: the raw label of blue is
"0,0,255" (ISPRS Potsdam, Vaihingen), each channel within `tolerance` of the recipe's colour. What the
recipe lists under `ignore` (no-data, background, clutter, impervious surface) makes no Box.

Beside the class mask there may be one of instances (iSAID: `P0002_instance_id_RGB.png`), whose colours are
ids, R + 256 G + 65536 B: an instance, touching others or in several parts, is one Box then. Source:
iSAID_Devkit, preprocess.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rsdata import rasters
from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.mask_to_box import instance_regions, regions
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
ALIGNED = True
NUMERIC = True
LAYOUTS = [
    ("images/**.*", "masks/**.*"),
    ("images/**.*", "labels/**.*"),
    ("**/images/*.*", "**/masks/*.*"),
    ("img_dir/**.*", "ann_dir/**.*"),
]
_UNKNOWN = 0xFFFF
_Mask = np.ndarray[Any, Any]


def read(
    root: Path,
    path: str,
    classes: Classes,
    min_area: int = 1,
    tolerance: int = 8,
    instances: str = "",
    window: Sequence[int] | None = None,
) -> Iterator[Record | Rejection]:
    """The Record of one mask, or of a part of it; `cover` is the share of each class in its pixels.

    min_area: regions of fewer pixels are dropped (E12). tolerance: per channel, of 255. instances: the mask
    of ids, if any. window: x, y, width, height in pixels. Pixels of no known value count as ignored: over 1 %
    of them is noted, over 20 % rejects the image (E21). Raises AnnotationError where a mask cannot be read.
    """
    try:
        mask, labels, strays = _classes(rasters.pixels(root / path, window), classes, tolerance)
        ids = _ids(rasters.pixels(root / instances, window), mask) if instances else None
    except (OSError, ValueError) as error:
        raise AnnotationError(path, 0, f"mask cannot be read: {error}") from error
    stray = sum(strays.values())
    if stray > 0.01 * mask.size:
        common = ", ".join(f"{value} ({count} px)" for value, count in strays.most_common(3))
        why = f"{100 * stray / mask.size:.1f} % of the pixels have no class of the recipe: {common}"
        if stray > 0.2 * mask.size:
            raise AnnotationError(path, 0, why, "E21")
        yield Rejection("repaired", "E21", path, 0, "", why + "; ignored")
    boxes = []
    values = sorted(labels)
    found = regions(mask, values, min_area > 1) if ids is None else instance_regions(mask, ids, values)
    for region in found:
        if min_area > 1 and region.area < min_area:
            why = f"region of {region.area} px, less than min_area {min_area}"
            yield Rejection("dropped", "E12", path, 0, "", f"{labels[region.value]}: {why}")
            continue
        raw = labels[region.value]
        edges = (float(region.xmin), float(region.ymin), float(region.xmax), float(region.ymax))
        boxes.append(Box(classes[raw], raw, *edges))
    height, width = mask.shape
    cover = _cover(mask, {value: classes[raw] for value, raw in labels.items()})
    yield Record("", boxes, width, height, annotation=path, lines=[0] * len(boxes), cover=cover)


def _classes(pixels: _Mask, classes: Classes, tolerance: int) -> tuple[_Mask, dict[int, str], Counter[str]]:
    """(mask of values, raw label of each value that makes boxes, pixels of no known value)."""
    if pixels.ndim == 2:
        return _by_index(pixels, classes)
    if pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
        raise ValueError(f"{pixels.shape[2]} bands of {pixels.dtype}; expected one, or colours of 8 bits")
    return _by_colour(pixels, classes, tolerance)


def _ids(pixels: _Mask, mask: _Mask) -> _Mask:
    """The instance of each pixel, 0 where there is none."""
    if pixels.shape[:2] != mask.shape:
        raise ValueError(f"the masks of classes and of instances differ: {mask.shape}, {pixels.shape[:2]}")
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    return np.asarray(pixels[..., :3].astype(np.int64) @ np.array([1, 256, 65536]))


def _cover(mask: _Mask, nouns: Mapping[int, str]) -> list[tuple[str, float]]:
    """(noun, share of the pixels), largest first."""
    shares = Counter[str]()
    for value, noun in nouns.items():
        shares[noun] += int(np.count_nonzero(mask == value))
    held = ((noun, float(count / mask.size)) for noun, count in shares.items() if count)
    return sorted(held, key=lambda item: (-item[1], item[0]))


def _by_index(mask: _Mask, classes: Classes) -> tuple[_Mask, dict[int, str], Counter[str]]:
    if mask.dtype.kind not in "uib":
        raise ValueError(f"a mask of {mask.dtype}; expected integers")
    values, counts = _histogram(mask)
    labels, strays = {}, Counter[str]()
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        raw = str(int(value))
        if classes.ignores(raw):
            continue
        if classes[raw]:
            labels[value] = raw
        else:
            strays[raw] += count
    return mask, labels, strays


def _histogram(mask: _Mask) -> tuple[_Mask, _Mask]:
    """(values, their counts): of few bits by counting, which is ten times as fast as sorting."""
    if mask.dtype.itemsize > 2 or mask.dtype.kind != "u":
        return np.unique(mask, return_counts=True)
    counts = np.bincount(mask.ravel())
    values = np.flatnonzero(counts)
    return values, counts[values]


def _by_colour(pixels: _Mask, classes: Classes, tolerance: int) -> tuple[_Mask, dict[int, str], Counter[str]]:
    known = [raw for raw in (*classes, *classes.ignored) if raw.count(",") == 2]
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        # Indices saved as grey: 2,2,2 must not pass for a black that is ignored.
        indices = _by_index(pixels[..., 0], classes)
        if not known or not indices[2]:
            return indices
    if not known:
        raise ValueError("a colour mask, but the recipe names no colour such as '0,0,255'")
    table = _colour_table(tuple(known), tolerance)
    mask = table[pixels[..., 0], pixels[..., 1], pixels[..., 2]]
    unknown = pixels[mask == _UNKNOWN][:, :3]
    strays = Counter[str]()
    if len(unknown):
        strays[",".join(map(str, unknown[0].tolist()))] = len(unknown)
    labels = {index: raw for index, raw in enumerate(known) if not classes.ignores(raw)}
    return mask, labels, strays


@lru_cache(maxsize=1)
def _colour_table(known: tuple[str, ...], tolerance: int) -> _Mask:
    """(256, 256, 256) uint16: the index in `known` of each colour's name, _UNKNOWN where it has none."""
    table = np.full((256, 256, 256), _UNKNOWN, dtype=np.uint16)
    for index, raw in enumerate(known):
        red, green, blue = (
            slice(max(0, int(channel) - tolerance), int(channel) + tolerance + 1)
            for channel in raw.split(",")
        )
        table[red, green, blue] = index
    return table


def write(path: Path, mask: _Mask, raw_labels: Sequence[str], background: str = "0") -> None:
    """A mask file. mask: (height, width) of indices into `raw_labels`, -1 for `background`."""
    from PIL import Image

    names = [*raw_labels, background]
    if "," in background:
        colours = np.array([[int(channel) for channel in raw.split(",")] for raw in names], dtype=np.uint8)
    else:
        colours = np.array([int(raw) for raw in names], dtype=np.uint8)
    Image.fromarray(colours[mask]).save(path)


def write_instances(path: Path, ids: _Mask) -> None:
    """A mask of instances. ids: (height, width) integers below 2**24, 0 for none."""
    from PIL import Image

    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(colours.astype(np.uint8)).save(path)
