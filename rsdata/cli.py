"""The `rsdata` command: parse, one library call, print. Heavy imports inside the bodies.

stdout is data, stderr is progress and messages. Exit: 0 done; 1 failed, nothing usable, or --strict and a
rejection; 2 wrong usage; 3 stopped before its end, and the same command goes on.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from rsdata.arguments import Place
from rsdata.engine import ENGINES, cores, without_pandas
from rsdata.errors import RecipeError, RsdataError, UnfinishedError
from rsdata.progress import Progress

if TYPE_CHECKING:
    from rsdata.recipes import Recipe
    from rsdata.tiles import Tiling

UNFINISHED = 3
EXAMPLES = 2
"""Rejections shown of each code."""


def _completed(
    *modules: str, more: Sequence[str] = ()
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What a shell offers where a name is due: the names() of these modules, and more; then files."""

    def offer(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        names = [name for module in modules for name in import_module(f"rsdata.{module}").names()]
        found = sorted(name for name in (*names, *more) if name.startswith(begun))
        return [CompletionItem(name) for name in found] or [CompletionItem(begun, type="file")]

    return offer


_FOLDER = Place()
_DUMP = Place(exists=True)
_HERE = Place(local=True)
_captions = click.option(
    "--captions",
    default="remoteclip",
    show_default=True,
    shell_complete=_completed("box_to_caption", more=["none"]),
    help="Caption set: remoteclip, a2c, rich, none; or remotecount, which keeps the images to count on.",
)
_large_count = click.option(
    "--large-count",
    type=click.Choice(["vague", "exact", "mixed"]),
    default="vague",
    show_default=True,
    help='Counts above ten: "many ships", "27 ships", or either.',
)
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn by chance.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace a finished table.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_workers = click.option(
    "--workers", type=click.IntRange(1), help="Processes.  [default: the number of cores]"
)
_log_json = click.option(
    "--log-json", is_flag=True, help="Progress and messages on stderr as JSON, one a line."
)
_recipe = click.option(
    "--recipe",
    shell_complete=_completed("recipes", "corpora"),
    help="A dataset or corpus by name (see `rsdata recipes`), or a TOML file.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rsdata")
def main() -> None:
    """Turn raw remote-sensing annotation dumps into image-caption tables (Parquet), and audit them.

    \b
    Example:
      rsdata sample dota demo/dota
      rsdata convert demo/dota --recipe dota -o demo/table
      rsdata stats demo/table
    """


def run() -> None:
    """The console script."""
    without_pandas()
    main()


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=_DUMP)
@click.option("-o", "--output", "table", type=_FOLDER, help="Folder of the table; not needed with --dry-run.")
@_recipe
@click.option(
    "--format",
    "format_name",
    shell_complete=_completed("formats"),
    help="A grammar (see `rsdata formats`), for private dumps.",
)
@click.option("--name", help="Name of the dataset in the table.  [default: the recipe's or format's]")
@click.option("--images", help="With --format: pattern of the images, such as 'img/*.*'.")
@click.option("--annotations", help="With --format: pattern of the annotations, such as 'lab/*.txt'.")
@click.option(
    "--option", "pairs", multiple=True, metavar="KEY=VALUE", help="Of the reader, such as min_area=10."
)
@click.option("--split", "splits", multiple=True, help="Split to convert; repeatable.  [default: all]")
@click.option(
    "--tile",
    metavar="SIZE[:OVERLAP]",
    help='Cut larger images into windows of SIZE pixels; "none": whole.  [default: the recipe\'s]',
)
@click.option("--visible", type=float, help="Share of an object that a window must show.  [default: 0.5]")
@_captions
@_large_count
@_workers
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="process",
    show_default=True,
    help="Where the work is done: processes here, a Ray cluster, or this process alone.",
)
@click.option("--address", help="Of a running Ray cluster.  [default: Ray on this machine]")
@click.option(
    "--max-edge",
    type=click.IntRange(16),
    metavar="PIXELS",
    help="Store images whose longer side is larger scaled down to it.",
)
@_seed
@click.option("--no-images", is_flag=True, help="Leave the bytes of the images out of the table.")
@click.option("--annotations-only", is_flag=True, help="Open no image: size from the label, no hash.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing, list every rejection.")
@click.option("--strict", is_flag=True, help="Exit with 1 if anything was rejected or dropped.")
@_overwrite
@_log_json
@_json
def convert(
    sources: tuple[Path, ...],
    table: Path | None,
    recipe: str | None,
    format_name: str | None,
    name: str | None,
    images: str | None,
    annotations: str | None,
    pairs: tuple[str, ...],
    tile: str | None,
    visible: float | None,
    strict: bool,
    as_json: bool,
    log_json: bool,
    workers: int | None,
    engine: str,
    address: str | None,
    max_edge: int | None,
    **chosen: Any,
) -> None:
    """Convert raw dumps (SOURCE: folders as their publisher ships them) into one table.

    SOURCE and TABLE may be URLs (s3://, gs://, hf://), SOURCE a zip or tar archive. A run that was stopped
    goes on when the same command is given again.

    Without --recipe and --format the one that fits is found. With the name of a corpus, such as remoteclip,
    SOURCE is the folder that holds its datasets.

    \b
    Example:
      rsdata convert ~/data/DOTA --recipe dota -o tables/dota
      rsdata convert ~/mine --format coco --images 'jpg/**.*' --annotations labels.json -o tables/mine
      rsdata convert ~/data --recipe remoteclip -o tables/remoteclip
    """
    with Progress(log_json) as progress, _errors(progress, "what is done is kept; the same command goes on"):
        from rsdata import box_to_caption, corpora
        from rsdata import convert as flow
        from rsdata.engine import Engine
        from rsdata.shard import Options

        corpus = None
        with _usage():
            if table is None and not chosen["dry_run"]:
                raise RecipeError("name the table to write: -o FOLDER (or --dry-run)")
            if recipe in corpora.names():
                _alone_with_corpus(sources, format_name, name, images, annotations, pairs)
                corpus = corpora.load(recipe)
            else:
                bare = chosen["annotations_only"]
                named = (recipe, format_name, name, images, annotations, pairs)
                found = _chosen_recipe(sources, *named, bare, progress.say)
                found = _tiled(found, tile, visible, max_edge)
                found.check_splits(chosen["splits"])
            if chosen["captions"] != "none":
                box_to_caption.check(chosen["captions"], large_count=chosen["large_count"])
            if address and engine != "ray":
                raise RecipeError("--address goes with --engine ray")
        options = Options(engine=Engine(engine, workers or cores(), address), **chosen)

        def advance(step: flow.Step) -> None:
            progress.step(step.images, step.total, step.kept, step.rejected)

        if corpus is None:
            outcome = flow.convert(sources, table, found, options, advance, progress.say)
        else:
            bare = options.annotations_only
            parts, missing = corpora.find(corpus, sources[0], options.splits, bare)
            for line in corpora.told(missing):
                progress.say(line)
            if not parts:
                raise RecipeError(f"{sources[0]}: no folder here is a dataset of {corpus.name}")
            parts = [part._replace(recipe=_tiled(part.recipe, tile, visible, max_edge)) for part in parts]
            facts = {
                **corpus.facts,
                "dataset": corpus.name,
                "missing": [each.recipe.name for each in missing],
            }
            outcome = flow.build(parts, table, facts, options, advance, progress.say)
        progress.close()
        if as_json:
            listed = [item._asdict() for item in outcome.rejections] if options.dry_run else None
            click.echo(
                json.dumps({**outcome.manifest, **({"rejections": listed} if options.dry_run else {})})
            )
        else:
            for line in _report(outcome, table, options.dry_run, corpus is None):
                click.echo(line)
            for line in corpora.lines(corpus, outcome.manifest["datasets"]) if corpus else ():
                click.echo(line)
        reasons = outcome.manifest["reasons"]
        if strict and (reasons["rejected"] or reasons["dropped"]):
            raise RsdataError("--strict: something was rejected or dropped (see above)")


