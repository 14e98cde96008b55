"""The flow: plan → shards (read, check, caption, write) → account → table.

Every image of the plan ends as a row or as a rejection, and the run fails rather than lose one:
images found = written + duplicates + leaks + rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import pyarrow as pa

import rsdata
from rsdata import box_to_caption, files, tables
from rsdata.engine import map_tasks
from rsdata.errors import RsdataError
from rsdata.hashing import HASH_SPEC
from rsdata.plan import Plan, Unit
from rsdata.recipes import Recipe
from rsdata.records import Rejection
from rsdata.shard import Options, Result, Shard, is_object, no_collector, write_shard
from rsdata.words import Words

SHARD_BYTES = 256 << 20
SHARD_ROWS = 10_000


class Outcome(NamedTuple):
    """What a conversion came to: the manifest, and every rejection with its line."""

    manifest: dict[str, Any]
    rejections: list[Rejection]


@dataclass
class _Account:
    """The running count of a conversion."""

    rejections: list[Rejection] = field(default_factory=list)
    planned: Counter[str] = field(default_factory=Counter)
    rejected_by_plan: int = 0
    objects_found: Counter[str] = field(default_factory=Counter)
    objects_written: int = 0
    captions: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    rows: dict[str, list[int]] = field(default_factory=dict)
    names: set[tuple[str, str]] = field(default_factory=set)

    def plan(self, root: Path, item: Rejection) -> None:
        """Count what was rejected before any shard."""
        self.rejected_by_plan += item.action == "rejected"
        self.objects_found[""] += is_object(item)
        self.rejections.append(_resolved(root, item))

    def shard(self, root: Path, result: Result) -> None:
        """Count what a shard came to."""
        if result.rows:
            self.rows.setdefault(result.split, []).append(result.rows)
        self.objects_found[result.split] += result.objects_found
        self.objects_written += result.objects_written
        self.captions += result.captions
        self.labels.update(result.labels)
        self.rejections.extend(_resolved(root, item) for item in result.rejections)

    def images(self, written: int) -> dict[str, int]:
        """The accounting identity. Raises RsdataError where it does not hold."""
        found = self.planned.total() + self.rejected_by_plan
        rejected = sum(item.action == "rejected" for item in self.rejections)
        images = {"found": found, "written": written, "duplicates": 0, "leaks": 0, "rejected": rejected}
        if found != written + rejected:
            raise RsdataError(f"the account does not add up (please report it): {images}")
        return images

    def reasons(self, action: str) -> dict[str, int]:
        """Rejections of one action by code."""
        return dict(sorted(Counter(item.code for item in self.rejections if item.action == action).items()))


def convert(
    sources: Sequence[Path],
    table: Path | None,
    recipe: Recipe,
    options: Options,
    progress: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Convert the dumps of one recipe into one table.

    table: the folder to write, not needed with `options.dry_run`. progress is called with the number of
    images just done, say with notes for the user. Raises RecipeError (nothing of the recipe is found, or no
    such caption set), TableError (the target is taken), RsdataError (no image could be used; the disk is
    full; or the account does not add up, which is a fault of this program).
    """
    files.element_lines.cache_clear()  # the files may have changed since an earlier run of this process
    words = Words(recipe.irregular)
    for noun in (recipe.nouns or {}).values():
        words.plural(noun)
    if options.captions != "none":
        box_to_caption.check(options.captions, large_count=options.large_count)
    plans = [Plan(recipe, files.Dump(source), options.splits, options.annotations_only) for source in sources]
    for plan in plans:
        for note in plan.notes:
            say(note)
    staging = None if options.dry_run or table is None else tables.stage(table, options.overwrite)
    try:
        with no_collector(options.annotations_only):
            outcome = _run(plans, staging, recipe, options, progress)
        for plan in plans:
            if unclaimed := plan.unclaimed():
                say(f"{len(unclaimed)} image files fit no split of {recipe.name}, such as {unclaimed[0]}")
        if staging is not None and table is not None:
            tables.publish(staging, table, outcome.manifest)
    except OSError as error:
        raise RsdataError(f"{error.filename or table}: {error.strerror or error}") from error
    finally:
        if staging is not None:
            tables.unstage(staging)
    return outcome


def _run(
    plans: Sequence[Plan],
    staging: Path | None,
    recipe: Recipe,
    options: Options,
    progress: Callable[[int], None],
) -> Outcome:
    about = _about(recipe, options)
    account = _Account()
    # To read a document is most of the work then, and that cannot be shared out.
    here = recipe.reader.ONE_FILE == "split" and options.annotations_only
    shards = _shards(plans, staging, recipe, options, about, account)
    for result in map_tasks(write_shard, shards, 1 if here else options.workers):
        account.shard(plans[result.source].dump.root, result)
        progress(result.units)
    written = sum(map(sum, account.rows.values()))
    if staging is not None:
        written = sum(tables.rows_in(path) for path in staging.glob("data/*.parquet"))
        tables.write_rejections(staging / tables.REJECTIONS, account.rejections)
    images = account.images(written)
    if not written:
        raise RsdataError(_nothing(images, account, plans, options))
    return Outcome(_manifest(about, account, images, plans, recipe), account.rejections)


