"""The leak guard: what a model was trained on beside what it is about to be scored on.

A run keeps the fingerprints of its tables (FINGERPRINTS): hashes, digests and names, no pixels. They are
compared with those of a benchmark as `rsdata dedup --against` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsclip import run, store
from rsclip.store import Source
from rsdata import dedup, fingerprints
from rsdata.errors import TableError

FINGERPRINTS = "fingerprints"


def keep(folder: Path, sources: Sequence[Source]) -> Iterator[str]:
    """Write the fingerprints of `sources` to the run's `folder`; a note on each table that has none."""
    (folder / FINGERPRINTS).mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(sources):
        try:
            fingerprints.write(source.table, folder / FINGERPRINTS / f"{number}.parquet", source.splits)
        except TableError as error:
            yield f"leaks into benchmarks will not be seen: {error}"


def warnings(checkpoint: Path, benchmark: Path, split: Sequence[str] = ()) -> Iterator[str]:
    """What makes scores of the model in the run `checkpoint` on a table doubtful, a line each.

    split: the splits that are scored; without, "test" where the table has it, else all. Nothing is said of a
    checkpoint that is no run of ours: nobody knows what it was trained on.
    """
    folder = next((each for each in (checkpoint, checkpoint.parent) if (each / run.ABOUT).is_file()), None)
    if folder is None or not checkpoint.exists():  # a tag is not the run that one stands in
        return
    trained = json.loads((folder / run.ABOUT).read_text(encoding="utf-8"))["tables"]
    unknown = 0
    for number, held in enumerate(trained):
        path = folder / FINGERPRINTS / f"{number}.parquet"
        try:
            yield from _leaks(path, held["path"], benchmark, store.splits_of(benchmark, split, "test"))
        except TableError:
            unknown += 1
    if unknown:
        yield (
            f"{benchmark}: whether the model was trained on its images is not known: it, or {unknown} of "
            f"{len(trained)} tables trained on, have no fingerprints"
        )


def _leaks(path: Path, name: str, benchmark: Path, splits: Sequence[str]) -> Iterator[str]:
    options = dedup.Options(method="none", against_splits=tuple(splits))
    training = fingerprints.open_source(path)
    found = dedup.decide([training], [fingerprints.open_source(benchmark)], options)
    same = found.report["held_out"]
    twins = found.removed["twin"].unique()
    if same:
        yield f"{benchmark}: {same} of its images were trained on (as {name}): its scores mean nothing"
    if len(twins):
        count, of = len(twins), found.report["leaks"][0]["images"]
        yield (
            f"{benchmark}: {count} of {of} images have near-duplicates in {name}, which was trained "
            f"on, such as {twins[0]}: scores flatter (rsdata dedup {name} --against {benchmark})"
        )
