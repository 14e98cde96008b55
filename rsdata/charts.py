"""The charts of a page: matplotlib's SVG, made to stand in HTML.

Colours are those of the page's style, so that one chart suits a light and a dark screen; text stays text.
The same data gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 5.4
"""Inches of a chart across: as many that its text is not too small on a phone."""

_INK, _SOFT, _LINE, _ACCENT, _WARN = (f"#0{each}0{each}0{each}" for each in (1, 2, 3, 4, 5))
_VARIABLES = {
    _INK: "currentColor",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _ACCENT: "var(--accent)",
    _WARN: "var(--warn)",
}
"""What stands for each colour until the page gives it one."""
_SERIES = (_ACCENT, _WARN, "#8464c8", "#4f9a3c", "#c4568f")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rsdata",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "grid.color": _LINE,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.transparent": True,
}


def bars(counts: Mapping[str, int], unit: str, *, log: bool = False) -> str:
    """A horizontal bar a name, the first on top. log: the lengths are of the logarithm."""

    def draw(axes: Axes) -> None:
        names = [_name(name) for name in counts]
        places = range(len(names))
        axes.barh(places, list(counts.values()), 0.72, color=_ACCENT)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{unit} (log)" if log else unit)
        if log:
            axes.set_xscale("log")
            axes.set_xlim(left=0.7)
        (_plain if log else _thousands)(axes.xaxis)
        axes.grid(axis="x")

    return _svg(draw, 0.8 + 0.22 * max(len(counts), 2), f"{unit} by name")


def steps(
    series: Mapping[str, Sequence[tuple[float, float]]], across: str, unit: str, reference: str = ""
) -> str:
    """Shares in per cent of each value of each series, as stairs. reference: the series that is an area."""

    def draw(axes: Axes) -> None:
        colours = iter(_SERIES)
        for name, held in series.items():
            total = sum(count for _, count in held) or 1
            shares = {int(value): 100 * count / total for value, count in held}
            first, last = min(shares, default=0), max(shares, default=0)
            heights = [shares.get(value, 0) for value in range(first, last + 1)]
            edges = [value - 0.5 for value in range(first, last + 2)]
            back = name == reference
            axes.stairs(
                heights,
                edges,
                fill=back,
                color=_LINE if back else next(colours, _SOFT),
                label=_name(name),
                linewidth=0 if back else 1.5,
                zorder=1 if back else 2,
            )
        axes.set(xlabel=across, ylabel=unit, ylim=(0, None))
        axes.legend(fontsize="small", labelcolor=_INK)
        axes.grid(axis="y")

    return _svg(draw, 3.1, f"{unit} by {across}")


def histogram(held: Sequence[tuple[float, float]], across: str, unit: str, bins: int = 60) -> str:
    """Counts of whole numbers, put together so that there are no more than `bins` columns."""

    def draw(axes: Axes) -> None:
        last = int(max(value for value, _ in held))
        width = -(-(last + 1) // bins)
        columns: dict[int, float] = {}
        for value, count in held:
            columns[int(value) // width] = columns.get(int(value) // width, 0) + count
        places = [(column + 0.5) * width - 0.5 for column in columns]
        axes.bar(places, list(columns.values()), 0.9 * width, color=_ACCENT)
        axes.set_xlim(-0.7 * width, max(last, 5) + 0.7 * width)
        axes.set(xlabel=across, ylabel=unit)
        _thousands(axes.xaxis)
        _thousands(axes.yaxis)
        axes.grid(axis="y")

    return _svg(draw, 3.1, f"{unit} by {across}")


def octaves(held: Sequence[tuple[float, float]], across: str, unit: str, parts: int) -> str:
    """Counts by the lower edge of their bin on a logarithmic axis, `parts` bins to an octave."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator

        edges = [edge for edge, _ in held]
        widths = [edge * (2 ** (1 / parts) - 1) for edge in edges]
        axes.bar(edges, [count for _, count in held], widths, align="edge", color=_ACCENT)
        axes.set_xscale("log")
        axes.set_xlim(edges[0] / 1.3, edges[-1] * 1.3)
        axes.set(xlabel=f"{across} (log)", ylabel=unit)
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        _plain(axes.xaxis)
        _thousands(axes.yaxis)
        axes.grid(axis="y")

    return _svg(draw, 3.1, f"{unit} by {across}")


def heat(counts: Sequence[Sequence[int]], unit: str) -> str:
    """A map of counts, the first row on top: the more, the more solid."""

    def draw(axes: Axes) -> None:
        import numpy as np

        held = np.array(counts, float)
        pixels = np.zeros((*held.shape, 4), np.uint8)
        pixels[..., :3] = (26, 140, 163)
        pixels[..., 3] = np.round(255 * held / max(held.max(), 1))
        axes.imshow(pixels, interpolation="none", extent=(0, 1, 1, 0))
        for spine in axes.spines.values():
            spine.set_visible(True)
        axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), xlabel="share of the width", ylabel="of the height")

    return _svg(draw, 4.2, unit)


def _name(name: str) -> str:
    """A name for a chart; legends leave out what begins with an underscore."""
    name = "".join(each if each.isprintable() else " " for each in name)
    return " " * name.startswith("_") + (name if len(name) <= 30 else f"{name[:29]}…")


def _thousands(axis: Any) -> None:
    """Few ticks, at round whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 5, 10), min_n_ticks=1))
    _plain(axis)


def _plain(axis: Any) -> None:
    """Numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _svg(draw: Callable[[Axes], None], high: float, what: str) -> str:
    """What `draw` puts on axes `high` inches high, as an SVG element named `what`."""
    import matplotlib
    from matplotlib.figure import Figure

    held = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDE, high), layout="constrained")
        draw(figure.subplots())
        figure.savefig(held, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(held.getvalue(), what)


def _inline(svg: str, what: str) -> str:
    """An SVG document as an element of a page: no address, no style sheet, no id that is of no use."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<(metadata|style)\b.*?</\1>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', svg))

    def tag(found: re.Match[str]) -> str:
        held = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", found[0]).replace("xlink:href", "href")
        held = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", held)
        held = re.sub(r"font-family: [^;]*; ", "", held)
        for colour, variable in _VARIABLES.items():
            held = held.replace(colour, variable)
        return held

    svg = re.sub(r"<[^>]*>", tag, svg)
    head, end, rest = svg.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(what)}"{end}{rest}'
