"""Linear probe: logistic regression on frozen features of the image tower (RemoteCLIP, table IV)."""

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
        "honest: the regularisation is chosen on a fifth of the train images. paper: the best of 1,000 "
        "epochs on the test images, as published numbers are."
    ),
    scoring.SEED,
]
EXAMPLE = "rsclip eval linear-probe --checkpoint runs/dior --data eurosat/"


def run(
    encoder: Encoder,
    sources: Sequence[Path],
    split: Sequence[str] = (),
    protocol: str = scoring.PROTOCOLS[0],
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy in percent as `scoring.report` gives it. Features are those before the projection."""

    def score(trial: scoring.Trial) -> dict[str, Any]:
        train, labels, test, test_labels, classes, device = trial
        if protocol == "paper":
            return classify.paper_probe(train, labels, test, test_labels, classes, seed, device)
        return classify.probe(train, labels, test, classes, seed, device)

    return {**scoring.trained(encoder, sources, split, score), "protocol": protocol, "seed": seed}


def table(result: Mapping[str, Any]) -> str:
    """`run`'s result for people."""
    if result["protocol"] == "paper":
        title = (
            "paper protocol: the best of 1,000 epochs ON THE TEST IMAGES, {best_epoch}; last: {last_top1:.2f}"
        )
    else:
        title = "honest protocol: C = {C:g}, chosen on validation images ({validation_top1:.2f})"
        if result["validation_top1"] is None:
            title = "honest protocol: C = {C:g}, as no image could be held out"
    return scoring.table(result, title.format_map(result))


headline = scoring.headline


def applies(held: Held) -> bool:
    """Whether a table's rows have classes."""
    return held.labels


def variants(held: Held) -> list[dict[str, Any]]:
    """The options with which `rsclip eval all` runs this."""
    return [{"protocol": name} for name in scoring.PROTOCOLS]
