"""Tables that another program has written, made ours again: schema, metadata, manifest.

pandas, Polars, DuckDB and `datasets` keep the rows but drop the metadata, widen types (large_string, double),
rename list elements, or reorder columns. What they lose and the rows do not tell (licence, seed, what was
rejected) is kept where the folder still has it, and stated as unknown where not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import rsdata
from rsdata import places, rasters, tables
from rsdata.errors import TableError
from rsdata.hashing import HASH_SPEC, Hashes, hashes
from rsdata.records import SCHEMA

_OPTIONAL = (*Hashes._fields, "label", "sha256", "annotation", "gsd", "cover", "geometry", "caption_source")
"""Columns that are null, or empty, where another program left them out."""


def repair(source: Path, output: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write the rows of `source`, a Parquet file or a folder of them, as a table; returns its manifest.

    Raises TableError where there is no Parquet file, a column that cannot be left out is missing, a value
    does not fit its type, or `output` is taken; RsdataError where it cannot be written.
    """
    paths = [source] if source.is_file() else sorted(source.rglob("*.parquet"), key=str)
    paths = [path for path in paths if path.name not in tables.LISTS]
    if not paths:
        raise TableError(f"{source}: no Parquet file")
    if places.same(output, source):
        raise TableError(f"{output}: is read while the new one is written; name another folder")
    try:
        about = _about(source, paths)
        anew = about["hash_spec"] != HASH_SPEC or not all(map(_has_hashes, paths))
        about["hash_spec"] = HASH_SPEC
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{source}: {error}") from error
    rows: Counter[str] = Counter()
    seen: set[str] = set()
    entries: dict[str, Counter[str]] = {}
    classes: dict[str, Counter[str]] = {}
    with tables.staged(output, overwrite) as staging:
        writers: dict[str, tables.ShardWriter] = {}
        with ExitStack() as stack:
            for group in _groups(paths, anew):
                _check_ids(source, group["image_id"].to_pylist(), seen)
                for split in group["split"].unique().to_pylist():
                    part = group.filter(pc.equal(group["split"], split))
                    if not tables.SPLIT.fullmatch(split or ""):
                        raise TableError(f"{source}: split {split!r} cannot name a file")
                    if split not in writers:
                        path = staging / "data" / f"{split}-00000.parquet"
                        writers[split] = stack.enter_context(tables.shard_writer(path, about))
                    writers[split].write(part)
                    rows[split] += part.num_rows
                    _count(part, entries, classes)
        if not rows:
            raise TableError(f"{source}: no row")
        _lists(source, staging)
        reasons = _reasons(staging / tables.REJECTIONS)
        manifest = _manifest(source, about, rows, entries, classes, reasons)
        tables.publish(staging, output, manifest)
    return manifest


def _check_ids(source: Path, ids: list[str | None], seen: set[str]) -> None:
    for identity in ids:
        if identity is None or identity in seen:
            what = "is null" if identity is None else f"{identity!r} is given twice"
            raise TableError(f"{source}: an image_id {what}")
        seen.add(identity)


def _has_hashes(path: Path) -> bool:
    """Whether a file holds the hashes of its images as they were: pandas makes floats of those with gaps."""
    schema = tables.schema_of(path)
    held = [name in schema.names for name in Hashes._fields]
    return all(held) and bool(pa.types.is_integer(schema.field("phash").type))


def _groups(paths: list[Path], anew: bool) -> Iterator[pa.Table]:
    """The rows of all files in our schema, in pieces of a row group's size. anew: hash the images."""
    for path in paths:
        try:
            with tables.parquet(path) as file:
                held = file.schema_arrow.names
                missing = [name for name in SCHEMA.names if name not in held and name not in _OPTIONAL]
                if missing:
                    raise TableError(f"{path}: no column {', '.join(missing)}")
                for batch in file.iter_batches(tables.ROWS_PER_GROUP):
                    yield _cast(path, pa.Table.from_batches([batch]), anew)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{path}: {error}") from error


