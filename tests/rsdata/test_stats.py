"""The audit against counts worked out by hand, and against a plain Python count of random rows."""

from __future__ import annotations

import json
import random
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rows import account, box, row, write_table, written

from rsdata import stats, tables, texts
from rsdata.errors import TableError
from rsdata.records import SCHEMA, Box, Rejection
from rsdata.tally import Tally, parts

ROWS = {
    "train": [
        [
            row(
                "a",
                objects=[box("ship", 31, 33), box("ship", 32, 32), box("harbor", 96, 96)],
                captions=["Two ships, one harbor.", "two ships!", "two ships!", "A ship."],
                caption_source="remoteclip",
            ),
            row("b", objects=[box("ship", 95, 97)], captions=["Two ships!"], caption_source="human", gsd=0.3),
        ],
        [row("c", image=None, width=40, height=None, label="beach", gsd=0.5)],
    ],
    "val": [
        [row("d", dataset="OTHER", split="val", width=60, label="forest")],
        [row("e", split="val", captions=["two ships!"], caption_source="human", label="beach", sha256="b")],
    ],
}
REJECTIONS = [
    Rejection("rejected", "E05", "labels/x.txt", 0, "images/x.jpg", "no image"),
    *(Rejection("dropped", "E14", "labels/a.txt", line, "images/a.jpg", "no area") for line in range(1, 8)),
    Rejection("dropped", "E05", "labels/b.txt", 3, "images/b.jpg", "no number"),
]
REASONS = {"rejected": {"E05": 1}, "dropped": {"E05": 1, "E14": 7}, "repaired": {"E03": 2}}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    dataset = {
        "images": account(7, 5, 2),
        "objects": {"found": 12, "written": 4, "dropped": 8},
        "captions": 6,
        "splits": {"train": {"images": 4, "objects": 9}, "val": {"images": 2, "objects": 3}},
        "classes": {"harbor": 1, "ship": 3},
        "unclaimed": 0,
        "paper": {"images": 1409, "boxes": 9, "classes": 15, "of": "the train split", "splits": ["train"]},
    }
    return write_table(
        tmp_path / "small",
        ROWS,
        REJECTIONS,
        images=account(7, 5, 2),
        reasons=REASONS,
        datasets={"TEST": dataset},
    )