@main.command()
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...", type=_FOLDER)
@click.option("--html", type=_FOLDER, metavar="FILE", help="Write it as a page with charts and pictures too.")
@click.option(
    "--against",
    multiple=True,
    metavar="TABLE",
    type=_FOLDER,
    help="Compare with this table instead: what came, went, changed; repeatable.",
)
@_json
def stats(tables: tuple[Path, ...], html: Path | None, against: tuple[Path, ...], as_json: bool) -> None:
    """Audit tables: images, captions, objects by class, words, sizes, splits, rejections, what is odd.

    \b
    Example:
      rsdata stats tables/dota tables/rsicd --html corpus.html
      rsdata stats tables/rsicd --against tables/dota
    """
    if against and html is not None:
        raise click.UsageError("--html is of the audit: leave --against out")
    with _errors():
        from rsdata import stats as audit

        if against:
            from rsdata import compare

            shift = compare.compare(tables, against)
            click.echo(json.dumps(shift, ensure_ascii=False) if as_json else compare.render(shift))
            return
        report = audit.audit(tables)
        if html is not None:
            from rsdata import report as pages

            pages.write(html, tables, report)
            _say(f"{html}: the same with charts and pictures")
        click.echo(json.dumps(report, ensure_ascii=False) if as_json else audit.render(report))


