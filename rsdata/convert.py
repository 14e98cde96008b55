"""The flow: plan → shards (read, check, cut, caption, write) → account → table.

Every image of the plan ends as a row or as a rejection, and the run fails rather than lose one:
images found = written + duplicates + leaks + rejected.

The shards of a plan follow from the dump and the options alone. Each is noted in the journal when it is done,
so a run that was killed goes on where it stopped, and ends in the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import PIL
import pyarrow as pa

import rsdata
from rsdata import box_to_caption, files, journal, places, tables
from rsdata.caption import rewrite
from rsdata.engine import Engine, map_tasks
from rsdata.errors import RsdataError, TableError, UnfinishedError
from rsdata.hashing import HASH_SPEC
from rsdata.plan import Plan, Unit
from rsdata.recipes import Recipe
from rsdata.records import Rejection
from rsdata.shard import Options, Result, Shard, is_object, name, no_collector, revise, write_shard
from rsdata.words import Words

SHARD_BYTES = 128 << 20
SHARD_ROWS = 5_000
FRAME_BYTES = 1 << 20
"""What a frame of a film counts for."""


class Outcome(NamedTuple):
    """What a conversion came to: the manifest, and every rejection with its line."""

    manifest: dict[str, Any]
    rejections: list[Rejection]


class Step(NamedTuple):
    """How far a conversion is: images done, of about how many (None: not known yet), those of them that an
    earlier run had done, and rejected.
    """

    images: int
    total: int | None
    kept: int
    rejected: int


class Part(NamedTuple):
    """A dump to convert, and the recipe for it; splits: which of them, all if none."""

    recipe: Recipe
    source: Path
    splits: Sequence[str] = ()


@dataclass
class _Tally:
    """The running count of one dataset. images, objects: by split."""

    recipe: Recipe
    images: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    rejected: int = 0
    objects_written: int = 0
    captions: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    unclaimed: int = 0

    def counts(self) -> dict[str, Any]:
        """Images and objects found and what became of them, and captions."""
        found, objects = self.images.total(), self.objects.total()
        images = {
            "found": found,
            "written": self.rows,
            "duplicates": 0,
            "leaks": 0,
            "rejected": self.rejected,
        }
        dropped = objects - self.objects_written
        held = {"found": objects, "written": self.objects_written, "dropped": dropped}
        return {"images": images, "objects": held, "captions": self.captions}

    def entry(self) -> dict[str, Any]:
        """What the manifest says of the dataset."""
        splits = self.images.keys() - {""}
        return {
            **self.counts(),
            "splits": {
                split: {"images": self.images[split], "objects": self.objects[split]}
                for split in self.images
                if split in splits
            },
            "classes": dict(sorted(self.labels.items())),
            "unclaimed": self.unclaimed,
            "paper": dict(self.recipe.paper),
        }


@dataclass
class _Account:
    """The running count of a conversion."""

    tallies: dict[str, _Tally]
    rejections: list[Rejection] = field(default_factory=list)
    rows: dict[str, list[int]] = field(default_factory=dict)
    names: set[tuple[str, str, str]] = field(default_factory=set)

    def plan(self, plan: Plan, item: Rejection) -> None:
        """Count what was rejected before any shard; "" is the split of an image that none has."""
        tally = self.tallies[plan.recipe.name]
        tally.images[""] += item.action == "rejected"
        tally.rejected += item.action == "rejected"
        tally.objects[""] += is_object(item)
        self.rejections.append(_resolved(plan.dump.root, item))

    def shard(self, root: Path, result: Result) -> None:
        """Count what a shard came to."""
        tally = self.tallies[result.dataset]
        if result.rows:
            self.rows.setdefault(result.split, []).append(result.rows)
        tally.images[result.split] += result.images
        tally.rows += result.rows
        tally.objects[result.split] += result.objects_found
        tally.objects_written += result.objects_written
        tally.captions += result.captions
        tally.labels.update(result.labels)
        tally.rejected += sum(item.action == "rejected" for item in result.rejections)
        self.rejections.extend(_resolved(root, item) for item in result.rejections)

    def counts(self, written: int) -> dict[str, Any]:
        """The accounting identity, over all datasets. Raises RsdataError where it does not hold."""
        total: dict[str, Any] = {"images": Counter(), "objects": Counter(), "captions": 0}
        for counts in (tally.counts() for tally in self.tallies.values()):
            for unit in ("images", "objects"):
                for key, number in counts[unit].items():
                    total[unit][key] += number
            total["captions"] += counts["captions"]
        images = dict(total["images"])
        if images["written"] != written or images["found"] != written + images["rejected"]:
            raise RsdataError(f"the account does not add up (please report it): {images}, {written} rows")
        return {"images": images, "objects": dict(total["objects"]), "captions": total["captions"]}

    def reasons(self, action: str) -> dict[str, int]:
        """Rejections of one action by code."""
        return dict(sorted(Counter(item.code for item in self.rejections if item.action == action).items()))


def convert(
    sources: Sequence[Path],
    table: Path | None,
    recipe: Recipe,
    options: Options,
    progress: Callable[[Step], None] = lambda step: None,
    say: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Convert the dumps of one recipe into one table. As `build`."""
    parts = [Part(recipe, source, options.splits) for source in sources]
    return build(parts, table, {**_facts(recipe), "dataset": recipe.name}, options, progress, say)


