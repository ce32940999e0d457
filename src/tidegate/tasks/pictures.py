"""Forecasts against truth, as a PNG and as a page that works offline; and which class is taken for which."""

from __future__ import annotations

import io
import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tidegate.data.atomic import atomic_write
from tidegate.tasks.backtest import Backtest
from tidegate.tasks.fonts import lettered
from tidegate.tasks.metrics import intervals

MOST_PANELS = 4
MOST_NAMES = 40  # classes named along a confusion matrix
BLUE, DARK = "#1f5fa8", "#1b1b1b"
GRID = "rgba(128, 128, 128, 0.25)"  # on light and dark
SHADES = ["#dfe9f5", "#bcd2ea", "#93b6dc", *["#7aa5d3"] * 20]  # the widest interval first
DEEP = ["#1c3550", "#26496f", "#33618f", *["#4478ac"] * 20]  # the same in a dark scheme
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Forecasts</title>
<style>:root { color-scheme: light dark; }
body { margin: 1rem; font: 16px/1.4 system-ui, sans-serif; background: #ffffff; }
h1 { font-size: 1.2rem; color: #1d2329; }
@media (prefers-color-scheme: dark) { body { background: #1b2026; } h1 { color: #e4e8ec; } }</style></head>
<body><h1>Forecasts of the untouched last part, each made with what was known at its start</h1>
@@figure@@</body></html>
"""
# What a trace's meta names is drawn in the reader's scheme.
SCHEME = """
const dark = matchMedia("(prefers-color-scheme: dark)"), plot = document.getElementById("{plot_id}");
const colours = @@colours@@;
function paint() {
  const { ink, median, shades } = colours[dark.matches ? "dark" : "light"];
  const line = plot.data.map(t => t.meta === "truth" ? ink : median);
  const fill = plot.data.map(t => typeof t.meta === "number" ? shades[t.meta] : null);
  Plotly.update(plot, { "line.color": line, fillcolor: fill }, { "font.color": ink });
}
dark.addEventListener("change", paint);
paint();
"""


class _Panel(NamedTuple):
    """One series and target: the truth, and forecasts that follow each other without overlap."""

    title: str
    time: np.ndarray  # (t,)
    truth: np.ndarray  # (t,)
    forecasts: list[tuple[np.ndarray, np.ndarray]]  # times (h,), quantiles (h, Q)


def _panels(test: Backtest, model: str, days: int = 10) -> list[_Panel]:
    """The last forecasts of a few series: at most so many, one after the other."""
    panel, h = test.windows.panel, test.windows.horizon
    quantiles, found = test.quantiles[model], []
    for s in np.unique(test.origins.series)[:MOST_PANELS]:
        rows = np.flatnonzero(test.origins.series == s)
        chosen, free = [], None
        for row in rows[::-1]:  # from the last one back
            if free is None or test.origins.step[row] + h <= free:
                chosen.append(row)
                free = test.origins.step[row]
            if len(chosen) == days:
                break
        chosen = chosen[::-1]
        begin = max(0, int(test.origins.step[chosen[0]]) - 2 * h)
        stop = int(test.origins.step[chosen[-1]]) + h
        at = panel.slice(int(s))
        times = panel.timestamps(int(s))
        for c, target in enumerate(panel.target_names[: max(1, MOST_PANELS // 2)]):
            title = f"{target}, {panel.names[s]}" if panel.names[s] else target
            pieces = [(times[test.origins.step[r] : test.origins.step[r] + h], quantiles[r, :, c]) for r in chosen]
            found.append(_Panel(title, times[begin:stop], panel.targets[at][begin:stop, c], pieces))
    return found[:MOST_PANELS]


def draw_forecasts(test: Backtest, folder: Path, model: str) -> list[Path]:
    """Write ``forecasts.png`` and ``forecasts.html``."""
    panels = _panels(test, model)
    wide = intervals(test.levels)
    png, html = folder / "forecasts.png", folder / "forecasts.html"
    with atomic_write(png) as file:
        file.write(_png(panels, test.levels, wide, model))
    with atomic_write(html) as file:
        file.write(_html(panels, test.levels, wide, model).encode())
    return [png, html]


@lettered
def _png(panels: list[_Panel], levels: list[float], wide: list[tuple[float, float]], model: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.6 + 2.6 * len(panels)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for k, (times, q) in enumerate(panel.forecasts):
            for rank, (low, high) in enumerate(wide):
                axis.fill_between(
                    times,
                    q[:, levels.index(low)],
                    q[:, levels.index(high)],
                    color=SHADES[rank],
                    linewidth=0,
                    label=f"{round(100 * (high - low))}% interval" if k == 0 else None,
                )
            label = f"{model} forecast, median" if k == 0 else None
            axis.plot(times, q[:, levels.index(0.5)], color=BLUE, linewidth=1.6, label=label)
        axis.plot(panel.time, panel.truth, color=DARK, linewidth=1.0, label="what happened")
        axis.set_title(drawn(panel.title), loc="left", fontsize=11)
        axis.margins(x=0.01)
        axis.grid(color="#e4e4e4", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if np.issubdtype(panel.time.dtype, np.datetime64):
            _date_ticks(axis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=5, fontsize=9, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _html(panels: list[_Panel], levels: list[float], wide: list[tuple[float, float]], model: str) -> str:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure: Any = make_subplots(
        rows=len(panels),
        cols=1,
        subplot_titles=[_escape(p.title) for p in panels],
        vertical_spacing=0.3 / (len(panels) + 2),
    )
    for row, panel in enumerate(panels, 1):
        first = row == 1
        for k, (times, q) in enumerate(panel.forecasts):
            for rank, (low, high) in enumerate(wide):
                name = f"{round(100 * (high - low))}% interval"
                figure.add_trace(
                    go.Scatter(
                        x=np.concatenate([times, times[::-1]]),
                        y=np.concatenate([q[:, levels.index(high)], q[::-1, levels.index(low)]]),
                        fill="toself",
                        fillcolor=SHADES[rank],
                        line={"width": 0},
                        hoverinfo="skip",
                        name=name,
                        meta=rank,
                        legendgroup=name,
                        showlegend=first and k == 0,
                    ),
                    row=row,
                    col=1,
                )
            figure.add_trace(
                go.Scatter(
                    x=times,
                    y=q[:, levels.index(0.5)],
                    line={"color": BLUE, "width": 2},
                    name=f"{model} forecast, median",
                    legendgroup="median",
                    showlegend=first and k == 0,
                ),
                row=row,
                col=1,
            )
        figure.add_trace(
            go.Scatter(
                x=panel.time,
                y=panel.truth,
                line={"color": DARK, "width": 1.2},
                name="what happened",
                meta="truth",
                legendgroup="truth",
                showlegend=first,
            ),
            row=row,
            col=1,
        )
    figure.update_layout(
        template="plotly_white",
        height=140 + 280 * len(panels),
        legend={"orientation": "h", "yref": "container", "yanchor": "top", "y": 1, "x": 0},
        margin={"l": 50, "r": 20, "t": 110, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(gridcolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
    colours = {
        "light": {"ink": DARK, "median": BLUE, "shades": SHADES[: len(wide)]},
        "dark": {"ink": "#e4e8ec", "median": "#7db4f0", "shades": DEEP[: len(wide)]},
    }
    script = SCHEME.replace("@@colours@@", json.dumps(colours))
    plot = figure.to_html(include_plotlyjs=True, full_html=False, post_script=script, config={"responsive": True})
    return PAGE.replace("@@figure@@", plot)


def _date_ticks(axis: Any) -> None:
    """Label each tick of an axis of dates by what tells it from the one before, and the first in full."""
    from matplotlib.dates import AutoDateLocator, num2date

    low, high = axis.get_xlim()
    multiples = not 5 <= high - low <= 44  # days; with multiples the 31st and the 1st would both be ticks
    at = np.array(AutoDateLocator(interval_multiples=multiples).tick_values(num2date(low), num2date(high)))
    at = at[(low <= at) & (at <= high)]
    axis.set_xticks(at, _date_labels(num2date(at)))


def _date_labels(times: list[datetime]) -> list[str]:
    """The time, day, month or year; below it the day, month and year where they change."""
    gap = min(((b - a).days for a, b in pairwise(times)), default=0)
    clock = "%H:%M" + ":%S" * any(t.second or t.microsecond for t in times) + ".%f" * any(t.microsecond for t in times)
    forms = [clock, "%d %b", "%Y"] if gap < 1 else ["%d", "%b", "%Y"] if gap < 28 else ["%b", "%Y"]
    labels, before = [], [""]
    for t in times:
        first, *rest = [t.strftime(form.replace("%d", str(t.day))) for form in (forms if gap < 365 else ["%Y"])]
        changed = [] if rest == before else rest if rest[-1:] != before[-1:] else rest[:1]
        labels.append(f"{first}\n{' '.join(changed)}".rstrip())
        before = rest
    return labels


def drawn(text: Any) -> str:
    """Letters as they are: a dollar sign starts no formula, and an underscore hides no label."""
    words = str(text).replace("$", r"\$")
    return f" {words}" if words.startswith("_") else words


def _escape(text: str) -> str:
    """Names come from the user's table; they are shown, never run."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@lettered
def draw_confusion(confusion: list[list[int]], classes: list[Any], form: str, unit: str) -> bytes:
    """The confusion matrix (K, K) as a PNG: colour is the share of a true class, the number is the count."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.array(confusion)  # (K, K)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [drawn(str(c) if len(str(c)) <= 24 else str(c)[:23] + "…") for c in classes]
    k = len(names)
    side = min(14.0, 3.5 + 0.45 * k)
    figure = Figure(figsize=(side, side), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if k <= MOST_NAMES:
        axis.set_xticks(range(k), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axis.set_yticks(range(k), names)
        for row, column in np.ndindex(k, k):
            if counts[row, column]:
                colour = "white" if share[row, column] > 0.5 else "#1b1b1b"
                axis.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xlabel(f"named by {form}")
    axis.set_ylabel("true label")
    axis.set_title(f"{counts.sum():,} untouched {unit}", loc="left", fontsize=11)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
