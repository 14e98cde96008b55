from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from shapes import row, shape_rows, write_table

from rsclip import pixels, store
from rsclip.store import Source, Store
from rsdata import box_to_caption, cli, tables
from rsdata.errors import TableError
from rsdata.records import Box, Record


def box(label, *flags):
    return {
        "label": label,
        "raw_label": label,
        "xmin": 0,
        "ymin": 0,
        "xmax": 9,
        "ymax": 9,
        "polygon": None,
        "flags": [*flags],
    }


def test_the_copy_holds_the_rows_of_the_table_in_order(shapes, tmp_path):
    store.copy(Source(shapes, ("train",)), tmp_path / "copy.arrow")
    expected = [
        (r["image_id"], r["image"]["bytes"], r["captions"])
        for file in tables.shards(shapes, ["train"])
        for r in pq.read_table(file, columns=store.COLUMNS).to_pylist()
    ]
    held = Store([tmp_path / "copy.arrow"])
    assert [held[i][:3] for i in range(len(held))] == expected
    assert len(expected) == 48


def test_several_copies_are_one_store(shapes, tmp_path):
    names = []
    for split in ("train", "test"):
        names.append(tmp_path / f"{split}.arrow")
        store.copy(Source(shapes, (split,)), names[-1])
    held = Store(names)
    assert held.parts == [48, 24]
    assert [held[i].image_id for i in (0, 47, 48, 71)] == [
        "shapes/train/00000",
        "shapes/train/00047",
        "shapes/test/00000",
        "shapes/test/00023",
    ]


def test_rows_that_cannot_serve_are_counted(tmp_path):
    good = shape_rows(4, "train")
    rows = [
        *good,
        row("no-bytes", "train", None, ["a ship"]),
        row("empty-bytes", "train", b"", ["a ship"]),
        row("no-caption", "train", good[0]["image"]["bytes"], []),
        {**row("null-captions", "train", good[0]["image"]["bytes"], []), "captions": None},
        {**row("null-image", "train", None, ["a ship"]), "image": None},
    ]
    store.copy(
        Source(write_table(tmp_path / "table", rows, row_group=3), ("train",)), tmp_path / "copy.arrow"
    )
    held = Store([tmp_path / "copy.arrow"])
    assert (len(held), held.without_image, held.without_captions) == (4, 3, 2)
    assert [held[i].image_id for i in range(4)] == [r["image_id"] for r in good]


def test_a_copy_may_hold_smaller_images(tmp_path):
    rows = [*shape_rows(3, "train", size=96), *shape_rows(1, "train", seed=9, size=40)]
    source = Source(write_table(tmp_path / "table", rows), ("train",))
    for threads in (1, 3):
        store.copy(source, tmp_path / f"{threads}.arrow", edge=48, threads=threads)
    held = Store([tmp_path / "1.arrow"])
    assert [pixels.decode(held[i].image).size for i in range(4)] == [(48, 48)] * 3 + [(40, 40)]
    assert held[3].image == rows[3]["image"]["bytes"]
    assert (tmp_path / "1.arrow").read_bytes() == (tmp_path / "3.arrow").read_bytes()


def test_images_with_the_same_classes_and_counts_have_one_signature(tmp_path):
    scenes = [
        [box("ship"), box("plane"), box("ship")],
        [box("plane"), box("ship"), box("ship", "difficult")],
        [box("plane"), box("ship")],
        [box("plane"), box("ship"), box("ship"), box("car", "crowd")],
        [],
        None,
    ]
    rows = [{**row(str(i), "train", b"x", ["a"]), "objects": scene} for i, scene in enumerate(scenes)]
    store.copy(Source(write_table(tmp_path / "table", rows), ("train",)), tmp_path / "copy.arrow")
    held = Store([tmp_path / "copy.arrow"])
    signatures = [held[i].signature for i in range(6)]
    assert signatures[0] == signatures[1] == signatures[3] != signatures[2]
    assert 0 not in signatures[:4]
    assert signatures[4:] == [0, 0]


def test_fingerprint_follows_the_content_and_not_the_place(shapes, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(shapes, moved)
    print_of = Source(shapes, ("train",)).fingerprint()
    assert Source(moved, ("train",)).fingerprint() == print_of
    assert Source(shapes, ("test",)).fingerprint() != print_of
    (moved / "manifest.json").write_text(json.dumps({**tables.manifest(shapes), "seed": 1}))
    assert Source(moved, ("train",)).fingerprint() != print_of


def test_usual_split_else_all(shapes):
    assert store.splits_of(shapes, (), "train") == ("train",)
    assert store.splits_of(shapes, (), "val", "test") == ("test",)
    assert store.splits_of(shapes, (), "val") == ("train", "test")
    assert store.splits_of(shapes, ("test",), "train") == ("test",)


def test_a_file_that_is_no_table_is_named_and_leaves_nothing(tmp_path):
    table = write_table(tmp_path / "table", shape_rows(3, "train"))
    (shard,) = tables.shards(table)
    shard.write_bytes(b"PAR1 not really")
    with pytest.raises(TableError, match=r"train-00000-of-00001\.parquet"):
        store.copy(Source(table, ("train",)), tmp_path / "copies" / "copy.arrow")
    assert not list(tmp_path.glob("copies/*"))


def test_a_disk_without_room_is_told_before_anything_is_written(shapes, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(TableError, match=r"--cache.*--cache-edge 256.*--stream"):
        store.copy(Source(shapes, ("train",)), tmp_path / "copies" / "copy.arrow")
    assert not (tmp_path / "copies").exists()


def converted(name, folder):
    """A sample of a dataset as a table, by the command line."""
    for words in (
        ["sample", name, folder / "dump", "--images", 12, "--size", "96x96", "--objects", 4],
        ["convert", folder / "dump", "--recipe", name, "-o", folder / "table"],
    ):
        done = CliRunner().invoke(cli.main, [str(word) for word in words])
        assert done.exit_code == 0, done.output


def test_hard_negatives_come_with_generated_captions_and_are_false(tmp_path):
    """A table of rsdata's own, with its words and classes."""
    converted("dota", tmp_path)
    source = Source(tmp_path / "table", ("train",))
    store.copy(source, tmp_path / "copy.arrow", hard=True)
    held = Store([tmp_path / "copy.arrow"])
    rows = {r["image_id"]: r for file in source.files() for r in pq.read_table(file).to_pylist()}
    nouns = store.nouns_of(tmp_path / "table")
    made = 0
    for each in map(held.__getitem__, range(len(held))):
        scene = rows[each.image_id]
        boxes = [Box(**{**box, "polygon": None}) for box in scene["objects"]]
        record = Record("", boxes, scene["width"], scene["height"])
        for caption, false in zip(each.captions, each.hard, strict=True):
            assert caption not in false
            words, labels = nouns.words["dota"], nouns.labels["dota"]
            assert all(box_to_caption.contradictions([text], record, words, labels) for text in false)
            made += len(false)
    assert made > 5 * len(held)


def test_captions_of_people_have_no_hard_negatives(tmp_path):
    converted("rsicd", tmp_path)
    store.copy(Source(tmp_path / "table", ("train",)), tmp_path / "copy.arrow", hard=True)
    held = Store([tmp_path / "copy.arrow"])
    assert {held[i].hard for i in range(len(held))} == {None}
