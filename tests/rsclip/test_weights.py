from __future__ import annotations

import argparse
import logging
import os
import warnings

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from rsclip import model, weights
from rsdata.errors import RsdataError

TEXT = {"context_length": 77, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}


def small(kind=open_clip.CLIP, seed=0, text=(), vision=(), **options):
    torch.manual_seed(seed)
    return kind(16, {**VISION, **dict(vision)}, {**TEXT, **dict(text)}, **options)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def state():
    return {name: tensor.detach() for name, tensor in small().state_dict().items()}


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def itra(state):
    def theirs(name):
        if name == "logit_scale":
            return name
        return name.replace("visual.", "image_backbone.") if "visual." in name else f"text_backbone.{name}"

    return {f"module.{theirs(name)}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "form",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}}},
        lambda state: {"model": state},
        lambda state: {"state_dict": prefixed(state, "module.")},
        lambda state: prefixed(state, "module._orig_mod."),
        lambda state: {**state, "input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)},
        lambda state: {"epoch": 1, "state_dict": itra(state)},
    ],
    ids=["plain", "open_clip_train", "model", "distributed", "compiled", "openai", "itra"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read(state, tmp_path, form, zipped):
    torch.save(form(state), tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    assert same(weights.read(tmp_path / "w.bin"), state)


def test_safetensors_are_known_by_their_content_and_keep_their_dtype(state, tmp_path):
    half = {name: tensor.half() for name, tensor in state.items()}
    save_file(half, tmp_path / "w.pt")
    found = weights.read(tmp_path / "w.pt")
    assert same(found, half)
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}


class OpenAI(torch.nn.Module):
    """Parameters by CLIP's names, and the numbers that OpenAI's archives hold among them."""

    def __init__(self, clip):
        super().__init__()
        self.visual, self.transformer, self.ln_final = clip.visual, clip.transformer, clip.ln_final
        self.token_embedding = clip.token_embedding
        self.positional_embedding, self.text_projection = clip.positional_embedding, clip.text_projection
        self.logit_scale = clip.logit_scale
        for name, number in {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}.items():
            self.register_buffer(name, torch.tensor(number))

    def forward(self, image):
        return self.visual(image)


def test_a_torchscript_archive_as_openai_has_them_is_read(state, tmp_path):
    with warnings.catch_warnings(action="ignore"):
        archive = torch.jit.trace(OpenAI(small()).eval(), torch.zeros(1, 3, 32, 32), check_trace=False)
        torch.jit.save(archive, tmp_path / "ViT.pt")
    assert "vocab_size" in archive.state_dict()
    with warnings.catch_warnings(action="error"):
        assert same(weights.read(tmp_path / "ViT.pt"), state)


class Payload:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda folder: {"state_dict": Payload(folder / "ran")}, r"pickled code \(\S*\.mkdir\)"),
        (
            lambda _: {"args": argparse.Namespace(lr=1), "state_dict": {}},
            r"pickled code \(argparse.Namespace\)",
        ),
        (lambda _: small(), r"pickled code \(open_clip\.model\.CLIP\)"),
        (lambda _: {"state_dict": {}, "epoch": 3}, "no named tensors"),
        (lambda _: [torch.zeros(2)], "no named tensors"),
        (lambda _: {0: torch.zeros(2)}, "no named tensors"),
        (
            lambda _: {"state_dict": {f"net.layer{i}.weight": torch.zeros(2) for i in range(9)}},
            r"not a CLIP.*net\.layer0\.weight, net\.layer1\.weight, net\.layer2\.weight and 6 more",
        ),
        (lambda _: {"vision_model.x": torch.zeros(2)}, r"not a CLIP.*vision_model\.x$"),
    ],
)
def test_what_is_no_clip_is_refused_and_no_code_runs(tmp_path, content, why):
    torch.save(content(tmp_path), tmp_path / "w.pt")
    with pytest.raises(RsdataError, match=rf"w\.pt: cannot be loaded: .*{why}") as caught:
        weights.read(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["text", "empty", "cut.pt", "cut.safetensors", "absent", "folder"])
