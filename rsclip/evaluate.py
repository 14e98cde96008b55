"""Every task on every table that has what it takes, for one model or several: what `rsclip eval all` does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rsclip import config as configs
from rsclip import encode, features, guard, report, run
from rsclip.encode import Encoder
from rsdata import tables
from rsdata.errors import RsdataError, TableError

FIRST = ("retrieval", "zeroshot", "linear-probe", "knn", "fewshot", "counting")
"""Tasks in the order of the paper; others follow by name."""


class Benchmark(NamedTuple):
    """A table to score on. name: under which it is reported."""

    name: str
    table: Path
    datasets: list[str]


def benchmarks(roots: Sequence[Path]) -> list[Benchmark]:
    """The tables at or under `roots`, in the order of their names.

    Raises TableError where there is none.
    """
    found = list(dict.fromkeys(table for root in roots for table in _tables(root)))
    if not found:
        raise TableError(f"{', '.join(map(str, roots))}: no table in it (rsdata convert writes them)")
    short = [table.name for table in found]
    return [
        Benchmark(
            table.name if short.count(table.name) == 1 else str(table),
            table,
            _datasets(table),
        )
        for table in found
    ]


def _datasets(table: Path) -> list[str]:
    """The names of a table's datasets; none of a table that cannot be read, which is skipped later."""
    try:
        return sorted(tables.manifest(table).get("datasets", {}))
    except TableError:
        return []


def _tables(root: Path) -> Iterator[Path]:
    if (root / tables.MANIFEST).is_file():
        yield root
    elif root.is_dir():
        for path in sorted(root.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _tables(path)


def all_tasks(
    tasks: Mapping[str, ModuleType],
    checkpoints: Sequence[tuple[str, str | None, Callable[[], Encoder]]],
    roots: Sequence[Path],
    folder: Path,
    split: Sequence[str] = (),
) -> dict[str, Any]:
    """Run all that applies, write the report to `folder` after each model, and return its data.

    tasks: their modules by name. checkpoints: of each its path or tag, its model if it is no folder, and
    what opens it. A task that fails on a table is listed as skipped, with the reason. Raises RsdataError
    where a model cannot be opened, TableError where there is no table, or nothing could be scored.
    """
    found = benchmarks(roots)
    names = _names([checkpoint for checkpoint, *_ in checkpoints])
    scores: dict[str, Any] = {"checkpoints": [], "results": [], "skipped": [], "versions": run.versions()}
    for name, (checkpoint, model, opened) in zip(names, checkpoints, strict=True):
        encoder = opened()
        about = {"name": name, "path": checkpoint, "model": model or _model_of(Path(checkpoint))}
        about["weights"] = encode.digest(encoder.clip)
        scores["checkpoints"].append(about)
        for benchmark in found:
            for task, outcome in _on(encoder, checkpoint, benchmark, tasks, split):
                key = "skipped" if "why" in outcome else "results"
                of = {
                    "checkpoint": name,
                    "data": benchmark.name,
                    "datasets": benchmark.datasets,
                    "task": task,
                }
                scores[key].append({**of, **outcome})
        report.write(scores, folder)
    if not scores["results"]:
        raise TableError(f"nothing could be scored: {scores['skipped'][0]['why']}")
    return scores


def _on(
    encoder: Encoder,
    checkpoint: str,
    benchmark: Benchmark,
    tasks: Mapping[str, ModuleType],
    split: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each task that applies to a table, with its options and result, or why it was skipped."""
    try:
        held = features.held(benchmark.table)
        doubts = list(guard.warnings(Path(checkpoint), benchmark.table, split))
    except RsdataError as error:
        yield "", {"why": str(error)}
        return
    applied = False
    for task in sorted(tasks, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name)):
        module = tasks[task]
        if not module.applies(held):
            continue
        applied = True
        for options in module.variants(held):
            told = " ".join(str(value) for value in options.values())
            print(f"{benchmark.name}: {task} {told}", file=sys.stderr, flush=True)
            try:
                result = module.run(encoder, [benchmark.table], split, **options)
            except RsdataError as error:
                yield task, {"options": options, "why": str(error)}
            else:
                result["notes"] = [*result["notes"], *doubts]
                yield task, {"options": options, "result": result}
    if not applied:
        yield "", {"why": "has neither classes nor captions that a task takes"}


def _names(checkpoints: Sequence[str]) -> list[str]:
    """A short name for each: the last part of its path that tells it from the others."""
    short = []
    for each in checkpoints:
        path = Path(each)
        short.append(f"{path.parent.name}/best" if path.name == "best" else path.name)
    return [name if short.count(name) == 1 else each for name, each in zip(short, checkpoints, strict=True)]


def _model_of(folder: Path) -> str:
    """The model that a run is of, as its options say; "" of a folder that is no run."""
    for path in (folder / run.CONFIG, folder.parent / run.CONFIG):
        if path.is_file():
            return str(configs.options(path).get("model", ""))
    return ""
