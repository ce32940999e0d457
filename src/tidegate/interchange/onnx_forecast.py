"""A trained forecaster as one ONNX model: the table's own units in, the table's own units out.

In the graph are scaling, missing values, differences from the last known value, the values a season
ago, the network, the widening of its intervals, and the way back to the table's units. Outside stay
the grid of time, the calendar's features and the choice of the context; the model's metadata says how.

B windows, N steps of history, h steps of horizon, T = N + h, M = N + season steps of context,
C targets, K known and P past covariates, Q static features, F calendar features, S series, Z quantiles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.data.calendar import calendar_features
from tidegate.data.windows import COVARIATE_LIMIT, Origins, Windows
from tidegate.errors import DataError, InterchangeError
from tidegate.interchange.onnx_export import refuse_dtype
from tidegate.interchange.onnx_graph import TOLERANCE, Exported, Graph, run, start, write
from tidegate.layer import LSTM
from tidegate.tasks import calibration
from tidegate.tasks.metrics import intervals

if TYPE_CHECKING:
    from tidegate.tasks.forecast import Forecaster

CHECKED = 64  # windows compared before a file is written
_CALENDAR = (
    "Sine and cosine of 2 pi times: the part of the day passed (hour); whole days since Monday / 7 (weekday); the part "
    "of the year passed (yearday); weekend is 1 on Saturday and Sunday. By the clock of the table's times, in UTC "
    "where they had an offset."
)


def export_forecaster(forecaster: Forecaster, path: str | Path, data: Any = None, opset: int | None = None) -> Exported:
    """Write a trained forecaster, once onnxruntime has given what Python gives on windows of ``data``.

    See :meth:`tidegate.Forecaster.export_onnx`.
    """
    if forecaster.resolved_.cell != "lstm" or not isinstance(forecaster.model_.recurrent, LSTM):
        raise InterchangeError(
            f"a forecaster with the cell {forecaster.resolved_.cell!r} is there to be compared with; only one with "
            "'lstm' is exported"
        )
    refuse_dtype(forecaster.model_.recurrent)
    if data is None and getattr(forecaster, "windows_", None) is None and forecaster.in_memory:
        raise DataError("an export is checked on data: this model was fitted on a data frame, which it does not keep")
    windows = forecaster.windows_for(data)
    data_, version, session = start(_graph(forecaster, windows), _metadata(forecaster, windows), opset)
    origins = _sample(forecaster, windows)
    feeds = onnx_inputs(forecaster, windows, origins)
    found = run(session, feeds)[0]
    expected = predicted(forecaster, windows, origins)
    # One target may be in millions and another in thousandths: each is judged by its own size.
    spread = windows.scaling.target[origins.series][:, None, :, None, 1]
    error = np.abs(found - expected) / np.maximum(np.abs(expected), spread)
    worst = float(error.max()) if np.isfinite(error).all() else np.inf
    if worst > TOLERANCE:
        raise InterchangeError(
            f"onnxruntime's forecasts differ from tidegate's by {worst:.1e} of their size, more than {TOLERANCE:.0e}; "
            "nothing was written"
        )
    return Exported(write(path, data_), version, len(origins), worst)


def predicted(forecaster: Forecaster, windows: Windows, origins: Origins) -> np.ndarray:
    """Quantiles (B, h, C, Z) in the table's units, as ``predict`` gives them."""
    levels = forecaster.config.quantiles
    quantiles = forecaster.quantiles(windows, origins)
    return windows.unscale(calibration.widen(quantiles, forecaster.calibration_["margins"], levels), origins.series)


