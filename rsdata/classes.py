"""Raw labels to nouns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from rsdata.records import LONGEST_NAME

_LOOSE = re.compile(r"[-_\s]+")


class Classes(dict[str, str]):
    """The nouns of raw labels: `classes[raw]`, "" for a label that has none.

    Labels are compared with case, `-`, `_` and blanks folded away, because mirrors of one dataset differ in
    them ("Expressway-toll-station", "expressway toll station"). Without a recipe (`nouns` None) a label is
    its own noun, unless it is a mere number; with `keep_unknown` so is one that a recipe leaves out.
    `ignored` are labels that are known and not wanted. A label of more than
    LONGEST_NAME characters has no noun.
    """

    def __init__(
        self, nouns: Mapping[str, str] | None, ignored: Collection[str] = (), keep_unknown: bool = False
    ) -> None:
        super().__init__(nouns or {})
        self.ignored = frozenset(ignored)
        self._open = nouns is None or keep_unknown
        self._nouns = nouns
        self._folded = {_fold(raw): noun for raw, noun in (nouns or {}).items()}
        self._folded_ignored = frozenset(map(_fold, ignored))

    def __missing__(self, raw: str) -> str:
        if len(raw) > LONGEST_NAME:
            return ""
        folded = _fold(raw)
        if folded in self._folded_ignored:
            noun = ""
        elif folded in self._folded:
            noun = self._folded[folded]
        elif self._open:
            noun = _LOOSE.sub(" ", raw).strip() if re.search(r"[^\W\d_]", raw) else ""
        else:
            noun = ""
        self[raw] = noun
        return noun

    def ignores(self, raw: str) -> bool:
        """Whether `raw` is left out on purpose."""
        return raw in self.ignored or _fold(raw) in self._folded_ignored

    def lists(self, raw: str) -> bool:
        """Whether a recipe names `raw`, as a class or as left out on purpose."""
        return _fold(raw) in self._folded or self.ignores(raw)

    def __reduce__(self) -> tuple[type[Classes], tuple[Mapping[str, str] | None, frozenset[str], bool]]:
        return Classes, (self._nouns, self.ignored, self._open)


def _fold(raw: str) -> str:
    return _LOOSE.sub("", raw).casefold()
