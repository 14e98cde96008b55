"""What the scene classification tasks share: their options, and how their scores are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from rsclip import classify
from rsdata.errors import TableError

if TYPE_CHECKING:
    from rsclip.encode import Encoder
    from rsclip.features import Scenes

PROTOCOLS = ("honest", "paper")
WORST = 5
"""Classes that a table for people names."""


def protocol(help: str) -> click.Option:
    """The option --protocol of a task."""
    return click.Option(
        ["--protocol"], type=click.Choice(PROTOCOLS), default=PROTOCOLS[0], show_default=True, help=help
    )


SEED = click.Option(["--seed"], type=int, default=0, show_default=True, help="Of what is drawn.")


def check_trainable(scenes: Scenes) -> None:
    """Raise TableError where there is nothing to train or nothing to test on."""
    for rows, what, remedy in (
        (scenes.train, "train", "the table has no split train: leave out --split, or convert it with one"),
        (scenes.test, "test", "each class needs two images or more, or the table a split test"),
    ):
        if not len(rows):
            raise TableError(f"no image to {what} on: {remedy}")


class Trial(NamedTuple):
    """What a probe is trained and scored on: features float [images, width], labels int [images]."""

    train: Any
    labels: Any
    test: Any
    test_labels: Any
    classes: int
    device: str


def trained(
    encoder: Encoder, sources: Sequence[Path], split: Sequence[str], score: Callable[[Trial], dict[str, Any]]
) -> dict[str, Any]:
    """`report` of what `score` makes of the features before the projection: its "scores", and what it adds.

    Raises TableError as `features.scenes`, and where there is nothing to train or to test on.
    """
    from rsclip import features

    scenes = features.scenes(encoder, sources, split)
    check_trainable(scenes)
    towers, labels = scenes.towers, scenes.labels
    train = towers[scenes.train], labels[scenes.train]
    test = towers[scenes.test], labels[scenes.test]
    found = score(Trial(*train, *test, len(scenes.classes), str(encoder.device)))
    result = report(found.pop("scores"), test[1], scenes.classes, scenes.notes)
    return {**result, **found, "train_images": len(scenes.train)}


def report(scores: Any, labels: Any, classes: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    """Scores float [images, classes] and labels int [images] as numbers in percent.

    top1, top5 (where there are more than five classes), interval (95 %, Wilson), mean_per_class, per_class by
    name, confusion (rows are true classes), chance, images, classes, notes.
    """
    if not len(labels):
        raise TableError(
            "no image to test on: each class needs two images or more, or the table a split test"
        )
    found = classify.accuracy(scores, labels)
    if len(classes) <= 5:
        del found["top5"]
    per_class = dict(zip(classes, found.pop("per_class"), strict=True))
    confusion = found.pop("confusion").tolist()
    hits = found["top1"] * len(labels) / 100
    return {
        **found,
        "interval": list(classify.wilson(hits, len(labels))),
        "per_class": per_class,
        "confusion": confusion,
        "chance": 100 / len(classes),
        "images": len(labels),
        "classes": list(classes),
        "notes": list(notes),
    }


def table(result: Mapping[str, Any], title: str) -> str:
    """`report`'s result for people, under a line that says how it was made."""
    low, high = result["interval"]
    lines = [title, f"{'top-1':<16}{result['top1']:7.2f}   (95 %: {low:.2f} to {high:.2f})"]
    if "top5" in result:
        lines.append(f"{'top-5':<16}{result['top5']:7.2f}")
    lines.append(f"{'mean per class':<16}{result['mean_per_class']:7.2f}")
    told = sorted((value, name) for name, value in result["per_class"].items() if value is not None)
    worst = ", ".join(f"{name} {value:.0f}" for value, name in told[:WORST])
    lines.append(f"{'worst classes':<16} {worst}")
    counts = "{images} test images, {} classes; chance {chance:.2f}"
    return "\n".join(
        [*lines, counts.format(len(result["classes"]), **{k: result[k] for k in ("images", "chance")})]
    )


def headline(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of tables: top-1."""
    return {"top1": result["top1"]}
