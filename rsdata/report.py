"""The audit of a corpus as one HTML page: what it holds, what was lost, what to look at, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from rsdata import cards, charts, corpora, gallery, page, places, removals, tables
from rsdata.cards import Palette
from rsdata.page import Section
from rsdata.tally import PER_OCTAVE

IMAGES = 240
"""Images shown, of all."""
PAIRS = 24
"""Pairs shown of each kind of duplicate or leak."""
BARS = 40
"""Classes of the chart."""
WORDS = 20
"""Words and pairs of words listed."""
SOURCES = 5
"""Caption sources of the chart, the largest."""

Rows: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Rows of the tables, as cards.rows gives them, by image_id."""

_CORPUS = "remoteclip"
_LENGTHS = "ret-3-words.json"


def write(path: Path, sources: Sequence[Path], audit: Mapping[str, Any]) -> None:
    """Write the page of an audit (as `stats.audit` of the same sources returns it).

    The same tables give the same bytes. Raises TableError where a table is damaged, RsdataError where the
    page cannot be written.
    """
    lists = _lists(sources)
    pairs = {heading: gallery.spread(held, PAIRS) for heading, held in lists.items()}
    shards = [shard for source in sources for shard in tables.shards(source)]
    order = cards.chosen(shards, IMAGES)
    flagged = {
        each[key] for each in _examples(audit, "images", "boxes") for key in ("what", "twin") if key in each
    }
    wanted = {*order, *_ids(pairs), *flagged}
    held = {
        row["image_id"]: row for row in cards.rows(shards, wanted, most=cards.BUDGET // max(len(wanted), 1))
    }
    palette = Palette(audit["classes"])
    parts = [
        Section("overview", "Overview", _overview(sources, audit)),
        Section("flags", "Flags", _flags(audit["flags"], held, palette)),
        *_paper(audit["datasets"]),
        Section("objects", "Objects", _objects(audit)),
        Section("captions", "Captions", _captions(audit)),
        Section("images", "Images", _images(audit)),
        Section(
            "gallery",
            "Gallery",
            _gallery([held[name] for name in order if name in held], audit["images"], palette),
        ),
        *_pairs(lists, pairs, held),
    ]
    names = ", ".join(places.name(source) for source in sources)
    told = ", ".join(page.text(source) for source in audit["tables"])
    lead = f'<p class="soft">Audit of {told}. Everything here is in this file; it loads nothing.</p>'
    page.write(path, page.document(names, lead, parts))


def _lists(sources: Sequence[Path]) -> dict[str, pa.Table]:
    """What deduplication removed from the tables, or holds for suspect, by heading; [] are left out."""
    found: dict[str, list[pa.Table]] = {}
    for source in sources:
        for name, leaks in ((tables.REMOVED, "Leaks into"), (tables.SUSPECTS, "Suspects of")):
            if (source / name).is_file():
                listed = removals.read(source / name)
                for benchmark in sorted(pc.unique(listed["benchmark"].drop_null()).to_pylist()):
                    found.setdefault(f"{leaks} {benchmark}", []).append(
                        listed.filter(pc.equal(listed["benchmark"], benchmark))
                    )
                twins = listed.filter(pc.equal(listed["kind"], "duplicate"))
                found.setdefault("Duplicates", []).append(twins)
    joined = {heading: pa.concat_tables(parts) for heading, parts in sorted(found.items(), key=_leaks_first)}
    return {heading: listed for heading, listed in joined.items() if listed.num_rows}


def _leaks_first(item: tuple[str, object]) -> tuple[bool, str]:
    return item[0] == "Duplicates", item[0]


def _ids(pairs: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[str]:
    return {row[key] for rows in pairs.values() for row in rows for key in ("image_id", "twin") if row[key]}


def _examples(audit: Mapping[str, Any], *units: str) -> list[Mapping[str, str]]:
    """The examples of the flags that count these units."""
    return [example for flag in audit["flags"] if flag["unit"] in units for example in flag["examples"]]


def _overview(sources: Sequence[Path], audit: Mapping[str, Any]) -> str:
    manifests = [tables.manifest(source) for source in sources]
    objects = {
        key: sum(manifest["objects"].get(key, 0) for manifest in manifests)
        for key in ("found", "dropped", "removed", "written")
    }
    totals = {
        "images": audit["images"],
        "captions": audit["captions"],
        "objects": audit["objects"],
        "classes": len(audit["classes"]),
        "datasets": len(audit["datasets"]),
        "words in use": audit["text"]["vocabulary"],
    }
    return (
        page.totals(totals)
        + "<h3>From what was found to what is written</h3>"
        + _funnel(audit["account"], objects)
        + _account(audit["account"])
        + "<h3>What was left out or changed, and why</h3>"
        + _losses(audit["rejections"])
        + "<h3>Splits</h3>"
        + page.table(
            ["split", "#images", "#captions", "#objects"],
            [
                [page.text(name), held["images"], held["captions"], held["objects"]]
                for name, held in audit["splits"].items()
            ],
        )
    )


def _funnel(account: Mapping[str, Any], objects: Mapping[str, int]) -> str:
    rows = []
    for unit, counts, lost in (
        ("images", account, ("rejected", "duplicates", "leaks")),
        ("objects", objects, ("dropped", "removed")),
    ):
        found = counts["found"]
        for key in ("found", *lost, "written"):
            width = 100 * counts[key] / found if found else 0
            kind = "bar lost" if key in lost else "bar"
            bar = f'<span class="{kind}" style="width:{width:.2f}%"></span>' if counts[key] else ""
            name = f'<span class="part">{key}</span>' if key in lost else f"{unit} {key}"
            rows.append([name, counts[key], page.share(counts[key], found), bar])
    return page.table(["", "#count", "#share", ""], rows, "funnel")


def _account(account: Mapping[str, Any]) -> str:
    rule = "found = written + duplicates + leaks + rejected, and written = rows in the shards"
    if account["holds"]:
        return f'<p class="soft">The account holds: {rule}.</p>'
    return (
        f"<p><b>The account does not hold</b> ({rule}) in {', '.join(map(page.text, account['broken']))}.</p>"
    )


def _losses(rejections: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [f"{action} <code>{page.text(code)}</code>", held["count"], _places(held["examples"])]
        for action, codes in rejections.items()
        for code, held in codes.items()
    ]
    return page.table(["what", "#count", "the first"], rows) if rows else "<p>Nothing.</p>"


def _places(examples: Sequence[Mapping[str, Any]]) -> str:
    shown = []
    for example in examples[:3]:
        line = f":{example['line']}" if example["line"] else ""
        shown.append(f"<code>{page.text(example['path'])}{line}</code> {page.text(example['why'])}")
    return "<br>".join(shown)


def _flags(flags: Sequence[Mapping[str, Any]], held: Rows, palette: Palette) -> str:
    """What an auditor would look at first, the gravest first, with pictures where an example is an image."""
    if not flags:
        return "<p>Nothing was flagged.</p>"
    items = []
    for flag in flags:
        part = f" ({100 * flag['share']:.2g} % of all {flag['unit']})" if flag["share"] is not None else ""
        examples = "".join(
            f"<li>{page.text(example['what'])}: {page.text(example['why'])}</li>"
            for example in flag["examples"]
        )
        items.append(
            f"<li><b>{flag['count']:,} {page.text(flag['title'])}</b>{part}<ul>{examples}</ul>"
            f"{_evidence(flag, held, palette)}</li>"
        )
    return f'<ul class="flags">{"".join(items)}</ul>'


def _evidence(flag: Mapping[str, Any], held: Rows, palette: Palette) -> str:
    """The images that a flag names, as cards; where it names two that are alike, side by side."""
    if flag["unit"] not in ("images", "boxes"):
        return ""
    shown = []
    for example in flag["examples"]:
        rows = [held[example[key]] for key in ("what", "twin") if example.get(key) in held]
        if len(rows) == 2:
            one, other = ((row["split"], row["image_id"], row["picture"]) for row in rows)
            shown.append(gallery.pair(one, other, example["why"]))
        else:
            shown += [cards.card(row, palette) for row in rows]
    kind = "pairs" if any("twin" in example for example in flag["examples"]) else "cards"
    return f'<details><summary>Pictures</summary><div class="{kind}">{"".join(shown)}</div></details>'


def _paper(datasets: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Datasets whose papers count them, beside what the dumps hold; and the corpus beside Table I."""
    stated = {name: held for name, held in datasets.items() if held.get("paper")}
    rows: list[list[str | int | None]] = []
    for name, held in stated.items():
        paper, found = held["paper"], held["found"]
        rows.append(
            [
                f"{page.text(name)}<br><small>{page.text(paper.get('of', ''))}</small>",
                *(paper.get("images"), found["images"], held["images"]),
                *(paper.get("boxes"), found["objects"], held["objects"]),
                *(paper.get("classes"), found["classes"]),
            ]
        )
    if not rows:
        return []
    head = ["dataset", "#images, paper", "#found", "#written", "#boxes, paper", "#found", "#written"]
    body = page.table([*head, "#classes, paper", "#found"], rows)
    note = '<p class="soft">Found: in the dumps, of what the paper counts. Written: all that is here.</p>'
    return [Section("paper", "Beside the papers", note + body + _corpus(stated))]


def _corpus(stated: Mapping[str, Mapping[str, Any]]) -> str:
    """The totals beside those of RemoteCLIP's corpus, where datasets of it are here."""
    corpus = corpora.load(_CORPUS)
    counted = {recipe.name: recipe.paper.get("images", 0) for recipe in corpus.datasets}
    here = [name for name in counted if name in stated]
    if not here:
        return ""
    total = sum(counted.values())
    rows: list[list[str | int | None]] = [
        [
            "images of these datasets, found in the dumps",
            sum(stated[name]["found"]["images"] for name in here),
        ],
        ["images of these datasets, written", sum(stated[name]["images"] for name in here)],
        ["the paper's rows of these datasets", sum(counted[name] for name in here)],
        ["all rows of the paper's Table I", total],
        ["the total that the paper prints", corpus.total],
    ]
    note = (
        f"{len(here)} of the {len(counted)} datasets of {page.text(corpus.facts['title'])} are here. "
        f"The rows of the paper's Table I sum to {total:,}; it prints {corpus.total:,}."
    )
    return f"<h3>RemoteCLIP's corpus</h3><p>{note}</p>{page.table(['', '#images'], rows)}"


def _objects(audit: Mapping[str, Any]) -> str:
    classes = {name: held["objects"] for name, held in audit["classes"].items()}
    if not classes:
        return "<p>No object is in these tables.</p>"
    first = dict(list(classes.items())[:BARS])
    rest = list(classes.values())[BARS:]
    note = f"The {BARS} commonest; {len(rest):,} more classes hold {sum(rest):,} objects." if rest else ""
    held = audit["histograms"]
    sizes = ", ".join(
        f"{page.share(count, audit['objects'])} {name}" for name, count in audit["box_sizes"].items()
    )
    rows = [
        [page.text(name), each["objects"], page.share(each["objects"], audit["objects"]), each["images"],
         ", ".join(f"{page.text(split)} {count:,}" for split, count in each["splits"].items())]
        for name, each in audit["classes"].items()
    ]  # fmt: skip
    places_known = sum(map(sum, audit["box_places"]["counts"]))
    return (
        '<div class="charts">'
        + _chart("Objects by class", charts.bars(first, "objects", log=True), note, tall=True)
        + _chart(
            "Boxes an image",
            charts.histogram(held["objects_per_image"], "boxes", "images"),
            _spread(audit["objects_per_image"]),
        )
        + _chart(
            "Size of boxes",
            charts.octaves(held["box_edge"], "square root of the area, pixels", "objects", PER_OCTAVE),
            f"{sizes} (COCO's bounds: 32² and 96² pixels)",
        )
        + _chart(
            "Where boxes lie",
            charts.heat(audit["box_places"]["counts"], "boxes by the place of their centre"),
            f"Centres of {places_known:,} boxes; the fuller the colour, the more.",
        )
        + f"</div><details><summary>All {len(rows):,} classes</summary>"
        + page.table(["class", "#objects", "#share", "#images", "objects by split"], rows)
        + "</details>"
    )


def _captions(audit: Mapping[str, Any]) -> str:
    sources = audit["texts"]
    if not sources:
        return "<p>No caption is in these tables.</p>"
    reference = _reference()
    largest = sorted(sources, key=lambda name: (-sources[name]["captions"], name))[:SOURCES]
    series = {reference["name"]: reference["histogram"]}
    series |= {name: audit["histograms"]["words_by_source"][name] for name in largest}
    text = audit["text"]
    rows = [
        [
            page.text(name),
            *(held["captions"], held["distinct"], page.share(held["equal"], 1)),
            *(held["words"]["mean"], held["vocabulary"]),
            *(held[key] for key in ("distinct_1", "distinct_2", "self_bleu")),
        ]
        for name, held in sources.items()
    ]
    head = ["source", "#captions", "#different", "#equal to another", "#words, mean", "#vocabulary"]
    measures = (
        "Equal: share of captions whose very text another caption has too. Distinct-1, -2: different words "
        "and pairs of words over all (Li et al. 2016). Self-BLEU: how like a sample's other captions each is "
        "(Zhu et al. 2018); lower is more varied."
    )
    return (
        page.table([*head, "#distinct-1", "#distinct-2", "#self-BLEU"], rows)
        + f'<p class="soft"><small>{measures}</small></p>'
        + '<div class="charts">'
        + _chart(
            "Words a caption, by source",
            charts.steps(series, "words", "% of captions", reference["name"]),
            f"Area: {page.text(reference['about'])}.",
        )
        + _chart(
            "Captions an image",
            charts.histogram(audit["histograms"]["captions_per_image"], "captions", "images"),
            _spread(audit["captions_per_image"]),
        )
        + _words("Commonest words", text["commonest_words"])
        + _words("Commonest pairs of words", text["commonest_bigrams"])
        + "</div>"
    )


def _words(title: str, held: Sequence[Sequence[Any]]) -> str:
    items = "".join(f"<li>{page.text(word)} <small>{count:,}</small></li>" for word, count in held[:WORDS])
    return f'<figure><figcaption><b>{title}</b></figcaption><ol class="words">{items}</ol></figure>'


def _reference() -> dict[str, Any]:
    """Words a caption of genuine RET-3 captions: name, about (what they are), histogram."""
    path = places.recipes() / "corpora" / _LENGTHS
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _images(audit: Mapping[str, Any]) -> str:
    sizes = audit["sizes"]
    common = {f"{each['width']} x {each['height']}": each["images"] for each in sizes["commonest"]}
    splits = {name: held["images"] for name, held in audit["splits"].items()}
    datasets = {name: held["images"] for name, held in audit["datasets"].items()}
    parts = [_chart("Images by split", charts.bars(splits, "images"))]
    parts.append(_chart("Images by dataset", charts.bars(datasets, "images"), tall=len(datasets) > 12))
    if common:
        note = f"Width: {_spread(sizes['width'])}. Height: {_spread(sizes['height'])}."
        parts.append(_chart("Commonest sizes, pixels", charts.bars(common, "images"), note))
    if gsd := audit["gsd"]["images"]:
        chart = charts.octaves(audit["gsd"]["histogram"], "metres a pixel", "images", PER_OCTAVE)
        parts.append(
            _chart("Ground sampling distance", chart, f"Known of {gsd:,} of {audit['images']:,} images.")
        )
    if audit["labels"]:
        first = dict(list(audit["labels"].items())[:BARS])
        parts.append(_chart("Images by scene", charts.bars(first, "images"), tall=True))
    without = ", ".join(
        f"{page.number(count)} without {name}" for name, count in audit["without"].items() if count != 0
    )
    return f'<div class="charts">{"".join(parts)}</div>' + (f"<p>Images: {without}.</p>" if without else "")


def _spread(held: Mapping[str, float | None]) -> str:
    least, mean, median, most = (page.number(held[key]) for key in ("min", "mean", "median", "max"))
    return f"{least} to {most}, mean {mean}, median {median}"


def _chart(title: str, svg: str, note: str = "", tall: bool = False) -> str:
    kind = "chart tall" if tall else "chart"
    return f'<figure class="{kind}"><figcaption><b>{title}</b>{note}</figcaption>{svg}</figure>'


def _gallery(rows: Sequence[Mapping[str, Any]], images: int, palette: Palette) -> str:
    note = (
        f'<p class="soft">{len(rows):,} of {images:,} images: of each dataset and class in turn those whose '
        "id has the smallest hash. Point at a box or a class, or tap it, to see which is which.</p>"
    )
    return cards.gallery(rows, palette, note)


def _pairs(
    lists: Mapping[str, pa.Table],
    pairs: Mapping[str, Sequence[Mapping[str, Any]]],
    held: Rows,
) -> list[Section]:
    pictures = {name: row["picture"] for name, row in held.items()}
    parts = []
    for heading, listed in lists.items():
        title = gallery.told(heading, listed, pairs[heading])
        parts.append(f"<h3>{page.text(title)}</h3>{gallery.figures(pairs[heading], pictures, pictures)}")
    if not parts:
        return []
    note = (
        '<p class="soft">What <code>rsdata dedup</code> removed, or holds for suspect. An image that was '
        "removed is no longer in the table: its picture shows only where a table named here still holds it. "
        "<code>rsdata dedup … --report FILE</code> shows both.</p>"
    )
    return [Section("duplicates", "Duplicates and leaks", note + "".join(parts))]
