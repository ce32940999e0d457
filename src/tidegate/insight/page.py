"""Figures as one HTML page that asks nothing of any host: Plotly's own script is part of it.

All text of the data is escaped twice over: for HTML, and for the tags that Plotly reads in labels. A
content security policy lets only the page's own scripts run, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from tidegate.insight.charts import Chart, Figure, Heat, Line, Mark


class Section(NamedTuple):
    """A heading, a sentence and its figures."""

    key: str
    title: str
    text: str
    figures: list[Figure]


def render(title: str, about: Sequence[str], sections: Sequence[Section], *, live: str = "") -> str:
    """The page.

    Parameters
    ----------
    title : str
    about : sequence of str
        Sentences under it.
    sections : sequence of Section
    live : str
        HTML of the lens, with which the page asks its own host and no other.
    """
    body = []
    charts: dict[str, Any] = {}
    for section in sections:
        shown = "\n".join(_figure(figure) for figure in section.figures)
        body.append(
            f'<section id="{html.escape(section.key)}"><h2>{html.escape(section.title)}</h2>'
            f"<p>{html.escape(section.text)}</p>\n{shown}</section>"
        )
        for figure in section.figures:
            charts[figure.key] = {
                "follows": figure.follows,
                "charts": {choice: [chart_json(c) for c in both] for choice, both in figure.charts.items()},
            }
    places = [("lens", "Live")] * bool(live) + [(s.key, s.title) for s in sections]
    links = " ".join(f'<a href="#{html.escape(key)}">{html.escape(name)}</a>' for key, name in places)
    scripts = [_plotly(), asset("page.js"), *([asset("lens.js")] if live else [])]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    connect = "'self'" if live else "'none'"
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": html.escape(policy),
        "title": html.escape(title),
        "style": asset("page.css"),
        "about": "".join(f"<p>{html.escape(sentence)}</p>" for sentence in about),
        "links": links,
        "live": live,
        "body": "\n".join(body),
        "charts": safe_json(charts),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    page = asset("page.html")
    pieces = page.split("@@")  # text, name, text, name, ...
    return "".join(piece if k % 2 == 0 else parts[piece] for k, piece in enumerate(pieces))


def safe_json(value: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain(text: str) -> str:
    """Text as Plotly shows it letter by letter: no tags, no placeholders."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")


def chart_json(chart: Chart | Heat) -> dict[str, Any]:
    """What the page's script draws: title and facts as text, data and layout for Plotly."""
    data, layout = _heat(chart) if isinstance(chart, Heat) else _chart(chart)
    return {"title": chart.title, "facts": chart.facts, "legend": _legend(chart), "data": data, "layout": layout}


def _legend(chart: Chart | Heat) -> list[dict[str, str]]:
    """Each name once, with its colour and shape; as text, beside the plot and not in it."""
    if isinstance(chart, Heat):
        return []
    named = {mark.name: mark for mark in chart.marks if mark.name}
    return [
        {"name": name, "colour": f"@{mark.colour}", "kind": _shape(mark)}
        for name, mark in named.items()
        if len(named) > 1
    ]


def _shape(mark: Mark) -> str:
    if mark.kind == "dots":
        return mark.shape()
    return "dash" if mark.dash else mark.kind


# -- HTML -------------------------------------------------------------------------------------------


def _figure(figure: Figure) -> str:
    key = html.escape(figure.key)
    choice = ""
    if figure.choice:
        options = "".join(
            f'<option value="{html.escape(name)}"{" selected" if name == figure.chosen else ""}>'
            f"{html.escape(_choice(name, figure))}</option>"
            for name in figure.charts
        )
        choice = f'<p class="choice"><label>{html.escape(figure.choice)} <select>{options}</select></label></p>'
    plots = "".join(_side(chart) for chart in figure.shown())
    count = len(figure.shown())
    return (
        f'<figure id="{key}" data-chosen="{html.escape(figure.chosen)}"><h3>{html.escape(figure.title)}</h3>'
        f'<p class="hint">{html.escape(figure.hint)}</p>{choice}<div class="plots{" two" * (count > 1)}">{plots}</div>'
        "</figure>"
    )


