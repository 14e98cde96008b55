"""The training loop: InfoNCE over both towers, AdamW, linear warm-up and cosine (RemoteCLIP, section IV-A).

A run is a folder:

    run.json                     resolved options, tables with their digests, versions
    metrics.jsonl                one line every `log_every` steps and at each checkpoint
    checkpoint.pt                latest state: weights, optimizer, step; `--resume` goes on from it
    open_clip_config.json        } the model as open_clip's "local-dir:" opens it,
    open_clip_model.safetensors  } written after each epoch
    cache/                       the images as `rsclip.data` maps them, removed when the run is done
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
from tqdm import tqdm

from rsclip import data, model
from rsclip.data import Batch, ImageCaptions, mix, replacing
from rsclip.model import Clip
from rsdata import tables
from rsdata.errors import RsdataError, TableError

PRECISIONS = ("fp32", "bf16")
MAX_LOGIT_SCALE = math.log(100)
BETAS, EPSILON = (0.9, 0.98), 1e-6  # CLIP, table 19, for ViT
LR_FINE_TUNE, LR_FROM_SCRATCH = 4e-5, 5e-4  # RemoteCLIP's and CLIP's for ViT-B/32
Corpus = list[tuple[Path, tuple[str, ...]]]  # tables, each with the splits to read
MAY_CHANGE = ("workers", "device", "log_every", "checkpoint_every")  # nothing in the result hangs on these


class RunInterruptedError(RsdataError):
    """The run was told to stop, and has saved what `--resume` needs."""

    exit_code = 3


@dataclass(frozen=True)
class Config:
    """Options of a run. None stands for a default that depends on others; `resolved` fills it in.

    lr: peak learning rate; 4e-5 with pretrained weights, 5e-4 without. wd: weight decay.
    warmup: steps of linear warm-up, a twentieth of all. precision: bf16 on CUDA, fp32 elsewhere.
    split: splits to read, "train" where a table has it, else all. device: CUDA where there is one.
    """

    model: str = "ViT-B-32"
    pretrained: str | None = None
    split: tuple[str, ...] = ()
    augment: str = "remoteclip"
    epochs: int = 10
    batch_size: int = 256
    lr: float | None = None
    wd: float = 0.05
    warmup: int | None = None
    precision: str | None = None
    seed: int = 0
    workers: int = 0
    device: str | None = None
    log_every: int = 10
    checkpoint_every: int = 1000


def train(sources: Sequence[Path], run: Path, config: Config, resume: bool = False) -> dict[str, Any]:
    """Train on the tables `sources` and leave the model in the folder `run`.

    Returns steps, images (seen by this call), loss (of the last step), images_per_second and what was left
    out: without_image, without_captions (rows) and unreadable (image ids).
    Raises RsdataError on tables or weights that do not serve, where no image can be decoded, on a loss that
    is not finite, and, with `resume`, on a run that was started with other options or on other tables;
    RunInterruptedError on SIGINT or SIGTERM.
    """
    saved = _saved_state(run, resume)
    corpus = [(table, data.splits_of(table, config.split, "train")) for table in sources]
    torch.manual_seed(config.seed)
    clip = model.create(config.model, config.pretrained)
    rows = _open_rows(corpus, run, clip, config)
    config = resolved(config, config.epochs * data.steps_in_epoch(len(rows), config.batch_size))
    clip.model.to(torch.device(str(config.device))).train()
    optimizer = build_optimizer(clip.model, config)
    state = {"step": 0, "unreadable": [], "config": asdict(config), "tables": data.fingerprint(corpus)}
    if saved:
        _restore(saved, state, clip.model, optimizer)
    _describe(run, config, corpus, rows)
    summary = fit(clip, optimizer, rows, run, config, state)
    model.save(run, clip)
    shutil.rmtree(run / "cache")
    return summary


def fit(
    clip: Clip,
    optimizer: torch.optim.Optimizer,
    rows: ImageCaptions,
    run: Path,
    config: Config,
    state: dict[str, Any],
) -> dict[str, Any]:
    """The loop: from step `state["step"]` to the last, saving `state` on the way; the rest as `train`."""
    per_epoch = data.steps_in_epoch(len(rows), config.batch_size)
    start, total = state["step"], config.epochs * per_epoch
    device = torch.device(str(config.device))
    tokenise = partial(
        model.tokenise, tokenizer=clip.tokenizer, trim=model.text_prefix(clip.model) is not None
    )
    loader = data.loader(
        rows, tokenise, config.batch_size, start, total, config.workers, device.type == "cuda"
    )
    seen, loss, began = 0, None, time.perf_counter()
    with stop_on_signal() as stopped, Log(run / "metrics.jsonl", start, total) as log:
        for step, batch in enumerate(loader, start + 1):
            torch.manual_seed(mix(config.seed, "step", step))  # dropout too is a function of the step
            rate = learning_rate(step, total, config)
            step_loss = train_step(clip.model, optimizer, batch.to(device), rate, config)
            loss = loss if step_loss is None else step_loss
            seen += len(batch.images)
            state.update(step=step, unreadable=sorted({*state["unreadable"], *batch.unreadable}))
            epoch_ends = step % per_epoch == 0
            saves = epoch_ends or step % config.checkpoint_every == 0 or bool(stopped)
            if loss is not None and (saves or step % config.log_every == 0):
                log.write(step, step / per_epoch, float(loss), rate, logit_scale(clip.model), seen)
            if saves:
                _save_state(run, state, clip.model, optimizer)
            if epoch_ends:
                model.save(run, clip)
            log.bar.update()
            if stopped and step < total:
                raise RunInterruptedError(f"{run}: stopped after step {step} of {total}; go on with --resume")
    if not seen and start < total:
        raise RsdataError(f"nothing was learnt: none of the {len(rows)} images could be decoded")
    return {
        "steps": total,
        "images": seen,
        "loss": None if loss is None else float(loss),
        "images_per_second": seen / (time.perf_counter() - began),
        "without_image": rows.without_image,
        "without_captions": rows.without_captions,
        "unreadable": state["unreadable"],
    }


def train_step(
    clip: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, rate: float, config: Config
) -> torch.Tensor | None:
    """One update; the InfoNCE loss of the batch (float32 scalar), or None where no image could be read."""
    if not len(batch.images):
        return None
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        images, texts = model.encode_image(clip, batch.images), model.encode_text(clip, batch.tokens)
    scale: Any = clip.logit_scale
    loss: torch.Tensor = open_clip.ClipLoss()(images.float(), texts.float(), scale.exp())
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        scale.clamp_(0, MAX_LOGIT_SCALE)
    return loss.detach()


def logit_scale(clip: torch.nn.Module) -> float:
    """The factor on the cosine similarities, at most 100."""
    scale: Any = clip.logit_scale
    return float(scale.detach().exp())


def resolved(config: Config, total: int) -> Config:
    """`config` with each None that stands for a default replaced by it, for a run of `total` steps."""
    device = str(model.device(config.device))
    lr = LR_FINE_TUNE if config.pretrained or config.model.startswith("local-dir:") else LR_FROM_SCRATCH
    return replace(
        config,
        device=device,
        lr=lr if config.lr is None else config.lr,
        warmup=total // 20 if config.warmup is None else config.warmup,
        precision=config.precision or ("bf16" if device.startswith("cuda") else "fp32"),
    )


def learning_rate(step: int, total: int, config: Config) -> float:
    """Rate of the 1-based `step`: linear over the warm-up, then half a cosine down towards zero."""
    peak, warmup = config.lr or 0.0, config.warmup or 0
    if step <= warmup:
        return peak * step / warmup
    done = (step - 1 - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def build_optimizer(clip: torch.nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW with open_clip's rule: no decay of vectors and scalars, norms, biases and the logit scale."""

    def spared(name: str, parameter: torch.nn.Parameter) -> bool:
        return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    named = [(name, parameter) for name, parameter in clip.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for n, p in named if spared(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not spared(n, p)], "weight_decay": config.wd},
    ]
    fused = str(config.device).startswith(("cuda", "cpu"))
    return torch.optim.AdamW(groups, lr=config.lr or 0.0, betas=BETAS, eps=EPSILON, fused=fused)


