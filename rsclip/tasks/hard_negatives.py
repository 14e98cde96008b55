"""Hard negatives: is a caption nearer to its image than the same caption made false in one thing?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from rsdata.records import HUMAN

if TYPE_CHECKING:
    from rsclip.encode import Encoder
    from rsclip.features import Held

OPTIONS: list[click.Option] = []
EXAMPLE = "rsclip eval hard-negatives --checkpoint runs/dior --data tables/dota --split val"


def run(encoder: Encoder, sources: Sequence[Path], split: Sequence[str] = ()) -> dict[str, Any]:
    """Of the captions that our caption sets wrote, the share in percent that beats its false twin.

    By what was made false (rsdata/hard_negatives.py): `number`, `class`, `place`, and `mean` of those there
    are; `pairs_…` are their counts. A tie counts half. Chance is 50.
    """
    from rsclip import features
    from rsdata.errors import TableError

    found = features.read(encoder, sources, split)
    place = {row.image_id: number for number, row in enumerate(found.rows)}
    image: list[int] = []
    kinds: list[str] = []
    said: list[str] = []
    false: list[str] = []
    for image_id, caption, kind, twin in _pairs(sources, split):
        if image_id in place:
            image.append(place[image_id])
            kinds.append(kind)
            said.append(caption)
            false.append(twin)
    if not image:
        raise TableError(
            f"{sources[0]}: no caption that a false one can be made of: it takes those that rsdata wrote "
            "of boxes"
        )
    index = {caption: number for number, caption in enumerate(found.captions)}
    truth = found.texts[[index[caption] for caption in said]]
    twins = list(dict.fromkeys(false))
    order = {caption: number for number, caption in enumerate(twins)}
    lie = encoder.texts(twins)[[order[caption] for caption in false]]
    of = found.images[image]
    right, wrong = (np.einsum("nd,nd->n", of, text) for text in (truth, lie))
    won = np.where(right == wrong, 0.5, right > wrong)
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, value in zip(kinds, won.tolist(), strict=True):
        by_kind[kind].append(value)
    shares = {kind: 100 * float(np.mean(values)) for kind, values in sorted(by_kind.items())}
    counts = {f"pairs_{kind}": len(values) for kind, values in sorted(by_kind.items())}
    mean = float(np.mean(list(shares.values())))
    images = len(set(image))
    return {**shares, "mean": mean, **counts, "chance": 50.0, "images": images, "notes": found.notes}


def _pairs(sources: Sequence[Path], split: Sequence[str]) -> Any:
    """(image id, caption, what is false, the false caption) of all rows."""
    from rsclip import store
    from rsdata import tables

    for table in sources:
        nouns = store.nouns_of(table)
        for path in tables.shards(table, store.splits_of(table, split, "test")):
            with store.opened(path) as file:
                for number in range(file.num_row_groups):
                    group = file.read_row_group(number, columns=store.FALSE_COLUMNS)
                    ids, captions = group["image_id"].to_pylist(), group["captions"].to_pylist()
                    held = store.false_captions(group, nouns)
                    for image_id, own, twins in zip(ids, captions, held, strict=True):
                        for caption, kinds in zip(own or (), twins or (), strict=False):
                            yield from ((image_id, caption, kind, twin) for kind, twin in kinds.items())


def table(result: Mapping[str, Any]) -> str:
    """`run`'s result for people."""
    lines = [f"{'false in':<12}{'model':>8}{'chance':>8}{'pairs':>9}"]
    for name in headline(result):
        pairs = result.get(f"pairs_{name}", "")
        lines.append(f"{name:<12}{result[name]:8.2f}{result['chance']:8.2f}{pairs:>9}")
    return "\n".join([*lines, f"{result['images']} images"])


def headline(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of tables."""
    return {name: result[name] for name in ("number", "class", "place", "mean") if name in result}


def applies(held: Held) -> bool:
    """Whether a table's captions are of a caption set, for which false ones can be made."""
    return bool(held.sources - {HUMAN, "", "remotecount"})


def variants(held: Held) -> list[dict[str, Any]]:
    """The options with which `rsclip eval all` runs this."""
    return [{}]
