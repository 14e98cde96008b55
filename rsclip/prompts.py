"""Prompts of zero-shot classification: sentences around a class name, one TOML file a set.

title = "…"
source = "where they are from"
ensemble = "normalised"           # or "raw": how the features of a class's sentences are averaged
templates = ["a {view} of {}."]   # {} is the class name; {view} stands for each of its words in turn
[words]
view = ["satellite photo", "aerial image"]
"""

from __future__ import annotations

import difflib
import tomllib
from itertools import product
from pathlib import Path
from typing import NamedTuple

from rsdata import places
from rsdata.errors import RecipeError

ENSEMBLES = ("normalised", "raw")


class Prompts(NamedTuple):
    """A set of prompts. templates: each with one {} for the class name."""

    name: str
    templates: list[str]
    ensemble: str


def names() -> list[str]:
    """The shipped sets."""
    return sorted(path.stem for path in (places.recipes() / "prompts").glob("*.toml"))


def load(name: str) -> Prompts:
    """A shipped set by name, or any by its file's path.

    Raises RecipeError where there is none (with the nearest name), or the file is not as it should be.
    """
    path = Path(name) if name.endswith(".toml") else places.recipes() / "prompts" / f"{name}.toml"
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names())}"
        raise RecipeError(f"no prompts {name!r}{hint} (or give a .toml file)") from error
    except ValueError as error:
        raise RecipeError(f"prompts {path}: not valid TOML: {error}") from error
    if unknown := held.keys() - {"title", "source", "ensemble", "templates", "words"}:
        raise RecipeError(f"prompts {path}: {min(unknown)!r} is not known")
    texts, words = held.get("templates", []), held.get("words", {})
    if not isinstance(words, dict) or not all(map(_is_texts, (texts, *words.values()))):
        raise RecipeError(f"prompts {path}: templates and each of [words] are lists of strings")
    ensemble = held.get("ensemble", ENSEMBLES[0])
    if ensemble not in ENSEMBLES:
        raise RecipeError(f"prompts {path}: ensemble = {ensemble!r}, expected {' or '.join(ENSEMBLES)}")
    templates = [each for text in texts for each in _filled(text, words)]
    wrong = [text for text in templates if text.count("{}") != 1 or text.count("{") != 1]
    if wrong or not templates:
        raise RecipeError(
            f"prompts {path}: each template has one {{}} for the class, not {wrong[:1] or 'none'}"
        )
    return Prompts(path.stem, list(dict.fromkeys(templates)), ensemble)


def _is_texts(held: object) -> bool:
    return isinstance(held, list) and all(isinstance(text, str) for text in held)


def _filled(template: str, words: dict[str, list[str]]) -> list[str]:
    used = [key for key in words if f"{{{key}}}" in template]
    filled = []
    for chosen in product(*(words[key] for key in used)):
        text = template
        for key, word in zip(used, chosen, strict=True):
            text = text.replace(f"{{{key}}}", word)
        filled.append(text)
    return filled
