from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from shapes import row, shape_rows, write_table

from rsclip import data, model
from rsdata import tables
from rsdata.errors import TableError


@pytest.fixture(scope="module")
def clip():
    return model.create("rsclip-tiny")


@pytest.fixture
def copy(shapes, tmp_path):
    path = tmp_path / "copy.arrow"
    data.copy_columns(tables.shards(shapes, ["train"]), path)
    return path


def loaded(clip, rows, workers=0, start=0, stop=6):
    tokenise = partial(model.tokenise, tokenizer=clip.tokenizer, trim=True)
    return list(data.loader(rows, tokenise, 16, start, stop, workers))


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images) and torch.equal(a.tokens, b.tokens)
        for a, b in zip(one, other, strict=True)
    )


def test_each_epoch_is_a_permutation_of_its_own():
    steps = list(data.batches(20, 5, seed=3, start=0, stop=8))
    epochs = [[pair for step in steps[i : i + 4] for pair in step] for i in (0, 4)]
    for number, pairs in enumerate(epochs):
        assert {epoch for epoch, _ in pairs} == {number}
        assert sorted(row for _, row in pairs) == list(range(20))
    assert [row for _, row in epochs[0]] != [row for _, row in epochs[1]]
    assert steps != list(data.batches(20, 5, seed=4, start=0, stop=8))


@pytest.mark.parametrize("start", [1, 4, 7, 8])
def test_order_after_a_step_needs_no_history(start):
    whole = list(data.batches(22, 5, seed=0, start=0, stop=8))
    assert list(data.batches(22, 5, seed=0, start=start, stop=8)) == whole[start:]


def test_rows_left_over_by_whole_batches_differ_from_epoch_to_epoch():
    steps = list(data.batches(7, 4, seed=0, start=0, stop=40))
    assert all(len(step) == 4 for step in steps)
    assert {row for step in steps for _, row in step} == set(range(7))
    (only,) = data.batches(3, 4, seed=0, start=0, stop=1)
    assert len(only) == 3


def test_the_copy_holds_the_rows_of_the_table_in_order(shapes, copy, clip):
    expected = [
        (r["image_id"], r["image"]["bytes"], r["captions"])
        for file in tables.shards(shapes, ["train"])
        for r in pq.read_table(file, columns=data.COLUMNS).to_pylist()
    ]
    rows = data.ImageCaptions(copy, clip.transform_eval)
    assert [rows.row(i) for i in range(len(rows))] == expected
    assert len(expected) == 48


def test_batches_do_not_depend_on_workers_nor_on_where_the_run_began(copy, clip):
    rows = data.ImageCaptions(copy, clip.transform_train, "remoteclip", seed=5)
    whole = loaded(clip, rows)
    assert equal(loaded(clip, rows, workers=2), whole)
    assert equal(loaded(clip, rows, start=4), whole[4:])
    other = data.ImageCaptions(copy, clip.transform_train, "remoteclip", seed=6)
    assert not equal(loaded(clip, other), whole)


def test_every_caption_of_an_image_is_drawn_over_the_epochs(copy, clip):
    rows = data.ImageCaptions(copy, clip.transform_eval)
    drawn = [rows[epoch, 0][1] for epoch in range(400)]
    counts = [drawn.count(caption) for caption in rows.row(0)[2]]
    assert sum(counts) == 400
    assert min(counts) > 50  # 80 expected, standard deviation 8


def test_augmentation_differs_by_epoch_and_leaves_the_global_generator_alone(copy, clip):
    rows = data.ImageCaptions(copy, clip.transform_train, "remoteclip")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = rows[0, 0][0]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(rows[0, 0][0], first)
    assert not torch.equal(rows[1, 0][0], first)
    plain = data.ImageCaptions(copy, clip.transform_eval, "none")
    assert torch.equal(plain[0, 0][0], plain[1, 0][0])


def test_turned_reaches_all_eight_symmetries_of_a_square_and_the_four_of_a_rectangle():
    def reached(shape):
        image = torch.arange(np.prod(shape)).reshape(shape)
        torch.manual_seed(0)
        return {tuple(data.turned(image).flatten().tolist()) for _ in range(200)}

    assert len(reached((3, 2, 2))) == 8
    assert len(reached((3, 2, 3))) == 4


def test_rows_that_cannot_serve_are_counted_and_broken_images_named(tmp_path, clip):
    good = shape_rows(4, "train")
    rows = [
        *good,
        row("no-bytes", "train", None, ["a ship"]),
        row("empty-bytes", "train", b"", ["a ship"]),
        row("no-caption", "train", good[0]["image"]["bytes"], []),
        {**row("null-captions", "train", good[0]["image"]["bytes"], []), "captions": None},
        {**row("null-image", "train", None, ["a ship"]), "image": None},
        row("broken", "train", good[0]["image"]["bytes"][:200], ["a ship"]),
        row("no-image-at-all", "train", b"<html>404</html>", ["a ship"]),
    ]
    table = write_table(tmp_path / "table", rows, row_group=3)
    data.copy_columns(tables.shards(table), tmp_path / "copy.arrow")
    held = data.ImageCaptions(tmp_path / "copy.arrow", clip.transform_eval)
    assert (len(held), held.without_image, held.without_captions) == (6, 3, 2)
    (batch,) = loaded(clip, held, stop=1)
    assert sorted(batch.unreadable) == ["broken", "no-image-at-all"]
    assert len(batch.images) == len(batch.tokens) == 4


def test_fingerprint_follows_the_content_and_not_the_place(shapes, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(shapes, moved)
    print_of = data.fingerprint([(shapes, ("train",))])
    assert data.fingerprint([(moved, ("train",))]) == print_of
    assert data.fingerprint([(shapes, ("test",))]) != print_of
    (moved / "manifest.json").write_text(json.dumps({**tables.manifest(shapes), "seed": 1}))
    assert data.fingerprint([(moved, ("train",))]) != print_of


def test_usual_split_else_all(shapes, tmp_path):
    assert data.splits_of(shapes, (), "train") == ("train",)
    assert data.splits_of(shapes, (), "val") == ("train", "test")
    assert data.splits_of(shapes, ("test",), "train") == ("test",)


def test_a_file_that_is_no_table_is_named(tmp_path):
    broken = tmp_path / "train.parquet"
    broken.write_bytes(b"PAR1 not really")
    with pytest.raises(TableError, match=r"train\.parquet"):
        data.copy_columns([broken], tmp_path / "copy.arrow")
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]
