"""The folder of a run, from which it can go on, be watched, and be used.

config.toml                  the options as resolved; `--config` takes it
run.json                     tables with their digests, counts, versions
metrics.jsonl                a line every `log_every` steps and at each evaluation
tensorboard/  curves.png     the same, to look at
checkpoint.pt                latest state: weights, optimizer, step; `--resume` goes on from it
best/                        the model with the best score so far, where there is an evaluation
open_clip_config.json        } the model at the end of the run as open_clip's "local-dir:" opens it,
open_clip_model.safetensors  } and its card
README.md                    }
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rsclip import config as configs
from rsclip import model, store
from rsclip.config import MAY_CHANGE, Config
from rsclip.model import Clip
from rsclip.store import Source, replacing
from rsdata import tables
from rsdata.errors import RsdataError

CHECKPOINT, METRICS, CONFIG, ABOUT, CURVES, CARD = (
    "checkpoint.pt",
    "metrics.jsonl",
    "config.toml",
    "run.json",
    "curves.png",
    "README.md",
)
BEST = "best"


def saved_state(run: Path, resume: bool) -> dict[str, Any] | None:
    """The state that a run can go on from, None where it starts.

    Raises RsdataError where there is one and not `resume`, and where it cannot be read.
    """
    path = run / CHECKPOINT
    if not path.exists():
        return None
    if not resume:
        raise RsdataError(f"{run}: already holds a run; go on with --resume, or name another folder")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch errors share no ancestor
        raise RsdataError(f"{path}: cannot be read: {error}") from error
    return state


def save_state(run: Path, state: Mapping[str, Any]) -> None:
    """Replace the run's checkpoint in one step; once this returns, a power cut does not undo it."""
    with replacing(run / CHECKPOINT) as path, path.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())


def check_same(saved: Mapping[str, Any], config: Config, tables_digest: str) -> None:
    """Raise RsdataError where a saved state is of other tables or options."""
    if saved["tables"] != tables_digest:
        raise RsdataError("cannot resume: the tables or splits are not those the run was started with")
    was, now = saved["config"], asdict(config)
    differs = [
        f"--{name.replace('_', '-')} was {was.get(name)}"
        for name in now
        if name not in MAY_CHANGE and was.get(name) != now[name]
    ]
    if differs:
        raise RsdataError(f"cannot resume with other options: {', '.join(differs)}")


def describe(
    run: Path, config: Config, sources: Sequence[Source], counts: Mapping[str, int]
) -> dict[str, Any]:
    """Write the options, and what the run is made of; returns the latter."""
    about = {
        "tables": [
            {
                "path": str(source.table),
                "datasets": sorted(tables.manifest(source.table).get("datasets", {})),
                "splits": list(source.splits),
                "manifest_sha256": store.manifest_digest(source.table),
            }
            for source in sources
        ],
        **counts,
        "versions": versions(),
    }
    with replacing(run / ABOUT) as path:
        path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    with replacing(run / CONFIG) as path:
        path.write_text(configs.stored(config), encoding="utf-8")
    return about


def versions() -> dict[str, str]:
    """Of what a run or a score hangs on."""
    held = {name: version(name) for name in ("rsdata", "torch", "open_clip_torch")}
    return {**held, "python": platform.python_version()}


def save_model(
    folder: Path,
    clip: Clip,
    config: Config,
    about: Mapping[str, Any],
    scores: Mapping[str, Any] | None,
    note: str = "",
) -> None:
    """Write a model as plain open_clip opens it, with its card; `note` is said on the card."""
    model.save(folder, clip)
    with replacing(folder / CARD) as path:
        path.write_text(card(folder.absolute(), config, about, scores, note), encoding="utf-8")


def card(
    folder: Path, config: Config, about: Mapping[str, Any], scores: Mapping[str, Any] | None, note: str
) -> str:
    """The model card: what it was made of, how, how it scored, how to open it (Hugging Face front matter)."""
    start = config.pretrained or (config.model if config.model.startswith("local-dir:") else "random weights")
    name = folder.parent.name if folder.name == BEST else folder.name
    made = [
        f"| {each['path']} | {', '.join(each['datasets'])} | {', '.join(each['splits'])} "
        f"| `{each['manifest_sha256']}` |"
        for each in about["tables"]
    ]
    scored = []
    if scores:
        scored += [
            "",
            f"## Scores after step {scores['step']}",
            "",
            "| table | mean recall | chance |",
            "|---|---|---|",
        ]
        for table, result in scores["scores"].items():
            scored.append(f"| {table} | {result['mean_recall']:.2f} | {result['chance_mean_recall']:.2f} |")
    return "\n".join(
        [
            "---",
            "library_name: open_clip",
            "pipeline_tag: zero-shot-image-classification",
            "license: other",
            "tags: [clip, remote-sensing, vision-language]",
            "---",
            "",
            f"# {name}",
            "",
            f"{config.model}, trained from {start} by rsclip {about['versions']['rsdata']} "
            f"on {about['images']:,} images. The licences are those of the datasets.",
            note,
            "",
            "```python",
            "import open_clip",
            "",
            f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder.name}")',
            f'tokenizer = open_clip.get_tokenizer("local-dir:{folder.name}")',
            "```",
            *scored,
            "",
            "## Tables",
            "",
            "| table | datasets | splits | SHA-256 of its manifest |",
            "|---|---|---|---|",
            *made,
            "",
            "## Options",
            "",
            "```toml",
            configs.stored(config).rstrip(),
            "```",
            "",
        ]
    )


