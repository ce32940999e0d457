"""The truth: a loop over ``cell.py``. Any dtype, device, option and derivative.

T steps, B batch rows, I inputs, H hidden units, P outputs, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tidegate.cell import LSTMWeights, RNNWeights, lstm_input, lstm_step, rnn_input, rnn_step
from tidegate.ops import random
from tidegate.ops.types import Noise, SequenceResult, accumulator


def lstm_sequence(
    x: Tensor,  # (T, B, I)
    h_0: Tensor,  # (D, B, P)
    c_0: Tensor,  # (D, B, H)
    weights: Sequence[LSTMWeights],  # D
    lengths: Tensor | None,  # (B,)
    reset: Tensor | None,  # (T, B)
    noise: Noise | None,
    first_direction: int = 0,
) -> SequenceResult:
    """One LSTM layer over a whole sequence; see :func:`tidegate.ops.lstm_sequence`.

    With ``first_direction`` 1 the only direction given is the one that reads from the end.
    """
    x, valid, reset = _masks(x, lengths, reset)
    c_0 = c_0.to(accumulator(c_0.dtype))
    results = [
        _lstm_direction(x, h_0[d], c_0[d], w, valid, reset, noise, backward=d + first_direction == 1)
        for d, w in enumerate(weights)
    ]
    output, cells, h_n, c_n = zip(*results, strict=True)
    return SequenceResult(torch.stack(output, 2), torch.stack(cells, 2), torch.stack(h_n), torch.stack(c_n))


def rnn_sequence(
    x: Tensor,  # (T, B, I)
    h_0: Tensor,  # (D, B, H)
    weights: Sequence[RNNWeights],  # D
    lengths: Tensor | None,
    reset: Tensor | None,
    nonlinearity: str,
) -> tuple[Tensor, Tensor]:
    """One vanilla RNN layer over a whole sequence: output (T, B, D, H) and h_n (D, B, H)."""
    x, valid, reset = _masks(x, lengths, reset)
    outputs, finals = [], []
    for d, w in enumerate(weights):
        a_x, h, steps = rnn_input(x, w).unbind(0), h_0[d], []  # unbound: the gradient of a slice fills all steps
        for t, starts in _order(x.shape[0], reset, backward=d == 1):
            if starts is not None:
                h = torch.where(starts, 0.0, h)
            h_new = rnn_step(a_x[t], h, w, nonlinearity)
            h, shown = _hold(valid, t, h_new, h)
            steps.append(shown)
        outputs.append(_stack(steps, h_0[d], backward=d == 1))
        finals.append(h)
    return torch.stack(outputs, 2), torch.stack(finals)


def _lstm_direction(
    x: Tensor,
    h: Tensor,  # (B, P)
    c: Tensor,  # (B, H)
    w: LSTMWeights,
    valid: Tensor | None,
    reset: Tensor | None,
    noise: Noise | None,
    *,
    backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a_x = lstm_input(x, w)  # (T, B, 4H)
    first_h, first_c = h, c
    keep = _recurrent_keep(noise, h, backward)
    outputs, cells = [], []
    for t, starts in _order(x.shape[0], reset, backward):
        if starts is not None:
            h = torch.where(starts, 0.0, h)
            c = torch.where(starts, 0.0, c)
        step = lstm_step(a_x[t], h, c, w, None if keep is None else h * keep)
        h_new, c_new = step.hidden, step.cell
        if noise is not None:
            h_new = _zoneout(noise, noise.zoneout_hidden, h_new, h, t, random.STREAM_ZONEOUT_HIDDEN, backward)
            c_new = _zoneout(noise, noise.zoneout_cell, c_new, c, t, random.STREAM_ZONEOUT_CELL, backward)
        h, h_shown = _hold(valid, t, h_new, h)
        c, c_shown = _hold(valid, t, c_new, c)
        outputs.append(h_shown)
        cells.append(c_shown)
    return _stack(outputs, first_h, backward), _stack(cells, first_c, backward), h, c


def _masks(x: Tensor, lengths: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Input with its padding zeroed, so that nothing there is seen, and masks (T, B, 1)."""
    valid = None
    if reset is not None:
        reset = reset.unsqueeze(-1)
    if lengths is not None:
        steps = torch.arange(x.shape[0], device=x.device)
        valid = (steps[:, None] < lengths.to(x.device)).unsqueeze(-1)  # (T, B, 1)
        x = torch.where(valid, x, 0.0)
        reset = reset & valid if reset is not None else None
    return x, valid, reset


def _order(steps: int, reset: Tensor | None, backward: bool):
    """Each step's index in the direction's order, with the rows whose memory is emptied before it."""
    if not backward:
        for t in range(steps):
            yield t, None if reset is None else reset[t]
    else:
        for t in reversed(range(steps)):
            # A new sequence starts at t + 1: what was read of it stops there.
            yield t, None if reset is None or t + 1 == steps else reset[t + 1]


def _hold(valid: Tensor | None, t: int, new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """State and output of a step: past a row's length the state stays and the output is zero."""
    if valid is None:
        return new, new
    return torch.where(valid[t], new, old), torch.where(valid[t], new, 0.0)


def _stack(steps: list[Tensor], like: Tensor, backward: bool) -> Tensor:
    if not steps:
        return like.new_zeros(0, *like.shape)
    return torch.stack(steps[::-1] if backward else steps)


def _recurrent_keep(noise: Noise | None, h: Tensor, backward: bool) -> Tensor | None:
    """Scaled mask on what the gates see of h, one for the whole sequence (Gal & Ghahramani 2016)."""
    if noise is None or not noise.training or noise.recurrent_dropout == 0.0:
        return None
    stream = random.STREAM_RECURRENT_DROPOUT + backward * random.STREAM_BACKWARD
    drop = random.bernoulli(noise.seed, noise.recurrent_dropout, 0, h.shape[0], h.shape[1], stream)
    if noise.recurrent_dropout == 1.0:
        return torch.zeros_like(h)
    return (~drop).to(h.dtype) / (1.0 - noise.recurrent_dropout)


def _zoneout(noise: Noise, rate: float, new: Tensor, old: Tensor, t: int, stream: int, backward: bool) -> Tensor:
    """Keep the old value at random; the expectation outside training (Krueger et al. 2017)."""
    if rate == 0.0:
        return new
    if not noise.training:
        return rate * old + (1.0 - rate) * new
    stream += backward * random.STREAM_BACKWARD
    drawn = random.bernoulli(noise.seed, rate, noise.first_step + t, new.shape[0], new.shape[1], stream)
    return torch.where(drawn, old, new)
