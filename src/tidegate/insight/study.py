"""All results that the page shows of a trained forecaster, and the same of an untrained one beside it.

T = history + horizon steps, B windows, I inputs, H hidden units, N worst windows, K steps of a gap figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tidegate.insight.ablate import Ablation, ablate_each
from tidegate.insight.attribution import Attribution, attribute
from tidegate.insight.gap import Agreement, agreement, ledger_gap
from tidegate.insight.gradients import GradientFlow, gradient_flow
from tidegate.insight.history import History, history_kept
from tidegate.insight.ledger import ledger
from tidegate.insight.model import OpenForecast
from tidegate.insight.order import order_units
from tidegate.insight.output import OutputLedger, output_ledger
from tidegate.insight.spans import MemorySpans, memory_spans
from tidegate.insight.trace import trace
from tidegate.rnn import RNN
from tidegate.trace import Trace

GAP_STEPS = 24  # at which a ledger is held against what really changes
MOST_MOMENTS = 8  # forecast steps of a window whose ledger is in the page
_MOST_ENTRIES = 20_000_000  # of a ledger held at once


@dataclass(frozen=True)
class Side:
    """Results over all windows, of the trained or the untrained model."""

    opened: OpenForecast
    history: History  # scores in ``error_unit``
    lags: np.ndarray  # (T,)
    sizes: np.ndarray  # (T,) mean |entry| of the memory when the forecast starts
    gap: dict[str, Agreement]  # of that ledger
    spans: MemorySpans
    flow: GradientFlow
    ablation: Ablation  # scores in ``error_unit``
    orders: list[np.ndarray]  # of each layer's units, (H,)


@dataclass(frozen=True)
class Moment:
    """The ledger of one forecast of one window, with its gap figure."""

    step: int  # of the horizon
    shares: np.ndarray  # (T,)
    initial: float
    rest: float
    value: float
    probed: np.ndarray  # (K,) steps
    erased: np.ndarray  # (K,) what really changed
    replaced: np.ndarray  # (K,)
    gap: dict[str, Agreement]


@dataclass(frozen=True)
class View:
    """One window seen through one model."""

    quantiles: np.ndarray  # (horizon, Q) of the target, in its unit
    trace: Trace
    moments: list[Moment]
    attribution: Attribution


@dataclass(frozen=True)
class Case:
    """One of the worst windows."""

    row: int
    series: str
    target: str
    times: np.ndarray  # (T,)
    values: np.ndarray  # (T,) what happened; nan where missing
    error: float  # mean absolute, in the target's unit
    chosen: int  # place among the moments: where the error is largest
    trained: View
    untrained: View


@dataclass(frozen=True)
class Study:
    """What the page is made of."""

    trained: Side
    untrained: Side
    cases: list[Case]
    error_unit: str
    rnn: str  # which vanilla RNN the gradients are held against
    levels: list[float]


def study(opened: OpenForecast, *, worst: int = 3, progress: Any = None) -> Study:
    """Look at a model in every way that the page shows.

    Parameters
    ----------
    opened : OpenForecast
    worst : int
        So many windows with the largest errors, at least a horizon apart.
    progress : callable, optional
        Told in a few words what is being done.

    Returns
    -------
    Study
    """
    tell = progress or (lambda what: None)
    twin, rnn = _twin(opened)
    other = opened.untrained()
    sides = []
    for what, one, beside in (("the trained model", opened, twin), ("an untrained one, as a control", other, None)):
        tell(f"{what}: history, ledgers, half-lives, gradients")
        sides.append(_side(one, beside))
    rows = _worst(opened, worst)
    which = "worst" if len(rows) == 1 else f"{len(rows)} worst"
    tell(f"the {which} of {len(opened.origins)} windows: gates, ledgers and their gaps, attributions")
    cases = _cases(opened, other, rows)
    levels = list(opened.forecaster.resolved_.quantiles)
    return Study(sides[0], sides[1], cases, error_unit(opened), rnn, levels)


def error_unit(opened: OpenForecast) -> str:
    """The unit of errors over all windows: the target's, or standard deviations where there are several."""
    targets = opened.targets
    return targets[0] if len(targets) == 1 else "standard deviations"


