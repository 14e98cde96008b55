"""Images that a condition finds, and one image with what its captions speak of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rows import write_table
from test_rsdata_report import EVIL, Page, image

from rsdata import box_to_caption, cli, convert, recipes, samples, show, tables, view
from rsdata.engine import Engine
from rsdata.errors import RecipeError, TableError
from rsdata.records import Box, Record
from rsdata.shard import Options
from rsdata.words import Words


@pytest.fixture(scope="module")
def dota(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted sample dump with captions of ours."""
    folder = tmp_path_factory.mktemp("dota")
    recipe = recipes.load("dota")
    samples.write(recipe, folder / "raw", images=12, size=(96, 96))
    convert.convert([folder / "raw"], folder / "table", recipe, Options(engine=Engine("serial")))
    return folder / "table"


def rows(table: Path) -> list[dict[str, Any]]:
    return [row for shard in tables.shards(table) for row in tables.read(shard).to_pylist()]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ("true", lambda row: True),
        ("boxes", lambda row: bool(row["objects"])),
        ("split = 'val'", lambda row: row["split"] == "val"),
        ("boxes > 5 and split <> 'val'", lambda row: len(row["objects"]) > 5 and row["split"] != "val"),
        ("len(objects) < 4", lambda row: len(row["objects"]) < 4),
        ("list_contains(classes, 'ship')", lambda row: "ship" in {each["label"] for each in row["objects"]}),
        ("len(classes) = 1", lambda row: len({each["label"] for each in row["objects"]}) == 1),
        ("annotation like '%00001%'", lambda row: "00001" in row["annotation"]),
        ("captions[1] like '%middle%' -- so", lambda row: "middle" in row["captions"][0]),
        ("image_id in (select min(image_id) from rows)", lambda row: row["image_id"].endswith("train_00000")),
    ],
)
def test_a_condition_finds_what_python_finds(dota: Path, where: str, fits: Any) -> None:
    wanted = sorted(row["image_id"] for row in rows(dota) if fits(row))
    assert wanted
    found = view.find([dota], where, 3)
    assert found == (wanted[:3], len(wanted), len(rows(dota)))


@pytest.mark.parametrize(
    "where",
    [
        *("", "split =", "nosuch = 1", "1, 2", "split = 'val", "select 1", "set threads = 1"),
        *("true; drop table rows", "true) or (true", "(copy (select 1) to '/tmp/x')", "label = 'x'::int"),
        *("image.path = 'x'", "exists(select image from rows)", "exists(select 1 from sources)"),
        *("exists(select 1 from read_csv('/etc/passwd'))", "exists(select 1 from '/etc/passwd')"),
        "exists(select 1 from read_text('/etc/passwd'))",
    ],
)
def test_anything_but_one_condition_over_the_tables_is_a_usage_error(
    dota: Path, tmp_path: Path, where: str
) -> None:
    with pytest.raises(RecipeError):
        view.find([dota], where)
    result = run("view", dota, "--where", where, "-o", tmp_path / "v.html")
    assert result.exit_code == 2
    assert "Error: --where" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "v.html").exists()


def test_the_page_of_a_view(dota: Path, tmp_path: Path) -> None:
    result = run("view", dota, "--where", "split = 'train'", "-n", 4, "-o", tmp_path / "v.html")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/v.html: 4 of 12 images\n")
    text = (tmp_path / "v.html").read_text()
    names = re.findall(r"<figcaption>(dota/\S+?)<", text)
    assert names == [f"dota/train/train_{number:05}" for number in range(4)]
    assert text.count("data:image/jpeg") == 4
    assert "4 of 12 images, of 14 in all, for which split = 'train'" in Page(text).text
    result = run("view", dota, dota, "--where", "split = 'val'", "-o", tmp_path / "both.html", "--json")
    assert json.loads(result.stdout)["fitting"] == 4


def test_no_image_is_no_page(dota: Path, tmp_path: Path) -> None:
    result = run("view", dota, "--where", "boxes > 1000", "-o", tmp_path / "v.html")
    assert result.exit_code == 1
    assert "no image of 14 fits" in result.stderr
    assert not (tmp_path / "v.html").exists()