def test_every_count_of_a_small_table(small: Path) -> None:
    example = {"path": "labels/a.txt", "line": 1, "image": "images/a.jpg", "why": "no area"}
    assert stats.audit([small]) == {
        "tables": [str(small)],
        "images": 5,
        "captions": 6,
        "objects": 4,
        "splits": {
            "train": {"images": 3, "captions": 5, "objects": 4},
            "val": {"images": 2, "captions": 1, "objects": 0},
        },
        "datasets": {
            "OTHER": {"images": 1, "captions": 0, "objects": 0},
            "TEST": {
                "images": 4,
                "captions": 6,
                "objects": 4,
                "paper": {
                    "images": 1409,
                    "boxes": 9,
                    "classes": 15,
                    "of": "the train split",
                    "splits": ["train"],
                },
                "found": {"images": 4, "objects": 9, "classes": 2},
            },
        },
        "classes": {
            "ship": {"objects": 3, "images": 2, "splits": {"train": 3}},
            "harbor": {"objects": 1, "images": 1, "splits": {"train": 1}},
        },
        "labels": {"beach": 2, "forest": 1},
        "caption_sources": {
            "human": {"images": 2, "captions": 2},
            "remoteclip": {"images": 1, "captions": 4},
        },
        "captions_per_image": {"min": 0, "mean": 6 / 5, "median": 1.0, "max": 4},
        "objects_per_image": {"min": 0, "mean": 4 / 5, "median": 0.0, "max": 3},
        "histograms": {
            "captions_per_image": [[0, 2], [1, 2], [4, 1]],
            "objects_per_image": [[0, 3], [1, 1], [3, 1]],
            "words": [[2, 5], [4, 1]],
            "words_by_source": {"human": [[2, 2]], "remoteclip": [[2, 3], [4, 1]]},
            "words_by_dataset": {"TEST": [[2, 5], [4, 1]]},
            # Edges of 31.98, 32, 96 and 95.99 pixels: 2^(39/8), 2^(40/8) and twice 2^(52/8).
            "box_edge": [[29.3441, 1], [32.0, 1], [90.5097, 2]],
        },
        # Two centres at (17, 19) and (17.5, 18.5), two at (49.5, 50.5) and (49, 51), of 100 x 80.
        "box_places": {
            "across": 32,
            "down": 32,
            "counts": [[2 if (r, c) in ((7, 5), (20, 15)) else 0 for c in range(32)] for r in range(32)],
        },
        # Words of the six: "two ships one harbor", "a ship", and four times "two ships".
        "text": {
            "distinct": 4,
            "equal": 3 / 6,
            "words": {"min": 2, "mean": 14 / 6, "median": 2.0, "max": 4},
            "vocabulary": 6,
            "distinct_1": 6 / 14,
            "distinct_2": 4 / 8,
            "commonest_words": [["ships", 5], ["two", 5], ["a", 1], ["harbor", 1], ["one", 1], ["ship", 1]],
            "commonest_bigrams": [["two ships", 5], ["a ship", 1], ["one harbor", 1], ["ships one", 1]],
        },
        "texts": {
            "human": {
                "captions": 2,
                "distinct": 2,
                "equal": 0.0,
                "words": {"min": 2, "mean": 2.0, "median": 2.0, "max": 2},
                "vocabulary": 2,
                "distinct_1": 2 / 4,
                "distinct_2": 1 / 2,
                # Of two words that are equal the precisions are 1, 1, 0.1 and 0.1.
                "self_bleu": pytest.approx(0.1**0.5),
            },
            "remoteclip": {
                "captions": 4,
                "distinct": 3,
                "equal": 2 / 4,
                "words": {"min": 2, "mean": 10 / 4, "median": 2.0, "max": 4},
                "vocabulary": 6,
                "distinct_1": 6 / 10,
                "distinct_2": 4 / 6,
                "self_bleu": pytest.approx(bleu("two ships one harbor", "two ships", "two ships", "a ship")),
            },
        },
        "sizes": {
            "width": {"min": 60, "mean": 90.0, "median": 100.0, "max": 100},
            "height": {"min": 80, "mean": 80.0, "median": 80.0, "max": 80},
            "commonest": [
                {"width": 100, "height": 80, "images": 3},
                {"width": 60, "height": 80, "images": 1},
            ],
        },
        "box_sizes": {"small": 1, "medium": 2, "large": 1},
        "gsd": {
            "images": 2,
            "metres": {"min": 0.3, "mean": 0.4, "median": 0.4, "max": 0.5},
            "histogram": [[0.297302, 1], [0.5, 1]],
        },
        "without": {"objects": 3, "captions": 2, "size": 1, "bytes": 1},
        "rejections": {
            "rejected": {
                "E05": {
                    "count": 1,
                    "examples": [
                        {"path": "labels/x.txt", "line": 0, "image": "images/x.jpg", "why": "no image"}
                    ],
                }
            },
            "dropped": {
                "E05": {
                    "count": 1,
                    "examples": [
                        {"path": "labels/b.txt", "line": 3, "image": "images/b.jpg", "why": "no number"}
                    ],
                },
                "E14": {"count": 7, "examples": [example | {"line": line} for line in range(1, 6)]},
            },
            "repaired": {"E03": {"count": 2, "examples": []}},  # stated, yet not in the file
        },
        "account": account(7, 5, 2) | {"rows": 5, "holds": True, "broken": []},
        "flags": [
            {
                "flag": "split-leaks",
                "title": "images that another split holds too (file, pixels or perceptual hash)",
                "unit": "images",
                "count": 2,
                "share": 2 / 5,
                "examples": [
                    {
                        "what": "TEST/train/e",
                        "why": "the same file in train: TEST/train/b",
                        "twin": "TEST/train/b",
                    }
                ],
            },
            {
                "flag": "boxes-outside",
                "title": "boxes that reach over the border of the image",
                "unit": "boxes",
                "count": 2,
                "share": 2 / 4,
                "examples": [
                    {"what": "TEST/train/a", "why": "harbor (1.5, 2.5, 97.5, 98.5) in 100 x 80"},
                    {"what": "TEST/train/b", "why": "ship (1.5, 2.5, 96.5, 99.5) in 100 x 80"},
                ],
            },
            {
                "flag": "images-without-size",
                "title": "images without width or height",
                "unit": "images",
                "count": 1,
                "share": 1 / 5,
                "examples": [{"what": "TEST/train/c", "why": "TEST, train"}],
            },
        ],
    }


