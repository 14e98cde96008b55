"""Write tables without the images that deduplication removes: tables in, table out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata import places, removals, tables
from rsdata.dedup import Decision
from rsdata.engine import Engine, map_tasks
from rsdata.errors import RsdataError, TableError
from rsdata.records import HUMAN, REJECTION_SCHEMA, SCHEMA

_OBJECTS = ("found", "written", "removed", "dropped")
_ONE = ("title", "homepage", "licence", "citation", "captions", "large_count", "seed")
"""What a table says of itself once, and of several only where they agree."""


class _Task(NamedTuple):
    """A shard to copy. goes: of each of its rows; captions: by image_id, what is added."""

    source: Path
    target: Path
    goes: Any
    captions: Mapping[str, Sequence[str]]
    about: Mapping[str, Any]


class _Copied(NamedTuple):
    """What a shard came to: by dataset images, objects, captions; objects by class."""

    rows: int
    counts: dict[str, Counter[str]]
    classes: dict[str, Counter[str]]


def clean(
    sources: Sequence[Path],
    output: Path,
    decision: Decision,
    merge_captions: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write what `decision` leaves of the tables `sources` as one table; returns its manifest.

    merge_captions: what people wrote of a removed duplicate goes to the one that stays, if people captioned
    that too. Raises TableError where a source is damaged, the tables do not go together, nothing is left, or
    `output` is taken; RsdataError where it cannot be written.
    """
    check(sources, output, overwrite)
    manifests = [tables.manifest(source, whole=True) for source in sources]
    about = _about([tables.about(source) for source in sources], output, decision)
    captions = _captions(sources, decision.merged) if merge_captions else {}
    with tables.staged(output, overwrite) as staging, ExitStack() as stack:
        tasks = list(_tasks(sources, manifests, staging, decision, captions, about))
        done = 0
        written: dict[str, list[int]] = {}
        counts: dict[str, Counter[str]] = {}
        classes: dict[str, Counter[str]] = {}
        results = stack.enter_context(closing(map_tasks(_copy, tasks, Engine(workers=workers))))
        for task, copied in zip(tasks, results, strict=True):
            done += task.goes.size
            progress(done, len(decision.goes))
            if copied.rows:
                written.setdefault(task.target.name.rpartition("-")[0], []).append(copied.rows)
            for held, found in ((counts, copied.counts), (classes, copied.classes)):
                for dataset, counter in found.items():
                    held.setdefault(dataset, Counter()).update(counter)
        if not written:
            raise TableError("no image is left")
        manifest = _manifest(manifests, about, decision, written, counts, classes)
        _lists(sources, decision, staging)
        tables.publish(staging, output, manifest)
    return manifest


def check(sources: Sequence[Path], output: Path, overwrite: bool) -> None:
    """Raise TableError where `clean` would, before the long search."""
    for source in sources:
        if places.same(output, source):
            raise TableError(f"{output}: is read while the new one is written; name another folder")
    tables.check_target(output, overwrite)
    _datasets([tables.about(source) for source in sources])


def _tasks(
    sources: Sequence[Path],
    manifests: Sequence[Mapping[str, Any]],
    staging: Path,
    decision: Decision,
    captions: Mapping[str, Sequence[str]],
    about: Mapping[str, Any],
) -> Iterator[_Task]:
    numbers: Counter[str] = Counter()
    start = 0
    for source, manifest in zip(sources, manifests, strict=True):
        for split in manifest["splits"]:
            if not tables.SPLIT.fullmatch(split):
                raise TableError(f"{source}: split {split!r} cannot name a file")
            for path in tables.shards(source, [split]):
                rows = tables.rows_in(path)
                goes = np.asarray(decision.goes[start : start + rows])
                start += rows
                target = staging / "data" / f"{split}-{numbers[split]:05d}.parquet"
                numbers[split] += 1
                yield _Task(path, target, goes, captions, about)
    if start != len(decision.goes):
        raise TableError("a table changed while it was read")


