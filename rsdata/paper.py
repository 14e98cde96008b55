"""The counts that a dataset's paper states, beside what its dumps hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_UNSPLIT = "unsplit"
_UNITS = (("images", "images"), ("boxes", "objects"), ("classes", "classes"))


def found(entries: Sequence[Mapping[str, Any]], only: Sequence[str]) -> dict[str, int]:
    """Images, objects and classes that the dumps of a dataset hold, `only` in these splits if any.

    entries: what the manifests say of the dataset. An unsplit dump may be any part of it, so it counts: to
    say "found 0" of it would mislead.
    """
    held = {"images": 0, "objects": 0}
    held["classes"] = len({label for entry in entries for label in entry.get("classes", ())})
    for entry in entries:
        for unit in ("images", "objects"):
            if only and "splits" in entry:
                splits = entry["splits"].items()
                held[unit] += sum(counts[unit] for split, counts in splits if split in (*only, _UNSPLIT))
            else:
                held[unit] += entry.get(unit, {}).get("found", 0)
    return held


def lines(name: str, paper: Mapping[str, Any], held: Mapping[str, int]) -> list[str]:
    """Lines such as "paper: 1,409 images, found 1,411" under the name of the dataset; [] without counts.

    paper: the recipe's [paper]. held: as `found` gives it.
    """
    stated = [(theirs, ours) for theirs, ours in _UNITS if theirs in paper]
    of = f" ({paper['of']})" if paper.get("of") else ""
    counts = [f"  paper: {paper[theirs]:,} {theirs}, found {held[ours]:,}" for theirs, ours in stated]
    return [f"{name}{of}", *counts] if counts else []