@main.command()
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...", type=_FOLDER)
@click.option("--where", required=True, metavar="SQL", help="What images must fulfil: an SQL expression.")
@click.option(
    "-n", "--images", "most", type=click.IntRange(1), default=100, show_default=True, help="Shown at most."
)
@click.option("-o", "--output", type=_FOLDER, default="view.html", show_default=True, help="An HTML file.")
@_json
def view(tables: tuple[Path, ...], where: str, most: int, output: Path, as_json: bool) -> None:
    """Write a page of the images of TABLE... that a condition holds for, with their boxes and captions.

    The condition is SQL (DuckDB's) over the columns of the table, without image, and two more: classes, the
    list of an image's distinct labels, and boxes, the number of its objects.

    \b
    Example:
      rsdata view tables/dota --where "split = 'train' and len(classes) > 1"
    """
    with _errors():
        from rsdata import view as viewing

        with _usage():
            found = viewing.find(tables, where, most)
        if not found.ids:
            raise RsdataError(f"no image of {found.images:,} fits: nothing written")
        viewing.write(output, tables, where, found)
        if as_json:
            click.echo(json.dumps(found._asdict()))
        else:
            click.echo(f"{output}: {len(found.ids):,} of {found.fitting:,} images")


@main.command()
@click.argument("table", type=_FOLDER)
@click.argument("image_id")
@click.option("-o", "--output", type=_FOLDER, default="show.html", show_default=True, help="An HTML file.")
@_json
def show(table: Path, image_id: str, output: Path, as_json: bool) -> None:
    """Show one image of TABLE: its boxes, its captions, and of which boxes each caption speaks.

    \b
    Example:
      rsdata show tables/dota dota/train/P0001
    """
    with _errors():
        from rsdata import show as showing

        shown = showing.find(table, image_id)
        showing.write(output, shown)
        if as_json:
            click.echo(json.dumps(showing.as_json(shown), ensure_ascii=False))
        else:
            for line in showing.lines(shown):
                click.echo(line)
        _say(f"{output}: the image with its boxes")


