"""Names that nearly equal another: one thing spelled in two ways, or a slip of the pen."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

SHORTEST = 5
"""Letters of a word from which on one slip rarely makes another word ("car", "cat")."""
MOST = 2000
"""Names that are compared, the commonest: nobody looks at more."""
LONGEST = 100
"""Characters of a name that is compared."""

_DIGITS = re.compile(r"\d+")
_WORD = re.compile(r"[^\W_]+")
_TAKES_ES = ("s", "x", "z", "ch", "sh", "o")


def odd(names: Mapping[str, int]) -> dict[str, str]:
    """The names that nearly equal a commoner one, in order, and the commonest that each nearly equals.

    names: name -> how often it occurs; of names as common as each other the first in order is the commoner.
    """
    order = sorted(names, key=lambda name: (-names[name], name))[:MOST]
    place = {name: number for number, name in enumerate(order)}
    buckets: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in order:
        for key in set(_keys(name)) if len(name) <= LONGEST else ():
            buckets[key].append(name)
    twins: dict[str, str] = {}
    for bucket in buckets.values():
        for number, name in enumerate(bucket):
            twin = next((other for other in bucket[:number] if near(name, other)), None)
            if twin is not None and place[twin] < place[twins.get(name, name)]:
                twins[name] = twin
    return dict(sorted(twins.items()))


def near(one: str, other: str) -> bool:
    """Whether two names differ in case, spaces, signs or a plural alone, or by one slip in one word.

    A slip is a letter missing, added or other, or two neighbours swapped (Damerau 1964), in a word of five
    letters or more. Names with other digits are never near: "A320" and "A330".
    """
    if _DIGITS.findall(one) != _DIGITS.findall(other):
        return False
    if _forms(one) & _forms(other):
        return True
    left, right = _words(one), _words(other)
    if len(left) != len(right):
        return False
    differing = [pair for pair in zip(left, right, strict=True) if pair[0] != pair[1]]
    return len(differing) == 1 and min(map(len, differing[0])) >= SHORTEST and _one_slip(*differing[0])


def _keys(name: str) -> Iterator[tuple[str, ...]]:
    """Names that are near each other have one of these in common."""
    yield from ((form,) for form in _forms(name))
    words = _words(name)
    for at, word in enumerate(words):
        if len(word) >= SHORTEST:
            for changed in (word, *_without_one(word)):
                yield (*words[:at], f"~{changed}", *words[at + 1 :])


def _words(name: str) -> list[str]:
    return _WORD.findall(name.casefold())


def _forms(name: str) -> set[str]:
    """The name as one word, as it stands and as what it is the plural of."""
    word = "".join(_words(name))
    forms = {word} - {""}
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        forms.add(word[:-1])
        if word.endswith("ies"):
            forms.add(f"{word[:-3]}y")
        elif word.endswith("es") and word[:-2].endswith(_TAKES_ES):
            forms.add(word[:-2])
    return forms


def _without_one(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at in range(len(word))]


def _one_slip(one: str, other: str) -> bool:
    if len(one) != len(other):
        longer, shorter = sorted((one, other), key=len, reverse=True)
        return shorter in _without_one(longer)
    at = [number for number, (ours, theirs) in enumerate(zip(one, other, strict=True)) if ours != theirs]
    if len(at) == 2 and at[1] == at[0] + 1:
        return one[at[0]] == other[at[1]] and one[at[1]] == other[at[0]]
    return len(at) == 1