def test_what_cannot_be_read_is_said_in_one_line(state, tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name != "absent":
        torch.save(state, path)
        if name.endswith("safetensors"):
            save_file(state, path)
        whole = {"text": b"hello, I am no model", "empty": b""}.get(name, path.read_bytes())
        path.write_bytes(whole[: len(whole) // 2 + 9])
    with pytest.raises(RsdataError, match=rf"{name}: cannot be loaded: \w") as caught:
        weights.read(path)
    assert "\n" not in str(caught.value)


def loaded(target, state, path, name="small"):
    torch.save(state, path / "w.pt")
    weights.load_into(target, path / "w.pt", name)
    return target.state_dict()


def test_weights_go_into_the_model_in_its_dtype(state, tmp_path):
    half = {name: tensor.half() for name, tensor in state.items()}
    found = loaded(small(seed=1), half, tmp_path)
    assert same(found, {name: tensor.float() for name, tensor in half.items()})


def test_a_flat_text_tower_goes_into_a_custom_one_and_buffers_are_no_fault(state, tmp_path):
    target = small(open_clip.CustomTextCLIP, seed=1, init_logit_bias=-10.0, nonscalar_logit_scale=True)
    found = loaded(target, {**state, "attn_mask": torch.zeros(77, 77)}, tmp_path)
    assert torch.equal(found["text.token_embedding.weight"], state["token_embedding.weight"])
    assert torch.equal(found["logit_scale"], state["logit_scale"].reshape(1))
    assert found["logit_bias"] == torch.zeros(1)  # as open_clip does where the weights have none


def test_positions_are_interpolated_as_open_clip_does_it(state, tmp_path):
    larger = {"vision": {"image_size": 64}, "text": {"context_length": 40}}
    found = loaded(small(seed=1, **larger), state, tmp_path)
    expected = small(seed=2, **larger)
    open_clip.load_checkpoint(expected, str(tmp_path / "w.pt"))
    assert found["visual.positional_embedding"].shape == (17, 32)
    assert same(found, expected.state_dict())


def test_what_does_not_fit_is_named(state, tmp_path):
    odd = {"extra.weight": torch.zeros(2), "text_projection": torch.zeros(32, 3)}
    odd = {name: tensor for name, tensor in (state | odd).items() if not name.startswith("ln_final")}
    before = {name: tensor.clone() for name, tensor in small(seed=1).state_dict().items()}
    target = small(seed=1)
    with pytest.raises(
        RsdataError,
        match=r"w\.pt: cannot be loaded as small: missing: ln_final\.bias, ln_final\.weight; "
        r"unknown: extra\.weight; of another shape: text_projection \[32, 3\] for \[32, 16\]$",
    ):
        loaded(target, odd, tmp_path)
    assert same(target.state_dict(), before)


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-B-32", "RN50x4", "rsclip-tiny"])
def test_the_model_that_weights_are_of_is_recognised(name, tmp_path):
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        other = open_clip.CLIP(**config)
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in other.state_dict().items()}
    with pytest.raises(RsdataError, match=rf"as small: these are weights of a {name}; .*and \d+ more"):
        loaded(small(), state, tmp_path)


def test_a_file_of_another_model_is_named_by_create(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(RsdataError, match=r"w\.pt: cannot be loaded as rsclip-tiny: missing: "):
        model.create("rsclip-tiny", str(tmp_path / "w.pt"))


TOKENS = torch.tensor([[49406, 320, 1234, 49407] + [0] * 73])


def texts(clip):
    with torch.no_grad():
        return clip.model.eval().encode_text(TOKENS)


@pytest.fixture
def configs(monkeypatch):
    """ "small", and one that says QuickGELU as those of open_clip that end so."""
    plain = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", plain)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-quickgelu", {**plain, "quick_gelu": True})


@pytest.mark.usefixtures("configs")
def test_the_activation_can_be_forced_either_way_and_is_kept(tmp_path):
    plain = model.create("small")
    save_file(plain.model.state_dict(), tmp_path / "w.safetensors")
    file = str(tmp_path / "w.safetensors")
    quick, off = model.create("small", file, quick_gelu=True), model.create("small-quickgelu", file, False)
    assert torch.equal(texts(off), texts(plain))
    assert not torch.allclose(texts(quick), texts(plain), atol=1e-4)
    assert torch.equal(texts(model.load(file, "small-quickgelu")), texts(quick))
    for clip in (quick, off):
        model.save(tmp_path / "run", clip)
        assert torch.equal(texts(model.load(tmp_path / "run")), texts(clip))
    assert (quick.config["quick_gelu"], off.config["quick_gelu"]) == (True, False)
    assert torch.equal(texts(model.load(tmp_path / "run", quick_gelu=True)), texts(quick))


@pytest.mark.usefixtures("configs")
def test_another_image_size_is_kept_in_the_folder(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    clip = model.create("small", str(tmp_path / "w.safetensors"), image_size=64)
    model.save(tmp_path / "run", clip)
    again = model.load(tmp_path / "run")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.model.encode_image(image), clip.model.encode_image(image))
    assert again.config == clip.config
    assert VISION["image_size"] == 32


def test_a_resnet_of_another_image_size_says_what_does_not_fit(tmp_path):
    torch.save(model.create("rsclip-tiny").model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(RsdataError, match=r"cannot be loaded as rsclip-tiny: of another .*visual\.attnpool"):
        model.create("rsclip-tiny", str(tmp_path / "w.pt"), image_size=96)


def test_an_image_size_that_open_clip_would_not_build_again_is_refused(monkeypatch):
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "of timm", config)
    assert model.create("of timm", image_size=160)
    with pytest.raises(RsdataError, match="of timm: is built only for its own image size, not for 192"):
        model.create("of timm", image_size=192)


def test_open_clip_does_not_warn_of_random_weights(tmp_path, caplog):
    torch.save(model.create("rsclip-tiny").model.state_dict(), tmp_path / "w.pt")
    model.create("rsclip-tiny", str(tmp_path / "w.pt"))
    assert not caplog.text
    assert not logging.getLogger().filters
    open_clip.create_model("rsclip-tiny")
    assert "initialized randomly" in caplog.text
