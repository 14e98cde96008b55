"""For each format a clean dump, which converts without a word, and a dirty one, whose every defect is told.

The dumps and what must be told of them are data: dirty/NAME.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rsdata import formats, recipes
from rsdata.convert import Outcome, convert
from rsdata.recipes import Recipe
from rsdata.shard import Options

CASES = sorted((Path(__file__).parent / "dirty").glob("*.toml"))


def recipe_of(case: Mapping[str, Any]) -> Recipe:
    if "recipe_toml" in case:
        recipe = recipes.parse("case", tomllib.loads(case["recipe_toml"]))
    elif "recipe" in case:
        recipe = recipes.load(case["recipe"])
    else:
        recipe = recipes.from_format(case["format"])
    return recipes.adapted(recipe, None, case.get("options", {}))


def write_images(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", tuple(size)).save(folder / name)


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())


def told(recipe: Recipe, dump: Path, table: Path) -> tuple[Outcome, list[tuple[str, str, str, int]]]:
    outcome = convert([dump], table, recipe, Options())
    return outcome, sorted((item.action, item.code, item.path, item.line) for item in outcome.rejections)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_each_defect_is_told_with_its_file_and_line(path: Path, tmp_path: Path) -> None:
    case = tomllib.loads(path.read_text(encoding="utf-8"))
    recipe, dump = recipe_of(case), tmp_path / "dump"
    write_images(dump, case["images"])
    write_files(dump, case["clean"])
    outcome, defects = told(recipe, dump, tmp_path / "clean")
    assert defects == []
    assert outcome.manifest["images"]["written"] == len(case["images"])
    write_images(dump, case.get("dirty_images", {}))
    write_files(dump, case["dirty"])
    outcome, defects = told(recipe, dump, tmp_path / "dirty")
    assert defects == sorted(map(tuple, case["expected"]["rejections"]))
    objects = outcome.manifest["objects"]
    assert objects["found"] == objects["written"] + objects["dropped"]


def test_each_format_has_its_dirty_dump() -> None:
    assert {path.stem for path in CASES} >= set(formats.names()) - {"masks", "folders"}
