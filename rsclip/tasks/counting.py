"""Counting: which of ten numbers in its caption does an image agree with best? (RemoteCLIP, RemoteCount)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np

from rsclip import classify
from rsdata.errors import TableError

if TYPE_CHECKING:
    from rsclip.encode import Encoder
    from rsclip.features import Held
    from rsdata.words import Words

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
FORMS = ("words", "digits", "agree")
OPTIONS = [
    click.Option(
        ["--numbers"],
        type=click.Choice(FORMS),
        default=FORMS[0],
        show_default=True,
        help='words: one … ten in place of the number, and nothing else ("one planes"), as in the paper. '
        "digits: 1 … 10. agree: words, and verb and noun agree with them.",
    ),
]
EXAMPLE = "rsclip eval counting --checkpoint runs/dior --data tables/remotecount"
# not the 1 of "1,000", nor the 5 of "0.5"
_NUMBER = re.compile(rf"(?<!\d[.,])\b(?:{'|'.join(NUMBERS)}|10|[1-9])\b(?![.,]\d)", re.IGNORECASE)
_BE = {"is": "are", "are": "is", "Is": "Are", "Are": "Is"}


class Counted(NamedTuple):
    """A caption around its number: `caption[:start]`, the number (1 to 10), `caption[end:]`."""

    caption: str
    start: int
    end: int
    number: int


def parsed(caption: str) -> Counted | None:
    """A caption with exactly one number from one to ten, as a word or in digits; None for others."""
    found = list(_NUMBER.finditer(caption))
    if len(found) != 1:
        return None
    word = found[0].group().lower()
    number = NUMBERS.index(word) + 1 if word in NUMBERS else int(word)
    return Counted(caption, found[0].start(), found[0].end(), number)


def with_number(counted: Counted, number: int, numbers: str, nouns: Mapping[str, str]) -> str:
    """The caption with another number. nouns: plural by singular, for numbers="agree"."""
    word = str(number) if numbers == "digits" else NUMBERS[number - 1]
    before, after = counted.caption[: counted.start], counted.caption[counted.end :]
    if counted.caption[counted.start].isupper():
        word = word.capitalize()
    if numbers == "agree" and (number == 1) != (counted.number == 1):
        before, after = _agreeing(before, after, number, nouns)
    return before + word + after


def _agreeing(before: str, after: str, number: int, nouns: Mapping[str, str]) -> tuple[str, str]:
    """What stands before and behind a number, where it changes between one and more."""
    if not (noun := _noun(after, nouns)):
        return before, after
    new = noun if number == 1 else nouns[noun]
    rest = re.sub(rf"^ (?:{re.escape(noun)}|{re.escape(nouns[noun])})\b", "", after)
    if verb := re.match(r" (is|are)\b", rest):
        rest = f" {_BE[verb[1]]}{rest[verb.end() :]}"
    return re.sub(r"\b(is|are|Is|Are)(?= $)", lambda found: _BE[found[1]], before), f" {new}{rest}"


def _noun(after: str, nouns: Mapping[str, str]) -> str | None:
    """The noun that `after`, what follows a number, begins with: the longest that fits, as its singular."""
    fits = [
        (len(form), noun)
        for noun, plural in nouns.items()
        for form in (noun, plural)
        if re.match(rf" {re.escape(form)}\b", after)
    ]
    return max(fits)[1] if fits else None


def run(
    encoder: Encoder, sources: Sequence[Path], split: Sequence[str] = (), numbers: str = FORMS[0]
) -> dict[str, Any]:
    """Of each caption ten are made, one a number; the nearest to the image is the model's count.

    `top1` … `top10` in percent, `mae` (mean absolute error), `within_1` in percent, `majority` (the accuracy
    of always saying the commonest number), `confusion` (rows true, columns predicted), `by_class`. Captions
    without a number from one to ten, or with several, are left out, and counted in the notes.
    """
    from rsclip import features

    found = features.read(encoder, sources, split)
    nouns = _nouns(sources)
    pairs = [
        (owner, held)
        for owner, place in zip(found.owners.tolist(), found.places.tolist(), strict=True)
        if (held := parsed(found.captions[place]))
    ]
    if not pairs:
        raise TableError(
            f"{sources[0]}: no caption with one number from one to ten "
            "(rsdata caption --captions remotecount)"
        )
    variants = [[with_number(held, each, numbers, nouns) for each in range(1, 11)] for _, held in pairs]
    distinct = list(dict.fromkeys(text for each in variants for text in each))
    place = {text: number for number, text in enumerate(distinct)}
    texts = encoder.texts(distinct)
    index = np.array([[place[text] for text in each] for each in variants])
    images = found.images[[owner for owner, _ in pairs]]
    scores = np.einsum("nd,ncd->nc", images, texts[index])
    labels = np.array([held.number - 1 for _, held in pairs])
    notes = list(found.notes)
    if lost := len(found.owners) - len(pairs):
        notes.append(f"{lost} captions have no number from one to ten, or several, and were left out")
    kinds = [_noun(held.caption[held.end :], nouns) or "other" for _, held in pairs]
    return {**_measured(scores, labels, kinds), "numbers": numbers, "notes": notes}


def _measured(scores: Any, labels: Any, kinds: Sequence[str]) -> dict[str, Any]:
    ks = tuple(range(1, 11))
    found = classify.accuracy(scores, labels, ks)
    predicted = scores.argmax(axis=1)
    off = np.abs(predicted - labels)
    by_class = {
        kind: 100 * float(np.mean([hit for hit, each in zip(off == 0, kinds, strict=True) if each == kind]))
        for kind in sorted(set(kinds))
    }
    return {
        **{f"top{k}": found[f"top{k}"] for k in ks},
        "interval": list(classify.wilson(int((off == 0).sum()), len(labels))),
        "mean_per_number": found["mean_per_class"],
        "mae": float(off.mean()),
        "within_1": 100 * float((off <= 1).mean()),
        "majority": 100 * float(np.bincount(labels).max() / len(labels)),
        "chance": 10.0,
        "by_class": by_class,
        "confusion": found["confusion"].tolist(),
        "captions": len(labels),
    }


def _nouns(sources: Sequence[Path]) -> dict[str, str]:
    """Plural by singular of what the tables' labels are counted as; {} for a table of another program."""
    from rsclip import store

    nouns: dict[str, str] = {}
    for table in sources:
        try:
            held = store.nouns_of(table)
        except TableError:
            continue
        for name, labels in held.labels.items():
            words: Words = held.words[name]
            for label in labels:  # not words.plural: it is "2 places with water"
                singular, plural = (words.phrase(label, number).partition(" ")[2] for number in (1, 2))
                nouns[singular] = plural
    return nouns


