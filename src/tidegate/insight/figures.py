"""Figures over all windows: what each one shows, and the sentence that says what to look for.

T steps, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tidegate.insight.ablate import Ablation
from tidegate.insight.charts import Chart, Colour, Figure, Heat, Mark
from tidegate.insight.gap import Agreement
from tidegate.insight.gradients import GradientFlow
from tidegate.insight.order import thin
from tidegate.insight.spans import MemorySpans
from tidegate.insight.study import Side, Study

TRAINED, CONTROL = "trained", "untrained"


def page_figures(study: Study) -> list[Figure]:
    """Those over all windows, in the order of the page."""
    return [
        history_figure(study),
        lag_figure(study),
        half_life_figure(study),
        flow_figure(study),
        ablation_figure(study),
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
    return one_chart(
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
    return one_chart(
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
    one = study.trained.opened
    spans = [(side.spans, name, colour) for side, name, colour in _sides(study)]
    return half_lives({"": half_life_chart(spans, one.unit)})


def half_lives(charts: dict[str, Chart | Heat], chosen: str = "", choice: str = "") -> Figure:
    """The question that half-lives answer."""
    return Figure(
        "half-lives",
        "How long does each unit remember?",
        "One dot a unit, the longest first: a spread over a wide range means short and long memories side by side. "
        "A half-life reads the forget gate alone: a unit may keep long what nobody reads.",
        {key: [chart] for key, chart in charts.items()},
        chosen,
        choice,
    )


def half_life_chart(sides: Sequence[tuple[MemorySpans, str, Colour]], unit: str, direction: int = 0) -> Chart:
    """The half-lives of one direction's units, trained and untrained."""
    marks: list[Mark] = []
    facts = []
    for spans, name, colour in sides:
        half, log = spans.half_life_time[direction], spans.half_life_log[direction] * spans.time  # (H,)
        order = np.argsort(-half, kind="stable")
        rank = np.arange(1, len(half) + 1)
        cap = spans.longest_lag * spans.time
        shown = np.where(np.isfinite(half[order]), half[order], np.nan)
        other = log[order]
        other = np.where(np.isfinite(other) & (other > 0) & (other < 10 * cap), other, np.nan)
        both = [
            Mark("dots", rank, np.where(shown > 0, shown, np.nan), f"{name}, median retention", colour),
            Mark("line", rank, other, f"{name}, ln(1/2) / mean ln f", colour, dash=True, strong=0.7),
        ]
        marks = both + marks  # the trained on top
        low, high = spans.low[1, direction].mean(), spans.high[1, direction].mean()
        beyond = int(np.isinf(half).sum())
        facts.append(
            f"{name}: half of the units forget half within {np.median(half):g} {unit}s"
            + (f"; {beyond} keep more than half over all {cap:g} that were seen (not drawn)" if beyond else "")
            + f"; forget gates are nearly shut at {100 * low:.0f}% and nearly open at {100 * high:.0f}% of the steps; "
            f"latched units: {int(spans.latched[direction].sum())}, dead: {int(spans.dead[direction].sum())}, "
            f"duplicates: {int((spans.duplicate[direction] >= 0).sum())}."
        )
    return Chart("Half-life of each unit", "unit, the longest first", f"half-life ({unit}s)", marks, facts, log_y=True)


def flow_figure(study: Study) -> Figure:
    """Gradients by lag, LSTM beside RNN."""
    charts = []
    for side, name, _ in _sides(study):
        rnn = f"vanilla RNN, {study.rnn.partition(';')[0]}" if name == TRAINED else "vanilla RNN, untrained"
        charts.append(flow_chart(side.flow, side.opened.time, side.opened.unit, name, rnn))
    return flows(charts, "" if study.rnn.startswith("trained") else f"The RNN is {study.rnn}.")