def test_the_report_is_json(small: Path) -> None:
    report = stats.audit([small])
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_two_tables_are_one_corpus(small: Path, tmp_path: Path) -> None:
    rows = [row("z", split="test", objects=[box("ship", 5, 5)], captions=["two ships!"], width=60)]
    dataset = {
        "images": {"found": 3},
        "objects": {"found": 4},
        "splits": {"test": {"images": 3, "objects": 4}},
        "classes": {"ship": 1, "plane": 0},
        "paper": {"images": 1409},
    }
    other = write_table(tmp_path / "other", {"test": [rows]}, REJECTIONS[:2], datasets={"TEST": dataset})
    report = stats.audit([small, other])
    assert (report["images"], report["captions"], report["objects"]) == (6, 7, 5)
    assert list(report["splits"]) == ["test", "train", "val"]
    assert report["classes"]["ship"] == {"objects": 4, "images": 3, "splits": {"test": 1, "train": 3}}
    assert report["datasets"]["TEST"]["images"] == 5
    # The paper's "train" is in the first table alone.
    assert report["datasets"]["TEST"]["found"] == {"images": 4, "objects": 9, "classes": 3}
    assert report["text"]["distinct"] == 4
    assert report["sizes"]["commonest"][1] == {"width": 60, "height": 80, "images": 2}
    assert report["rejections"]["rejected"]["E05"]["count"] == 2
    assert report["rejections"]["dropped"]["E14"]["count"] == 8
    assert report["account"] == account(8, 6, 2) | {"rows": 6, "holds": True, "broken": []}


def test_found_is_that_of_the_whole_dump_where_the_paper_names_no_split(tmp_path: Path) -> None:
    dataset = {
        "images": {"found": 1411},
        "objects": {"found": 98_992},
        "splits": {"train": {"images": 3, "objects": 4}},
        "paper": {"images": 1409, "boxes": 98_990},
    }
    table = write_table(tmp_path / "t", {"train": [[row()]]}, datasets={"TEST": dataset})
    report = stats.audit([table])
    assert report["datasets"]["TEST"]["found"] == {"images": 1411, "objects": 98_992, "classes": 0}
    text = stats.render(report)
    assert "  paper: 1,409 images, found 1,411\n" in text
    assert "  paper: 98,990 boxes, found 98,992\n" in text


def test_found_counts_an_unsplit_dump_but_no_split_that_the_paper_left_out(tmp_path: Path) -> None:
    dataset = {
        "images": {"found": 9},
        "objects": {"found": 90},
        "splits": {"unsplit": {"images": 4, "objects": 40}, "val": {"images": 5, "objects": 50}},
        "paper": {"images": 1409, "splits": ["train"]},
    }
    table = write_table(tmp_path / "t", {"unsplit": [[row(split="unsplit")]]}, datasets={"TEST": dataset})
    found = stats.audit([table])["datasets"]["TEST"]["found"]
    assert found == {"images": 4, "objects": 40, "classes": 0}


def naive(rows: Sequence[tables.Row]) -> dict[str, Any]:
    """The same numbers by loops over rows."""
    captions = [caption for item in rows for caption in item.captions]
    words = [re.findall(r"[^\W_]+", caption.lower()) for caption in captions]
    unigrams = [word for caption in words for word in caption]
    bigrams = [pair for caption in words for pair in pairwise(caption)]
    areas = [(o.xmax - o.xmin) * (o.ymax - o.ymin) for item in rows for o in item.objects]
    sizes = Counter((item.width, item.height) for item in rows if item.width and item.height)
    labels = Counter(o.label for item in rows for o in item.objects)
    holds = Counter(label for item in rows for label in {o.label for o in item.objects})
    splits = {
        label: Counter(i.split for i in rows for o in i.objects if o.label == label) for label in labels
    }

    def spread(values: Sequence[int]) -> dict[str, Any]:
        mean = pytest.approx(statistics.mean(values))
        return {"min": min(values), "mean": mean, "median": statistics.median(values), "max": max(values)}

    return {
        "images": len(rows),
        "captions": len(captions),
        "objects": len(areas),
        "classes": {
            label: {"objects": n, "images": holds[label], "splits": dict(splits[label])}
            for label, n in labels.items()
        },
        "captions_per_image": spread([len(item.captions) for item in rows]),
        "objects_per_image": spread([len(item.objects) for item in rows]),
        "text": {
            "distinct": len(set(captions)),
            "equal": sum(n for n in Counter(captions).values() if n > 1) / len(captions),
            "words": spread([len(caption) for caption in words]),
            "vocabulary": len(set(unigrams)),
            "distinct_1": len(set(unigrams)) / len(unigrams),
            "distinct_2": len(set(bigrams)) / len(bigrams),
            "commonest_words": commonest(unigrams),
            "commonest_bigrams": commonest(bigrams),
        },
        "histograms": {
            "captions_per_image": histogram(len(item.captions) for item in rows),
            "objects_per_image": histogram(len(item.objects) for item in rows),
            "words": histogram(map(len, words)),
            "words_by_source": {},
            "words_by_dataset": {"TEST": histogram(map(len, words))},
            "box_edge": histogram(lower_edge(area**0.5) for area in areas),
        },
        "sizes": {
            "width": spread(list(Counter({w: n for (w, _), n in sizes.items()}).elements())),
            "height": spread(list(Counter(h for (_, h), n in sizes.items() for _ in range(n)).elements())),
            "commonest": [
                {"width": w, "height": h, "images": n}
                for (w, h), n in sorted(sizes.items(), key=lambda size: (-size[1], size[0]))[:5]
            ],
        },
        "box_sizes": {
            "small": sum(area < 1024 for area in areas),
            "medium": sum(1024 <= area < 9216 for area in areas),
            "large": sum(area >= 9216 for area in areas),
        },
        "without": {
            "objects": sum(not item.objects for item in rows),
            "captions": sum(not item.captions for item in rows),
            "size": sum(not (item.width and item.height) for item in rows),
            "bytes": sum(item.image is None for item in rows),
        },
    }