def _side(chart: Chart | Heat) -> str:
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in chart.facts)
    return (
        f'<div class="side"><h4>{html.escape(chart.title)}</h4><p class="legend"></p>'
        f'<div class="plot" style="height:{_height(chart)}px"></div><ul class="facts">{facts}</ul></div>'
    )


def _choice(name: str, figure: Figure) -> str:
    if not figure.follows:
        return name
    step = int(name) + 1
    return f"{step} step{'s' if step > 1 else ''} ahead"


def _height(chart: Chart | Heat) -> int:
    return chart.height if isinstance(chart, Chart) else _panel(chart) * len(chart.panels) + 58


def _panel(heat: Heat) -> int:
    """Pixels of one heatmap's height: more than one a unit, where there are many."""
    return min(240, max(118, round(1.4 * len(heat.rows))))


def asset(name: str) -> str:
    """A file of the page."""
    return (files("tidegate.insight") / "web" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


# -- Plotly -----------------------------------------------------------------------------------------


def _chart(chart: Chart) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = [trace for mark in chart.marks for trace in _traces(mark, chart.sideways)]
    value = {"title": {"text": _label(chart.y)}, "automargin": True, "nticks": 6}
    if chart.log_y:
        value |= {"type": "log", "exponentformat": "power"} | _ticks(chart)
    other: dict[str, Any] = {"title": {"text": _label(chart.x, 48)}, "automargin": True}
    first = chart.marks[0].x if chart.marks else np.empty(0)
    if first.dtype.kind == "U":
        other["type"] = "category"
    if chart.sideways:
        layout: dict[str, Any] = {"xaxis": value, "yaxis": other | {"autorange": "reversed"}}
    else:
        layout = {"xaxis": other, "yaxis": value}
    layout |= {"height": chart.height, "barmode": "relative", "showlegend": False, "hovermode": "closest"}
    if not chart.sideways:
        layout["hovermode"] = "x"
        layout |= _lines(chart.lines, "y")
    return data, layout


def _label(text: str, most: int = 34) -> str:
    """An axis has room for so many letters; the whole name stands in the text."""
    return plain(text if len(text) <= most else text[: most - 1] + "…")


def _ticks(chart: Chart) -> dict[str, Any]:
    """Powers of ten on a logarithmic axis; 2 and 5 too, or every digit, where all lies within few of them."""
    seen = np.concatenate([m.y[np.isfinite(m.y) & (m.y > 0)] for m in chart.marks] or [np.ones(1)])
    low, high = (float(np.log10(f(seen))) for f in (np.min, np.max)) if len(seen) else (0.0, 0.0)
    if high - low >= 2:
        return {"dtick": max(1, round((high - low) / 6))}
    digits = range(1, 10) if high - low < 0.6 else (1, 2, 5)
    values = [float(f"{digit}e{power}") for power in range(int(low) - 1, int(high) + 2) for digit in digits]
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def _traces(mark: Mark, sideways: bool) -> list[dict[str, Any]]:
    x, y, colour = as_json(mark.x), as_json(mark.y), f"@{mark.colour}"
    name: dict[str, Any] = {"name": plain(mark.name), "opacity": mark.strong}
    if mark.kind == "bars":
        along = {"x": y, "y": x, "orientation": "h"} if sideways else {"x": x, "y": y}
        return [{"type": "bar", "marker": {"color": colour, "line": {"width": 0}}, **along, **name}]
    if mark.kind == "band":
        assert mark.low is not None
        around = {"x": x + x[::-1], "y": y + as_json(mark.low)[::-1], "fill": "toself", "fillcolor": colour}
        line = {"width": 0, "color": colour}
        return [{"type": "scatter", "mode": "lines", "line": line, "hoverinfo": "skip", **around, **name}]
    shape: dict[str, Any] = {"type": "scatter", "mode": "lines", "line": {"color": colour, "width": 2}}
    if mark.kind == "dots":
        what = mark.shape()
        marker: dict[str, Any] = {"color": colour, "size": 6, "symbol": "circle"}
        if what == "ring":
            marker |= {"color": "@sheet", "size": 9, "line": {"color": colour, "width": 2}}
        elif what == "diamond":
            marker |= {"size": 8, "symbol": "diamond", "line": {"color": "@sheet", "width": 1}}
        shape = {"type": "scatter", "mode": "markers", "marker": marker}
    elif mark.dash:
        shape["line"]["dash"] = "dot"
    if mark.keys is not None:
        shape["customdata"] = mark.keys
    return [{"x": x, "y": y, **shape, **name}]


def _lines(lines: list[Line], axis: str) -> dict[str, Any]:
    """Vertical lines, each with its word at the top."""
    shapes, words = [], []
    for k, line in enumerate(lines):
        x = as_json(np.array([line.x]))[0]
        style = {"color": "@ink", "width": 1, "dash": "dash"}
        shapes.append({"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": style})
        right = k == len(lines) - 1 and len(lines) > 1
        words.append(
            {
                "x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": "left" if right else "right",
                "text": plain(line.text), "showarrow": False, "font": {"size": 11},
            }
        )  # fmt: skip
    return {"shapes": shapes, "annotations": words}


def _heat(heat: Heat) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    count = len(heat.panels)
    height = _panel(heat) * count + 58
    gap = 26 / height
    each = (1.0 - gap * count) / count
    columns = as_json(heat.columns)
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"height": height, "margin": {"t": 8, "b": 50, "l": 40, "r": 60}, "hovermode": "closest"}
    notes = []
    for k, panel in enumerate(heat.panels):
        values, texts = panel.ticks()
        number = "" if k == 0 else str(k + 1)
        top = 1.0 - k * (each + gap) - gap
        layout[f"yaxis{number}"] = {
            "domain": [top - each, top], "showticklabels": False, "anchor": "x", "ticks": "", "autorange": "reversed",
            "title": {"text": plain(heat.y) if k == 0 else ""},
        }  # fmt: skip
        data.append(
            {
                "type": "heatmap", "x": columns, "y": [plain(row) for row in heat.rows], "z": _typed(panel.values),
                "zmin": -panel.limit if panel.signed else 0.0, "zmax": panel.limit, "zsmooth": False,
                "colorscale": "@diverging" if panel.signed else "@sequential", "yaxis": f"y{number}", "xaxis": "x",
                "colorbar": {
                    "len": each, "y": top - each / 2, "thickness": 8, "x": 1.01, "tickvals": values, "ticktext": texts,
                },
                "hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>", "name": plain(panel.name),
            }
        )  # fmt: skip
        notes.append(
            {
                "text": plain(panel.name), "x": 0, "xref": "paper", "xanchor": "left", "y": top, "yref": "paper",
                "yanchor": "bottom", "showarrow": False, "font": {"size": 12},
            }
        )  # fmt: skip
    bottom = layout[f"yaxis{count if count > 1 else ''}"]["domain"][0]
    layout["xaxis"] = {"anchor": "free", "position": max(0.0, bottom), "nticks": 5, "title": {"text": plain(heat.x)}}
    marks = _lines(heat.lines, "paper")
    layout |= {"shapes": marks["shapes"], "annotations": notes}
    return data, layout


def as_json(values: np.ndarray) -> list[Any]:
    """JSON's own types; what is not a number is null, times are ISO 8601."""
    values = np.asarray(values)
    if values.dtype.kind == "M":
        return time_text(values)
    if values.dtype.kind in "UO":
        return [plain(str(v)) for v in values.tolist()]
    if values.dtype.kind == "f":
        return [None if not np.isfinite(v) else float(f"{v:.6g}") for v in values.tolist()]
    return values.tolist()


def time_text(times: np.ndarray) -> list[str]:
    """Moments as text: ISO 8601 to the second (finer where they are), or whole numbers."""
    if times.dtype.kind != "M":
        return [str(time) for time in times.tolist()]
    whole = (times == times.astype("datetime64[s]")).all()
    return np.datetime_as_string(times, unit="s" if whole else "us").tolist()


def _typed(values: np.ndarray) -> dict[str, Any]:
    """An array as Plotly reads it from base64, small and fast."""
    data = np.ascontiguousarray(values, dtype="<f4")
    return {"dtype": "f4", "bdata": base64.b64encode(data.tobytes()).decode(), "shape": ", ".join(map(str, data.shape))}
