"""Few-shot classification: logistic regression on 1 to 32 images a class (RemoteCLIP, figure 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsclip import classify, scoring

if TYPE_CHECKING:
    from rsclip.encode import Encoder
    from rsclip.features import Held

SHOTS = (1, 4, 8, 16, 32)
OPTIONS = [
    scoring.protocol(
        "honest: the regularisation is chosen on at most 4 further images a class. paper: the best of 1,000 "
        "epochs on the test images, as published numbers are."
    ),
    click.Option(
        ["--shots"],
        type=click.IntRange(1),
        multiple=True,
        default=SHOTS,
        show_default=True,
        help="Images a class; repeatable.",
    ),
    click.Option(
        ["--repeats"], type=click.IntRange(1), default=5, show_default=True, help="Draws of the images."
    ),
    scoring.SEED,
]
EXAMPLE = "rsclip eval fewshot --checkpoint runs/dior --data eurosat/ --shots 1 --shots 16"


def run(
    encoder: Encoder,
    sources: Sequence[Path],
    split: Sequence[str] = (),
    protocol: str = scoring.PROTOCOLS[0],
    shots: Sequence[int] = SHOTS,
    repeats: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """`top1_N`, the mean accuracy in percent over the repeats with N shots, `interval_N` its 95 % half width.

    The same images are drawn for every model: `drawn` has the ids of each draw.
    """
    from rsclip import features

    scenes = features.scenes(encoder, sources, split)
    scoring.check_trainable(scenes)
    train = scenes.train
    ids, labels = [scenes.ids[row] for row in train], scenes.labels[train]
    most = max(shots)
    counts = [int((labels == number).sum()) for number in range(len(scenes.classes))]
    short = [name for name, count in zip(scenes.classes, counts, strict=True) if count < most]
    notes = list(scenes.notes)
    if short:
        notes.append(
            f"classes with fewer than {most} images to train on: {', '.join(short[:5])}: "
            "all they have are used"
        )
    values: dict[str, Any] = {}
    drawn: dict[str, list[list[str]]] = {}
    for number in sorted(set(shots)):
        scores = []
        for repeat in range(repeats):
            chosen, held_out = classify.shots_of(ids, labels, number, repeat, seed)
            drawn.setdefault(str(number), []).append([ids[row] for row in chosen])
            scores.append(
                classify.few_shot(
                    scenes.towers[train],
                    labels,
                    chosen,
                    held_out,
                    scenes.towers[scenes.test],
                    scenes.labels[scenes.test],
                    len(scenes.classes),
                    protocol=protocol,
                    seed=seed + repeat,
                    device=str(encoder.device),
                )
            )
        values[f"top1_{number}"], values[f"interval_{number}"] = classify.interval(scores)
        values[f"each_{number}"] = scores
    return {
        **values,
        "shots": sorted(set(shots)),
        "repeats": repeats,
        "images": len(scenes.test),
        "classes": scenes.classes,
        "chance": 100 / len(scenes.classes),
        "protocol": protocol,
        "seed": seed,
        "drawn": drawn,
        "notes": notes,
    }


def table(result: Mapping[str, Any]) -> str:
    """`run`'s result for people."""
    how = " (best epoch ON THE TEST IMAGES)" if result["protocol"] == "paper" else ""
    lines = [f"{result['protocol']} protocol{how}, {result['repeats']} draws", f"{'shots':>5}{'top-1':>9}"]
    for shots in result["shots"]:
        width = result[f"interval_{shots}"]
        spread = "" if width is None else f" ± {width:.2f}"
        lines.append(f"{shots:>5}{result[f'top1_{shots}']:9.2f}{spread}")
    lines.append(
        f"{result['images']} test images, {len(result['classes'])} classes; chance {result['chance']:.2f}"
    )
    return "\n".join(lines)


def headline(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of tables: accuracy by shots."""
    return {f"top1_{shots}": result[f"top1_{shots}"] for shots in result["shots"]}


def applies(held: Held) -> bool:
    """Whether a table's rows have classes."""
    return held.labels


def variants(held: Held) -> list[dict[str, Any]]:
    """The options with which `rsclip eval all` runs this."""
    return [{"protocol": name} for name in scoring.PROTOCOLS]