def _copy(task: _Task) -> _Copied:
    counts: dict[str, Counter[str]] = {}
    classes: dict[str, Counter[str]] = {}
    rows = start = 0
    try:
        with (
            tables.parquet(task.source) as shard,
            tables.shard_writer(task.target, task.about) as writer,
        ):
            for number in range(shard.num_row_groups):
                size = shard.metadata.row_group(number).num_rows
                stays = ~task.goes[start : start + size]
                start += size
                if not stays.any():
                    continue
                group = shard.read_row_group(number)
                if not group.schema.remove_metadata().equals(SCHEMA):
                    raise TableError(f"{task.source}: not the columns of this version (rsdata repair)")
                group = tables.sound(task.source, group.filter(pa.array(stays)))
                if task.captions:
                    group = _with_captions(group, task.captions)
                _count(group, counts, classes)
                rows += group.num_rows
                writer.write(group)
    except pa.ArrowException as error:
        raise TableError(f"{task.source}: damaged: {error}") from error
    if not rows:
        task.target.unlink()
    return _Copied(rows, counts, classes)


def _count(group: pa.Table, counts: dict[str, Counter[str]], classes: dict[str, Counter[str]]) -> None:
    for dataset in group["dataset"].unique().to_pylist():
        part = group.filter(pc.equal(group["dataset"], dataset))
        objects = part["objects"].combine_chunks().flatten()
        held = counts.setdefault(dataset, Counter())
        captions = pc.sum(pc.list_value_length(part["captions"])).as_py() or 0
        held.update(images=part.num_rows, objects=len(objects), captions=captions)
        labels = objects.field("label").value_counts().to_pylist()
        found = {item["values"]: item["counts"] for item in labels}
        classes.setdefault(dataset, Counter()).update(found)


def _with_captions(group: pa.Table, captions: Mapping[str, Sequence[str]]) -> pa.Table:
    """A row group whose images have, beside their own human captions, those of their duplicates."""
    ids = group["image_id"].to_pylist()
    if not any(image_id in captions for image_id in ids):
        return group
    merged = []
    columns = (group[name].to_pylist() for name in ("captions", "caption_source"))
    for image_id, own, source in zip(ids, *columns, strict=True):
        more = captions.get(image_id, ()) if source == HUMAN else ()
        merged.append(list(dict.fromkeys([*own, *more])) if more else own)
    field = SCHEMA.field("captions")
    return group.set_column(SCHEMA.get_field_index("captions"), field, pa.array(merged, field.type))