def _cast(path: Path, group: pa.Table, anew: bool) -> pa.Table:
    columns = []
    found = [_hash(image and image.get("bytes")) for image in group["image"].to_pylist()] if anew else []
    for field in SCHEMA:
        values = (
            group[field.name].to_pylist() if field.name in group.column_names else [None] * group.num_rows
        )
        if anew and field.name in Hashes._fields:
            values = [held and getattr(held, field.name) for held in found]
        try:
            if field.name in ("objects", "captions", "cover"):
                values = [[part for part in value or () if part is not None] for value in values]
            columns.append(pa.array(map(_plain, values), field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise TableError(f"{path}: column {field.name} does not fit {field.type}: {error}") from error
    return pa.table(columns, schema=SCHEMA)


def _plain(value: Any) -> Any:
    """Whole floats as ints stay floats in lists: only what pandas makes of missing ints is mended."""
    if isinstance(value, float) and value != value:
        return None
    return int(value) if isinstance(value, float) and value == int(value) else value


def _hash(data: bytes | None) -> Hashes | None:
    """The hashes of an image anew, None where it has none."""
    try:
        image = rasters.open_image(data) if data is not None else None
        if image is None or image.width * image.height > rasters.MAX_DECODED:
            return None
        with rasters.decoding():
            return hashes(image, lambda: rasters.open_image(data or b""))
    except OSError:
        return None


def _about(source: Path, paths: list[Path]) -> dict[str, Any]:
    """The `rsdata` metadata: of a file that still has it, of the manifest, else what the rows cannot tell."""
    for path in paths:
        metadata = tables.schema_of(path).metadata or {}
        if b"rsdata" in metadata:
            return dict(json.loads(metadata[b"rsdata"]))
    old = _old_manifest(source).get("rsdata")
    if isinstance(old, dict):
        return old
    held = (tables.read(path, ["dataset"])["dataset"].unique().to_pylist() for path in paths)
    names = sorted({str(name) for found in held for name in found})
    return {
        "dataset": names[0] if len(names) == 1 else "unknown",
        "datasets": {name: {"irregular": {}} for name in names},
        "captions": "unknown",
        "large_count": "vague",
        "seed": 0,
        "hash_spec": None,
        "licence": "unknown: the metadata was lost",
        "versions": {"rsdata": rsdata.__version__},
    }


def _old_manifest(source: Path) -> Mapping[str, Any]:
    try:
        return tables.manifest(source if source.is_dir() else source.parent.parent)
    except TableError:
        return {}


def _count(part: pa.Table, entries: dict[str, Counter[str]], classes: dict[str, Counter[str]]) -> None:
    for row in part.select(["dataset", "objects", "captions"]).to_pylist():
        entry = entries.setdefault(row["dataset"], Counter())
        entry.update(images=1, objects=len(row["objects"]), captions=len(row["captions"]))
        classes.setdefault(row["dataset"], Counter()).update(held["label"] for held in row["objects"])


def _lists(source: Path, staging: Path) -> None:
    """The lists that came along; without one of rejections, an empty one."""
    tables.copy_lists(source if source.is_dir() else source.parent.parent, staging)
    if not (staging / tables.REJECTIONS).is_file():
        tables.write_rejections(staging / tables.REJECTIONS, [])


def _manifest(
    source: Path,
    about: dict[str, Any],
    rows: Mapping[str, int],
    entries: Mapping[str, Mapping[str, int]],
    classes: Mapping[str, Mapping[str, int]],
    reasons: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """A manifest of the rows there are; what was found and rejected once is the old one's, if it fits.

    Captions and classes are always those of the rows: they are what people edit.
    """
    old = _old_manifest(source)
    written = sum(rows.values())
    same = old.get("images", {}).get("written") == written and old.get("reasons") == reasons
    rejected = sum(reasons["rejected"].values())
    total = Counter[str]()
    for entry in entries.values():
        total.update(entry)
    found = written + rejected
    images = {"found": found, "written": written, "duplicates": 0, "leaks": 0, "rejected": rejected}
    objects = {"found": total["objects"], "written": total["objects"], "dropped": 0}
    datasets: dict[str, dict[str, Any]] = {
        name: {
            "images": {
                **{"found": entry["images"], "written": entry["images"]},
                **{"duplicates": 0, "leaks": 0, "rejected": 0},
            },
            "objects": {"found": entry["objects"], "written": entry["objects"], "dropped": 0},
            "captions": entry["captions"],
            "classes": dict(sorted(classes[name].items())),
            "unclaimed": 0,
            "paper": {},
        }
        for name, entry in entries.items()
    }
    for name, made in datasets.items():
        held = old.get("datasets", {}).get(name, {})
        kept = [key for key in ("images", "objects") if _written(held, key) == _written(made, key)]
        keys = [*kept, *(("splits", "unclaimed", "paper") if len(kept) == 2 else ("paper",))]
        made.update({key: held[key] for key in keys if key in held} if same else {})
    return {
        "rsdata": about,
        "splits": {
            split: {"files": tables.shard_names(split, 1), "rows": count} for split, count in rows.items()
        },
        "images": old["images"] if same else images,
        "objects": old["objects"] if same and old["objects"]["written"] == total["objects"] else objects,
        "captions": total["captions"],
        "reasons": reasons,
        "datasets": datasets,
    }


def _written(entry: Mapping[str, Any], unit: str) -> Any:
    return entry.get(unit, {}).get("written")


def _reasons(path: Path) -> dict[str, dict[str, int]]:
    """What the rejections that came along count, by action and code."""
    try:
        listed = tables.read(path).to_pylist()
        found = Counter((item["action"], item["code"]) for item in listed)
    except (pa.ArrowException, KeyError) as error:
        raise TableError(f"{path.name}: no list of rejections: {error}") from error
    actions = ("rejected", "dropped", "repaired")
    return {
        action: {code: number for (kind, code), number in sorted(found.items()) if kind == action}
        for action in actions
    }
