from __future__ import annotations

import io
from itertools import chain

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from shapes import COLOURS, row, scene_rows, shape_rows, write_table

from rsclip import features, model, store
from rsclip.encode import Encoder
from rsclip.metrics import recall_at_k
from rsdata.errors import TableError


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return model.create("rsclip-tiny")


@pytest.fixture
def encoder(clip):
    return Encoder(clip, batch_size=5, threads=2)


def test_features_are_those_of_open_clip_one_by_one(shapes, clip, encoder):
    found = features.read(encoder, [shapes])
    rows = shape_rows(24, "test")
    assert [each.image_id for each in found.rows] == [r["image_id"] for r in rows]
    assert found.owners.tolist() == [i for i in range(24) for _ in range(5)]
    assert (found.images.dtype, found.texts.dtype) == (np.float32, np.float32)
    with torch.no_grad():
        for i in (0, 7, 23):
            picture = clip.transform_eval(Image.open(io.BytesIO(rows[i]["image"]["bytes"])))
            image = clip.model.encode_image(picture[None], normalize=True)[0]
            texts = clip.model.encode_text(clip.tokenizer(rows[i]["captions"]), normalize=True)
            np.testing.assert_allclose(found.images[i], image, atol=1e-5)
            places = found.places[5 * i : 5 * i + 5]
            assert [found.captions[place] for place in places] == rows[i]["captions"]
            np.testing.assert_allclose(found.texts[places], texts, atol=1e-5)


def test_equal_captions_are_one_text_and_ragged_counts_keep_their_owners(tmp_path, encoder):
    images = [r["image"]["bytes"] for r in shape_rows(7, "test")]
    said = [["a ship ."] * (i % 3 + 1) + [f"{i} planes and much else in a long caption ."] for i in range(7)]
    rows = [row(str(i), "test", image, said[i]) for i, image in enumerate(images)]
    found = features.read(encoder, [write_table(tmp_path / "table", rows)])
    assert [found.captions[place] for place in found.places] == list(chain(*said))
    assert len(found.captions) == 8 == len(found.texts)
    assert found.owners.tolist() == [i for i, captions in enumerate(said) for _ in captions]
    assert recall_at_k(found.images, found.texts, found.owners, places=found.places)["i2t_R@10"] > 0


def test_what_is_left_out_is_told(tmp_path, encoder):
    rows = shape_rows(3, "test")
    rows += [row("x", "test", None, ["a"]), row("y", "test", b"no image", ["a"]), row("z", "test", b"j", [])]
    found = features.read(encoder, [write_table(tmp_path / "table", rows)])
    told = "\n".join(found.notes)
    assert "1 rows have no image bytes" in told
    assert "1 rows have no caption" in told
    assert "1 images cannot be decoded and were left out: y" in told
    assert len(found.images) == 3
    with pytest.raises(TableError, match="no row has both"):
        features.read(encoder, [write_table(tmp_path / "none", rows[3:])])


def test_several_tables_are_one_gallery(tmp_path, encoder):
    one = write_table(tmp_path / "one", shape_rows(3, "test", seed=1))
    two = write_table(tmp_path / "two", shape_rows(4, "test", seed=2))
    assert len(features.read(encoder, [one, two]).images) == 7


def test_an_id_that_two_tables_have_is_left_out_only_where_it_cannot_be_read(tmp_path, encoder):
    rows = shape_rows(3, "test", seed=1)
    broken = {**rows[1], "image": {"bytes": b"no image", "path": "x"}}
    one = write_table(tmp_path / "one", [rows[0], broken, rows[2]])
    found = features.read(encoder, [one, write_table(tmp_path / "two", rows)])
    assert [each.image_id for each in found.rows] == [rows[i]["image_id"] for i in (0, 2, 0, 1, 2)]
    assert len(found.images) == 5
    assert np.array_equal(found.images[1], found.images[4])


def with_digests(rows):
    import hashlib

    return [{**r, "sha256": hashlib.sha256(r["image"]["bytes"] or b"").hexdigest()} for r in rows]


def test_a_cached_table_is_read_without_its_images(tmp_path, clip, monkeypatch):
    rows = with_digests(shape_rows(9, "test"))
    table = write_table(tmp_path / "table", rows)
    first = features.read(Encoder(clip, cache=tmp_path / "cache"), [table])
    monkeypatch.setattr(features, "_bytes", lambda *_: pytest.fail("read the images again"))
    again = features.read(Encoder(clip, cache=tmp_path / "cache"), [table])
    assert np.array_equal(first.images, again.images)
    assert first.rows == again.rows


def test_a_digest_that_is_none_is_computed(tmp_path, clip):
    rows = shape_rows(3, "test")
    table = write_table(tmp_path / "table", [{**rows[0], "sha256": "no digest"}, *rows[1:]])
    found = features.read(Encoder(clip, cache=tmp_path / "cache"), [table])
    assert len(found.images) == 3
    assert not np.array_equal(found.images[0], found.images[1])


def test_rows_without_bytes_are_left_out_with_a_cache_too(tmp_path, clip):
    rows = with_digests(shape_rows(4, "test"))
    features.read(Encoder(clip, cache=tmp_path / "cache"), [write_table(tmp_path / "one", rows)])
    rows[1]["image"] = {**rows[1]["image"], "bytes": None}
    found = features.read(Encoder(clip, cache=tmp_path / "cache"), [write_table(tmp_path / "two", rows)])
    assert [each.image_id for each in found.rows] == [rows[i]["image_id"] for i in (0, 2, 3)]


