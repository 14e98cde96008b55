"""Hard negatives: a caption of ours made false in one thing alone, a number, a class or a place.

The parser of rsdata/box_to_caption.py says where the counted nouns stand; what is written there instead is
proven false by the same parser and boxes that prove captions true.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

from rsdata import box_to_caption, statements
from rsdata.box_to_caption import Claim, Phrase
from rsdata.records import Record
from rsdata.templates import _grammar as grammar
from rsdata.words import NUMBERS, Words

KINDS = ("number", "class", "place")

NEAR = 2
"""Wrong numbers at most this far from the true one are taken first: they are the hardest to tell."""

_BOTH = (2, None)
"""Least and most of "both ships and harbors"."""

_Draft: TypeAlias = tuple[str, list[Claim]]
"""A sentence without its capital, and what it is meant to claim."""
_Edit: TypeAlias = tuple[Phrase, str, Claim]
"""A counted noun, and what is said and claimed in its stead."""


def hard_negatives(
    caption: str, record: Record, words: Words, nouns: Collection[str], rng: random.Random
) -> dict[str, str]:
    """Write one false caption of each of KINDS that can be made of `caption`.

    The statements of a rich caption are kept as they are: without them its length alone would tell the false
    one. "both ships and harbors" has no number to change.

    Args:
        caption: a sentence of any of our caption sets.
        record: the boxes, width and height that it was written of; cover, whose labels count as present.
        words: the plurals that it was written with.
        nouns: the labels to draw another class from.
        rng: draws what is changed, and into what.

    Returns {} for a caption that is no such sentence (as of people), or that the record contradicts. Raises
    RecipeError as Words.plural.
    """
    head, _ = statements.parts(caption)
    tail = caption[len(head) - 1 :]
    labels = {box.label for box in record.boxes}
    known = labels.union(nouns)
    found = _phrases(head, words, known) if tail else []
    if not found:
        return {}
    counts = box_to_caption.held(record)

    def is_false(claims: Iterable[Claim]) -> bool:
        return any(box_to_caption.fault(claim, record, counts) for claim in claims)

    if is_false(phrase.claim for phrase in found):
        return {}
    text = head[0].lower() + head[1:]
    labels.update(label for label, _ in record.cover)
    absent = sorted(noun for noun in known - labels if not _overlaps(noun, labels))
    drafts = (
        (
            _replaced(text, found, *edit)
            for edit in _numbers(text, _drawn(found, tail, words, rng), words, rng)
        ),
        (
            _replaced(text, found, *edit)
            for edit in _classes(text, _drawn(found, tail, words, rng), words, absent, rng)
        ),
        _of_place(text, found),
    )
    negatives = {}
    for kind, candidates in zip(KINDS, drafts, strict=True):
        for false, claims in _in_order_first(candidates):
            read = [phrase.claim for phrase in _phrases(false, words, known)]
            if read == claims and is_false(claims):
                first = false[0] if head[0].islower() else false[0].upper()
                negatives[kind] = first + false[1:-1] + tail
                break
    return negatives


def _phrases(text: str, words: Words, nouns: Collection[str]) -> list[Phrase]:
    try:
        return box_to_caption.phrases(text, words, nouns)
    except ValueError:
        return []


def _overlaps(noun: str, labels: Collection[str]) -> bool:
    """Whether a noun is the last words of a label or the other way round: a large vehicle is a vehicle."""
    return any(noun.endswith(f" {label}") or label.endswith(f" {noun}") for label in labels)


def _drawn(found: Sequence[Phrase], tail: str, words: Words, rng: random.Random) -> list[Phrase]:
    """Those first that no statement names: it would tell the change without the picture."""
    return sorted(
        grammar.draw(rng, found, len(found)),
        key=lambda each: each.claim.label in tail or words.plural(each.claim.label) in tail,
    )


def _in_order_first(drafts: Iterable[_Draft]) -> Iterator[_Draft]:
    """Those first that list classes as our sets do: another order tells the change without the picture."""
    others = []
    for draft in drafts:
        if all(
            one.place != other.place or not one.most or (-one.most, one.label) < (-other.least, other.label)
            for one, other in pairwise(draft[1])
        ):
            yield draft
        else:
            others.append(draft)
    yield from others


def _numbers(text: str, drawn: Sequence[Phrase], words: Words, rng: random.Random) -> Iterator[_Edit]:
    for phrase in drawn:
        label, least, most, place = phrase.claim
        if (least, most) == _BOTH:
            continue
        others = [number for number in range(1, grammar.MOST_EXACT + 1) if number != most]
        others = grammar.draw(rng, others, len(others))
        for number in sorted(others, key=lambda other: most is not None and abs(other - most) > NEAR):
            counted = _counted(text[phrase.start : phrase.end], label, number, words)
            yield phrase, counted, Claim(label, number, number, place)


def _classes(
    text: str, drawn: Sequence[Phrase], words: Words, absent: Sequence[str], rng: random.Random
) -> Iterator[_Edit]:
    for phrase in drawn:
        for noun in grammar.draw(rng, absent, len(absent)):
            counted = _renamed(text[phrase.start : phrase.end], phrase.claim, noun, words)
            yield phrase, counted, phrase.claim._replace(label=noun)


def _renamed(counted: str, claim: Claim, noun: str, words: Words) -> str:
    """Another noun, counted alike."""
    if (claim.least, claim.most) == _BOTH:
        return words.plural(noun)
    if claim.most is not None:
        return _counted(counted, noun, claim.most, words)
    return words.phrase(noun, next(each for each in grammar.QUANTIFIERS if counted.startswith(f"{each} ")))


def _counted(before: str, noun: str, number: int, words: Words) -> str:
    """A noun counted in digits or by a word, as what it replaces."""
    spelled = before.partition(" ")[0] in NUMBERS
    return words.spelled(noun, number) if spelled else words.phrase(noun, number)


def _replaced(text: str, found: Sequence[Phrase], phrase: Phrase, counted: str, claim: Claim) -> _Draft:
    start, end = found[0].start, found[-1].end
    listed = text[start : phrase.start] + counted + text[phrase.end : end]
    claims = [claim if each is phrase else each.claim for each in found]
    return _agreeing(text[:start], listed, text[end:], claims), claims


def _of_place(text: str, found: Sequence[Phrase]) -> Iterator[_Draft]:
    """The other place; where both are told, each gets what the other has."""
    middle = [phrase for phrase in found if phrase.claim.place == "middle"]
    edge = [phrase for phrase in found if phrase.claim.place == "edge"]
    start, end = found[0].start, found[-1].end
    listed, after = text[start:end], text[end:]
    if middle and edge:
        one, other = middle[-1].end, edge[0].start
        listed = text[other:end] + text[one:other] + text[start:one]
    elif middle:
        after = re.sub("in the (?:middle|center)", "at the edge", after)
    elif edge:
        after = after.replace("at the edge", "in the center" if "image" in after else "in the middle")
    else:
        return
    claims = [phrase.claim._replace(place="middle") for phrase in edge]
    claims += [phrase.claim._replace(place="edge") for phrase in middle]
    yield _agreeing(text[:start], listed, after, claims), claims


def _agreeing(before: str, listed: str, after: str, claims: Sequence[Claim]) -> str:
    """Join a sentence; its verb agrees with all that is located, but with the first that "there is"."""
    first = "is" if claims[0].most == 1 else "are"
    every = first if len(claims) == 1 else "are"
    before = re.sub("(?<=^there )(?:is|are)", first, before)
    return before + listed + re.sub("^ (?:is|are)(?= located)", f" {every}", after)
