"""What the readers of JSON share: the whole file as a value, numbers that are numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rsdata import files
from rsdata.errors import AnnotationError
from rsdata.files import Element
from rsdata.records import Rejection


def document(root: Path, path: str) -> tuple[dict[str, Any], list[Rejection]]:
    """A JSON object, and the note on its encoding. Raises AnnotationError (E01) at the line where it ends."""
    text, encoding = files.read_text(root, path)
    try:
        value = json.loads(files.without_lone_surrogates(text))
    except json.JSONDecodeError as error:
        raise AnnotationError(path, error.lineno, f"not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise AnnotationError(path, 0, f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise AnnotationError(path, 0, f"expected an object, not {type(value).__name__}")
    return value, list(files.foreign(path, encoding))


def elements(root: Path, path: str) -> tuple[dict[str, list[Element]], list[Rejection]]:
    """The elements of each array of a JSON object by key (files.scan_json), and the note on its encoding."""
    text, encoding = files.read_text(root, path, files.ELEMENTS)
    found: dict[str, list[Element]] = {}
    for element in files.scan_json(text, path):
        held = found.setdefault(element.key, [])
        if element.index >= 0:
            held.append(element)
    return found, list(files.foreign(path, encoding))


def number(value: Any) -> float:
    """A JSON number as a float. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{_short(value)} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number of too many digits") from None


def points(value: Any) -> list[float]:
    """An array of numbers, or of pairs of them, as x1, y1, x2, y2 … Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{_short(value)} is no array of points")
    flat: list[Any] = []
    for item in value:
        flat.extend(item if isinstance(item, list) else [item])
    if len(flat) % 2:
        raise ValueError(f"{len(flat)} coordinates, expected pairs")
    return [number(item) for item in flat]


def extremes(flat: Sequence[float]) -> tuple[float, float, float, float]:
    """xmin, ymin, xmax, ymax of x1, y1, x2, y2 …"""
    return min(flat[0::2]), min(flat[1::2]), max(flat[0::2]), max(flat[1::2])


def dropped(path: str, place: int, error: Exception, element: str) -> Iterator[Rejection]:
    """The Rejection of an object that does not parse: E06 for numbers, else E05."""
    why = f"no {error}" if isinstance(error, KeyError) else str(error)
    code = "E06" if "number" in why else "E05"
    yield Rejection("dropped", code, path, place, "", why, element)


def text(value: Any, what: str) -> str:
    """A text that is not blank. Raises ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"no {what}")
    return value


def side(value: Any) -> int | None:
    """A width or height in pixels, None where it is none."""
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value < 2**31
    return int(value) if whole else None


def _short(value: Any) -> str:
    return repr(value)[:40]
