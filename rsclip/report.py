"""What `rsclip eval all` leaves behind: scores as JSON, Markdown, LaTeX and figures, beside published ones.

    {
        "checkpoints": [{"name", "path", "model", "weights"}],
        "results": [{"checkpoint", "data", "datasets", "task", "options", "result"}],
        "skipped": [{"data", "task", "checkpoint" or None, "why"}],
        "versions": {name: version},
    }

A result is what its task's `run` returned; the task's `headline` chooses the numbers of the tables. Results
of one task with the same options are one table. Figures that papers print (published.toml) stand below those
of the same task and protocol on the same one dataset.
"""

from __future__ import annotations

import html
import importlib
import itertools
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsdata import places

if TYPE_CHECKING:
    pass

Column = tuple[str, str]
"""A data set and one of its headline numbers; of the mean over data sets: "" and its heading."""
Entry = Mapping[str, Any]

TITLES = {
    "retrieval": "Retrieval",
    "zeroshot": "Zero-shot classification",
    "linear-probe": "Linear probe",
    "knn": "k-NN",
    "fewshot": "Few-shot classification",
    "counting": "Counting",
    "hard-negatives": "Hard negatives",
}
"""Tasks as they are called, in the order in which they are told."""
PICKED = ("linear-probe", "fewshot")
"""Tasks whose paper protocol looks at the test images."""
RECALLS = [f"{side}_R@{k}" for side in ("i2t", "t2i") for k in (1, 5, 10)]
HEADS = (("^i2t_", "I→T "), ("^t2i_", "T→I "), ("^mean_recall$", "mR"), (r"^top1_(\d+)$", r"\1-shot"))
_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "→": r"$\rightarrow$",
    **{character: f"\\{character}" for character in "{}$&#%_"},
    **{character: f"{{{character}}}" for character in "[*"},  # after a line's end they would be its argument
}


class Line(NamedTuple):
    """A row of a table, in percent. doubts: why a number is not to be trusted. source: of published ones."""

    name: str
    values: dict[Column, float]
    doubts: dict[Column, list[str]]
    source: str = ""


class Published(NamedTuple):
    """Figures of a model, their columns by recipe, and the results that they compare with."""

    task: str
    protocols: list[str]
    line: Line


class Group(NamedTuple):
    """The results of one task with the same options. others: chance, and published lines.

    name: of its files. several: a data set has more than one number.
    """

    title: str
    name: str
    results: list[Entry]
    columns: list[Column]
    checkpoints: list[Line]
    others: list[Line]
    several: bool


class Style(NamedTuple):
    """How a table is written. width: of its numbers, in characters."""

    escape: Callable[[str], str]
    bold: str
    italic: str
    mark: str
    width: int


def write(scores: Mapping[str, Any], folder: Path) -> list[Path]:
    r"""Write scores.json, scores.md, scores.tex and figures (PNG), each in one step; returns their paths.

    scores.tex is for \input, and needs the package booktabs. Raises OSError where a file cannot be written.
    """
    from rsclip import figures

    groups = _groups(scores)
    pictures = {group.name: figures.pictures(group) for group in groups}
    files = {
        "scores.json": (json.dumps(scores, ensure_ascii=False) + "\n").encode(),
        "scores.md": "\n".join(_markdown(scores, groups, pictures)).encode(),
        "scores.tex": "".join(f"{line}\n" for group in groups for line in _tex(group)).encode(),
        **{name: data for held in pictures.values() for name, data in held.items()},
    }
    for name, data in files.items():
        with places.atomic_write(folder / name) as file:
            file.write(data)
    return [folder / name for name in files]


