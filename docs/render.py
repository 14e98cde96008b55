"""Write the pages that come from the code: docs/formats/NAME.md, datasets.md, cli-rsdata.md, cli-rsclip.md.

    python docs/render.py

A test fails where a page is not what this writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

import rsclip.cli
import rsdata.cli
from rsdata import corpora, formats, recipes
from rsdata.recipes import Recipe

DOCS = Path(__file__).parent
PROGRAMS = {"rsdata": rsdata.cli.main, "rsclip": rsclip.cli.main}
ONE_FILE = {
    "image": "One annotation file an image, paired by positional stars.",
    "split": "One file describes many images and names them.",
    "none": "No annotation file.",
}


def pages() -> dict[Path, str]:
    """All pages, by path."""
    made = {DOCS / "formats" / f"{name}.md": format_page(name) for name in formats.names()}
    made |= {DOCS / f"cli-{name}.md": program_page(name, group) for name, group in PROGRAMS.items()}
    return {**made, DOCS / "datasets.md": datasets_page()}


def format_page(name: str) -> str:
    """The page of a format: the docstrings of its reader, its layouts, options and recipes."""
    module = formats.load(name)
    title, _, body = str(module.__doc__).strip().partition("\n")
    lines = [f"# {name}: {title.rstrip('.:')}", "", *_prose(body.strip("\n")), ""]
    kind = ONE_FILE[module.ONE_FILE]
    if getattr(module, "FRAMES", False):
        kind = "One file a film; the images are frames, numbered by the last star, or the film itself."
    lines += [kind, ""]
    if getattr(module, "BACKGROUND", False):
        lines += ["An image without an annotation file holds no object.", ""]
    lines += ["## Layouts tried without a recipe", "", "| images | annotations |", "|---|---|"]
    lines += [f"| `{left}` | {f'`{right}`' if right else ''} |" for left, right in module.LAYOUTS]
    lines += ["", "## What is read", "", *_prose(inspect.cleandoc(str(module.read.__doc__))), ""]
    if options := recipes.reader_options(module):
        lines += ["| option | default |", "|---|---|"]
        lines += [f"| `{key}` | `{value!r}` |" for key, value in options.items()]
        lines += [""]
    if users := [recipe.name for recipe in _shipped() if recipe.format == name]:
        lines += [f"Recipes: {', '.join(f'`{user}`' for user in users)}.", ""]
    return "\n".join(lines)


def datasets_page() -> str:
    """The table of datasets, with the counts that their recipes state."""
    corpus = corpora.load("remoteclip")
    of_paper = {recipe.name for recipe in corpus.datasets}
    lines = [
        "# Datasets",
        "",
        "Each converts by name: `rsdata convert FOLDER --recipe NAME -o TABLE`. Images and",
    ]
    lines += [
        "boxes are what RemoteCLIP's Table I counts; `*` marks the 17 of its corpus, which convert together:"
    ]
    lines += ["`rsdata convert ROOT --recipe remoteclip -o TABLE`.", ""]
    lines += [
        "| recipe | dataset | format | splits | images | boxes | licence |",
        "|---|---|---|---|---|---|---|",
    ]
    for recipe in _shipped():
        name = f"`{recipe.name}`{' *' if recipe.name in of_paper else ''}"
        link = f"[{recipe.title}]({recipe.homepage})"
        counts = [f"{recipe.paper[key]:,}" if key in recipe.paper else "" for key in ("images", "boxes")]
        splits = ", ".join(recipe.splits).replace("*", "as the file says")
        used = f"[{recipe.format}](formats/{recipe.format}.md)"
        lines.append(f"| {name} | {link} | {used} | {splits} | {' | '.join(counts)} | {recipe.licence} |")
    return "\n".join([*lines, ""])


def program_page(name: str, group: click.Group) -> str:
    """The page of a program: each of its commands, as `--help` tells of it."""
    lines = [f"# {name}: every command", ""]
    for words, command in commands(name, group):
        lines += [f"## {words}", "", *_of_command(words, command)]
    return "\n".join(lines)


def commands(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with the words that call it."""
    context = click.Context(command, info_name=words)
    yield words, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(f"{words} {name}", below)


def _of_command(words: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=words)
    text, _, example = inspect.cleandoc(str(command.help)).replace("\b\n", "").partition("Example:\n")
    yield from ("```", f"{words} {' '.join(command.collect_usage_pieces(context))}", "```", "")
    yield from (_escaped(text).strip(), "")
    if example:
        yield from ("```sh", inspect.cleandoc(example).strip(), "```", "")
    options = [each for each in command.params if isinstance(each, click.Option)]
    if options:
        yield from ("| option | |", "|---|---|")
        for left, right in filter(None, (each.get_help_record(context) for each in options)):
            yield f"| `{left.replace('|', ', ')}` | {_escaped(right)} |"
        yield ""


def _escaped(text: str) -> str:
    """Text as it stands, also where Markdown would read something into it."""
    return re.sub(r"([*|<])", r"\\\1", text)


def _shipped() -> list[Recipe]:
    return [recipes.load(name) for name in recipes.names()]


def _prose(text: str) -> Iterator[str]:
    """A docstring as Markdown: indented lines become code blocks."""
    code = False
    for line in text.split("\n"):
        indented = line.startswith("    ")
        if indented and not code:
            yield "```"
        if code and not indented and line:
            yield "```"
            yield ""
        code = indented or (code and not line)
        if line or not code:
            yield line.removeprefix("    ") if code else re.sub(r"<(?=\w)", r"\\<", line)
    if code:
        yield "```"


def main() -> None:
    """Write all pages, and remove those of formats that are gone."""
    wanted = pages()
    (DOCS / "formats").mkdir(exist_ok=True)
    for path in (DOCS / "formats").glob("*.md"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