def _open_rows(corpus: Corpus, run: Path, clip: Clip, config: Config) -> ImageCaptions:
    copy = run / "cache" / f"{data.fingerprint(corpus)[:16]}.arrow"
    if not copy.exists():
        data.copy_columns([file for table, splits in corpus for file in tables.shards(table, splits)], copy)
    transform = clip.transform_eval if config.augment == "none" else clip.transform_train
    rows = ImageCaptions(copy, transform, config.augment, config.seed)
    if not len(rows):
        named = ", ".join(str(table) for table, _ in corpus)
        raise TableError(
            f"{named}: nothing to train on: {rows.without_image} rows have no image bytes, "
            f"{rows.without_captions} have no caption"
        )
    return rows


def _saved_state(run: Path, resume: bool) -> dict[str, Any] | None:
    path = run / "checkpoint.pt"
    if not path.exists():
        return None
    if not resume:
        raise RsdataError(f"{run}: already holds a run; go on with --resume, or name another folder")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch errors share no ancestor
        raise RsdataError(f"{path}: cannot be read: {error}") from error
    return state


def _save_state(
    run: Path, state: dict[str, Any], clip: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    whole = {**state, "state_dict": clip.state_dict(), "optimizer": optimizer.state_dict()}
    with replacing(run / "checkpoint.pt") as path:
        torch.save(whole, path)


def _restore(
    saved: dict[str, Any], state: dict[str, Any], clip: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put `saved` into `state`, model and optimizer, after checking that it is of the same run."""
    if saved["tables"] != state["tables"]:
        raise RsdataError("cannot resume: the tables or splits are not those the run was started with")
    was, now = saved["config"], state["config"]
    differs = [
        f"--{k.replace('_', '-')} was {was.get(k)}"
        for k in now
        if k not in MAY_CHANGE and was.get(k) != now[k]
    ]
    if differs:
        raise RsdataError(f"cannot resume with other options: {', '.join(differs)}")
    clip.load_state_dict(saved["state_dict"])
    optimizer.load_state_dict(saved["optimizer"])
    state.update({key: saved[key] for key in ("step", "unreadable")})


def _describe(run: Path, config: Config, corpus: Corpus, rows: ImageCaptions) -> None:
    described = {
        "config": asdict(config),
        "tables": [
            {"path": str(t), "splits": s, "manifest_sha256": data.manifest_digest(t)} for t, s in corpus
        ],
        "images": len(rows),
        "rows_without_image": rows.without_image,
        "rows_without_captions": rows.without_captions,
        "versions": {name: version(name) for name in ("rsdata", "torch", "open_clip_torch")}
        | {"python": platform.python_version()},
    }
    with replacing(run / "run.json") as path:
        path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


class Log:
    """metrics.jsonl, and the progress bar on stderr where that is a terminal.

    Lines past `start` are of steps that a killed run did after its last checkpoint; they will be done again.
    """

    def __init__(self, path: Path, start: int, total: int) -> None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        with replacing(path) as temporary:
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
            temporary.write_text("".join(kept), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8")
        self.bar = tqdm(total=total, initial=start, file=sys.stderr, disable=None, unit="step")
        self.since, self.seen = time.perf_counter(), 0

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.bar.close()

    def write(self, step: int, epoch: float, loss: float, rate: float, scale: float, seen: int) -> None:
        """Add a line. Raises RsdataError where the loss is not finite, so that no checkpoint follows."""
        if not math.isfinite(loss):
            raise RsdataError(f"the loss is {loss} at step {step}: lower --lr, or use --precision fp32")
        now = time.perf_counter()
        speed = (seen - self.seen) / (now - self.since)
        self.since, self.seen = now, seen
        line = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": loss,
            "lr": rate,
            "logit_scale": scale,
            "images_per_second": round(speed, 1),
        }
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        self.bar.set_postfix(loss=f"{loss:.3f}", images_per_s=f"{speed:.0f}")


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that is no longer empty once SIGINT or SIGTERM has come; a second one acts at once."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        came.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
