"""The audit of a corpus: what its tables hold, what was left out and why, and the paper's counts beside it.

`audit` counts; `render` lays the counts out for a terminal. Image bytes and polygons are never read: which
images lack bytes is told by the null counts of the Parquet footers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsdata import flags, paper, split_leaks, tables, texts
from rsdata.flags import Flags, Objects
from rsdata.grid import WIDTH, fit, grid, share
from rsdata.records import EDGES
from rsdata.split_leaks import SplitLeaks
from rsdata.tally import distribution, listed, lower_edges, octaves
from rsdata.texts import Texts

EXAMPLES = 5
COMMONEST_SIZES = 5
CLASSES_SHOWN = 40
CELLS = 32
"""Rows and columns of `box_places`."""

_ACTIONS = ("rejected", "dropped", "repaired")
_EXAMPLE_OF = ["path", "line", "image", "why"]
_OBJECT = "objects.list.element"
_COLUMNS = (
    *("image_id", "dataset", "width", "height", "captions.list.element", "caption_source", "label", "gsd"),
    *split_leaks.COLUMNS,
    *(f"{_OBJECT}.{name}" for name in ("label", *EDGES)),
)
_EXAMPLE = "the first"
_SPREAD = ("min", "mean", "median", "max")
_DIVERSITY = ("vocabulary", "distinct-1", "distinct-2", "self-BLEU")
_BOX_SIZES = ("small", "medium", "large")
_BOX_AREAS = (32**2, 96**2)


@dataclass
class Counts:
    """What `count` has counted; histograms map a value to how often it occurs.

    groups: images, captions and objects by dataset, split and caption source. class_objects, class_images: by
    dataset, split and label; annotated: images with objects by dataset and split. box_edges: by octave bin.
    gsd: metres a pixel of the images that have them, in arrays. rows: images of each table.
    """

    groups: dict[str, Counter[tuple[str, str, str | None]]] = field(
        default_factory=lambda: {unit: Counter() for unit in ("images", "captions", "objects")}
    )
    class_objects: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    class_images: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    annotated: Counter[tuple[str, str]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    texts: Texts = field(default_factory=Texts)
    flags: Flags = field(default_factory=Flags)
    leaks: SplitLeaks = field(default_factory=SplitLeaks)
    captions_per_image: Counter[int] = field(default_factory=Counter)
    objects_per_image: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    box_sizes: list[int] = field(default_factory=lambda: [0] * len(_BOX_SIZES))
    box_edges: Counter[int] = field(default_factory=Counter)
    box_places: Any = field(default_factory=lambda: np.zeros((CELLS, CELLS), np.int64))
    gsd: list[Any] = field(default_factory=list)
    without_bytes: int | None = 0
    rows: list[int] = field(default_factory=list)

    @property
    def images(self) -> int:
        """The number of rows."""
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

    def classes(self) -> dict[str, dict[str, Any]]:
        """Label -> {objects, images, splits: {split: objects}}, commonest first."""
        objects: Counter[str] = Counter()
        images: Counter[str] = Counter()
        splits: dict[str, Counter[str]] = {}
        for key, number in self.class_objects.items():
            _, split, label = key
            objects[label] += number
            images[label] += self.class_images[key]
            splits.setdefault(label, Counter())[split] += number
        return {
            label: {"objects": number, "images": images[label], "splits": dict(sorted(splits[label].items()))}
            for label, number in _commonest(objects)
        }


def audit(sources: Sequence[Path]) -> dict[str, Any]:
    """Audit tables, all together as one corpus, as data that can be written as JSON.

    Nothing of it depends on the order of tables, shards or rows but `tables` and the examples of rejections.
    What is held grows with the distinct captions, words, pairs of words and classes; of an image it is 32
    bytes.

    Keys of the result (counts are ints; a distribution is {min, mean, median, max}, all null of nothing; a
    histogram is [[value, count] …] in rising order of the values that occur; shares are of 0 to 1, null of
    nothing):

        tables              their paths
        images, captions, objects
        splits              name -> {images, captions, objects}
        datasets            name -> the same; where the recipe states the paper's counts also paper (as there)
                            and found {images, objects, classes}: what the dumps hold, rejected or not, in the
                            splits that the paper used if the recipe names them, or unsplit (classes: written)
        classes             label of objects -> {objects, images, splits: {split: objects}}, commonest first
        labels              label of whole images -> images, commonest first
        caption_sources     "human" or the caption set -> {images, captions}
        captions_per_image, objects_per_image       distributions
        histograms          captions_per_image, objects_per_image, words (of a caption); words_by_source:
                            source -> histogram, words_by_dataset: dataset -> histogram; box_edge: square
                            roots of the areas of boxes in pixels, as [lower edge of the bin, count] with
                            eight bins an octave (the bounds are 2^(n/8), to six digits), empty ones left out
        box_places          across, down (both 32), counts: 32 rows from top to bottom of 32 ints, how many
                            boxes have their centre in that cell of their image; images of known size and
                            centres inside them only
        text                distinct (captions), equal (share of the captions that are there more than once),
                            words (a caption's; distribution), vocabulary, distinct_1, distinct_2: distinct
                            n-grams over all n-grams of all captions (Li et al. 2016, arXiv 1510.03055; a
                            ratio, so it falls as a corpus grows); commonest_words, commonest_bigrams: fifty
                            [text, count]
        texts               caption source -> captions, and of these distinct, equal, words, vocabulary,
                            distinct_1, distinct_2, self_bleu: as texts.self_bleu says, of five hundred
                            captions (those of the smallest hashes of image_id and place in the image's list)
        sizes               width, height (pixels; distributions), commonest [{width, height, images}]: five
        box_sizes           small (area < 32² pixels), medium, large (≥ 96²) -> objects: the bounds of COCO,
                            with the area of the box where COCO takes the mask's
        gsd                 images (whose ground sampling distance is known), metres (a pixel; distribution),
                            histogram: binned as box_edge, in metres
        without             images that lack objects, captions, size, bytes (null: the footers do not tell)
        rejections          action -> code -> {count, examples [{path, line, image, why}]: five at most}
        account             images found, written, duplicates, leaks, rejected (as the manifests state), rows
                            (in the shards); holds: in each table found is the sum of the next four and
                            written is rows; broken: the tables where not
        flags               [{flag, title, unit, count, share, examples}] of flags.FLAGS that count something,
                            the gravest first; share: of all of that unit, null of captions;
                            examples: five at most, {what, why}: an image_id, class or caption, and a text; of
                            split-leaks also twin, the image_id in the other split

    A word is a lower-cased token of nltk's wordpunct_tokenize that holds a letter or a digit.

    Raises TableError where a source is no table, is unfinished, damaged, or lacks a column.
    """
    manifests = [tables.manifest(table, whole=True) for table in sources]
    counts = count(sources)
    classes = counts.classes()
    return {
        "tables": [str(table) for table in sources],
        "images": counts.images,
        "captions": counts.groups["captions"].total(),
        "objects": counts.groups["objects"].total(),
        "splits": _with_empty(counts.by(1), (manifest["splits"] for manifest in manifests)),
        "datasets": _datasets(counts, manifests),
        "classes": classes,
        "labels": dict(_commonest(counts.labels)),
        "caption_sources": {
            name: {"images": held["images"], "captions": held["captions"]}
            for name, held in counts.by(2).items()
        },
        "captions_per_image": distribution(counts.captions_per_image),
        "objects_per_image": distribution(counts.objects_per_image),
        "histograms": _histograms(counts),
        "box_places": {"across": CELLS, "down": CELLS, "counts": counts.box_places.tolist()},
        "text": counts.texts.report(),
        "texts": counts.texts.by_source(),
        "sizes": _sizes(counts.sizes),
        "box_sizes": dict(zip(_BOX_SIZES, counts.box_sizes, strict=True)),
        "gsd": _gsd(counts.gsd),
        "without": {
            "objects": counts.objects_per_image[0],
            "captions": counts.captions_per_image[0],
            "size": counts.images - counts.sizes.total(),
            "bytes": counts.without_bytes,
        },
        "rejections": _rejections(sources, manifests),
        "account": _account(sources, manifests, counts.rows),
        "flags": _flags(counts, classes, sources),
    }


def count(sources: Sequence[Path]) -> Counts:
    """Count tables, all together. Raises TableError as `audit`."""
    counts = Counts()
    for table in sources:
        before = counts.images
        for shard in tables.shards(table):
            _read(shard, counts)
        counts.rows.append(counts.images - before)
    return counts


def _read(shard: Path, counts: Counts) -> None:
    """Count a shard, in batches so that memory does not grow with it."""
    with tables.reading(shard, (*_COLUMNS, "image.bytes")) as parquet:
        _count_bytes(parquet.metadata, counts)
        for batch in parquet.iter_batches(tables.BATCH, columns=list(_COLUMNS)):
            _count(batch, counts)


def _count_bytes(footer: pq.FileMetaData, counts: Counts) -> None:
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        chunks = map(group.column, range(group.num_columns))
        statistics = next(chunk.statistics for chunk in chunks if chunk.path_in_schema == "image.bytes")
        if statistics is None or not statistics.has_null_count:
            counts.without_bytes = None
        elif counts.without_bytes is not None:
            counts.without_bytes += statistics.null_count


def _count(batch: pa.RecordBatch, counts: Counts) -> None:
    lengths = {unit: pc.list_value_length(batch[unit]).fill_null(0) for unit in ("captions", "objects")}
    ids = batch["image_id"].fill_null("").to_pylist()
    counts.captions_per_image.update(_tally(lengths["captions"]))
    counts.objects_per_image.update(_tally(lengths["objects"]))
    counts.labels.update(_tally(batch["label"].drop_null()))
    _count_groups(batch, lengths, counts)
    _count_sizes(batch, counts)
    _count_gsd(batch["gsd"], counts)
    held = flags.objects(batch)
    _count_classes(batch, held, counts)
    _count_boxes(held, counts)
    alike = counts.texts.add(batch["captions"], batch["caption_source"], batch["dataset"], ids)
    counts.flags.look(batch, ids, held, alike)
    counts.leaks.add(batch)


def _count_groups(batch: pa.RecordBatch, lengths: Mapping[str, pa.Array], counts: Counts) -> None:
    keys = ["dataset", "split", "caption_source"]
    columns = {**{key: batch[key] for key in keys}, **lengths}
    grouped = pa.table(columns).group_by(keys, use_threads=False)
    sums = grouped.aggregate([([], "count_all"), ("captions", "sum"), ("objects", "sum")])
    for group in sums.to_pylist():
        key = (group["dataset"], group["split"], group["caption_source"])
        counts.groups["images"][key] += group["count_all"]
        counts.groups["captions"][key] += group["captions_sum"]
        counts.groups["objects"][key] += group["objects_sum"]


def _count_sizes(batch: pa.RecordBatch, counts: Counts) -> None:
    known = pa.table({"width": batch["width"], "height": batch["height"]}).drop_null()
    sums = known.group_by(["width", "height"], use_threads=False).aggregate([([], "count_all")])
    for size in sums.to_pylist():
        counts.sizes[size["width"], size["height"]] += size["count_all"]


def _count_gsd(metres: pa.Array, counts: Counts) -> None:
    known = metres.drop_null().to_numpy()
    known = known[np.isfinite(known) & (known > 0)]
    counts.gsd.append(known)


def _count_classes(batch: pa.RecordBatch, held: Objects, counts: Counts) -> None:
    rows = pa.array(held.row)
    keys = ["dataset", "split", "label"]
    each = pa.table({"row": rows, "label": held.label}).group_by(["row", "label"], use_threads=False)
    once = each.aggregate([([], "count_all")])
    images = {key: batch[key].take(once["row"].combine_chunks()).fill_null("") for key in keys[:2]}
    grouped = pa.table({**images, "label": once["label"], "objects": once["count_all"]}).drop_null()
    sums = grouped.group_by(keys, use_threads=False).aggregate([("objects", "sum"), ([], "count_all")])
    for group in sums.to_pylist():
        key = (group["dataset"], group["split"], group["label"])
        counts.class_objects[key] += group["objects_sum"]
        counts.class_images[key] += group["count_all"]
    annotated = pa.table({key: batch[key].take(rows.unique()).fill_null("") for key in keys[:2]})
    sums = annotated.group_by(keys[:2], use_threads=False).aggregate([([], "count_all")])
    for group in sums.to_pylist():
        counts.annotated[group["dataset"], group["split"]] += group["count_all"]


@np.errstate(invalid="ignore", divide="ignore")  # edges may be of no finite number
def _count_boxes(held: Objects, counts: Counts) -> None:
    areas = (held.xmax - held.xmin) * (held.ymax - held.ymin)
    sizes = np.searchsorted(_BOX_AREAS, areas, side="right")
    for size, number in enumerate(np.bincount(sizes, minlength=len(_BOX_SIZES)).tolist()):
        counts.box_sizes[size] += number
    sound = held.sound()
    bins, numbers = np.unique(octaves(np.sqrt(areas[sound])), return_counts=True)
    counts.box_edges.update(dict(zip(bins.tolist(), numbers.tolist(), strict=True)))
    across = (held.xmin + held.xmax) / 2 / held.width
    down = (held.ymin + held.ymax) / 2 / held.height
    inside = sound & (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
    columns, rows = (
        np.minimum(place[inside] * CELLS, CELLS - 1).astype(np.int64) for place in (across, down)
    )
    cells = np.bincount(rows * CELLS + columns, minlength=CELLS * CELLS)
    counts.box_places += cells.reshape(CELLS, CELLS)


def _tally(values: pa.Array | pa.ChunkedArray) -> dict[Any, int]:
    """How often each value occurs."""
    counted = pc.value_counts(values)
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _commonest(counter: Counter[str]) -> list[tuple[str, int]]:
    """By count, then by name: ties must not depend on the order of the rows."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _histograms(counts: Counts) -> dict[str, Any]:
    return {
        "captions_per_image": listed(counts.captions_per_image),
        "objects_per_image": listed(counts.objects_per_image),
        "words": listed(counts.texts.lengths()),
        "words_by_source": texts.named({name: text.lengths for name, text in counts.texts.sources.items()}),
        "words_by_dataset": texts.named(counts.texts.datasets),
        "box_edge": lower_edges(counts.box_edges),
    }


def _gsd(known: Sequence[Any]) -> dict[str, Any]:
    """known: arrays of float32, metres."""
    exact, images = np.unique(np.concatenate([np.zeros(0, np.float32), *known]), return_counts=True)
    metres = [float(str(value)) for value in exact]  # 0.3 is 0.3, not the nearest float32
    bins: Counter[int] = Counter()
    for number, count in zip(octaves(exact.astype(np.float64)).tolist(), images.tolist(), strict=True):
        bins[number] += count
    return {
        "images": int(images.sum()),
        "metres": distribution(dict(zip(metres, images.tolist(), strict=True))),
        "histogram": lower_edges(bins),
    }


def _flags(
    counts: Counts, classes: Mapping[str, Mapping[str, Any]], sources: Sequence[Path]
) -> list[dict[str, Any]]:
    number = Counter(counts.flags.counts)
    examples = {
        flag: [{"what": what, "why": why} for what, why in held]
        for flag, held in counts.flags.examples.items()
    }
    shards = [shard for table in sources for shard in tables.shards(table)]
    number["split-leaks"], examples["split-leaks"] = counts.leaks.find(shards, EXAMPLES)
    single = flags.in_one_split(counts.class_objects, counts.class_images, counts.annotated)
    number["classes-in-one-split"], examples["classes-in-one-split"] = (
        len(single),
        flags.class_examples(single),
    )
    number["class-spellings"], examples["class-spellings"] = flags.spelling_examples(
        {label: held["objects"] for label, held in classes.items()}
    )
    common = counts.texts.widespread() if counts.images >= flags.FEW_ROWS else []
    number["widespread-captions"] = len(common)
    examples["widespread-captions"] = flags.caption_examples(common, counts.images)
    totals = {
        "images": counts.images,
        "boxes": counts.groups["objects"].total(),
        "classes": len(classes),
    }
    return flags.listed(number, examples, totals)


def _sizes(sizes: Counter[tuple[int, int]]) -> dict[str, Any]:
    width: Counter[int] = Counter()
    height: Counter[int] = Counter()
    for (across, down), images in sizes.items():
        width[across] += images
        height[down] += images
    first = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:COMMONEST_SIZES]
    return {
        "width": distribution(width),
        "height": distribution(height),
        "commonest": [
            {"width": across, "height": down, "images": images} for (across, down), images in first
        ],
    }


def _with_empty(held: dict[str, dict[str, int]], stated: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`held`, with zeros for the names that a manifest states but no row has."""
    names = {name for names in stated for name in names}
    nothing = {"images": 0, "captions": 0, "objects": 0}
    return {name: dict(held.get(name, nothing)) for name in sorted(held.keys() | names)}


def _datasets(counts: Counts, manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stated = [manifest["datasets"] for manifest in manifests]
    report = _with_empty(counts.by(0), stated)
    for name, dataset in report.items():
        entries = [datasets[name] for datasets in stated if name in datasets]
        papers = [entry["paper"] for entry in entries if entry.get("paper")]
        if papers:
            dataset["paper"] = dict(papers[0])
            dataset["found"] = paper.found(entries, papers[0].get("splits", ()))
    return report


def _rejections(sources: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts as the manifests state them, and the first examples of the lists."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for table, manifest in zip(sources, manifests, strict=True):
        for action, codes in manifest["reasons"].items():
            counts.update({(action, code): number for code, number in codes.items()})
        for batch in _rejected(table):
            for key in _reasons(batch):
                kept = examples.setdefault(key, [])
                if len(kept) < EXAMPLES:
                    kept.extend(_examples(batch, key, EXAMPLES - len(kept)))
    report: dict[str, Any] = {action: {} for action in _ACTIONS}
    for (action, code), count in sorted(counts.items()):
        entry = {"count": count, "examples": examples.get((action, code), [])}
        report.setdefault(action, {})[code] = entry
    return report


def _rejected(table: Path) -> Iterator[pa.RecordBatch]:
    path = table / tables.REJECTIONS
    if path.is_file():
        yield from tables.batches(path, ("action", "code", *_EXAMPLE_OF))


def _reasons(batch: pa.RecordBatch) -> list[tuple[str, str]]:
    keys = pa.table({"action": batch["action"], "code": batch["code"]})
    found = keys.group_by(["action", "code"], use_threads=False).aggregate([])
    return [(row["action"], row["code"]) for row in found.to_pylist()]


def _examples(batch: pa.RecordBatch, key: tuple[str, str], most: int) -> list[dict[str, Any]]:
    here = batch.filter((pc.field("action") == key[0]) & (pc.field("code") == key[1]))
    examples: list[dict[str, Any]] = here.slice(0, most).select(_EXAMPLE_OF).to_pylist()
    return examples


def _account(
    sources: Sequence[Path], manifests: Sequence[Mapping[str, Any]], rows: Sequence[int]
) -> dict[str, Any]:
    account: dict[str, Any] = dict.fromkeys(("found", *tables.PARTS), 0)
    broken = []
    for table, manifest, held in zip(sources, manifests, rows, strict=True):
        stated = {key: manifest["images"].get(key, 0) for key in account}
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
    sections = [
        ["tables", *(fit(f"  {table}", from_end=True) for table in report["tables"])],
        grid(["corpus", *units], [["all", *(report[unit] for unit in units)]]),
        grid(["split", *units], _units(report["splits"])),
        _dataset_lines(report["datasets"]),
        _class_lines(report),
        _share_lines("image label", "images", report["labels"], images),
        grid(["distribution", *_SPREAD], _distributions(report)),
        grid(["caption source", "images", "captions"], _sources(report["caption_sources"])),
        grid(["captions of", "differ", "equal", *_DIVERSITY], _text_rows(report)),
        _share_lines("commonest sizes", "images", _size_names(sizes["commonest"]), images),
        _share_lines("box area", "objects", _box_names(report["box_sizes"]), report["objects"]),
        _share_lines("images without", "images", report["without"], images),
        _rejection_lines(report["rejections"]),
        _flag_lines(report["flags"]),
        _account_lines(report["account"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _units(groups: Mapping[str, Mapping[str, int]]) -> list[list[Any]]:
    return [[name, held["images"], held["captions"], held["objects"]] for name, held in groups.items()]


def _dataset_lines(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = grid(["dataset", "images", "captions", "objects"], _units(datasets))
    for name, dataset in datasets.items():
        if stated := dataset.get("paper"):
            lines.extend(map(fit, paper.lines(name, stated, dataset["found"])))
    return lines


def _class_lines(report: Mapping[str, Any]) -> list[str]:
    classes, objects = report["classes"], report["objects"]
    rows = [
        [label, held["objects"], share(held["objects"], objects), held["images"]]
        for label, held in list(classes.items())[:CLASSES_SHOWN]
    ]
    return grid(["class", "objects", "share", "images"], rows) + _more(len(classes))


def _share_lines(title: str, unit: str, counts: Mapping[str, int | None], total: int) -> list[str]:
    rows = [[name, count, share(count, total)] for name, count in list(counts.items())[:CLASSES_SHOWN]]
    return grid([title, unit, "share"], rows) + _more(len(counts))


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
    rows: list[list[Any]] = [[name, *map(held.get, _SPREAD)] for name, held in named.items()]
    if report["gsd"]["images"]:
        metres = map(report["gsd"]["metres"].get, _SPREAD)
        rows.append(["ground sampling distance (m)", *(f"{value:.3g}" for value in metres)])
    return rows


def _sources(sources: Mapping[str, Mapping[str, int]]) -> list[list[Any]]:
    return [[name, held["images"], held["captions"]] for name, held in sources.items()]


def _text_rows(report: Mapping[str, Any]) -> list[list[Any]]:
    texts = {"all": report["text"], **(report["texts"] if len(report["texts"]) > 1 else {})}
    if len(report["texts"]) == 1:
        texts["all"] = {**report["text"], "self_bleu": next(iter(report["texts"].values()))["self_bleu"]}
    rows = []
    for name, text in texts.items():
        ratios = {"distinct_1": 6, "distinct_2": 6, "self_bleu": 3}
        shown = [
            "-" if text.get(key) is None else f"{text[key]:.{digits}f}" for key, digits in ratios.items()
        ]
        equal = "-" if text["equal"] is None else f"{text['equal']:.1%}"
        rows.append([name, text["distinct"], equal, text["vocabulary"], *shown])
    return rows


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
            rows.append([f"{action} {code}", held["count"], fit(_place(first)) if first else ""])
    return grid(["left out or changed", "count", _EXAMPLE], rows, left=[_EXAMPLE])


def _flag_lines(held: Sequence[Mapping[str, Any]]) -> list[str]:
    """Two lines a flag: what it is, and its first example."""
    lines = []
    for flag in held:
        part = "" if flag["share"] is None else f" ({flag['share']:.1%})"
        lines.append(fit(f"  {flag['count']:,} {flag['title']}{part}"))
        for example in flag["examples"][:1]:
            lines.append(fit(f"    {fit(example['what'], WIDTH // 2)}: {example['why']}"))
    return ["flags", *lines] if lines else []


def _place(example: Mapping[str, Any]) -> str:
    line = f":{example['line']}" if example["line"] else ""
    return f"{example['path']}{line}: {example['why']}"


def _account_lines(account: Mapping[str, Any]) -> list[str]:
    keys = ["found", *tables.PARTS, "rows"]
    lines = grid(["account", *keys], [["images", *(account[key] for key in keys)]])
    rule = "found = written + duplicates + leaks + rejected, and written = rows in the shards:"
    if account["holds"]:
        return [*lines, f"{rule} holds"]
    broken = [fit(f"  {path}", from_end=True) for path in account["broken"]]
    return [*lines, f"{rule} DOES NOT HOLD in", *broken]