def onnx_inputs(forecaster: Forecaster, windows: Windows, origins: Origins) -> dict[str, np.ndarray]:
    """What the exported model reads for forecasts from some origins, in the table's units; NaN where missing."""
    panel, h = windows.panel, windows.horizon
    history, context = windows.history, windows.history + windows.season

    def cut(flat: np.ndarray, before: int, after: int) -> np.ndarray:
        steps = origins.step[:, None] + np.arange(-before, after)  # (B, steps)
        inside = (steps >= 0) & (steps < panel.lengths[origins.series][:, None])
        rows = panel.offsets[origins.series][:, None] + steps
        values = flat[np.clip(rows, 0, len(flat) - 1)]
        return np.where(inside[..., None], values, np.nan).astype(np.float32)

    feeds = {"target": cut(panel.targets, context, 0)}
    if panel.known_names:
        feeds["known"] = cut(panel.known, history, h)
    if panel.past_names:
        feeds["past"] = cut(panel.past, history, 0)
    if forecaster.calendar_:
        index = (panel.first[origins.series] + origins.step)[:, None] + np.arange(-history, h)
        features = calendar_features(panel.grid, index.reshape(-1), forecaster.calendar_)
        feeds["calendar"] = features.reshape(*index.shape, -1)
    if panel.static_names:
        feeds["static"] = panel.static[origins.series]
    if len(forecaster.scaling_.names) > 1:
        place = {name: k for k, name in enumerate(forecaster.scaling_.names)}
        feeds["series"] = np.array([place[panel.names[s]] for s in origins.series], np.int64)
    return feeds


def _sample(forecaster: Forecaster, windows: Windows) -> Origins:
    """Origins of known series, evenly over the time, and the latest of each series."""
    every = windows.origins(windows.start, windows.end, observed=False)
    seen = set(forecaster.scaling_.names)
    known = np.array([name in seen for name in windows.panel.names])
    every = every.take(known[every.series] & (every.step > 0))
    if not len(every):
        raise DataError("the check of an export needs data of a series that the model was trained on; there is none")
    chosen = np.linspace(0, len(every) - 1, min(CHECKED, len(every))).astype(int)
    last = np.flatnonzero(np.diff(every.series, append=-1))[:CHECKED]
    return every.take(np.unique(np.concatenate([chosen, last])))


