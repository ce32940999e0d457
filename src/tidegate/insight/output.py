"""What each past step contributes to an output, through the memory of the top layer.

With ``v_s`` the derivative of the output y by h_s and ``C_s = sum_t entry_{s,t}`` the ledger of the memory
at step s, step t is given

    sum_s v_s [ o_s * tanh(C_s) / C_s * entry_{s,t} ]

For a linear head on the last step that is ``W [o_T * (tanh(C_T)/C_T) * entry]``, and all shares
together are exactly ``W h_T``. For others the rule stays the same:

- pooled heads: v_s is there at every step that is pooled, and shares add up over s;
- quantile and other nonlinear heads: v_s is the derivative at this input, a linearisation;
- projections: v_s goes back through W_hr, which is linear;
- zoneout in evaluation: h_s holds the share z of h_{s-1}, so v_s reaches back geometrically, and the
  memory that a step shows is the one before zoneout held part of it back;
- layer normalisation of c: mean and spread are held fixed, as gates are, and its bias is left over.

What y has beyond these shares and that of c_0 (biases, h_0, what the head adds, the error of the
linearisation) is stated as ``rest``. The sum over s is one scan from the end, without the entries.

T steps, B batch rows, H hidden units, P outputs, D directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tidegate.cell import LAYER_NORM_EPS, LSTMWeights
from tidegate.frames import array, long_frame
from tidegate.insight.calls import Score, Watched, evaluation, watch
from tidegate.insight.ledger import along
from tidegate.layer import LSTM
from tidegate.ops import LayerTrace
from tidegate.trace import DIRECTIONS

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class OutputLedger:
    """What each step wrote of an output; in the output's unit.

    Attributes
    ----------
    shares : (T, B, D, H)
        By step, row, direction and unit; 0 past a row's length.
    initial : (B, D, H)
        The share of c_0.
    value : (B,)
        The output itself.
    rest : (B,)
        ``value`` less all shares.
    steps : (B,)
        Valid steps of each row.
    unit : str
        Of the output.
    """

    shares: np.ndarray
    initial: np.ndarray
    value: np.ndarray
    rest: np.ndarray
    steps: np.ndarray
    unit: str = ""

    def by_step(self) -> np.ndarray:
        """All units and directions together, (T, B)."""
        return self.shares.sum((2, 3))

    def to_frame(self) -> pl.DataFrame:
        """One row a step, row, direction and unit."""
        T, B, D, H = self.shares.shape
        axes = {"step": range(T), "row": range(B), "direction": DIRECTIONS[:D], "unit": range(H)}
        keep = (np.arange(T)[:, None] < self.steps)[:, :, None, None]
        return long_frame(axes, {"share": self.shares}, keep)


def output_ledger(lstm: LSTM, x: Any, score: Score, *, unit: str = "") -> OutputLedger:
    """Take an output apart into what each step contributes through the top layer's memory.

    Parameters
    ----------
    lstm : LSTM
        The layer inside the model, read in evaluation mode; the model itself is run as it is.
    x : any
        What ``score`` takes.
    score : callable
        ``score(x)`` gives the output (B,), such as a logit or a forecast; it calls ``lstm`` once and
        treats the batch's rows apart. It may use the layer's output at any step, and h_n and c_n.
    unit : str
        Of the output, for labels.

    Returns
    -------
    OutputLedger
    """
    with evaluation(lstm):
        found = watch(lstm, score, x)
        return shares_of(found, lstm.weights(-1 % lstm.num_layers), unit)


def shares_of(found: Watched, weights: list[LSTMWeights], unit: str = "") -> OutputLedger:
    """The output ledger of a model that was watched."""
    trace = found.trace[-1]
    _, B, D, _ = trace.cell.shape
    leaves = [found.hidden, *found.state]
    grads = torch.autograd.grad(found.value.sum(), leaves, allow_unused=True)
    d_hidden, d_h, d_c = (torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True))
    shares, initial = [], []
    with torch.no_grad():
        for d in range(D):
            # Of the stack's final states only the top layer's belong to this layer's memory.
            ends = [g.double().reshape(-1, B, g.shape[-1])[d - D] for g in (d_h, d_c)]
            one, first = _direction(
                trace, d, d_hidden[:, :, d].double(), ends[0], ends[1], weights[d].to(torch.float64)
            )
            shares.append(one)
            initial.append(first)
        shares_, initial_ = torch.stack(shares, 2), torch.stack(initial, 1)
    value = array(found.value).astype(np.float64)
    rest = value - array(shares_.sum((0, 2, 3)) + initial_.sum((1, 2)))
    return OutputLedger(array(shares_), array(initial_), value, rest, array(trace.steps), unit)


def _direction(trace: LayerTrace, d: int, v: Tensor, d_h: Tensor, d_c: Tensor, w: LSTMWeights) -> tuple[Tensor, Tensor]:
    """Shares of the steps (T, B, H) and of c_0 (B, H), from the derivatives by h (T, B, P), h_n and c_n."""
    T = trace.cell.shape[0]
    forget, write, output = (
        along(t[:, :, d].double(), d) for t in (trace.forget, trace.input * trace.candidate, trace.output)
    )
    keep, kept_write = (along(t[:, :, d].double(), d) for t in (trace.keep, trace.write))
    before = along(trace.before()[1][:, :, d].double(), d)
    shown = forget * before + write  # (T, B, H) the memory that the step shows
    valid = None if trace.valid is None else along(trace.valid[:, :, 0], d)  # (T, B, 1)
    cut = None if trace.cut is None else along(trace.cut[:, :, d], d)
    hold = trace.held_hidden
    stays = along(hold[:, :, d].double(), d) if isinstance(hold, Tensor) else torch.full_like(v, hold)
    v = along(v, d)
    if valid is not None:
        v, stays = torch.where(valid, v, 0.0), torch.where(valid, stays, 1.0)

    through = torch.empty_like(v)  # what the output asks of h before zoneout, (T, B, P)
    asked = d_h
    for t in reversed(range(T)):
        asked = asked + v[t]
        through[t] = (1.0 - stays[t]) * asked
        asked = stays[t] * asked
        if cut is not None:
            asked = torch.where(cut[t], 0.0, asked)
    if w.hr is not None:
        through = through @ w.hr  # (T, B, H)
    slope = _shown_share(shown, through * output, w.norm_c)
    if valid is not None:
        slope = torch.where(valid, slope, 0.0)

    shares = torch.empty_like(shown)
    asked = d_c  # of c after the step, (B, H)
    for t in reversed(range(T)):
        shares[t] = asked * kept_write[t] + slope[t] * write[t]
        back = slope[t] * forget[t]
        if cut is not None:
            back = torch.where(cut[t], 0.0, back)
        asked = asked * keep[t] + back
    return along(shares, d), asked * trace.c_0[d].double()


def _shown_share(c: Tensor, wanted: Tensor, norm_c: Tensor | None) -> Tensor:
    """The factor of each c (T, B, H) in ``wanted * tanh(c)``, proportional: wanted * tanh(c) / c."""
    if norm_c is None:
        return wanted * _tanh_ratio(c)
    gain, bias = norm_c
    spread = (c.var(-1, unbiased=False, keepdim=True) + LAYER_NORM_EPS).sqrt()
    part = gain * (c - c.mean(-1, keepdim=True)) / spread  # what c brings to the normalised memory
    # tanh(part + bias) less tanh(bias), in proportion to part: the bias alone shows something too.
    rise = torch.tanh(part + bias) - torch.tanh(bias)
    limit = 1.0 - torch.tanh(bias) ** 2
    ratio = torch.where(part == 0.0, limit.expand_as(part), rise / torch.where(part == 0.0, 1.0, part))
    inner = wanted * ratio * gain / spread
    return inner - inner.mean(-1, keepdim=True)


def _tanh_ratio(c: Tensor) -> Tensor:
    """tanh(c) / c, which is 1 at 0."""
    zero = c == 0.0
    return torch.where(zero, 1.0, torch.tanh(c) / torch.where(zero, 1.0, c))
