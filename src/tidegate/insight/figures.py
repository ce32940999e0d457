"""From results to figures: what each one shows, and the sentence that says what to look for.

T steps, H hidden units, Q quantiles, n columns.
"""

from __future__ import annotations

import numpy as np

from tidegate.insight.charts import Chart, Colour, Figure, Heat, Line, Mark, Panel
from tidegate.insight.gap import Agreement
from tidegate.insight.order import block, blocks, thin
from tidegate.insight.study import Case, Moment, Side, Study, View
from tidegate.ops import LayerTrace

_GATES = (("input", False), ("forget", False), ("candidate", True), ("output", False), ("cell", True), ("hidden", True))
_GATE_NAMES = {
    "input": "input gate: how much is added",
    "forget": "forget gate: how much is kept",
    "candidate": "candidate: what is added",
    "output": "output gate: how much is shown",
    "cell": "long-term memory c",
    "hidden": "short-term memory h",
}
TRAINED, CONTROL = "trained", "untrained"
GAP_HINT = (
    "The ledger holds all gates fixed, so a step that acts only by moving a gate gets no credit: the diamonds "
    "say what really changes when a step's input is taken away, the circles when only its write is."
)


def page_figures(study: Study) -> list[Figure]:
    """Those over all windows, in the order of the page."""
    return [
        history_figure(study),
        lag_figure(study),
        half_life_figure(study),
        flow_figure(study),
        ablation_figure(study),
    ]


def case_figures(study: Study, number: int) -> list[Figure]:
    """Those of one of the worst windows."""
    case, key = study.cases[number], f"case{number + 1}"
    return [
        forecast_figure(study, case, key),
        ledger_figure(study, case, key),
        gates_figure(study, case, key),
        attribution_figure(study, case, key),
    ]


# -- over all windows -----------------------------------------------------------------------------


def history_figure(study: Study) -> Figure:
    """Score against the amount of history kept."""
    marks, facts = [], []
    for side, name, colour in _sides(study):
        scores = np.nanmean(side.history.scores, 1)
        whole = float(np.nanmean(side.history.whole))
        marks.append(Mark("line", side.history.kept.astype(str), scores, name, colour))
        marks.append(Mark("dots", side.history.kept.astype(str), scores, "", colour))
        enough = side.history.kept[np.flatnonzero(scores <= 1.05 * whole)]
        least = f"; within 5% of it from {enough[0]} {_steps(study)} on" if len(enough) else ""
        facts.append(f"{name}: {whole:.3g} with all of its history, {scores[0]:.3g} with none{least}.")
    return _one(
        "history",
        "How much history does the forecast need?",
        "The memory is emptied so many steps before the forecast starts: look for where the line becomes flat, as "
        "what lies further back is not used. It cannot tell whether a model trained on less history would do as well.",
        Chart(
            "Test error by history kept",
            f"history kept ({_steps(study)} before the forecast)",
            f"mean absolute error ({study.error_unit})",
            marks,
            facts,
        ),
    )


def lag_figure(study: Study) -> Figure:
    """Mean |ledger| by lag."""
    marks, facts = [], []
    for side, name, colour in _sides(study):
        x, y = thin(side.lags * side.opened.time, side.sizes)
        marks.append(Mark("line", x, np.where(y > 1e-12, y, np.nan), name, colour))
        share = side.sizes.cumsum() / max(side.sizes.sum(), 1e-300)
        half, most = (int(np.searchsorted(share, level)) + 1 for level in (0.5, 0.9))
        facts.append(
            f"{name}: the latest {half} {_steps(study)} hold half of all that the ledger holds, the latest {most} "
            f"nine tenths."
        )
        facts += gap_facts(side.gap, f"{name}, memory")
    return _one(
        "lags",
        "When was the memory written that the forecast starts from?",
        "Each past step's share of the long-term memory, in size: a slow fall means old writes are kept. "
        "It says what was kept, not what is used; gates are held fixed, so read the gap below first.",
        Chart(
            "Mean |ledger| by lag, all test windows",
            f"lag before the forecast ({study.trained.opened.unit}s)",
            "mean |entry|",
            marks,
            facts,
            log_y=True,
        ),
    )


