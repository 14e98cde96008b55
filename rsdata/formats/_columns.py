"""Lines of delimited columns, read and written by a profile: the names of the columns, in their order.

    xmin ymin xmax ymax | left top width height | cx cy width height    edges, in pixels
    x1 y1 x2 y2 x3 y3 …                                                 corners, in any order of columns
    class                                                               the raw label
    difficult truncated occluded generated                              flags, where above 0
    score lost                                                          ignored: score 0, lost above 0
    frame                                                               number of the image in its film
    -                                                                   not used

A name that ends in `?` may be missing, and so may all that follow. Of several profiles a line is of the one
that has as many columns; those of the same length are hypotheses, and `settled` finds the one that holds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsdata import files, rasters
from rsdata.classes import Classes
from rsdata.errors import RecipeError
from rsdata.formats._fields import numbers, text
from rsdata.records import Box, Rejection

_EDGES = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "width", "height"),
    ("cx", "cy", "width", "height"),
)
_FLAGS = ("difficult", "truncated", "occluded", "generated")
_KNOWN = {*(name for names in _EDGES for name in names), *_FLAGS, "class", "score", "lost", "frame", "-"}


class Line(NamedTuple):
    """One object. frame: -1 where the profile has none."""

    number: int
    frame: int
    box: Box


class Profile:
    """A profile, parsed. Raises RecipeError where it names no column that is known, or no box."""

    def __init__(self, fields: str) -> None:
        self.names = [name.rstrip("?") for name in fields.split()]
        self.least = next((i for i, name in enumerate(fields.split()) if name.endswith("?")), len(self.names))
        corners = sorted((int(name[1:]), name[0]) for name in self.names if re.fullmatch(r"[xy]\d+", name))
        self.corners = [f"{axis}{number}" for number, axis in corners]
        unknown = [name for name in self.names if name not in _KNOWN and name not in self.corners]
        if unknown:
            raise RecipeError(
                f"fields {fields!r}: {unknown[0]!r} is not known; known: {' '.join(sorted(_KNOWN))} x1 y1 …"
            )
        self.edges = next((names for names in _EDGES if set(names) <= set(self.names)), None)
        if "class" not in self.names or (self.edges is None and len(self.corners) < 6):
            raise RecipeError(
                f"fields {fields!r}: expected class, and edges (such as xmin ymin xmax ymax) or corners"
            )
        self._numeric = [i for i, name in enumerate(self.names) if name not in ("class", "-")]

    def box(self, fields: Sequence[str], classes: Classes, base: int) -> tuple[int, Box]:
        """(frame, Box) of a line. Raises ValueError for what is no number."""
        places = [place for place in self._numeric if place < len(fields)]
        found = numbers([fields[place] for place in places])
        values = {self.names[place]: value for place, value in zip(places, found, strict=True)}
        raw = _label(fields[self.names.index("class")])
        flags = tuple(flag for flag in _FLAGS if values.get(flag, 0) > 0)
        if values.get("score", 1) == 0 or values.get("lost", 0) > 0:
            flags = (*flags, "ignored")
        polygon = [values[name] - base for name in self.corners] or None
        if self.edges is None and polygon:
            xs, ys = polygon[0::2], polygon[1::2]
            edges = (min(xs), min(ys), max(xs), max(ys))
        else:
            edges = _edges(self.edges, values, base)
        return int(values.get("frame", -1)), Box(classes[raw], raw, *edges, polygon, flags)

    def line(self, box: Box, frame: int, base: int, separator: str) -> str:
        """A Box as a line."""
        corners = (box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax)
        points = box.polygon if box.polygon is not None and len(box.polygon) == len(self.corners) else corners
        width, height = box.xmax - box.xmin, box.ymax - box.ymin
        values: dict[str, Any] = {
            "xmin": box.xmin + base, "ymin": box.ymin + base, "xmax": box.xmax, "ymax": box.ymax,
            "left": box.xmin + base, "top": box.ymin + base, "width": width, "height": height,
            "cx": (box.xmin + box.xmax) / 2, "cy": (box.ymin + box.ymax) / 2,
            "score": 1, "frame": frame, **{flag: int(flag in box.flags) for flag in _FLAGS},
            **dict(zip(self.corners, (value + base for value in points), strict=False)),
        }  # fmt: skip
        label = f'"{box.raw_label}"' if " " in box.raw_label else box.raw_label
        return separator.join(label if name == "class" else text(values.get(name, 0)) for name in self.names)


def _label(field: str) -> str:
    """A class as its text; a number without its fraction. Raises ValueError where it has one."""
    try:
        value = float(field)
    except ValueError:
        return field
    if value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise ValueError(f"class is {field}, not a whole number")
    return str(int(value))


def _edges(
    names: Sequence[str] | None, values: Mapping[str, float], base: int
) -> tuple[float, float, float, float]:
    a, b, c, d = (values[name] for name in names or ())
    if names == _EDGES[0]:
        return a - base, b - base, c, d
    if names == _EDGES[1]:
        return a - base, b - base, a - base + c, b - base + d
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


def split(line: str, separators: str) -> list[str]:
    """The fields of a line: between one separator empty ones count, but at the end; quotes are taken off."""
    if len(separators) == 1 and not separators.isspace():
        fields = [field.strip().strip('"') for field in line.split(separators)]
        while fields and not fields[-1]:
            fields.pop()
        return fields
    for separator in separators:
        line = line.replace(separator, " ")
    if '"' in line:
        try:
            return shlex.split(line)
        except ValueError:
            pass
    return line.split()


def lines(
    root: Path,
    path: str,
    classes: Classes,
    fields: str | list[Any],
    separators: str,
    base: int,
    step: int = 1,
) -> Iterator[Line | Rejection]:
    """The objects of a file, and a Rejection for each line that does not parse (E05, E06).

    step: of the lines of a film, only those of every step-th frame.
    """
    content, encoding = files.read_text(root, path)
    yield from files.foreign(path, encoding)
    profiles = parsed(fields)
    for number, line in enumerate(content.split("\n"), 1):
        values = split(line, separators)
        if not values:
            continue
        profile = next((one for one in profiles if one.least <= len(values) <= len(one.names)), None)
        if profile is None:
            wanted = " or ".join(" ".join(one.names) for one in profiles)
            yield Rejection("dropped", "E05", path, number, "", f"{len(values)} fields, expected {wanted}")
            continue
        try:
            frame, box = profile.box(values, classes, base)
        except (ValueError, OverflowError) as error:
            yield Rejection("dropped", "E06", path, number, "", str(error))
            continue
        if step == 1 or frame % step == 0:
            yield Line(number, frame, box)


def parsed(fields: str | list[Any]) -> list[Profile]:
    """The profiles of a recipe. Raises RecipeError as Profile."""
    return [Profile(str(one)) for one in (fields if isinstance(fields, list) else [fields])]


def settled(
    root: Path, pairs: Sequence[tuple[str, str]], options: Mapping[str, Any], classes: Classes
) -> dict[str, Any]:
    """The options with one profile of each length: that under which every line of the dump makes sense.

    A line does where the recipe knows its class and its box lies inside the image. Raises RecipeError where
    none or several of the hypotheses do: it is not guessed.
    """
    fields = options.get("fields")
    hypotheses = [str(one) for one in fields] if isinstance(fields, list) else []
    by_length: dict[int, list[str]] = {}
    for one in hypotheses:
        by_length.setdefault(len(one.split()), []).append(one)
    chosen = []
    for same in by_length.values():
        fits = [(0, 0)] if len(same) == 1 else [_fit(root, pairs, one, options, classes) for one in same]
        whole = [one for one, (good, seen) in zip(same, fits, strict=True) if good == seen]
        if len(whole) != 1:
            told = "; ".join(
                f"{one!r} fits {good} of {seen} lines" for one, (good, seen) in zip(same, fits, strict=True)
            )
            hint = 'Say it: --option fields="…"'
            raise RecipeError(f"what the columns mean is not known, and not guessed: {told}. {hint}")
        chosen += whole
    return {**options, "fields": chosen} if chosen else dict(options)


def _extent(image: Path | None) -> tuple[float, float]:
    """Width and height of an image, infinite where it cannot be opened."""
    try:
        return rasters.size(image) if image else (float("inf"), float("inf"))
    except OSError:
        return float("inf"), float("inf")


def _fit(
    root: Path, pairs: Sequence[tuple[str, str]], fields: str, options: Mapping[str, Any], classes: Classes
) -> tuple[int, int]:
    """(lines that make sense, lines) of a hypothesis."""
    good = seen = 0
    profile = Profile(fields)
    for path, image in pairs:
        width, height = _extent(root / image if image else None)
        for line in files.read_text(root, path)[0].split("\n"):
            values = split(line, str(options.get("separators", "")))
            if not profile.least <= len(values) <= len(profile.names):
                continue
            seen += 1
            try:
                _, box = profile.box(values, classes, int(options.get("base", 0)))
            except (ValueError, OverflowError):
                continue
            inside = 0 <= box.xmin < box.xmax <= width and 0 <= box.ymin < box.ymax <= height
            good += inside and bool(box.label or classes.ignores(box.raw_label))
    return good, seen
