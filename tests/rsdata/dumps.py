"""Small sample dumps and what is read back from tables: for the tests of the whole converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rsdata import recipes, samples, tables
from rsdata.convert import Outcome, convert
from rsdata.engine import Engine
from rsdata.recipes import Recipe
from rsdata.samples import Sample
from rsdata.shard import Options

SIZE = (96, 64)
SMALL = {"images": 4, "size": SIZE, "most": 6}


def sample_dump(recipe: Recipe | str, folder: Path, **options: Any) -> dict[str, Sample]:
    """Write a sample dump and return its truth by image path."""
    if isinstance(recipe, str):
        recipe = recipes.load(recipe)
    options = {**SMALL, **options}
    samples.write(recipe, folder, **options)
    return {sample.image: sample for sample in samples.draw(recipe, **options)}


def run(recipe: Recipe | str, sources: Path | list[Path], table: Path | None, **options: Any) -> Outcome:
    if isinstance(recipe, str):
        recipe = recipes.load(recipe)
    options.setdefault("engine", Engine(workers=options.pop("workers", 1)))
    progress = options.pop("progress", lambda step: None)
    held = sources if isinstance(sources, list) else [sources]
    outcome = convert(held, table, recipe, Options(**options), progress)
    check_account(outcome, table)
    return outcome


def sample_table(recipe: str, folder: Path, **options: Any) -> Path:
    """A table of a sample dump; both lie in `folder`."""
    sample_dump(recipe, folder / "dump", **options)
    run(recipe, folder / "dump", folder / "table")
    return folder / "table"


def rows_of(table: Path) -> list[dict[str, Any]]:
    return [row for path in tables.shards(table) for row in tables.read(path).to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def codes(outcome: Outcome, action: str) -> list[str]:
    return [item.code for item in outcome.rejections if item.action == action]


def check_account(outcome: Outcome, table: Path | None) -> None:
    """The accounting identity of images and objects, against the rejections and the rows themselves."""
    manifest = outcome.manifest
    images, objects, reasons = manifest["images"], manifest["objects"], manifest["reasons"]
    assert images["found"] == sum(images[key] for key in ("written", "duplicates", "leaks", "rejected"))
    assert images["rejected"] == len(codes(outcome, "rejected")) == sum(reasons["rejected"].values())
    assert objects["found"] == objects["written"] + objects["dropped"]
    assert images["written"] == sum(held["rows"] for held in manifest["splits"].values())
    assert all(item.element == "" and item.code and item.why and item.path for item in outcome.rejections)
    if table is not None:
        rows = rows_of(table)
        assert images["written"] == len(rows)
        assert objects["written"] == sum(len(row["objects"]) for row in rows)
        assert manifest["captions"] == sum(len(row["captions"]) for row in rows)
        listed = pq.read_table(table / tables.REJECTIONS).to_pylist()
        assert [tuple(item.values()) for item in listed] == [item[:6] for item in outcome.rejections]
