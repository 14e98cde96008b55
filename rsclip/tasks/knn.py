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

    def score(trial: scoring.Trial) -> dict[str, Any]:
        train, labels, test, _, classes, device = trial
        if protocol == "paper":
            scores = classify.knn(train, labels, test, classes, device=device)
            return {"scores": scores, "k": classify.K, "temperature": classify.TEMPERATURE}
        return classify.knn_honest(train, labels, test, classes, seed, device)

    return {**scoring.trained(encoder, sources, split, score), "protocol": protocol, "seed": seed}


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
