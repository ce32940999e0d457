"""The ledger's honesty figure: what happens if a step's write, or its input, is really taken away.

The ledger holds all gates fixed, so a step that acts only by moving a gate gets no credit. For chosen
steps this measures the change of the memory at the end, and of an output,

- ``frozen``: without the step's write, all gates as they were: the ledger entry itself;
- ``erased``: without the step's write, everything after it live;
- ``replaced``: with the baseline in place of the step's input, everything live: what the step truly did.

K steps, T steps of the sequence, B batch rows, I inputs, H hidden units, P outputs, D directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from tidegate import ops
from tidegate.cell import LSTMWeights, lstm_input, lstm_step
from tidegate.frames import array, long_frame
from tidegate.insight.attribution import mean_baseline
from tidegate.insight.calls import Call, Score, capture, evaluation, replaced, scored, watch
from tidegate.insight.ledger import along, layer_ledger, pick_layer
from tidegate.insight.output import shares_of
from tidegate.layer import LSTM
from tidegate.ops import LayerTrace, Noise
from tidegate.state import State
from tidegate.trace import DIRECTIONS

if TYPE_CHECKING:
    import polars as pl


class Agreement(NamedTuple):
    """How well ledger entries say what really changes."""

    slope: float  # of the change by the entry, least squares; nan where all entries are equal
    correlation: float  # nan where either side does not vary
    gap: float  # sum |change - entry| / sum |change|; 0 where both are 0, infinite where only the change is


@dataclass(frozen=True)
class LedgerGap:
    """Entries of a ledger beside the changes they stand for.

    Attributes
    ----------
    steps : (K,)
    entry, frozen, erased, replaced : (K, B, D, H)
        For the memory after the last step that each direction reads: nan for steps past a row's length.
    output_entry, output_erased, output_replaced : (K, B) or None
        For the output, where a score was given.
    memory : dict of str to Agreement
        For "frozen", "erased" and "replaced".
    output : dict of str to Agreement
        For "erased" and "replaced"; empty without a score.
    """

    steps: np.ndarray
    entry: np.ndarray
    frozen: np.ndarray
    erased: np.ndarray
    replaced: np.ndarray
    output_entry: np.ndarray | None
    output_erased: np.ndarray | None
    output_replaced: np.ndarray | None
    memory: dict[str, Agreement]
    output: dict[str, Agreement]

    def to_frame(self) -> pl.DataFrame:
        """One row a step, row, direction and unit of the memory's entries and changes."""
        _, B, D, H = self.entry.shape
        axes: dict[str, Any] = {"step": self.steps, "row": range(B), "direction": DIRECTIONS[:D], "unit": range(H)}
        names = ("entry", "frozen", "erased", "replaced")
        return long_frame(axes, {name: getattr(self, name) for name in names}, np.isfinite(self.entry))

    def __str__(self) -> str:
        lines = [
            f"{what}, {how}: slope {a.slope:.2f}, correlation {a.correlation:.2f}, gap {a.gap:.2f}"
            for what, found in (("memory", self.memory), ("output", self.output))
            for how, a in found.items()
        ]
        return "\n".join(lines)


def agreement(entry: np.ndarray, change: np.ndarray) -> Agreement:
    """Slope, correlation and gap of changes against ledger entries; nan in both is left out."""
    there = np.isfinite(entry) & np.isfinite(change)
    e, c = entry[there], change[there]
    de, dc = e - e.mean() if len(e) else e, c - c.mean() if len(c) else c
    ee, cc, ec = float(de @ de), float(dc @ dc), float(de @ dc)
    missed, moved = float(np.abs(c - e).sum()), float(np.abs(c).sum())
    gap = missed / moved if moved else 0.0 if missed == 0.0 else float("inf")
    nan = float("nan")
    return Agreement(ec / ee if ee else nan, ec / (ee * cc) ** 0.5 if ee and cc else nan, gap)