@main.command()
@click.argument("name", required=False, shell_complete=_completed("formats"))
@_json
def formats(name: str | None, as_json: bool) -> None:
    """List the grammars that are read, or describe the one called NAME.

    \b
    Example:
      rsdata formats coco
    """
    with _errors():
        from rsdata import formats as grammars
        from rsdata.recipes import reader_options

        if name is None:
            titles = {each: _title(grammars.load(each)) for each in grammars.names()}
            _list(titles, as_json)
            return
        with _usage():
            module = grammars.load(name)
        options = reader_options(module)
        if as_json:
            click.echo(json.dumps({"name": name, "layouts": module.LAYOUTS, "options": options}))
            return
        click.echo(f"{name}: {(module.__doc__ or '').strip()}\n")
        click.echo("Layouts tried without a recipe (images, annotations):")
        for left, right in module.LAYOUTS:
            click.echo(f"  {left}  {right}")
        for key, value in options.items():
            click.echo(f"Option {key}, default {value!r}")


@main.command()
@click.argument("name", required=False, shell_complete=_completed("recipes"))
@_json
def recipes(name: str | None, as_json: bool) -> None:
    """List the datasets that convert by name, or print the recipe called NAME (TOML, to copy from).

    \b
    Example:
      rsdata recipes dior > mine.toml
    """
    with _errors():
        from rsdata import recipes as shipped

        if name is None:
            found = {each: shipped.load(each) for each in shipped.names()}
            _list({each: f"{recipe.title} ({recipe.format})" for each, recipe in found.items()}, as_json)
            return
        with _usage():
            recipe = shipped.load(name)
        if as_json:
            keys = ("name", "title", "homepage", "licence", "citation", "format", "paper")
            facts = {key: getattr(recipe, key) for key in keys}
            click.echo(json.dumps({**facts, "splits": list(recipe.splits), "classes": recipe.nouns}))
        else:
            click.echo(shipped.path_of(name).read_text(encoding="utf-8"), nl=False)


@main.command()
@click.argument("name", metavar="RECIPE|FORMAT", shell_complete=_completed("recipes", "formats"))
@click.argument("folder", metavar="DIR", type=_HERE)
@click.option("--images", type=click.IntRange(1), default=12, show_default=True, help="Of the first split.")
@click.option("--size", default="256x256", show_default=True, metavar="WxH", help="Of each image, in pixels.")
@click.option(
    "--objects", "most", type=click.IntRange(1), default=12, show_default=True, help="At most, an image."
)
@click.option("--split", "splits", multiple=True, help="Split to write; repeatable.")
@_seed
def sample(name: str, folder: Path, size: str, **options: Any) -> None:
    """Draw overhead scenes and write them in the raw layout of a recipe or format, with exact truth.

    It shows the files that `rsdata convert` expects, and gives something to try it on.

    \b
    Example:
      rsdata sample loveda demo/loveda --images 20
    """
    with _errors():
        from rsdata import formats as grammars
        from rsdata import recipes as shipped
        from rsdata import samples

        with _usage():
            known = name in shipped.names() or name.endswith(".toml") or name not in grammars.names()
            recipe = shipped.load(name) if known else shipped.from_format(name)
            width, _, height = size.lower().partition("x")
            if not (
                width.isdigit()
                and height.isdigit()
                and 32 <= int(width) <= 8192
                and 32 <= int(height) <= 8192
            ):
                raise RecipeError(f"--size {size}: expected WIDTHxHEIGHT, each of 32 to 8192 pixels")
            written = samples.write(recipe, folder, size=(int(width), int(height)), **options)
        for path in written:
            click.echo(path)
        if getattr(recipe.reader, "NUMERIC", False) and not known:
            _say(f"{len(written)} files; a recipe must say what their numbers mean (see `rsdata recipes`)")
        else:
            flag = "--recipe" if known else "--format"
            _say(f"{len(written)} files; convert them: rsdata convert {folder} {flag} {name} -o TABLE")