def published() -> list[Published]:
    """What published.toml holds; mean recalls are computed where all six recalls are known."""
    held = tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))
    found: dict[tuple[str, str, str], Published] = {}
    for each in ({**table, **row} for table in held["tables"] for row in table["rows"]):
        source = f"{each['by']}: {each['source']}" + (f"; {each['note']}" if "note" in each else "")
        line = Line(f"{each['model']} ({each['by']})", {}, {}, source)
        key = each["task"], each["by"], each["model"]
        values = found.setdefault(key, Published(each["task"], each["protocols"], line)).line.values
        columns = itertools.product(each["datasets"], each["metrics"])
        pairs = zip(columns, each["values"], strict=True)
        values.update({column: value for column, value in pairs if not math.isnan(value)})
    for key, (_, _, line) in found.items():
        _add_mean_recalls(line.values)
        line.doubts.update({column: _doubts(held["doubts"], *key, *column) for column in line.values})
    return list(found.values())


def _add_mean_recalls(values: dict[Column, float]) -> None:
    for data in {data for data, _ in values}:
        recalls = [values[data, name] for name in RECALLS if (data, name) in values]
        if len(recalls) == len(RECALLS):
            values[data, "mean_recall"] = sum(recalls) / len(recalls)


def _doubts(doubts: Iterable[Mapping[str, Any]], *of: str) -> list[str]:
    about = dict(zip(("task", "by", "model", "dataset", "metric"), of, strict=True))
    return [each["why"] for each in doubts if all(about[key] in each[key] for key in about if key in each)]


def task_of(entry: Entry) -> str:
    """The task of a result, as the command line spells it."""
    return str(entry["task"]).replace("_", "-")


def _protocol(entry: Entry) -> str:
    """By what a result compares with published ones: its protocol, or its prompts."""
    result = entry["result"]
    return str(result["protocol"] if "protocol" in result else "+".join(result.get("prompts", ())))


def _groups(scores: Mapping[str, Any]) -> list[Group]:
    """In the order of TITLES, of each task the paper's protocol last."""
    found: dict[str, list[Entry]] = {}
    for each in scores["results"]:
        found.setdefault(json.dumps([task_of(each), each["options"]], sort_keys=True), []).append(each)
    rank = {task: number for number, task in enumerate(TITLES)}
    held = sorted(
        found.values(),
        key=lambda group: (rank.get(task_of(group[0]), len(rank)), _protocol(group[0]) == "paper"),
    )
    names = [each["name"] for each in scores["checkpoints"]]
    groups: list[Group] = []
    for results in held:
        groups.append(_group(results, names, {group.name for group in groups}))
    return groups


def _group(results: list[Entry], names: Sequence[str], taken: set[str]) -> Group:
    checkpoints, chance = _lines(results, names)
    data = list(dict.fromkeys(each["data"] for each in results))
    found = dict.fromkeys(column for line in checkpoints for column in line.values)
    columns = sorted(found, key=lambda column: data.index(column[0]))
    others = [*([chance] if chance.values else []), *_beside(results, columns)]
    several = len(columns) > len(data)
    if not several:
        columns += _add_means(checkpoints, others, columns)
    title = _title(results)
    slug = re.sub("[^a-z0-9]+", "-", title.partition(" (")[0].lower())[:60].strip("-")
    free = (f"{slug}-{number}" for number in itertools.count(2) if f"{slug}-{number}" not in taken)
    return Group(title, next(free) if slug in taken else slug, results, columns, checkpoints, others, several)


def _lines(results: Sequence[Entry], names: Sequence[str]) -> tuple[list[Line], Line]:
    """The headline numbers of each checkpoint, and those of chance."""
    headline = importlib.import_module(f"rsclip.tasks.{task_of(results[0]).replace('-', '_')}").headline
    lines, chance = {name: Line(name, {}, {}) for name in names}, Line("chance", {}, {})
    for each in results:
        for name, value in headline(each["result"]).items():
            column = each["data"], name
            lines[each["checkpoint"]].values[column] = value
            floor = each["result"].get(f"chance_{name}", each["result"].get("chance"))
            if floor is not None:
                chance.values[column] = floor
    return [line for line in lines.values() if line.values], chance