def table(result: Mapping[str, Any]) -> str:
    """`run`'s result for people."""
    low, high = result["interval"]
    lines = [
        f"{'top-1':<16}{result['top1']:7.2f}   (95 %: {low:.2f} to {high:.2f}); "
        f"chance {result['chance']:.2f}, always the commonest {result['majority']:.2f}",
        f"{'top-2, 3, 5':<16}{result['top2']:7.2f}{result['top3']:7.2f}{result['top5']:7.2f}",
        f"{'mean per number':<16}{result['mean_per_number']:7.2f}",
        f"{'within one':<16}{result['within_1']:7.2f}   (mean error {result['mae']:.2f})",
        "",
        "true \\ said, percent of the row",
        "     " + "".join(f"{number:>5}" for number in range(1, 11)),
    ]
    for number, row in enumerate(result["confusion"], start=1):
        total = sum(row)
        cells = "".join(f"{100 * cell / total:5.0f}" if total else "    -" for cell in row)
        lines.append(f"{number:>5}{cells}")
    return "\n".join([*lines, f"{result['captions']} captions, numbers as {result['numbers']}"])


def headline(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of tables: top-1."""
    return {"top1": result["top1"]}


def applies(held: Held) -> bool:
    """Whether a table's captions were written to be counted by."""
    return "remotecount" in held.sources


def variants(held: Held) -> list[dict[str, Any]]:
    """The options with which `rsclip eval all` runs this."""
    return [{"numbers": form} for form in FORMS]
