"""Fine-tuning without training all of it: frozen towers, layer-wise rates, LoRA, interpolated weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rsclip.config import TOWERS
from rsdata.errors import RsdataError

_ADAPTER = "default"  # peft's name for the only one there is

# What stands before the name of a part in open_clip's towers, timm's trunks and Hugging Face's text models.
_ROOT = r"^(visual\.|text\.)?(trunk\.|transformer\.|encoder\.)*"
_BLOCK = re.compile(_ROOT + r"(?:resblocks|blocks|block|stages|layers|layer)\.?(\d+)\.")
_STEM = re.compile(_ROOT + r"(\w*embed\w*|cls_\w+|reg_token|conv\d|bn\d|ln_pre|norm_pre|stem|shared)\b")


def freeze(model: nn.Module, towers: Collection[str]) -> None:
    """Stop training `towers`, of "image" and "text", with their embeddings, norms and projections.

    Their batch norms keep their statistics, also after `model.train()`; call it after any conversion to
    SyncBatchNorm, which makes new ones. Logit scale and bias stay trainable.
    (open_clip's `lock_image_tower` leaves the projection of timm's towers trainable, and puts another class
    in the place of batch norms, with another state dict.)
    Raises RsdataError on another name.
    """
    if unknown := sorted(set(towers) - set(TOWERS)):
        raise RsdataError(f"{unknown[0]}: not a tower; there are {' and '.join(TOWERS)}")
    for name, parameter in model.named_parameters():
        if _tower(name) in towers:
            parameter.requires_grad_(False)
    _hold_statistics(model, towers)


def parameter_groups(model: nn.Module, wd: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """The trainable parameters for AdamW: dicts of params, weight_decay and lr_scale, the factor on the rate.

    wd: decay of all but vectors and scalars, norms, biases and the logit scale (open_clip's rule).
    layer_decay: lr_scale is layer_decay to the power of how many layers of its own tower a parameter has
        above it (BEiT, Bao et al. 2022). From the top, layers are: the head (final norm, pooling,
        projection), each transformer block or stage of a convolutional tower, the embeddings or stem. At 1
        there are two groups, without and with decay, in the order of `named_parameters`.
    """
    depths: dict[str | None, set[int]] = {}
    for name, _ in model.named_parameters():
        if block := _BLOCK.match(name):
            depths.setdefault(_tower(name), set()).add(int(block[3]))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, False): [], (1.0, True): []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
        above = _layers_above(name, depths.get(_tower(name), set()))
        groups.setdefault((layer_decay**above, not spared), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": wd if decays else 0.0, "lr_scale": scale}
        for (scale, decays), parameters in groups.items()
    ]


def add_lora(model: nn.Module, rank: int, alpha: float | None = None) -> None:
    """Give the attention and MLP layers of both towers' transformers adapters, and freeze all else in place.

    The change of a weight is alpha / rank * B @ A (LoRA, Hu et al. 2022), with alpha = rank by default and
    B = 0 to begin with, so that the model is at first what it was. Of `nn.MultiheadAttention` both
    projections are adapted. A tower that `freeze` has frozen gets none. What is of the loss, logit scale and
    bias, stays trainable; batch norms keep their statistics.
    Raises RsdataError where there is nothing to adapt, or no peft.
    """
    try:
        import peft
    except ImportError as error:
        raise RsdataError("adapters need peft: pip install 'rsdata[train]'") from error
    targets = _adaptable(model)
    if not targets:
        raise RsdataError("nothing to adapt: no tower to be trained has transformer blocks")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # type: ignore[arg-type]  # any number serves
        target_modules="|".join(map(re.escape, targets)),  # a list is of endings: "visual.x" is one of "x"
    )
    peft.inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if _tower(name) is None:
            parameter.requires_grad_(True)
    _hold_statistics(model, TOWERS)
    for module in model.modules():
        if isinstance(getattr(module, "base_layer", None), nn.MultiheadAttention):
            module.register_forward_pre_hook(_merge)
            module.register_forward_hook(_unmerge, always_call=True)


@torch.no_grad()
def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of `model` as open_clip has it: adapters merged, in float32; `model` stays as it is."""
    state = {
        name.replace("base_layer.", ""): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            path = name.replace(".base_layer", "")
            weight = f"{path}.in_proj_weight" if f"{path}.in_proj_weight" in state else f"{path}.weight"
            state[weight] = (state[weight] + _change(module)).to(state[weight].dtype)
    return state


def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * start + alpha * end, computed in float32, in `end`'s dtypes.

    WiSE-FT, Wortsman et al., CVPR 2022. Tensors that are not of floats are `end`'s.
    Raises RsdataError where names or shapes differ.
    """
    if names := start.keys() ^ end.keys():
        raise RsdataError(f"not the same model: {', '.join(sorted(names)[:3])} in one of them only")
    if shapes := sorted(name for name in end if start[name].shape != end[name].shape):
        raise RsdataError(f"not the same model: another shape of {', '.join(shapes[:3])}")
    return {
        name: start[name].float().lerp(tensor.float(), alpha).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in end.items()
    }


def _tower(name: str) -> str | None:
    """The tower that a parameter or module is of: what is not `visual` is text, flat on the model or not."""
    if name.startswith("logit_"):
        return None
    return "image" if name.startswith("visual.") else "text"


def _layers_above(name: str, blocks: set[int]) -> int:
    if block := _BLOCK.match(name):
        return sum(other >= int(block[3]) for other in blocks)  # with the head, without itself
    return len(blocks) + 1 if _STEM.match(name) else 0


def _adaptable(model: nn.Module) -> list[str]:
    """Names of the attention and linear layers in the blocks of both towers, as far as they are trained."""
    attentions = {name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention | nn.Linear)
        and name.rpartition(".")[0] not in attentions  # an output projection goes with its attention
        and _BLOCK.match(name)
        and any(parameter.requires_grad for parameter in module.parameters())
    ]


def _hold_statistics(model: nn.Module, towers: Collection[str]) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and _tower(name) in towers:
            module.register_forward_pre_hook(_evaluate)


def _evaluate(module: nn.Module, _: Any) -> None:
    module.eval()


# The projections of nn.MultiheadAttention are no modules that are called, so peft 0.21 adds the changes to
# its weights for the time of the forward: that of the output projection twice (its pull request 3774), and
# subtracts them again, rounded, so that frozen weights wander. What it takes for merged it only calls: these
# two merge once, and put back what was there.


def _merge(layer: Any, _: Any) -> None:
    base, out = layer.base_layer, layer.base_layer.out_proj
    layer.kept = base.in_proj_weight, out.base_layer.weight
    del base.in_proj_weight, out.base_layer.weight  # parameters, for which no plain tensor can be set
    base.in_proj_weight, out.base_layer.weight = (
        (weight + _change(part)).to(weight.dtype)
        for weight, part in zip(layer.kept, (layer, out), strict=True)
    )
    layer.merged_adapters.append(_ADAPTER)


def _unmerge(layer: Any, *_: Any) -> None:
    base, out = layer.base_layer, layer.base_layer.out_proj
    base.in_proj_weight, out.base_layer.weight = layer.kept
    layer.merged_adapters.remove(_ADAPTER)
    del layer.kept


def _change(layer: Any) -> Tensor:
    up, down = (part[_ADAPTER].weight.float() for part in (layer.lora_B, layer.lora_A))
    change: Tensor = layer.scaling[_ADAPTER] * (up @ down)
    return change