def ledger_gap(
    lstm: LSTM,
    x: Any,
    steps: Sequence[int] | None = None,
    *,
    score: Score | None = None,
    baseline: Any = None,
    layer: int = -1,
    hx: Any = None,
    lengths: Any = None,
    reset: Any = None,
) -> LedgerGap:
    """Measure for some steps what the ledger says of them.

    Parameters
    ----------
    lstm : LSTM
        Read in evaluation mode.
    x : any
        What ``score`` takes, with the layer's order of time and batch; without a score the layer's input.
    steps : sequence of int, optional
        Up to 50 spread over the sequence by default. Each costs two runs of the model.
    score : callable, optional
        As in :func:`output_ledger`; the output is then measured too. The layer is the top one.
    baseline : tensor that fits one step of x, or all of x, optional
        What replaces a step's input: numbers (I,), or a token. By default the mean of x over all
        steps and rows, which for tokens has no meaning: give one.
    layer : int
        Whose memory, without a score.
    hx, lengths, reset
        As :meth:`LSTM.forward` takes them, without a score; with one, it hands them to the layer.

    Returns
    -------
    LedgerGap
    """
    if score is not None and (hx is not None or lengths is not None or reset is not None):
        raise ValueError("hx, lengths and reset go to the layer by way of score where one is given; expected None")
    if score is not None and layer not in (-1, lstm.num_layers - 1):
        raise ValueError(f"with a score the ledger is that of the top layer, layer=-1; given {layer}")
    with evaluation(lstm), torch.no_grad():
        if score is None:
            call, output = Call(x, hx, lengths, reset), None
            trace = pick_layer(lstm.trace(*call).layers, layer)
        else:
            with torch.enable_grad():
                watched = watch(lstm, score, x)
            call, trace, output = watched.call, watched.trace[-1], watched
        # As many dimensions have tokens (B, T) and unbatched numbers (T, I): the layer's own input tells them apart.
        batched = isinstance(call.input, PackedSequence) or call.input.dim() == 3
        time = 1 if lstm.batch_first and batched and isinstance(x, Tensor) and x.dim() > 1 else 0
        base = torch.as_tensor(_mean(x, time, lengths) if baseline is None else baseline, dtype=x.dtype)
        chosen = _steps(steps, trace)
        found = layer_ledger(trace)
        weights, noise = lstm.weights(layer % lstm.num_layers), lstm._noise()[layer]
        entry = found.entries[0][chosen]  # (K, B, D, H)
        frozen = _frozen(trace, chosen, found.memory[0])
        shape = (len(chosen), len(trace.steps))
        erased, replaced_, output_entry = np.empty_like(entry), np.empty_like(entry), None
        output_erased, output_replaced = (None, None) if output is None else (np.empty(shape), np.empty(shape))
        if output is not None:
            with torch.enable_grad():
                output_entry = shares_of(output, weights).by_step()[chosen]  # (K, B)
        for k, (t, (ends, hidden)) in enumerate(zip(chosen, _erased(trace, weights, noise, chosen), strict=True)):
            erased[k] = found.memory[0] - array(ends.c.transpose(0, 1))
            other = x.clone()
            other.select(time, t).copy_(base.select(time, t) if base.shape == x.shape else base)
            traced, value = _run(lstm, other, score, call)
            after = layer_ledger(pick_layer(traced, layer)).memory[0]
            replaced_[k] = found.memory[0] - after
            if output is not None and score is not None:
                whole = array(output.value)
                output_replaced[k] = whole - array(value)  # type: ignore[index]
                output_erased[k] = whole - array(replaced(lstm, score, x, hidden, ends))  # type: ignore[index]
    past = np.asarray(chosen)[:, None] >= array(trace.steps)  # (K, B)
    for values in (entry, frozen, erased, replaced_, output_entry, output_erased, output_replaced):
        if values is not None:
            values[past] = np.nan
    memory = {"frozen": agreement(entry, frozen), "erased": agreement(entry, erased)}
    memory["replaced"] = agreement(entry, replaced_)
    outputs = {}
    if output_entry is not None and output_erased is not None and output_replaced is not None:
        outputs = {
            "erased": agreement(output_entry, output_erased),
            "replaced": agreement(output_entry, output_replaced),
        }
    return LedgerGap(
        np.asarray(chosen), entry, frozen, erased, replaced_, output_entry, output_erased, output_replaced,
        memory, outputs,
    )  # fmt: skip