def half_life_figure(study: Study) -> Figure:
    """Half-lives, the longest first."""
    marks, facts = [], []
    for side, name, colour in _sides(study):
        spans = side.spans
        half, log = spans.half_life_time[0], spans.half_life_log[0] * spans.time  # (H,)
        order = np.argsort(-half, kind="stable")
        rank = np.arange(1, len(half) + 1)
        cap = spans.longest_lag * spans.time
        shown = np.where(np.isfinite(half[order]), half[order], np.nan)
        other = log[order]
        marks.append(Mark("dots", rank, np.where(shown > 0, shown, np.nan), f"{name}, median retention", colour))
        other = np.where(np.isfinite(other) & (other > 0) & (other < 10 * cap), other, np.nan)
        marks.append(Mark("line", rank, other, f"{name}, ln(1/2) / mean ln f", colour, dash=True, strong=0.7))
        low, high = spans.low[1].mean(), spans.high[1].mean()
        beyond = int(np.isinf(half).sum())
        facts.append(
            f"{name}: half of the units forget half within {_number(np.median(half))} {side.opened.unit}s"
            + (f"; {beyond} keep more than half over all {cap:g} that were seen (not drawn)" if beyond else "")
            + f"; forget gates are nearly shut at {100 * low:.0f}% and nearly open at {100 * high:.0f}% of the steps; "
            f"latched units: {int(spans.latched.sum())}, dead: {int(spans.dead.sum())}, duplicates: "
            f"{int((spans.duplicate >= 0).sum())}."
        )
    unit = study.trained.opened.unit
    return _one(
        "half-lives",
        "How long does each unit remember?",
        "One dot a unit, the longest first: a spread over a wide range means short and long memories side by side. "
        "A half-life reads the forget gate alone: a unit may keep long what nobody reads.",
        Chart("Half-life of each unit", "unit, the longest first", f"half-life ({unit}s)", marks, facts, log_y=True),
    )


def flow_figure(study: Study) -> Figure:
    """Gradients by lag, LSTM beside RNN."""
    charts: list[Chart | Heat] = []
    for side, name, _ in _sides(study):
        flow, lags = side.flow, side.flow.lags * side.opened.time
        rnn = f"vanilla RNN, {study.rnn.partition(';')[0]}" if name == TRAINED else "vanilla RNN, untrained"
        lines: list[tuple[np.ndarray, str, Colour, bool]] = [
            (flow.cell, "LSTM, long-term memory c", "trained", False),
            (flow.memory_path, "of it by the memory alone (product of f)", "path", True),
            (flow.hidden, "LSTM, short-term memory h", "erased", False),
            (flow.rnn, rnn, "rnn", False),
        ]
        marks, facts = [], []
        for values, what, colour, dash in lines:
            x, y = thin(lags, values)
            marks.append(Mark("line", x, np.where(y > 1e-30, y, np.nan), what, colour, dash=dash))
        for values, what in ((flow.cell, "LSTM memory"), (flow.rnn, "RNN")):
            left = values[-1] / values[0] if values[0] else 0.0
            facts.append(f"{name}, {what}: {left:.1e} of the gradient is left {lags[-1]:g} {side.opened.unit}s back.")
        charts.append(Chart(name, f"lag ({side.opened.unit}s)", "norm of the gradient", marks, facts, log_y=True))
    return Figure(
        "gradients",
        "How far back does the gradient reach?",
        "A straight fall on this scale is a gradient that vanishes geometrically: compare how steeply the RNN's falls. "
        "It says how well far steps could be learnt from, not whether they were. "
        + ("" if study.rnn.startswith("trained") else f"The RNN is {study.rnn}."),
        {"": charts},
    )


def ablation_figure(study: Study) -> Figure:
    """What each gate and unit is worth."""
    charts: list[Chart | Heat] = []
    for side, name, colour in _sides(study):
        change = np.nanmean(side.ablation.change, 1)
        gates = [k for k, what in enumerate(side.ablation.names) if "gate" in what]
        units = np.array([k for k in range(len(change)) if k not in gates])
        top = units[np.argsort(-change[units], kind="stable")][:8]
        chosen = [*gates, *top.tolist()]
        none = int((change[units] <= 0).sum())
        fact = f"{name}: taking out one unit changes the error by {_signed(np.median(change[units]))} (median); "
        fact += f"without {none} of {len(units)} units, each alone, it does not rise."
        names = np.array([side.ablation.names[k] for k in chosen])
        marks = [Mark("bars", names, change[chosen], "", colour)]
        unit = f"rise of the error ({study.error_unit})"
        charts.append(Chart(name, "", unit, marks, [fact], sideways=True, height=360))
    return Figure(
        "ablation",
        "Which gates and units is the forecast worth most to?",
        "Each gate is held at its mean, then each unit taken out (the eight that matter most are shown): long bars are "
        "what the model relies on. Units can stand in for one another, so a short bar is no proof of being unused.",
        {"": charts},
    )


# -- one window -----------------------------------------------------------------------------------


def forecast_figure(study: Study, case: Case, key: str) -> Figure:
    """The sequence with both forecasts."""
    return _one(
        f"{key}-forecast",
        "What happened, and what was forecast?",
        "Click on a moment of the forecast and the ledger below follows. The band is the model's own widest interval, "
        "before its correction; it says nothing of what the model has never seen.",
        sequence_chart(case, study.levels, study.trained.opened.history),
    )


