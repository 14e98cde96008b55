"""One caption an image, its number a word, of images that show up to ten objects of one class.

A re-creation of RemoteCount, the counting benchmark of RemoteCLIP (arXiv 2306.11029): 947 pairs that people
annotated, mainly of DOTA's val split, of 13 classes and the numbers from one to ten. The paper never prints
its wording, so this is the plainest sentence of our own grammar; the pairs are not the published ones.

    There are three planes in the picture.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from rsdata.records import Record
from rsdata.templates import _grammar as grammar
from rsdata.words import Words

UNSURE = ("crowd", "difficult", "truncated", "generated")
"""Flags of boxes that may stand for more, or less, than one object that can be seen."""


def ineligible(labels: Sequence[str], flags: Collection[str], counted: Collection[str]) -> str | None:
    """Why an image is no part of the set, None where it is: its presence says that the set selects.

    labels: of its boxes, each. flags: of any of them. counted: labels that may be asked for; all if none.
    """
    if not labels:
        return "no object"
    if (classes := len(set(labels))) > 1:
        return f"{classes} classes"
    if counted and labels[0] not in counted:
        return f"{labels[0]} is not counted"
    if len(labels) > grammar.MOST_EXACT:
        return f"{len(labels)} objects"
    return next((f"an object is {flag}" for flag in UNSURE if flag in flags), None)


def write(record: Record, rng: random.Random, words: Words, large_count: str = "vague") -> list[str]:
    """Write the one caption of an eligible record, whatever its class; [] for another.

    Nothing is drawn, and `large_count` has no say, as no number is large. Raises RecipeError as `remoteclip`.
    """
    grammar.check_large_count(large_count)
    labels = [box.label for box in record.boxes]
    if ineligible(labels, {flag for box in record.boxes for flag in box.flags}, ()):
        return []
    counted = (labels[0], len(labels))
    return [f"{grammar.there_are([counted])} {words.spelled(*counted)} in the picture."]
