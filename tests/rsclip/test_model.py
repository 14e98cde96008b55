from __future__ import annotations

import os

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from rsclip import model
from rsdata.errors import RsdataError

TEXTS = ["A ship .", "There are 4 large vehicles, a small vehicle and 5 planes in the picture .", "trees"]


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return model.create("rsclip-tiny")


def text_features(clip, trim):
    tokens = model.tokenise(TEXTS, clip.tokenizer, trim)
    return model.encode_text(clip.model, tokens), tokens.shape[1]


def small(**text):
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 77, "width": 64, "heads": 2, "layers": 2, **text}
    return open_clip.CustomTextCLIP(32, vision, text)


@pytest.mark.parametrize("kind", ["rsclip-tiny", "custom text tower"])
def test_trimmed_text_gives_the_features_and_gradients_of_the_whole_context(clip, kind):
    if kind == "custom text tower":
        clip = clip._replace(model=small(), tokenizer=open_clip.get_tokenizer("ViT-B-32"))
    results = {}
    for trim in (True, False):
        clip.model.zero_grad()
        features, length = text_features(clip, trim)
        (features * torch.linspace(0, 1, features.numel()).view_as(features)).sum().backward()
        gradients = {n: p.grad.clone() for n, p in clip.model.named_parameters() if p.grad is not None}
        results[trim] = features.detach(), gradients, length
    assert results[True][2] < results[False][2]
    torch.testing.assert_close(results[True][0], results[False][0], atol=1e-5, rtol=0)
    assert results[True][1].keys() == results[False][1].keys()
    for name, gradient in results[True][1].items():
        torch.testing.assert_close(gradient, results[False][1][name], atol=1e-4, rtol=1e-4)


def test_open_clip_by_itself_gives_the_same_text_features(clip):
    expected = clip.model.encode_text(clip.tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(text_features(clip, trim=True)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}])
def test_towers_that_look_past_the_end_token_are_not_trimmed(text):
    assert model.text_prefix(small(**text)) is None


def test_text_longer_than_the_context_keeps_its_end_token(clip):
    tokens = model.tokenise(["plane and " * 60], clip.tokenizer, trim=True)
    assert tokens.shape == (1, 32)
    assert int(tokens[0, -1]) == clip.tokenizer.eot_token_id


def test_a_saved_model_opens_in_plain_open_clip(clip, tmp_path, in_plain_open_clip):
    model.save(tmp_path, clip)
    clip.model.eval()
    image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        ours = clip.model.encode_image(image)[0], clip.model.encode_text(clip.tokenizer(["a ship"]))[0]
    brackets = str.maketrans("[]", "()")  # JSON has lists where open_clip has tuples
    opened = in_plain_open_clip(tmp_path)
    assert len(opened) == 2
    for images, texts, preprocess in opened:
        torch.testing.assert_close(torch.tensor(images), ours[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(torch.tensor(texts), ours[1], atol=1e-6, rtol=1e-5)
        assert preprocess.translate(brackets) == str(clip.transform_eval).translate(brackets)


def same_weights(one, other):
    other = other.model.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.model.state_dict().items())


@pytest.mark.parametrize("form", ["plain", "nested", "module", "safetensors"])
def test_weights_load_from_each_common_form(clip, tmp_path, form):
    state = clip.model.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path)
    elif form == "module":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save(state if form == "plain" else {"state_dict": state}, path)
    torch.manual_seed(9)
    assert same_weights(clip, model.load(path, "rsclip-tiny"))


class Payload:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_pickled_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(RsdataError, match=r"evil\.pt: cannot be loaded"):
        model.create("rsclip-tiny", str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


def test_what_does_not_fit_is_said(clip, tmp_path):
    with pytest.raises(RsdataError, match=r"did you mean .*ViT-B-32"):
        model.create("ViT-B32")
    with pytest.raises(RsdataError, match=r"neither a file nor a tag of ViT-B-32; its tags: .*openai"):
        model.create("ViT-B-32", "openay")
    state = clip.model.state_dict()
    state["text_projection"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(RsdataError, match=r"other\.pt: cannot be loaded as rsclip-tiny"):
        model.create("rsclip-tiny", str(tmp_path / "other.pt"))
    with pytest.raises(RsdataError, match="--model"):
        model.load(tmp_path / "other.pt")
    with pytest.raises(RsdataError, match="not a folder that rsclip wrote"):
        model.load(tmp_path)


def test_a_run_without_weights_is_not_evaluated_at_random(clip, tmp_path):
    model.save(tmp_path, clip)
    (tmp_path / model.WEIGHTS).unlink()
    with pytest.raises(RsdataError, match="cannot be loaded"):
        model.load(tmp_path)


def test_a_tag_trained_with_quick_gelu_gets_it_and_keeps_it(clip, tmp_path, monkeypatch):
    torch.save(clip.model.state_dict(), tmp_path / "w.pt")
    tag = {"quick": {"file": str(tmp_path / "w.pt"), "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "rsclip-tiny", tag)
    quick = model.create("rsclip-tiny", "quick")
    assert quick.config["quick_gelu"]
    model.save(tmp_path / "run", quick)
    again = model.load(tmp_path / "run")
    with torch.no_grad():
        assert not torch.allclose(text_features(quick, True)[0], text_features(clip, True)[0], atol=1e-4)
        assert torch.equal(text_features(quick, True)[0], text_features(again, True)[0])
