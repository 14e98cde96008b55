"""B2C: captions from boxes, by the rules of a caption set; and the proof that they are true.

A caption set is a file `rsdata/templates/NAME.py` with `write(record, rng, words, **options) -> list[str]`;
with `ineligible(labels, flags, counted) -> str | None` it selects its images too: see rsdata/selection.py.
Here are the driver, and a parser that shares no code with the writers: it reads the text back into claims
(label, count, place), which `contradictions` holds against the boxes.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, NamedTuple

from rsdata import statements, templates
from rsdata.errors import RecipeError
from rsdata.records import Record
from rsdata.templates import _grammar as grammar
from rsdata.words import Words

Place = Literal["middle", "edge", "anywhere"]


class Claim(NamedTuple):
    """What a caption says of one class: `least` to `most` objects (None: no upper end) in `place`."""

    label: str
    least: int
    most: int | None
    place: Place


class Phrase(NamedTuple):
    """A claim and where it stands, `caption[start:end]`: a counted noun, or one of the two behind "both"."""

    claim: Claim
    start: int
    end: int


def names() -> list[str]:
    """The caption sets, by name: the files of rsdata/templates whose name has no leading underscore."""
    return sorted(module.name for module in pkgutil.iter_modules(templates.__path__) if module.name[0] != "_")


@lru_cache(maxsize=32)
def _load(template: str) -> tuple[Callable[..., list[str]], frozenset[str]]:
    """Find the writer of a caption set and the names of its options."""
    write = _module(template).write
    return write, frozenset(inspect.signature(write).parameters) - {"record", "rng", "words"}


@lru_cache(maxsize=32)
def _module(template: str) -> ModuleType:
    if template not in names():
        raise RecipeError(f"no caption set {template!r}{_nearest(template, names())}")
    return import_module(f"{templates.__name__}.{template}")


def _nearest(name: str, valid: Collection[str]) -> str:
    near = difflib.get_close_matches(name, valid, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (known: {', '.join(sorted(valid))})"


def captions(
    record: Record,
    image_id: str,
    template: str,
    words: Words,
    seed: int = 0,
    **options: Any,
) -> list[str]:
    """Write the captions of one image.

    All chance comes from (seed, image_id, template), so neither other images nor the order of the boxes
    change the result. Options go to the caption set's `write`.

    Raises RecipeError, with the nearest valid name, for an unknown caption set or option, and for whatever
    the set itself refuses.
    """
    write = _checked(template, options)
    digest = blake2b(f"{seed}\0{image_id}\0{template}".encode(), digest_size=8).digest()
    return write(record, random.Random(int.from_bytes(digest, "big")), words, **options)


def needs_polygons(template: str) -> bool:
    """Whether a caption set looks at the polygons of boxes, which are expensive to make."""
    return bool(getattr(_module(template), "POLYGONS", False))


def judge(template: str) -> Callable[[Sequence[str], Collection[str], Collection[str]], str | None] | None:
    """The function `ineligible` of a caption set that selects; None of one that takes every image.

    Raises RecipeError for a set that is not known; "none" is one that takes every image.
    """
    return None if template == "none" else getattr(_module(template), "ineligible", None)


def check(template: str, **options: Any) -> None:
    """Raise RecipeError where `captions` would: no such caption set, no such option, no such value."""
    _checked(template, options)(Record(""), random.Random(0), Words(), **options)


def _checked(template: str, options: Mapping[str, Any]) -> Callable[..., list[str]]:
    write, known = _load(template)
    if not options.keys() <= known:
        name = min(options.keys() - known)
        raise RecipeError(f"caption set {template!r} has no option {name!r}{_nearest(name, known)}")
    return write


_PICTURE = r"(?:the picture|this remote sensing picture|this image)"
_PLACES: dict[Place, str] = {
    "middle": rf"in the (?:middle|center) of {_PICTURE}",
    "edge": rf"at the edge of {_PICTURE}",
    "anywhere": rf"in {_PICTURE}",
}
_TWO_PLACES = re.compile(r"there (?:is|are) (.+) in the center, and (.+) at the edge of this image")
_SHOWS = re.compile(rf"{_PICTURE} shows (.+)")
_ONE_PLACE = {
    place: re.compile(rf"(?:there (?:is|are) )?(.+?)(?: (?:is|are) located)? {where}")
    for place, where in _PLACES.items()
}
_VAGUE = re.compile(r"(?:many|lots of|a lot of|a quantity of|a crowd of|a large number of) (.+)")
_ONE = re.compile(r"an? (.+)")
_EXACT = re.compile(r"([2-9]|[1-9][0-9]{1,8}) (.+)")
_SPELLED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORD = re.compile(rf"({'|'.join(_SPELLED)}) (.+)")
_JOINT = re.compile(r", | and ")


def parse(caption: str, words: Words, nouns: Collection[str]) -> list[Claim]:
    """Read a caption back into its claims, in the order of the text.

    "a car" and "one car" claim one, "3 cars" and "three cars" three, "many cars" and its like at least
    eleven, "both cars and ships" at least two of each. Where nouns overlap ("vehicle", "large vehicle") the
    longest that fits is meant.

    Args:
        caption: a sentence of any of our caption sets.
        words: the plurals that it was written with.
        nouns: the labels that it may name.

    Raises ValueError where the caption is no such sentence, or names another noun. RecipeError as
    Words.plural.
    """
    return [phrase.claim for phrase in phrases(caption, words, nouns)]


def phrases(caption: str, words: Words, nouns: Collection[str]) -> list[Phrase]:
    """Read a caption back into its counted nouns; arguments and errors are those of `parse`."""
    for noun in nouns:
        words.plural(noun)  # so that words.singular knows it
    try:
        return [
            phrase
            for text, start, place in _clauses(caption)
            for phrase in _phrases(text, start, place, words, nouns)
        ]
    except ValueError as error:
        raise ValueError(f"{caption!r} does not parse: {error}") from None


def _clauses(caption: str) -> list[tuple[str, int, Place]]:
    """Split a sentence into its lists of objects, each with its start and its place."""
    text = caption[:1].lower() + caption[1:-1]
    if not caption.endswith("."):
        raise ValueError("it has no full stop")
    if found := _TWO_PLACES.fullmatch(text):
        return [(found[1], found.start(1), "middle"), (found[2], found.start(2), "edge")]
    if found := _SHOWS.fullmatch(text):
        return [(found[1], found.start(1), "anywhere")]
    for place, pattern in _ONE_PLACE.items():
        if found := pattern.fullmatch(text):
            return [(found[1], found.start(1), place)]
    raise ValueError("it is no sentence of a caption set")


def _phrases(text: str, start: int, place: Place, words: Words, nouns: Collection[str]) -> list[Phrase]:
    """Parse "A", "A and B" or "A, B and C", each a counted noun; or "both As and Bs"."""
    if text.startswith("both "):
        return _both(text.removeprefix("both "), start + len("both "), place, words, nouns)
    found, joints = [], []
    while True:
        claim, end = _longest(text, place, words, nouns)
        found.append(Phrase(claim, start, start + end))
        if end == len(text):
            break
        joints.append(" and " if text.startswith(" and ", end) else ", ")
        text, start = text[end + len(joints[-1]) :], start + end + len(joints[-1])
    if joints != [", "] * (len(joints) - 1) + [" and "] * bool(joints):
        raise ValueError("its list is not of the form A, B and C")
    return found


def _longest(text: str, place: Place, words: Words, nouns: Collection[str]) -> tuple[Claim, int]:
    """Find the longest counted noun that `text` begins with, up to a comma, an "and" or the end."""
    for end in [len(text), *(joint.start() for joint in reversed(list(_JOINT.finditer(text))))]:
        if claim := _counted(text[:end], place, words, nouns):
            return claim, end
    raise ValueError(f"no known noun is counted at {text!r}")


def _counted(text: str, place: Place, words: Words, nouns: Collection[str]) -> Claim | None:
    least: int
    most: int | None
    if found := _VAGUE.fullmatch(text):
        noun, least, most = _plural(found[1], words, nouns), 11, None
    elif found := _ONE.fullmatch(text):
        noun, least, most = _singular(found[1], words, nouns), 1, 1
    elif found := _EXACT.fullmatch(text):
        noun, least, most = _plural(found[2], words, nouns), int(found[1]), int(found[1])
    elif found := _WORD.fullmatch(text):
        least = most = _SPELLED.index(found[1]) + 1
        noun = (_singular if most == 1 else _plural)(found[2], words, nouns)
    else:
        return None
    return None if noun is None else Claim(noun, least, most, place)


def _singular(form: str, words: Words, nouns: Collection[str]) -> str | None:
    mass = form.removeprefix("place with ")
    if mass != form and mass in nouns and words.is_mass(mass):
        return mass
    return form if form in nouns and not words.is_mass(form) else None


def _plural(form: str, words: Words, nouns: Collection[str]) -> str | None:
    mass = form.removeprefix("places with ")
    if mass != form and mass in nouns and words.is_mass(mass):
        return mass
    noun = words.singular(form)
    return noun if noun is not None and noun in nouns and not words.is_mass(noun) else None


def _both(text: str, start: int, place: Place, words: Words, nouns: Collection[str]) -> list[Phrase]:
    for joint in re.finditer(" and ", text):
        first = _plural(text[: joint.start()], words, nouns)
        second = _plural(text[joint.end() :], words, nouns)
        if first is not None and second is not None:
            return [
                Phrase(Claim(first, 2, None, place), start, start + joint.start()),
                Phrase(Claim(second, 2, None, place), start + joint.end(), start + len(text)),
            ]
    raise ValueError(f"{text!r} is no pair of known nouns")


def contradictions(
    captions: Iterable[str], record: Record, words: Words, nouns: Collection[str] = ()
) -> list[str]:
    """Hold each claim of each caption against the boxes: one readable line for each that is false.

    A claim on a place counts the boxes whose centre lies there; boxes flagged "crowd" do not count. A
    caption that does not parse is reported too.

    Args:
        captions: sentences of our caption sets, of this record.
        record: its boxes; width and height, gsd, cover where captions tell places or those.
        words: the plurals that the captions were written with.
        nouns: further labels of the recipe: with them a caption that names an absent class is told to be
            false, without them that it does not parse.
    """
    counts = held(record)
    known = {box.label for box in record.boxes} | set(nouns)
    found: list[str] = []
    for caption in captions:
        head, _ = statements.parts(caption)
        found += statements.faults(caption, record, words, known | {label for label, _ in record.cover})
        try:
            claims = parse(head, words, known)
        except ValueError as error:
            found.append(str(error))
        else:
            found += [f"{caption!r} {why}" for claim in claims if (why := fault(claim, record, counts))]
    return found


def held(record: Record) -> dict[Place, dict[str, int]]:
    """Objects by place and label, those flagged "crowd" left out."""
    boxes = grammar.countable(record)
    middle, edge = grammar.count_by_zone(boxes, record)
    return {"middle": middle, "edge": edge, "anywhere": grammar.count(boxes)}


def fault(claim: Claim, record: Record, counts: Mapping[Place, Mapping[str, int]]) -> str | None:
    """Why a claim is not so, by `held` of its record; None where it is."""
    label, least, most, place = claim
    if place != "anywhere" and not (record.width and record.height):
        return f"claims a place for {label!r}, but the image size is unknown"
    number = counts[place].get(label, 0)
    if number >= least and (most is None or number <= most):
        return None
    wanted = f"at least {least}" if most is None else str(least)
    return f"claims {wanted} of {label!r} ({place}), but the boxes hold {number}"