class Log:
    """metrics.jsonl, TensorBoard, and the progress on stderr: a bar where that is a terminal, else lines.

    Lines past `start` are of steps that a killed run did after its last checkpoint; they will be done again.
    """

    def __init__(self, run: Path, start: int, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.total = run, total
        path = run / METRICS
        kept = [line for line in lines_of(path) if line["step"] <= start]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8")
        self.board = SummaryWriter(run / "tensorboard", purge_step=start + 1)
        self.bar = tqdm(total=total, initial=start, file=sys.stderr, disable=None, unit="step")
        self.since, self.seen, self.waited = time.perf_counter(), 0, 0.0
        self.told = self.since

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()
        self.bar.close()

    def write(
        self, step: int, epoch: float, loss: float, rate: float, scale: float, seen: int, waited: float
    ) -> None:
        """Add a line. seen: images of all ranks so far; waited: seconds spent so far waiting for data."""
        now = time.perf_counter()
        speed = (seen - self.seen) / (now - self.since)
        share = (waited - self.waited) / (now - self.since)
        self.since, self.seen, self.waited = now, seen, waited
        line = {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": loss,
            "lr": rate,
            "logit_scale": scale,
            "images_per_second": round(speed, 1),
            "data_wait": round(share, 3),
        }
        self._line(line)
        for name in ("loss", "lr", "logit_scale", "images_per_second", "data_wait"):
            self.board.add_scalar(f"train/{name}", line[name], step)
        shown = f"loss {loss:.3f}, {speed:.0f} images/s, {100 * share:.0f} % waiting for data"
        self.bar.set_postfix_str(shown)
        if self.bar.disable and (now - self.told > 30 or step == self.total):
            self.told = now
            print(f"step {step} of {self.total}: {shown}", file=sys.stderr, flush=True)

    def evaluated(self, step: int, scores: Mapping[str, Mapping[str, float]], seconds: float) -> None:
        """Add a line with the scores of each table; `seconds` it took do not count as training."""
        self._line({"step": step, "scores": scores})
        for table, result in scores.items():
            self.board.add_scalar(f"eval/{table}", result["mean_recall"], step)
        told = ", ".join(f"{table} {result['mean_recall']:.2f}" for table, result in scores.items())
        self.bar.write(f"step {step} of {self.total}: mean recall {told}", file=sys.stderr)
        self.since += seconds

    def draw(self) -> None:
        """Write the curves anew."""
        self.board.flush()
        with replacing(self.run / CURVES) as path:
            curves(lines_of(self.run / METRICS), path)

    def _line(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, but for one that a power cut left torn."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def curves(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss, learning rate, speed and scores over steps as a PNG."""
    from matplotlib.figure import Figure

    steps = [line for line in lines if "loss" in line]
    scored = [line for line in lines if "scores" in line]
    panels = [("loss", "loss"), ("lr", "learning rate"), ("images_per_second", "images/s")]
    figure = Figure(figsize=(4 * (len(panels) + bool(scored)), 3), layout="constrained")
    axes = figure.subplots(1, len(panels) + bool(scored))
    for axis, (name, title) in zip(axes, panels, strict=False):
        axis.plot([line["step"] for line in steps], [line[name] for line in steps], linewidth=1)
        axis.set(title=title, xlabel="step")
    for table in scored[0]["scores"] if scored else ():
        points = [
            (line["step"], line["scores"][table]["mean_recall"]) for line in scored if table in line["scores"]
        ]
        axes[-1].plot(*zip(*points, strict=True), marker=".", label=table)
        axes[-1].set(title="mean recall", xlabel="step")
        axes[-1].legend()
    figure.savefig(path, format="png", dpi=110)


def check_finite(loss: float, step: int) -> None:
    """Raise RsdataError where the loss is not finite, so that no checkpoint follows."""
    if not math.isfinite(loss):
        raise RsdataError(f"the loss is {loss} at step {step}: lower --lr, or use --precision fp32")
