"""The page of an audit: what stands in it, alone, the same every time, unmoved by what names hold."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from rows import account, row, write_table
from test_dedup import jpeg, scene

from rsdata import cards, charts, cli, page, removals, report, stats, tables
from rsdata.errors import RsdataError, TableError
from rsdata.records import Box, Rejection
from rsdata.texts import words

_PICTURE = jpeg(scene(1))
REJECTIONS = [
    Rejection("rejected", "E05", "labels/x.txt", 0, "images/x.jpg", "no image"),
    *(Rejection("dropped", "E14", "labels/a.txt", line, "images/a.jpg", "no area") for line in range(1, 8)),
]
EVIL = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>'


class Page(HTMLParser):
    """What a page holds: its tags, the addresses and the text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name.split(":")[-1] in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def image(name: str, labels: str = "", **values: Any) -> tables.Row:
    """A row with a drawn image and a box for each word of `labels`."""
    boxes = [
        Box(label.replace("_", " "), label, 10 * at, 20, 10 * at + 30, 60)
        for at, label in enumerate(labels.split())
    ]
    digest = hashlib.sha256(name.encode()).hexdigest()
    given = {"image": _PICTURE, "width": 256, "height": 256, "objects": boxes, "sha256": digest}
    return row(name, **(given | values))


def corpus(folder: Path, **manifest: Any) -> Path:
    said = {"captions": ["Two ships in a harbor.", "Many ships."], "caption_source": "human"}
    rows = {
        "train": [
            [image("a", "ship ship harbor", **said), image("b", "ship", sha256="1" * 64)],
            [image("c", "storage_tank", dataset="OTHER", gsd=0.5)],
        ],
        "val": [[image("d", "ship", split="val", sha256="1" * 64), image("e", split="val", image=None)]],
    }
    return write_table(
        folder, rows, REJECTIONS, images=account(7, 5, 2),
        objects={"found": 9, "written": 6, "dropped": 3}, **manifest,
    )  # fmt: skip


def written(path: Path, *sources: Path) -> str:
    report.write(path, sources, stats.audit(sources))
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    return written(folder / "page.html", corpus(folder / "mine"))


def test_what_the_audit_counts_stands_in_the_page(html: str) -> None:
    text = Page(html).text
    for told in (
        *("images 5", "captions 2", "objects 6", "classes 3", "datasets 2"),
        *("images found 7 100.0 % rejected 2 28.6 %", "objects found 9 100.0 % dropped 3 33.3 %"),
        *("dropped E14 7 labels/a.txt:1 no area", "rejected E05 1 labels/x.txt no image"),
        *("The account holds", "RSICD is not among them", "1 without bytes"),
        "5 of 5 images: of each dataset and class",
    ):
        assert told in text


def test_an_account_that_does_not_hold_is_said_so(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t", {"train": [[image("a")]]}, images=account(3, 1))
    assert "The account does not hold" in Page(written(tmp_path / "p.html", table)).text


def test_the_page_loads_nothing_and_runs_one_script(html: str) -> None:
    found = Page(html)
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses)
    assert not re.search(r"https?:|@import|url\((?!#)|//[a-z]+\.", re.sub('base64,[^"]*', "", html))
    assert not {"link", "iframe", "object", "embed", "form", "base"} & set(found.tags)
    assert found.tags.count("script") == 1
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "unsafe-inline" not in policy[1].partition("script-src")[2]


def test_ids_of_the_page_are_unique(html: str) -> None:
    ids = re.findall(r' id="([^"]*)"', html)
    charted = {name for name in ids if re.fullmatch("[mp][0-9a-f]{10}", name)}  # the same id, the same mark
    rest = [name for name in ids if name not in charted]
    assert len(rest) == len(set(rest))
    assert {"overview", "flags", "objects", "captions", "images", "gallery"} <= set(rest)


def test_the_same_tables_give_the_same_bytes(tmp_path: Path, html: str) -> None:
    again = written(tmp_path / "page.html", corpus(tmp_path / "mine"))
    place = re.compile(r"Audit of .*?mine")
    assert place.sub("", again) == place.sub("", html)


@pytest.mark.parametrize("where", ["class", "caption", "image_id", "dataset", "path", "split"])
def test_names_are_text(tmp_path: Path, where: str) -> None:
    given: dict[str, Any] = {"captions": ["plain"], "caption_source": "human"}
    if where == "class":
        given["objects"] = [Box(EVIL, EVIL, 1, 1, 50, 50)]
    elif where == "caption":
        given["captions"] = [EVIL, EVIL]
    elif where != "path":
        given[where] = EVIL
    path = EVIL if where == "path" else "labels/x.txt"
    rejections = [rejection._replace(path=path) for rejection in REJECTIONS]
    table = write_table(tmp_path / "t", {"train": [[image("a", "ship", **given)]]}, rejections)
    found = Page(written(tmp_path / "p.html", table))
    assert not found.handlers
    assert found.tags.count("script") == 1
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses)
    assert "onerror=alert(1)" in found.text


