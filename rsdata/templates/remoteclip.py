"""The five captions an image of RemoteCLIP (arXiv 2306.11029, section III-B1 and Fig. 2).

The paper fixes: captions 1 and 2 tell the objects whose box centre is in the centre of the image and those
whose is not; captions 3 to 5 tell counts of random classes; above ten a general term replaces the number.
Chosen here, where the paper is silent: the middle half as centre, all classes of a zone in a location
caption, one to three classes in a count caption, a count caption in place of an empty zone.
"""

from __future__ import annotations

import random

from rsdata.records import Record
from rsdata.templates import _five
from rsdata.words import Words


def write(record: Record, rng: random.Random, words: Words, large_count: str = "vague") -> list[str]:
    """Write five distinct captions, or none where the record has no box to count.

    Args:
        record: its boxes flagged "crowd" are left out; without width and height no caption tells a place.
        rng: draws classes, sentence forms and quantifiers; the order of the boxes has no part in it.
        words: plurals of the labels.
        large_count: counts above ten become a quantifier ("vague"), stay digits ("exact"), or either by
            chance ("mixed": the paper's own figure has "There are 15 aircrafts").

    Raises RecipeError for another large_count, and as Words.plural does.
    """
    return _five.write(record, rng, words, large_count)
