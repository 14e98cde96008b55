"""One step: features of both towers, the loss, gradients, and the update.

With a micro-batch the features of the whole batch are found first, without gradients, then the loss and its
gradients with respect to them, and then each piece goes through the towers once more to carry these back
(GradCache, Gao et al. 2021): the gradient of the large batch, with the memory of a small one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsclip import adapt, loss, model, ranks
from rsclip.config import Config
from rsclip.data import Batch
from rsclip.model import Clip
from rsclip.pixels import mix

MAX_LOGIT_SCALE = math.log(100)
BETAS, EPSILON = (0.9, 0.98), 1e-6  # CLIP, table 19, for ViT
OF_THE_LOSS = ("logit_scale", "logit_bias")
"""Parameters that no tower uses."""


class Towers(nn.Module):
    """Bytes and tokens to features: uint8 [pairs, 3, height, width] and int64 [texts, length] to float
    [pairs, dim] and [texts, dim], L2-normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: Clip, precision: str | None) -> None:
        super().__init__()
        self.clip, self.precision = clip.model, precision
        held = clip.preprocess
        self.register_buffer("mean", torch.tensor(held["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(held["std"]).view(3, 1, 1), persistent=False)
        convolves = isinstance(clip.model.visual, ModifiedResNet)
        self.layout = torch.channels_last if convolves else torch.contiguous_format
        if convolves:
            clip.model.visual.to(memory_format=self.layout)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Normalises as open_clip's transforms do: bytes over 255, less the mean, over the deviation."""
        floats = images.to(torch.float32, memory_format=self.layout).div(255).sub(self.mean).div(self.std)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return model.encode_image(self.clip, floats), model.encode_text(self.clip, tokens)


class Trainer:
    """A model, its optimizer, and what changes both."""

    def __init__(self, clip: Clip, config: Config) -> None:
        self.clip, self.config = clip, config
        self.towers: Any = Towers(clip, config.precision).to(torch.device(str(config.device)))
        self.optimizer = build_optimizer(clip.model, config)
        self.average: dict[str, Tensor] | None = None
        if config.ema is not None:
            self.average = {name: value.clone() for name, value in clip.model.state_dict().items()}
        if config.compile:
            self.towers.compile(dynamic=True)
        self.whole: Any = self.towers
        if ranks.world() > 1:
            wrapper: Any = DistributedDataParallel
            wrapper._set_params_and_buffers_to_ignore_for_model(
                self.towers, [f"clip.{name}" for name in OF_THE_LOSS]
            )
            self.whole = wrapper(self.towers)

    def step(self, batch: Batch, rate: float, seed: int) -> Tensor:
        """One update by a batch that is on the device.

        rate: learning rate. seed: of dropout. Returns this rank's share of the loss: the mean over ranks is
        the loss of the global batch.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.optimizer.zero_grad()
        size = self.config.micro_batch
        found = self._by_pieces(batch, size, seed) if size else self._at_once(batch, seed)
        for parameter in self._of_the_loss():
            ranks.average_gradient(parameter)
        self.optimizer.step()
        with torch.no_grad():
            self._scale().clamp_(0, MAX_LOGIT_SCALE)
        return found.detach()

    def follow(self, step: int) -> None:
        """Move the average of the weights towards those after `step` (1-based), faster in the beginning."""
        if self.average is None:
            return
        decay = min(float(self.config.ema or 0), (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.clip.model.state_dict().items():
                held = self.average[name]
                if held.is_floating_point():
                    held.lerp_(value, 1 - decay)
                else:
                    held.copy_(value)

    def learnt(self) -> Clip:
        """The model as it stands, or a copy with the average of its weights where there is one."""
        if self.average is None:
            return self.clip
        model = copy.deepcopy(self.clip.model)
        model.load_state_dict(self.average)
        return self.clip._replace(model=model)

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {
            "state_dict": self.clip.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.clip.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            for name, value in state["average"].items():
                self.average[name].copy_(value)

    def logit_scale(self) -> float:
        """The factor on the cosine similarities, at most 100."""
        return float(self._scale().detach().exp())

    def _scale(self) -> Tensor:
        scale: Any = self.clip.model.logit_scale
        return scale  # type: ignore[no-any-return]

    def _loss(self, features: Sequence[Tensor], batch: Batch) -> Tensor:
        images, texts = features
        texts = texts.view(len(images), -1, texts.shape[-1])
        bias: Any = getattr(self.clip.model, "logit_bias", None)
        kinds = self.config.loss, self.config.negatives
        return loss.contrastive(images, texts, batch.marks, self._scale().exp(), bias, *kinds)

    def _at_once(self, batch: Batch, seed: int) -> Tensor:
        torch.manual_seed(seed)
        found = self._loss(self.whole(batch.images, batch.tokens.flatten(0, 1)), batch)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    def _by_pieces(self, batch: Batch, size: int, seed: int) -> Tensor:
        pieces = list(
            zip(
                torch.split(batch.images, size),
                (part.flatten(0, 1) for part in torch.split(batch.tokens, size)),
                strict=True,
            )
        )
        found = []
        with torch.no_grad(), quiet_norms(self.towers):
            for number, piece in enumerate(pieces):
                torch.manual_seed(mix(seed, number))
                found.append(self.towers(*piece))
        features = [torch.cat(side).float().requires_grad_() for side in zip(*found, strict=True)]
        whole = self._loss(features, batch)
        parameters = self._of_the_loss()
        by_images, by_texts, *others = torch.autograd.grad(whole, [*features, *parameters], allow_unused=True)
        for parameter, by in zip(parameters, others, strict=True):
            parameter.grad = by
        texts_each = batch.tokens.shape[1]
        gradients = zip(torch.split(by_images, size), torch.split(by_texts, size * texts_each), strict=True)
        for number, (piece, gradient) in enumerate(zip(pieces, gradients, strict=True)):
            torch.manual_seed(mix(seed, number))
            last = number == len(pieces) - 1
            with nullcontext() if last or ranks.world() == 1 else self.whole.no_sync():
                for_both = [
                    (side, by.to(side.dtype))
                    for side, by in zip(self.whole(*piece), gradient, strict=True)
                    if side.requires_grad
                ]
                torch.autograd.backward([side for side, _ in for_both], [by for _, by in for_both])
        return whole

    def _of_the_loss(self) -> list[nn.Parameter]:
        held = (getattr(self.clip.model, name, None) for name in OF_THE_LOSS)
        return [each for each in held if isinstance(each, nn.Parameter)]


def build_optimizer(clip: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW, fused where torch has it, over `adapt.parameter_groups`."""
    groups = adapt.parameter_groups(clip, config.wd, config.layer_decay)
    fused = str(config.device).startswith(("cuda", "cpu"))
    return torch.optim.AdamW(groups, lr=config.lr or 0.0, betas=BETAS, eps=EPSILON, fused=fused)


@contextmanager
def quiet_norms(towers: nn.Module) -> Iterator[None]:
    """Batch norms normalise inside as in training, but do not learn from what they see."""
    norms = [each for each in towers.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
