"""The `rsclip` command: parse, one library call, print. torch and open_clip load inside the bodies."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from rsdata.errors import RsdataError

TASKS = Path(__file__).parent / "tasks"
NOT_IN_CONFIG = ("tables", "output", "resume", "config", "help")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rsdata", prog_name="rsclip")
def main() -> None:
    """Train and evaluate CLIP models on rsdata tables."""


def read_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make the options of a TOML file the defaults, so that the command line wins over them."""
    if path is None:
        return None
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {str(p.name) for p in context.command.params if p.name not in NOT_IN_CONFIG}
    options = {key.replace("-", "_"): value for key, value in held.items()}
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1) or sorted(known)
            raise click.BadParameter(f"{path}: no option {key!r}; did you mean {' or '.join(near)}?")
    context.default_map = {**(context.default_map or {}), **options}
    return path


@main.command()
@click.argument("tables", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=read_config,
    help="TOML file of these options; the command line wins.",
)
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint, if it has one.")
@click.option(
    "--model",
    default="ViT-B-32",
    show_default=True,
    help="rsclip-tiny, a name of open_clip, or local-dir:RUN.",
)
@click.option("--pretrained", help="Tag of open_clip (openai), or a file of weights.  [default: none]")
@click.option("--split", multiple=True, help="Split to read; repeatable.  [default: train, else all]")
@click.option(
    "--augment",
    type=click.Choice(["none", "remoteclip"]),
    default="remoteclip",
    show_default=True,
    help="remoteclip: random crop, mirror, turn by 0, 90, 180 or 270 degrees.",
)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(2), default=256, show_default=True, help="Pairs in a step.")
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    help="Peak learning rate.  [default: 4e-5 with pretrained weights, else 5e-4]",
)
@click.option("--wd", type=click.FloatRange(0), default=0.05, show_default=True, help="Weight decay.")
@click.option("--warmup", type=click.IntRange(0), help="Steps of warm-up.  [default: a twentieth of all]")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="[default: bf16 on CUDA, else fp32]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, order, captions and crops.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Loader processes.")
@click.option("--device", help="cpu, cuda, cuda:1 …  [default: cuda where there is one]")
@click.option("--log-every", type=click.IntRange(1), default=10, show_default=True, help="Steps a log line.")
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Steps between checkpoints; each epoch ends with one too.",
)
def train(tables: tuple[Path, ...], output: Path, config: Path | None, resume: bool, **options: Any) -> None:
    """Train a CLIP model on TABLES.

    OUTPUT becomes a folder that plain open_clip opens as local-dir:OUTPUT. A run that was interrupted (exit
    code 3) or killed goes on with --resume, to the bit as if it had not stopped.

    \b
    Example:
      rsclip train dior/ -o runs/dior --model ViT-B-32 --pretrained openai --epochs 5
    """
    with errors():
        from rsclip import train as trainer

        done = trainer.train(tables, output, trainer.Config(**options), resume)
        _warn_left_out(done["without_image"], done["without_captions"], done["unreadable"])
        if not done["images"]:
            click.echo(f"{output}: all {done['steps']} steps were done already")
        else:
            speed, loss = done["images_per_second"], done["loss"]
            click.echo(f"{output}: step {done['steps']}, {speed:.0f} images/s, loss {loss:.3f}")


def task_names() -> list[str]:
    """The tasks there are: the files of rsclip/tasks."""
    return sorted(path.stem.replace("_", "-") for path in TASKS.glob("[!_]*.py"))


def check_task(_: click.Context, __: click.Parameter, name: str) -> str:
    """Refuse a name that no file of rsclip/tasks has."""
    if name not in task_names():
        raise click.BadParameter(f"no task {name!r}; there are: {', '.join(task_names())}")
    return name


@main.command("eval")
@click.argument("task", callback=check_task)
@click.option("--checkpoint", required=True, help="Folder of a run, file of weights, or tag of open_clip.")
@click.option("--model", help="Model that a file or a tag belongs to.")
@click.option(
    "--data",
    "tables",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Table to evaluate on; repeatable, all are one gallery.",
)
@click.option("--split", multiple=True, help="Split to read; repeatable.  [default: test, else all]")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images at once.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Loader threads.")
@click.option("--device", help="cpu, cuda, cuda:1 …  [default: cuda where there is one]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    task: str,
    checkpoint: str,
    model: str | None,
    tables: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate a model by TASK: retrieval.

    \b
    Example:
      rsclip eval retrieval --checkpoint runs/dior --data rsitmd/ --split test --json
    """
    if model is None and not Path(checkpoint).is_dir():
        raise click.UsageError(f"--checkpoint {checkpoint} is no folder of a run: add --model NAME")
    with errors():
        from rsclip import features
        from rsclip import model as models

        module = importlib.import_module(f"rsclip.tasks.{task.replace('-', '_')}")
        found = features.embed(models.load(checkpoint, model), tables, **options)
        _warn_left_out(found.without_image, found.without_captions, found.unreadable)
        result = module.run(found)
        named = {"task": task, "checkpoint": checkpoint, "data": [str(table) for table in tables]}
        click.echo(json.dumps({**named, **result}) if as_json else module.table(result))


@contextmanager
def errors() -> Iterator[None]:
    """What a user can cause ends with one line on stderr and its exit code, not with a traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "open_clip", "safetensors"):
            raise
        raise click.ClickException("rsclip needs the train extra: pip install 'rsdata[train]'") from error
    except BrokenPipeError:  # the reader of stdout has seen enough: click ends in silence
        raise
    except (RsdataError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(getattr(error, "exit_code", 1))


def _warn_left_out(without_image: int, without_captions: int, unreadable: list[str]) -> None:
    if without_image:
        click.echo(f"Warning: {without_image} rows have no image bytes and were left out", err=True)
    if without_captions:
        click.echo(f"Warning: {without_captions} rows have no caption and were left out", err=True)
    if unreadable:
        first = ", ".join(unreadable[:3]) + (", …" if len(unreadable) > 3 else "")
        click.echo(
            f"Warning: {len(unreadable)} images cannot be decoded and were left out: {first}", err=True
        )
