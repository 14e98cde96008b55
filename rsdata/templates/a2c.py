"""The two captions an image of A2C (He et al., "Rethinking Remote Sensing CLIP"): every class, counted."""

from __future__ import annotations

import random

from rsdata.records import Record
from rsdata.templates import _grammar as grammar
from rsdata.words import Words


def write(record: Record, rng: random.Random, words: Words, large_count: str = "vague") -> list[str]:
    """Write the classes of the whole image, then those of its centre and of its edge; [] without a box.

    Without width and height there is no second caption. The arguments and errors are those of `remoteclip`.
    """
    grammar.check_large_count(large_count)
    boxes = grammar.countable(record)
    if not boxes:
        return []

    def listed(counts: dict[str, int]) -> str:
        return grammar.things(grammar.ordered(counts), rng, words, large_count, grammar.AFTER_THERE_ARE)

    whole = grammar.count(boxes)
    captions = [f"{grammar.there_are(grammar.ordered(whole))} {listed(whole)} in this image."]
    middle, edge = grammar.count_by_zone(boxes, record)
    places = [
        f"{listed(counts)} {place}"
        for counts, place in ((middle, "in the center"), (edge, "at the edge"))
        if counts
    ]
    if places:
        verb = grammar.there_are(grammar.ordered(middle or edge))
        captions.append(f"{verb} {', and '.join(places)} of this image.")
    return captions