def test_two_splits_with_one_image_stand_side_by_side(html: str) -> None:
    flags = html[html.index('id="flags"') : html.index('id="objects"')]
    pair = Page(flags[flags.index('class="pair"') :].partition("</figure>")[0])
    assert pair.tags.count("img") == 2
    assert "train TEST/train/b" in pair.text
    assert "val TEST/train/d" in pair.text


def pairs(*rows: tuple[str, str, str, str | None, int | None]) -> pa.Table:
    named = [
        dict(zip(("image_id", "twin", "kind", "benchmark", "distance"), each, strict=True))
        | {"rule": "phash"}
        for each in rows
    ]
    return pa.Table.from_pylist(named, removals.REMOVED)


def test_what_was_removed_beside_its_twin(tmp_path: Path) -> None:
    table = corpus(tmp_path / "t")
    removals.write(
        table / tables.REMOVED,
        pairs(
            ("TEST/train/gone", "TEST/train/a", "duplicate", None, 3),
            ("TEST/train/gone", "bench/test/x", "leak", "bench", 2),
        ),
    )
    page_of = written(tmp_path / "p.html", table)
    section = page_of[page_of.index('id="duplicates"') :]
    assert section.index("Leaks into bench: 1") < section.index("Duplicates: 1")
    text = Page(section).text
    assert "phash, 3 bits" in text
    assert "phash, 2 bits" in text
    assert section.count("no picture held") == 3
    assert section.count("data:image/jpeg") == 1
    bench = write_table(tmp_path / "bench", {"test": [[image("x", image_id="bench/test/x")]]})
    both = written(tmp_path / "both.html", table, bench)
    assert both[both.index('id="duplicates"') :].count("data:image/jpeg") == 2


def test_each_dataset_and_class_has_images_whatever_the_order_of_shards(tmp_path: Path) -> None:
    rows = [
        row(
            f"{number:04}",
            dataset="FEW" if number == 777 else "MANY",
            objects=[Box("rare" if number % 400 == 1 else "common", "", 0, 0, 1, 1)],
        )
        for number in range(1200)
    ]
    one = write_table(tmp_path / "one", {"train": [rows[:500], rows[500:]]})
    other = write_table(tmp_path / "other", {"train": [rows[::-1]]})
    found = cards.chosen(tables.shards(one), 20)
    assert found == cards.chosen(tables.shards(other), 20)
    assert len(set(found)) == 20
    names = {name.rpartition("/")[2] for name in found}
    assert {"0777", "0001", "0401", "0801"} <= names


def test_only_row_groups_with_a_chosen_image_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(f"{number:04}", image=b"x" * 10) for number in range(1000)]
    table = write_table(tmp_path / "t", {"train": [rows]})
    read: list[tuple[int, str]] = []
    original = pq.ParquetFile.read_row_group

    def spy(self: Any, number: int, columns: Any = None, **rest: Any) -> Any:
        read.extend((number, column) for column in columns)
        return original(self, number, columns=columns, **rest)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    found = list(cards.rows(tables.shards(table), ["TEST/train/0250", "TEST/train/0251"]))
    assert [each["image_id"] for each in found] == ["TEST/train/0250", "TEST/train/0251"]
    assert {number for number, column in read if column == "image.bytes"} == {2}
    assert {number for number, column in read if column == "image_id"} == set(range(10))


def test_thumbnails_keep_to_their_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)
    held = io.BytesIO()
    Image.fromarray(noise).save(held, "PNG")
    for most in (20_000, 4_000, 1_500):
        small = cards.thumbnail(held.getvalue(), most=most)
        assert small is not None
        assert len(small.jpeg) <= most
        assert (small.width, small.height) == (900, 600)
    whole = cards.thumbnail(held.getvalue())
    assert whole is not None
    with Image.open(io.BytesIO(whole.jpeg)) as opened:
        assert opened.size == (320, 213)


@pytest.mark.parametrize("data", [None, b"no image", jpeg(scene(1))[:-4000]])
def test_what_cannot_be_decoded_has_no_picture(data: bytes | None) -> None:
    assert cards.thumbnail(data) is None


def test_outlines_follow_polygons_and_leave_out_what_is_not_finite() -> None:
    box = {"xmin": 1.0, "ymin": 2.0, "xmax": 3.5, "ymax": 4.0, "polygon": None}
    assert cards.outline(box, 1) == "M1 2L3.5 2L3.5 4L1 4Z"
    assert cards.outline(box | {"polygon": [0.0, 0, 4, 0, 2, 3.25]}, 1) == "M0 0L4 0L2 3.2Z"
    assert cards.outline(box | {"xmax": float("nan")}, 1) == ""
    assert cards.outline(box | {"xmax": float("inf")}, 1) == ""
    circle = [value for at in range(400) for value in (99 * np.cos(at / 64), 99 * np.sin(at / 64))]
    simple = cards.outline(box | {"polygon": circle}, 1)
    assert 8 < simple.count("L") < 60