def error_score(opened: OpenForecast) -> Any:
    """Each window's mean absolute error of the median, in ``error_unit``."""
    run = opened.error()
    if len(opened.targets) > 1:
        return run
    spread = torch.from_numpy(opened.windows.scaling.target[opened.origins.series, 0, 1])  # (B,)
    return lambda x: run(x).double() * spread


def kept_steps(history: int) -> list[int]:
    """Amounts of history to try: none, a few steps, and so on in ratios of about two, up to all."""
    found = {0, history}
    at = 1.0
    while 1.3 * at < history:
        found.add(round(at))
        at *= 2
    return sorted(found)


def _side(opened: OpenForecast, rnn: RNN | None) -> Side:
    lstm, x, end = opened.lstm, opened.x, opened.history
    score = error_score(opened)
    history = history_kept(lstm, x, score, kept_steps(end), end=end, time=opened.time, unit=opened.unit)
    read = x[:end]  # (history, B, I)
    lags, sizes = _by_lag(lstm, read)
    some = opened.take(slice(0, 8))
    steps = gap_steps(end)
    gap = ledger_gap(lstm, some.x[:end], steps, baseline=some.baseline[:end]).memory
    few = opened.take(slice(0, 64))
    spans = memory_spans(lstm, few.x, time=opened.time, unit=opened.unit, starts=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the RNN that is made where none was trained
        flow = gradient_flow(lstm, opened.take(slice(0, 16)).x[:end], rnn)
    ablation = ablate_each(lstm, few.x, error_score(few))
    layers = trace(lstm, opened.take(slice(0, 16)).x).layers
    orders = [order_units(layer.cell[:, :, 0].flatten(0, 1).numpy()) for layer in layers]
    return Side(opened, history, lags, sizes, gap, spans, flow, ablation, orders)


def _by_lag(lstm: Any, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Lags (T,) and the mean |entry| of the memory at the end of x over all windows and units."""
    T, B, _ = x.shape
    rows = max(1, _MOST_ENTRIES // (T * lstm.hidden_size))
    total = np.zeros(T)
    for part in x.split(rows, 1):
        total += ledger(lstm, part).by_lag()[1][:, 0] * part.shape[1]
    return np.arange(T), total / B


def gap_steps(end: int, count: int = GAP_STEPS) -> list[int]:
    """Steps before ``end`` to hold a ledger against: half of them the latest, half spread over the others."""
    first = max(0, end - count // 2)
    spread = np.linspace(0, first - 1, min(first, count - count // 2)).round().astype(int).tolist()
    return [*spread, *range(first, end)]


def _twin(opened: OpenForecast) -> tuple[RNN | None, str]:
    """The vanilla RNN trained beside the run, if there is one that learnt from the same data."""
    beside = opened.forecaster
    if beside.folder_ is not None and "rnn" in beside.compared:
        found = type(beside).load(beside.folder_ / "compare-rnn").model_.recurrent
        if isinstance(found, RNN) and found.input_size == opened.lstm.input_size:
            return found.eval(), "trained on the same data"
    return None, "untrained; `tidegate evaluate RUN --compare rnn` trains one for comparison"


def _worst(opened: OpenForecast, most: int) -> list[int]:
    """Rows of the largest errors, their starts at least a horizon apart whatever the series."""
    with torch.no_grad():
        error = opened.error()(opened.x).numpy()
    start = opened.windows.panel.first[opened.origins.series] + opened.origins.step
    found: list[int] = []
    for row in np.argsort(-np.nan_to_num(error, nan=-1.0), kind="stable").tolist():
        if len(found) < most and all(abs(start[row] - start[f]) >= opened.windows.horizon for f in found):
            found.append(row)
    return found


def _cases(opened: OpenForecast, other: OpenForecast, rows: list[int]) -> list[Case]:
    forecast, truth, times = opened.take(rows).forecast(), opened.take(rows).truth(), opened.take(rows).times()
    found = []
    for n, row in enumerate(rows):
        one = opened.take([row])
        missed = np.abs(forecast[n, :, :, opened.model.median] - truth[n])  # (horizon, C)
        spread = opened.windows.scaling.target[one.origins.series[0], :, 1]
        known = np.isfinite(missed)
        c = int((np.where(known, missed / spread, 0.0).sum(0) / np.maximum(known.sum(0), 1)).argmax())
        steps = moments_of(len(missed), int(np.nanargmax(missed[:, c])))
        views = [view(model, c, steps[0], steps[1]) for model in (one, other.take([row]))]
        values = window_values(one, c)
        error = float(np.nanmean(missed[:, c]))
        found.append(
            Case(row, one.series()[0], one.targets[c], times[:, n], values, error, steps[1].index(steps[0]), *views)
        )
    return found


def moments_of(horizon: int, chosen: int) -> tuple[int, list[int]]:
    """The chosen forecast step, and it with others spread over the horizon."""
    spread = np.linspace(0, horizon - 1, min(horizon, MOST_MOMENTS)).round().astype(int).tolist()
    if chosen not in spread:
        inner = spread[1:-1] or spread
        spread.remove(min(inner, key=lambda s: abs(s - chosen)))
    return chosen, sorted({*spread, chosen})


def window_values(one: OpenForecast, target: int) -> np.ndarray:
    """What happened in a single window, (T,), in the target's unit; nan where missing."""
    panel, s, step = one.windows.panel, int(one.origins.series[0]), int(one.origins.step[0])
    whole = panel.targets[panel.slice(s)][:, target].astype(np.float64)
    found = np.full(len(one.x), np.nan)
    at = np.arange(step - one.history, step + one.windows.horizon)
    inside = (at >= 0) & (at < len(whole))
    found[inside] = whole[at[inside]]
    return found


def view(one: OpenForecast, target: int, chosen: int, steps: list[int]) -> View:
    """A single window seen through its model."""
    score = one.score(chosen, target)
    attribution = _attribution(one, score, target)
    moments = [moment(one, target, step) for step in steps]
    return View(one.forecast()[0, :, target], trace(one.lstm, one.x), moments, attribution)


def _attribution(one: OpenForecast, score: Any, target: int) -> Attribution:
    """Integrated gradients, with more points where their error is above a hundredth of what they take apart."""
    for points in (64, 256, 1024):
        found = attribute(
            score,
            one.x,
            baseline=one.baseline,
            fixed=one.fixed,
            names=one.names,
            unit=one.targets[target],
            points=points,
        )
        if abs(found.error[0]) <= 0.01 * abs(found.value[0] - found.baseline_value[0]):
            break
    return found


def moment(one: OpenForecast, target: int, step: int) -> Moment:
    """The ledger of one forecast of a single window, and its gap."""
    score = one.score(step, target)
    found: OutputLedger = output_ledger(one.lstm, one.x, score, unit=one.targets[target])
    probed = gap_steps(one.history + step + 1)
    gap = ledger_gap(one.lstm, one.x, probed, score=score, baseline=one.baseline)
    assert gap.output_entry is not None
    assert gap.output_erased is not None
    assert gap.output_replaced is not None
    entry, erased, replaced = gap.output_entry[:, 0], gap.output_erased[:, 0], gap.output_replaced[:, 0]
    return Moment(
        step, found.by_step()[:, 0], float(found.initial.sum()), float(found.rest[0]), float(found.value[0]),
        np.asarray(probed), erased, replaced,
        {"erased": agreement(entry, erased), "replaced": agreement(entry, replaced)},
    )  # fmt: skip