def test_a_view_of_a_damaged_table(dota: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t", {"train": [[image("a")]]})
    shard = tables.shards(table)[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert run("view", table, "--where", "true", "-o", tmp_path / "v.html").exit_code == 1
    assert run("show", table, "TEST/train/a", "-o", tmp_path / "s.html").exit_code == 1


def test_each_caption_speaks_of_as_many_boxes_as_it_claims(dota: Path) -> None:
    irregular = tables.about(dota)["datasets"]["dota"]["irregular"]
    spoken = 0
    for row in rows(dota):
        shown = show.find(dota, row["image_id"])
        labels = [each["label"] for each in row["objects"]]
        assert [told.text for told in shown.captions] == row["captions"]
        for told in shown.captions:
            claims = box_to_caption.parse(told.text, Words(irregular), set(labels))
            kept = [row["objects"][number - 1] for number in told.boxes]
            record = Record("", [Box(**each) for each in kept], row["width"], row["height"])
            assert box_to_caption.contradictions([told.text], record, Words(irregular), set(labels)) == []
            assert {each["label"] for each in kept} == {claim.label for claim in claims}
            for each in kept:
                places = {claim.place for claim in claims if claim.label == each["label"]}
                across = (each["xmin"] + each["xmax"]) / 2 / row["width"]
                down = (each["ymin"] + each["ymax"]) / 2 / row["height"]
                middle = 0.25 <= across < 0.75 and 0.25 <= down < 0.75
                assert places & {"anywhere", "middle" if middle else "edge"}
            spoken += len(kept)
    assert spoken > 100


@pytest.mark.parametrize(
    ("text", "nouns", "found"),
    [
        ("Two ships lie beside a harbor.", ["ship", "harbor", "car"], ["harbor", "ship"]),
        ("a shipyard, a scar", ["ship", "car"], []),
        ("Large vehicles only", ["vehicle", "large vehicle"], ["large vehicle"]),
        ("large vehicles, vehicles", ["vehicle", "large vehicle"], ["large vehicle", "vehicle"]),
        ("many people", ["person"], ["person"]),
        ("c++ (x)", ["c++", "(x)"], ["(x)", "c++"]),
        ("nothing", [], []),
    ],
)
def test_what_people_mention(text: str, nouns: list[str], found: list[str]) -> None:
    words = Words({"person": "people"})
    assert sorted(label for label, _ in show.mentioned(text, words, nouns)) == found


def told_table(folder: Path) -> Path:
    return write_table(
        folder,
        {
            "train": [
                [
                    image(
                        "a",
                        "ship ship harbor",
                        captions=["Two ships here.", "The sky."],
                        caption_source="human",
                        label="port",
                    ),
                    image("b", "ship", captions=["It is no sentence"], caption_source="remoteclip"),
                    image("<b>", "ship", captions=[EVIL], caption_source="human"),
                    image("\x1b[31m"),
                ]
            ]
        },
    )


def test_an_image_as_text_and_as_json(tmp_path: Path) -> None:
    table = told_table(tmp_path / "t")
    result = run("show", table, "TEST/train/a", "-o", tmp_path / "s.html")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "TEST/train/a (TEST, train, port, 256 x 256 pixels)"
    assert lines[2].split() == ["1", "ship", "0.0", "20.0", "30.0", "60.0"]
    at = lines.index("  Two ships here.")
    assert lines[at + 1 : at + 4] == [
        "    boxes 1-2", "  The sky.", "    no box: it names no class that has a box here"
    ]  # fmt: skip
    held = json.loads(run("show", table, "TEST/train/a", "-o", tmp_path / "s.html", "--json").stdout)
    assert [told["boxes"] for told in held["captions"]] == [[1, 2], []]
    assert held["boxes"][2] == {
        "number": 3, "label": "harbor", "xmin": 20.0, "ymin": 20.0, "xmax": 50.0, "ymax": 60.0, "flags": []
    }  # fmt: skip
    text = (tmp_path / "s.html").read_text()
    assert 'data-on="b1 b2 q1" data-key="q1"' in text
    assert 'data-on="b1 q1" data-key="b1"' in text
    assert text.count("data:image/jpeg") == 1


def test_a_caption_that_does_not_parse_speaks_of_nothing(tmp_path: Path) -> None:
    shown = show.find(told_table(tmp_path / "t"), "TEST/train/b")
    assert shown.captions == [("It is no sentence", [], "it does not parse")]


def test_names_are_text_on_a_page_and_on_a_terminal(tmp_path: Path) -> None:
    table = told_table(tmp_path / "t")
    assert run("show", table, "TEST/train/<b>", "-o", tmp_path / "s.html").exit_code == 0
    found = Page((tmp_path / "s.html").read_text())
    assert not found.handlers
    assert found.tags.count("script") == 1
    assert not {"img"} - set(found.tags)
    assert "onerror=alert(1)" in found.text
    result = run("show", table, "TEST/train/\x1b[31m", "-o", tmp_path / "s.html")
    assert "\x1b" not in result.stdout
    assert "no captions" in result.stdout


def test_an_unknown_id_names_the_nearest(dota: Path, tmp_path: Path) -> None:
    result = run("show", dota, "train_00003", "-o", tmp_path / "s.html")
    assert result.exit_code == 1
    assert "did you mean 'dota/train/train_00003'" in result.stderr
    with pytest.raises(TableError, match=r"did you mean 'dota/val/val_00001'"):
        show.find(dota, "dota/val/val_0001")
    with pytest.raises(TableError, match=r"no image 'zzz'$"):
        show.find(dota, "zzz")
    assert not (tmp_path / "s.html").exists()


def test_runs_of_numbers() -> None:
    assert show.runs([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert show.runs([]) == ""


def test_a_table_without_bytes_shows_boxes_on_empty_ground(tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "t", {"train": [[image("a", "ship", image=None, width=None, height=None)]]}
    )
    assert run("show", table, "TEST/train/a", "-o", tmp_path / "s.html").exit_code == 0
    text = (tmp_path / "s.html").read_text()
    assert "no picture held" in text
    assert 'd="M0 20L30 20L30 60L0 60Z"' in text