def _steps(steps: Sequence[int] | None, trace: LayerTrace) -> list[int]:
    T = trace.cell.shape[0]
    if steps is None:
        longest = int(trace.steps.max()) if len(trace.steps) else 0
        return sorted({round(t) for t in np.linspace(0, longest - 1, min(50, longest))}) if longest else []
    for t in steps:
        if not 0 <= t < T:
            raise ValueError(f"a step is from 0 to {T - 1}; given {t}")
    return list(steps)


def _mean(x: Any, time: int, lengths: Any) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = f"{x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"only numbers have a mean to replace a step by: give baseline; x is {kind}")
    return mean_baseline(x, lengths, batch_first=time == 1)


def _run(lstm: LSTM, x: Any, score: Score | None, call: Call) -> tuple[tuple[LayerTrace, ...], Tensor | None]:
    """Traces, and the score where there is one, for another input."""
    if score is None:
        return lstm.trace(x, *call[1:]).layers, None
    value: list[Tensor] = []
    args = capture(lstm, lambda: value.append(scored(score, x)))
    return lstm.trace(*args).layers, value[0]


def _frozen(trace: LayerTrace, steps: list[int], memory: np.ndarray) -> np.ndarray:
    """What the memory at the end loses without each step's write, gates as they were: (K, B, D, H)."""
    T, B, D, H = trace.cell.shape
    lost = np.empty((len(steps), B, D, H))
    for d in range(D):
        keep, write = (along(t[:, :, d].double(), d) for t in (trace.keep, trace.write))
        places = torch.tensor([T - 1 - t if d else t for t in steps])[:, None, None]
        c = trace.c_0[d].double().expand(len(steps), B, H)
        for t in range(T):
            c = keep[t] * c + torch.where(places == t, 0.0, write[t])
        lost[:, :, d] = memory[:, d] - array(c)
    return lost


def _erased(
    trace: LayerTrace, weights: list[LSTMWeights], noise: Noise | None, steps: list[int]
) -> Iterator[tuple[State, Tensor]]:
    """For each step, without its write and all after it live: h_n and c_n (D, B, .), h of all steps (T, B, D, P)."""
    T, B, _, H = trace.cell.shape
    before = trace.before()
    valid = torch.ones(T, B, dtype=torch.bool) if trace.valid is None else trace.valid[:, :, 0, 0]
    inputs = torch.where(valid[..., None], trace.x, 0.0)
    for step in steps:
        hidden, h_n, c_n = trace.hidden.clone(), trace.h_0.clone(), trace.c_0.clone()
        for d, w in enumerate(weights):
            t = T - 1 - step if d else step
            x, left = along(inputs, d), along(valid, d)
            h_old, c_old = (along(s[:, :, d], d)[t] for s in before)
            a_x = lstm_input(x[t], w)
            a_x = torch.cat([torch.full_like(a_x[:, :H], -torch.inf), a_x[:, H:]], -1)  # the input gate shut
            shut = lstm_step(a_x, h_old, c_old, w)
            h, c = shut.hidden, shut.cell
            if noise is not None:
                h = noise.zoneout_hidden * h_old + (1.0 - noise.zoneout_hidden) * h
                c = noise.zoneout_cell * c_old + (1.0 - noise.zoneout_cell) * c
            # From there on as one forward direction: what it has still to read has no padding inside.
            cut = None if trace.cut is None else along(trace.cut[:, :, d, 0], d)[t + 1 :]
            rest = ops.lstm_sequence(
                x[t + 1 :], h[None], c[None], [w], left[t + 1 :].sum(0), cut, noise, need_cells=False
            )
            h_n[d], c_n[d] = rest.h_n[0], rest.c_n[0]
            found = along(torch.cat([h[None], rest.output[:, :, 0]]), d)  # (steps from here on, B, P)
            part = slice(0, step + 1) if d else slice(step, T)
            hidden[part, :, d] = torch.where(left[t][:, None], found, hidden[part, :, d])
        yield State(h_n, c_n), hidden
