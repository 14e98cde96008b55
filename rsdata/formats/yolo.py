"""YOLO txt (Ultralytics, Darknet): one file an image, coordinates as shares of its width and height.

    0 0.5 0.5 0.2 0.1                                  class, centre, size
    0 0.78 0.74 0.79 0.75 0.77 0.76                    class, corners of a segment
    0 0.78 0.74 0.79 0.75 0.77 0.76 0.76 0.75          class, four corners: an oriented box

Names come from `names` of a data.yaml (a list or a table), or from classes.txt, obj.names or another *.names,
in the folder of the labels or above; without them the label is the number. An image without a file, or with
an empty one, holds no object. Six values are a prediction with its confidence, which is not read. Sources:
the Ultralytics documentation, Darknet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsdata import files, places, rasters
from rsdata.classes import Classes
from rsdata.errors import AnnotationError, RecipeError
from rsdata.formats._fields import numbers, tidy
from rsdata.records import Box, Record, Rejection

ONE_FILE = "image"
BACKGROUND = True
LAYOUTS = [
    ("images/{split}/**.*", "labels/{split}/**.txt"),
    ("{split}/images/**.*", "{split}/labels/**.txt"),
    ("images/**.*", "labels/**.txt"),
    ("**.*", "**.txt"),
]
_NAMES = ("data.yaml", "dataset.yaml", "*.yaml", "*.yml", "classes.txt", "obj.names", "*.names")
_LARGEST = 1 << 20
_STEP = 2.0**-36
"""Finer than float32, coarser than the noise of dividing by an image's side and multiplying again."""
_NO_LABELS = re.compile(r"(classes|obj|train|val|valid|test|readme[^/]*|notes|labels)\.txt", re.IGNORECASE)


def ASIDE(path: str) -> bool:  # noqa: N802  # an attribute of the format, as the others
    """Whether a file among the labels is a list of names or images."""
    return bool(_NO_LABELS.fullmatch(path.rsplit("/", 1)[-1]))


def prepare(
    root: Path, pairs: Sequence[tuple[str, str]], options: Mapping[str, Any], classes: Classes
) -> dict[str, Any]:
    """The options with `names`, unless they are given: those of the nearest file above the labels.

    Raises RecipeError where that file cannot be read.
    """
    if options.get("names") or not pairs:
        return dict(options)
    folder = (root / pairs[0][0]).parent
    while folder.is_relative_to(root):
        for pattern in _NAMES:
            for path in sorted(folder.glob(pattern), key=str):
                if _is_inside(path, root) and path.is_file() and (names := _names(path)):
                    return {**options, "names": names}
        if folder == root:
            break
        folder = folder.parent
    return dict(options)


def _is_inside(path: Path, root: Path) -> bool:
    """Whether a file is one of the dump: no link that leaves it."""
    return not places.is_local(path) or files.leads_into(path, root.resolve())


def _names(path: Path) -> list[str]:
    """The names in order, [] where the file has none."""
    if path.stat().st_size > _LARGEST:
        raise RecipeError(f"{path}: more than {_LARGEST} bytes, no list of class names")
    content, _ = files.decode(path.read_bytes())
    if path.suffix in (".txt", ".names"):
        return [line.strip() for line in content.splitlines() if line.strip()]
    import yaml

    if re.search(r"(?m)(^|[\s:\[{,-])[&*]\w", content):
        raise RecipeError(f"{path}: YAML anchors are refused")
    try:
        value = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    names = value.get("names") if isinstance(value, dict) else None
    if isinstance(names, dict) and names and all(type(key) is int and 0 <= key < _LARGEST for key in names):
        return [str(names.get(index, index)) for index in range(max(names) + 1)]
    return [str(name) for name in names] if isinstance(names, list) else []


def read(
    root: Path,
    path: str,
    classes: Classes,
    names: list = [],  # type: ignore[type-arg]  # noqa: B006
    image: str = "",
) -> Iterator[Record | Rejection]:
    """The Record of one label file; a line that does not parse is dropped (E05, E06).

    names: of the classes, in their order. image: whose size the shares are of. Raises AnnotationError where
    that is not there or cannot be opened.
    """
    content, encoding = files.read_text(root, path)
    yield from files.foreign(path, encoding)
    if not image:
        raise AnnotationError(path, 0, "coordinates are shares of the image, whose size is needed", "E35")
    try:
        width, height = rasters.size(root / image)
    except OSError as error:
        raise AnnotationError(path, 0, f"{image}: cannot be opened for its size: {error}", "E35") from error
    boxes, lines = [], []
    for number, line in enumerate(content.split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
            hint = " (6 are a prediction with its confidence)" if len(fields) == 6 else ""
            why = f"{len(fields)} values, expected class cx cy w h, or class x1 y1 x2 y2 x3 y3 …{hint}"
            yield Rejection("dropped", "E05", path, number, "", why)
            continue
        try:
            index, *shares = numbers(fields)
            raw = _label(index, names)
            if any(share < -1 or share > 2 for share in shares):
                raise ValueError("not numbers from 0 to 1: coordinates are shares of the image")
        except (ValueError, OverflowError) as error:
            yield Rejection("dropped", "E06", path, number, "", str(error))
            continue
        boxes.append(_box(classes[raw], raw, shares, width, height))
        lines.append(number)
    yield Record("", boxes, annotation=path, lines=lines)


def _label(index: float, names: Sequence[str]) -> str:
    if index != int(index) or index < 0:
        raise ValueError(f"class {index:g} is not a number from 0")
    return str(names[int(index)]) if index < len(names) else str(int(index))


def _box(label: str, raw: str, shares: Sequence[float], width: int, height: int) -> Box:
    if len(shares) == 4:
        cx, cy, w, h = shares
        edges = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        xmin, ymin, xmax, ymax = (tidy(edge, _STEP) for edge in edges)
        return Box(label, raw, xmin, ymin, xmax, ymax)
    flat = [tidy(share * (height if place % 2 else width), _STEP) for place, share in enumerate(shares)]
    xs, ys = flat[0::2], flat[1::2]
    return Box(label, raw, min(xs), min(ys), max(xs), max(ys), flat)


def write(
    path: Path,
    records: Sequence[Record],
    names: list,  # type: ignore[type-arg]
) -> None:
    """One Record as a label file, segments where there are polygons."""
    record = records[0]
    width, height = record.width or 1, record.height or 1
    lines = []
    for box in record.boxes:
        if box.polygon:
            shares = [value / (height if place % 2 else width) for place, value in enumerate(box.polygon)]
        else:
            centre = ((box.xmin + box.xmax) / 2 / width, (box.ymin + box.ymax) / 2 / height)
            shares = [*centre, (box.xmax - box.xmin) / width, (box.ymax - box.ymin) / height]
        lines.append(" ".join([str(names.index(box.raw_label)), *(repr(share) for share in shares)]))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def accompany(folder: Path, names: Sequence[str]) -> list[str]:
    """Write the data.yaml of a dump, and return the files written, relative to it."""
    import yaml

    (folder / "data.yaml").write_text(
        yaml.safe_dump({"nc": len(names), "names": list(names)}), encoding="utf-8"
    )
    return ["data.yaml"]
