"""The options of a training run, and the files they are read from and written to."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rsdata import places

TOWERS = ("image", "text")
CAPTIONS = ("random", "first", "all")
AUGMENTATIONS = ("none", "crop", "remoteclip")
RESIZES = ("fast", "pil")
LOSSES = ("infonce", "siglip")
NEGATIVES = ("all", "mask-equal", "mask-signature")
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


def stored(config: Config) -> str:
    """A resolved configuration as a file that `--config` reads."""

    def value(held: Any) -> str:
        return f"[{', '.join(map(value, held))}]" if isinstance(held, list | tuple) else json.dumps(held)

    given = ((name, held) for name, held in asdict(config).items() if held is not None)
    return "".join(f"{name.replace('_', '-')} = {value(held)}\n" for name, held in given)


def options(path: Path) -> dict[str, Any]:
    """The options in a file, by the names that Config has. Raises OSError, ValueError where it is no TOML."""
    held = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name.replace("-", "_"): value for name, value in held.items()}


def names() -> list[str]:
    """The shipped training recipes."""
    return sorted(path.stem for path in (places.recipes() / "training").glob("*.toml"))


def path_of(name: str) -> Path:
    """A file, or a shipped recipe by its name."""
    return places.recipes() / "training" / f"{name}.toml" if name in names() else Path(name)
