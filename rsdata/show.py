"""One image of a table: its boxes, numbered, and of which of them each of its captions speaks.

Captions of our caption sets are read back (box_to_caption.phrases) into class and place. What people wrote
speaks of the boxes whose class, as a noun or in the plural, is in the caption.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsdata import box_to_caption, cards, page, statements, tables
from rsdata.box_to_caption import Place
from rsdata.cards import Palette
from rsdata.errors import RecipeError, TableError
from rsdata.grid import printable
from rsdata.page import Section
from rsdata.records import EDGES, HUMAN, Box
from rsdata.templates import _grammar as grammar
from rsdata.words import Words

SIDE = 1600
"""Pixels of the longer side of the picture, at most."""
NEAREST = 3

_CANDIDATES = 200


class Told(NamedTuple):
    """A caption and the numbers, from 1, of the boxes that it speaks of. note: why of none, or ""."""

    text: str
    boxes: Sequence[int]
    note: str = ""


class Shown(NamedTuple):
    """An image as it is shown. row: as cards.rows gives it."""

    row: Mapping[str, Any]
    captions: Sequence[Told]


def find(table: Path, image_id: str) -> Shown:
    """An image by its id.

    Raises TableError where there is no such image, with the ids nearest to it, or the table is unfinished
    or damaged.
    """
    shards = tables.shards(table)
    row = next(cards.rows(shards, [image_id], SIDE), None)
    if row is None:
        near = " or ".join(repr(name) for name in _nearest(image_id, shards))
        raise TableError(f"{table}: no image {image_id!r}{f'; did you mean {near}?' if near else ''}")
    facts = tables.about(table).get("datasets", {}).get(row["dataset"]) or {}
    return Shown(row, list(_told(row, Words(facts.get("irregular") or {}))))


def _nearest(image_id: str, shards: Sequence[Path]) -> list[str]:
    """Ids like this one: its beginning or end missing, or spelt otherwise."""
    matcher = difflib.SequenceMatcher(b=image_id)

    def likeness(name: str) -> tuple[bool, float]:
        matcher.set_seq1(name)
        return image_id in name, matcher.quick_ratio()

    candidates = heapq.nlargest(_CANDIDATES, _all_ids(shards), key=likeness)
    within = [name for name in candidates if image_id in name]
    close = difflib.get_close_matches(image_id, candidates, NEAREST)
    return list(dict.fromkeys([*sorted(within), *close]))[:NEAREST]


def _all_ids(shards: Sequence[Path]) -> Iterator[str]:
    for path in shards:
        for batch in tables.batches(path, ["image_id"]):
            yield from batch["image_id"].to_pylist()


def _told(row: Mapping[str, Any], words: Words) -> Iterator[Told]:
    boxes = [Box(**item) for item in row["objects"]]
    nouns = sorted({box.label for box in boxes})
    written = row["caption_source"] != HUMAN
    for caption in row["captions"]:
        try:
            meant = _claimed(caption, words, nouns) if written else mentioned(caption, words, nouns)
        except (ValueError, RecipeError):
            yield Told(caption, [], "it does not parse")
            continue
        found = _numbers(boxes, meant, row["width"], row["height"], crowds=not written)
        yield Told(caption, found, "" if found else "it names no class that has a box here")


def _claimed(caption: str, words: Words, nouns: Sequence[str]) -> set[tuple[str, Place]]:
    """What a caption of our sets speaks of: by its sentence classes and places, by its statements classes."""
    head, rest = statements.parts(caption)
    found = {(claim.label, claim.place) for claim in box_to_caption.parse(head, words, nouns)}
    return found.union(*(mentioned(each, words, nouns) for each in rest))


def _numbers(
    boxes: Sequence[Box], meant: set[tuple[str, Place]], width: int | None, height: int | None, crowds: bool
) -> list[int]:
    """The boxes, from 1, of these classes and places. crowds: those flagged "crowd" too, which our captions
    do not count."""
    middle = grammar.in_middle(boxes, width, height) if width and height else [None] * len(boxes)
    places: dict[bool | None, set[Place]] = {True: {"middle"}, False: {"edge"}, None: set()}
    return [
        number
        for number, (box, inside) in enumerate(zip(boxes, middle, strict=True), 1)
        if (crowds or "crowd" not in box.flags)
        and any((box.label, place) in meant for place in {"anywhere", *places[inside]})
    ]


def mentioned(text: str, words: Words, nouns: Sequence[str]) -> set[tuple[str, Place]]:
    """The nouns that a text holds as whole words, in singular or plural; where they overlap, the longest.

    Raises RecipeError as Words.plural.
    """
    forms = {form.casefold(): noun for noun in nouns for form in (words.plural(noun), noun)}
    if not forms:
        return set()
    longest = sorted(forms, key=lambda form: (-len(form), form))
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)"
    return {(forms[found], "anywhere") for found in re.findall(pattern, text.casefold())}


def as_json(shown: Shown) -> dict[str, Any]:
    """What is shown, as data that can be written as JSON."""
    row = shown.row
    return {
        **{key: row[key] for key in ("image_id", "dataset", "split", "width", "height", "label")},
        "boxes": [
            {"number": number, **{key: item[key] for key in ("label", *EDGES)}, "flags": item["flags"]}
            for number, item in enumerate(row["objects"], 1)
        ],
        "caption_source": row["caption_source"],
        "captions": [told._asdict() for told in shown.captions],
    }


def lines(shown: Shown) -> Iterator[str]:
    """The same as text. Characters that a terminal would obey are replaced."""
    row = shown.row
    yield printable(f"{row['image_id']} ({_about(row)})")
    objects = row["objects"]
    yield f"{len(objects):,} boxes: xmin ymin xmax ymax, pixels" if objects else "no boxes"
    wide = max((len(item["label"]) for item in objects), default=0)
    for number, item in enumerate(objects, 1):
        edges = " ".join(f"{item[edge]:8.1f}" for edge in EDGES)
        flags = f"  {', '.join(item['flags'])}" if item["flags"] else ""
        yield printable(f"{number:>5}  {item['label']:<{wide}} {edges}{flags}")
    source = f" ({row['caption_source']})" if row["caption_source"] else ""
    yield printable(f"{len(shown.captions):,} captions{source}" if shown.captions else "no captions")
    for told in shown.captions:
        yield printable(f"  {told.text}")
        yield f"    {_spoken(told)}"


def _about(row: Mapping[str, Any]) -> str:
    size = f"{row['width']} x {row['height']} pixels" if row["width"] and row["height"] else "size unknown"
    return ", ".join(filter(None, [row["dataset"], row["split"], row["label"], size]))


def _spoken(told: Told) -> str:
    if not told.boxes:
        return f"no box: {told.note}"
    return f"{'box' if len(told.boxes) == 1 else 'boxes'} {runs(told.boxes)}"


def runs(numbers: Sequence[int]) -> str:
    """Rising numbers, those that follow one another put together: "1-3, 7"."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def write(path: Path, shown: Shown) -> None:
    """Write the page. Raises RsdataError where it cannot be written."""
    row = shown.row
    labels = sorted({item["label"] for item in row["objects"]})
    body = (
        f'<div class="one" data-light>{cards.canvas(row, _marks(shown, Palette(labels)))}'
        f"<div><h3>Captions</h3>{_captions(shown)}</div>"
        f"<div><h3>Boxes</h3>{_boxes(shown, Palette(labels))}</div></div>"
    )
    lead = (
        f'<p class="soft">{page.text(_about(row))}. Point at a caption or a box, or tap it, to see of which '
        "boxes it speaks.</p>"
    )
    page.write(path, page.document(row["image_id"], lead, [Section("image", "Boxes and captions", body)]))