def build(
    parts: Sequence[Part],
    table: Path | None,
    facts: Mapping[str, Any],
    options: Options,
    progress: Callable[[Step], None] = lambda step: None,
    say: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Convert dumps into one table, each by its recipe.

    table: the folder to write, not needed with `options.dry_run`. facts: the table's name (`dataset`), title
    and the like. progress is called as images are done, say with notes for the user. An unfinished run of the
    same parts and options goes on. Raises RecipeError (nothing of a recipe is found, or no such caption set),
    TableError (the target is taken, or holds an unfinished run that differs), UnfinishedError (the disk is
    full, a worker died again and again: what is done is kept), RsdataError (no image could be used; or the
    account does not add up, which is a fault of this program).
    """
    # The files may have changed since an earlier run of this process.
    files.element_lines.cache_clear()
    places.opened_archive.cache_clear()
    if options.dry_run and box_to_caption.judge(options.captions):
        return _rehearsed(parts, facts, options, progress, say)
    target = None if options.dry_run else table
    if target:
        tables.check_target(target, options.overwrite)
    with no_collector(options.annotations_only), ExitStack() as stack:
        return _build(stack, parts, target, facts, options, progress, say)


def _rehearsed(
    parts: Sequence[Part],
    facts: Mapping[str, Any],
    options: Options,
    progress: Callable[[Step], None],
    say: Callable[[str], None],
) -> Outcome:
    """A dry run with a caption set that selects: which rows stay is known once all are in a table."""
    real = replace(options, dry_run=False, no_images=True)
    with TemporaryDirectory() as folder:
        return build(parts, Path(folder) / "table", facts, real, progress, say)


def _build(
    stack: ExitStack,
    parts: Sequence[Part],
    target: Path | None,
    facts: Mapping[str, Any],
    options: Options,
    progress: Callable[[Step], None],
    say: Callable[[str], None],
) -> Outcome:
    for part in parts:
        words = Words(part.recipe.irregular)
        for noun in (part.recipe.nouns or {}).values():
            words.plural(noun)
    if options.captions != "none":
        box_to_caption.check(options.captions, large_count=options.large_count)
    plans = [
        Plan(part.recipe, files.Dump(part.source), part.splits, options.annotations_only) for part in parts
    ]
    for plan in plans:
        for note in plan.notes:
            say(note)
    told = [len(plan.notes) for plan in plans]
    about = _about(plans, facts, options)
    staging = None
    if target:
        stack.enter_context(tables.locked(target))
        staging = _staging(target, parts, plans, about, options, say)
        stack.enter_context(tables.kept(staging))
    outcome = _run(plans, staging, about, options, progress)
    for plan, count in zip(plans, told, strict=True):
        for note in plan.notes[count:]:
            say(note)
        if unclaimed := plan.unclaimed():
            say(f"{len(unclaimed)} image files fit no split of {plan.recipe.name}, such as {unclaimed[0]}")
    if staging and target:
        data = "data"
        if box_to_caption.judge(options.captions):
            data, outcome = _selected(staging, about, outcome)
        tables.publish(staging, target, outcome.manifest, data)
    return outcome


def _selected(staging: Path, about: Mapping[str, Any], outcome: Outcome) -> tuple[str, Outcome]:
    """What a caption set that selects leaves of a run, and the folder of its shards.

    Those of the run stay as they are, so that a run that is killed here goes on.
    """
    folder = staging / "selected"
    places.remove(folder)
    places.make_folder(folder)
    shards = {split: tables.staged_shards(staging / "data", split) for split in outcome.manifest["splits"]}
    manifest, left_out = rewrite(shards, folder, about, outcome.manifest, outcome.rejections)
    rejections = [*outcome.rejections, *left_out]
    tables.write_rejections(staging / tables.REJECTIONS, rejections)
    return folder.name, Outcome(manifest, rejections)


def _staging(
    table: Path,
    parts: Sequence[Part],
    plans: Sequence[Plan],
    about: Mapping[str, Any],
    options: Options,
    say: Callable[[str], None],
) -> Path:
    """The folder in which to write: as an equal run left it, or new."""
    staging = tables.staging_of(table)
    chosen = asdict(options)
    for key in ("engine", "dry_run", "overwrite"):
        del chosen[key]
    splits = {part.recipe.name: list(part.splits) for part in parts}
    dumps = [plan.dump for plan in plans]
    shards = [SHARD_BYTES, SHARD_ROWS]
    job = {"options": chosen, "sources": len(dumps), "splits": splits, "shards": shards, "table": about}
    changes = journal.changes(staging, job, dumps)
    if changes == []:
        tables.sweep(staging)
        say(f"going on with the unfinished run in {table}: {journal.count(staging):,} shards of it are done")
        return staging
    if changes:
        why = "; ".join(changes[:3]) + ("; …" if len(changes) > 3 else "")
        if not options.overwrite:
            raise TableError(
                f"{table}: holds an unfinished run, and this one differs: {why}. Repeat that one to go on, "
                "or start anew (--overwrite)"
            )
        say(f"the unfinished run in {table} differs, and is started anew: {why}")
    tables.stage(table)
    with tables.writing(table):
        journal.begin(staging, job, dumps)
    return staging


def _run(
    plans: Sequence[Plan],
    staging: Path | None,
    about: Mapping[str, Any],
    options: Options,
    progress: Callable[[Step], None],
) -> Outcome:
    account = _Account({plan.recipe.name: _Tally(plan.recipe) for plan in plans})
    # To read a document is most of the work then, and that cannot be shared out.
    here = options.annotations_only and all(plan.one_file == "split" for plan in plans)
    # A caption set that selects writes its captions at the end.
    unselected = replace(options, captions="none") if box_to_caption.judge(options.captions) else options
    drawn: list[Result | None] = []
    missing: list[int] = []
    kept = 0

    def left() -> Iterator[Shard]:
        """The shards that are still to do."""
        nonlocal kept
        for shard in _shards(plans, staging, unselected, about, account):
            result = journal.done(shard.path, Result) if shard.path else None
            drawn.append(result)
            if result is None:
                missing.append(len(drawn) - 1)
                yield shard
            else:
                kept += result.units

    expected = [plan.expected() for plan in plans]
    total = None if None in expected else sum(each or 0 for each in expected)
    done = rejected = 0
    try:
        engine = Engine("serial") if here else options.engine
        # Closed before anything else: else the workers would go on while what they wrote is cleared away.
        with closing(map_tasks(write_shard, left(), engine, revise, name)) as results:
            for number, result in enumerate(results):
                drawn[missing[number]] = result
                done += result.units
                rejected += sum(item.action == "rejected" for item in result.rejections)
                progress(Step(kept + done, total, kept, rejected))
    except UnfinishedError as error:
        raise UnfinishedError(f"{error} ({kept + done:,} images are done)") from error
    progress(Step(kept + done, kept + done, kept, rejected))
    for each in drawn:
        assert each is not None
        account.shard(plans[each.source].dump.root, each)
    written = sum(map(sum, account.rows.values()))
    if staging is not None:
        written = sum(tables.rows_in(path) for path in (staging / "data").glob("*.parquet"))
        tables.write_rejections(staging / tables.REJECTIONS, account.rejections)
    counts = account.counts(written)
    if not written:
        raise RsdataError(_nothing(counts["images"], account, plans, options))
    for plan in plans:
        account.tallies[plan.recipe.name].unclaimed += len(plan.unclaimed())
    return Outcome(_manifest(about, account, counts), account.rejections)


def _nothing(images: Mapping[str, int], account: _Account, plans: Sequence[Plan], options: Options) -> str:
    """Why there is no table, and what may help."""
    if not account.rejections:
        held = ", ".join(sorted({split for plan in plans for split in plan.present()})) or "no split"
        return f"no image of {', '.join(options.splits) or 'any split'} is here; the dump has {held}"
    missing = all(item.code == "E07" for item in account.rejections)
    hint = "; to convert without images: --annotations-only" if missing else ""
    count = f"{images['found']} found, {images['rejected']} rejected"
    return f"no image could be used: {count}; the first: {as_line(account.rejections[0])}{hint}"


def _manifest(about: Mapping[str, Any], account: _Account, counts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rsdata": dict(about),
        "splits": {
            split: {"files": tables.shard_names(split, len(rows)), "rows": sum(rows)}
            for split, rows in account.rows.items()
        },
        **counts,
        "reasons": {action: account.reasons(action) for action in ("rejected", "dropped", "repaired")},
        "datasets": {name: tally.entry() for name, tally in account.tallies.items()},
    }


def _shards(
    plans: Sequence[Plan],
    staging: Path | None,
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
            yield Shard(split, source, plan.dump.root, units, path, plan.recipe, options, about)


def _chunks(plan: Plan, account: _Account, annotations_only: bool) -> Iterator[list[Unit]]:
    """The units of a plan in runs of one split, at most SHARD_BYTES of images and SHARD_ROWS each."""
    units: list[Unit] = []
    cost = 0
    for item in _unique(plan, account):
        size = (
            0 if annotations_only else plan.dump.sizes.get(item.image, 0) if item.frame < 0 else FRAME_BYTES
        )
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
    name = plan.recipe.name
    for item in plan:
        if isinstance(item, Rejection):
            account.plan(plan, item)
        elif (key := (name, item.split, item.name)) in account.names:
            why = f"another image is named {item.split}/{item.name}"
            account.plan(plan, Rejection("rejected", "E16", item.annotation, 0, item.image, why))
        else:
            account.names.add(key)
            account.tallies[name].images.setdefault(item.split, 0)
            yield item


def _facts(recipe: Recipe) -> dict[str, Any]:
    """What a recipe tells of its dataset."""
    return {key: getattr(recipe, key) for key in ("title", "homepage", "licence", "citation")}


def _about(plans: Sequence[Plan], facts: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The `rsdata` key of the table's metadata: all that a second run needs to give the same bytes."""
    recipes = {plan.recipe.name: plan.recipe for plan in plans}
    return {
        **facts,
        "datasets": {
            name: {
                **_facts(recipe),
                "recipe": recipe.digest,
                "format": recipe.format,
                "tiles": asdict(recipe.tiling) if recipe.tiling else None,
                "image": asdict(recipe.rendering),
                "irregular": dict(recipe.irregular),
                "counted": list(recipe.counted),
                "origin": dict(recipe.origin),
                "benchmark": dict(recipe.benchmark),
            }
            for name, recipe in recipes.items()
        },
        "captions": options.captions,
        "large_count": options.large_count,
        "seed": options.seed,
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
