"""Image–text retrieval: recall at 1, 5, 10 both ways and their mean (RemoteCLIP, table II)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsclip import metrics
from rsclip.features import Features

KS = (1, 5, 10)


def run(features: Features, ks: Sequence[int] = KS) -> dict[str, float]:
    """Recalls in percent as `metrics.recall_at_k` names them; each again as `chance_…`, a random ranking's.

    `images` and `captions` are the counts the recalls are over, `distinct_captions` how many texts differ:
    an image's own caption scores no better than an equal caption of another image.
    """
    recalls = metrics.recall_at_k(features.images, features.texts, features.owners, ks)
    floor = {f"chance_{name}": value for name, value in metrics.chance(features.owners, ks).items()}
    counts = {
        "images": len(features.images),
        "captions": len(features.texts),
        "distinct_captions": len({text.tobytes() for text in features.texts}),
    }
    return {**recalls, **floor, **counts}


def table(result: Mapping[str, float]) -> str:
    """`run`'s result for people."""
    ks = sorted({int(name.rpartition("@")[2]) for name in result if "@" in name})
    names = {"i2t": "image → text", "t2i": "text → image"}
    rows = [(f"{names[side]}  R@{k}", f"{side}_R@{k}") for side in names for k in ks]
    lines = [f"{'':<20}{'model':>8}{'chance':>8}"]
    for shown, name in [*rows, ("mean recall", "mean_recall")]:
        lines.append(f"{shown:<20}{result[name]:8.2f}{result[f'chance_{name}']:8.2f}")
    counts = "{images} images, {captions} captions, {distinct_captions} of them distinct"
    return "\n".join([*lines, counts.format_map(result)])