def commonest(grams: Sequence[Any]) -> list[list[Any]]:
    counted = sorted(Counter(grams).items(), key=lambda item: (-item[1], item[0]))
    return [[gram if isinstance(gram, str) else " ".join(gram), number] for gram, number in counted[:50]]


def histogram(values: Iterable[Any]) -> list[list[Any]]:
    return [[value, number] for value, number in sorted(Counter(values).items())]


def lower_edge(edge: float) -> float:
    """Of the eighth of an octave that a length lies in."""
    eighth = 0
    while 2 ** ((eighth + 1) / 8) <= edge:
        eighth += 1
    return float(f"{2 ** (eighth / 8):.6g}")


def bleu(*captions: str) -> float:
    """Mean BLEU-4 of each caption against the others, by nltk."""
    split, smooth = [caption.split() for caption in captions], SmoothingFunction().method1
    return statistics.mean(
        sentence_bleu(split[:at] + split[at + 1 :], each, smoothing_function=smooth)
        for at, each in enumerate(split)
    )


def random_rows(rng: random.Random, number: int) -> Iterator[tables.Row]:
    nouns = ["ship", "plane", "small vehicle", "пристань", "港口"]
    for index in range(number):
        boxes = [
            box(rng.choice(nouns), rng.randrange(1, 140), rng.randrange(1, 140))
            for _ in range(rng.randrange(4))
        ]
        captions = [
            f"{rng.choice(['A', 'many', 'Lots of'])} {rng.choice(nouns)}, {rng.randrange(9)}."
            for _ in range(rng.choice([0, 1, 5]))
        ]
        height = rng.choice([None, 20, 30, 40])
        yield row(str(index), objects=boxes, captions=captions, width=height and 10 * height, height=height)


def test_batches_shards_and_row_groups_add_up(tmp_path: Path) -> None:
    rng = random.Random(7)
    with_bytes, without = list(random_rows(rng, 250)), list(random_rows(rng, 9000))
    without = [item._replace(image=None) for item in without]
    table = write_table(tmp_path / "t", {"train": [with_bytes, without]})
    held = [pq.read_metadata(shard).num_row_groups for shard in tables.shards(table)]
    assert held == [3, 4]  # groups of all sizes
    expected = naive([*with_bytes, *without])
    report = stats.audit([table])
    assert {key: report[key] for key in expected} == expected
    assert expected["without"]["bytes"] == 9000


def test_words_of_any_script_and_no_punctuation(tmp_path: Path) -> None:
    captions = ["Две пристани — у моря", "许多 船 在 港口。", "ÉTÉ été!", "_ ... -- ½ 3.5", "", " \n\t"]
    table = write_table(tmp_path / "t", {"train": [[row(captions=captions)]]})
    text = stats.audit([table])["text"]
    assert text["distinct"] == 6
    # две пристани у моря | 许多 船 在 港口 | été été | ½ 3 5 | nothing | nothing
    assert text["words"] == {"min": 0, "mean": 13 / 6, "median": 2.5, "max": 4}
    assert text["vocabulary"] == 12
    assert text["distinct_1"] == 12 / 13
    assert text["distinct_2"] == 9 / 9


def test_repeated_captions_count_each_time(tmp_path: Path) -> None:
    rows = [row(str(index), captions=["a ship in the sea"] * 5) for index in range(200)]
    table = write_table(tmp_path / "t", {"train": [rows]})
    text = stats.audit([table])["text"]
    assert text["distinct"] == 1
    assert (text["distinct_1"], text["distinct_2"]) == (5 / 5000, 4 / 4000)


