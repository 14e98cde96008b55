"""k-NN: a vote of the nearest images by frozen features of the image tower (RemoteCLIP, table IV)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsclip import classify, scoring

if TYPE_CHECKING:
    from rsclip.encode import Encoder
    from rsclip.features import Held

OPTIONS = [
    scoring.protocol(
        "honest: k and temperature are chosen on a fifth of the train images. paper: k = 20, "
        "temperature 0.07."
    ),
    scoring.SEED,
]
EXAMPLE = "rsclip eval knn --checkpoint runs/dior --data eurosat/"


def run(
    encoder: Encoder,
    sources: Sequence[Path],
    split: Sequence[str] = (),
    protocol: str = scoring.PROTOCOLS[0],
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy in percent as `scoring.report` gives it. Features are those before the projection."""
    from rsclip import features

    scenes = features.scenes(encoder, sources, split)
    scoring.check_trainable(scenes)
    labels, size, device = scenes.labels, len(scenes.classes), str(encoder.device)
    train, test = scenes.towers[scenes.train], scenes.towers[scenes.test]
    found: dict[str, Any]
    if protocol == "paper":
        scores = classify.knn(train, labels[scenes.train], test, size, device=device)
        found = {"k": classify.K, "temperature": classify.TEMPERATURE}
    else:
        found = classify.knn_honest(train, labels[scenes.train], test, size, seed=seed, device=device)
        scores = found.pop("scores")
    result = scoring.report(scores, labels[scenes.test], scenes.classes, scenes.notes)
    return {**result, **found, "protocol": protocol, "seed": seed, "train_images": len(train)}


def table(result: Mapping[str, Any]) -> str:
    """`run`'s result for people."""
    chosen = "" if result["protocol"] == "paper" else ", chosen on validation images"
    title = f"{{protocol}} protocol: k = {{k}}, temperature {{temperature:g}}{chosen}"
    return scoring.table(result, title.format_map(result))


headline = scoring.headline


def applies(held: Held) -> bool:
    """Whether a table's rows have classes."""
    return held.labels


def variants(held: Held) -> list[dict[str, Any]]:
    """The options with which `rsclip eval all` runs this."""
    return [{"protocol": name} for name in scoring.PROTOCOLS]
