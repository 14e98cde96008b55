from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch
from shapes import row, shape_rows, write_table

from rsclip import data, model, store
from rsclip.data import Draw, Order, Pairs
from rsclip.pixels import Pixels
from rsclip.store import Source, Store


@pytest.fixture(scope="module")
def clip():
    return model.create("rsclip-tiny")


@pytest.fixture
def held(shapes, tmp_path):
    store.copy(Source(shapes, ("train",)), tmp_path / "copy.arrow")
    return Store([tmp_path / "copy.arrow"])


def pairs_of(clip, held, augment="remoteclip", **options):
    return Pairs(held, Draw(Pixels(clip.preprocess, augment, "fast"), **options))


def loaded(clip, pairs, batch_size=16, workers=0, start=0, stop=6, rank=0, world=1, weights=()):
    tokenise = partial(model.tokenise, tokenizer=clip.tokenizer, trim=True)
    order = Order(pairs.parts, batch_size, weights, pairs.draw.seed)
    return list(data.loader(pairs, tokenise, order, start, stop, workers, rank=rank, world=world))


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.tokens, b.tokens)
        and all(map(torch.equal, a.marks, b.marks))
        for a, b in zip(one, other, strict=True)
    )


def units(order, start, stop, **share):
    return [[pair[:2] for pair in step] for step in order.batches(start, stop, **share)]


def test_each_epoch_is_a_permutation_of_its_own():
    steps = units(Order([20], 5, seed=3), 0, 8)
    epochs = [[pair for step in steps[i : i + 4] for pair in step] for i in (0, 4)]
    for number, pairs in enumerate(epochs):
        assert {epoch for epoch, _ in pairs} == {number}
        assert sorted(row for _, row in pairs) == list(range(20))
    assert [row for _, row in epochs[0]] != [row for _, row in epochs[1]]
    assert steps != units(Order([20], 5, seed=4), 0, 8)


@pytest.mark.parametrize("start", [1, 4, 7, 8])
def test_order_after_a_step_needs_no_history(start):
    order = Order([9, 13], 5, [1.5, 0.5])
    whole = list(order.batches(0, 8))
    assert list(order.batches(start, 8)) == whole[start:]


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_share_each_batch_among_them(world):
    order = Order([40], 8)
    shares = [units(order, 0, 5, rank=rank, world=world) for rank in range(world)]
    for step, whole in enumerate(units(order, 0, 5)):
        assert [pair for share in shares for pair in share[step]] == whole


def test_rows_left_over_by_whole_batches_differ_from_epoch_to_epoch():
    steps = units(Order([7], 4), 0, 40)
    assert all(len(step) == 4 for step in steps)
    assert {row for step in steps for _, row in step} == set(range(7))
    (only,) = units(Order([3], 4), 0, 1)
    assert len(only) == 3


def test_a_weight_is_how_often_an_epoch_has_the_images_of_a_table():
    order = Order([10, 20, 30], 1, [2.5, 0.5, 1])
    assert len(order) == order.steps == 25 + 10 + 30
    halves = []
    for epoch in range(2):
        found, turns = order.epoch(epoch)
        counts = Counter(found.tolist())
        assert sorted(counts[unit] for unit in range(10)) == [2] * 5 + [3] * 5
        assert all(counts[unit] == 1 for unit in range(30, 60))
        half = {unit for unit in range(10, 30) if counts[unit]}
        assert len(half) == 10
        halves.append(half)
        assert sorted(turns[found == 0].tolist()) == list(range(counts[0]))
    assert halves[0] != halves[1]


def test_batches_do_not_depend_on_workers_nor_on_where_the_run_began(clip, held):
    pairs = pairs_of(clip, held, seed=5)
    whole = loaded(clip, pairs)
    assert equal(loaded(clip, pairs, workers=2), whole)
    assert equal(loaded(clip, pairs, start=4), whole[4:])
    assert not equal(loaded(clip, pairs_of(clip, held, seed=6)), whole)


def test_ranks_see_the_images_that_one_process_sees(clip, held):
    pairs = pairs_of(clip, held, seed=5)
    shares = [loaded(clip, pairs, rank=rank, world=2) for rank in range(2)]
    for whole, *parts in zip(loaded(clip, pairs), *shares, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.marks.captions, torch.cat([part.marks.captions for part in parts]))