def test_captions_that_differ_in_case_are_two_captions_of_one_vocabulary(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t", {"train": [[row(captions=["A SHIP", "a ship"])]]})
    text = stats.audit([table])["text"]
    assert (text["distinct"], text["vocabulary"], text["distinct_1"]) == (2, 2, 2 / 4)


def test_ties_go_by_name_and_size_not_by_the_order_of_rows(tmp_path: Path) -> None:
    rows = [
        row("a", objects=[box("zebra", 9, 9), box("ant", 9, 9)], width=200, label="zoo"),
        row("b", width=100, label="aquarium"),
    ]
    report = stats.audit([write_table(tmp_path / "t", {"train": [rows]})])
    assert list(report["classes"]) == ["ant", "zebra"]
    assert list(report["labels"]) == ["aquarium", "zoo"]
    assert [size["width"] for size in report["sizes"]["commonest"]] == [100, 200]


def test_examples_of_many_rejections_are_the_first_five(tmp_path: Path) -> None:
    common = [Rejection("dropped", "E14", "a.txt", line, "", "no area") for line in range(1, 9001)]
    rare = [Rejection("dropped", "E05", "b.txt", line, "", "no number") for line in range(1, 11)]
    rejections = [*common[:4000], *rare[:2], *common[4000:], *rare[2:]]
    report = stats.audit([write_table(tmp_path / "t", {"train": [[row()]]}, rejections)])
    dropped = report["rejections"]["dropped"]
    assert {code: held["count"] for code, held in dropped.items()} == {"E05": 10, "E14": 9000}
    assert [example["line"] for example in dropped["E05"]["examples"]] == [1, 2, 3, 4, 5]
    assert [example["line"] for example in dropped["E14"]["examples"]] == [1, 2, 3, 4, 5]


NOTHING = {"min": None, "mean": None, "median": None, "max": None}


@pytest.mark.parametrize("rows", [{}, {"train": []}, {"train": [[]]}])
def test_a_table_without_rows(tmp_path: Path, rows: dict[str, list[list[tables.Row]]]) -> None:
    report = stats.audit([write_table(tmp_path / "t", rows)])
    assert (report["images"], report["captions"], report["objects"]) == (0, 0, 0)
    assert report["splits"] == {split: {"images": 0, "captions": 0, "objects": 0} for split in rows}
    assert report["classes"] == {}
    assert report["captions_per_image"] == report["text"]["words"] == report["sizes"]["width"] == NOTHING
    assert report["text"]["distinct_1"] is None
    assert report["without"] == {"objects": 0, "captions": 0, "size": 0, "bytes": 0}
    assert report["account"]["holds"]
    assert "images" in stats.render(report)


def test_a_table_without_captions_sizes_objects_and_bytes(tmp_path: Path) -> None:
    rows = [row(str(index), image=None, width=None, height=None) for index in range(3)]
    report = stats.audit([write_table(tmp_path / "t", {"train": [rows]})])
    assert report["without"] == {"objects": 3, "captions": 3, "size": 3, "bytes": 3}
    assert report["captions_per_image"] == {"min": 0, "mean": 0, "median": 0, "max": 0}
    assert report["sizes"] == {"width": NOTHING, "height": NOTHING, "commonest": []}
    assert report["text"] == {
        "distinct": 0,
        "equal": None,
        "words": NOTHING,
        "vocabulary": 0,
        "distinct_1": None,
        "distinct_2": None,
        "commonest_words": [],
        "commonest_bigrams": [],
    }
    assert report["gsd"] == {"images": 0, "metres": NOTHING, "histogram": []}
    assert report["texts"] == {}
    assert not any(map(any, report["box_places"]["counts"]))
    assert stats.render(report)


def test_null_lists_are_empty_lists(tmp_path: Path) -> None:
    """Another program may write null where we write []."""
    table = write_table(tmp_path / "t", {"train": [[row("a", captions=["a ship"]), row("b")]]})
    [shard] = tables.shards(table)
    read = pq.read_table(shard)
    for name in ("captions", "objects"):
        at = read.schema.get_field_index(name)
        values = [value or None for value in read[name].to_pylist()]
        read = read.set_column(at, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
    pq.write_table(read, shard)
    report = stats.audit([table])
    assert report["without"]["captions"] == 1
    assert report["without"]["objects"] == 2
    assert report["objects_per_image"]["max"] == 0


@pytest.mark.parametrize(
    ("stated", "holds"),
    [
        (account(2, 2), True),
        (account(9, 2, rejected=3, duplicates=2, leaks=2), True),
        (account(3, 2), False),
        (account(3, 3), False),  # it adds up, but a row is missing
        (account(0, 0), False),
    ],
)
def test_the_account(tmp_path: Path, stated: dict[str, int], holds: bool) -> None:
    good = write_table(tmp_path / "good", {"train": [[row("a")]]})
    table = write_table(tmp_path / "t", {"train": [[row("b"), row("c")]]}, images=stated)
    report = stats.audit([good, table])
    assert report["account"]["holds"] is holds
    assert report["account"]["broken"] == ([] if holds else [str(table)])
    assert ("DOES NOT HOLD" in stats.render(report)) is not holds


def test_faults_of_two_tables_do_not_cancel(tmp_path: Path) -> None:
    more = write_table(tmp_path / "more", {"train": [[row("a")]]}, images=account(2, 2))
    less = write_table(tmp_path / "less", {"train": [[row("b"), row("c")]]}, images=account(1, 1))
    found = stats.audit([more, less])["account"]
    assert (found["found"], found["written"], found["rows"]) == (3, 3, 3)
    assert found["broken"] == [str(more), str(less)]


def test_what_is_no_finished_table_is_refused(small: Path, tmp_path: Path) -> None:
    (small / tables.MANIFEST).unlink()
    with pytest.raises(TableError, match="unfinished"):
        stats.audit([small])
    with pytest.raises(TableError, match="not a table"):
        stats.audit([tmp_path / "nowhere"])


def test_a_missing_shard_is_named(small: Path) -> None:
    (small / "data/val-00001-of-00002.parquet").unlink()
    with pytest.raises(TableError, match=r"val-00001-of-00002\.parquet: .*missing"):
        stats.audit([small])


def test_a_damaged_shard_is_named(small: Path) -> None:
    (small / "data/val-00001-of-00002.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(TableError, match=r"val-00001-of-00002\.parquet: damaged"):
        stats.audit([small])


def test_damaged_rejections_are_named(small: Path) -> None:
    (small / tables.REJECTIONS).write_bytes(b"no")
    with pytest.raises(TableError, match=r"rejections\.parquet: damaged"):
        stats.audit([small])


def test_a_shard_of_another_schema_is_named(small: Path) -> None:
    path = small / "data/val-00001-of-00002.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["caption_source"]), path)
    with pytest.raises(TableError, match=r"val-00001-of-00002\.parquet: lacks the column caption_source"):
        stats.audit([small])


def test_bytes_and_polygons_are_never_read(small: Path) -> None:
    """With their pages overwritten the audit is the same, while reading them fails."""
    before = stats.audit([small])
    unread = ("image.bytes", "objects.list.element.polygon.list.element")
    for shard in tables.shards(small):
        data = bytearray(shard.read_bytes())
        footer = pq.read_metadata(shard)
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                if chunk.path_in_schema in unread:
                    start = chunk.dictionary_page_offset or chunk.data_page_offset
                    size = chunk.total_compressed_size
                    data[start : start + size] = b"\xff" * size
        shard.write_bytes(data)
    for column in unread:
        with pytest.raises(OSError):  # noqa: PT011 - the wording is that of pyarrow
            pq.ParquetFile(tables.shards(small)[0]).read(columns=[column])
    assert stats.audit([small]) == before


def test_memory_does_not_hold_the_images(tmp_path: Path) -> None:
    rows = [row(str(index), image=bytes([index]) * (1 << 20), captions=["a ship"]) for index in range(64)]
    table = write_table(tmp_path / "t", {"train": [rows]})
    program = """
import sys
from pathlib import Path
import pyarrow
from rsdata import stats
assert stats.audit([Path(sys.argv[1])])["images"] == 64
print(pyarrow.default_memory_pool().max_memory())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(table)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 8 << 20  # the images are 64 MiB


def test_render_is_aligned_and_narrow(small: Path) -> None:
    text = stats.render(json.loads(json.dumps(stats.audit([small]))))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)
    at = lines.index("class   objects  share  images")
    assert lines[at + 1 : at + 3] == ["ship          3  75.0%       2", "harbor        1  25.0%       1"]
    assert "TEST (the train split)\n  paper: 1,409 images, found 4\n  paper: 9 boxes, found 9\n" in text
    assert "dropped E14              7  labels/a.txt:1: no area\n" in text
    assert "rejected E05             1  labels/x.txt: no image\n" in text
    assert lines[-1].endswith("rows in the shards: holds")


def test_render_survives_hostile_and_wide_names(tmp_path: Path) -> None:
    long = "x" * 300
    rows = [
        row(
            "a",
            objects=[box("\x1b[31mred\nship", 9, 9), box("港口" * 60, 9, 9), box("ship", 9, 9)],
            label=long,
        )
    ]
    rejections = [Rejection("dropped", "E14", f"{long}/a.txt", 1, "", "\x07" + "长" * 5000)]
    folder = tmp_path / long[:200] / long[:200] / "end"
    text = stats.render(stats.audit([write_table(folder, {"train": [rows]}, rejections)]))
    assert "\x1b" not in text
    assert "\x07" not in text
    widths = [sum(2 if ord(c) > 0x2E80 and c != "�" else 1 for c in line) for line in text.splitlines()]
    assert max(widths) <= 100
    assert "/end\n" in text
    at = text.splitlines().index(next(line for line in text.splitlines() if line.startswith("class ")))
    # Equal counts, so by name; each line as wide on the screen as the next.
    assert len(set(widths[at : at + 4])) == 1


def test_render_shows_the_commonest_classes(tmp_path: Path) -> None:
    boxes = [box(f"class {index:02d}", 9, 9) for index in range(45) for _ in range(45 - index)]
    text = stats.render(stats.audit([write_table(tmp_path / "t", {"train": [[row(objects=boxes)]]})]))
    assert "class 39" in text
    assert "class 40" not in text
    assert "and 5 more\n" in text


def test_unknown_null_counts_are_not_guessed(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t", {"train": [[row()]]})
    [shard] = tables.shards(table)
    pq.write_table(pq.read_table(shard), shard, write_statistics=False)
    report = stats.audit([table])
    assert report["without"]["bytes"] is None
    assert re.search(r"^bytes +- +-$", stats.render(report), re.MULTILINE)


def rich_rows(rng: random.Random, number: int) -> list[tables.Row]:
    """Rows that raise every flag of which the order of rows could change an example."""
    nouns = ["ship", "Ship", "storage tank", "storagetank", "plane"]
    vocabulary = [f"w{index}" for index in range(30)]
    rows = []
    for index in range(number):
        sides = [(rng.randrange(-3, 90), rng.randrange(-3, 70)) for _ in range(rng.randrange(4))]
        boxes = [
            Box(rng.choice(nouns), "", x, y, x + rng.randrange(20), y + rng.randrange(20)) for x, y in sides
        ]
        captions = [
            " ".join(rng.choices(vocabulary, k=rng.randrange(3, 9))) for _ in range(rng.choice([0, 3]))
        ]
        captions = captions[:1] * 3 if rng.random() < 0.2 else captions
        source = rng.choice(["human", "remoteclip"]) if captions else None
        split = rng.choice(["train", "val"])
        rows.append(
            row(
                f"{index:04d}",
                split=split,
                objects=boxes,
                captions=captions,
                caption_source=source,
                width=rng.choice([100, None]),
                gsd=rng.choice([None, 0.1, 0.25]),
                sha256=f"{rng.randrange(number)}",
            )
        )
    return rows


def test_nothing_depends_on_shards_or_the_order_of_rows(tmp_path: Path) -> None:
    rows = rich_rows(random.Random(3), 400)
    first = stats.audit([written(tmp_path / "one", rows)])
    random.Random(4).shuffle(rows)
    second = stats.audit([written(tmp_path / "other", rows, shards=5)])
    assert {flag["flag"] for flag in first["flags"]} >= {
        *("split-leaks", "boxes-without-area", "boxes-outside", "images-without-size", "empty-images"),
        *("class-spellings", "equal-captions"),
    }
    assert first.pop("tables") != second.pop("tables")
    assert first == second


def test_nothing_depends_on_the_seed_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are told apart by the interpreter's own hash, which differs from run to run."""
    table = written(tmp_path / "t", rich_rows(random.Random(5), 150), shards=2)
    before = stats.audit([table])
    monkeypatch.setattr(texts, "hash", lambda text: hash(f"{text}, another seed"), raising=False)
    assert stats.audit([table]) == before


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=7).map(" ".join), min_size=2, max_size=6))
def test_self_bleu_is_that_of_nltk(captions: list[str]) -> None:
    assert texts.self_bleu(captions) == pytest.approx(bleu(*captions), abs=1e-12)


