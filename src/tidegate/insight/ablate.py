"""What is lost when a gate is fixed, or a unit or direction taken out.

A gate is fixed by its own weights: its rows and peephole are taken out and its bias gives the value, so
that the run is an ordinary run of the layer on any backend. A unit is taken out by an output gate fixed at 0:
nothing downstream sees it, itself included. Two options leave a trace of it: with layer_norm its memory still
counts in the mean and spread by which those of the others are normalised, and with zoneout the share that stays
of a nonzero h_0 is still shown.

B batch rows, H hidden units, D directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tidegate import streaming
from tidegate.cell import LSTMWeights
from tidegate.checks import check_choice
from tidegate.frames import array, polars
from tidegate.insight.calls import Score, capture, evaluation, scored
from tidegate.insight.ledger import check_layer, pick_layer
from tidegate.layer import LSTM
from tidegate.trace import DIRECTIONS

if TYPE_CHECKING:
    import polars as pl

GATES = ("input", "forget", "candidate", "output")  # in the order of the weights' rows
_PEEPHOLES = {"input": 0, "forget": 1, "output": 2}
_FAR = 80.0  # a bias here is 0 or 1 in float64 too, and finite in every dtype


@dataclass(frozen=True)
class Ablation:
    """A score before and after something was fixed or taken out; in the score's unit.

    Attributes
    ----------
    names : list of str, N
        What was done.
    before : (B,)
    after : (N, B)
    """

    names: list[str]
    before: np.ndarray
    after: np.ndarray

    @property
    def change(self) -> np.ndarray:
        """After less before, (N, B)."""
        return self.after - self.before

    def to_frame(self) -> pl.DataFrame:
        """One row for each thing done: the mean score, its mean change, and the mean size of the change."""
        change = self.change
        return polars().DataFrame(
            {
                "what": self.names,
                "score": self.after.mean(1),
                "change": change.mean(1),
                "size": np.abs(change).mean(1),
            }
        )


def ablate(
    lstm: LSTM,
    x: Any,
    score: Score,
    *,
    gate: str | None = None,
    units: Sequence[int] | None = None,
    direction: int | None = None,
    value: float | Sequence[float] | None = None,
    layer: int = -1,
) -> Ablation:
    """Fix one gate, or take out units or a direction.

    Parameters
    ----------
    lstm : LSTM
        The layer inside the model; read in evaluation mode. Its weights are the same afterwards.
    x : any
        What ``score`` takes.
    score : callable
        As in :func:`output_ledger`, or a loss of each row, (B,).
    gate : "input", "forget", "candidate" or "output", optional
        The gate to fix. Without it the units are taken out: their output gates are 0. With layer_norm their memories
        still count in the others' mean and spread; with zoneout they still show what stays of a nonzero h_0.
    units : sequence of int, optional
        All by default.
    direction : 0 or 1, optional
        Both by default.
    value : float or (H,), optional
        What the gate is fixed at: by default each unit's mean over the data, in each direction.
    layer : int

    Returns
    -------
    Ablation
        With one entry.
    """
    if gate is not None:
        check_choice("gate", gate, GATES)
    elif value is not None:
        raise ValueError("value is what a gate is fixed at; given a value and no gate")
    check_layer(layer, lstm.num_layers)
    if direction is not None and direction not in range(lstm.directions):
        raise ValueError(f"direction is from 0 to {lstm.directions - 1}; given {direction}")
    for unit in units or ():
        if not 0 <= unit < lstm.hidden_size:
            raise ValueError(f"a unit is from 0 to {lstm.hidden_size - 1}; given {unit}")
    with evaluation(lstm), torch.no_grad():
        before = array(scored(score, x)).astype(np.float64)
        fixed = torch.zeros(lstm.directions, lstm.hidden_size, dtype=torch.float64)
        if gate is not None:
            fixed = _values(lstm, x, score, gate, value, layer)
        after = _after(lstm, x, score, gate or "output", fixed, units, direction, layer)
    return Ablation([_name(gate, units, direction, lstm)], before, after[None])


def ablate_each(lstm: LSTM, x: Any, score: Score, *, layer: int = -1) -> Ablation:
    """Each gate at its mean, each direction and each unit taken out, one after another.

    Costs one run of the model for each; parameters as in :func:`ablate`.
    """
    check_layer(layer, lstm.num_layers)
    with evaluation(lstm), torch.no_grad():
        before = array(scored(score, x)).astype(np.float64)
        names, after = [], []
        for gate in GATES:
            names.append(_name(gate, None, None, lstm))
            after.append(_after(lstm, x, score, gate, _values(lstm, x, score, gate, None, layer), None, None, layer))
        nothing = torch.zeros(lstm.directions, lstm.hidden_size, dtype=torch.float64)
        out: list[tuple[list[int] | None, int]] = []
        if lstm.directions == 2:
            out += [(None, d) for d in range(2)]
        out += [([unit], d) for d in range(lstm.directions) for unit in range(lstm.hidden_size)]
        for units, direction in out:
            names.append(_name(None, units, direction, lstm))
            after.append(_after(lstm, x, score, "output", nothing, units, direction, layer))
    return Ablation(names, before, np.stack(after))


def _name(gate: str | None, units: Sequence[int] | None, direction: int | None, lstm: LSTM) -> str:
    where = f", {DIRECTIONS[direction]}" if direction is not None and lstm.directions == 2 else ""
    which = "" if units is None else f"unit{'s' if len(units) > 1 else ''} {', '.join(map(str, units))}"
    if gate is not None:
        return f"{gate} gate fixed" + (f" of {which}" if which else "") + where
    return f"without {which or 'all units'}{where}"


def _values(lstm: LSTM, x: Any, score: Score, gate: str, value: Any, layer: int) -> Tensor:
    """What each unit's gate is fixed at, (D, H)."""
    if value is not None:
        given = torch.as_tensor(value, dtype=torch.float64)
        low = -1.0 if gate == "candidate" else 0.0
        if not bool(((given >= low) & (given <= 1.0)).all()):
            raise ValueError(f"the {gate} gate is between {low:g} and 1; given {value}")
        return given.expand(lstm.directions, lstm.hidden_size)
    trace = pick_layer(lstm.trace(*capture(lstm, lambda: score(x))).layers, layer)
    return getattr(trace, gate).double().sum((0, 1)) / trace.steps.sum().clamp(min=1)