def flows(charts: Sequence[Chart | Heat], note: str) -> Figure:
    """The question that gradients by lag answer."""
    return Figure(
        "gradients",
        "How far back does the gradient reach?",
        "A straight fall on this scale is a gradient that vanishes geometrically: compare how steeply the RNN's falls. "
        f"It says how well far steps could be learnt from, not whether they were. {note}".rstrip(),
        {"": list(charts)},
    )


def flow_chart(flow: GradientFlow, time: float, unit: str, name: str, rnn: str) -> Chart:
    """Gradients by lag of one model; ``rnn`` says what the vanilla RNN beside it is."""
    lags = flow.lags * time
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
    for values, what in ((flow.cell, f"{name}, LSTM memory"), (flow.rnn, rnn)):
        left = values[-1] / values[0] if values[0] else 0.0
        facts.append(f"{what}: {left:.1e} of the gradient is left {lags[-1]:g} {unit}s back.")
    return Chart(name, f"lag ({unit}s)", "norm of the gradient", marks, facts, log_y=True)


def ablation_figure(study: Study) -> Figure:
    """What each gate and unit is worth."""
    return ablations([ablation_chart(s.ablation, n, c, "error", study.error_unit) for s, n, c in _sides(study)])


def ablations(charts: Sequence[Chart | Heat]) -> Figure:
    """The question that taking things out answers."""
    return Figure(
        "ablation",
        "Which gates and units is the model's score worth most to?",
        "Each gate is held at its mean, then each unit taken out (the eight that matter most are shown): long bars are "
        "what the model relies on. Units can stand in for one another, so a short bar is no proof of being unused.",
        {"": list(charts)},
    )


def ablation_chart(ablation: Ablation, name: str, colour: Colour, what: str, unit: str) -> Chart:
    """The rise of the score (``what``, in ``unit``) of one model."""
    change = np.nanmean(ablation.change, 1)
    gates = [k for k, done in enumerate(ablation.names) if "gate" in done]
    whole = [k for k, done in enumerate(ablation.names) if "all units" in done]  # a direction
    units = np.array([k for k in range(len(change)) if k not in gates and k not in whole])
    top = units[np.argsort(-change[units], kind="stable")][:8]
    chosen = [*gates, *whole, *top.tolist()]
    none = int((change[units] <= 0).sum())
    fact = f"{name}: taking out one unit changes the {what} by {_signed(np.median(change[units]))} (median); "
    fact += f"without {none} of {len(units)} units, each alone, it does not rise."
    names = np.array([ablation.names[k] for k in chosen])
    marks = [Mark("bars", names, change[chosen], "", colour)]
    return Chart(name, "", f"rise of the {what} ({unit})", marks, [fact], sideways=True, height=360)


# -- helpers ----------------------------------------------------------------------------------------


def gap_facts(gap: dict[str, Agreement], what: str) -> list[str]:
    """The honesty figures as sentences, to stand beside a ledger."""
    said = {
        "erased": "each write erased, all after it live",
        "replaced": "each step's input replaced by the training mean",
    }
    lead = f"Ledger against truth, {what}: " if what else "Ledger against truth: "
    return [
        f"{lead}{words}: slope {_number(gap[how].slope)}, correlation {_number(gap[how].correlation)}, "
        f"gap {_number(gap[how].gap)}."
        for how, words in said.items()
    ]


def _sides(study: Study) -> tuple[tuple[Side, str, Colour], tuple[Side, str, Colour]]:
    return (study.trained, TRAINED, "trained"), (study.untrained, CONTROL, "control")


def one_chart(key: str, title: str, hint: str, chart: Chart) -> Figure:
    return Figure(key, title, hint, {"": [chart]})


def _steps(study: Study) -> str:
    """What a step is called: hours where one lasts an hour."""
    one = study.trained.opened
    return f"{one.unit}s" if one.time == 1.0 else f"steps of {one.time:g} {one.unit}s"


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) and 0.01 <= abs(value) < 1000 else f"{value:.2g}"


def _signed(value: float) -> str:
    return f"{value:+.2g}"
