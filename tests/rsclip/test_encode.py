from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import shape_rows

from rsclip import encode, model
from rsclip.encode import Encoder, Picture, Shelf, image_key, text_key
from rsdata.errors import RsdataError

TEXTS = ["a ship", "many planes and much else in a longer caption", "a ship", ""]


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return model.create("rsclip-tiny")


def pictures(count, seed=0):
    rows = shape_rows(count, "test", seed)
    return [
        Picture(image_key(hashlib.sha256(r["image"]["bytes"]).hexdigest()), r["image"]["bytes"]) for r in rows
    ]


def known(found, encoder):
    """The same pictures without bytes where the encoder has their features."""
    return [p._replace(data=None if encoder.has_image(p.key) else p.data) for p in found]


@pytest.mark.parametrize("name", ["rsclip-tiny", "ViT-S-32", "RN50"])
def test_joint_features_are_those_of_open_clip_and_the_tower_s_are_before_its_projection(name):
    torch.manual_seed(0)
    clip = model.create(name)
    encoder = Encoder(clip, batch_size=4)
    found = pictures(3)
    towers, joint, _ = encoder.images(found)
    with torch.no_grad():
        batch = torch.stack([clip.transform_eval(Image.open(io.BytesIO(p.data))) for p in found])
        np.testing.assert_allclose(joint, clip.model.encode_image(batch, normalize=True), atol=1e-5)
        width = clip.model.visual.attnpool.c_proj if name != "ViT-S-32" else clip.model.visual.proj
        projected = (
            width(torch.from_numpy(towers)) if name != "ViT-S-32" else torch.from_numpy(towers) @ width
        )
        np.testing.assert_allclose(torch.nn.functional.normalize(projected, dim=-1), joint, atol=1e-5)


def test_texts_keep_their_order_and_equal_ones_are_equal_to_the_bit(clip):
    encoder = Encoder(clip, batch_size=2)
    found = encoder.texts(TEXTS)
    assert found[0].tobytes() == found[2].tobytes()
    with torch.no_grad():
        np.testing.assert_allclose(
            found, clip.model.encode_text(clip.tokenizer(TEXTS), normalize=True), atol=1e-5
        )
        np.testing.assert_allclose(
            encoder.texts(TEXTS, normalised=False), clip.model.encode_text(clip.tokenizer(TEXTS)), atol=1e-4
        )


def test_a_second_encoder_reads_all_from_the_cache_and_gives_the_same_bits(clip, tmp_path, monkeypatch):
    first = Encoder(clip, cache=tmp_path)
    found = pictures(5)
    images, texts = first.images(found), first.texts(TEXTS)

    def refuse(*_):
        raise AssertionError("embedded again")

    monkeypatch.setattr(encode.model, "image_features", refuse)
    monkeypatch.setattr(encode.model, "encode_text", refuse)
    second = Encoder(clip, cache=tmp_path)
    again = second.images(known(found, second))
    assert all(p.data is None for p in known(found, second))
    for one, other in zip(images, again, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(texts, second.texts(TEXTS))


def test_other_weights_have_another_folder(clip, tmp_path):
    Encoder(clip, cache=tmp_path).texts(["a ship"])
    torch.manual_seed(1)
    other = model.create("rsclip-tiny")
    assert encode.digest(clip) != encode.digest(other)
    Encoder(other, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert encode.digest(clip) == encode.digest(clip)


def test_what_a_killed_run_had_done_is_kept(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "SEGMENT", 4)
    encoder = Encoder(clip, batch_size=2, cache=tmp_path)

    def broken():
        yield from pictures(6)[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder.images(broken())
    again = Encoder(clip, batch_size=2, cache=tmp_path)
    assert [again.has_image(p.key) for p in pictures(6)] == [True] * 4 + [False] * 2


def test_an_image_that_cannot_be_decoded_is_named_and_has_no_row(clip):
    encoder = Encoder(clip, batch_size=2)
    found = pictures(3)
    broken = Picture(b"b" * 16, b"no image")
    towers, joint, unreadable = encoder.images([found[0], broken, *found[1:]])
    assert unreadable == [1]
    assert (len(towers), len(joint)) == (3, 3)
    assert not encoder.has_image(broken.key)


def test_a_damaged_file_of_the_cache_is_named(clip, tmp_path):
    Encoder(clip, cache=tmp_path).texts(["a ship"])
    (path,) = tmp_path.glob("*/texts-*.npy")
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(RsdataError, match=r"texts-.*remove it"):
        Encoder(clip, cache=tmp_path)


def test_features_that_are_no_numbers_are_an_error_and_not_kept(tmp_path):
    broken = model.create("rsclip-tiny")
    with torch.no_grad():
        for each in broken.model.parameters():
            each.fill_(float("nan"))
    encoder = Encoder(broken, cache=tmp_path)
    with pytest.raises(RsdataError, match="images are not numbers"):
        encoder.images(pictures(2))
    with pytest.raises(RsdataError, match="texts are not numbers"):
        encoder.texts(["a ship"])
    assert not list(tmp_path.glob("*/*.npy"))


def test_keys_that_end_in_zeros_are_told_apart():
    shelf = Shelf(None, "images")
    keys = [b"k" * 15 + b"\0", b"k" * 14 + b"\0\0", text_key("a")]
    shelf.add(keys, joint=np.arange(6, dtype=np.float32).reshape(3, 2))
    shelf.flush()
    (found,) = shelf.take([keys[1], keys[0], keys[1]], ("joint",))
    assert found.tolist() == [[2, 3], [0, 1], [2, 3]]
