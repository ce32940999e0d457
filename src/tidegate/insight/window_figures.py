"""Figures of one window: its forecast, its ledgers with their gaps, its gates and its attributions.

T steps, I inputs, H hidden units, n columns.
"""

from __future__ import annotations

import numpy as np

from tidegate.insight.attribution import Attribution
from tidegate.insight.charts import Chart, Figure, Heat, Line, Mark, Panel
from tidegate.insight.figures import CONTROL, TRAINED, gap_facts, one_chart
from tidegate.insight.gap import Agreement
from tidegate.insight.order import block, blocks, thin
from tidegate.insight.study import Case, Moment, Study
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
GAP_HINT = (
    "The ledger holds all gates fixed, so a step that acts only by moving a gate gets no credit: the diamonds "
    "say what really changes when a step's input is taken away, the circles when only its write is."
)


def case_figures(study: Study, number: int) -> list[Figure]:
    """Those of one of the worst windows."""
    case, key = study.cases[number], f"case{number + 1}"
    return [
        forecast_figure(study, case, key),
        ledger_figure(study, case, key),
        gates_figure(study, case, key),
        attribution_figure(study, case, key),
    ]


def forecast_figure(study: Study, case: Case, key: str) -> Figure:
    """The sequence with both forecasts."""
    return one_chart(
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
    return share_chart(
        m,
        f"{name}: ledger of the forecast {m.step + 1} step{'s' if m.step else ''} ahead",
        "Forecast",
        "last value observed, biases",
        times,
        target,
        [Line(times[history], "forecast starts"), Line(times[history + m.step], "this forecast")],
    )


def share_chart(
    m: Moment, title: str, what: str, beyond: str, times: np.ndarray, unit: str, lines: list[Line], x: str = ""
) -> Chart:
    """A ledger of one output (``what``) as bars; ``beyond`` says what it has besides the memory."""
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
        f"{what} {m.value:.4g} = {m.shares.sum():.4g} written by the steps + {m.rest:.4g} beyond the memory "
        f"({beyond})" + (f" + {m.initial:.2g} of the first state" if m.initial else "") + "."
    )
    if size > 1:
        facts.append(f"Each bar is the sum of {size} steps.")
    return Chart(title, x, f"share ({unit})", marks, facts, lines=lines)


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
    lines = [Line(case.times[study.trained.opened.history], "forecast starts")]
    for layer in range(layers):
        charts[f"layer {layer}"] = [
            gates_heat(v.trace.layers[layer], side.orders[layer], case.times, name, lines)
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


def gates_heat(
    trace: LayerTrace,
    order: np.ndarray,
    times: np.ndarray,
    name: str,
    lines: list[Line],
    direction: int = 0,
    x: str = "",
) -> Heat:
    """All gates and both memories of the first row over its (T,) ``times``, units in the given order."""
    size = block(len(times))
    panels = []
    for gate, signed in _GATES:
        values = getattr(trace, gate)[: len(times), 0, direction].numpy()  # (T, H)
        if values.shape[1] == len(order):  # h of a projection has other units
            values = values[:, order]
        values = blocks(values, size).T.astype(np.float32)  # (H, n)
        limit = 1.0
        if gate == "cell":
            limit = max(float(np.quantile(np.abs(values), 0.97)), 1e-6)
        panels.append(Panel(_GATE_NAMES[gate], values, signed, limit))
    facts = [f"Each column is the mean of {size} steps."] if size > 1 else []
    rows = [f"unit {unit}" for unit in order]
    return Heat(name, x, "units", times[::size], rows, panels, facts, lines)


def attribution_figure(study: Study, case: Case, key: str) -> Figure:
    """Integrated gradients by step and by input."""
    charts: list[Chart | Heat] = []
    for v, name in ((case.trained, TRAINED), (case.untrained, CONTROL)):
        charts += [
            attribution_steps(v.attribution, name, "forecast", case.times, case.target),
            attribution_inputs(v.attribution, name, case.target),
        ]
    step = case.trained.moments[case.chosen].step
    return Figure(
        f"{key}-inputs",
        "Which inputs mattered?",
        f"Integrated gradients of the forecast {step + 1} steps ahead, against the mean of the training: how much each "
        "step's and each input's departure from it moved the forecast. Flags and the calendar are held fixed and get "
        "no share; another baseline would give other shares.",
        {"": charts},
    )


def attribution_steps(a: Attribution, name: str, what: str, times: np.ndarray, unit: str, x: str = "") -> Chart:
    """By step, all inputs together; ``what`` is taken apart."""
    steps = a.by_step()[: len(times), 0]
    size = block(len(steps))
    at, bars = times[::size], blocks(steps, size, "sum")
    fact = (
        f"The shares add up to {steps.sum():.4g}; {what} less that at the baseline: "
        f"{float(a.value[0] - a.baseline_value[0]):.4g} (completeness error {float(a.error[0]):.1e})."
    )
    marks = [_signed_bars(at, bars, positive) for positive in (True, False)]
    return Chart(f"{name}, by step", x, f"share ({unit})", marks, [fact])


def attribution_inputs(a: Attribution, name: str, unit: str, most: int = 8) -> Chart:
    """By input, all steps together, the largest first."""
    total = a.shares[:, 0].sum(0)  # (I,)
    size = np.abs(a.shares[:, 0]).sum(0)
    top = [k for k in np.argsort(-size, kind="stable")[:most] if size[k] > 0]
    names = np.array([a.names[k] for k in top])
    marks = []
    for positive in (True, False):
        part = np.array([total[k] if (total[k] >= 0) == positive else 0.0 for k in top])
        marks.append(Mark("bars", names, part, "raises" if positive else "lowers", "gain" if positive else "loss"))
    return Chart(f"{name}, by input", "", f"share ({unit})", marks, sideways=True)


def _signed_bars(x: np.ndarray, y: np.ndarray, positive: bool) -> Mark:
    part = np.where((y >= 0) == positive, y, 0.0)
    return Mark("bars", x, part, "raises" if positive else "lowers", "gain" if positive else "loss")
