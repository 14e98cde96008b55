"""The `rsclip` command: parse, one library call, print. torch and open_clip load inside the bodies."""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from rsclip import config as configs
from rsdata.arguments import Place
from rsdata.errors import RsdataError

TASKS = Path(__file__).parent / "tasks"
NOT_IN_CONFIG = ("tables", "output", "resume", "config", "help")
DEFAULT = configs.Config()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rsdata", prog_name="rsclip")
def main() -> None:
    """Train and evaluate CLIP models on rsdata tables."""


def read_config(context: click.Context, _: click.Parameter, name: str | None) -> str | None:
    """Make the options of a TOML file the defaults, so that the command line wins over them."""
    if name is None:
        return None
    path = configs.path_of(name)
    try:
        options = configs.options(path)
    except FileNotFoundError as error:
        raise click.BadParameter(
            f"{name}: neither a file nor a recipe; there are: {', '.join(configs.names())}"
        ) from error
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {str(p.name) for p in context.command.params if p.name not in NOT_IN_CONFIG}
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1) or sorted(known)
            raise click.BadParameter(f"{path}: no option {key!r}; did you mean {' or '.join(near)}?")
    context.default_map = {**(context.default_map or {}), **options}
    return name


def option(name: str, help: str, **kind: Any) -> Callable[[Any], Any]:
    """An option of `train`, with the default that Config has."""
    field = name.split("/")[0].lstrip("-").replace("-", "_")
    default = getattr(DEFAULT, field)
    shown = default not in (None, (), False)
    return click.option(name, help=help, default=default, show_default=shown, **kind)


AT_LEAST_1 = {"type": click.IntRange(1)}


def one_of(choices: Sequence[str]) -> dict[str, Any]:
    """An option that takes one of these."""
    return {"type": click.Choice(choices)}


@main.command()
@click.argument("tables", nargs=-1, required=True, type=Place())
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option(
    "--config",
    metavar="NAME|FILE",
    is_eager=True,
    callback=read_config,
    help="Training recipe, or a TOML file of these options; the command line wins.",
)
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint, if it has one.")
@option("--model", "rsclip-tiny, a name of open_clip, or local-dir:RUN.")
@option("--pretrained", "Tag of open_clip (openai), or a file of weights.  [default: none]")
@option(
    "--quick-gelu/--no-quick-gelu",
    "Activation that the weights were trained with.  [default: as the tag or the model says]",
)
@option("--image-size", "Pixels of the image tower's input.  [default: the model's]", **AT_LEAST_1)
@option("--freeze", "Tower to leave as it is.", multiple=True, **one_of(configs.TOWERS))
@option("--lora", "Train adapters of this rank in place of the weights.", **AT_LEAST_1)
@option("--split", "Split to read; repeatable.  [default: train, else all]", multiple=True)
@option(
    "--weight",
    "How often a table's images occur in an epoch; once for each table, in order.  [default: 1]",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
)
@option("--captions", "Which of an image's captions an epoch takes.", **one_of(configs.CAPTIONS))
@option("--positives", "Captions an image in a batch, all of them its positives.", **AT_LEAST_1)
@option(
    "--augment",
    "crop: open_clip's random crop. remoteclip: that, mirrored, turned by 0, 90, 180 or 270 degrees.",
    **one_of(configs.AUGMENTATIONS),
)
@option("--resize", "pil: as open_clip resizes, slower.", **one_of(configs.RESIZES))
@option("--cache", "Folder for local copies of the tables, kept.  [default: in OUTPUT, removed]")
@option(
    "--cache-edge", "Shorter side of the images in the copy, in pixels.  [default: as they are]", **AT_LEAST_1
)
@option("--stream", "Read row groups as they are needed, and make no copy.", is_flag=True)
@option("--epochs", "Passes over the data.", **AT_LEAST_1)
@option("--steps", "Steps in all, in place of --epochs.", **AT_LEAST_1)
@option("--batch-size", "Pairs in a step, over all processes.", type=click.IntRange(2))
@option(
    "--micro-batch", "Pairs of a process in memory at once; the same result.  [default: all]", **AT_LEAST_1
)
@option(
    "--lr",
    "Peak learning rate.  [default: 4e-5 with pretrained weights, else 5e-4]",
    type=click.FloatRange(0, min_open=True),
)
@option(
    "--layer-decay",
    "Factor on the learning rate for each layer further down.",
    type=click.FloatRange(0, 1, min_open=True),
)
@option("--wd", "Weight decay.", type=click.FloatRange(0))
@option("--warmup", "Steps of warm-up.  [default: a twentieth of all]", type=click.IntRange(0))
@option(
    "--ema",
    "Keep a moving average of the weights with this decay.",
    type=click.FloatRange(0, 1, max_open=True),
)
@option("--loss", "Contrastive loss.", **one_of(configs.LOSSES))
@option(
    "--negatives",
    "What captions of other images are: all false; not those that are equal; nor those of images with the "
    "same classes and counts.",
    **one_of(configs.NEGATIVES),
)
@option("--hard-negatives", "False captions an image, made from its own.", type=click.IntRange(0, 3))
@option("--precision", "[default: bf16 on CUDA, else fp32]", **one_of(configs.PRECISIONS))
@option("--trim/--no-trim", "Cut texts to the longest of the batch, where that changes nothing.")
@option("--compile", "Compile the towers (torch.compile).", is_flag=True)
@option("--grad-checkpointing", "Less memory, a third slower.", is_flag=True)
@option("--eval", "Table to score retrieval on while training; repeatable.", multiple=True)
@option("--eval-split", "Its split.  [default: val, else test, else all]", multiple=True)
@option("--eval-every", "Steps between evaluations.  [default: an epoch]", **AT_LEAST_1)
@option("--seed", "Of weights, order, captions and crops.", type=int)
@option("--workers", "Loader processes.", type=click.IntRange(0))
@option("--device", "cpu, cuda, cuda:1 …  [default: cuda where there is one]")
@option("--log-every", "Steps a log line.", **AT_LEAST_1)
@option("--checkpoint-every", "Steps between checkpoints; the end is one too.", **AT_LEAST_1)
def train(tables: tuple[Path, ...], output: Path, config: str | None, resume: bool, **options: Any) -> None:
    """Train a CLIP model on TABLES.

    OUTPUT becomes a folder that plain open_clip opens as local-dir:OUTPUT. A run that was interrupted (exit
    code 3) or killed goes on with --resume, to the bit as if it had not stopped. On several GPUs:
    torchrun --nproc-per-node 8 -m rsclip train …

    \b
    Example:
      rsclip train dior/ -o runs/dior --model ViT-B-32 --pretrained openai --epochs 5
    """
    with errors():
        from rsclip import train as trainer

        done = trainer.train(tables, output, configs.Config(**options), resume)
        if int(os.environ.get("RANK", "0")):
            return
        _warn_left_out(done["without_image"], done["without_captions"], done["unreadable"])
        if not done["images"]:
            click.echo(f"{output}: all {done['steps']} steps were done already")
        else:
            speed, loss = done["images_per_second"], done["loss"]
            click.echo(f"{output}: step {done['steps']}, {speed:.0f} images/s, loss {loss:.3f}")
        if best := done["best"]:
            click.echo(f"{output / 'best'}: step {best['step']}, mean recall {best['mean_recall']:.2f}")


