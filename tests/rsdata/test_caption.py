"""`caption`: to the byte what `convert` would have written with that caption set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dumps import contents, rows_of, run, sample_dump

from rsdata import convert as flow
from rsdata import recipes, tables
from rsdata.caption import caption
from rsdata.errors import RecipeError, TableError

NAMES = ["dior", "dota", "vedai", "visdrone", "loveda", "coco"]


def recipe_of(name: str) -> Any:
    return recipes.from_format(name) if name == "coco" else recipes.load(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dumps, each with something dropped, and `dior-none`, converted without captions."""
    folder = tmp_path_factory.mktemp("caption")
    for name in (*NAMES, "ucm"):
        sample_dump(recipe_of(name), folder / name, most=20)
        run(recipe_of(name), folder / name, folder / f"{name}-none", captions="none")
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("template", "large_count", "seed"),
    [("remoteclip", "vague", 0), ("a2c", "mixed", 7), ("rich", "exact", 2), ("none", "exact", 1)],
)
def test_same_bytes_as_convert(
    name: str, template: str, large_count: str, seed: int, folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"large_count": large_count, "seed": seed}
    manifest = caption(folder / f"{name}-none", tmp_path / "t", template, **options)
    run(recipe_of(name), folder / name, tmp_path / "direct", captions=template, **options)
    there, direct = contents(tmp_path / "t"), contents(tmp_path / "direct")
    assert any(path.startswith("data/") for path in direct)
    assert there == direct
    assert manifest == tables.manifest(tmp_path / "t")
    assert all(bool(row["captions"]) == (template != "none") for row in rows_of(tmp_path / "t"))


def test_again_and_back(folder: Path, tmp_path: Path) -> None:
    """From one caption set to another, and to none, nothing is left of the first."""
    caption(folder / "dior-none", tmp_path / "a", "a2c")
    caption(tmp_path / "a", tmp_path / "b", "remoteclip", seed=3)
    caption(tmp_path / "b", tmp_path / "c", "none")
    assert rows_of(tmp_path / "a") != rows_of(tmp_path / "b")
    assert contents(tmp_path / "c") == contents(folder / "dior-none")


def test_several_shards_and_row_groups(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "SHARD_ROWS", 3)
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 2)
    for no_images in (False, True):
        for name, template in (("none", "none"), ("direct", "remoteclip")):
            table = tmp_path / f"{name}-{no_images}"
            run("dota", folder / "dota", table, captions=template, no_images=no_images)
        assert len(tables.shards(tmp_path / f"none-{no_images}")) == 3
        caption(tmp_path / f"none-{no_images}", tmp_path / f"t-{no_images}", "remoteclip")
        assert contents(tmp_path / f"t-{no_images}") == contents(tmp_path / f"direct-{no_images}")


def test_human_captions_are_kept(folder: Path, tmp_path: Path) -> None:
    manifest = caption(folder / "ucm-none", tmp_path / "t", "remoteclip")
    run("ucm", folder / "ucm", tmp_path / "direct", captions="remoteclip")
    assert contents(tmp_path / "t") == contents(tmp_path / "direct")
    assert rows_of(tmp_path / "t") == rows_of(folder / "ucm-none")
    assert {row["caption_source"] for row in rows_of(tmp_path / "t")} == {"human"}
    assert manifest["captions"] == 5 * manifest["images"]["written"]
    assert contents(tmp_path / "t") != contents(folder / "ucm-none")  # which says "none" of itself
    caption(tmp_path / "t", tmp_path / "back", "none")
    assert contents(tmp_path / "back") == contents(folder / "ucm-none")


def test_rejections_come_along(tmp_path: Path) -> None:
    truth = sample_dump("dota", tmp_path / "dump")
    label = tmp_path / "dump" / next(iter(truth.values())).annotation
    label.write_text(label.read_text() + "1 2 3\n")
    run("dota", tmp_path / "dump", tmp_path / "a", captions="none")
    caption(tmp_path / "a", tmp_path / "b", "a2c")
    kept = [(tmp_path / table / tables.REJECTIONS).read_bytes() for table in "ab"]
    assert kept[0] == kept[1]
    assert tables.manifest(tmp_path / "b")["reasons"]["dropped"] == {"E05": 1}


def test_refusals(folder: Path, tmp_path: Path) -> None:
    table = folder / "dior-none"
    before = contents(table)
    with pytest.raises(RecipeError, match="did you mean 'remoteclip'"):
        caption(table, tmp_path / "t", "remotclip")
    with pytest.raises(RecipeError, match="few"):
        caption(table, tmp_path / "t", "remoteclip", large_count="few")
    with pytest.raises(TableError, match="not a table"):
        caption(tmp_path, tmp_path / "t", "a2c")
    with pytest.raises(TableError, match="name another folder"):
        caption(table, table, "a2c", overwrite=True)
    with pytest.raises(TableError, match="name another folder"):
        caption(table, folder / "x" / ".." / "dior-none", "a2c", overwrite=True)
    assert not (tmp_path / "t").exists()
    assert contents(table) == before
    caption(table, tmp_path / "t", "a2c")
    with pytest.raises(TableError, match="holds a finished table"):
        caption(table, tmp_path / "t", "remoteclip")
    assert {row["caption_source"] for row in rows_of(tmp_path / "t")} == {"a2c"}
    caption(table, tmp_path / "t", "remoteclip", overwrite=True)
    assert {row["caption_source"] for row in rows_of(tmp_path / "t")} == {"remoteclip"}


def test_a_damaged_table_is_refused(folder: Path, tmp_path: Path) -> None:
    run("dota", folder / "dota", tmp_path / "a")
    shard = tables.shards(tmp_path / "a")[0]
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(TableError, match=shard.name):
        caption(tmp_path / "a", tmp_path / "b", "a2c")
    shard.unlink()
    with pytest.raises(TableError, match="missing"):
        caption(tmp_path / "a", tmp_path / "b", "a2c")
    assert contents(tmp_path / "b") == {}
