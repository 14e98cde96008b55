"""English for the recipe's nouns: articles, plurals, counted phrases, lists.

A noun is one of two kinds, and the recipe says which:

    count noun   "an airplane", "3 airplanes"; its plural is inflect's, or the recipe's where that is wrong:
                 ["person", "persons"], ["aircraft", "aircraft"]
    mass noun    "a place with water", "3 places with water" (RemoteCLIP, Fig. 2); the recipe gives it the
                 empty plural: ["water", ""]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from rsdata.errors import RecipeError
from rsdata.records import LONGEST_NAME

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@lru_cache(maxsize=1)
def _inflect() -> Any:
    import inflect

    return inflect.engine()


def listing(items: Sequence[str]) -> str:
    """Join as "a", "a and b", "a, b and c"; no comma before "and", as in the paper's figure."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


class Words:
    """Articles, plurals and counted phrases of nouns, each worked out once.

    Args:
        irregular: singular -> plural where the recipe knows better than inflect; "" marks a mass noun.

    An instance remembers the nouns it was asked about. It can be pickled.
    """

    def __init__(self, irregular: Mapping[str, str] = MappingProxyType({})) -> None:
        self._irregular = dict(irregular)
        self._plurals: dict[str, str] = {}
        self._singulars: dict[str, str] = {}
        self._phrases: dict[tuple[str, int | str], str] = {}

    def is_mass(self, noun: str) -> bool:
        """Whether the recipe marks `noun` as a mass noun, counted as places with it."""
        return self._irregular.get(noun) == ""

    def article(self, noun: str) -> str:
        """Return "a" or "an", by the sound of the noun's first word ("an overpass", "a university")."""
        # Of a whole phrase such as "X junction" inflect looks at the phrase, not at the letter's sound.
        article: str = _inflect().a(noun.split()[0]).split()[0]
        return article

    def plural(self, noun: str) -> str:
        """Return the plural of a count noun, its head inflected ("storage tanks"); a mass noun as it is.

        Raises RecipeError for a blank noun, and where two nouns share a plural: a caption that says
        "3 people" must name one class.
        """
        if noun not in self._plurals:
            plural = self._irregular.get(noun) or (noun if self.is_mass(noun) else _regular(noun))
            other = self._singulars.setdefault(plural, noun)
            if other != noun:
                raise RecipeError(
                    f"the nouns {other!r} and {noun!r} have one plural, {plural!r}: "
                    f"give one of them another noun or plural in [classes]"
                )
            self._plurals[noun] = plural
        return self._plurals[noun]

    def singular(self, plural: str) -> str | None:
        """Return the noun with this plural, among the nouns that `plural` was asked about, or None."""
        return self._singulars.get(plural)

    def phrase(self, noun: str, number: int | str) -> str:
        """Return a counted noun: 1 -> "a car", 3 -> "3 cars", "many" -> "many cars"."""
        key = noun, number
        if key not in self._phrases:
            self._phrases[key] = self._phrase(noun, number)
        return self._phrases[key]

    def spelled(self, noun: str, number: int) -> str:
        """Return a noun counted by a word, of 1 to 10: 1 -> "one car", 3 -> "three cars"."""
        if number == 1:  # its article is the number
            return f"{NUMBERS[0]} {self.phrase(noun, 1).partition(' ')[2]}"
        return self.phrase(noun, NUMBERS[number - 1])

    def _phrase(self, noun: str, number: int | str) -> str:
        plural = self.plural(noun)
        if self.is_mass(noun):
            return f"a place with {noun}" if number == 1 else f"{number} places with {noun}"
        return f"{self.article(noun)} {noun}" if number == 1 else f"{number} {plural}"


def _regular(noun: str) -> str:
    if not noun.strip():
        raise RecipeError("a class has a blank noun: name it in [classes], or leave it out")
    if len(noun) > LONGEST_NAME:  # of which inflect's patterns take minutes
        return f"{noun}s"
    # Behind an adjective inflect takes no noun for a pronoun ("mine" -> "ours").
    plural: str = _inflect().plural_noun(f"big {noun}").removeprefix("big ")
    return noun + "s" if plural == noun + "S" else plural  # "A220s", not "A220S"
