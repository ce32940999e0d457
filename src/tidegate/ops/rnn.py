"""The vanilla RNN's steps as one differentiable operation, with the backward pass written out.

What :mod:`tidegate.ops.reference` records for the gradient, four operations a step, costs several times more
than the steps themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tidegate.cell import RNNWeights, rnn_input
from tidegate.checks import autocast_dtype
from tidegate.ops import native


def takes(
    x: Tensor, weights: Sequence[RNNWeights], lengths: Tensor | None, reset: Tensor | None, nonlinearity: str
) -> bool:
    """Can :func:`rnn_sequence` run this call? Transforms and compilers are the caller's question."""
    # The steps run on over the padding, which only tanh keeps from growing without bound.
    padded = lengths is None or (len(weights) == 1 and nonlinearity == "tanh")
    return len(x) > 0 and reset is None and padded and autocast_dtype(x) is None


def rnn_sequence(
    x: Tensor,  # (T, B, I)
    h_0: Tensor,  # (D, B, H)
    weights: Sequence[RNNWeights],  # D
    lengths: Tensor | None,
    nonlinearity: str,
) -> tuple[Tensor, Tensor]:
    """One vanilla RNN layer over a whole sequence: output (T, B, D, H) and h_n (D, B, H)."""
    valid = None
    if lengths is not None:
        lengths = lengths.to(x.device)
        valid = (torch.arange(len(x), device=x.device)[:, None] < lengths).unsqueeze(-1)  # (T, B, 1)
        x = torch.where(valid, x, 0.0)
    outputs, finals = [], []
    for d, w in enumerate(weights):
        a_x = rnn_input(x, w)
        h = steps(a_x.flip(0) if d == 1 else a_x, h_0[d], w.hh, nonlinearity)
        if valid is None or lengths is None:
            finals.append(h[-1])
            outputs.append(h.flip(0) if d == 1 else h)
        else:
            rows = torch.arange(h.shape[1], device=x.device)
            finals.append(torch.where((lengths > 0).unsqueeze(-1), h[(lengths - 1).clamp(min=0), rows], h_0[d]))
            outputs.append(torch.where(valid, h, 0.0))
    return torch.stack(outputs, 2), torch.stack(finals)


def steps(a_x: Tensor, h_0: Tensor, hh: Tensor, nonlinearity: str) -> Tensor:
    """Every step's state ``h_t = tanh(a_t + h_{t-1} W_h)``, or relu.

    Parameters
    ----------
    a_x : Tensor (T, B, H)
        The part of each step that depends on the input alone; T is at least 1.
    h_0 : Tensor (B, H)
    hh : Tensor (H, H)
        As torch keeps it: to a unit in each row.
    nonlinearity : "tanh" or "relu"

    Returns
    -------
    Tensor (T, B, H)
        Differentiable; a second derivative runs through the steps recorded one by one.
    """
    return _Steps.apply(a_x, h_0, hh, nonlinearity)


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a_x, h_0, hh, nonlinearity):
        apply = torch.tanh_ if nonlinearity == "tanh" else torch.relu_
        h = torch.empty_like(a_x, memory_format=torch.contiguous_format)  # (T, B, H)
        previous, transposed = h_0, hh.t()
        for a, out in zip(a_x.unbind(0), h.unbind(0), strict=True):
            previous = apply(torch.addmm(a, previous, transposed, out=out))
        ctx.save_for_backward(a_x, h_0, hh, h)
        ctx.nonlinearity = nonlinearity
        return h

    @staticmethod
    def backward(ctx, grad):
        a_x, h_0, hh, h = ctx.saved_tensors
        if torch.is_grad_enabled():
            leaves = tuple(native.leaf(t) for t in (a_x, h_0, hh))
            a, h, w = leaves
            recorded = _recorded(a, h, w, ctx.nonlinearity)
            return *torch.autograd.grad(recorded, leaves, grad, create_graph=True), None
        slope = 1 - h * h if ctx.nonlinearity == "tanh" else (h > 0).to(h.dtype)
        da = torch.empty_like(h)  # (T, B, H), of the pre-activations
        torch.mul(grad[-1], slope[-1], out=da[-1])
        every = list(zip(grad.unbind(0), slope.unbind(0), da.unbind(0), strict=True))
        for (dh, s, out), (_, _, after) in zip(every[-2::-1], every[:0:-1], strict=True):
            torch.addmm(dh, after, hh, out=out).mul_(s)
        d_hh = da[0].t() @ h_0 + da[1:].flatten(0, 1).t() @ h[:-1].flatten(0, 1)
        return da, da[0] @ hh, d_hh, None


def _recorded(a_x: Tensor, h_0: Tensor, hh: Tensor, nonlinearity: str) -> Tensor:
    apply = torch.tanh if nonlinearity == "tanh" else torch.relu
    states, h = [], h_0
    for a in a_x.unbind(0):
        h = apply(torch.addmm(a, h, hh.t()))
        states.append(h)
    return torch.stack(states)