@main.command("wise-ft")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of what was learnt: 0 is the model before, 1 the one after.",
)
def wise_ft(run: Path, output: Path, alpha: float) -> None:
    """Blend the model of RUN with the weights that it started from (WiSE-FT).

    What fine-tuning gains on its own data it loses elsewhere; a blend often has most of both.

    \b
    Example:
      rsclip wise-ft runs/dior -o runs/dior-half --alpha 0.5
    """
    with errors():
        from rsclip import blend

        blend.wise_ft(run, output, alpha)
        click.echo(f"{output}: {alpha:g} of {run}, {1 - alpha:g} of what it started from")


def task_names() -> list[str]:
    """The tasks there are: the files of rsclip/tasks."""
    return sorted(path.stem.replace("_", "-") for path in TASKS.glob("[!_]*.py"))


def task_module(name: str) -> Any:
    """The module of a task. It loads neither torch nor open_clip."""
    return importlib.import_module(f"rsclip.tasks.{name.replace('-', '_')}")


def model_options(several: bool = False) -> list[click.Option]:
    """The options that name a model and how it is run."""
    many = " Repeatable: side by side." if several else ""
    of_each = " Once for all, or once each in their order." if several else ""
    return [
        click.Option(
            ["--checkpoint"],
            required=True,
            multiple=several,
            help=f"Folder of a run, file of weights, or tag of open_clip.{many}",
        ),
        click.Option(["--model"], multiple=several, help=f"Model that a file or a tag belongs to.{of_each}"),
        click.Option(
            ["--quick-gelu/--no-quick-gelu"],
            default=None,
            help="Activation that the weights were trained with.  [default: as the tag or the model says]",
        ),
        click.Option(
            ["--batch-size"], type=click.IntRange(1), default=64, show_default=True, help="Images at once."
        ),
        click.Option(
            ["--workers", "threads"],
            type=click.IntRange(1),
            default=os.cpu_count() or 1,
            help="Threads that decode images.  [default: the machine's cores]",
        ),
        click.Option(["--device"], help="cpu, cuda, cuda:1 …  [default: cuda where there is one]"),
        click.Option(
            ["--cache"],
            type=click.Path(path_type=Path),
            help="Folder for features, so that no image is embedded twice.  [default: ~/.cache/rsclip]",
        ),
        click.Option(["--no-cache"], is_flag=True, help="Keep no features."),
    ]


JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object.")
SPLIT = click.Option(["--split"], multiple=True, help="Split to read; repeatable.  [default: test, else all]")


def data_option(help: str) -> click.Option:
    """The option --data."""
    return click.Option(["--data", "tables"], multiple=True, required=True, type=Place(), help=help)


class Tasks(click.Group):
    """One command a file of rsclip/tasks, with the options that it declares."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The tasks, and what is registered beside them."""
        return [*task_names(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a task."""
        if name not in task_names():
            return super().get_command(ctx, name)
        module = task_module(name)
        own = [each.name for each in module.OPTIONS]
        return click.Command(
            name,
            callback=functools.partial(evaluate, name, own),
            params=[
                *model_options(),
                data_option("Table to evaluate on; repeatable, all are one."),
                SPLIT,
                *module.OPTIONS,
                JSON,
            ],
            help=f"{module.__doc__}\n\n\b\nExample:\n  {module.EXAMPLE}",
            short_help=module.__doc__.partition(":")[0],
        )

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Refuse a task that no file of rsclip/tasks has, with what there is."""
        name = click.utils.make_str(args[0])
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise click.UsageError(f"no task {name!r}; there are: {', '.join(self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


@main.group("eval", cls=Tasks)
def tasks() -> None:
    """Evaluate a model by one of the tasks, or by all."""


def evaluate(
    task: str,
    own: Sequence[str],
    tables: tuple[Path, ...],
    split: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Run one task, print its table or JSON on stdout and its notes on stderr. own: the task's options."""
    module = task_module(task)
    chosen = {name: options.pop(name) for name in own}
    checkpoint, model = options.pop("checkpoint"), options.pop("model")
    _check_named(checkpoint, model)
    with errors():
        from rsclip import guard

        encoder = encoder_of(checkpoint, model, **options)
        result = module.run(encoder, tables, split, **chosen)
        for table in tables:
            result["notes"] += guard.warnings(Path(checkpoint), table, split)
        _warn(result["notes"])
        named = {"task": task, "checkpoint": checkpoint, "data": [str(table) for table in tables]}
        click.echo(json.dumps({**named, **result}) if as_json else module.table(result))


@tasks.command("all")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the report.")
@click.option(
    "--data",
    "roots",
    multiple=True,
    required=True,
    type=Place(),
    help="Folder of tables, or one; repeatable.",
)
@click.option(
    "--task", "wanted", multiple=True, type=click.Choice(task_names()), help="Only these; repeatable."
)
@click.option("--split", multiple=True, help="Split to score; repeatable.  [default: test, else all]")
@click.option("--json", "as_json", is_flag=True, help="Print scores.json.")
def evaluate_all(
    checkpoint: tuple[str, ...],
    model: tuple[str, ...],
    output: Path,
    roots: tuple[Path, ...],
    wanted: tuple[str, ...],
    split: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Run every task on every table under --data that has what it takes.

    OUTPUT gets scores.json, tables as Markdown and LaTeX with the published figures of CLIP, RemoteCLIP and
    GeoRSCLIP beside, and plots.

    \b
    Example:
      rsclip eval all --checkpoint runs/one --checkpoint runs/two --data tables/ -o scores
    """
    models = _models(checkpoint, model)
    with errors():
        from rsclip import evaluate as evaluation

        opened = [
            (path, name, functools.partial(encoder_of, path, name, **options))
            for path, name in zip(checkpoint, models, strict=True)
        ]
        modules = {name: task_module(name) for name in wanted or task_names()}
        scores = evaluation.all_tasks(modules, opened, roots, output, split)
        for item in scores["skipped"]:
            click.echo(f"Warning: {item['data']}: {item['task'] or 'skipped'}: {item['why']}", err=True)
        click.echo(json.dumps(scores) if as_json else (output / "scores.md").read_text(encoding="utf-8"))


evaluate_all.params[:0] = model_options(several=True)


def _models(checkpoints: Sequence[str], models: Sequence[str]) -> list[str | None]:
    """The model of each checkpoint: one name for all, or one for each that is no folder of a run."""
    files = [each for each in checkpoints if not Path(each).is_dir()]
    if len(models) not in (len(files), 1):
        raise click.UsageError(
            f"{len(files)} checkpoints are no folders of runs ({', '.join(files)}): give --model once, "
            "or once each"
        )
    left = iter(models if len(models) == len(files) else [*models] * len(files))
    return [None if Path(each).is_dir() else next(left) for each in checkpoints]


ALL_SPLITS = click.Option(["--split"], multiple=True, help="Split to read; repeatable.  [default: all]")


@main.command()
@click.argument("tables", nargs=-1, required=True, type=Place())
@click.argument("query")
@click.option("-n", "limit", type=click.IntRange(1), default=20, show_default=True, help="Images to find.")
@click.option("-o", "--output", "sheet", type=click.Path(path_type=Path), help="Contact sheet: PNG or JPEG.")
def search(
    tables: tuple[Path, ...],
    query: str,
    limit: int,
    sheet: Path | None,
    checkpoint: str,
    model: str | None,
    split: tuple[str, ...],
    **options: Any,
) -> None:
    """Find the images of TABLES that fit the sentence QUERY best.

    Prints a line an image, best first: cosine similarity and id.

    \b
    Example:
      rsclip search tables/dior "a busy airport with many airplanes" --checkpoint runs/dior -o airports.png
    """
    _check_named(checkpoint, model)
    with errors():
        from rsclip import search as searching

        encoder = encoder_of(checkpoint, model, **options)
        found = searching.search(encoder, tables, query, limit, split, sheet)
        _warn(found.notes)
        for hit in found.hits:
            click.echo(f"{hit.score:.4f}\t{hit.image_id}")


search.params += [*model_options(), ALL_SPLITS]


@main.command()
@click.argument("tables", nargs=-1, required=True, type=Place())
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--index", is_flag=True, help="Also write a faiss index (needs faiss-cpu).")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier call wrote.")
def embed(
    tables: tuple[Path, ...],
    output: Path,
    index: bool,
    overwrite: bool,
    checkpoint: str,
    model: str | None,
    split: tuple[str, ...],
    **options: Any,
) -> None:
    """Write the features of the images of TABLES as Parquet, a column `embedding`; image_id joins them back.

    \b
    Example:
      rsclip embed tables/dior --checkpoint runs/dior -o embedded/dior --index
    """
    _check_named(checkpoint, model)
    with errors():
        from rsclip import search as searching

        encoder = encoder_of(checkpoint, model, **options)
        found = searching.embed(encoder, tables, output, split, index, overwrite)
        _warn(found.notes)
        click.echo(f"{output}: {found.rows:,} images in {', '.join(found.files)}")


embed.params += [*model_options(), ALL_SPLITS]


@main.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("text")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="PNG to write.")
@click.option(
    "--grid", type=click.IntRange(1), default=64, show_default=True, help="Patches across, and down."
)
@click.option(
    "--prompt", default="a {}", show_default=True, help="Sentence around TEXT, which stands for {}."
)
def heatmap(
    image: Path,
    text: str,
    output: Path,
    grid: int,
    prompt: str,
    checkpoint: str,
    model: str | None,
    **options: Any,
) -> None:
    """Draw where in the large image file IMAGE the class TEXT fits, patch by patch.

    \b
    Example:
      rsclip heatmap airport.jpg airplane --checkpoint runs/dior -o airplanes.png
    """
    _check_named(checkpoint, model)
    with errors():
        from rsclip import heatmap as heatmaps

        scores = heatmaps.heatmap(encoder_of(checkpoint, model, **options), image, text, output, grid, prompt)
        click.echo(f"{output}: cosine similarity {scores.min():.3f} to {scores.max():.3f}")


heatmap.params += model_options()


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"Warning: {note}", err=True)


def encoder_of(
    checkpoint: str,
    model: str | None,
    quick_gelu: bool | None,
    cache: Path | None,
    no_cache: bool,
    **options: Any,
) -> Any:
    """The Encoder of a checkpoint."""
    from rsclip import encode
    from rsclip import model as models

    kept = None if no_cache else cache or encode.default_cache()
    return encode.Encoder(models.load(checkpoint, model, quick_gelu), **options, cache=kept)


def _check_named(checkpoint: str, model: str | None) -> None:
    if model is None and not Path(checkpoint).is_dir():
        raise click.UsageError(f"--checkpoint {checkpoint} is no folder of a run: add --model NAME")


@contextmanager
def errors() -> Iterator[None]:
    """What a user can cause ends with one line on stderr and its exit code, not with a traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "open_clip", "safetensors", "torchvision"):
            raise
        raise click.ClickException("rsclip needs the train extra: pip install 'rsdata[train]'") from error
    except BrokenPipeError:  # the reader of stdout has seen enough: click ends in silence
        raise
    except (RsdataError, OSError) as error:
        rank = os.environ.get("RANK", "0")
        click.echo(f"Error: {f'[rank {rank}] ' if rank != '0' else ''}{error}", err=True)
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
