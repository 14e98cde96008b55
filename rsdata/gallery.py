"""Image pairs side by side, for a person to judge: what goes, and its twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rsdata import cards, page
from rsdata.cards import Picture
from rsdata.fingerprints import Source
from rsdata.page import Section

PAIRS = 100
"""Pairs shown of each section: of more, some spread evenly over all."""
SIDE = 224
"""Pixels of the longer side of a picture shown."""

Pictures = Mapping[str, Picture | None]


def write(
    path: Path,
    title: str,
    summary: str,
    sections: Mapping[str, pa.Table],
    sources: Sequence[Source],
    against: Sequence[Source],
) -> None:
    """Write a page of pairs. sections: by heading, tables of removals.REMOVED.

    Pictures come from the tables; of fingerprint files there are none. Raises TableError where a table is
    damaged, RsdataError where the page cannot be written.
    """
    shown = {heading: spread(table) for heading, table in sections.items() if table.num_rows}
    rows = [row for held in shown.values() for row in held]
    ours = {row["image_id"] for row in rows} | {row["twin"] for row in rows if not row["benchmark"]}
    pictures = _pictures(sources, ours)
    theirs = _pictures(against, {row["twin"] for row in rows if row["benchmark"]})
    parts = [
        Section(f"pairs-{number}", told(heading, sections[heading], held), figures(held, pictures, theirs))
        for number, (heading, held) in enumerate(shown.items())
    ]
    page.write(path, page.document(title, f"<p>{page.text(summary)}</p>", parts))


def spread(table: pa.Table, most: int | None = None) -> list[dict[str, Any]]:
    """At most `most` rows (without it PAIRS), spread evenly."""
    count = table.num_rows
    places = np.unique(np.linspace(0, count - 1, min(count, most or PAIRS)).round().astype(int))
    return list(table.take(pa.array(places)).to_pylist())


def told(heading: str, table: pa.Table, held: Sequence[object]) -> str:
    """A heading with the number of pairs, and how many of them are shown."""
    more = f", {len(held):,} of them shown" if table.num_rows > len(held) else ""
    return f"{heading}: {table.num_rows:,}{more}"


def figures(rows: Sequence[Mapping[str, Any]], ours: Pictures, theirs: Pictures) -> str:
    """Rows of removals.REMOVED as pairs of pictures. theirs: pictures of benchmarks."""
    shown = (_figure(row, ours, theirs if row["benchmark"] else ours) for row in rows)
    return f'<div class="pairs">{"".join(shown)}</div>'


def _figure(row: Mapping[str, Any], ours: Pictures, theirs: Pictures) -> str:
    facts = [row["rule"]]
    if row["distance"] is not None:
        facts.append(f"{row['distance']} bits")
    if row["symmetry"] not in (None, "upright"):
        facts.append(row["symmetry"])
    if row["view"] not in (None, "whole"):
        facts.append(row["view"])
    return pair(
        ("corpus" if row["benchmark"] else "goes", row["image_id"], ours.get(row["image_id"])),
        ("benchmark" if row["benchmark"] else "stays", row["twin"], theirs.get(row["twin"])),
        ", ".join(facts),
    )


def pair(one: tuple[str, str, Picture | None], other: tuple[str, str, Picture | None], facts: str) -> str:
    """Two pictures side by side, each with what it is and its id. facts: plain text below them."""
    sides = "".join(
        f"<span>{_picture(held)}<b>{page.text(what)}</b> {page.text(name)}</span>"
        for what, name, held in (one, other)
    )
    return f'<figure class="pair"><div>{sides}</div><figcaption>{page.text(facts)}</figcaption></figure>'


def _picture(held: Picture | None) -> str:
    if held is None:
        return "<i>no picture held</i>"
    return f'<img alt="" loading="lazy" decoding="async" src="{page.picture(held.jpeg)}">'


def _pictures(sources: Sequence[Source], wanted: set[str]) -> dict[str, Picture | None]:
    """Small pictures by id, of images whose bytes a table holds."""
    shards = [path for source in sources if source.is_table for path in source.shards]
    return cards.pictures(shards, wanted, SIDE)