def sequence_chart(case: Case, levels: list[float], history: int) -> Chart:
    """History and truth, with the forecasts of the trained and the untrained model."""
    ahead = case.times[history:]
    keys = [m.step for m in case.trained.moments]
    near = [str(min(keys, key=lambda k: abs(k - h))) for h in range(len(ahead))]
    middle = levels.index(0.5)
    q = case.trained.quantiles
    x, y = thin(case.times, case.values)
    marks = [
        Mark("band", ahead, q[:, -1], f"{levels[0]:g} to {levels[-1]:g} quantile", "trained", low=q[:, 0], strong=0.2),
        Mark("line", x, y, "what happened", "ink"),
        Mark("line", ahead, case.untrained.quantiles[:, middle], "untrained, median", "control", dash=True),
        Mark("line", ahead, q[:, middle], "forecast, median", "trained", keys=near),
    ]
    facts = [f"Mean absolute error of this forecast: {case.error:.3g} ({case.target})."]
    label = f"{case.target}, {case.series}" if case.series else case.target
    return Chart("", "", label, marks, facts, lines=[Line(case.times[history], "forecast starts")])


def ledger_figure(study: Study, case: Case, key: str) -> Figure:
    """The ledger of each moment, trained and untrained."""
    history = study.trained.opened.history
    charts: dict[str, list[Chart | Heat]] = {}
    for left, right in zip(case.trained.moments, case.untrained.moments, strict=True):
        charts[str(left.step)] = [
            output_chart(m, name, case.times, case.target, history) for m, name in ((left, TRAINED), (right, CONTROL))
        ]
    return Figure(
        f"{key}-ledger",
        "Which past steps wrote this forecast?",
        "Bars are what each step wrote of the forecast, by way of the memory: tall bars far back are old memories in "
        "use. " + GAP_HINT,
        charts,
        str(case.trained.moments[case.chosen].step),
        "forecast of",
        f"{key}-forecast",
    )


def output_chart(m: Moment, name: str, times: np.ndarray, target: str, history: int) -> Chart:
    """One forecast's ledger as bars over time, with what really changes at some steps."""
    size = block(len(m.shares))
    bars, at = blocks(m.shares, size, "sum"), times[::size]
    marks = [_signed_bars(at, bars, positive) for positive in (True, False)]
    if size == 1:  # a block's sum has no single step to stand beside
        marks += [
            Mark("dots", times[m.probed], m.erased, "really: write erased", "erased", strong=0.9),
            Mark("dots", times[m.probed], m.replaced, "really: input replaced", "replaced", strong=0.9),
        ]
    facts = gap_facts(m.gap, "")
    facts.append(
        f"Forecast {m.value:.4g} = {m.shares.sum():.4g} written by the steps + {m.rest:.4g} beyond the memory "
        f"(last value observed, biases)" + (f" + {m.initial:.2g} of the first state" if m.initial else "") + "."
    )
    if size > 1:
        facts.append(f"Each bar is the sum of {size} steps.")
    moment = times[history + m.step]
    return Chart(
        f"{name}: ledger of the forecast {m.step + 1} step{'s' if m.step else ''} ahead",
        "",
        f"share ({target})",
        marks,
        facts,
        lines=[Line(times[history], "forecast starts"), Line(moment, "this forecast")],
    )


def memory_chart(
    entries: np.ndarray, times: np.ndarray, moment: int, unit: int, memory: float, gap: dict[str, Agreement]
) -> Chart:
    """The ledger of one unit's memory at a moment, (T,)."""
    size = block(len(entries))
    at, bars = times[::size], blocks(entries, size, "sum")
    facts = gap_facts(gap, "")
    facts.append(f"The entries add up to {entries.sum():.4g}; the memory is {memory:.4g}.")
    return Chart(
        f"unit {unit}: ledger of the memory at this moment",
        "",
        "entry",
        [_signed_bars(at, bars, positive) for positive in (True, False)],
        facts,
        lines=[Line(times[moment], "this moment")],
    )


def gates_figure(study: Study, case: Case, key: str) -> Figure:
    """Heatmaps of every gate and memory, of each layer."""
    charts: dict[str, list[Chart | Heat]] = {}
    layers = len(case.trained.trace.layers)
    for layer in range(layers):
        charts[f"layer {layer}"] = [
            gates_heat(v.trace.layers[layer], side.orders[layer], case.times, name, study.trained.opened.history)
            for v, side, name in (
                (case.trained, study.trained, TRAINED),
                (case.untrained, study.untrained, CONTROL),
            )
        ]
    return Figure(
        f"{key}-gates",
        "What do the gates and memories do?",
        "One row a unit, ordered so that units which move alike are neighbours; time runs to the right. Look for "
        "stripes (a daily rhythm), edges (an event) and rows that never change. A pattern is no proof of a use.",
        charts,
        f"layer {layers - 1}",
        "gates of" if layers > 1 else "",
    )


