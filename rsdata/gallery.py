"""One HTML page of image pairs side by side, for a person to judge: what goes, and its twin.

The page holds all it shows and loads nothing: its policy forbids it, so that names cannot do so either.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata import places, rasters, tables
from rsdata.errors import RsdataError, TableError
from rsdata.fingerprints import Source
from rsdata.pictures import decoding

PAIRS = 100
"""Pairs shown of each section: of more, some spread evenly over all."""
SIDE = 224
"""Pixels of the longer side of a picture shown."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem auto; max-width: 76rem; padding: 0 1rem }}
section > div {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)) }}
figure {{ border: 1px solid #8886; border-radius: .4rem; margin: 0; padding: .5rem }}
figure > div {{ display: flex; gap: .5rem }}
figure span {{ flex: 1; min-width: 0; overflow-wrap: anywhere; font-size: 12px }}
img, i {{ display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #8882 }}
figcaption {{ margin-top: .3rem }}
</style></head><body><h1>{title}</h1><p>{summary}</p>
{sections}
</body></html>
"""


def write(
    path: Path,
    title: str,
    summary: str,
    sections: Mapping[str, pa.Table],
    sources: Sequence[Source],
    against: Sequence[Source],
) -> None:
    """Write the page. sections: by heading, tables of removals.REMOVED.

    Pictures come from the tables; of fingerprint files there are none. Raises TableError where a table is
    damaged, RsdataError where the page cannot be written.
    """
    shown = {heading: _spread(table) for heading, table in sections.items() if table.num_rows}
    rows = [row for held in shown.values() for row in held]
    ours = {row["image_id"] for row in rows} | {row["twin"] for row in rows if not row["benchmark"]}
    pictures = _thumbnails(sources, ours)
    theirs = _thumbnails(against, {row["twin"] for row in rows if row["benchmark"]})
    parts = []
    for heading, held in shown.items():
        count = sections[heading].num_rows
        more = f", {len(held):,} of them shown" if count > len(held) else ""
        figures = "".join(_figure(row, pictures, theirs if row["benchmark"] else pictures) for row in held)
        parts.append(f"<section><h2>{escape(heading)}: {count:,}{more}</h2><div>{figures}</div></section>")
    page = _PAGE.format(title=escape(title), summary=escape(summary), sections="\n".join(parts))
    try:
        with places.atomic_write(path, "w") as file:
            file.write(page)
    except OSError as error:
        raise RsdataError(f"{path}: {error.strerror or error}") from error


def _spread(table: pa.Table) -> list[dict[str, Any]]:
    """At most PAIRS rows, spread evenly."""
    count = table.num_rows
    places = np.unique(np.linspace(0, count - 1, min(count, PAIRS)).round().astype(int))
    return list(table.take(pa.array(places)).to_pylist())


def _figure(
    row: Mapping[str, Any], ours: Mapping[str, bytes | None], theirs: Mapping[str, bytes | None]
) -> str:
    facts = [row["rule"]]
    if row["distance"] is not None:
        facts.append(f"{row['distance']} bits")
    if row["symmetry"] not in (None, "upright"):
        facts.append(row["symmetry"])
    if row["view"] not in (None, "whole"):
        facts.append(row["view"])
    sides = (
        f"<span>{_picture(held.get(row[key]))}{what} {escape(str(row[key]))}</span>"
        for key, what, held in (
            ("image_id", "corpus:" if row["benchmark"] else "goes:", ours),
            ("twin", "benchmark:" if row["benchmark"] else "stays:", theirs),
        )
    )
    return f"<figure><div>{''.join(sides)}</div><figcaption>{escape(', '.join(facts))}</figcaption></figure>"


def _picture(jpeg: bytes | None) -> str:
    if jpeg is None:
        return "<i>no picture held</i>"
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def _thumbnails(sources: Sequence[Source], wanted: set[str]) -> dict[str, bytes | None]:
    """Small JPEGs by id, of images whose bytes a table holds. Only the row groups that have one are read."""
    found: dict[str, bytes | None] = {}
    ids = pa.array(sorted(wanted), pa.string())
    for source in sources if wanted else ():
        for path in source.shards if source.is_table else ():
            try:
                for image_id, data in _images(path, ids):
                    found[image_id] = None if data is None else _thumbnail(data)
            except (pa.ArrowException, OSError) as error:
                raise TableError(f"{path}: damaged: {error}") from error
    return found


def _images(path: Path, ids: pa.Array) -> Iterator[tuple[str, bytes | None]]:
    with tables.parquet(path) as shard:
        for number in range(shard.num_row_groups):
            met = pc.is_in(shard.read_row_group(number, columns=["image_id"])["image_id"], ids)
            if pc.any(met).as_py():
                group = shard.read_row_group(number, columns=["image_id", "image"]).filter(met)
                for row in group.to_pylist():
                    yield row["image_id"], row["image"]["bytes"]


def _thumbnail(data: bytes) -> bytes | None:
    try:
        image = rasters.open_image(data)
        if image is None or image.width * image.height > rasters.MAX_DECODED:
            return None
        held = io.BytesIO()
        with decoding():
            image.draft("RGB", (SIDE, SIDE))
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE))
            small.save(held, "JPEG", quality=80)
        return held.getvalue()
    except OSError:
        return None
