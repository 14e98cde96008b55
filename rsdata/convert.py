"""The flow: plan → shards (read, check, caption, write) → account.

Every image of the plan ends as a row or as a rejection, and the run fails rather than lose one:
images found = written + duplicates + leaks + rejected.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import rsdata
from rsdata import box_to_caption, checks, files, formats, rasters, tables
from rsdata.classes import Classes
from rsdata.engine import map_tasks
from rsdata.errors import AnnotationError, RsdataError, TableError
from rsdata.hashing import HASH_SPEC, phash
from rsdata.plan import Plan, Unit
from rsdata.recipes import Recipe
from rsdata.records import Box, Record, Rejection
from rsdata.tables import Row
from rsdata.words import Words

SHARD_BYTES = 256 << 20
SHARD_ROWS = 10_000
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Options:
    """What a user chooses beside the recipe. captions: a template's name, or "none" for published ones only.

    large_count: how a template words counts above ten. no_images leaves the bytes out of the table;
    annotations_only opens no image at all. workers never changes a byte of the result.
    """

    captions: str = "remoteclip"
    large_count: str = "vague"
    seed: int = 0
    splits: tuple[str, ...] = ()
    no_images: bool = False
    annotations_only: bool = False
    workers: int = 1
    dry_run: bool = False
    overwrite: bool = False


class _Shard(NamedTuple):
    """A task: units of one split and everything that turns them into rows."""

    number: int
    split: str
    units: Sequence[Unit]
    root: Path
    path: Path | None
    recipe: Recipe
    options: Options
    about: Mapping[str, Any]


class _Result(NamedTuple):
    number: int
    split: str
    rows: int
    objects_found: int
    objects_written: int
    labels: Counter[str]
    captions: int
    rejections: list[Rejection]


def convert(
    source: Path,
    table: Path | None,
    recipe: Recipe,
    options: Options,
    progress: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Convert one dump into a table and return its manifest.

    table: the folder to write; ignored with `options.dry_run`. progress is called with the number of images
    just done; say with notes for the user. Raises RecipeError (nothing of the recipe is found), TableError
    (the target exists), RsdataError (the account does not add up: a fault of this program).
    """
    dump = files.Dump(source)
    plan = Plan(recipe, dump, options.splits, options.annotations_only)
    for note in plan.notes:
        say(note)
    staging = None
    if not options.dry_run and table is not None:
        staging = _staging(table, options.overwrite)
    try:
        with _no_collector():
            manifest = _run(plan, staging, recipe, options, progress, say)
        if staging is not None and table is not None:
            _publish(staging, table, manifest, recipe)
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _run(
    plan: Plan,
    staging: Path | None,
    recipe: Recipe,
    options: Options,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    about = _about(recipe, options)
    rejections: list[Rejection] = []
    found: Counter[str] = Counter()
    shards = _shards(plan, staging, recipe, options, about, rejections, found)
    documents = recipe.reader.ONE_FILE == "split"
    # The boxes of a document cross to workers by pickle, which costs more than checking them here.
    workers = 1 if documents and options.annotations_only else options.workers
    splits: dict[str, list[str]] = {}
    rows: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    objects = Counter(found=0, written=0)
    captions = 0
    for result in map_tasks(write_shard, shards, workers):
        splits.setdefault(result.split, []).append(_staged_name(result.split, result.number))
        rows[result.split] += result.rows
        objects["found"] += result.objects_found
        objects["written"] += result.objects_written
        labels.update(result.labels)
        captions += result.captions
        rejections.extend(result.rejections)
        progress(result.rows + sum(item.action == "rejected" for item in result.rejections))
    rejections = [_resolved(plan.dump.root, rejection) for rejection in rejections]
    rejected = sum(rejection.action == "rejected" for rejection in rejections)
    written = _written(staging, splits) if staging is not None else sum(rows.values())
    found["rejected"] += sum(1 for _ in ())
    images = {
        "found": found["units"] + found["rejected"],
        "written": written,
        "duplicates": 0,
        "leaks": 0,
        "rejected": rejected,
    }
    if images["found"] != written + rejected:
        raise RsdataError(f"the account does not add up, please report it: {images}")
    unclaimed = plan.unclaimed()
    if unclaimed:
        say(f"{len(unclaimed)} image files belong to no split of {recipe.name}, such as {unclaimed[0]}")
    if staging is not None:
        tables.write_rejections(staging / "rejections.parquet", rejections)
    dataset = {
        "images": images,
        "objects": {**objects, "dropped": objects["found"] - objects["written"]},
        "captions": captions,
        "classes": dict(sorted(labels.items())),
        "paper": dict(recipe.paper),
        "unclaimed": len(unclaimed),
    }
    return {
        "rsdata": about,
        "splits": {
            split: {
                "files": [
                    f"data/{split}-{number:05d}-of-{len(names):05d}.parquet" for number in range(len(names))
                ],
                "rows": rows[split],
            }
            for split, names in splits.items()
        },
        "images": images,
        "objects": dataset["objects"],
        "captions": captions,
        "reasons": {
            action: dict(sorted(Counter(item.code for item in rejections if item.action == action).items()))
            for action in ("rejected", "dropped", "repaired")
        },
        "datasets": {recipe.name: dataset},
    }
