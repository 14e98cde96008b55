"""The processes that train together, as `torchrun` starts them; one process alone is rank 0 of 1.

Tensors on the device travel by NCCL (CUDA) or gloo (CPU). What the ranks tell each other every step, such as
"I was told to stop", travels by gloo on the CPU, so that no step waits for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=2)
"""How long the others wait while rank 0 copies tables or evaluates."""

_control: Any = None


def rank() -> int:
    """0 to `world` - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun's environment names, if there is one, and leave it at the end."""
    global _control
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    _control = dist.new_group(backend="gloo", timeout=PATIENCE) if device.type == "cuda" else None
    try:
        yield
    finally:
        dist.destroy_process_group()


def gathered(local: Tensor, with_gradient: bool = False) -> Tensor:
    """The tensors of all ranks, of equal shape, joined along dimension 0 in the order of ranks.

    with_gradient: gradients flow back to the rank that each part came from, summed over ranks.
    """
    if world() == 1:
        return local
    if with_gradient:
        joined: Tensor = _Gathered.apply(local)
        return joined
    parts = [torch.empty_like(local) for _ in range(world())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


class _Gathered(torch.autograd.Function):
    """(torch.distributed.nn's all_gather does the same, and is deprecated.)"""

    @staticmethod
    def forward(_: Any, local: Tensor) -> Tensor:
        return gathered(local)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(world())[rank()]


def summed(values: Sequence[float]) -> list[float]:
    """The sums of each value over all ranks; waits for all of them, but for no GPU."""
    if world() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total, group=_control)
    return [float(value) for value in total]


def average_gradient(parameter: torch.nn.Parameter) -> None:
    """Average the gradient of a parameter that DDP does not see, as DDP does for the others."""
    if world() > 1 and parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= world()


def from_all(value: Any) -> list[Any]:
    """What each rank has, in the order of ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=_control)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    if world() > 1:
        dist.barrier(group=_control)


@contextmanager
def first(one: bool) -> Iterator[None]:
    """The rank for which `one` holds (one a machine, say) goes through the block before the others do."""
    if not one:
        barrier()
    yield
    if one:
        barrier()
