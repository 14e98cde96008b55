from __future__ import annotations

from dataclasses import replace

import open_clip
import pytest
import torch
from torch import nn

from rsclip import adapt, model, step
from rsclip.config import Config
from rsclip.data import Batch
from rsclip.loss import Marks
from rsclip.step import Trainer

CONFIG = Config(model="rsclip-tiny", lr=1e-3, device="cpu", precision="fp32")
TEXTS = [
    "a ship .",
    "There are 4 large vehicles and 5 planes in the picture .",
    "trees .",
    "3 ships and a harbor .",
]


def vit(dropout=0.0):
    """A small CLIP of two transformers: no batch norm, so a batch is the sum of its pieces."""
    torch.manual_seed(0)
    vision = {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "patch_size": 8,
        "head_width": 16,
        "patch_dropout": dropout,
    }
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    made = open_clip.CLIP(32, vision, text)
    made.visual.preprocess_cfg = {"size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return model.Clip(made, None, open_clip.get_tokenizer("ViT-B-32"), {})


def batch_of(pairs, positives=1, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = model.tokenise(TEXTS * pairs, open_clip.get_tokenizer("ViT-B-32", context_length=32), True)
    marks = Marks(
        torch.ones(pairs, positives, dtype=torch.bool),
        torch.arange(pairs),
        torch.arange(pairs) + 1,
        torch.arange(pairs * positives).view(pairs, positives),
    )
    images = torch.randint(0, 255, (pairs, 3, size, size), dtype=torch.uint8, generator=generator)
    return Batch(images, tokens[: pairs * positives].view(pairs, positives, -1), marks, [])


def gradients(trainer):
    return {n: p.grad.clone() for n, p in trainer.clip.model.named_parameters() if p.grad is not None}


def close(one, other, tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("positives", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5, 12])
def test_pieces_give_the_loss_and_gradients_of_the_whole_batch(size, positives):
    found = {}
    for micro in (None, size):
        trainer = Trainer(vit(), replace(CONFIG, micro_batch=micro))
        loss = trainer.step(batch_of(12, positives), 1e-3, seed=1)
        found[micro] = {"loss": loss, **gradients(trainer)}, dict(trainer.clip.model.named_parameters())
    close(found[size][0], found[None][0], 1e-5)
    close(found[size][1], found[None][1], 1e-4)


def test_pieces_draw_the_same_patches_both_times():
    """The features whose gradients are carried back must be those that the loss has seen."""
    seen = []
    trainer = Trainer(vit(dropout=0.5), replace(CONFIG, micro_batch=4))
    trainer.towers.register_forward_hook(lambda *arguments: seen.append(arguments[2][0].detach()))
    trainer.step(batch_of(12), 1e-3, seed=1)
    first, second = seen[:3], seen[3:]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    trainer.step(batch_of(12), 0.0, seed=2)
    assert not torch.allclose(seen[6], seen[0])


def test_batch_norms_learn_once_from_each_piece():
    trainer = Trainer(model.create("rsclip-tiny"), replace(CONFIG, micro_batch=4))
    norm = trainer.clip.model.visual.bn1
    seen = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean((0, 2, 3)).detach()))
    trainer.step(batch_of(8, size=64), 0.0, 0)
    expected = torch.zeros_like(norm.running_mean)
    for mean in seen[2:]:  # the second time round
        expected = expected.lerp(mean, norm.momentum)
    torch.testing.assert_close(norm.running_mean, expected, atol=1e-5, rtol=1e-4)
    assert norm.momentum == 0.1


