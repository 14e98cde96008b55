"""The audit of a corpus: what its tables hold, what was left out and why, and the paper's counts beside it.

`audit` counts; `render` lays the counts out for a terminal. Image bytes and polygons are never read: which
images lack bytes is told by the null counts of the Parquet footers.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsdata import paper, tables
from rsdata.errors import TableError

WIDTH = 100
EXAMPLES = 5
COMMONEST_SIZES = 5
CLASSES_SHOWN = 40

_ROWS = 4096
_ACTIONS = ("rejected", "dropped", "repaired")
_OBJECT = "objects.list.element"
_COLUMNS = (
    *("dataset", "split", "width", "height", "captions.list.element", "caption_source", "label"),
    *(f"{_OBJECT}.{name}" for name in ("label", "xmin", "ymin", "xmax", "ymax")),
)
_EXAMPLE = "the first"
_BOX_SIZES = ("small", "medium", "large")
_BOX_AREAS = (32**2, 96**2)


@dataclass
class _Counts:
    """What has been counted so far; histograms map a value to how often it occurs."""

    groups: dict[str, Counter[tuple[str, str, str | None]]] = field(
        default_factory=lambda: {unit: Counter() for unit in ("images", "captions", "objects")}
    )
    class_objects: Counter[str] = field(default_factory=Counter)
    class_images: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    captions_per_image: Counter[int] = field(default_factory=Counter)
    objects_per_image: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    box_sizes: list[int] = field(default_factory=lambda: [0] * len(_BOX_SIZES))
    without_bytes: int | None = 0

    @property
    def images(self) -> int:
        return self.groups["images"].total()

    def by(self, key: int) -> dict[str, dict[str, int]]:
        """Images, captions and objects by part `key` of a group: 0 dataset, 1 split, 2 caption source."""
        held: dict[str, dict[str, int]] = {}
        for unit, counter in self.groups.items():
            for group, number in counter.items():
                if (name := group[key]) is not None:
                    units = held.setdefault(name, dict.fromkeys(self.groups, 0))
                    units[unit] += number
        return dict(sorted(held.items()))


def audit(sources: Sequence[Path]) -> dict[str, Any]:
    """Audit tables, all together as one corpus, as data that can be written as JSON.

    Keys of the result (counts are ints; a distribution is {min, mean, median, max}, all null of nothing):

        tables              their paths
        images, captions, objects
        splits              name -> {images, captions, objects}
        datasets            name -> the same; where the recipe states the paper's counts also paper (as there)
                            and found {images, objects, classes}: what the dumps hold, rejected or not, in the
                            splits that the paper used if the recipe names them, or unsplit (classes: written)
        classes             label of objects -> {objects, images}, commonest first
        labels              label of whole images -> images, commonest first
        caption_sources     "human" or the caption set -> {images, captions}
        captions_per_image, objects_per_image       distributions
        text                distinct (captions), words (a caption's; distribution), vocabulary, distinct_1,
                            distinct_2: distinct n-grams over all n-grams of all captions (Li et al. 2016,
                            arXiv 1510.03055; a ratio, so it falls as a corpus grows)
        sizes               width, height (pixels; distributions), commonest [{width, height, images}]: five
        box_sizes           small (area < 32² pixels), medium, large (≥ 96²) -> objects: the bounds of COCO,
                            with the area of the box where COCO takes the mask's
        without             images that lack objects, captions, size, bytes (null: the footers do not tell)
        rejections          action -> code -> {count, examples [{path, line, image, why}]: five at most}
        account             images found, written, duplicates, leaks, rejected (as the manifests state), rows
                            (in the shards); holds: in each table found is the sum of the next four and
                            written is rows; broken: the tables where not

    A word is a lower-cased token of nltk's wordpunct_tokenize that holds a letter or a digit.

    Raises TableError where a source is no table, is unfinished, damaged, or lacks a column.
    """
    manifests = [tables.manifest(table) for table in sources]
    counts = _Counts()
    rows = []
    for table in sources:
        before = counts.images
        for shard in tables.shards(table):
            _read(shard, counts)
        rows.append(counts.images - before)
    return {
        "tables": [str(table) for table in sources],
        "images": counts.images,
        "captions": counts.groups["captions"].total(),
        "objects": counts.groups["objects"].total(),
        "splits": _with_empty(counts.by(1), (manifest["splits"] for manifest in manifests)),
        "datasets": _datasets(counts, manifests),
        "classes": {
            label: {"objects": number, "images": counts.class_images[label]}
            for label, number in _commonest(counts.class_objects)
        },
        "labels": dict(_commonest(counts.labels)),
        "caption_sources": {
            name: {"images": held["images"], "captions": held["captions"]}
            for name, held in counts.by(2).items()
        },
        "captions_per_image": _distribution(counts.captions_per_image),
        "objects_per_image": _distribution(counts.objects_per_image),
        "text": _text(counts.captions),
        "sizes": _sizes(counts.sizes),
        "box_sizes": dict(zip(_BOX_SIZES, counts.box_sizes, strict=True)),
        "without": {
            "objects": counts.objects_per_image[0],
            "captions": counts.captions_per_image[0],
            "size": counts.images - counts.sizes.total(),
            "bytes": counts.without_bytes,
        },
        "rejections": _rejections(sources, manifests),
        "account": _account(sources, manifests, rows),
    }


def _read(shard: Path, counts: _Counts) -> None:
    """Count a shard, in batches so that memory does not grow with it."""
    try:
        with tables.parquet(shard) as parquet:
            held = {parquet.schema.column(at).path for at in range(len(parquet.schema))}
            if missing := [name for name in (*_COLUMNS, "image.bytes") if name not in held]:
                raise TableError(f"{shard}: lacks the column {missing[0]}: convert it again")
            _count_bytes(parquet.metadata, counts)
            for batch in parquet.iter_batches(_ROWS, columns=list(_COLUMNS)):
                _count(batch, counts)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{shard}: damaged: {error}; convert it again") from error


def _count_bytes(footer: pq.FileMetaData, counts: _Counts) -> None:
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        chunks = map(group.column, range(group.num_columns))
        statistics = next(chunk.statistics for chunk in chunks if chunk.path_in_schema == "image.bytes")
        if statistics is None or not statistics.has_null_count:
            counts.without_bytes = None
        elif counts.without_bytes is not None:
            counts.without_bytes += statistics.null_count


def _count(batch: pa.RecordBatch, counts: _Counts) -> None:
    lengths = {unit: pc.list_value_length(batch[unit]).fill_null(0) for unit in ("captions", "objects")}
    counts.captions_per_image.update(_tally(lengths["captions"]))
    counts.objects_per_image.update(_tally(lengths["objects"]))
    counts.captions.update(_tally(pc.list_flatten(batch["captions"])))
    counts.labels.update(_tally(batch["label"].drop_null()))
    _count_groups(batch, lengths, counts)
    _count_sizes(batch, counts)
    _count_objects(batch["objects"], counts)


def _count_groups(batch: pa.RecordBatch, lengths: Mapping[str, pa.Array], counts: _Counts) -> None:
    keys = ["dataset", "split", "caption_source"]
    columns = {**{key: batch[key] for key in keys}, **lengths}
    grouped = pa.table(columns).group_by(keys, use_threads=False)
    sums = grouped.aggregate([([], "count_all"), ("captions", "sum"), ("objects", "sum")])
    for group in sums.to_pylist():
        key = (group["dataset"], group["split"], group["caption_source"])
        counts.groups["images"][key] += group["count_all"]
        counts.groups["captions"][key] += group["captions_sum"]
        counts.groups["objects"][key] += group["objects_sum"]


def _count_sizes(batch: pa.RecordBatch, counts: _Counts) -> None:
    known = pa.table({"width": batch["width"], "height": batch["height"]}).drop_null()
    sums = known.group_by(["width", "height"], use_threads=False).aggregate([([], "count_all")])
    for size in sums.to_pylist():
        counts.sizes[size["width"], size["height"]] += size["count_all"]


def _count_objects(column: pa.ListArray, counts: _Counts) -> None:
    objects = pc.list_flatten(column)
    labels = objects.field("label")
    held = pa.table({"image": pc.list_parent_indices(column), "label": labels})
    once = held.group_by(["image", "label"], use_threads=False).aggregate([])
    counts.class_objects.update(_tally(labels))
    counts.class_images.update(_tally(once["label"]))
    xmin, ymin, xmax, ymax = (
        objects.field(edge).to_numpy().astype(np.float64) for edge in ("xmin", "ymin", "xmax", "ymax")
    )
    sizes = np.searchsorted(_BOX_AREAS, (xmax - xmin) * (ymax - ymin), side="right")
    for size, number in enumerate(np.bincount(sizes, minlength=len(_BOX_SIZES)).tolist()):
        counts.box_sizes[size] += number


def _tally(values: pa.Array | pa.ChunkedArray) -> dict[Any, int]:
    """How often each value occurs."""
    counted = pc.value_counts(values)
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _commonest(counter: Counter[str]) -> list[tuple[str, int]]:
    """By count, then by name: ties must not depend on the order of the rows."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _distribution(histogram: Mapping[int, int]) -> dict[str, float | None]:
    """Minimum, mean, median (the mean of the middle two of an even number) and maximum of a histogram."""
    if not histogram:
        return dict.fromkeys(("min", "mean", "median", "max"))
    values = sorted(histogram)
    ends = np.cumsum([histogram[value] for value in values])
    total = int(ends[-1])
    middle = np.searchsorted(ends, [(total - 1) // 2, total // 2], side="right")
    low, high = (values[at] for at in middle.tolist())
    mean = sum(value * number for value, number in histogram.items()) / total
    return {"min": values[0], "mean": mean, "median": (low + high) / 2, "max": values[-1]}


def _sizes(sizes: Counter[tuple[int, int]]) -> dict[str, Any]:
    width: Counter[int] = Counter()
    height: Counter[int] = Counter()
    for (across, down), images in sizes.items():
        width[across] += images
        height[down] += images
    first = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:COMMONEST_SIZES]
    return {
        "width": _distribution(width),
        "height": _distribution(height),
        "commonest": [
            {"width": across, "height": down, "images": images} for (across, down), images in first
        ],
    }


def _text(captions: Mapping[str, int]) -> dict[str, Any]:
    """The words of all captions; a caption that is there many times is split once."""
    split = cache(_words)
    lengths: Counter[int] = Counter()
    vocabulary: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for caption, times in captions.items():
        words = [word for chunk in caption.lower().split() for word in split(chunk)]
        lengths[len(words)] += times
        vocabulary.update(words)
        pairs.update(pairwise(words))
    unigrams = sum(length * times for length, times in lengths.items())
    bigrams = sum((length - 1) * times for length, times in lengths.items() if length)
    return {
        "distinct": len(captions),
        "words": _distribution(lengths),
        "vocabulary": len(vocabulary),
        "distinct_1": len(vocabulary) / unigrams if unigrams else None,
        "distinct_2": len(pairs) / bigrams if bigrams else None,
    }


def _words(chunk: str) -> list[str]:
    """The words of a text without white space: no token reaches over white space, and few texts differ."""
    from nltk.tokenize import wordpunct_tokenize

    return [token for token in wordpunct_tokenize(chunk) if any(map(str.isalnum, token))]


def _with_empty(held: dict[str, dict[str, int]], stated: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`held`, with zeros for the names that a manifest states but no row has."""
    names = {name for names in stated for name in names}
    nothing = {"images": 0, "captions": 0, "objects": 0}
    return {name: dict(held.get(name, nothing)) for name in sorted(held.keys() | names)}


def _datasets(counts: _Counts, manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stated = [manifest.get("datasets", {}) for manifest in manifests]
    report = _with_empty(counts.by(0), stated)
    for name, dataset in report.items():
        entries = [datasets[name] for datasets in stated if name in datasets]
        papers = [entry["paper"] for entry in entries if entry.get("paper")]
        if papers:
            dataset["paper"] = dict(papers[0])
            dataset["found"] = paper.found(entries, papers[0].get("splits", ()))
    return report


def _rejections(sources: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts as the manifests state them (where one does not: as the file has them), and first examples."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for table, manifest in zip(sources, manifests, strict=True):
        listed: Counter[tuple[str, str]] = Counter()
        for batch in _rejected(table):
            for key, number in _reasons(batch).items():
                listed[key] += number
                kept = examples.setdefault(key, [])
                if len(kept) < EXAMPLES:
                    kept.extend(_examples(batch, key, EXAMPLES - len(kept)))
        if "reasons" in manifest:
            reasons = manifest["reasons"].items()
            listed = Counter({(action, code): n for action, codes in reasons for code, n in codes.items()})
        counts.update(listed)
    report: dict[str, Any] = {action: {} for action in _ACTIONS}
    for (action, code), count in sorted(counts.items()):
        entry = {"count": count, "examples": examples.get((action, code), [])}
        report.setdefault(action, {})[code] = entry
    return report


def _rejected(table: Path) -> Iterator[pa.RecordBatch]:
    path = table / tables.REJECTIONS
    if path.is_file():
        try:
            with tables.parquet(path) as parquet:
                yield from parquet.iter_batches(_ROWS)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{path}: damaged: {error}; convert it again") from error


def _reasons(batch: pa.RecordBatch) -> dict[tuple[str, str], int]:
    keys = pa.table({"action": batch["action"], "code": batch["code"]})
    sums = keys.group_by(["action", "code"], use_threads=False).aggregate([([], "count_all")])
    return {(row["action"], row["code"]): row["count_all"] for row in sums.to_pylist()}


def _examples(batch: pa.RecordBatch, key: tuple[str, str], most: int) -> list[dict[str, Any]]:
    here = batch.filter((pc.field("action") == key[0]) & (pc.field("code") == key[1]))
    examples: list[dict[str, Any]] = here.slice(0, most).select(["path", "line", "image", "why"]).to_pylist()
    return examples


def _account(
    sources: Sequence[Path], manifests: Sequence[Mapping[str, Any]], rows: Sequence[int]
) -> dict[str, Any]:
    account: dict[str, Any] = dict.fromkeys(("found", *tables.PARTS), 0)
    broken = []
    for table, manifest, held in zip(sources, manifests, rows, strict=True):
        stated = {key: manifest.get("images", {}).get(key, 0) for key in account}
        if stated["found"] != sum(stated[part] for part in tables.PARTS) or stated["written"] != held:
            broken.append(str(table))
        for key, number in stated.items():
            account[key] += number
    return {**account, "rows": sum(rows), "holds": not broken, "broken": broken}


def render(report: Mapping[str, Any]) -> str:
    """An `audit` as plain text: aligned columns, at most 100 wide, one section a paragraph.

    Characters that a terminal would obey rather than show (names come from dumps) are replaced.
    """
    images, sizes, units = report["images"], report["sizes"], ["images", "captions", "objects"]
    diversity = ["captions that differ", "vocabulary", "distinct-1", "distinct-2"]
    sections = [
        ["tables", *(_fit(f"  {table}", from_end=True) for table in report["tables"])],
        _grid(["corpus", *units], [["all", *(report[unit] for unit in units)]]),
        _grid(["split", *units], _units(report["splits"])),
        _dataset_lines(report["datasets"]),
        _class_lines(report),
        _share_lines("image label", "images", report["labels"], images),
        _grid(["distribution", "min", "mean", "median", "max"], _distributions(report)),
        _grid(["caption source", "images", "captions"], _sources(report["caption_sources"])),
        _grid(diversity, [_text_row(report["text"])]),
        _share_lines("commonest sizes", "images", _size_names(sizes["commonest"]), images),
        _share_lines("box area", "objects", _box_names(report["box_sizes"]), report["objects"]),
        _share_lines("images without", "images", report["without"], images),
        _rejection_lines(report["rejections"]),
        _account_lines(report["account"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _units(groups: Mapping[str, Mapping[str, int]]) -> list[list[Any]]:
    return [[name, held["images"], held["captions"], held["objects"]] for name, held in groups.items()]


def _dataset_lines(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = _grid(["dataset", "images", "captions", "objects"], _units(datasets))
    for name, dataset in datasets.items():
        if stated := dataset.get("paper"):
            lines.extend(map(_fit, paper.lines(name, stated, dataset["found"])))
    return lines


def _class_lines(report: Mapping[str, Any]) -> list[str]:
    classes, objects = report["classes"], report["objects"]
    rows = [
        [label, held["objects"], _share(held["objects"], objects), held["images"]]
        for label, held in list(classes.items())[:CLASSES_SHOWN]
    ]
    return _grid(["class", "objects", "share", "images"], rows) + _more(len(classes))


def _share_lines(title: str, unit: str, counts: Mapping[str, int | None], total: int) -> list[str]:
    rows = [[name, count, _share(count, total)] for name, count in list(counts.items())[:CLASSES_SHOWN]]
    return _grid([title, unit, "share"], rows) + _more(len(counts))


def _more(number: int) -> list[str]:
    return [f"and {number - CLASSES_SHOWN:,} more"] if number > CLASSES_SHOWN else []


def _distributions(report: Mapping[str, Any]) -> list[list[Any]]:
    named = {
        "captions per image": report["captions_per_image"],
        "words per caption": report["text"]["words"],
        "objects per image": report["objects_per_image"],
        "image width (px)": report["sizes"]["width"],
        "image height (px)": report["sizes"]["height"],
    }
    return [[name, *(held[key] for key in ("min", "mean", "median", "max"))] for name, held in named.items()]


def _sources(sources: Mapping[str, Mapping[str, int]]) -> list[list[Any]]:
    return [[name, held["images"], held["captions"]] for name, held in sources.items()]


def _text_row(text: Mapping[str, Any]) -> list[str]:
    ratios = ["-" if text[key] is None else f"{text[key]:.6f}" for key in ("distinct_1", "distinct_2")]
    return [f"{text['distinct']:,}", f"{text['vocabulary']:,}", *ratios]


def _size_names(sizes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {f"{size['width']} x {size['height']}": size["images"] for size in sizes}


def _box_names(sizes: Mapping[str, int]) -> dict[str, int]:
    bounds = ("< 32² px", "< 96² px", "≥ 96² px")
    return {f"{size} ({bound})": sizes[size] for size, bound in zip(_BOX_SIZES, bounds, strict=True)}


def _rejection_lines(rejections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for action, codes in rejections.items():
        for code, held in codes.items():
            first = held["examples"][0] if held["examples"] else None
            rows.append([f"{action} {code}", held["count"], _fit(_place(first)) if first else ""])
    return _grid(["left out or changed", "count", _EXAMPLE], rows)


def _place(example: Mapping[str, Any]) -> str:
    line = f":{example['line']}" if example["line"] else ""
    return f"{example['path']}{line}: {example['why']}"


def _account_lines(account: Mapping[str, Any]) -> list[str]:
    keys = ["found", *tables.PARTS, "rows"]
    lines = _grid(["account", *keys], [["images", *(account[key] for key in keys)]])
    rule = "found = written + duplicates + leaks + rejected, and written = rows in the shards:"
    if account["holds"]:
        return [*lines, f"{rule} holds"]
    broken = [_fit(f"  {path}", from_end=True) for path in account["broken"]]
    return [*lines, f"{rule} DOES NOT HOLD in", *broken]


def _share(part: int | None, total: int) -> str:
    return f"{part / total:.1%}" if part is not None and total else "-"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else _shown(str(value))


def _grid(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Aligned lines, the first column and examples to the left; nothing where there are no rows."""
    if not rows:
        return []
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    for row in cells:
        row[0] = _fit(row[0], WIDTH // 2)
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = []
        for name, text, width in zip(header, row, widths, strict=True):
            space = " " * (width - _columns(text))
            padded.append(text + space if name in (header[0], _EXAMPLE) else space + text)
        lines.append(_fit("  ".join(padded).rstrip()))
    return lines


def _shown(text: str) -> str:
    return "".join(character if character.isprintable() else "�" for character in text)


def _columns(text: str) -> int:
    """The columns that `text` takes on a terminal: East Asian wide characters take two (UAX 11)."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _fit(text: str, width: int = WIDTH, *, from_end: bool = False) -> str:
    """`text` cut to `width` columns with an ellipsis at its end, or at its start with `from_end`."""
    text = _shown(text)
    if _columns(text) <= width:
        return text
    used, kept = 1, []
    for character in reversed(text) if from_end else text:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return "…" + "".join(reversed(kept)) if from_end else "".join(kept) + "…"
