from __future__ import annotations

import io
import json
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import row, shape_rows, write_table

from rsclip import features, model
from rsclip.metrics import recall_at_k
from rsclip.tasks import retrieval
from rsdata.errors import TableError


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return model.create("rsclip-tiny")


def test_features_are_those_of_open_clip_one_by_one(shapes, clip):
    found = features.embed(clip, [shapes], batch_size=5, workers=2)
    rows = shape_rows(24, "test")
    assert found.image_ids == [r["image_id"] for r in rows]
    assert found.owners.tolist() == [i for i in range(24) for _ in range(5)]
    assert (found.images.dtype, found.texts.dtype) == (np.float32, np.float32)
    clip.model.eval()
    with torch.no_grad():
        for i in (0, 7, 23):
            picture = clip.transform_eval(Image.open(io.BytesIO(rows[i]["image"]["bytes"])))
            image = clip.model.encode_image(picture[None], normalize=True)[0]
            texts = clip.model.encode_text(clip.tokenizer(rows[i]["captions"]), normalize=True)
            np.testing.assert_allclose(found.images[i], image, atol=1e-5)
            np.testing.assert_allclose(found.texts[5 * i : 5 * i + 5], texts, atol=1e-5)


def test_equal_captions_have_equal_rows_and_ragged_counts_keep_their_owners(tmp_path, clip):
    images = [r["image"]["bytes"] for r in shape_rows(7, "test")]
    said = [["a ship ."] * (i % 3 + 1) + [f"{i} planes and much else in a long caption ."] for i in range(7)]
    rows = [row(str(i), "test", image, said[i]) for i, image in enumerate(images)]
    found = features.embed(clip, [write_table(tmp_path / "table", rows)], batch_size=3)
    ships = [i for i, caption in enumerate(chain(*said)) if caption == "a ship ."]
    assert len({found.texts[i].tobytes() for i in ships}) == 1
    assert found.owners.tolist() == [i for i, captions in enumerate(said) for _ in captions]
    assert recall_at_k(found.images, found.texts, found.owners)["i2t_R@10"] > 0


def test_what_is_left_out_is_counted(tmp_path, clip):
    rows = shape_rows(3, "test")
    rows += [row("x", "test", None, ["a"]), row("y", "test", b"no image", ["a"]), row("z", "test", b"j", [])]
    found = features.embed(clip, [write_table(tmp_path / "table", rows)])
    assert (found.without_image, found.without_captions, found.unreadable) == (1, 1, ["y"])
    assert len(found.images) == 3
    with pytest.raises(TableError, match="no row has both"):
        features.embed(clip, [write_table(tmp_path / "none", rows[3:])])


def test_several_tables_are_one_gallery(tmp_path, clip):
    one = write_table(tmp_path / "one", shape_rows(3, "test", seed=1))
    two = write_table(tmp_path / "two", shape_rows(4, "test", seed=2))
    assert len(features.embed(clip, [one, two]).images) == 7


def test_an_untrained_model_scores_by_chance(shapes, clip):
    result = retrieval.run(features.embed(clip, [shapes]))
    assert result["images"] == 24
    assert result["captions"] == 120
    assert result["distinct_captions"] <= 120
    assert abs(result["mean_recall"] - result["chance_mean_recall"]) < 15
    assert json.loads(json.dumps(result)) == result


def test_the_table_shows_every_recall_beside_its_chance(shapes, clip):
    result = retrieval.run(features.embed(clip, [shapes]))
    shown = retrieval.table(result).splitlines()
    assert len(shown) == 9
    for line, name in ((1, "i2t_R@1"), (6, "t2i_R@10"), (7, "mean_recall")):
        assert shown[line].split()[-2:] == [f"{result[name]:.2f}", f"{result[f'chance_{name}']:.2f}"]