def _title(results: Sequence[Entry]) -> str:
    task, options = task_of(results[0]), results[0]["options"]
    told = " or ".join(dict.fromkeys(filter(None, map(_protocol, results))))
    parts = [TITLES.get(task, task)]
    if told:
        parts.append(f"{told} protocol" if "protocol" in results[0]["result"] else f"prompts {told}")
    parts += [f"{key} = {value}" for key, value in options.items() if key not in ("protocol", "names")]
    picked = " (the best epoch was picked on the test images)"
    return ", ".join(parts) + picked * (task in PICKED and told == "paper")


def _beside(results: Sequence[Entry], columns: Sequence[Column]) -> Iterator[Line]:
    """The published lines that results compare with, in their columns."""
    alone = {
        each["data"]: (*each["datasets"], _protocol(each)) for each in results if len(each["datasets"]) == 1
    }
    for task, protocols, line in published():
        if task != task_of(results[0]):
            continue
        theirs = {
            (data, metric): (alone[data][0], metric)
            for data, metric in columns
            if data in alone and alone[data][1] in protocols and (alone[data][0], metric) in line.values
        }
        if theirs:
            values = {column: line.values[their] for column, their in theirs.items()}
            doubts = {column: line.doubts[their] for column, their in theirs.items()}
            yield Line(line.name, values, doubts, line.source)


def _add_means(
    checkpoints: Sequence[Line], others: Sequence[Line], columns: Sequence[Column]
) -> list[Column]:
    """Add the mean over what all checkpoints have to the lines that have all of it; returns its column."""
    shared = [column for column in columns if all(column in line.values for line in checkpoints)]
    if len(shared) < 2:
        return []
    mean = "", f"mean of {len(shared)}"
    for line in (*checkpoints, *others):
        if line.values.keys() >= {*shared}:
            line.values[mean] = sum(line.values[column] for column in shared) / len(shared)
            line.doubts[mean] = [doubt for column in shared for doubt in line.doubts.get(column, ())]
    return [mean]


def _parts(group: Group, width: int) -> list[Group]:
    """A group cut into some of at most `width` characters of numbers; a data set is never cut."""
    parts: list[list[Column]] = [[]]
    for data in dict.fromkeys(data for data, _ in group.columns):
        piece = [column for column in group.columns if column[0] == data]
        if parts[-1] and sum(max(7, len(head(group, each)) + 1) for each in parts[-1] + piece) > width:
            parts.append([])
        parts[-1] += piece
    if len(parts) == 1:
        return [group]
    return [
        group._replace(title=f"{group.title} ({n} of {len(parts)})", name=f"{group.name}-{n}", columns=part)
        for n, part in enumerate(parts, 1)
    ]


def head(group: Group, column: Column) -> str:
    """What stands over a column: its metric, or its data set where that has but one."""
    if column[0] and not group.several:
        return column[0]
    head = column[1]
    for pattern, short in HEADS:
        head = re.sub(pattern, short, head)
    return head


def _rows(group: Group, style: Style) -> tuple[list[list[str]], list[list[str]], list[str]]:
    """As text the checkpoints, the other lines, each with its name first, and sources and footnotes."""
    own, others = (
        [line for line in lines if line.values.keys() & {*group.columns}]
        for lines in (group.checkpoints, group.others)
    )
    best = {}
    for column in group.columns:
        values = [line.values[column] for line in own if column in line.values]
        if len(values) > 1:
            best[column] = f"{max(values):.2f}"
    doubts = [doubt for line in others for column in group.columns for doubt in line.doubts.get(column, ())]
    marks = {doubt: str(number) for number, doubt in enumerate(dict.fromkeys(doubts), 1)}
    remarks = [style.escape(source) for source in dict.fromkeys(line.source for line in others) if source]
    remarks += [
        f"{style.mark.format(number).strip()} {style.escape(doubt)}" for doubt, number in marks.items()
    ]
    return (
        [_cells(group, line, style, best, marks) for line in own],
        [_cells(group, line, style, {}, marks) for line in others],
        remarks,
    )