def test_self_bleu_is_of_some_captions_whatever_the_table(tmp_path: Path) -> None:
    """With two kinds of captions its value tells how many of each were drawn: about as many as there are."""
    rows = [
        row(f"{at:05d}", captions=["a b c d e f"] if at % 2 else [f"x{at} y{at} z{at} v{at}"])
        for at in range(6000)
    ]
    rows = [item._replace(caption_source="human") for item in rows]
    held = stats.audit([write_table(tmp_path / "t", {"train": [rows]})])["texts"]["human"]
    # An equal caption scores 1, one that shares no word 0.
    drawn = held["self_bleu"] * 500
    assert drawn == pytest.approx(round(drawn))
    assert 200 < drawn < 300


@pytest.mark.parametrize("captions", [[], ["a ship"]])
def test_self_bleu_of_fewer_than_two_captions_is_not_known(tmp_path: Path, captions: list[str]) -> None:
    rows = [row("a", captions=captions, caption_source="human")]
    held = stats.audit([write_table(tmp_path / "t", {"train": [rows]})])["texts"]
    assert [each["self_bleu"] for each in held.values()] == [None] * len(captions)


def test_captions_without_a_source_are_in_the_text_alone(tmp_path: Path) -> None:
    rows = [row("a", captions=["a ship"]), row("b", captions=["a ship"], caption_source="human")]
    report = stats.audit([write_table(tmp_path / "t", {"train": [rows]})])
    assert (report["text"]["distinct"], report["text"]["equal"]) == (1, 1.0)
    assert report["texts"]["human"]["equal"] == 0.0
    assert list(report["texts"]) == ["human"]
    assert report["histograms"]["words"] == [[2, 2]]
    assert report["histograms"]["words_by_source"] == {"human": [[2, 1]]}


