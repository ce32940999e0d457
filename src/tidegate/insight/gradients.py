"""Where the gradient goes: its size by lag, LSTM beside vanilla RNN.

The gradient of a loss by h_{T-k} of a vanilla RNN is a product of k Jacobians, which shrinks or grows
geometrically (Hochreiter 1991; Bengio, Simard & Frasconi 1994). On the memory's path of an LSTM the Jacobian is
the forget gate: dL/dc_T prod_{s>T-k} F_s, the closed form given beside the whole gradient, which
also goes by way of the gates.

K lags, T steps, B batch rows, H hidden units, P outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tidegate import ops
from tidegate.cell import LSTMWeights, _norm_cell
from tidegate.frames import array, polars
from tidegate.insight.calls import evaluation
from tidegate.insight.ledger import retention
from tidegate.layer import LSTM
from tidegate.ops import LayerTrace
from tidegate.rnn import RNN

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class GradientFlow:
    """Norms of gradients over the units, mean over the rows, by lag; in the loss's unit.

    Attributes
    ----------
    lags : (K,)
        0 is the last step.
    hidden : (K,)
        Of dL/dh_{T-k} for the LSTM.
    cell : (K,)
        Of dL/dc_{T-k}, by way of the step's own h and of all later steps. (With zoneout of c, the memory that
        a step shows and the one that it passes on are two; their gradients are added.)
    memory_path : (K,)
        Of dL/dc_T prod_{s>T-k} F_s, the part of ``cell`` that goes by the memory alone, for a loss of
        the last step.
    rnn : (K,)
        Of dL/dh_{T-k} for the vanilla RNN.
    """

    lags: np.ndarray
    hidden: np.ndarray
    cell: np.ndarray
    memory_path: np.ndarray
    rnn: np.ndarray

    def to_frame(self) -> pl.DataFrame:
        """One row a lag."""
        names = ("lags", "hidden", "cell", "memory_path", "rnn")
        return polars().DataFrame({name.removesuffix("s"): getattr(self, name) for name in names})


def gradient_flow(
    lstm: LSTM,
    x: Tensor,
    rnn: RNN | None = None,
    *,
    loss: Callable[[Tensor], Tensor] | None = None,
    hx: Any = None,
) -> GradientFlow:
    """How much of a loss's gradient reaches back over each lag.

    Parameters
    ----------
    lstm : LSTM
        One direction; the states looked at are those of the top layer. Read in evaluation mode.
    x : Tensor, as the layer takes it
    rnn : RNN, optional
        Of the same input size, for comparison: the same model trained with it, or by default a new one of
        the same sizes, with weights that are drawn from a seed of its own.
    loss : callable, optional
        From the top layer's outputs (T, B, P) to a number. By default the sum of the last step's.
    hx : (h_0, c_0), optional
        Of the LSTM.

    Returns
    -------
    GradientFlow

    Raises
    ------
    ValueError
        If a layer is bidirectional.
    """
    if rnn is None:
        with torch.random.fork_rng(devices=[]):  # the same one each time, and not from a training run's numbers
            torch.manual_seed(0)
            rnn = RNN(lstm.input_size, lstm.hidden_size, lstm.num_layers, batch_first=lstm.batch_first)
        rnn.to(lstm.weight_ih_l0)
    for layer in (lstm, rnn):
        layer._refuse_streaming("gradient_flow")
    if rnn.input_size != lstm.input_size:
        raise ValueError(f"both layers read the same input; given input sizes {lstm.input_size} and {rnn.input_size}")
    loss = loss or (lambda outputs: outputs[-1].sum())
    with evaluation(lstm), evaluation(rnn):
        with torch.no_grad():
            top = lstm.trace(x, hx).layers[-1]
        h, c = _lstm_states(lstm, top.x, top.h_0[0], top.c_0[0])
        d_h, d_c = _by_states(loss, h, c)
        d_c = d_c + _through_shown(top, lstm.weights(lstm.num_layers - 1)[0], d_h)
        below = rnn._enter(x, None, None)[0]
        d_rnn = _by_states(loss, _rnn_states(rnn, below))[0]
    left = retention(top.keep[:, :, 0].double())  # (T, B, H)
    return GradientFlow(np.arange(len(h)), _norms(d_h), _norms(d_c), _norms(d_c[-1:].double() * left), _norms(d_rnn))


def _lstm_states(lstm: LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """h and c after each step of the top layer, one step a call so that each is a place to differentiate by."""
    layer = lstm.num_layers - 1
    weights, noise = lstm.weights(layer), lstm._noise()[layer]
    hs, cs = [], []
    with torch.enable_grad():
        h, c = h[None].detach().requires_grad_(), c[None].detach().requires_grad_()
        for t in range(len(x)):
            result = ops.lstm_sequence(x[t : t + 1].detach(), h, c, weights, None, None, noise)
            h, c = result.h_n, result.c_n
            hs.append(h)
            cs.append(c)
    return hs, cs


def _through_shown(top: LayerTrace, w: LSTMWeights, d_h: Tensor) -> Tensor:
    """What reaches c (T, B, H) by way of its own step's h, from the gradients by h (T, B, P)."""
    with torch.enable_grad():
        c = top.cell[:, :, 0].detach().requires_grad_()
        o = top.output[:, :, 0].detach()
        if w.ch is not None:
            o = o + o * (1.0 - o) * w.ch[2].detach() * (c - c.detach())  # the same value, with its slope
        h = o * torch.tanh(c if w.norm_c is None else _norm_cell(c, w.norm_c))
        if w.hr is not None:
            h = F.linear(h, w.hr.to(h.dtype))
        [found] = torch.autograd.grad(h, c, ((1.0 - top.held_hidden) * d_h).to(h.dtype))
    return found


def _rnn_states(rnn: RNN, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    with torch.enable_grad():
        for layer in range(rnn.num_layers):
            found = []
            h = x.new_zeros(1, x.shape[1], rnn.hidden_size).requires_grad_()
            for t in range(len(x)):
                h = ops.rnn_sequence(x[t : t + 1], h, rnn.weights(layer), None, None, rnn.nonlinearity)[1]
                found.append(h)
            x = torch.cat(found).detach()
    return found


def _by_states(loss: Callable[[Tensor], Tensor], *states: list[Tensor]) -> list[Tensor]:
    """The loss's gradients by states (1, B, .) of all steps, the first of which are the outputs: (T, B, .) each."""
    with torch.enable_grad():
        value = loss(torch.cat(states[0]))
        if value.dim():
            raise ValueError(f"loss gives one number; given shape {tuple(value.shape)}")
        flat = [s for each in states for s in each]
        grads = torch.autograd.grad(value, flat, allow_unused=True)
    filled = [torch.zeros_like(s) if g is None else g for s, g in zip(flat, grads, strict=True)]
    T = len(states[0])
    return [torch.cat(filled[k * T : (k + 1) * T]) for k in range(len(states))]


def _norms(gradients: Tensor) -> np.ndarray:
    """Mean over the rows of the norm over the units, last step first: (T,)."""
    return array(gradients.double().norm(dim=-1).mean(-1).flip(0))