def test_scenes_are_split_by_name_within_each_class(tmp_path, encoder):
    table = write_table(tmp_path / "table", scene_rows(12, "unsplit"))
    found = features.scenes(encoder, [table])
    assert found.classes == sorted(COLOURS)
    for number in range(len(found.classes)):
        names = [found.ids[i].rpartition("/")[2] for i in found.train if found.labels[i] == number]
        left = [found.ids[i].rpartition("/")[2] for i in found.test if found.labels[i] == number]
        # of 12 the first 9 (80 %, rounded down) by the names red_0, red_1, red_10, red_11, red_2 …
        assert names == ["0", "1", "2", "3", "4", "5", "6", "10", "11"]
        assert left == ["7", "8", "9"]


def test_a_share_that_is_a_whole_number_is_not_rounded_down():
    rows = [features.Row(str(i), "", "", f"{i:03d}", "a", [], None) for i in range(1000)]
    for count, share, expected in (
        (10, 0.8, 8),
        (5, 0.8, 4),
        (1000, 0.7, 700),
        (10, 0.29, 2),
        (100, 0.29, 29),
    ):
        assert features._first_of_each(rows[:count], np.zeros(count, int), share).sum() == expected


def test_the_sizes_of_whu_rs19_give_the_paper_s_206_test_images():
    sizes = [55, 50, 52, 56, 50, 50, 50, 53, 53, 61, 50, 50, 50, 54, 53, 50, 54, 56, 58]
    labels = np.repeat(np.arange(19), sizes)
    rows = [features.Row(str(i), "", "", str(i), "", [], None) for i in range(len(labels))]
    assert len(labels) == 1005
    assert (~features._first_of_each(rows, labels, features.TRAIN_SHARE)).sum() == 206


def test_published_splits_win_and_a_wanted_split_is_tested(tmp_path, encoder):
    rows = scene_rows(3, "train") + scene_rows(2, "test", seed=1) + scene_rows(1, "val", seed=2)
    table = write_table(tmp_path / "table", rows)
    found = features.scenes(encoder, [table])
    assert (len(found.train), len(found.test)) == (12, 8)
    other = features.scenes(encoder, [table], ["val"])
    assert (len(other.train), len(other.test)) == (12, 4)


@pytest.mark.parametrize(
    ("splits", "train", "test"),
    [({"test": 2}, 0, 8), ({"train": 3, "val": 2}, 12, 8), ({"train": 5}, 16, 4), ({"a": 5, "b": 5}, 32, 8)],
)
def test_what_is_tested_on_where_splits_are_unusual(tmp_path, encoder, splits, train, test):
    rows = [row for name, count in splits.items() for row in scene_rows(count, name)]
    found = features.scenes(encoder, [write_table(tmp_path / "table", rows)])
    assert (len(found.train), len(found.test)) == (train, test)


def test_a_wrong_folder_an_empty_class_and_few_images_are_told(tmp_path, encoder):
    rows = scene_rows(10, "unsplit", ("red", "green"))
    rows += [{**r, "label": "greeen"} for r in scene_rows(1, "unsplit", ("blue",))]
    table = write_table(tmp_path / "table", rows, benchmark={"classes": [*COLOURS], "test_images": 300})
    told = "\n".join(features.scenes(encoder, [table]).notes)
    assert "a wrong folder perhaps: greeen" in told
    assert "classes of the recipe without an image: blue, yellow" in told
    assert "classes without an image to train on: greeen" in told
    assert "only 5 test images" in told
    assert "5 test images, where the papers have 300" in told


def test_nothing_is_told_of_a_benchmark_as_it_should_be(tmp_path, encoder):
    table = write_table(
        tmp_path / "table",
        scene_rows(125, "unsplit"),
        row_group=200,
        benchmark={"classes": [*COLOURS], "test_images": 100},
    )
    assert features.scenes(encoder, [table]).notes == []


def test_one_class_is_no_benchmark(tmp_path, encoder):
    table = write_table(tmp_path / "table", scene_rows(4, "unsplit", ("red",)))
    with pytest.raises(TableError, match="but one class, 'red'"):
        features.scenes(encoder, [table])


def test_what_a_table_offers(tmp_path, shapes):
    assert features.held(shapes) == features.Held(False, frozenset({""}), [])
    table = write_table(
        tmp_path / "t", scene_rows(1, "unsplit"), benchmark={"classes": [*COLOURS], "prompts": ["rs5m"]}
    )
    assert features.held(table) == features.Held(True, frozenset(), ["rs5m"])


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("BareLand", "bare land"),
        ("idle_land", "idle land"),
        ("river/lake", "river lake"),
        ("T junction", "t junction"),
    ],
)
def test_class_names_as_prompts_say_them(label, said):
    assert features.spoken(label) == said


def test_null_counts_tell_whether_all_rows_have_bytes(tmp_path):
    rows = shape_rows(2, "test")
    whole = write_table(tmp_path / "whole", rows)
    rows[0]["image"] = {"bytes": None, "path": "x"}
    holed = write_table(tmp_path / "holed", rows)
    for table, expected in ((whole, True), (holed, False)):
        (path,) = (table / "data").iterdir()
        with store.opened(path) as file:
            assert features._all_have_bytes(file, 0) is expected
        assert pq.ParquetFile(path).metadata.num_rows == 2
