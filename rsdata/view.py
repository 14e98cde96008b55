"""Images of tables that a condition holds for, as one HTML page.

The condition is an SQL expression that DuckDB judges over the columns of the table (docs/table.md), without
`image`, and two more: `classes`, the list of an image's distinct labels, and `boxes`, the number of its
objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from rsdata import cards, page, places, tables
from rsdata.errors import RecipeError, TableError
from rsdata.page import Section

IMAGES = 100
"""Images shown, unless asked for otherwise."""

_ROWS = """
select *, list_sort(list_distinct([each.label for each in objects])) as classes,
    coalesce(len(objects), 0) as boxes
from rows
"""


class View(NamedTuple):
    """Images that fit: ids of those to show, by id, and how many there are of them and in all."""

    ids: Sequence[str]
    fitting: int
    images: int


def find(sources: Sequence[Path], where: str, most: int = IMAGES) -> View:
    """The first `most` images by id that `where` holds for.

    Raises RecipeError where `where` is no single SQL expression over the columns, or asks for anything
    outside of the tables; TableError where a table is unfinished or damaged.
    """
    import duckdb
    import pyarrow.dataset as ds

    shards = [shard for source in sources for shard in tables.shards(source)]
    images = sum(map(tables.rows_in, shards))
    parts = [ds.dataset(**places.arrow(shard), format="parquet") for shard in shards]
    with duckdb.connect(":memory:") as connection:
        rows = ds.dataset(parts)
        connection.register("rows", rows.replace_schema(_without_image(rows.schema)))
        connection.execute("set python_enable_replacements = false")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        try:
            fitting = connection.sql(_ROWS).filter(duckdb.SQLExpression(where)).project("image_id")
            ((count,),) = fitting.aggregate("count(*)").fetchall()
            ids = fitting.order("image_id").limit(most).fetchall()
        except (duckdb.IOException, duckdb.InternalException) as error:
            raise TableError(f"{sources[0]}: {_first_line(error)}") from error
        except duckdb.Error as error:
            raise RecipeError(f"--where {where}: {_first_line(error)}") from error
    return View([image_id for (image_id,) in ids], count, images)


def _without_image(schema: pa.Schema) -> pa.Schema:
    """A condition on `image` would bring the bytes of all images into memory."""
    return pa.schema([field for field in schema if field.name != "image"])


def _first_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).split("\n\n")[0].splitlines())


def write(path: Path, sources: Sequence[Path], where: str, view: View) -> None:
    """Write the page of a view: cards with boxes and captions, chosen by dataset and class.

    Raises TableError where a table is damaged, RsdataError where the page cannot be written.
    """
    shards = [shard for source in sources for shard in tables.shards(source)]
    most = cards.BUDGET // max(len(view.ids), 1)
    rows = sorted(cards.rows(shards, view.ids, most=most), key=_by_id)
    labels = sorted({item["label"] for row in rows for item in row["objects"]})
    told = f"{len(view.ids):,} of {view.fitting:,} images, of {view.images:,} in all, for which"
    lead = f'<p class="soft">{told} <code>{page.text(where)}</code></p>'
    title = ", ".join(places.name(source) for source in sources)
    body = cards.gallery(rows, cards.Palette(labels))
    page.write(path, page.document(title, lead, [Section("gallery", "Images", body)]))


def _by_id(row: Mapping[str, Any]) -> str:
    return str(row["image_id"])