def _nothing(images: Mapping[str, int], account: _Account, plans: Sequence[Plan], options: Options) -> str:
    """Why there is no table, and what may help."""
    if not account.rejections:
        held = ", ".join(sorted({split for plan in plans for split in plan.present()})) or "no split"
        return f"no image of {', '.join(options.splits) or 'any split'} is here; the dump has {held}"
    missing = all(item.code == "E07" for item in account.rejections)
    hint = "; to convert without images: --annotations-only" if missing else ""
    count = f"{images['found']} found, {images['rejected']} rejected"
    return f"no image could be used: {count}; the first: {as_line(account.rejections[0])}{hint}"


def _manifest(
    about: dict[str, Any],
    account: _Account,
    images: dict[str, int],
    plans: Sequence[Plan],
    recipe: Recipe,
) -> dict[str, Any]:
    found = account.objects_found.total()
    objects = {
        "found": found,
        "written": account.objects_written,
        "dropped": found - account.objects_written,
    }
    counts = {"images": images, "objects": objects, "captions": account.captions}
    return {
        "rsdata": about,
        "splits": {
            split: {"files": tables.shard_names(split, len(rows)), "rows": sum(rows)}
            for split, rows in account.rows.items()
        },
        **counts,
        "reasons": {action: account.reasons(action) for action in ("rejected", "dropped", "repaired")},
        "datasets": {
            recipe.name: {
                **counts,
                "splits": {
                    split: {"images": number, "objects": account.objects_found[split]}
                    for split, number in account.planned.items()
                },
                "classes": dict(sorted(account.labels.items())),
                "unclaimed": sum(len(plan.unclaimed()) for plan in plans),
                "paper": dict(recipe.paper),
            }
        },
    }


def _shards(
    plans: Sequence[Plan],
    staging: Path | None,
    recipe: Recipe,
    options: Options,
    about: Mapping[str, Any],
    account: _Account,
) -> Iterator[Shard]:
    """The units of all plans as shards; the plans' own rejections go to the account."""
    numbers: Counter[str] = Counter()
    for source, plan in enumerate(plans):
        for units in _chunks(plan, account, options.annotations_only):
            split = units[0].split
            path = None if staging is None else staging / "data" / f"{split}-{numbers[split]:05d}.parquet"
            numbers[split] += 1
            yield Shard(split, source, plan.dump.root, units, path, recipe, options, about)


def _chunks(plan: Plan, account: _Account, annotations_only: bool) -> Iterator[list[Unit]]:
    """The units of a plan in runs of one split, at most SHARD_BYTES of images and SHARD_ROWS each."""
    units: list[Unit] = []
    cost = 0
    for item in _unique(plan, account):
        size = 0 if annotations_only else plan.dump.sizes.get(item.image, 0)
        full = cost + size > SHARD_BYTES or len(units) >= SHARD_ROWS
        if units and (full or item.split != units[0].split):
            yield units
            units, cost = [], 0
        units.append(item)
        cost += size
    if units:
        yield units


def _unique(plan: Plan, account: _Account) -> Iterator[Unit]:
    """The units of a plan whose names are not taken."""
    for item in plan:
        if isinstance(item, Rejection):
            account.plan(plan.dump.root, item)
        elif (key := (item.split, item.name)) in account.names:
            why = f"another image is named {item.split}/{item.name}"
            account.plan(plan.dump.root, Rejection("rejected", "E16", item.annotation, 0, item.image, why))
        else:
            account.names.add(key)
            account.planned[item.split] += 1
            yield item


def _about(recipe: Recipe, options: Options) -> dict[str, Any]:
    """The `rsdata` key of the table's metadata: all that a second run needs to give the same bytes."""
    return {
        "dataset": recipe.name,
        "title": recipe.title,
        "homepage": recipe.homepage,
        "licence": recipe.licence,
        "citation": recipe.citation,
        "recipe": recipe.digest,
        "format": recipe.format,
        "captions": options.captions,
        "large_count": options.large_count,
        "seed": options.seed,
        "irregular": dict(recipe.irregular),
        "hash_spec": None if options.annotations_only else HASH_SPEC,
        "versions": {"rsdata": rsdata.__version__, "pyarrow": pa.__version__, "pillow": PIL.__version__},
    }


def _resolved(root: Path, item: Rejection) -> Rejection:
    """`item` with the index of an element replaced by its line."""
    if not item.element:
        return item
    lines = files.element_lines(root, item.path, item.element)
    return item._replace(line=lines[item.line] if 0 <= item.line < len(lines) else 0, element="")


def as_line(item: Rejection) -> str:
    """A Rejection as `file:line: code why`, which editors can jump to."""
    place = f"{item.path}:{item.line}" if item.line else item.path
    about = f" ({item.image})" if item.image and item.image not in (item.path, item.why) else ""
    return f"{place}: {item.code} {item.why}{about}"
