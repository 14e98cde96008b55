"""Which recipe or format a dump is of, judged by its layout and by what a few of its annotations say.

A recipe fits where its patterns find images with annotations, and where most labels of the first of them are
its own. Recipes come before bare formats, and class folders, which fit nearly any tree of images, come last;
among equals nothing is guessed. A recipe that makes a counting benchmark of another's dump is never meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rsdata import formats, recipes
from rsdata.errors import AnnotationError, RecipeError
from rsdata.files import Dump
from rsdata.plan import Plan, Unit
from rsdata.recipes import Recipe
from rsdata.records import Record, Rejection

_UNKNOWN = ""
SAMPLE = 5
"""Images of each split whose annotations are looked at."""
KNOWN, KNOWN_FOLDERS = 0.5, 0.95
"""Share of the labels seen that a recipe must know; sets of class folders share many names."""


def detect(root: Path, annotations_only: bool = False) -> Recipe:
    """The one recipe, or else bare format, that fits a dump.

    annotations_only: its images need not be there. Raises RecipeError where none fits, or several do: these
    are named.
    """
    dump = Dump(root)
    shipped = [recipe for recipe in map(recipes.load, recipes.names()) if not recipe.counted]
    bare = [recipes.from_format(name) for name in formats.names()]
    for folders in (False, True):
        for kind, candidates in (("recipe", shipped), ("format", bare)):
            found = [
                recipe
                for recipe in candidates
                if (recipe.reader.ONE_FILE == "none") == folders and fits(recipe, dump, annotations_only)
            ]
            if len(found) > 1:
                names = " and ".join(recipe.name for recipe in found)
                raise RecipeError(f"{root}: {len(found)} {kind}s fit, {names}: choose one with --{kind} NAME")
            if found:
                return found[0]
    raise RecipeError(
        f"{root}: no recipe and no format fits it: name one (--recipe, --format; see `rsdata recipes`, "
        f"`rsdata formats`), whose message says which files were expected"
    )


def fits(recipe: Recipe, dump: Dump, annotations_only: bool = False) -> bool:
    """Whether a dump is laid out as a recipe says, and speaks of its classes."""
    try:
        plan = Plan(recipe, dump, annotations_only=annotations_only)
    except RecipeError:
        return False
    seen = known = lost = 0
    said = False
    if recipe.reader.ONE_FILE == "none" and recipe.nouns is None and recipe.title:
        return False  # its folders may have any name: it would take every tree of images
    for item in _looked_at(plan):
        if isinstance(item, Rejection):
            lost += item.code in ("E01", "E05", "E06", "E21")
            seen += item.code == "E17"
            continue
        said = said or bool(item.captions)
        if item.label is not None:
            seen += 1
            known += item.label != _UNKNOWN
        for box in item.boxes:
            seen += 1
            known += _knows(recipe, box.raw_label)
    share = KNOWN_FOLDERS if recipe.reader.ONE_FILE == "none" else KNOWN
    return (said or seen > 0) and known >= share * seen and lost <= seen


def _knows(recipe: Recipe, raw: str) -> bool:
    classes = recipe.classes()
    return bool(classes[raw]) if recipe.nouns is None else classes.lists(raw)


def _looked_at(plan: Plan) -> Iterator[Record | Rejection]:
    """What the first units of a plan say."""
    given = recipes.given(plan.recipe.reader)
    classes = plan.recipe.classes()
    units = (item for item in plan if isinstance(item, Unit))
    most = None if plan.one_file == "none" else SAMPLE * max(1, len(plan.present()))
    for unit in islice(units, most):
        if unit.record is not None:
            yield unit.record
            continue
        options = dict(unit.layout.options)
        options.update({"image": unit.image} if "image" in given else {})
        options.update({"instances": unit.instances} if "instances" in given else {})
        try:
            for item in plan.recipe.reader.read(plan.dump.root, unit.annotation, classes, **options):
                if isinstance(item, Record) and item.label is not None:
                    label = unit.annotation.split("/")[-2] if "/" in unit.annotation else ""
                    item = item._replace(label=item.label if _knows(plan.recipe, label) else _UNKNOWN)
                yield item
        except AnnotationError as error:
            yield Rejection("rejected", error.code, error.path, error.line, "", error.why)