def _speakers(shown: Shown) -> list[str]:
    """For each box what it lights: itself, and the captions that speak of it."""
    found = [[f"b{number}"] for number in range(1, len(shown.row["objects"]) + 1)]
    for number, told in enumerate(shown.captions, 1):
        for box in told.boxes:
            found[box - 1].append(f"q{number}")
    return [" ".join(each) for each in found]


def _marks(shown: Shown, palette: Palette) -> str:
    """Boxes with their numbers, the largest below."""
    row = shown.row
    letter = max(cards.size(row)) / 55
    marks = []
    numbered = zip(row["objects"], _speakers(shown), strict=True)
    for number, (item, lights) in enumerate(numbered, 1):
        if shape := cards.outline(item, max(cards.size(row)) / SIDE):
            across, down = ((item[f"{axis}min"] + item[f"{axis}max"]) / 2 for axis in "xy")
            text = (
                f'<text data-key="b{number}" font-size="{letter:.1f}" x="{across:.1f}" '
                f'y="{down:.1f}">{number}</text>'
            )
            title = f"<title>{number} {page.text(item['label'])}</title>"
            path = (
                f'<path data-on="{lights}" data-key="b{number}" {palette.style(item["label"])} d="{shape}">'
            )
            marks.append((-cards.area(item), number, f"{path}{title}</path>{text}"))
    return "".join(mark for _, _, mark in sorted(marks))


def _captions(shown: Shown) -> str:
    if not shown.captions:
        return "<p>None.</p>"
    items = []
    for number, told in enumerate(shown.captions, 1):
        lights = " ".join([*(f"b{box}" for box in told.boxes), f"q{number}"])
        items.append(
            f'<li><button type="button" data-on="{lights}" data-key="q{number}">{page.text(told.text)} '
            f"<small>{page.text(_spoken(told))}</small></button></li>"
        )
    return f'<ul class="captions">{"".join(items)}</ul>'


def _boxes(shown: Shown, palette: Palette) -> str:
    rows = []
    for number, (item, lights) in enumerate(zip(shown.row["objects"], _speakers(shown), strict=True), 1):
        button = f'<button type="button" data-on="{lights}" data-key="b{number}">{number}</button>'
        label = f'<span class="swatch" {palette.style(item["label"])}></span>{page.text(item["label"])}'
        edges = [f"{item[edge]:,.1f}" for edge in EDGES]
        rows.append([button, label, *edges, page.text(", ".join(item["flags"]))])
    head = ["#", "class", *(f"#{edge}" for edge in EDGES), "flags"]
    return page.table(head, rows) if rows else "<p>None.</p>"
