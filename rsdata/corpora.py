"""Corpora: many datasets under one root as one table, and their counts beside those of a paper's table.

title = "…"                        # as in a recipe, with homepage, licence, citation
datasets = ["rsicd", "dota"]       # recipes; of each the splits that its [paper] counts
total = 165745                     # images, as the paper states their sum
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rsdata import places, recipes
from rsdata.convert import Part
from rsdata.detect import fits
from rsdata.errors import RecipeError
from rsdata.files import Dump
from rsdata.plan import Plan
from rsdata.recipes import Recipe

_TEXTS = ("title", "homepage", "licence", "citation")
_KEYS = (*_TEXTS, "datasets", "total")
_UNSPLIT = "unsplit"


@dataclass(frozen=True)
class Corpus:
    """Datasets that make one table. total: images, as its paper states their sum."""

    name: str
    datasets: Sequence[Recipe]
    facts: Mapping[str, str]
    total: int


class Missing(NamedTuple):
    """A dataset of a corpus that is not under the root. why: what is there instead, if anything."""

    recipe: Recipe
    why: str


def names() -> list[str]:
    """All shipped corpora, by name."""
    return sorted(path.stem for path in (places.recipes() / "corpora").glob("*.toml"))


def load(name: str) -> Corpus:
    """A shipped corpus. Raises RecipeError: no such corpus, or its file is wrong."""
    path = places.recipes() / "corpora" / f"{name}.toml"
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        raise RecipeError(f"no corpus {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    if unknown := raw.keys() - set(_KEYS):
        raise RecipeError(f"corpus {name}: {min(unknown)!r} is not known; known: {', '.join(_KEYS)}")
    facts = {key: str(raw.get(key, "")) for key in _TEXTS}
    return Corpus(name, [recipes.load(each) for each in raw["datasets"]], facts, int(raw.get("total", 0)))


def find(
    corpus: Corpus, root: Path, splits: Sequence[str] = (), annotations_only: bool = False
) -> tuple[list[Part], list[Missing]]:
    """The datasets of a corpus that lie in folders of `root` named after them, and those that do not.

    splits: which to convert; without: those that the paper counts. Raises RecipeError where two folders hold
    the same dataset.
    """
    if not root.is_dir():
        raise RecipeError(f"{root}: no such folder")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts, missing = [], []
    for recipe in corpus.datasets:
        fitting, why = [], ""
        for folder in folders:
            if _is_named(folder.name, recipe):
                reason = _misfit(recipe, folder, annotations_only)
                why = why or reason
                fitting += [] if reason else [folder]
        if len(fitting) > 1:
            both = " and ".join(path.name for path in fitting)
            raise RecipeError(f"{root}: {both} both hold {recipe.name}: move one away")
        wanted = _wanted(recipe, splits)
        if not fitting:
            missing.append(Missing(recipe, why))
        elif splits and not wanted:
            missing.append(Missing(recipe, f"it has no split {', '.join(splits)}"))
        else:
            parts.append(Part(recipe, fitting[0], wanted))
    return parts, missing


def _wanted(recipe: Recipe, splits: Sequence[str]) -> list[str]:
    if splits:
        return [split for split in splits if split in recipe.splits or "*" in recipe.splits]
    counted = list(recipe.paper.get("splits", ()))
    return [*counted, _UNSPLIT] if counted and _UNSPLIT in recipe.splits else counted


def _is_named(folder: str, recipe: Recipe) -> bool:
    """Whether a folder's name holds the recipe's, or one of those that publishers give it."""
    loose = _loose(folder)
    return any(_loose(name) in loose for name in (recipe.name, *recipe.folders))


def _loose(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _misfit(recipe: Recipe, folder: Path, annotations_only: bool) -> str:
    """Why a folder is no dump of a recipe, "" if it is one."""
    try:
        dump = Dump(folder)
        Plan(recipe, dump, annotations_only=annotations_only)
    except RecipeError as error:
        return str(error)
    return (
        ""
        if fits(recipe, dump, annotations_only)
        else f"{folder}: its annotations are not those of {recipe.name}"
    )


def told(missing: Sequence[Missing]) -> Iterator[str]:
    """A line for each dataset that is not there, with where it comes from."""
    for recipe, why in missing:
        yield f"missing: {recipe.name} ({recipe.title}): {recipe.homepage}"
        if why:
            yield f"  {why}"


def lines(corpus: Corpus, datasets: Mapping[str, Any]) -> Iterator[str]:
    """A table of what was found and written beside what the paper counts.

    datasets: as in the manifest. The paper's own sum is given beside the total that it prints.
    """
    yield f"{'dataset':<25}{'images':>10}{'written':>10}{'paper':>10}{'objects':>12}{'paper':>12}"
    sums = [0] * 5
    for recipe in corpus.datasets:
        held = datasets.get(recipe.name, {})
        images, objects = held.get("images", {}), held.get("objects", {})
        paper = recipe.paper
        numbers = [images.get("found", 0), images.get("written", 0), paper.get("images", 0)]
        numbers += [objects.get("written", 0), paper.get("boxes", 0)]
        sums = [one + other for one, other in zip(sums, numbers, strict=True)]
        yield _line(recipe.name if held else f"{recipe.name} (missing)", numbers)
    yield _line("sum", sums)
    if corpus.total and corpus.total != sums[2]:
        yield f"the paper states {corpus.total:,} images; the rows of its table sum to {sums[2]:,}"


def _line(name: str, numbers: Sequence[int]) -> str:
    widths = (10, 10, 10, 12, 12)
    cells = (f"{number:>{width},}" for number, width in zip(numbers, widths, strict=True))
    return f"{name:<25}{''.join(cells)}"