def test_only_the_fifty_commonest_words_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    names = [f"n{at:03d}" for at in range(200)]
    captions = [" ".join(reversed(names)), "n150 n150", "n150 n007"]
    text = stats.audit([write_table(tmp_path / "t", {"train": [[row(captions=captions)]]})])["text"]
    assert text["commonest_words"][:3] == [["n150", 4], ["n007", 2], ["n000", 1]]
    assert text["commonest_words"][-1] == ["n048", 1]
    assert len(text["commonest_words"]) == len(text["commonest_bigrams"]) == 50
    assert text["commonest_bigrams"][:2] == [["n001 n000", 1], ["n002 n001", 1]]


def test_a_tally_counts_what_a_counter_counts() -> None:
    rng = np.random.default_rng(0)
    counted, held = Counter[int](), [Tally(), Tally()]
    for _ in range(40):
        keys = rng.integers(0, 30_000, 20_000, dtype=np.uint64)
        counts = rng.integers(1, 5, len(keys))
        for key, number in zip(keys.tolist(), counts.tolist(), strict=True):
            counted[key] += number
        held[rng.integers(2)].add(keys, counts)
    found = [
        pair for keys, counts in parts(held) for pair in zip(keys.tolist(), counts.tolist(), strict=True)
    ]
    assert len(found) == len(counted)
    assert dict(found) == counted


