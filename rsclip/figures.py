"""The figures of a report: bars, few-shot curves, confusions of numbers. PNG, drawn without a screen."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rsclip.report import Group, head, task_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pictures(group: Group) -> dict[str, bytes]:
    """The figures of a group as PNG, by file name."""
    import matplotlib

    task = task_of(group.results[0])
    drawn: dict[str, Callable[[Group], Figure]] = {}
    if task == "fewshot":
        drawn[f"{group.name}.png"] = _curves
    elif not group.several:
        drawn[f"{group.name}.png"] = _bars
    if task == "counting":
        drawn[f"{group.name}-confusion.png"] = _confusions
    files = {}
    for name, draw in drawn.items():
        buffer = io.BytesIO()
        with matplotlib.rc_context({"text.parse_math": False}):  # names may hold dollars
            draw(group).savefig(buffer, format="png", dpi=100)
        files[name] = buffer.getvalue()
    return files


def _short(name: str) -> str:
    """A name for a figure; legends leave out what begins with an underscore."""
    name = " ".join(name.split())
    return " " * name.startswith("_") + (name if len(name) <= 28 else f"{name[:27]}…")


def _panels(title: str, rows: int, columns: int, edge: float) -> tuple[Figure, Any]:
    """A figure and its axes, an array [rows, columns]; edge: inches of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + edge * columns, 0.8 + edge * rows), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _bars(group: Group) -> Figure:
    """A bar for each checkpoint on each data set, chance across them."""
    columns, each = group.columns, 0.8 / len(group.checkpoints)
    wide = 1.5 + 0.22 * len(columns) * (len(group.checkpoints) + 1)
    figure, axes = _panels(group.title, 1, 1, 3.2)
    figure.set_figwidth(min(max(wide, 6.5), 24))
    axis, where = axes[0, 0], np.arange(len(columns))
    for number, line in enumerate(group.checkpoints):
        heights = [line.values.get(column, math.nan) for column in columns]
        axis.bar(where - 0.4 + each * number, heights, each, align="edge", label=_short(line.name))
    for line in group.others:
        if not line.source:
            floors = [line.values.get(column, math.nan) for column in columns]
            axis.hlines(floors, where - 0.45, where + 0.45, "black", "dotted", label=line.name)
    heads = [_short(head(group, column)) for column in columns]
    axis.set_xticks(where, heads, rotation=30, ha="right", rotation_mode="anchor")
    axis.set(ylabel="percent", ylim=(0, 100), xlim=(-0.6, len(columns) - 0.4))
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _curves(group: Group) -> Figure:
    """Accuracy over shots, a panel for each data set; bands are the 95 % intervals over draws."""
    results = {(each["data"], each["checkpoint"]): each["result"] for each in group.results}
    sets = list(dict.fromkeys(data for data, _ in results))
    wide = min(4, len(sets))
    figure, axes = _panels(group.title, -(-len(sets) // wide), wide, 2.8)
    for axis in axes.flat[len(sets) :]:
        axis.set_axis_off()
    for axis, data in zip(axes.flat, sets, strict=False):
        axis.set_xscale("log", base=2)
        axis.minorticks_off()
        for number, line in enumerate(group.checkpoints):
            if (data, line.name) in results:
                _curve(axis, results[data, line.name], _short(line.name), f"C{number % 10}")
        axis.set(title=_short(data), xlabel="shots", ylabel="percent", ylim=(0, 100))
    shown = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes.flat]
    lines = {name: line for held in shown for line, name in held}
    figure.legend(lines.values(), lines, loc="outside lower center", fontsize="small", ncols=4)
    return figure


def _curve(axis: Any, result: Mapping[str, Any], name: str, color: str) -> None:
    shots = result["shots"]
    mean = np.array([result[f"top1_{each}"] for each in shots])
    half = np.array([result[f"interval_{each}"] or 0.0 for each in shots])
    axis.plot(shots, mean, marker=".", label=name, color=color)
    axis.fill_between(shots, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    axis.set_xticks(shots, [str(each) for each in shots])
    axis.axhline(result["chance"], color="black", linestyle="dotted", linewidth=1)


def _confusions(group: Group) -> Figure:
    """Which numbers are taken for which, a panel for each data set and checkpoint, rows in percent."""
    sets = list(dict.fromkeys(each["data"] for each in group.results))
    names = [line.name for line in group.checkpoints]
    figure, axes = _panels(group.title, len(sets), len(names), 3.0)
    for axis in axes.flat:
        axis.set_axis_off()
    for each in group.results:
        axis = axes[sets.index(each["data"]), names.index(each["checkpoint"])]
        counts = np.array(each["result"]["confusion"], float)
        totals = counts.sum(axis=1, keepdims=True)
        share = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
        numbers = [str(number) for number in range(1, len(counts) + 1)]
        axis.set_axis_on()
        axis.set_xticks(range(len(counts)), numbers, fontsize="x-small")
        axis.set_yticks(range(len(counts)), numbers, fontsize="x-small")
        axis.set(title=f"{_short(each['checkpoint'])}\n{_short(each['data'])}", xlabel="said", ylabel="true")
    figure.colorbar(image, ax=axes, label="percent of the row", shrink=0.8)
    return figure
