"""Zero-shot scene classification: the class whose prompt is nearest (RemoteCLIP, table III)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsclip import classify, prompts, scoring

if TYPE_CHECKING:
    from rsclip.encode import Encoder
    from rsclip.features import Held

DEFAULT = "remoteclip"
OPTIONS = [
    click.Option(
        ["--prompts", "names"],
        metavar="NAME|FILE",
        multiple=True,
        help="Sets of prompts, or TOML files; several are one ensemble.  [default: the recipe's first, else "
        "remoteclip]",
    ),
    click.Option(
        ["--ensemble"],
        type=click.Choice(prompts.ENSEMBLES),
        help="Average of a class's prompts: of unit length (CLIP), or as the tower gives them (GeoRSCLIP).  "
        "[default: the set's]",
    ),
]
EXAMPLE = "rsclip eval zeroshot --checkpoint runs/dior --data eurosat/ --prompts rs5m"


def run(
    encoder: Encoder,
    sources: Sequence[Path],
    split: Sequence[str] = (),
    names: Sequence[str] = (),
    ensemble: str | None = None,
) -> dict[str, Any]:
    """Accuracy in percent on the test images as `scoring.report` gives it, and what was asked."""
    from rsclip import features

    sets = [prompts.load(name) for name in names]
    scenes = features.scenes(encoder, sources, split)
    sets = sets or [prompts.load(scenes.prompts[0] if scenes.prompts else DEFAULT)]
    templates = list(dict.fromkeys(text for each in sets for text in each.templates))
    said = [[text.replace("{}", features.spoken(name)) for text in templates] for name in scenes.classes]
    texts = encoder.texts([text for each in said for text in each], normalised=False)
    per_class = texts.reshape(len(said), len(templates), -1)
    ensemble = ensemble or sets[0].ensemble
    weights = classify.zero_shot_weights(list(per_class), ensemble)
    scores = scenes.images[scenes.test] @ weights.T
    result = scoring.report(scores, scenes.labels[scenes.test], scenes.classes, scenes.notes)
    return {
        **result,
        "prompts": [each.name for each in sets],
        "templates": len(templates),
        "ensemble": ensemble,
    }


def table(result: Mapping[str, Any]) -> str:
    """`run`'s result for people."""
    title = f"prompts {' + '.join(result['prompts'])} ({result['templates']}, {result['ensemble']})"
    return scoring.table(result, title)


headline = scoring.headline


def applies(held: Held) -> bool:
    """Whether a table's rows have classes."""
    return held.labels


def variants(held: Held) -> list[dict[str, Any]]:
    """The options with which `rsclip eval all` runs this."""
    return [{"names": (name,)} for name in held.prompts or (DEFAULT,)]