def _cells(
    group: Group, line: Line, style: Style, best: Mapping[Column, str], marks: Mapping[str, str]
) -> list[str]:
    name = style.escape(line.name)
    cells = [style.italic.format(name) if line.source else name]
    for column in group.columns:
        text = f"{line.values[column]:.2f}" if column in line.values else "–"
        marked = ",".join(dict.fromkeys(marks[doubt] for doubt in line.doubts.get(column, ())))
        shown = style.bold.format(text) if text == best.get(column) else text
        cells.append(shown + (style.mark.format(marked) if marked else ""))
    return cells


def _md(text: str) -> str:
    return re.sub(r"([\\`*_|~$\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _latex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))


MARKDOWN = Style(_md, "**{}**", "*{}*", " †{}", 120)
TEX = Style(_latex, r"\textbf{{{}}}", r"\textit{{{}}}", r"$^{{\dagger {}}}$", 72)


def _markdown(
    scores: Mapping[str, Any], groups: Sequence[Group], pictures: Mapping[str, Iterable[str]]
) -> Iterator[str]:
    yield "# Scores\n"
    yield "In percent. Bold: the best checkpoint. Italic: published. †: to be doubted, and why.\n"
    about = ("name", "model", "path", "weights")
    rows = [[_md(str(each[key])) for key in about] for each in scores["checkpoints"]]
    yield from _grid(about, rows, "---")
    for group in groups:
        yield f"\n## {_md(group.title)}"
        for part in _parts(group, MARKDOWN.width):
            own, others, remarks = _rows(part, MARKDOWN)
            over = [f"{_md(data)}<br>" * group.several for data, _ in part.columns]
            heads = [data + _md(head(part, column)) for data, column in zip(over, part.columns, strict=True)]
            yield from ["", *_grid(["", *heads], own + others), "", *(f"- {remark}" for remark in remarks)]
        yield from (f"\n![{_md(group.title)}]({name})" for name in pictures[group.name])
    yield from _rest(scores)


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]], rule: str = "--:") -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---", *[rule] * (len(heads) - 1)], *rows)]


def _rest(scores: Mapping[str, Any]) -> Iterator[str]:
    """The notes of the results by data set, what was skipped, and the versions."""
    notes = dict.fromkeys(
        (each["data"], note) for each in scores["results"] for note in each["result"].get("notes", ())
    )
    yield from ["\n## Notes\n"] * bool(notes)
    for data in dict.fromkeys(data for data, _ in notes):
        yield from [f"- {_md(data)}", *(f"  - {_md(note)}" for of, note in notes if of == data)]
    yield from ["\n## Left out\n"] * bool(scores["skipped"])
    for each in scores["skipped"]:
        what = ", ".join(filter(None, (each["data"], each["task"], each["checkpoint"])))
        yield f"- {_md(what)}: {_md(each['why'])}"
    told = ", ".join(f"{name} {version}" for name, version in scores["versions"].items())
    yield f"\n## Versions\n\n{_md(told)}\n"


def _tex(group: Group) -> Iterator[str]:
    for part in _parts(group, TEX.width):
        own, others, remarks = _rows(part, TEX)
        heads = ["", *(_latex(head(part, column)) for column in part.columns)]
        yield from [
            r"\begin{table*}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{_latex(part.title)}, in percent.}}",
            rf"\label{{tab:{part.name}}}",
            rf"\begin{{tabular}}{{l{'r' * len(part.columns)}}}",
            r"\toprule",
            *[_spans(part)] * group.several,
            " & ".join(heads) + r" \\",
            r"\midrule",
            *(" & ".join(cells) + r" \\" for cells in own),
            *[r"\midrule"] * bool(others),
            *(" & ".join(cells) + r" \\" for cells in others),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip\parbox{{\linewidth}}{{{remark}.}}" for remark in remarks),
            r"\end{table*}",
        ]


def _spans(group: Group) -> str:
    """The data sets over their columns."""
    cells, rules, start = "", "", 2
    for data, held in itertools.groupby(group.columns, key=lambda column: column[0]):
        end = start + len([*held]) - 1
        cells += rf" & \multicolumn{{{end - start + 1}}}{{c}}{{{_latex(data)}}}"
        rules += rf" \cmidrule(lr){{{start}-{end}}}"
        start = end + 1
    return cells + r" \\" + rules