def _graph(forecaster: Forecaster, windows: Windows) -> Graph:
    c, names = forecaster.resolved_, windows.panel
    targets, known, past, static = (
        len(n) for n in (names.target_names, names.known_names, names.past_names, names.static_names)
    )
    n, h, season = windows.history, windows.horizon, windows.season
    steps, context = n + h, n + season
    scaling = forecaster.scaling_
    g = Graph("forecaster", "A forecaster trained by tidegate. The metadata tidegate.forecaster describes its inputs.")
    raw = {"target": g.input("target", np.float32, ["batch", context, targets], "targets up to now; NaN is missing")}
    if known:
        raw["known"] = g.input("known", np.float32, ["batch", steps, known], "covariates, future steps included")
    if past:
        raw["past"] = g.input("past", np.float32, ["batch", n, past], "covariates up to now")
    if forecaster.calendar_:
        width = len(forecaster.calendar_)
        raw["calendar"] = g.input("calendar", np.float32, ["batch", steps, width], "features of the calendar")
    if static:
        raw["static"] = g.input("static", np.float32, ["batch", static], "features of the series")
    row = ""
    if len(scaling.names) > 1:
        series = g.input("series", np.int64, ["batch"], "place in the metadata's list of series")
        negative = g.add("Less", series, g.constant(0, np.int64))  # which would count from the end
        row = g.add("Where", negative, g.constant(len(scaling.names), np.int64), series)

    def of_series(table: np.ndarray, which: int) -> str:
        """Mean (0) or spread (1) of each window's series: (B, 1, n), or (1, 1, n) for a single series."""
        if not row:
            return g.constant(table[:1, None, :, which])
        return g.add("Unsqueeze", g.add("Gather", g.constant(table[..., which]), row, axis=0), g.whole(1))

    mean, spread = of_series(scaling.target, 0), of_series(scaling.target, 1)  # (B, 1, C)
    value, seen = _scaled(g, raw["target"], mean, spread, limit=None)  # (B, M, C)
    now, now_seen = g.slice(value, season, context, 1), g.slice(seen, season, context, 1)  # (B, N, C)
    last = _latest(g, now, now_seen, n, targets)  # (B, 1, C)
    ahead = np.maximum(np.arange(-n, h), 0)
    lags = g.constant(np.arange(-n, h) - season * (1 + ahead // season) + context, np.int64)
    lag, lag_seen = (g.add("Gather", v, lags, axis=1) for v in (value, seen))  # (B, T, C)
    parts = [
        *(_until_now(g, _off(g, now, last, now_seen), h), _until_now(g, now_seen, h)),
        *(_off(g, lag, last, lag_seen), lag_seen),
    ]
    if known:
        parts += _scaled(g, raw["known"], g.constant(scaling.known[:, 0]), g.constant(scaling.known[:, 1]))
    if past:
        level_of, level_seen = _scaled(g, raw["past"], of_series(scaling.past, 0), of_series(scaling.past, 1))
        level = _latest(g, level_of, level_seen, n, past)
        parts += [_until_now(g, _off(g, level_of, level, level_seen), h), _until_now(g, level_seen, h)]
    if forecaster.calendar_:
        parts.append(raw["calendar"])
    if static:
        mean_of, spread_of = (g.constant(scaling.static[:, k]) for k in (0, 1))
        still, _ = _scaled(g, raw["static"], mean_of, spread_of, limit=None)
        parts.append(g.add("Mul", g.add("Unsqueeze", still, g.whole(1)), g.constant(np.ones((1, steps, 1)))))
    future = (np.arange(-n, h) >= 0)[None, :, None]
    nothing = g.add("Mul", g.slice(lag_seen, 0, 1, 2), g.constant(0))  # (B, T, 1): brings the batch
    parts.append(g.add("Add", nothing, g.constant(future)))
    x = g.add("Transpose", g.add("Concat", *parts, axis=2), perm=[1, 0, 2])  # (T, B, I)
    quantiles = _network(g, forecaster, x, last)  # (B, h, C, Z)
    wide = _widened(g, quantiles, forecaster)
    mean, spread = (g.add("Unsqueeze", v, g.whole(3)) for v in (mean, spread))  # (B, 1, C, 1)
    g.add("Add", g.add("Mul", wide, spread), mean, name="forecast")
    shape: list[int | str] = ["batch", h, targets, len(c.quantiles)]
    g.output("forecast", np.float32, shape, "quantiles of each future step, in the table's units")
    return g


def _scaled(g: Graph, x: str, mean: str, spread: str, limit: float | None = COVARIATE_LIMIT) -> tuple[str, str]:
    """Scaled values and whether they are known; 0 where they are not."""
    value = g.add("Div", g.add("Sub", x, mean), spread)
    known = g.add("Less", g.add("Abs", value), g.constant(np.inf))  # false for NaN too
    value = g.add("Where", known, value, g.constant(0))
    if limit is not None:
        value = g.add("Clip", value, g.constant(-limit), g.constant(limit))
    return value, g.add("Cast", known, to=1)  # float32


def _latest(g: Graph, value: str, seen: str, steps: int, columns: int) -> str:
    """The last known value of each column, (B, t, n) to (B, 1, n); 0 where there is none."""
    order = g.add("Mul", seen, g.constant(np.arange(1, steps + 1)[None, :, None] * np.ones((1, 1, columns))))
    at = g.add("ArgMax", order, axis=1, keepdims=1)  # (B, 1, n)
    return g.add("GatherElements", value, at, axis=1)  # the first, which is 0, where all are unknown


def _off(g: Graph, value: str, level: str, seen: str) -> str:
    return g.add("Mul", g.add("Sub", value, level), seen)


def _until_now(g: Graph, x: str, horizon: int) -> str:
    """Zeros for the future: (B, N, n) to (B, T, n)."""
    return g.add("Pad", x, g.whole(0, 0, 0, 0, horizon, 0))


def _network(g: Graph, forecaster: Forecaster, x: str, last: str) -> str:
    """``ForecastNet.forward`` in evaluation mode."""
    net, levels = forecaster.model_, len(forecaster.resolved_.quantiles)
    assert isinstance(net.recurrent, LSTM)
    top, _, _ = g.lstm(net.recurrent, x, "", "", "")
    assert forecaster.resolved_.history is not None
    steps = forecaster.resolved_.history + net.horizon
    hidden = g.slice(g.joined(top, 1, net.recurrent.hidden_size), steps - net.horizon, steps, 0)  # (h, B, H)
    weight, bias = (p.detach().cpu().numpy() for p in (net.head.weight, net.head.bias))
    said = g.add("Add", g.add("MatMul", hidden, g.constant(weight.T)), g.constant(bias))
    said = g.add("Transpose", said, perm=[1, 0, 2])
    said = g.add("Reshape", said, g.whole(0, net.horizon, net.targets, levels))  # (B, h, C, Z)
    m, axis = net.median, g.constant(3, np.int64)
    middle = g.slice(said, m, m + 1, 3)
    up = g.add("CumSum", g.add("Softplus", g.slice(said, m + 1, levels, 3)), axis)
    down = g.add("CumSum", g.add("Softplus", g.slice(said, 0, m, 3)), axis, reverse=1)
    joined = g.add("Concat", g.add("Sub", middle, down), middle, g.add("Add", middle, up), axis=3)
    return g.add("Add", joined, g.add("Unsqueeze", last, g.whole(3)))


def _widened(g: Graph, quantiles: str, forecaster: Forecaster) -> str:
    """``calibration.widen``: the ends of each interval moved out, and put in order again."""
    levels = forecaster.config.quantiles
    margins = forecaster.calibration_["margins"]  # (h, C, K)
    shift = np.zeros((*margins.shape[:2], len(levels)))
    for k, (low, high) in enumerate(intervals(levels)):
        shift[..., levels.index(low)] -= margins[..., k]
        shift[..., levels.index(high)] += margins[..., k]
    wide = g.add("Add", quantiles, g.constant(shift[None]))
    m, count = levels.index(0.5), len(levels)
    centre = g.slice(wide, m, m + 1, 3)
    below = g.sorted(g.add("Min", g.slice(wide, 0, m, 3), centre), m)
    above = g.sorted(g.add("Max", g.slice(wide, m + 1, count, 3), centre), count - m - 1)
    return g.add("Concat", below, centre, above, axis=3)


def _metadata(forecaster: Forecaster, windows: Windows) -> dict[str, str]:
    """What a user of the file needs to know, as JSON under one key."""
    panel, c = windows.panel, forecaster.resolved_
    n, h, season = windows.history, windows.horizon, windows.season
    to_now, whole = f"the {n} steps before the forecast", f"the {n} steps before the forecast and the {h} forecast"
    facts: dict[str, Any] = {
        "inputs": {
            "target": {
                "columns": panel.target_names,
                "steps": f"the {n + season} steps before the first one forecast, oldest first; NaN where missing",
            },
            "known": {"columns": panel.known_names, "steps": f"{whole}; NaN where missing"},
            "past": {"columns": panel.past_names, "steps": f"{to_now}; NaN where missing"},
            "calendar": {"columns": forecaster.calendar_, "steps": whole, "meaning": _CALENDAR},
            "static": {
                "columns": panel.static_names,
                "meaning": "numbers as they are; column=category is 1 for that category and 0 for others",
            },
            "series": {
                "names": forecaster.scaling_.names,
                "meaning": "place in names; others have no scaling",
            },
        },
        "output": {"columns": panel.target_names, "quantiles": c.quantiles, "horizon": h},
        "grid": panel.grid.to_dict(),
        "history": n,
        "season": season,
    }
    present = {"target"} | {k for k in ("known", "past", "calendar", "static") if facts["inputs"][k]["columns"]}
    if len(forecaster.scaling_.names) > 1:
        present.add("series")
    facts["inputs"] = {k: v for k, v in facts["inputs"].items() if k in present}
    return {"tidegate.forecaster": json.dumps(facts)}
