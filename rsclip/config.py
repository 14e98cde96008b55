"""The options of a training run, and the files they are read from and written to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "bf16")
LR_FINE_TUNE, LR_FROM_SCRATCH = 4e-5, 5e-4  # RemoteCLIP's and CLIP's for ViT-B/32


@dataclass(frozen=True)
class Config:
    """Options of a run; what each means is said in `rsclip train --help`.

    None stands for nothing, or for a default that depends on others, which `train.resolved` fills in: lr
    (4e-5 with pretrained weights, 5e-4 without), warmup (a twentieth of all steps), precision (bf16 on CUDA,
    fp32 elsewhere), device (CUDA where there is one), steps (epochs), eval_every (an epoch).
    """

    model: str = "ViT-B-32"
    pretrained: str | None = None
    quick_gelu: bool | None = None
    image_size: int | None = None
    freeze: tuple[str, ...] = ()
    lora: int | None = None
    split: tuple[str, ...] = ()
    weight: tuple[float, ...] = ()
    captions: str = "random"
    positives: int = 1
    augment: str = "remoteclip"
    resize: str = "fast"
    cache: str | None = None
    cache_edge: int | None = None
    stream: bool = False
    epochs: int = 10
    steps: int | None = None
    batch_size: int = 256
    micro_batch: int | None = None
    lr: float | None = None
    layer_decay: float = 1.0
    wd: float = 0.05
    warmup: int | None = None
    ema: float | None = None
    loss: str = "infonce"
    negatives: str = "all"
    hard_negatives: int = 0
    precision: str | None = None
    trim: bool = True
    compile: bool = False
    grad_checkpointing: bool = False
    eval: tuple[str, ...] = ()
    eval_split: tuple[str, ...] = ()
    eval_every: int | None = None
    seed: int = 0
    workers: int = 0
    device: str | None = None
    log_every: int = 10
    checkpoint_every: int = 1000


MAY_CHANGE = (
    "cache",
    "workers",
    "device",
    "micro_batch",
    "compile",
    "grad_checkpointing",
    "log_every",
    "checkpoint_every",
)
"""What a run may go on with another value of: the result does not hang on it, but for rounding."""


def as_toml(options: Mapping[str, Any]) -> str:
    """Options as a file that `--config` reads: numbers, strings, booleans and lists of these."""

    def value(held: Any) -> str:
        return f"[{', '.join(map(value, held))}]" if isinstance(held, list | tuple) else json.dumps(held)

    lines = [
        f"{name.replace('_', '-')} = {value(held)}\n" for name, held in options.items() if held is not None
    ]
    return "".join(lines)


def stored(config: Config) -> str:
    """A resolved configuration as TOML."""
    return as_toml(asdict(config))


def folder() -> Path:
    """Where the shipped training recipes lie: in the package, or beside it in a checkout."""
    here = Path(__file__).parent
    inside = here.parent / "rsdata" / "recipes" / "training"
    return inside if inside.is_dir() else here.parent / "recipes" / "training"


def names() -> list[str]:
    """The shipped training recipes."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def path_of(name: str) -> Path:
    """A file, or a shipped recipe by its name."""
    path = Path(name)
    return path if path.suffix == ".toml" or name not in names() else folder() / f"{name}.toml"