def _after(
    lstm: LSTM,
    x: Any,
    score: Score,
    gate: str,
    fixed: Tensor,
    units: Sequence[int] | None,
    direction: int | None,
    layer: int,
) -> np.ndarray:
    chosen = torch.ones(lstm.hidden_size, dtype=torch.bool) if units is None else torch.zeros(lstm.hidden_size).bool()
    if units is not None:
        chosen[list(units)] = True
    with _edited(lstm, layer % lstm.num_layers, direction, gate, chosen, fixed):
        return array(scored(score, x)).astype(np.float64)


@contextmanager
def _edited(lstm: LSTM, layer: int, direction: int | None, gate: str, chosen: Tensor, fixed: Tensor) -> Iterator[None]:
    """The layer with one gate of some units fixed, (D, H)."""

    def weights(of: int) -> list[LSTMWeights]:
        found = LSTM.weights(lstm, of)
        if of != layer:
            return found
        return [_fixed(w, gate, chosen, fixed[d]) if direction in (None, d) else w for d, w in enumerate(found)]

    streaming.forget(lstm)
    lstm.__dict__["weights"] = weights  # shadows the method
    try:
        yield
    finally:
        del lstm.__dict__["weights"]
        streaming.forget(lstm)


def _fixed(w: LSTMWeights, gate: str, chosen: Tensor, fixed: Tensor) -> LSTMWeights:
    """Weights with which a gate of the chosen units is a constant."""
    H, place = len(chosen), GATES.index(gate)
    rows = torch.zeros(4 * H, dtype=torch.bool)
    rows[place * H : (place + 1) * H] = chosen
    bias = torch.atanh(fixed) if gate == "candidate" else torch.logit(fixed)
    full = torch.zeros(4 * H, dtype=torch.float64)
    full[place * H : (place + 1) * H] = bias.clamp(-_FAR, _FAR)

    def off(p: Any) -> Any:
        return None if p is None else torch.where(rows if p.dim() == 1 else rows[:, None], 0.0, p)

    old = torch.zeros_like(w.ih[:, 0]) if w.b_ih is None else w.b_ih
    new = w._replace(b_ih=torch.where(rows, full.to(old.dtype), old), b_hh=off(w.b_hh))
    if w.norm_ih is not None:  # the gains, as the weights also make the mean and spread of the other units
        new = new._replace(norm_ih=off(w.norm_ih), norm_hh=off(w.norm_hh))
    else:
        new = new._replace(ih=off(w.ih), hh=off(w.hh))
    if w.ch is not None and gate in _PEEPHOLES:
        ch = w.ch.clone()
        ch[_PEEPHOLES[gate]] = torch.where(chosen, 0.0, ch[_PEEPHOLES[gate]])
        new = new._replace(ch=ch)
    return new
