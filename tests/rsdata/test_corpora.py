"""Many datasets under one root as one table; and dumps whose recipe is found by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from dumps import contents, rows_of, sample_dump

from rsdata import caption, corpora, recipes
from rsdata.convert import build
from rsdata.detect import detect
from rsdata.engine import Engine
from rsdata.errors import RecipeError
from rsdata.recipes import from_format
from rsdata.shard import Options

CORPUS = corpora.load("remoteclip")
SMALL = {"images": 3, "size": (96, 64), "most": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 17 as sample dumps, in folders named as publishers name them, and one that is of none."""
    folder = tmp_path_factory.mktemp("root")
    names = {
        "dota": "DOTA-v1.0",
        "visdrone": "VisDrone2019",
        "stanford-drone": "stanford_campus_dataset",
        "hrrsd": "TGRS-HRRSD",
    }
    for recipe in CORPUS.datasets:
        sample_dump(recipe, folder / names.get(recipe.name, recipe.name.upper()), **SMALL)
    sample_dump("dior-r", folder / "DIOR-R", **SMALL)
    (folder / "notes").mkdir()
    return folder


def test_all_seventeen_become_one_table(root: Path, tmp_path: Path) -> None:
    parts, missing = corpora.find(CORPUS, root)
    assert missing == []
    assert [part.recipe.name for part in parts] == [recipe.name for recipe in CORPUS.datasets]
    facts = {**CORPUS.facts, "dataset": CORPUS.name}
    outcome = build(parts, tmp_path / "t", facts, Options())
    assert outcome.rejections == []
    rows = rows_of(tmp_path / "t")
    assert len({row["image_id"] for row in rows}) == len(rows) == outcome.manifest["images"]["written"]
    held = {
        recipe.name: {row["split"] for row in rows if row["dataset"] == recipe.name}
        for recipe in CORPUS.datasets
    }
    assert held["dota"] == held["rsicd"] == held["isaid"] == held["visdrone"] == {"train"}
    assert held["dior"] == {"train", "val", "test"}
    assert held["loveda"] == {"train", "val"}
    text = list(corpora.lines(CORPUS, outcome.manifest["datasets"]))
    assert len(text) == 1 + 17 + 2
    assert "165,561" in text[-2]
    assert text[-1] == "the paper states 165,745 images; the rows of its table sum to 165,561"
    build(parts, tmp_path / "two", facts, Options(engine=Engine(workers=2)))
    assert contents(tmp_path / "t") == contents(tmp_path / "two")
    caption.caption(tmp_path / "t", tmp_path / "again", "remoteclip")
    assert contents(tmp_path / "again") == contents(tmp_path / "t")


def test_what_is_missing_is_told_with_its_source(root: Path, tmp_path: Path) -> None:
    (tmp_path / "dota").mkdir()
    (tmp_path / "RSICD").symlink_to(root / "RSICD")
    parts, missing = corpora.find(CORPUS, tmp_path)
    assert [part.recipe.name for part in parts] == ["rsicd"]
    assert len(missing) == 16
    told = list(corpora.told(missing))
    assert any(line == "missing: carpk (CARPK and PUCPR+): https://lafi.github.io/LPN/" for line in told)
    assert any("no dump of dota" in line for line in told)
    parts, missing = corpora.find(CORPUS, root, ["val"])
    assert {part.recipe.name for part in parts} == {
        recipe.name for recipe in CORPUS.datasets if "val" in recipe.splits or "*" in recipe.splits
    }


def test_two_folders_of_one_dataset(root: Path, tmp_path: Path) -> None:
    for name in ("dota-1", "dota-2"):
        (tmp_path / name).symlink_to(root / "DOTA-v1.0")
    with pytest.raises(RecipeError, match="dota-1 and dota-2 both hold dota"):
        corpora.find(CORPUS, tmp_path)
    with pytest.raises(RecipeError, match="did you mean 'remoteclip'"):
        corpora.load("remoteclop")


@pytest.mark.parametrize(
    "name",
    ["dota", "dior", "dior-r", "hrrsd", "visdrone", "hrsc2016", "au-air", "isaid", "fair1m", "rsod", "xview",
     "soda-a", "dronevehicle", "nwpu-vhr10", "stanford-drone", "nwpu-captions", "eurosat", "rs2800", "carpk",
     "vedai"],
)  # fmt: skip
def test_a_recipe_is_found_by_itself(name: str, tmp_path: Path) -> None:
    recipe = recipes.load(name)
    sample_dump(recipe, tmp_path / "dump", images=4, size=(96, 64), most=6)
    if name in (
        "hrsc2016",
        "hrrsd",
    ):  # hrsc2016-types reads the same files, and DIOR has most of HRRSD's classes
        with pytest.raises(RecipeError, match=rf" fit, .*{name}.*: choose one with --recipe"):
            detect(tmp_path / "dump")
    else:
        assert detect(tmp_path / "dump").name == name


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "labelme", "cvat", "panoptic", "dota", "geojson"])
def test_a_format_is_found_by_itself(name: str, tmp_path: Path) -> None:
    """Of a dump whose classes are those of no recipe."""
    recipe = from_format(name)
    sample_dump(recipe, tmp_path / "dump", images=4, size=(96, 64), most=6)
    for path in (tmp_path / "dump").rglob("*"):
        if path.suffix in (".json", ".xml", ".txt", ".yaml", ".geojson"):
            text = path.read_text()
            for noun in ("airplane", "ship", "vehicle", "storage-tank", "tennis-court", "basketball-court",
                         "swimming-pool", "roundabout", "bridge", "building"):  # fmt: skip
                text = text.replace(noun, f"zz{noun[0]}{noun[-2:]}")
            path.write_text(text)
    assert detect(tmp_path / "dump").name == name


def test_two_that_fit_are_both_named(tmp_path: Path) -> None:
    sample_dump("hrsc2016", tmp_path / "ships")
    with pytest.raises(
        RecipeError, match="2 recipes fit, hrsc2016 and hrsc2016-types: choose one with --recipe"
    ):
        detect(tmp_path / "ships")


def test_annotations_without_images(tmp_path: Path) -> None:
    sample_dump("nwpu-vhr10", tmp_path / "dump")
    for path in (tmp_path / "dump").rglob("*.png"):
        path.unlink()
    with pytest.raises(RecipeError, match="no recipe and no format fits"):
        detect(tmp_path / "dump")
    assert detect(tmp_path / "dump", annotations_only=True).name == "nwpu-vhr10"


def test_nothing_fits(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(RecipeError, match="no recipe and no format fits it"):
        detect(tmp_path)
