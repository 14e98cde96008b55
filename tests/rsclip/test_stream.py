from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import pyarrow.parquet as pq
import pytest
import torch
from shapes import row, shape_rows, write_table

from rsclip import model, stream
from rsclip.data import Draw
from rsclip.pixels import Pixels
from rsclip.store import Source
from rsdata.errors import RsdataError, TableError


@pytest.fixture(scope="module")
def clip():
    return model.create("rsclip-tiny")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """250 images in row groups of 7, in 3 shards; the images are few, their names differ."""
    images = [each["image"]["bytes"] for each in shape_rows(5, "train")]
    rows = [row(f"{i:03d}", "train", images[i % 5], [f"number {i}"]) for i in range(250)]
    return Source(write_table(tmp_path_factory.mktemp("stream") / "table", rows, shards=3), ("train",))


def plan_of(*arguments):
    """Of four lanes that shuffle 16 rows at once."""
    return replace(stream.plan(*arguments), lanes=4, block=16)


def lanes_of(source, clip, start, stop, batch_size=8, weights=(), rank=0, world=1, seed=0):
    plan = plan_of([source] if isinstance(source, Source) else source, batch_size, weights, seed, world)
    draw = Draw(Pixels(clip.preprocess, "crop", "fast"), seed=seed)
    return stream.Lanes(plan, draw, [None] * 2, start, stop, rank, world)


def names(lanes):
    return [[item.image_id for item in step] for step in lanes]


def test_an_epoch_has_each_image_once_and_mixes_them(source, clip):
    plan = plan_of([source], 8, (), 0, 1)
    assert (plan.lanes, plan.per_lane, plan.steps) == (4, 62, 31)
    one, two = (names(lanes_of(source, clip, start, start + 31)) for start in (0, 31))
    for epoch in (one, two):
        counts = Counter(name for step in epoch for name in step)
        assert set(counts.values()) == {1}
        assert len(counts) == 248
    assert one != two
    assert one != names(lanes_of(source, clip, 0, 31, seed=1))
    spread = [max(step) > "150" and min(step) < "100" for step in one]
    assert sum(spread) > 20


@pytest.mark.parametrize("start", [1, 9, 30, 31, 40])
def test_order_after_a_step_needs_no_history(source, clip, start):
    assert names(lanes_of(source, clip, start, 45)) == names(lanes_of(source, clip, 0, 45))[start:]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_see_the_images_that_one_process_sees(source, clip, world):
    shares = [names(lanes_of(source, clip, 0, 40, rank=rank, world=world)) for rank in range(world)]
    for step, whole in enumerate(names(lanes_of(source, clip, 0, 40))):
        assert [name for share in shares for name in share[step]] == whole


def test_batches_do_not_depend_on_workers(source, clip):
    tokenise = partial(model.tokenise, tokenizer=clip.tokenizer, trim=True)
    made = [list(stream.Stream(lanes_of(source, clip, 0, 5), tokenise, workers)) for workers in (0, 2)]
    for one, other in zip(*made, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.tokens, other.tokens)
        assert all(map(torch.equal, one.marks, other.marks))
    assert len(made[0]) == len(made[1]) == 5


def test_each_row_group_is_read_about_once_an_epoch(source, clip, monkeypatch):
    read, opened = Counter(), pq.ParquetFile.read_row_group

    def counted(file, number, **options):
        read[number] += 1
        return opened(file, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    names(lanes_of(source, clip, 0, 31))
    assert 36 <= sum(read.values()) <= 60  # 36 row groups; 16 blocks, each ending in the middle of one


def test_a_weight_is_how_often_an_epoch_has_the_row_groups_of_a_table(source, clip, tmp_path):
    image = shape_rows(1, "train")[0]["image"]["bytes"]
    rows = [row(f"other {i}", "train", image, ["a"]) for i in range(70)]
    other = Source(write_table(tmp_path / "other", rows), ("train",))
    lanes = lanes_of([source, other], clip, 0, 0, weights=[0.5, 2.0])
    assert lanes.plan.per_lane == (125 + 140) // 4
    lanes.steps = range(lanes.plan.steps)
    counts = Counter(name for step in names(lanes) for name in step)
    assert sum(count for name, count in counts.items() if name.startswith("other")) >= 130
    assert {count for name, count in counts.items() if name.startswith("other")} == {
        1,
        2,
    } or 2 in counts.values()
    assert 110 <= sum(count for name, count in counts.items() if not name.startswith("other")) <= 134


def test_rows_that_cannot_serve_are_named_when_their_turn_comes(clip, tmp_path):
    good = [{**each, "image_id": f"good {i}"} for i, each in enumerate(shape_rows(5, "train"))]
    rows = [
        *good,
        row("broken", "train", good[0]["image"]["bytes"][:150], ["a ship"]),
        row("no image", "train", None, ["a ship"]),
        row("no caption", "train", good[0]["image"]["bytes"], []),
    ]
    source = Source(write_table(tmp_path / "table", rows), ("train",))
    tokenise = partial(model.tokenise, tokenizer=clip.tokenizer, trim=True)
    (batch,) = stream.Stream(lanes_of(source, clip, 0, 1), tokenise)
    assert sorted(batch.lost) == [
        ("broken", "unreadable"),
        ("no caption", "without_captions"),
        ("no image", "without_image"),
    ]
    assert batch.marks.valid.sum() == 5


def test_a_table_with_less_than_a_row_for_each_lane_is_refused(clip, tmp_path):
    source = Source(write_table(tmp_path / "table", shape_rows(5, "train")), ("train",))
    with pytest.raises(TableError, match="5 rows are too few to stream"):
        stream.plan([source], 64, (), 0, 1)


def test_processes_that_cannot_share_the_lanes_are_refused(source):
    with pytest.raises(RsdataError, match="32 lanes to 3 processes"):
        stream.plan([source], 64, (), 0, 3)
