from __future__ import annotations

import copy
import math
import sys

import open_clip
import pytest
import torch

from rsclip import adapt, model
from rsdata.errors import RsdataError

TEXT = {"context_length": 77, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_proj": "linear", "image_size": 160}
TOWERS = {"vit": VIT, "resnet": RESNET, "timm vit": TIMM, "timm convnext": CONVNEXT}


def small(vision="vit", custom=False):
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return kind(16, TOWERS[vision], TEXT)


def pictures(clip, number=4):
    size = clip.visual.image_size
    side = size[0] if isinstance(size, tuple) else size
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(1))


TOKENS = torch.tensor([[49406, word, word + 1, 49407] + [0] * 73 for word in (320, 1234, 777, 99)])


def features(clip, tokens=TOKENS):
    return model.encode_image(clip, pictures(clip)), model.encode_text(clip, tokens)


def loss(clip, tokens=TOKENS):
    images, texts = features(clip, tokens)
    return open_clip.ClipLoss()(images.float(), texts.float(), clip.logit_scale.exp())


def copied(state):
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def learn(clip, steps=3, tokens=TOKENS, groups=None):
    parameters = groups or [parameter for parameter in clip.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss(clip, tokens).backward()
        optimizer.step()


def names_of(clip, groups):
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("vision", TOWERS)
def test_a_frozen_image_tower_stays_as_it_is_and_the_text_tower_learns(vision, custom):
    clip = small(vision, custom)
    adapt.freeze(clip, ["image"])
    before = copied(clip.state_dict())
    clip.train()
    learn(clip)
    moved = changed(before, clip.state_dict())
    assert not {name for name in moved if name.startswith("visual.")}
    assert {name for name in before if not name.startswith("visual.")} == moved


@pytest.mark.parametrize("custom", [False, True])
def test_a_frozen_text_tower_stays_as_it_is_and_the_image_tower_learns(custom):
    clip = small("resnet", custom)
    adapt.freeze(clip, {"text"})
    before = copied(clip.state_dict())
    clip.train()
    learn(clip)
    moved = changed(before, clip.state_dict())
    assert {name for name in moved if not name.startswith("visual.")} == {"logit_scale"}
    assert {"visual.bn1.running_mean", "visual.conv1.weight", "visual.attnpool.c_proj.bias"} <= moved


def test_frozen_batch_norms_are_those_of_evaluation_after_each_call_of_train():
    clip = small("resnet")
    adapt.freeze(clip, adapt.TOWERS)
    with torch.no_grad():
        expected = copy.deepcopy(clip).eval().encode_image(pictures(clip))
        for _ in range(2):
            assert torch.equal(clip.train().encode_image(pictures(clip)), expected)
    assert [name for name, parameter in clip.named_parameters() if parameter.requires_grad] == ["logit_scale"]


def test_an_unknown_tower_is_named():
    with pytest.raises(RsdataError, match="vision: not a tower; there are image and text"):
        adapt.freeze(small(), ["image", "vision"])


def test_without_layer_decay_there_are_two_groups_by_open_clips_rule():
    clip = small("resnet")
    clip.visual.relative_position_bias_table = torch.nn.Parameter(torch.zeros(2, 2))  # as Swin's
    adapt.freeze(clip, ["text"])
    groups = adapt.parameter_groups(clip, wd=0.2)
    spared, decayed = names_of(clip, groups)
    trainable = [name for name, parameter in clip.named_parameters() if parameter.requires_grad]
    assert [(group["weight_decay"], group["lr_scale"]) for group in groups] == [(0.0, 1.0), (0.2, 1.0)]
    assert decayed == [name for name in trainable if name in set(decayed)]
    assert sorted(spared + decayed) == sorted(trainable)
    assert {"logit_scale", "visual.bn1.weight", "visual.attnpool.q_proj.bias"} <= set(spared)
    assert "visual.relative_position_bias_table" in spared
    assert "visual.attnpool.positional_embedding" in decayed
    adapt.freeze(clip, ["image"])
    assert names_of(clip, adapt.parameter_groups(clip, wd=0.2)) == [["logit_scale"], []]


# Exponents of the layer decay: how many layers of its tower a parameter has above it.
TEXT_ABOVE = {
    "token_embedding.weight": 3,
    "positional_embedding": 3,
    "transformer.resblocks.0.attn.in_proj_weight": 2,
    "transformer.resblocks.1.mlp.c_fc.bias": 1,
    "ln_final.weight": 0,
    "text_projection": 0,
}
IMAGE_ABOVE = {
    "vit": {
        "class_embedding": 3,
        "positional_embedding": 3,
        "conv1.weight": 3,
        "ln_pre.bias": 3,
        "transformer.resblocks.0.ln_1.weight": 2,
        "transformer.resblocks.1.attn.out_proj.weight": 1,
        "ln_post.weight": 0,
        "proj": 0,
    },
    "resnet": {
        "conv1.weight": 5,
        "bn3.bias": 5,
        "layer1.0.conv1.weight": 4,
        "layer1.0.downsample.0.weight": 4,
        "layer4.0.bn3.weight": 1,
        "attnpool.positional_embedding": 0,
        "attnpool.c_proj.weight": 0,
    },
    "timm vit": {
        "trunk.cls_token": 3,
        "trunk.pos_embed": 3,
        "trunk.patch_embed.proj.weight": 3,
        "trunk.blocks.0.attn.qkv.weight": 2,
        "trunk.blocks.1.mlp.fc2.weight": 1,
        "trunk.norm.weight": 0,
        "head.proj.weight": 0,
    },
    "timm convnext": {
        "trunk.stem.0.weight": 5,
        "trunk.stages.0.blocks.0.conv_dw.weight": 4,
        "trunk.stages.3.downsample.1.weight": 1,
        "head.proj.weight": 0,
    },
}


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("vision", TOWERS)
def test_the_rate_falls_with_each_layer_of_the_tower_from_the_top(vision, custom):
    clip = small(vision, custom)
    if vision == "timm vit":
        del clip.visual.trunk.blocks[2:]
    groups = adapt.parameter_groups(clip, wd=0.2, layer_decay=0.5)
    named = names_of(clip, groups)
    scale = {name: group["lr_scale"] for names, group in zip(named, groups, strict=True) for name in names}
    decay = {
        name: group["weight_decay"] for names, group in zip(named, groups, strict=True) for name in names
    }
    above = {f"visual.{name}": number for name, number in IMAGE_ABOVE[vision].items()}
    above |= {f"text.{name}" if custom else name: number for name, number in TEXT_ABOVE.items()}
    above["logit_scale"] = 0
    assert {name: math.log2(1 / scale[name]) for name in above} == above
    assert scale.keys() == dict(clip.named_parameters()).keys()
    assert {name: value for name, value in decay.items() if value} == {
        name: 0.2
        for name, parameter in clip.named_parameters()
        if parameter.ndim > 1 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
    }
    keys = [(group["lr_scale"], group["weight_decay"]) for group in groups]
    assert len(set(keys)) == len(keys)
    assert named == names_of(clip, adapt.parameter_groups(clip, wd=0.2, layer_decay=0.5))
    torch.optim.AdamW(groups, lr=0.1)


def with_lora(vision="vit", custom=False, rank=2, alpha=None):
    clip = small(vision, custom)
    adapt.add_lora(clip, rank, alpha)
    return clip


def tail(name):
    return name.rpartition("resblocks.0.")[2].rpartition("blocks.0.")[2].removesuffix(".default.weight")


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ("vit", {"attn", "attn.base_layer.out_proj", "mlp.c_fc", "mlp.c_proj"}),
        ("timm vit", {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}),
        ("timm convnext", {"visual.trunk.stages.0.blocks.0.mlp.fc1"}),
        ("resnet", set()),
    ],
)
def test_adapters_sit_in_attention_and_mlp_and_all_of_them_learn(vision, expected):
    clip = with_lora(vision)
    trained = {name for name, parameter in clip.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"logit_scale"}
    images = {name for name in trained if name.startswith("visual.")}
    found = {tail(name).rpartition(".lora_")[0] for name in images if "blocks.0." in name}
    assert bool(images) == bool(expected)
    assert expected <= found | {f"visual.trunk.stages.0.blocks.0.{name}" for name in found}
    texts = {tail(name) for name in trained - images if "resblocks.0." in name}
    where = {"attn", "attn.base_layer.out_proj", "mlp.c_fc", "mlp.c_proj"}
    assert texts == {f"{name}.lora_{side}" for name in where for side in "AB"}
    before = copied(clip.state_dict())
    clip.train()
    learn(clip)
    assert changed(before, clip.state_dict()) == trained
    assert all(p.grad is None for p in clip.parameters() if not p.requires_grad)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("vision", TOWERS)