def test_of_very_many_boxes_the_largest_are_drawn() -> None:
    boxes = [
        {"label": "ship", "xmin": 0.0, "ymin": 0.0, "xmax": float(at), "ymax": float(at), "polygon": None}
        for at in range(5000)
    ]
    given = {"image_id": "a", "label": None, "captions": [], "picture": None, "width": 6000, "height": 6000}
    drawn = cards.card({**given, "objects": boxes}, cards.Palette(["ship"]))
    assert len(drawn) < cards.OUTLINES + 1000
    assert "M0 0L4999 0L4999 4999L0 4999Z" in drawn
    assert "L9 9L" not in drawn
    told = re.search(r"<br>([\d,]+) of 5,000 boxes are drawn", drawn)
    assert told is not None
    assert int(told[1]) == drawn.count("Z")


def test_charts_are_elements_of_the_page() -> None:
    drawn = [
        charts.bars({"a & <b>": 3, "_c": 1, "x$y^{2}$": 2}, "objects", log=True),
        charts.steps({"one": [(1, 2), (4, 6)], "two": [(3, 1)]}, "words", "%", "two"),
        charts.histogram([(0, 5), (900, 1)], "boxes", "images"),
        charts.octaves([(0.5, 3), (8, 1)], "metres", "images", 8),
        charts.heat([[0, 1], [2, 3]], "boxes"),
    ]
    for svg in drawn:
        assert svg.startswith("<svg ")
        assert 'role="img" aria-label="' in svg
        assert not re.search(
            r"xmlns|<style|<metadata|https?:|<\?xml|#0[1-5]0", re.sub('base64,[^"]*', "", svg)
        )
        assert {"currentColor", "var(--soft)", "var(--line)"} & set(
            re.findall(r"currentColor|var\(--\w+\)", svg)
        )
    text = Page(drawn[0]).text
    assert "a & <b>" in text
    assert "x$y^{2}$" in text
    assert charts.bars({"a & <b>": 3, "_c": 1, "x$y^{2}$": 2}, "objects", log=True) == drawn[0]


def test_numbers_and_texts_for_people() -> None:
    assert [page.number(value) for value in (None, 1234567, 0.01234, 12.34)] == [
        "–",
        "1,234,567",
        "0.0123",
        "12.3",
    ]
    assert page.share(1, 3) == "33.3 %"
    assert page.share(1, 0) == "–"
    assert page.text("a<\x1b\n") == "a&lt;\ufffd\ufffd"
    assert len(page.text("x" * 5000)) == page.LONGEST


def test_the_totals_of_the_paper_stand_beside(tmp_path: Path) -> None:
    dataset = {
        "images": {"found": 1411}, "objects": {"found": 98_992}, "classes": {"ship": 1},
        "paper": {"images": 1409, "boxes": 98_990, "classes": 15, "of": "train split of v1.0"},
    }  # fmt: skip
    rows = {"train": [[image("a", "ship", dataset="dota")]]}
    table = write_table(tmp_path / "t", rows, datasets={"dota": dataset})
    text = Page(written(tmp_path / "p.html", table)).text
    assert "dota train split of v1.0 1,409 1,411 1 98,990 98,992 1 15 1" in text
    assert "1 of the 17 datasets" in text
    assert "sum to 165,561; it prints 165,745" in text


def test_the_command_writes_the_page_and_the_text(tmp_path: Path) -> None:
    table = corpus(tmp_path / "t")
    result = CliRunner().invoke(cli.main, ["stats", str(table), "--html", str(tmp_path / "p.html"), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["images"] == 5
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    table = corpus(tmp_path / "t")
    (tmp_path / "file").write_text("")
    with pytest.raises((RsdataError, TableError)):
        written(tmp_path / "file" / "p.html", table)


def test_a_table_of_nothing_but_images(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t", {"train": [[image("a", label="beach")]]})
    text = Page(written(tmp_path / "p.html", table)).text
    assert "No object is in these tables" in text
    assert "No caption is in these tables" in text


@pytest.mark.real
def test_the_reference_of_caption_lengths_is_that_of_genuine_captions(
    real_captions: Callable[[], list[str]],
) -> None:
    counted: dict[int, int] = {}
    for caption in real_captions():
        counted[len(words(caption))] = counted.get(len(words(caption)), 0) + 1
    assert report._reference()["histogram"] == [[length, counted[length]] for length in sorted(counted)]


@pytest.fixture
def real_captions() -> Callable[[], list[str]]:
    import os

    root = Path(os.environ.get("RSDATA_REAL") or Path(__file__).parents[3] / "shared") / "data" / "captions"
    ucm, rsitmd = root / "ucm" / "dataset_ucm.json", root / "rsitmd-text" / "test_caps.txt"
    if not (ucm.is_file() and rsitmd.is_file()):
        pytest.skip(f"no UCM and RSITMD captions in {root} (set RSDATA_REAL)")

    def read() -> list[str]:
        images = json.loads(ucm.read_text(encoding="utf-8"))["images"]
        said = [sentence["raw"] for each in images for sentence in each["sentences"]]
        return said + rsitmd.read_text(encoding="utf-8").splitlines()

    return read