def test_trimmed_and_whole_texts_give_one_loss():
    batch = batch_of(12)
    longer = torch.zeros(12, 1, 32, dtype=torch.long)
    longer[..., : batch.tokens.shape[-1]] = batch.tokens
    assert batch.tokens.shape[-1] < 32
    losses = [
        [float(trainer.step(each, 1e-3, n)) for n in range(5)]
        for each, trainer in (
            (batch, Trainer(vit(), CONFIG)),
            (batch._replace(tokens=longer), Trainer(vit(), CONFIG)),
        )
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_bf16_is_near_fp32_and_keeps_the_weights_whole():
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(vit(), replace(CONFIG, precision=precision))
        losses.append([float(trainer.step(batch_of(12), 1e-3, n)) for n in range(5)])
        assert {p.dtype for p in trainer.clip.model.parameters()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


@pytest.mark.parametrize("options", [{"compile": True}, {"grad_checkpointing": True}])
def test_compiled_and_checkpointed_towers_learn_the_same(options):
    plain = Trainer(vit(), CONFIG)
    clip = vit()
    if options.get("grad_checkpointing"):
        clip.model.set_grad_checkpointing(True)
    other = Trainer(clip, replace(CONFIG, **options))
    for number in range(2):
        batch = batch_of(8, seed=number)
        torch.testing.assert_close(
            plain.step(batch, 1e-3, number), other.step(batch, 1e-3, number), atol=1e-4, rtol=1e-4
        )


def test_residual_towers_are_laid_out_for_convolution():
    trainer = Trainer(model.create("rsclip-tiny"), CONFIG)
    weight = trainer.clip.model.visual.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert trainer.towers.layout == torch.channels_last
    assert Trainer(vit(), CONFIG).towers.layout == torch.contiguous_format


def test_a_frozen_tower_stays_and_the_other_learns():
    clip = vit()
    adapt.freeze(clip.model, ["image"])
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    for micro in (None, 4):
        trainer = Trainer(clip, replace(CONFIG, micro_batch=micro, wd=0.5))
        trainer.step(batch_of(8), 1e-3, 0)
    for name, value in clip.model.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == (not name.startswith("visual.")), name


def test_layers_have_rates_of_their_own():
    clip = vit()
    before = {name: value.clone() for name, value in clip.model.named_parameters()}
    trainer = Trainer(clip, replace(CONFIG, layer_decay=0.1, wd=0.0))
    trainer.step(batch_of(8), 1e-2, 0)
    moved = {name: float((p - before[name]).abs().max()) for name, p in clip.model.named_parameters()}
    assert moved["visual.transformer.resblocks.1.mlp.c_fc.weight"] == pytest.approx(1e-3, rel=0.05)
    assert moved["visual.transformer.resblocks.0.mlp.c_fc.weight"] == pytest.approx(1e-4, rel=0.05)
    assert moved["visual.conv1.weight"] == pytest.approx(1e-5, rel=0.05)


def test_adapters_learn_and_are_merged_when_saved(tmp_path):
    clip = model.create("rsclip-tiny")
    adapt.add_lora(clip.model, 2)
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    trainer = Trainer(clip, CONFIG)
    for number in range(2):
        trainer.step(batch_of(8, size=64), 1e-2, number)
    changed = {n for n, v in clip.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(".lora_" in name or name == "logit_scale" for name in changed)
    model.save(tmp_path, clip)
    plain = model.load(tmp_path)
    assert not [name for name in plain.model.state_dict() if "lora" in name]
    tokens = batch_of(8).tokens[:, 0]
    clip.model.eval(), plain.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_text(clip.model, tokens),
            model.encode_text(plain.model, tokens),
            atol=1e-5,
            rtol=1e-4,
        )


def test_the_average_follows_the_weights():
    trainer = Trainer(vit(), replace(CONFIG, ema=0.5))
    name = "text_projection"
    expected = trainer.clip.model.state_dict()[name].clone()
    for number in range(1, 4):
        trainer.step(batch_of(8), 1e-2, number)
        trainer.follow(number)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * trainer.clip.model.state_dict()[name]
    torch.testing.assert_close(trainer.learnt().model.state_dict()[name], expected)
    assert not torch.equal(trainer.clip.model.state_dict()[name], expected)


def test_the_logit_scale_stays_below_a_hundred():
    clip = vit()
    with torch.no_grad():
        clip.model.logit_scale.fill_(9.0)
    trainer = Trainer(clip, CONFIG)
    trainer.step(batch_of(4), 1e-3, 0)
    assert trainer.logit_scale() == pytest.approx(100, abs=1e-3)


def test_the_bias_of_the_sigmoid_loss_learns():
    clip = vit()
    clip.model.logit_bias = nn.Parameter(torch.tensor(-10.0))
    trainer = Trainer(clip, replace(CONFIG, loss="siglip"))
    losses = [float(trainer.step(batch_of(8), 1e-2, n)) for n in range(6)]
    assert losses[-1] < losses[0]
    assert float(clip.model.logit_bias.detach()) != -10


def test_norms_biases_and_the_logit_scale_are_not_decayed():
    clip = model.create("rsclip-tiny").model
    spared, decayed = step.build_optimizer(clip, replace(CONFIG, wd=0.3)).param_groups
    named = {id(p): n for n, p in clip.named_parameters()}
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.3)
    assert {"logit_scale", "ln_final.weight"} <= {named[id(p)] for p in spared["params"]}
    assert {"token_embedding.weight", "visual.conv1.weight"} <= {named[id(p)] for p in decayed["params"]}
    assert len(spared["params"]) + len(decayed["params"]) == len(named)