def test_every_caption_of_an_image_is_drawn_over_the_epochs(clip, held):
    pairs = pairs_of(clip, held, "none")
    drawn = [pairs[epoch, 0, 0].texts[0] for epoch in range(400)]
    counts = [drawn.count(caption) for caption in held[0].captions]
    assert sum(counts) == 400
    assert min(counts) > 50  # 80 expected, standard deviation 8
    again = [pairs[epoch, 0, 1].texts[0] for epoch in range(400)]
    assert sum(one == other for one, other in zip(drawn, again, strict=True)) < 130  # the second time another


def test_first_and_all_captions(clip, held):
    first = pairs_of(clip, held, "none", captions="first")
    assert {first[epoch, 3, 0].texts[0] for epoch in range(20)} == {held[3].captions[0]}
    every = pairs_of(clip, held, "none", captions="all")
    assert len(every) == 5 * len(held)
    assert [every[0, unit, 0].texts[0] for unit in range(5, 10)] == held[1].captions


def test_several_positives_are_distinct_captions_and_gaps_are_not_valid(clip, tmp_path):
    rows = shape_rows(4, "train")
    rows[2]["captions"] = rows[2]["captions"][:2]
    table = write_table(tmp_path / "table", rows)
    store.copy(Source(table, ("train",)), tmp_path / "copy.arrow")
    held = Store([tmp_path / "copy.arrow"])
    (batch,) = loaded(clip, pairs_of(clip, held, "none", positives=3), stop=1)
    assert batch.tokens.shape[:2] == (4, 3)
    assert sorted(batch.marks.valid.sum(1).tolist()) == [2, 3, 3, 3]
    for valid, captions in zip(batch.marks.valid, batch.marks.captions, strict=True):
        assert len({*captions[valid].tolist()}) == int(valid.sum())


def test_equal_captions_and_equal_images_have_equal_marks(clip, tmp_path):
    image = shape_rows(1, "train")[0]["image"]["bytes"]
    said = ["a ship", "a ship", "a plane"]
    rows = [row(str(i), "train", image, [caption]) for i, caption in enumerate(said)]
    store.copy(Source(write_table(tmp_path / "table", rows), ("train",)), tmp_path / "copy.arrow")
    pairs = pairs_of(clip, Store([tmp_path / "copy.arrow"]))
    (batch,) = loaded(clip, pairs, batch_size=9, stop=1, weights=[3.0])
    assert len({*batch.marks.captions.flatten().tolist()}) == 2
    assert len({*batch.marks.images.tolist()}) == 3
    assert len(batch.images) == 9


def test_broken_images_stay_in_their_place_and_are_named(clip, tmp_path):
    good = shape_rows(4, "train")
    rows = [
        *good,
        row("broken", "train", good[0]["image"]["bytes"][:200], ["a ship"]),
        row("no-image-at-all", "train", b"<html>404</html>", ["a ship"]),
    ]
    store.copy(Source(write_table(tmp_path / "table", rows), ("train",)), tmp_path / "copy.arrow")
    (batch,) = loaded(clip, pairs_of(clip, Store([tmp_path / "copy.arrow"])), stop=1)
    assert sorted(batch.lost) == [("broken", "unreadable"), ("no-image-at-all", "unreadable")]
    assert len(batch.images) == len(batch.tokens) == 6
    assert int(batch.marks.valid.sum()) == 4


def test_hard_negatives_are_those_of_the_caption_that_was_drawn(clip):
    draw = Draw(Pixels(clip.preprocess), positives=1, hard=2)
    captions, hard = ["A ship .", "Two ships ."], [["A plane .", "3 ships ."], ["Two planes ."]]
    held = store.Row("a", shape_rows(1, "train")[0]["image"]["bytes"], captions, 7, hard)
    for epoch in range(10):
        item = draw(held, epoch)
        mine = hard[captions.index(item.texts[0])]
        assert sorted(text for text in item.texts[1:] if text) == sorted(mine)
        assert len(item.texts) == 3
    assert draw(held._replace(hard=None), 0).texts[1:] == [None, None]