def test_fresh_adapters_change_nothing(vision, custom):
    base, clip = small(vision, custom).eval(), with_lora(vision, custom).eval()
    with torch.no_grad():
        for ours, theirs in zip(features(clip), features(base), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("alpha", [None, 6])
@pytest.mark.parametrize("vision", ["vit", "timm vit", "resnet"])
def test_the_plain_state_has_the_adapters_merged_and_leaves_the_model_alone(vision, alpha):
    clip, base = with_lora(vision, alpha=alpha), small(vision)
    learn(clip.train(), tokens=TOKENS[:, :4])
    before, names = copied(clip.state_dict()), dict(clip.named_modules()).keys()
    plain = adapt.plain_state(clip)
    assert not changed(before, clip.state_dict())
    assert dict(clip.named_modules()).keys() == names
    start = copied(base.state_dict())
    moved = changed(start, plain)
    base.load_state_dict(plain)
    with torch.no_grad():
        for ours, theirs in zip(features(clip.eval()), features(base.eval()), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert "transformer.resblocks.1.attn.in_proj_weight" in moved
    assert "transformer.resblocks.1.attn.out_proj.weight" in moved
    assert "transformer.resblocks.1.mlp.c_proj.weight" in moved
    weight, layer = "transformer.resblocks.0.mlp.c_fc", clip.transformer.resblocks[0].mlp.c_fc
    change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (3 if alpha else 1)
    torch.testing.assert_close(plain[f"{weight}.weight"] - start[f"{weight}.weight"], change)


@pytest.mark.parametrize("vision", ["vit", "timm vit"])
def test_adapters_have_the_gradients_of_the_weights_that_they_change(vision):
    clip, base = with_lora(vision, alpha=6).train(), small(vision).train()
    learn(clip, tokens=TOKENS[:, :4])
    base.load_state_dict(adapt.plain_state(clip))
    clip.zero_grad()
    loss(clip).backward()
    loss(base).backward()
    whole = {name: parameter.grad for name, parameter in base.named_parameters()}
    layers = {name: layer for name, layer in clip.named_modules() if hasattr(layer, "lora_A")}
    assert len(layers) > 15
    for name, layer in layers.items():
        path = name.replace(".base_layer", "")
        gradient = whole.get(f"{path}.in_proj_weight", whole.get(f"{path}.weight"))
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(up.grad, 3 * gradient @ down.T, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(down.grad, 3 * up.T @ gradient, atol=1e-5, rtol=1e-3)


def test_the_plain_state_of_half_precision_keeps_it_and_that_of_a_plain_model_is_its_own():
    clip = with_lora().bfloat16()
    assert {tensor.dtype for tensor in adapt.plain_state(clip).values()} == {torch.bfloat16}
    plain = small("resnet")
    assert not changed(plain.state_dict(), adapt.plain_state(plain))


def test_a_model_with_adapters_is_saved_as_plain_open_clip_has_it(tmp_path):
    clip = model.create("rsclip-tiny")
    adapt.add_lora(clip.model, 2)
    torch.nn.init.normal_(clip.model.transformer.resblocks[0].attn.lora_B["default"].weight)
    model.save(tmp_path, clip)
    again = model.load(tmp_path).model.state_dict()
    assert not changed(adapt.plain_state(clip.model), again)


def test_trimmed_tokens_give_the_features_and_gradients_of_whole_ones():
    clip = with_lora()
    learn(clip)
    gradients = []
    for tokens in (TOKENS, TOKENS[:, :4]):
        clip.zero_grad()
        loss(clip, tokens).backward()
        gradients.append({n: p.grad.clone() for n, p in clip.named_parameters() if p.grad is not None})
    assert len(gradients[0]) == 33
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_adapters_learn_under_autocast_and_the_base_does_not_wander():
    clip = with_lora().train()
    before = copied(clip.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        first = loss(clip).item()
        learn(clip, steps=20)
        assert loss(clip).item() < first - 0.2
    moved = changed(before, clip.state_dict())
    assert moved == {name for name in before if "lora_" in name or name == "logit_scale"}
    with torch.no_grad():
        features(clip.eval())
    assert not changed(
        {n: t for n, t in before.items() if n not in moved},
        {n: t for n, t in clip.state_dict().items() if n not in moved},
    )


def test_a_run_with_adapters_goes_on_from_its_state(tmp_path):
    clip = with_lora().train()
    learn(clip)
    torch.save(clip.state_dict(), tmp_path / "w.pt")
    other = with_lora().train()
    other.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    learn(clip)
    learn(other)
    assert not changed(clip.state_dict(), other.state_dict())


def test_a_copy_of_a_model_with_adapters_is_its_own():
    clip = with_lora("resnet").train()
    other = copy.deepcopy(clip)
    learn(other)
    assert not changed(with_lora("resnet").state_dict(), clip.state_dict())
    assert len(changed(clip.state_dict(), other.state_dict())) == 17


def test_layer_decay_reaches_adapters():
    clip = with_lora()
    groups = adapt.parameter_groups(clip, wd=0.1, layer_decay=0.5)
    assert sorted((group["lr_scale"], len(group["params"])) for group in groups) == [
        (0.25, 16),
        (0.5, 16),
        (1.0, 0),
        (1.0, 1),
    ]


def test_a_frozen_tower_is_not_adapted_and_without_transformers_there_is_nothing_to_adapt():
    clip = small()
    adapt.freeze(clip, ["image"])
    adapt.add_lora(clip, 2)
    trained = [name for name, parameter in clip.named_parameters() if parameter.requires_grad]
    assert not [name for name in trained if name.startswith("visual.")]
    assert len(trained) == 17
    bare = small("resnet")
    adapt.freeze(bare, ["text"])
    with pytest.raises(RsdataError, match="nothing to adapt"):
        adapt.add_lora(bare, 2)


def test_a_missing_peft_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RsdataError, match=r"pip install 'rsdata\[train\]'"):
        adapt.add_lora(small(), 2)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_weights_are_interpolated_and_counts_are_those_of_the_end(alpha):
    start = {
        "w": torch.tensor([1.0, 2.0]),
        "half": torch.tensor([1.0], dtype=torch.float16),
        "n": torch.tensor(3),
    }
    end = {
        "w": torch.tensor([3.0, -2.0]),
        "half": torch.tensor([2.0], dtype=torch.float16),
        "n": torch.tensor(9),
    }
    found = adapt.interpolate(start, end, alpha)
    torch.testing.assert_close(found["w"], torch.tensor([1 + 2 * alpha, 2 - 4 * alpha]), rtol=0, atol=0)
    assert (found["half"].dtype, float(found["half"])) == (torch.float16, 1 + alpha)
    assert found["n"] == 9


def test_only_weights_of_the_same_model_are_interpolated():
    state = small().state_dict()
    with pytest.raises(RsdataError, match=r"visual\.attnpool\.c_proj\.bias, .* in one of them only"):
        adapt.interpolate(small("resnet").state_dict(), state, 0.5)
    with pytest.raises(RsdataError, match="another shape of text_projection"):
        adapt.interpolate({**state, "text_projection": torch.zeros(2)}, state, 0.5)
