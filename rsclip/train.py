"""A training run: tables in, a folder with a model out (RemoteCLIP, section IV-A; see `rsclip.run`).

What a step does to the model depends on (options, tables, step) alone. So a run that was stopped or killed
goes on as if it had not been, on as many processes as there now are.
"""

from __future__ import annotations

import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from rsclip import adapt, data, guard, model, ranks, run, store, stream
from rsclip.config import LR_FINE_TUNE, LR_FROM_SCRATCH, Config
from rsclip.data import Draw, Order, Pairs
from rsclip.encode import Encoder
from rsclip.model import Clip
from rsclip.pixels import Pixels, mix
from rsclip.run import Log
from rsclip.step import Trainer
from rsclip.store import Source, Store
from rsclip.tasks import retrieval
from rsdata import places
from rsdata.errors import RsdataError, TableError


class RunInterruptedError(RsdataError):
    """The run was told to stop, and has saved what `--resume` needs."""

    exit_code = 3


def train(tables: Sequence[Path], folder: Path, config: Config, resume: bool = False) -> dict[str, Any]:
    """Train on tables and leave the model in `folder`. Under torchrun all its processes call this.

    Returns steps, images (seen by this call), loss (of the last step), images_per_second, data_wait (share of
    the time), and what was left out: without_image, without_captions (rows) and unreadable (image ids).
    Raises RsdataError on tables, weights or options that do not serve, where no image can be decoded, on a
    loss that is not finite, and, with `resume`, on a run that was started with other options or on other
    tables; RunInterruptedError on SIGINT or SIGTERM.
    """
    device = model.device(config.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", ranks.local_rank())
    with ranks.together(device):
        return _train(tables, folder, replace(config, device=str(device)), resume)


def _train(tables: Sequence[Path], folder: Path, config: Config, resume: bool) -> dict[str, Any]:
    check(config, len(tables))
    saved = run.saved_state(folder, resume)
    sources = [Source(table, store.splits_of(table, config.split, "train")) for table in tables]
    judges = [
        Source(table, store.splits_of(table, config.eval_split, "val", "test"))
        for table in map(places.place, config.eval)
    ]
    torch.manual_seed(config.seed)
    clip = prepared(config)
    batches = Local(sources, folder, clip, config) if not config.stream else Streamed(sources, clip, config)
    config = resolved(config, batches.steps)
    digest = "-".join(source.fingerprint() for source in sources)
    state: dict[str, Any] = {
        "step": 0,
        "lost": {},
        "best": None,
        "scores": None,
        "config": asdict(config),
        "tables": digest,
    }
    trainer = Trainer(clip, config)
    if saved:
        run.check_same(saved, config, digest)
        trainer.restore(saved)
        state.update({key: saved[key] for key in ("step", "lost", "best", "scores")})
    about = run.describe(folder, config, sources, batches.counts) if ranks.rank() == 0 else {}
    if ranks.rank() == 0 and not saved:
        for note in guard.keep(folder, sources):
            print(f"Warning: {note}", file=sys.stderr)
    summary = Loop(trainer, batches, folder, config, state, judges, about).go()
    if ranks.rank() == 0:
        run.save_model(folder, trainer.learnt(), config, about, state["scores"])
        shutil.rmtree(folder / "cache", ignore_errors=True)
    ranks.barrier()
    return summary


def check(config: Config, tables: int) -> None:
    """Raise RsdataError where options exclude each other."""
    wrong = {
        f"--weight is given {len(config.weight)} times for {tables} tables: once a table, in their order": (
            config.weight and len(config.weight) != tables
        ),
        "--captions all takes one caption an item: leave out --positives": (
            config.captions == "all" and config.positives > 1
        ),
        "--stream takes one caption an image: leave out --captions all": (
            config.captions == "all" and config.stream
        ),
        "--freeze image and text leaves nothing to train": {"image", "text"} <= set(config.freeze),
        f"--batch-size {config.batch_size} cannot be shared by {ranks.world()} processes": (
            config.batch_size % ranks.world()
        ),
    }
    for why, holds in wrong.items():
        if holds:
            raise RsdataError(why)


def prepared(config: Config) -> Clip:
    """The model to train: built, frozen and adapted as the options say."""
    clip = built(config)
    if config.grad_checkpointing:
        clip.model.set_grad_checkpointing(True)  # type: ignore[operator]
    adapt.freeze(clip.model, config.freeze)
    if config.lora is not None:
        adapt.add_lora(clip.model, config.lora)
    normed = any(isinstance(module, _BatchNorm) for module in clip.model.modules())
    if config.micro_batch and normed and ranks.rank() == 0:
        told = f"Warning: the batch norms of {config.model} see pieces of {config.micro_batch} pairs"
        print(f"{told} (--micro-batch), which is not quite the whole batch", file=sys.stderr)
    return clip


def built(config: Config) -> Clip:
    """The model that a run starts from, its weights loaded."""
    clip = model.create(config.model, config.pretrained, config.quick_gelu, config.image_size)
    if config.loss == "siglip" and clip.model.logit_bias is None:
        return with_bias(clip, bool(config.pretrained))
    return clip


def with_bias(clip: Clip, pretrained: bool) -> Clip:
    """A model with the bias that the sigmoid loss needs: -10 and a scale of 10 to begin with (Zhai et al.
    2023), or 0 where the weights were trained without one.
    """
    start = 0.0 if pretrained else -10.0
    clip.model.logit_bias = torch.nn.Parameter(torch.full((), start))
    if not pretrained:
        torch.nn.init.constant_(clip.model.logit_scale, math.log(10))  # type: ignore[arg-type]
    return clip._replace(config={**clip.config, "init_logit_bias": start})


def resolved(config: Config, per_epoch: int) -> Config:
    """`config` with each None that stands for a default replaced by it, for an epoch of `per_epoch` steps."""
    total = config.steps or config.epochs * per_epoch
    device = str(config.device)
    lr = LR_FINE_TUNE if config.pretrained or config.model.startswith("local-dir:") else LR_FROM_SCRATCH
    return replace(
        config,
        steps=total,
        lr=lr if config.lr is None else config.lr,
        warmup=total // 20 if config.warmup is None else config.warmup,
        precision=config.precision or ("bf16" if device.startswith("cuda") else "fp32"),
        eval_every=(config.eval_every or per_epoch) if config.eval else None,
    )


def learning_rate(step: int, config: Config) -> float:
    """Rate of the 1-based `step`: linear over the warm-up, then half a cosine down towards zero."""
    peak, warmup, total = config.lr or 0.0, config.warmup or 0, config.steps or 0
    if step <= warmup:
        return peak * step / warmup
    done = (step - 1 - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


class Local:
    """Batches from local copies of the tables, each row at hand."""

    def __init__(self, sources: Sequence[Source], folder: Path, clip: Clip, config: Config) -> None:
        self.clip, self.config = clip, config
        copies = [
            self.copy(source, Path(config.cache) if config.cache else folder / "cache") for source in sources
        ]
        self.store = Store(copies)
        if not len(self.store):
            named = ", ".join(str(source.table) for source in sources)
            raise TableError(
                f"{named}: nothing to train on: {self.store.without_image} rows have no image bytes, "
                f"{self.store.without_captions} have no caption"
            )
        self.pairs = Pairs(self.store, draw(clip, config))
        self.order = Order(self.pairs.parts, config.batch_size, config.weight, config.seed)
        if len(self.order) < ranks.world():
            raise TableError(
                f"{sources[0].table}: an epoch would have {len(self.order)} images: raise --weight"
            )
        self.steps = self.order.steps
        lost = {"without_image": self.store.without_image, "without_captions": self.store.without_captions}
        self.counts = {"images": len(self.store), **lost}

    def copy(self, source: Source, cache: Path) -> Path:
        """The copy of a table, made where it is not there yet by the first process of each machine."""
        config = self.config
        form = f"-{config.cache_edge or 'full'}{'-hard' * bool(config.hard_negatives)}"
        path = cache / f"{source.fingerprint()[:24]}{form}.arrow"
        with ranks.first(ranks.local_rank() == 0):
            if not path.exists():
                store.copy(
                    source, path, config.cache_edge, bool(config.hard_negatives), max(1, config.workers)
                )
        return path

    def between(self, start: int, stop: int) -> Any:
        """This rank's batches of the steps [start, stop)."""
        pin = str(self.config.device).startswith("cuda")
        share = ranks.rank(), ranks.world()
        tokenise = tokeniser(self.clip, self.config)
        return data.loader(self.pairs, tokenise, self.order, start, stop, self.config.workers, pin, *share)


class Streamed:
    """Batches straight from the tables, wherever they lie."""

    def __init__(self, sources: Sequence[Source], clip: Clip, config: Config) -> None:
        self.clip, self.config = clip, config
        self.plan = stream.plan(sources, config.batch_size, config.weight, config.seed, ranks.world())
        self.nouns = [store.nouns_of(source.table) if config.hard_negatives else None for source in sources]
        self.steps = self.plan.steps
        self.counts = {"images": sum(group.rows for group in self.plan.groups)}

    def between(self, start: int, stop: int) -> Any:
        """This rank's batches of the steps [start, stop)."""
        share = ranks.rank(), ranks.world()
        lanes = stream.Lanes(self.plan, draw(self.clip, self.config), self.nouns, start, stop, *share)
        pin = str(self.config.device).startswith("cuda")
        return stream.Stream(lanes, tokeniser(self.clip, self.config), self.config.workers, pin)


def draw(clip: Clip, config: Config) -> Draw:
    """What an epoch makes of a row, by the options."""
    pixels = Pixels(clip.preprocess, config.augment, config.resize)
    return Draw(pixels, config.captions, config.positives, config.hard_negatives, config.seed)


def tokeniser(clip: Clip, config: Config) -> data.Tokenise:
    """Texts to tokens, as long as the longest of them where the tower allows."""
    trim = config.trim and model.text_prefix(clip.model) is not None
    multiple = 8 if config.compile else 1  # few lengths, so that little is compiled anew
    return partial(model.tokenise, tokenizer=clip.tokenizer, trim=trim, multiple=multiple)


class Loop:
    """The loop over steps: from `state["step"]` to the last, saving `state` on the way."""

    def __init__(
        self,
        trainer: Trainer,
        batches: Local | Streamed,
        folder: Path,
        config: Config,
        state: dict[str, Any],
        judges: Sequence[Source],
        about: dict[str, Any],
    ) -> None:
        self.trainer, self.batches, self.folder, self.config = trainer, batches, folder, config
        self.state, self.judges, self.about = state, judges, about
        self.total = int(config.steps or 0)
        self.lost: dict[str, str] = {}

    def go(self) -> dict[str, Any]:
        """Do the steps; the result as `train`."""
        start, config, first = self.state["step"], self.config, ranks.rank() == 0
        device = torch.device(str(config.device))
        seen, waited, loss, began, judged = 0, 0.0, None, time.perf_counter(), 0.0
        self.trainer.clip.model.train()
        batches = iter(self.batches.between(start, self.total))
        with (
            stop_on_signal() as stopped,
            Log(self.folder, start, self.total) if first else nullcontext() as log,
        ):
            for step in range(start + 1, self.total + 1):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                self.lost.update({lost.image_id: lost.reason for lost in batch.lost})
                (pairs,) = ranks.summed([float(batch.marks.valid[:, 0].sum())])
                rate = learning_rate(step, config)
                if pairs:
                    seed = mix(config.seed, "step", step, ranks.rank())
                    loss = self.trainer.step(batch.to(device), rate, seed)
                    self.trainer.follow(step)
                seen += int(pairs)
                self.state["step"] = step
                (stops,) = ranks.summed([float(bool(stopped))])
                ends = step == self.total or bool(stops)
                saves = ends or step % config.checkpoint_every == 0
                evaluates = bool(self.judges) and (step == self.total or step % (config.eval_every or 1) == 0)
                if loss is not None and (saves or evaluates or step % config.log_every == 0):
                    (mean,) = (value / ranks.world() for value in ranks.summed([float(loss)]))
                    run.check_finite(mean, step)
                    if log:
                        epoch, scale = step / self.batches.steps, self.trainer.logit_scale()
                        log.write(step, epoch, mean, rate, scale, seen, waited)
                if evaluates:
                    judged += self.evaluate(step, log)
                if saves:
                    self.save(log)
                if log:
                    log.bar.update()
                if stops and step < self.total:
                    ranks.barrier()  # the first process that ends has torchrun kill the others
                    raise RunInterruptedError(
                        f"{self.folder}: stopped after step {step} of {self.total}; go on with --resume"
                    )
        if not seen and start < self.total:
            raise RsdataError(
                f"nothing was learnt: none of the {self.batches.counts['images']} images could be decoded"
            )
        took = time.perf_counter() - began - judged
        lost = self.state["lost"]
        counted = {reason: sum(why == reason for why in lost.values()) for reason in data.REASONS[1:]}
        return {
            "steps": self.total,
            "images": seen,
            "loss": None if loss is None else float(loss),
            "images_per_second": seen / took,
            "data_wait": waited / took,
            **{reason: count + self.batches.counts.get(reason, 0) for reason, count in counted.items()},
            "unreadable": sorted(image_id for image_id, why in lost.items() if why == "unreadable"),
            "best": self.state["best"],
        }

    def save(self, log: Log | None) -> None:
        """Write the checkpoint and the curves, on rank 0, with what all ranks have lost."""
        for lost in ranks.from_all(self.lost):
            self.state["lost"].update(lost)
        self.lost = {}
        if log:
            run.save_state(self.folder, {**self.state, **self.trainer.state()})
            log.draw()

    def evaluate(self, step: int, log: Log | None) -> float:
        """Score the model on each evaluation table, on rank 0, and keep it where it is the best; seconds."""
        began = time.perf_counter()
        if log:
            clip = self.trainer.learnt()
            scores = {}
            for table, splits in self.judges:
                encoder = Encoder(clip, threads=max(1, self.config.workers), device=self.config.device)
                scores[str(table)] = retrieval.run(encoder, [table], splits)
            self.trainer.clip.model.train()
            mean = sum(result["mean_recall"] for result in scores.values()) / len(scores)
            self.state["scores"] = {"step": step, "mean_recall": mean, "scores": scores}
            best = self.state["best"]
            if best is None or mean > best["mean_recall"]:
                self.state["best"] = self.state["scores"]
                run.save_model(self.folder / run.BEST, clip, self.config, self.about, self.state["best"])
            log.evaluated(step, scores, time.perf_counter() - began)
        self.state["best"] = ranks.from_all(self.state["best"])[0]
        return time.perf_counter() - began


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
