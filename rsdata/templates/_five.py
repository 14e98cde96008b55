"""Five captions of places and counts: those of RemoteCLIP, to which other sets add (see `remoteclip`)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rsdata.records import Record
from rsdata.templates import _grammar as grammar
from rsdata.words import Words

MOST_CLASSES = 3

# Each count caption of an image takes another form, so no two of its captions are equal. Five are needed
# where the image size, and with it the zones, are unknown; the paper's figure has four for a single class.
THERE_ARE = ("in the picture", "in this remote sensing picture")
LOCATED = ("located in the picture", "located in this remote sensing picture")
SHOWS = ("the picture shows", "this remote sensing picture shows")
BOTH = "both"
FORMS = (*THERE_ARE, *LOCATED, *SHOWS)


def write(record: Record, rng: random.Random, words: Words, large_count: str = "vague") -> list[str]:
    """Write five distinct captions, as `remoteclip.write` says."""
    grammar.check_large_count(large_count)
    boxes = grammar.countable(record)
    if not boxes:
        return []
    classes = grammar.ordered(grammar.count(boxes))
    several = [label for label, number in classes if number > 1 and not words.is_mass(label)]
    forms = iter(grammar.draw(rng, (*FORMS, BOTH) if len(several) > 1 else FORMS, 5))
    middle, edge = grammar.count_by_zone(boxes, record)
    captions = []
    for counts, place in ((middle, "in the middle"), (edge, "at the edge"), *[({}, "")] * 3):
        if counts:
            listed = grammar.things(grammar.ordered(counts), rng, words, large_count)
            captions.append(grammar.sentence(f"{listed} {place} of the picture"))
        elif (form := next(forms)) == BOTH:
            pair = " and ".join(words.plural(label) for label in grammar.draw(rng, several, 2))
            captions.append(grammar.sentence(f"there are both {pair} in the picture"))
        else:
            captions.append(grammar.sentence(_counted(form, classes, rng, words, large_count)))
    return captions


def _counted(
    form: str, classes: Sequence[tuple[str, int]], rng: random.Random, words: Words, large_count: str
) -> str:
    size = 1 + int(rng.random() * min(MOST_CLASSES, len(classes)))
    sample = grammar.ordered(dict(grammar.draw(rng, classes, size)))
    if form in THERE_ARE:
        listed = grammar.things(sample, rng, words, large_count, grammar.AFTER_THERE_ARE)
        return f"{grammar.there_are(sample)} {listed} {form}"
    listed = grammar.things(sample, rng, words, large_count)
    if form in SHOWS:
        return f"{form} {listed}"
    verb = "is" if len(sample) == 1 and sample[0][1] == 1 else "are"
    return f"{listed} {verb} {form}"