def _captions(sources: Sequence[Path], merged: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The human captions that images that stay get from their duplicates, by id."""
    wanted = pa.array([image_id for each in merged.values() for image_id in each], pa.string())
    held: dict[str, list[str]] = {}
    for source in sources:
        for path in tables.shards(source):
            columns = ["image_id", "captions.list.element", "caption_source"]
            for batch in tables.batches(path, columns):
                human = pc.equal(batch["caption_source"], HUMAN)
                met = pc.and_(pc.is_in(batch["image_id"], wanted), pc.fill_null(human, False))
                for row in batch.filter(met).to_pylist():
                    held[row["image_id"]] = row["captions"]
    found = {
        kept: [caption for image_id in each for caption in held.get(image_id, ())]
        for kept, each in merged.items()
    }
    return {kept: each for kept, each in found.items() if each}


def _datasets(abouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the tables say of their datasets. Raises TableError where two say it of one differently."""
    datasets: dict[str, Any] = {}
    for about in abouts:
        for name, facts in about.get("datasets", {}).items():
            if datasets.setdefault(name, facts) != facts:
                raise TableError(
                    f"dataset {name} is in two tables that were converted differently: convert one under "
                    "another name (--name)"
                )
    return datasets


def _about(abouts: Sequence[Mapping[str, Any]], output: Path, decision: Decision) -> dict[str, Any]:
    """The `rsdata` metadata of the new table."""
    first = dict(abouts[0])
    if len(abouts) > 1:
        first["dataset"] = places.name(output)
        for key in _ONE:
            values = [about.get(key) for about in abouts]
            first[key] = values[0] if all(value == values[0] for value in values) else None
        licences = dict.fromkeys(str(about["licence"]) for about in abouts if about.get("licence"))
        first["licence"] = "; ".join(licences)
        first["hash_spec"] = next(filter(None, (about["hash_spec"] for about in abouts)), None)
    report = decision.report
    done = {key: report[key] for key in ("method", "distance", "symmetries")}
    done["against"] = [
        {key: item[key] for key in ("benchmark", "splits", "images")} for item in report["leaks"]
    ]
    earlier = [item for about in abouts for item in about.get("dedup", ())]
    return {**first, "datasets": _datasets(abouts), "dedup": [*earlier, done]}


def _manifest(
    manifests: Sequence[Mapping[str, Any]],
    about: dict[str, Any],
    decision: Decision,
    written: Mapping[str, Sequence[int]],
    counts: Mapping[str, Mapping[str, int]],
    classes: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    gone = _gone(decision)
    held = {name for manifest in manifests for name in manifest["datasets"]}
    datasets = {}
    for name in sorted(held):
        entries = [each["datasets"][name] for each in manifests if name in each["datasets"]]
        count = counts.get(name, {})
        splits: dict[str, Counter[str]] = {}
        for entry in entries:
            for split, numbers in entry.get("splits", {}).items():
                splits.setdefault(split, Counter()).update(numbers)
        datasets[name] = {
            **_account(entries, count, gone.get(name, {})),
            "splits": {split: dict(numbers) for split, numbers in splits.items()},
            "classes": dict(sorted(classes.get(name, {}).items())),
            "unclaimed": sum(entry.get("unclaimed", 0) for entry in entries),
            "paper": entries[0].get("paper", {}),
        }
    reasons: dict[str, Counter[str]] = {}
    for manifest in manifests:
        for action, codes in manifest["reasons"].items():
            reasons.setdefault(action, Counter()).update(codes)
    total: Counter[str] = sum((Counter(count) for count in counts.values()), Counter())
    every: Counter[str] = sum((Counter(count) for count in gone.values()), Counter())
    manifest = {
        "rsdata": about,
        "splits": {
            split: {"files": tables.shard_names(split, len(rows)), "rows": sum(rows)}
            for split, rows in written.items()
        },
        **_account(manifests, total, every),
        "reasons": {action: dict(sorted(codes.items())) for action, codes in reasons.items()},
        "datasets": datasets,
        "dedup": decision.report,
    }
    images = manifest["images"]
    if images["found"] != sum(images[key] for key in tables.PARTS):
        raise RsdataError(f"the account does not add up (please report it): {images}")
    return manifest


def _account(
    parts: Sequence[Mapping[str, Any]], count: Mapping[str, int], gone: Mapping[str, int]
) -> dict[str, Any]:
    """Images and objects found and what became of them, before and now."""
    images = {key: sum(part["images"].get(key, 0) for part in parts) for key in ("found", *tables.PARTS)}
    objects = {key: sum(part["objects"].get(key, 0) for part in parts) for key in _OBJECTS}
    images["written"] = count.get("images", 0)
    images["duplicates"] += gone.get("duplicate", 0)
    images["leaks"] += gone.get("leak", 0)
    objects["removed"] += objects["written"] - count.get("objects", 0)
    objects["written"] = count.get("objects", 0)
    return {"images": images, "objects": objects, "captions": count.get("captions", 0)}


def _gone(decision: Decision) -> dict[str, Counter[str]]:
    """Images that go, by dataset and kind."""
    found: dict[str, Counter[str]] = {}
    for dataset, kind in removals.once(decision.removed):
        found.setdefault(dataset, Counter())[kind] += 1
    return found


def _lists(sources: Sequence[Path], decision: Decision, staging: Path) -> None:
    """The rejections of the sources, and what was removed now and before; and the suspects."""
    rejections = [_read(source / tables.REJECTIONS, REJECTION_SCHEMA) for source in sources]
    earlier = [
        removals.read(source / tables.REMOVED) for source in sources if (source / tables.REMOVED).is_file()
    ]
    held = {
        tables.REJECTIONS: pa.concat_tables(rejections),
        tables.REMOVED: pa.concat_tables([*earlier, decision.removed]),
        tables.SUSPECTS: decision.suspects,
    }
    for name, table in held.items():
        removals.write(staging / name, table)


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return tables.read(path).cast(schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{path}: {error}") from error