@given(st.lists(st.text("aZ ,-\tİΣς½é港\u00a0\u2028_9", max_size=12)))
def test_words_of_many_texts_at_once_are_those_of_each(held: list[str]) -> None:
    vocabulary = texts.Vocabulary()
    numbers, sizes = vocabulary.tokens(pa.array(held, pa.string()))
    names = iter([vocabulary.words()[number] for number in numbers.tolist()])
    assert [list(islice(names, size)) for size in sizes.tolist()] == [texts.words(text) for text in held]


def test_boxes_that_are_nowhere_are_in_no_chart(tmp_path: Path) -> None:
    nan, boxes = float("nan"), []
    for edges in (
        (nan, 0, 5, 5),
        (5, 5, 5, 9),
        (-40, 0, -20, 10),
        (0, 0, float("inf"), 9),
        (96, 76, 100, 80),
    ):
        boxes.append(Box("ship", "ship", *edges))
    report = stats.audit([write_table(tmp_path / "t", {"train": [[row(objects=boxes)]]})])
    assert report["histograms"]["box_edge"] == [[4.0, 1], [lower_edge(200**0.5), 1]]
    counts = report["box_places"]["counts"]
    assert (sum(map(sum, counts)), counts[31][31]) == (1, 1)


def test_gsd_that_is_no_length_is_not_known(tmp_path: Path) -> None:
    given = [0.3, 0.3, 15.0, 0.0, -1.0, float("nan"), float("inf"), None]
    rows = [row(str(at), gsd=value) for at, value in enumerate(given)]
    gsd = stats.audit([write_table(tmp_path / "t", {"train": [rows]})])["gsd"]
    assert gsd["images"] == 3
    assert gsd["metres"] == {"min": 0.3, "mean": pytest.approx(5.2), "median": 0.3, "max": 15.0}
    assert gsd["histogram"] == [[0.297302, 2], [14.6721, 1]]


def test_render_tells_flags_gsd_and_text_by_source(small: Path) -> None:
    text = stats.render(stats.audit([small]))
    assert (
        "flags\n"
        "  2 images that another split holds too (file, pixels or perceptual hash) (40.0%)\n"
        "    TEST/train/e: the same file in train: TEST/train/b\n"
    ) in text
    assert text.index("flags\n") < text.index("account ")
    assert re.search(r"^ground sampling distance \(m\) +0\.3 +0\.4 +0\.4 +0\.5$", text, re.MULTILINE)
    assert re.search(r"^remoteclip +3 +50\.0% +6 +0\.600000 +0\.666667 +0\.\d{3}$", text, re.MULTILINE)
