"""Figures as PNGs, for documents and mail."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from tidegate.insight.charts import Chart, Figure, Heat, Mark
from tidegate.tasks.fonts import lettered
from tidegate.tasks.pictures import drawn

COLOURS = {
    "trained": "#1f6fc0", "control": "#9099a3", "rnn": "#d9711c", "path": "#23905a", "ink": "#1d2329",
    "gain": "#2a78c4", "loss": "#d4553b", "erased": "#8a5cc2", "replaced": "#c98a00",
}  # fmt: skip
PAPER = "#ffffff"
MOST_NAMES = 12  # rows of a heat map that are named
MOST_STEPS = 20  # steps with a name each, such as a text's bytes, that are all named


@lettered
def png(figure: Figure) -> bytes:
    """The figure as it is first shown, the trained and the untrained model side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from PIL import Image

    charts = figure.shown()
    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)
    tall = max(1.3 * len(c.panels) if isinstance(c, Heat) else 3.4 for c in charts)
    canvas = Canvas(figsize=(11, tall * rows + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(drawn(figure.title), x=0.01, ha="left", fontsize=12)
    for part, chart in zip(canvas.subfigures(rows, columns, squeeze=False).flat, charts, strict=False):
        if isinstance(chart, Heat):
            _draw_heat(part, chart)
        else:
            _draw(part, chart)
    data, small = io.BytesIO(), io.BytesIO()
    canvas.savefig(data, format="png")
    Image.open(data).convert("RGB").quantize(128).save(small, format="png", optimize=True)  # a third of the size
    return small.getvalue()


def _draw(part: Any, chart: Chart) -> None:
    from matplotlib.ticker import LogFormatter

    axis = part.subplots()
    for mark in chart.marks:
        _draw_mark(axis, mark, chart.sideways)
    for line in chart.lines:
        axis.axvline(line.x, color=COLOURS["ink"], linewidth=0.8, linestyle="--")
    value, other = (axis.set_xlabel, axis.set_ylabel) if chart.sideways else (axis.set_ylabel, axis.set_xlabel)
    value(drawn(chart.y), fontsize=9)
    other(drawn(chart.x), fontsize=9)
    if chart.log_y:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(LogFormatter())
        axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    if chart.sideways:
        axis.invert_yaxis()
    if not chart.sideways:
        _times(axis, chart.marks[0].x if chart.marks else np.empty(0))
    axis.set_title(drawn(chart.title), loc="left", fontsize=10)
    axis.grid(color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if len({mark.name for mark in chart.marks if mark.name}) > 1:
        axis.legend(fontsize=8, frameon=True, framealpha=0.8, edgecolor="none", loc="best")


def _draw_mark(axis: Any, mark: Mark, sideways: bool) -> None:
    colour, label = COLOURS[mark.colour], drawn(mark.name) or None
    x = np.array([drawn(v) for v in mark.x]) if mark.x.dtype.kind == "U" else mark.x
    if mark.kind == "bars" and sideways:
        axis.barh(x, mark.y, color=colour, label=label)
    elif mark.kind == "bars":
        width = 0.8 * (x[1] - x[0]) if len(x) > 1 and x.dtype.kind != "U" else 0.8
        axis.bar(x, mark.y, width=width, color=colour, label=label)
    elif mark.kind == "band":
        axis.fill_between(x, mark.low, mark.y, color=colour, alpha=mark.strong, linewidth=0, label=label)
    elif mark.kind == "dots":
        shape = mark.shape()
        looks = {"dot": (colour, colour, 8), "ring": (PAPER, colour, 32), "diamond": (colour, PAPER, 20)}
        face, edge, size = looks[shape]
        symbol = "D" if shape == "diamond" else "o"
        colours = {"facecolors": face, "edgecolors": edge}
        axis.scatter(x, mark.y, s=size, marker=symbol, label=label, zorder=3, linewidths=1, **colours)
    else:
        style = {"linestyle": ":" if mark.dash else "-", "alpha": mark.strong}
        axis.plot(x, mark.y, color=colour, linewidth=1.6, label=label, **style)


def _draw_heat(part: Any, heat: Heat) -> None:
    axes = part.subplots(len(heat.panels), 1, squeeze=False, sharex=True)[:, 0]
    part.suptitle(drawn(heat.title), x=0.02, ha="left", fontsize=10)
    for axis, panel in zip(axes, heat.panels, strict=True):
        low = -panel.limit if panel.signed else 0.0
        colours = "RdBu" if panel.signed else "Blues"
        rows = np.arange(len(heat.rows)) if len(heat.rows) == len(panel.values) else np.arange(len(panel.values))
        shown = axis.pcolormesh(
            heat.columns, rows, panel.values, vmin=low, vmax=panel.limit, cmap=colours, shading="nearest"
        )
        bar = part.colorbar(shown, ax=axis, pad=0.01, aspect=12)
        values, texts = panel.ticks()
        bar.set_ticks(values, labels=texts)
        bar.ax.tick_params(labelsize=7)
        axis.set_title(drawn(panel.name), loc="left", fontsize=8, pad=2)
        named = len(rows) <= MOST_NAMES and len(heat.rows) == len(rows)
        axis.set_yticks(rows if named else [], labels=[drawn(name) for name in heat.rows] if named else [])
        axis.invert_yaxis()  # the first row on top
        axis.tick_params(labelsize=7)
        for line in heat.lines:
            axis.axvline(line.x, color=COLOURS["ink"], linewidth=0.8, linestyle="--")
    axes[0].set_ylabel(drawn(heat.y), fontsize=8)
    axes[-1].set_xlabel(drawn(heat.x), fontsize=8)
    _times(axes[-1], heat.columns)


def _times(axis: Any, x: np.ndarray) -> None:
    if np.issubdtype(x.dtype, np.datetime64):
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=3, maxticks=8)  # no closer: two weeks are its longest step below a month
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    elif x.dtype.kind in "iu" and len(x):
        from matplotlib.ticker import MaxNLocator

        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif x.dtype.kind == "U" and len(x) > MOST_STEPS:
        from matplotlib.ticker import FixedLocator

        axis.xaxis.set_major_locator(FixedLocator(range(0, len(x), -(-len(x) // (MOST_STEPS // 2)))))