@main.command()
@click.argument("table", type=_FOLDER)
@click.option("-o", "--output", required=True, type=_FOLDER, help="Folder of the new table.")
@_captions
@_large_count
@_seed
@_overwrite
@_json
def caption(table: Path, output: Path, captions: str, as_json: bool, **options: Any) -> None:
    """Write the captions of TABLE anew into another table; captions that people wrote are kept.

    \b
    Example:
      rsdata caption tables/dota -o tables/dota-a2c --captions a2c
    """
    with _errors():
        from rsdata import box_to_caption
        from rsdata import caption as recaption

        with _usage():
            if captions != "none":
                box_to_caption.check(captions, large_count=options["large_count"])
        manifest = recaption.caption(table, output, captions, **options)
        images, count = manifest["images"]["written"], manifest["captions"]
        if as_json:
            click.echo(json.dumps(manifest))
            return
        click.echo(f"{output}: {images:,} images, {count:,} captions ({captions})")
        if box_to_caption.judge(captions):
            click.echo(_account("images", manifest["images"]))


@main.command()
@click.argument("table", type=_FOLDER)
@click.option("-o", "--output", required=True, type=_HERE, help="A new folder.")
@click.option("--to", required=True, help="coco, yolo, csv, webdataset or imagefolder.")
@_json
def export(table: Path, output: Path, to: str, as_json: bool) -> None:
    """Write TABLE in a format of other tools: images as files, annotations beside them.

    \b
    Example:
      rsdata export tables/dota -o dota-yolo --to yolo
    """
    with _errors():
        from rsdata import export as out

        with _usage():
            if to not in out.EXPORTERS:
                raise RecipeError(f"--to {to}: expected one of {', '.join(out.EXPORTERS)}")
        counts = out.export(table, output, to)
        if as_json:
            click.echo(json.dumps(counts))
            return
        click.echo(
            f"{output}: {counts['images']:,} images, {counts['objects']:,} objects, "
            f"{counts['captions']:,} captions ({to})"
        )
        if counts["without_bytes"]:
            _say(f"{counts['without_bytes']:,} images have no bytes in the table: only what is said of them")


@main.command()
@click.argument("table", type=_FOLDER)
@click.option("--deep", is_flag=True, help="Decode every image and compute its hash anew.")
@_json
def validate(table: Path, deep: bool, as_json: bool) -> None:
    """Check that TABLE is whole: schema, metadata, counts, images, boxes, ids. Exit code 1 if it is not.

    \b
    Example:
      rsdata validate tables/dota --deep
    """
    with _errors():
        from rsdata import validate as checking

        problems = checking.check(table, deep)
        if as_json:
            click.echo(json.dumps({"problems": [problem._asdict() for problem in problems]}))
        else:
            for problem in problems:
                click.echo(str(problem))
        if problems:
            raise RsdataError(f"{table}: {len(problems)} problems")
        if not as_json:
            click.echo(f"{table}: whole")


