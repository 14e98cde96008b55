"""Which images a recipe finds: every image comes out once, as a Unit or as a rejection."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdata.errors import RecipeError
from rsdata.files import Dump, element_lines, fold
from rsdata.plan import Plan, Unit
from rsdata.recipes import Recipe, load, parse
from rsdata.records import Rejection

NFC, NFD = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
LINE = "0 0 5 0 5 5 0 5 ship 0\n"


def recipe(format_name: str = "dota", **splits: Any) -> Recipe:
    return parse("mine", {"format": format_name, "splits": splits, "classes": {"ship": "ship"}})


def pairs(images: Any, annotations: Any, **more: Any) -> dict[str, Any]:
    return {"images": images, "annotations": annotations, **more}


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(LINE)
    return root


def planned(
    root: Path, of: Recipe, splits: Sequence[str] = (), annotations_only: bool = False
) -> tuple[dict[str, tuple[str, str, str]], list[tuple[str, str, str, str]]]:
    """Units as image: (split, name, annotation), and rejections as (action, code, path, image)."""
    plan = Plan(of, Dump(root), splits, annotations_only)
    units: dict[str, tuple[str, str, str]] = {}
    rejections = []
    for item in plan:
        if isinstance(item, Unit):
            assert item.image not in units
            units[item.image] = (item.split, item.name, item.annotation)
        else:
            rejections.append((item.action, item.code, item.path, item.image))
    return units, rejections


SIMPLE = recipe(train=pairs("images/*.*", "labels/*.txt"))


def test_pairs_by_stars(tmp_path: Path) -> None:
    of = recipe(train=pairs("**/img_*/{a,b}/*.*", "**/lab_*/{a,b}/*.txt"))
    root = touch(tmp_path, "x/y/img_1/a/p.png", "x/y/lab_1/a/p.txt", "x/y/lab_1/b/p.txt", "z/lab_1/a/p.txt")
    units, rejections = planned(root, of)
    assert units == {"x/y/img_1/a/p.png": ("train", "x/y/1/a/p", "x/y/lab_1/a/p.txt")}
    assert rejections == [
        ("rejected", "E07", "x/y/lab_1/b/p.txt", "x/y/img_1/b/p"),
        ("rejected", "E07", "z/lab_1/a/p.txt", "z/img_1/a/p"),
    ]


def test_images_and_annotations_without_the_other(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "images/a.png", "images/b.png", "labels/a.txt", "labels/c.txt", "images/c.txt", "d.png"
    )
    assert planned(root, SIMPLE) == (
        {"images/a.png": ("train", "a", "labels/a.txt")},
        [
            ("rejected", "E08", "images/b.png", "images/b.png"),
            ("rejected", "E07", "labels/c.txt", "images/c"),
        ],
    )
    assert planned(root, SIMPLE, annotations_only=True) == (
        {"images/a.png": ("train", "a", "labels/a.txt"), "images/c": ("train", "c", "labels/c.txt")},
        [],
    )
    assert Plan(SIMPLE, Dump(root)).unclaimed() == ["d.png"]


def test_two_images_for_one_annotation(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.jpg", "images/a.png", "labels/a.txt")
    units, rejections = planned(root, SIMPLE)
    assert list(units) == ["images/a.jpg"]
    assert rejections == [("rejected", "E26", "labels/a.txt", "images/a.png")]


@pytest.mark.parametrize(
    ("images", "labels", "found"),
    [
        (["A.PNG"], ["a.TXT"], {"A.PNG": "a.TXT"}),
        ([f"{NFC}.png"], [f"{NFD}.txt"], {f"{NFC}.png": f"{NFD}.txt"}),
        (["A.png", "a.png"], ["A.txt", "a.txt"], {"A.png": "A.txt", "a.png": "a.txt"}),
        (["A.png", "a.png"], ["a.txt"], {"a.png": "a.txt"}),
        (["ab.png"], ["Ab.txt", "aB.txt"], {}),
    ],
)
def test_case_and_unicode_form(
    tmp_path: Path, images: list[str], labels: list[str], found: dict[str, str]
) -> None:
    root = touch(tmp_path, *(f"Images/{name}" for name in images), *(f"LABELS/{name}" for name in labels))
    units, _ = planned(root, SIMPLE)
    assert {image.split("/")[1]: unit[2].split("/")[1] for image, unit in units.items()} == found


def test_two_annotations_of_one_image(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.png", "labels/a.TXT", "labels/a.txt", "labels/b.TXT", "labels/b.txt")
    units, rejections = planned(root, SIMPLE)
    assert units == {"images/a.png": ("train", "a", "labels/a.txt")}
    assert rejections == [
        ("dropped", "E26", "labels/a.TXT", "images/a.png"),
        ("rejected", "E07", "labels/b.TXT", "images/b"),
        ("dropped", "E26", "labels/b.txt", "images/b"),
    ]


def listed(name: str) -> dict[str, Any]:
    return pairs("images/*.*", "labels/*.txt", list=f"Sets/{name}.txt")


LISTS = recipe(train=listed("train"), val=listed("val"))


def test_lists_of_names(tmp_path: Path) -> None:
    names = "abcdefghij"
    root = touch(
        tmp_path, *(f"images/{n}.jpg" for n in names), *(f"labels/{n}.txt" for n in names if n != "d")
    )
    touch(root, "labels/lost.txt", "labels/unlisted.txt")
    (root / "sets").mkdir()
    (root / "sets/TRAIN.txt").write_bytes(
        "\ufeffa\r\n\r\n./images/b.jpg\r\nC -1\r\nsub\\d.png\r\ne  1\r\nf 0".encode()
    )
    (root / "sets/val.txt").write_text("g\na\nmissing\nlost\n")
    units, rejections = planned(root, LISTS)
    assert {image[7]: unit[:2] for image, unit in units.items()} == {
        **{name: ("train", name) for name in "abcef"},
        "g": ("val", "g"),
    }  # fmt: skip
    assert rejections == [
        ("rejected", "E07", "sets/val.txt", "missing"),
        *(("rejected", "E08", f"images/{n}.jpg", f"images/{n}.jpg") for n in "dhij"),
        ("rejected", "E07", "labels/lost.txt", "images/lost"),
        ("rejected", "E07", "labels/unlisted.txt", "images/unlisted"),
    ]
    why = {item.image: item.why for item in Plan(LISTS, Dump(root)) if isinstance(item, Rejection)}
    assert why["images/d.jpg"] == "no annotation for this image"
    assert why["images/h.jpg"] == "in no list of the splits"
    lines = [item.line for item in Plan(LISTS, Dump(root)) if isinstance(item, Rejection)]
    assert lines == [3] + [0] * 6


def test_one_split_of_lists(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        *(f"{kind}/{n}.{end}" for n in "abc" for kind, end in [("images", "jpg"), ("labels", "txt")]),
    )
    touch(root, "images/d.jpg", "labels/e.txt")
    (root / "Sets").mkdir()
    (root / "Sets/train.txt").write_text("a\nb\n")
    (root / "Sets/val.txt").write_text("c\nd\n")
    units, rejections = planned(root, LISTS, ["val"])
    assert units == {"images/c.jpg": ("val", "c", "labels/c.txt")}
    assert rejections == [("rejected", "E08", "images/d.jpg", "images/d.jpg")]


def test_a_layout_without_its_list_is_passed_over(tmp_path: Path) -> None:
    of = recipe(
        train=[listed("train"), pairs("train/*.*", "labels/*.txt")], rest=pairs("images/*.*", "labels/*.txt")
    )
    root = touch(tmp_path, "images/a.png", "labels/a.txt", "train/b.png", "labels/b.txt", "other/train.txt")
    units, rejections = planned(root, of)
    assert {image: unit[0] for image, unit in units.items()} == {
        "train/b.png": "train",
        "images/a.png": "rest",
    }
    assert rejections == []


def test_names_that_the_recipe_gives(tmp_path: Path) -> None:
    of = recipe(
        train=pairs("images/top_*_RGB.tif", "labels/top_*.txt", names=["2_10", "2_11", "2_12"]),
        test=pairs("images/top_*_RGB.tif", "labels/top_*.txt", names=["3_1"]),
    )
    root = touch(tmp_path, *(f"images/top_{n}_RGB.tif" for n in ("2_10", "3_1", "9_9")))
    touch(root, *(f"labels/top_{n}.txt" for n in ("2_10", "2_11", "3_1", "9_9", "8_8")))
    plan = Plan(of, Dump(root))
    assert plan.notes == ["split train: 2 of 3 images are not here: 2_11, 2_12"]
    units, rejections = planned(root, of)
    assert {image: unit[:2] for image, unit in units.items()} == {
        "images/top_2_10_RGB.tif": ("train", "2_10"),
        "images/top_3_1_RGB.tif": ("test", "3_1"),
    }
    assert rejections == [
        ("rejected", "E08", "images/top_9_9_RGB.tif", "images/top_9_9_RGB.tif"),
        ("rejected", "E07", "labels/top_2_11.txt", "images/top_2_11_RGB.tif"),
        ("rejected", "E07", "labels/top_8_8.txt", "images/top_8_8_RGB.tif"),
    ]


def test_the_first_layout_that_pairs_wins(tmp_path: Path) -> None:
    of = recipe(train=pairs(["a/*.*", "b/*.*"], ["x/*.txt", "y/*.txt"]))
    root = touch(tmp_path, "a/1.png", "x/2.txt", "b/3.png", "y/3.txt")
    units, _ = planned(root, of)
    assert units == {"b/3.png": ("train", "3", "y/3.txt")}


@pytest.mark.parametrize("prefix", ["DOTA", "x/y", NFD])
def test_a_dump_inside_a_folder(tmp_path: Path, prefix: str) -> None:
    root = touch(tmp_path, f"{prefix}/images/a.png", f"{prefix}/labels/a.txt", f"{prefix}/labels/b.txt")
    plan = Plan(SIMPLE, Dump(root))
    assert (plan.prefix, plan.notes) == (f"{prefix}/", [f"the dump lies in {prefix}/"])
    units, rejections = planned(root, SIMPLE)
    assert units == {f"{prefix}/images/a.png": ("train", "a", f"{prefix}/labels/a.txt")}
    assert rejections == [("rejected", "E07", f"{prefix}/labels/b.txt", f"{prefix}/images/b")]


def test_two_dumps_are_named(tmp_path: Path) -> None:
    root = touch(tmp_path, "v1/images/a.png", "v1/labels/a.txt", "v2/images/a.png", "v2/labels/a.txt")
    with pytest.raises(RecipeError, match=r"several dumps of mine: name one of v1/, v2/"):
        Plan(SIMPLE, Dump(root))


def test_no_dump_says_what_was_expected_and_found(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"expected images/\*\.\* and labels/\*\.txt, found nothing"):
        Plan(SIMPLE, Dump(tmp_path))
    root = touch(tmp_path, "pictures/a.png", "b.txt")
    with pytest.raises(RecipeError, match=r"found b\.txt, pictures/ \(`rsdata sample mine DIR`"):
        Plan(SIMPLE, Dump(root))


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.png", "labels/a.txt")
    with pytest.raises(RecipeError, match=r"recipe mine has no split 'tset'.*it has train"):
        Plan(SIMPLE, Dump(root), ["tset"])


def test_a_link_out_of_the_dump_is_listed(tmp_path: Path) -> None:
    root = touch(tmp_path / "dump", "images/a.png", "labels/a.txt", "labels/b.txt")
    touch(tmp_path, "secret.png")
    (root / "images/b.png").symlink_to(tmp_path / "secret.png")
    units, rejections = planned(root, SIMPLE)
    assert list(units) == ["images/a.png"]
    assert rejections == [
        ("dropped", "E27", "images/b.png", ""),
        ("rejected", "E07", "labels/b.txt", "images/b"),
    ]


def test_masks_among_the_images_are_no_images(tmp_path: Path) -> None:
    of = parse("mine", {"format": "masks", "splits": {"train": pairs("*.*", "*_mask.png")}})
    root = touch(tmp_path, "a.png", "a_mask.png", "b_mask.png")
    units, rejections = planned(root, of)
    assert units == {"a.png": ("train", "a", "a_mask.png")}
    assert rejections == [("rejected", "E07", "b_mask.png", "b")]


def test_the_base_of_voc_is_settled_once_for_the_set(tmp_path: Path) -> None:
    of = recipe(
        "voc", train=pairs("images/*.*", "xml/*.xml", list="train.txt"), val=pairs("images/*.*", "xml/*.xml")
    )
    root = touch(tmp_path, "images/a.png", "images/b.png")
    (root / "xml").mkdir()
    (root / "xml/a.xml").write_text("<a><xmin>1</xmin></a>")
    (root / "xml/b.xml").write_text("<a><xmin>0</xmin></a>")
    (root / "train.txt").write_text("a\n")
    plan = Plan(of, Dump(root))
    units = [item for item in plan if isinstance(item, Unit)]
    assert [(unit.split, unit.layout.options) for unit in units] == [
        ("train", {"base": 0}),
        ("val", {"base": 0}),
    ]
    assert plan.notes == ["xml/*.xml: base = 0, as the files say"]


def document(
    root: Path, path: str, *images: dict[str, Any], annotations: Sequence[dict[str, Any]] = ()
) -> Path:
    """A COCO file with one image a line, the first at line 2."""
    lines = ",\n".join(json.dumps(image) for image in images)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    text = f'{{"images": [\n{lines}\n],\n"annotations": {json.dumps(list(annotations))}, "categories": []}}'
    (root / path).write_text(text)
    return root


def image(identifier: Any, name: str) -> dict[str, Any]:
    return {"id": identifier, "file_name": name}


COCO = recipe("coco", train=pairs("images/**.*", "train.json"), val=pairs("images/**.*", "val.json"))


def test_documents_name_their_images(tmp_path: Path) -> None:
    root = touch(
        tmp_path, *(f"images/{n}" for n in ("a.png", "sub/b.png", "c.png", "d.png", "e.png")), "x/f.png"
    )
    touch(root.parent, "outside.png")
    document(
        root, "train.json", image(1, "a.png"), image(2, "SUB\\B.png"), image(3, "/data/c.png"),
        image(4, "none.png"), image(5, "a.png"), image(5, "d.png"), image(6, "none.png"),
        image(7, "../../outside.png"), image(1, "a.png"), image(8, "x/f.png"),
    )  # fmt: skip
    of = recipe("coco", train=pairs("images/**.*", "train.json"))
    units, rejections = planned(root, of)
    assert units == {
        "images/a.png": ("train", "a", "train.json"),
        "images/sub/b.png": ("train", "sub/b", "train.json"),
        "images/c.png": ("train", "c", "train.json"),
        "x/f.png": ("train", "x/f", "train.json"),
    }
    assert rejections == [
        ("rejected", "E07", "train.json", "none.png"),
        ("dropped", "E16", "train.json", "a.png"),
        ("dropped", "E16", "train.json", "none.png"),
        ("rejected", "E07", "train.json", "../../outside.png"),
        ("rejected", "E16", "train.json", "d.png"),
        ("dropped", "E16", "train.json", "a.png"),
        ("rejected", "E08", "images/e.png", "images/e.png"),
    ]
    places = element_lines(root, "train.json", "images")
    items = [item for item in Plan(of, Dump(root)) if isinstance(item, Rejection) and item.element]
    assert [places[item.line] for item in items] == [5, 6, 8, 9, 7, 10]
    assert planned(root, of, annotations_only=True)[0].keys() == {*units, "none.png", "../../outside.png"}


def test_an_image_that_two_documents_name(tmp_path: Path) -> None:
    root = document(touch(tmp_path, "images/a.png"), "train.json", image(1, "a.png"))
    boxes = [{"image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]}]
    document(root, "val.json", image(7, "a.png"), annotations=boxes)
    units, rejections = planned(root, COCO)
    assert units == {"images/a.png": ("train", "a", "train.json")}
    assert rejections == [("dropped", "E16", "val.json", "a.png")]
    (note,) = [item for item in Plan(COCO, Dump(root)) if isinstance(item, Rejection)]
    assert note.why == "images/a.png was named before; the 1 objects and 0 captions given here are left out"


def test_one_split_of_documents_says_nothing_of_the_images_of_others(tmp_path: Path) -> None:
    root = document(touch(tmp_path, "images/a.png", "images/b.png"), "train.json", image(1, "a.png"))
    document(root, "val.json", image(1, "b.png"))
    assert planned(root, COCO, ["val"]) == ({"images/b.png": ("val", "b", "val.json")}, [])


def test_a_document_that_cannot_be_read(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.png", "val.json")
    (root / "train.json").write_text('{"images": [\n{"id": 1, "file_name": "a.png"}')
    assert planned(root, COCO) == (
        {},
        [
            ("dropped", "E01", "train.json", ""),
            ("dropped", "E01", "val.json", ""),
            ("rejected", "E08", "images/a.png", "images/a.png"),
        ],
    )


def captions(root: Path, *images: tuple[str, str]) -> Path:
    entries = [{"filename": name, "split": split, "sentences": [{"raw": "x"}]} for name, split in images]
    (root / "dataset_rsicd.json").write_text(json.dumps({"images": entries}))
    return root


def test_the_document_names_the_splits(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"RSICD_images/{n}.jpg" for n in "abcdef"))
    captions(
        root,
        ("a.jpg", "train"),
        ("b.jpg", "test"),
        ("c.jpg", "../x y"),
        ("d.jpg", ""),
        ("a.jpg", "test"),
        ("z.jpg", "val"),
    )
    units, rejections = planned(root, load("rsicd"))
    assert {image[13]: unit[:2] for image, unit in units.items()} == {
        "a": ("train", "a"), "b": ("test", "b"), "c": ("___x_y", "c"), "d": ("unsplit", "d"),
    }  # fmt: skip
    missing = [("rejected", "E08", f"RSICD_images/{n}.jpg", f"RSICD_images/{n}.jpg") for n in "ef"]
    name = "dataset_rsicd.json"
    assert rejections == [("rejected", "E07", name, "z.jpg"), ("dropped", "E16", name, "a.jpg"), *missing]
    units, rejections = planned(root, load("rsicd"), ["test"])
    assert list(units) == ["RSICD_images/b.jpg"]
    assert rejections == [("dropped", "E16", name, "a.jpg"), *missing]


stems = st.sampled_from(["a", "A", "b", "c", NFC, NFD, "x/a", "x/B"])
image_files = st.builds("images/{}{}".format, stems, st.sampled_from([".png", ".jpg", ".JPG"]))
label_files = st.builds("labels/{}{}".format, stems, st.sampled_from([".txt", ".TXT"]))
name_lists = st.none() | st.lists(st.sampled_from(["a", "b", "B.png", "lost", NFC, "x/a 1"]), max_size=4)


def once(root: Path, of: Recipe, named: set[str], annotations_only: bool = False) -> None:
    """Each image file and each image that annotations name comes out exactly once, the same each time."""
    plan = Plan(of, Dump(root), annotations_only=annotations_only)
    items = list(plan)
    assert items == list(Plan(of, Dump(root), annotations_only=annotations_only))
    ends = Counter(item.image for item in items if isinstance(item, Unit) or item.action == "rejected")
    assert all(count == 1 for count in ends.values()), ends
    if not annotations_only:
        on_disk = {path for path in plan.dump.paths if path.startswith("images/")}
        assert on_disk <= ends.keys()
        units = {item.image for item in items if isinstance(item, Unit)}
        assert units <= on_disk
    folded = {fold(image.removeprefix("images/").rsplit(".", 1)[0]) for image in ends}
    assert {fold(name) for name in named} <= folded


@settings(max_examples=150, deadline=None)
@given(st.sets(image_files | label_files, min_size=1, max_size=9), name_lists, name_lists)
def test_of_pairs_each_image_comes_out_once(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str], train: list[str] | None, rest: list[str] | None
) -> None:
    root = touch(tmp_path_factory.mktemp("pairs"), *paths)
    splits: dict[str, Any] = {}
    for split, names in (("train", train), ("rest", rest)):
        splits[split] = pairs("images/**.*", "labels/**.txt")
        if names is not None:
            (root / f"{split}.txt").write_text("\n".join(names))
            splits[split]["list"] = f"{split}.txt"
    of = recipe(**splits)
    labels = {path.removeprefix("labels/")[:-4] for path in paths if path.startswith("labels/")}
    once(root, of, labels)
    once(root, of, set(), annotations_only=True)


entries = st.builds(
    image, st.integers(1, 4), st.sampled_from(["a.png", "A.png", "b.png", "x/a.png", "no.png", "c"])
)
broken = st.sampled_from([{"id": 5}, {"file_name": "b.png"}, {"id": None, "file_name": "q.png"}, 3])


@settings(max_examples=150, deadline=None)
@given(
    st.sets(image_files, max_size=5),
    st.lists(entries | broken, max_size=6),
    st.lists(entries | broken, max_size=3),
)
def test_of_documents_each_image_comes_out_once(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str], train: list[Any], val: list[Any]
) -> None:
    root = touch(tmp_path_factory.mktemp("documents"), *paths)
    document(root, "train.json", *train)
    document(root, "val.json", *val)
    named = {
        entry["file_name"].rsplit("/", 1)[-1].rsplit(".", 1)[0]
        for entry in (*train, *val)
        if isinstance(entry, dict) and "file_name" in entry
    }
    plan = Plan(COCO, Dump(root))
    items = list(plan)
    ends = Counter(item.image for item in items if isinstance(item, Unit) or item.action == "rejected")
    assert all(count == 1 for name, count in ends.items() if not name.startswith("images[")), ends
    assert set(plan.dump.paths) - {"train.json", "val.json"} <= {
        plan.dump.find(name, ("images/", "")) or name for name in ends
    }
    assert {fold(name) for name in named} <= {fold(end.rsplit("/", 1)[-1].rsplit(".", 1)[0]) for end in ends}