def gates_heat(trace: LayerTrace, order: np.ndarray, times: np.ndarray, name: str, history: int, row: int = 0) -> Heat:
    """All gates and both memories of one window, units in the given order."""
    size = block(len(times))
    panels = []
    for gate, signed in _GATES:
        values = getattr(trace, gate)[:, row, 0].numpy()  # (T, H)
        if values.shape[1] == len(order):  # h of a projection has other units
            values = values[:, order]
        values = blocks(values, size).T.astype(np.float32)  # (H, n)
        limit = 1.0
        if gate == "cell":
            limit = max(float(np.quantile(np.abs(values), 0.99)), 1e-6)
        panels.append(Panel(_GATE_NAMES[gate], values, signed, limit))
    facts = [f"Each column is the mean of {size} steps."] if size > 1 else []
    rows = [f"unit {unit}" for unit in order]
    return Heat(name, "", "units", times[::size], rows, panels, facts, [Line(times[history], "forecast starts")])


def attribution_figure(study: Study, case: Case, key: str) -> Figure:
    """Integrated gradients by step and by input."""
    charts: list[Chart | Heat] = []
    for v, name in ((case.trained, TRAINED), (case.untrained, CONTROL)):
        charts += [attribution_steps(v, name, case), attribution_inputs(v, name, case)]
    step = case.trained.moments[case.chosen].step
    return Figure(
        f"{key}-inputs",
        "Which inputs mattered?",
        f"Integrated gradients of the forecast {step + 1} steps ahead, against the mean of the training: how much each "
        "step's and each input's departure from it moved the forecast. Flags and the calendar are held fixed and get "
        "no share; another baseline would give other shares.",
        {"": charts},
    )


def attribution_steps(v: View, name: str, case: Case) -> Chart:
    """By step, all inputs together."""
    steps = v.attribution.by_step()[:, 0]
    size = block(len(steps))
    at, bars = case.times[::size], blocks(steps, size, "sum")
    a = v.attribution
    fact = (
        f"The shares add up to {steps.sum():.4g}; forecast less that at the baseline: "
        f"{float(a.value[0] - a.baseline_value[0]):.4g} (completeness error {float(a.error[0]):.1e})."
    )
    marks = [_signed_bars(at, bars, positive) for positive in (True, False)]
    return Chart(f"{name}, by step", "", f"share ({case.target})", marks, [fact])


def attribution_inputs(v: View, name: str, case: Case, most: int = 8) -> Chart:
    """By input, all steps together, the largest first."""
    total = v.attribution.shares[:, 0].sum(0)  # (I,)
    size = np.abs(v.attribution.shares[:, 0]).sum(0)
    top = [k for k in np.argsort(-size, kind="stable")[:most] if size[k] > 0]
    names = np.array([v.attribution.names[k] for k in top])
    marks = []
    for positive in (True, False):
        part = np.array([total[k] if (total[k] >= 0) == positive else 0.0 for k in top])
        marks.append(Mark("bars", names, part, "raises" if positive else "lowers", "gain" if positive else "loss"))
    return Chart(f"{name}, by input", "", f"share ({case.target})", marks, sideways=True)


# -- helpers ----------------------------------------------------------------------------------------


def gap_facts(gap: dict[str, Agreement], what: str) -> list[str]:
    """The honesty figures as sentences, to stand beside a ledger."""
    said = {
        "erased": "a write erased and all after it live",
        "replaced": "a step's input replaced by the training mean",
    }
    lead = f"Gap, {what}: " if what else "Gap: "
    return [
        f"{lead}{words}: slope {_number(gap[how].slope)}, correlation {_number(gap[how].correlation)}, "
        f"sum|change - entry| / sum|change| {_number(gap[how].gap)}."
        for how, words in said.items()
    ]


def _sides(study: Study) -> tuple[tuple[Side, str, Colour], tuple[Side, str, Colour]]:
    return (study.trained, TRAINED, "trained"), (study.untrained, CONTROL, "control")


def _one(key: str, title: str, hint: str, chart: Chart) -> Figure:
    return Figure(key, title, hint, {"": [chart]})


def _steps(study: Study) -> str:
    """What a step is called: hours where one lasts an hour."""
    one = study.trained.opened
    return f"{one.unit}s" if one.time == 1.0 else f"steps of {one.time:g} {one.unit}s"


def _signed_bars(x: np.ndarray, y: np.ndarray, positive: bool) -> Mark:
    part = np.where((y >= 0) == positive, y, 0.0)
    return Mark("bars", x, part, "raises" if positive else "lowers", "gain" if positive else "loss")


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) and 0.01 <= abs(value) < 1000 else f"{value:.2g}"


def _signed(value: float) -> str:
    return f"{value:+.2g}"
