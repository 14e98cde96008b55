"""Image–text retrieval: recall at 1, 5, 10 both ways, and their mean (RemoteCLIP, table II)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from rsclip import metrics
from rsdata.records import HUMAN

if TYPE_CHECKING:
    from rsclip.encode import Encoder
    from rsclip.features import Features, Held

KS = (1, 5, 10)
MANY = (*KS, 100)
PROTOCOLS = ("by-image", "remoteclip", "unique-text")
OPTIONS = [
    click.Option(
        ["--protocol"],
        type=click.Choice(PROTOCOLS),
        default=PROTOCOLS[0],
        show_default=True,
        help="by-image: each caption belongs to one image. remoteclip: that, captions with a large first "
        "letter, images with one file name as one. unique-text: equal captions are one (SkyScript).",
    ),
    click.Option(
        ["--ties"],
        type=click.Choice(metrics.TIES),
        default=metrics.TIES[0],
        show_default=True,
        help="Where equal scores stand: in all orders, right ones first, or right ones last.",
    ),
]
EXAMPLE = "rsclip eval retrieval --checkpoint runs/dior --data rsitmd/ --split test"


def run(
    encoder: Encoder,
    sources: Sequence[Path],
    split: Sequence[str] = (),
    protocol: str = PROTOCOLS[0],
    ties: str = metrics.TIES[0],
) -> dict[str, Any]:
    """Recalls in percent as `metrics` names them; each again as `chance_…`, that of a random ranking.

    `images` and `captions` are the counts the recalls are over, `distinct_captions` how many texts differ:
    an image's own caption scores no better than an equal caption of another image, so `equal_…` says what
    the recalls are if such a caption counts as right too.
    """
    from rsclip import features

    found = features.read(encoder, sources, split)
    if protocol == "remoteclip":
        found = _by_name(encoder, found)
    device = str(encoder.device)
    if protocol == "unique-text":
        recalls = metrics.unique_text_recall(
            found.images, found.texts, found.owners, found.places, MANY, ties=ties, device=device
        )
        floor = {}
    else:
        recalls = metrics.recall_at_k(
            found.images, found.texts, found.owners, KS, found.places, ties=ties, device=device
        )
        floor = {f"chance_{name}": value for name, value in metrics.chance(found.owners, KS).items()}
    counts = {
        "images": len(found.images),
        "captions": len(found.owners),
        "distinct_captions": len(found.captions),
    }
    notes = [*found.notes, *features.of_stated(len(found.images), features.stated_images(sources))]
    return {**recalls, **floor, **counts, "protocol": protocol, "ties": ties, "notes": notes}


def _by_name(encoder: Encoder, found: Features) -> Features:
    """What RemoteCLIP's retrieval.py makes of it: images by file name, sentences by `str.capitalize`."""
    first: dict[str, int] = {}
    merged = [first.setdefault(row.name, number) for number, row in enumerate(found.rows)]
    kept = np.array(sorted(first.values()))
    place = np.searchsorted(kept, merged)
    said = [caption.capitalize() for caption in found.captions]
    captions = list(dict.fromkeys(said))
    index = {caption: number for number, caption in enumerate(captions)}
    places = np.array([index[caption] for caption in said], np.int64)[found.places]
    return found._replace(
        rows=[found.rows[number] for number in kept],
        towers=found.towers[kept],
        images=found.images[kept],
        captions=captions,
        texts=encoder.texts(captions),
        owners=place[found.owners],
        places=places,
    )


def table(result: Mapping[str, Any]) -> str:
    """`run`'s result for people."""
    ks = sorted({int(name.rpartition("@")[2]) for name in result if name.startswith("i2t_R@")})
    names = {"i2t": "image → text", "t2i": "text → image"}
    rows = [(f"{names[side]}  R@{k}", f"{side}_R@{k}") for side in names for k in ks]
    columns = {"": "model", "chance_": "chance", "equal_": "equal captions right"}
    shown = {prefix: title for prefix, title in columns.items() if f"{prefix}mean_recall" in result}
    lines = [f"{'':<20}" + "".join(f"{title:>{_width(title)}}" for title in shown.values())]
    for row, name in [*rows, ("mean recall", "mean_recall")]:
        values = (f"{result[prefix + name]:{_width(title)}.2f}" for prefix, title in shown.items())
        lines.append(f"{row:<20}" + "".join(values))
    counts = "{images} images, {captions} captions, {distinct_captions} of them distinct"
    tied = "; {tied_queries:.1f} % of the queries tie with a wrong answer (ties: {ties})"
    return "\n".join([*lines, (counts + tied * (result["tied_queries"] > 0)).format_map(result)])


def _width(title: str) -> int:
    return max(8, len(title) + 2)


def headline(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of tables: the six recalls and their mean."""
    return {name: result[name] for name in result if name.startswith(("i2t_R@", "t2i_R@", "mean_recall"))}


def applies(held: Held) -> bool:
    """Whether a table's captions are people's, or nobody knows whose."""
    return bool(held.sources & {HUMAN, ""})


def variants(held: Held) -> list[dict[str, Any]]:
    """The options with which `rsclip eval all` runs this."""
    return [{}]