@main.command()
@click.argument("source", type=_DUMP)
@click.option("-o", "--output", required=True, type=_FOLDER, help="Folder of the table.")
@_overwrite
@_json
def repair(source: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Make a table of Parquet files that another program has written from one: pandas, Polars, DuckDB.

    \b
    Example:
      rsdata repair edited.parquet -o tables/edited
    """
    with _errors():
        from rsdata import repair as mending

        manifest = mending.repair(source, output, overwrite)
        click.echo(json.dumps(manifest) if as_json else f"{output}: {manifest['images']['written']:,} images")


@main.command()
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...", type=_FOLDER)
@click.option("-o", "--output", type=_FOLDER, help="Folder of the new table; not needed with --dry-run.")
@click.option(
    "--against", multiple=True, type=_FOLDER, metavar="TABLE", help="A benchmark, or its fingerprint file."
)
@click.option(
    "--against-split", "against_splits", multiple=True, help="Of the benchmarks.  [default: all but train]"
)
@click.option(
    "--method",
    type=click.Choice(["star", "paper", "none"]),
    default="star",
    show_default=True,
    help="How duplicates are grouped; paper: RemoteCLIP's way; none: leaks only.",
)
@click.option("--distance", type=click.IntRange(0, 16), help="Bits.  [default: 4; with --method paper 2]")
@click.option("--symmetries", is_flag=True, help="Find turned and mirrored duplicates too.")
@click.option(
    "--merge-captions", is_flag=True, help="The copy that stays gets the human captions of the others."
)
@click.option(
    "--removed", "lists", multiple=True, type=_FOLDER, metavar="FILE", help="Remove what this list names."
)
@click.option(
    "--list", "listing", type=_FOLDER, metavar="FILE", help="Write the list of what goes (Parquet)."
)
@click.option(
    "--report", type=_FOLDER, metavar="FILE", help="Write a page of the pairs, side by side (HTML)."
)
@click.option("--memory", metavar="SIZE", help="For the search, such as 2GB; beyond it, it works from files.")
@_workers
@click.option("--dry-run", is_flag=True, help="Tell what would go, write no table.")
@_overwrite
@_json
def dedup(
    tables: tuple[Path, ...],
    output: Path | None,
    against: tuple[Path, ...],
    merge_captions: bool,
    lists: tuple[Path, ...],
    listing: Path | None,
    report: Path | None,
    memory: str | None,
    workers: int | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Remove from TABLE... the near-duplicates, and what leaks into the benchmarks that --against names.

    With --dry-run, TABLE may be a fingerprint file.

    \b
    Example:
      rsdata dedup tables/dota tables/rsicd -o tables/clean --against tables/rsicd --report pairs.html
    """
    with _errors():
        from rsdata import clean, fingerprints, gallery, removals
        from rsdata import dedup as search

        with _usage():
            if output is None and not dry_run:
                raise RecipeError("name the table to write: -o FOLDER (or --dry-run)")
            options = search.Options(memory=_bytes(memory), **chosen)
        sources = [fingerprints.open_source(path) for path in tables]
        benchmarks = [fingerprints.open_source(path) for path in against]
        for source in sources:
            if not source.is_table and not dry_run:
                raise RsdataError(f"{source.path}: a fingerprint file has no images to write: use --dry-run")
        if output is not None and not dry_run:
            clean.check(tables, output, overwrite)
        decision = search.decide(sources, benchmarks, options, lists, _say)
        if listing is not None:
            removals.write(listing, decision.removed)
        if report is not None:
            summary = "; ".join(search.lines(decision.report))
            name = ", ".join(source.name for source in sources)
            sections = search.sections(decision)
            gallery.write(report, f"Duplicates and leaks of {name}", summary, sections, sources, benchmarks)
        manifest = None
        if not dry_run and output is not None:
            with Progress() as progress:
                manifest = clean.clean(
                    tables,
                    output,
                    decision,
                    merge_captions,
                    workers or cores(),
                    overwrite,
                    progress.step,
                )
        if as_json:
            click.echo(json.dumps(manifest or {"dedup": decision.report}))
            return
        for line in search.lines(decision.report):
            click.echo(line)
        if manifest is None:
            click.echo(f"dry run, nothing written: {int(decision.goes.sum()):,} images would go")
            return
        images = manifest["images"]
        click.echo(f"{output}: {_account('images', images)}")
        click.echo(f"what went, and why: {output}/removed.parquet")


@main.command()
@click.argument("table", type=_FOLDER)
@click.option("-o", "--output", required=True, type=_FOLDER, help="A Parquet file.")
@_json
def fingerprint(table: Path, output: Path, as_json: bool) -> None:
    """Write what TABLE's images are recognised by, without them: to check for leaks where they are not.

    \b
    Example:
      rsdata fingerprint tables/rsicd -o rsicd.parquet
    """
    with _errors():
        from rsdata import fingerprints

        count = fingerprints.write(table, output)
        click.echo(json.dumps({"images": count}) if as_json else f"{output}: {count:,} images")


@main.command()
@_json
def doctor(as_json: bool) -> None:
    """Check this machine: versions, extras, GPU, memory, disk, and a conversion of sample dumps.

    Each line is ok, a warning or FAIL, with what to do; exit code 1 if there is a FAIL. Put its output into
    every report of a problem.

    \b
    Example:
      rsdata doctor
    """
    with _errors():
        from rsdata import doctor as checking

        lines = checking.check()
        click.echo(
            json.dumps({"checks": [line._asdict() for line in lines]}) if as_json else checking.render(lines)
        )
        if failed := [line.what for line in lines if line.state == checking.FAIL]:
            raise RsdataError(f"{', '.join(failed)}: see above")


@contextmanager
def _errors(
    progress: Progress | None = None, kept: str = "no table was written; the same command starts again"
) -> Iterator[None]:
    """What a user can cause ends with one line on stderr and its exit code, not with a traceback.

    kept: what there is to say of a run that stopped before its end.
    """
    import signal
    import threading

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def fail(message: str, code: int) -> None:
        (progress or Progress()).fail(message, code)
        sys.exit(code)

    alone = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if alone else None  # what schedulers send before they kill
    try:
        yield
        if progress is not None:
            progress.done()
    except BrokenPipeError:  # the reader of stdout has seen enough, as `head` does: click ends in silence
        raise
    except UnfinishedError as error:
        fail(f"Unfinished: {error}; {kept}", UNFINISHED)
    except (RsdataError, OSError) as error:
        fail(f"Error: {error}", 1)
    except KeyboardInterrupt:
        fail(f"Interrupted: {kept}", UNFINISHED)
    finally:
        if alone:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _usage() -> Iterator[None]:
    """What is wrong inside is the command line (exit code 2)."""
    try:
        yield
    except RecipeError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def _bytes(text: str | None) -> int | None:
    """A size such as 500MB in bytes. Raises RecipeError."""
    if text is None:
        return None
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    number = text.upper().removesuffix("B").strip()
    unit = number[-1:] if number[-1:] in "KMGT" else ""
    digits = number.removesuffix(unit).strip()
    if not digits.isdecimal() or not int(digits):
        raise RecipeError(f"--memory {text}: expected a size such as 500MB or 2GB")
    return int(digits) * units[unit]


def _say(message: str) -> None:
    click.echo(message, err=True)


def _alone_with_corpus(sources: Sequence[Path], *others: Any) -> None:
    if len(sources) > 1:
        raise RecipeError("a corpus takes one SOURCE: the folder that holds its datasets")
    if any(others):
        raise RecipeError("a corpus goes without --format, --name, --images, --annotations and --option")


def _tiled(recipe: Recipe, tile: str | None, visible: float | None, max_edge: int | None) -> Recipe:
    """`recipe` with the tiling and size that the command line names. Raises RecipeError."""
    import re

    from rsdata import recipes as shipped
    from rsdata.tiles import Tiling

    tiling = recipe.tiling
    if tile == "none":
        tiling = None
    elif tile is not None:
        hit = re.fullmatch(r"(\d+)(?::(\d+))?", tile)
        if not hit:
            raise RecipeError(f"--tile {tile}: expected SIZE or SIZE:OVERLAP in pixels, or none")
        share = tiling.visible if tiling else Tiling.visible
        tiling = _sized(int(hit[1]), int(hit[2] or 0), share)
    if visible is not None:
        if tiling is None:
            raise RecipeError("--visible goes with --tile")
        tiling = _sized(tiling.size, tiling.overlap, visible)
    return shipped.adapted(recipe, None, {}, tiling, max_edge)


def _sized(size: int, overlap: int, visible: float) -> Tiling:
    from rsdata.tiles import Tiling

    try:
        return Tiling(size, overlap, visible)
    except ValueError as error:
        raise RecipeError(f"--tile: {error}") from error


def _chosen_recipe(
    sources: Sequence[Path],
    recipe: str | None,
    format_name: str | None,
    name: str | None,
    images: str | None,
    annotations: str | None,
    pairs: Sequence[str],
    annotations_only: bool,
    say: Callable[[str], None],
) -> Recipe:
    """The recipe that the options of `convert` name, or the dumps fit. Raises RecipeError."""
    from rsdata import recipes as shipped

    if recipe and format_name:
        raise RecipeError("name the dataset (--recipe NAME) or the grammar (--format NAME), not both")
    options = dict(map(_pair, pairs))
    if not recipe and not format_name:
        if images or annotations:
            raise RecipeError("--images and --annotations go with --format")
        found = _detected(sources, annotations_only, say)
    elif recipe:
        if images or annotations:
            raise RecipeError("--images and --annotations go with --format; a recipe has patterns of its own")
        found = shipped.load(recipe)
    else:
        found = shipped.from_format(str(format_name), images, annotations)
        if getattr(found.reader, "NUMERIC", False):
            raise RecipeError(
                f"the labels of {found.format} are numbers: a recipe must say what they mean; copy one "
                f"(`rsdata recipes loveda > mine.toml`), name the classes, and give it as --recipe mine.toml"
            )
    return shipped.adapted(found, name, options)


def _detected(sources: Sequence[Path], annotations_only: bool, say: Callable[[str], None]) -> Recipe:
    """The recipe or format that all sources fit. Raises RecipeError."""
    from rsdata.detect import detect

    found = [detect(source, annotations_only) for source in sources]
    for source, other in zip(sources, found, strict=True):
        if other.name != found[0].name:
            raise RecipeError(
                f"{sources[0]} is of {found[0].name}, {source} of {other.name}: convert each alone"
            )
    kind = "recipe" if found[0].title else "format"
    say(f"taken for {kind} {found[0].name}")
    return found[0]


def _pair(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as TOML where it is any, else as text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--option {text}: expected KEY=VALUE")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _report(outcome: Any, table: Path | None, dry_run: bool, counts: bool) -> Iterator[str]:
    """The end of a conversion for people: the account, the paper's counts, what was left out and why."""
    from rsdata import paper, tables
    from rsdata.convert import as_line

    manifest = outcome.manifest
    images, objects = manifest["images"], manifest["objects"]
    splits = ", ".join(f"{split} {held['rows']:,}" for split, held in manifest["splits"].items())
    where = "dry run, nothing written" if dry_run else table
    yield f"{where}: {splits} images, {manifest['captions']:,} captions"
    yield _account("images", images)
    yield _account("objects", objects)
    for name, dataset in manifest["datasets"].items() if counts else ():
        stated = dataset["paper"]
        yield from paper.lines(name, stated, paper.found([dataset], stated.get("splits", ())))
    if dry_run:
        yield from (f"{item.action}: {as_line(item)}" for item in outcome.rejections)
        return
    shown: dict[tuple[str, str], list[str]] = {}
    for item in outcome.rejections:
        shown.setdefault((item.action, item.code), []).append(as_line(item))
    for action in ("rejected", "dropped", "repaired"):
        for (kind, code), lines in sorted(shown.items()):
            if kind == action:
                yield f"{action} {len(lines):,} with {code}, such as"
                yield from (f"  {line}" for line in lines[:EXAMPLES])
    if shown and table is not None:
        yield f"all of them: {table / tables.REJECTIONS}; the codes: docs/failures.md"


def _account(unit: str, counts: Mapping[str, int]) -> str:
    """What became of the images or objects that were found."""
    parts = " + ".join(f"{count:,} {key}" for key, count in counts.items() if key != "found")
    return f"{unit}: {counts['found']:,} found = {parts}"


def _list(titles: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(titles))
        return
    width = max(map(len, titles))
    for name, title in titles.items():
        click.echo(f"{name:<{width}}  {title}")


def _title(module: Any) -> str:
    return str(module.__doc__).strip().partition("\n")[0].rstrip(".:")
