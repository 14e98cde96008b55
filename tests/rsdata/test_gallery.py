"""The page of pairs: whole, alone, and unmoved by what names hold."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image
from test_dedup import Item, benchmark, copies, covered, decide, jpeg, make, scene
from test_rsdata_report import Page

from rsdata import dedup, fingerprints, gallery
from rsdata.errors import RsdataError, TableError


def page(path: Path, tables: list[Path], against: list[Path]) -> Page:
    decision = decide(tables, against)
    sources, benchmarks = ([fingerprints.open_source(each) for each in paths] for paths in (tables, against))
    gallery.write(path, "Pairs <of> mine", "a & b", dedup.sections(decision), sources, benchmarks)
    return Page(path.read_text(encoding="utf-8"))


def test_pairs_side_by_side(tmp_path: Path) -> None:
    items = [*copies(1), Item("leak", jpeg(scene(100), 70)), Item("text", jpeg(covered(scene(101)), 70))]
    make(tmp_path / "t", items)
    found = page(tmp_path / "page.html", [tmp_path / "t"], [benchmark(tmp_path)])
    assert found.tags.count("figure") == 7
    assert found.tags.count("img") == 14
    for told in (
        "Leaks into bench: 1",
        "Suspects of bench: 1",
        "Duplicates: 5",
        "mine/train/leak",
        "Pairs <of> mine",
    ):
        assert told in found.text
    assert "bench/test/b100" in found.text
    for source in (address for address in found.addresses if not address.startswith("#")):
        assert source.startswith("data:image/jpeg;base64,")
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            assert max(image.size) == gallery.SIDE


def test_names_are_text(tmp_path: Path) -> None:
    evil = "x</span><script>alert(1)</script><img src=//evil.example onerror=alert(1)>"
    make(
        tmp_path / "t",
        [Item(evil, jpeg(scene(1), 80), path="a"), Item("y", jpeg(scene(1).resize((300, 300))))],
    )
    found = page(tmp_path / "page.html", [tmp_path / "t"], [])
    assert found.tags.count("script") == 1
    assert not found.handlers
    assert all(source.startswith(("data:", "#")) for source in found.addresses)
    assert evil in found.text


def test_images_that_are_not_held(tmp_path: Path) -> None:
    make(tmp_path / "t", [Item("leak", jpeg(scene(100), 70))])
    fingerprints.write(benchmark(tmp_path), tmp_path / "bench.parquet")
    found = page(tmp_path / "page.html", [tmp_path / "t"], [tmp_path / "bench.parquet"])
    assert (found.tags.count("img"), found.tags.count("i")) == (1, 1)
    assert "no picture held" in found.text


def test_many_pairs_are_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PAIRS", 3)
    make(tmp_path / "t", [Item(f"{quality}", jpeg(scene(1), quality)) for quality in range(70, 80)])
    found = page(tmp_path / "page.html", [tmp_path / "t"], [])
    assert found.tags.count("figure") == 3
    assert "Duplicates: 9, 3 of them shown" in found.text


def test_nothing_to_show_and_nowhere_to_write(tmp_path: Path) -> None:
    make(tmp_path / "t", [Item("x", jpeg(scene(1)))])
    assert "section" not in page(tmp_path / "page.html", [tmp_path / "t"], []).tags
    (tmp_path / "file").write_text("")
    with pytest.raises((RsdataError, TableError)):
        page(tmp_path / "file" / "page.html", [tmp_path / "t"], [])
