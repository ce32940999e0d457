"""Every gate of a layer at every step, without a loop over the steps.

Where the native kernels run, they write the gates down as they go. Elsewhere, and in compiled graphs with
derivatives, the gates of all steps are one matrix product, given h and c of all steps: ``cell.lstm_step``
over time as if it were the batch. That product is also the derivative of the kernels' gates.

T steps, B batch rows, I inputs, H hidden units, P outputs, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tidegate.cell import LSTMStep, LSTMWeights, lstm_input, lstm_step
from tidegate.checks import autocast_dtype
from tidegate.ops import graph, native, random
from tidegate.ops.library import library
from tidegate.ops.types import Noise, SequenceResult, accumulator

_ROWS = 1024  # steps times rows whose gates are computed at once


class LayerTrace(NamedTuple):
    """One layer at every step. Past a row's length everything but ``x`` is zero."""

    input: Tensor  # (T, B, D, H) i, activated: how much is added
    forget: Tensor  # (T, B, D, H) f: how much is kept
    candidate: Tensor  # (T, B, D, H) g: what is added
    output: Tensor  # (T, B, D, H) o: how much is shown
    cell: Tensor  # (T, B, D, H) long-term memory after the step
    hidden: Tensor  # (T, B, D, P) short-term memory after the step
    x: Tensor  # (T, B, I) what the layer was given; past a row's length it is not read
    h_0: Tensor  # (D, B, P)
    c_0: Tensor  # (D, B, H)
    valid: Tensor | None  # (T, B, 1, 1) false past a row's length; None where all rows are full
    cut: Tensor | None  # (T, B, D, 1) true where the memory is emptied before the step; None where never
    held_hidden: Tensor | float  # zoneout: the share of the old h that stays, (T, B, D, P) or one number
    held_cell: Tensor | float  # the same of c, (T, B, D, H)

    @property
    def steps(self) -> Tensor:
        """Valid steps of each row, (B,)."""
        T, B = self.cell.shape[:2]
        return torch.full((B,), T) if self.valid is None else self.valid[:, :, 0, 0].sum(0)

    @property
    def keep(self) -> Tensor:
        """The effective forget gate (T, B, D, H): the factor of the old c in the new one.

        Zoneout counted in; 0 where a reset empties the memory, 1 past a row's length.
        """
        keep = self.forget
        if isinstance(self.held_cell, Tensor) or self.held_cell:
            keep = self.held_cell + (1.0 - self.held_cell) * keep
        if self.cut is not None:
            keep = torch.where(self.cut, 0.0, keep)
        return keep if self.valid is None else torch.where(self.valid, keep, 1.0)

    @property
    def write(self) -> Tensor:
        """What each step adds to c (T, B, D, H): i * g, less what zoneout holds back; 0 past a row's length."""
        return (1.0 - self.held_cell) * (self.input * self.candidate)

    def before(self) -> tuple[Tensor, Tensor]:
        """h (T, B, D, P) and c (T, B, D, H) as each step finds them."""
        pairs = ((self.hidden, self.h_0), (self.cell, self.c_0))
        found = [
            _join([_before(s[:, :, d], first[d], self.valid, self.cut, d) for d in range(s.shape[2])])
            for s, first in pairs
        ]
        return found[0], found[1]


def lstm_trace(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    noise: Noise | None = None,
) -> tuple[SequenceResult, LayerTrace]:
    """Run one LSTM layer and say what every gate did; arguments as :func:`tidegate.ops.lstm_sequence`.

    Differentiable on every backend. In half precision gates are float32: those of the kernels before
    they are rounded, elsewhere computed from rounded x, h and weights.
    """
    from tidegate import ops

    dtype = autocast_dtype(x)
    if dtype is not None:  # cast as ``lstm_sequence`` does, once for both
        x, h_0, weights = x.to(dtype), h_0.to(dtype), [w.to(dtype) for w in weights]
        with torch.autocast(x.device.type, enabled=False):
            return lstm_trace(x, h_0, c_0, weights, lengths, reset, noise)
    valid, cut = _masks(x, len(weights), lengths, reset)
    watched = torch.compiler.is_compiling() or ops.recorded(x, h_0, c_0, weights)
    if not watched:
        ops.check_sizes(x, h_0, c_0, weights, lengths, reset)
    if not watched and ops.choose(x, weights, noise).name == "native":
        result, gates = _native(x, h_0, c_0, weights, (lengths, reset, noise), valid, cut)
    elif _compiled_without_derivatives(x, h_0, c_0, weights):
        result, gates = graph.lstm_trace(x, h_0, c_0, weights, lengths, reset, noise)
    else:
        result, gates = ops.lstm_sequence(x, h_0, c_0, weights, lengths, reset, noise), ()
    assert result.cells is not None
    hidden, cells = result.output, result.cells
    i, f, g, o = gates or _gates(x, h_0, c_0, hidden, cells, weights, valid, cut, noise)
    held = [_held(noise, which, s, weights) for which, s in (("hidden", hidden), ("cell", cells))]
    return result, LayerTrace(i, f, g, o, cells, hidden, x, h_0, c_0.to(cells.dtype), valid, cut, held[0], held[1])


def _compiled_without_derivatives(x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[LSTMWeights]) -> bool:
    """Then the gates may come out of an opaque operator too; exported graphs keep to plain torch, which all read."""
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting() or x.device.type != "cpu":
        return False
    given = (x, h_0, c_0, *(p for w in weights for p in w if p is not None))
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in given))


def _native(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    given: tuple[Tensor | None, Tensor | None, Noise | None],
    valid: Tensor | None,
    cut: Tensor | None,
) -> tuple[SequenceResult, tuple[Tensor, ...]]:
    """The kernels' forward pass with its gates."""
    fields, flat = native.flatten(weights)
    call = native.Call(*given, fields)
    state = h_0.to(x.dtype), c_0.to(accumulator(x.dtype))
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, h_0, c_0, *flat))):
        *found, packed = native.forward(call, x, *state, flat, save=True, open_gates=True)
        return SequenceResult(*found), _unpack(packed, found[1])  # type: ignore[arg-type]
    result = native.lstm_sequence(x, h_0, c_0, weights, *given)
    if (
        accumulator(x.dtype) is not x.dtype or weights[0].norm_ih is not None
    ):  # the backward pass reads something else: run once more
        with torch.no_grad():
            packed = native.forward(call, x, *state, flat, save=True, open_gates=True)[4]
    else:
        packed = native.saved_gates(result.output)
        if valid is not None:  # left unwritten; autograd need not know, as the backward pass does not read it either
            _empty_padding(packed.data, valid)
    return result, _Known.apply(packed, (call, valid, cut), x, h_0, c_0, result.output, result.cells, *flat)


def _unpack(packed: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
    """Gates i, f, g, o (T, B, D, H) as views of (D, T, B, [i f g o][H rounded up])."""
    gates = packed.unflatten(-1, (4, packed.shape[-1] // 4))[..., : cells.shape[-1]]  # (D, T, B, 4, H)
    return gates.permute(3, 1, 2, 0, 4).unbind()


def _empty_padding(values: Tensor, valid: Tensor) -> Tensor:
    """Zeros in place past each row's length of (D, T, B, N), contiguous; as indices, which cost a quarter of a mask."""
    values.flatten(1, 2).index_fill_(1, torch.nonzero(~valid.flatten()).flatten(), 0.0)
    return values


class _Known(torch.autograd.Function):
    """Gates that the kernels have computed already, with ``_gates`` as their derivative."""

    @staticmethod
    def forward(ctx, packed, rest, x, h_0, c_0, hidden, cells, *flat):
        ctx.rest = rest
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h_0, c_0, hidden, cells, *flat)
        return _unpack(packed, cells)

    @staticmethod
    def backward(ctx, *grads):
        call, valid, cut = ctx.rest
        again = torch.is_grad_enabled()
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            leaves = [native.leaf(t) for t in ctx.saved_tensors]
            x, h_0, c_0, hidden, cells, *flat = leaves
            gates = _gates(x, h_0, c_0, hidden, cells, call.weights(flat), valid, cut, call.noise)
        pairs = [(gate, g) for gate, g in zip(gates, grads, strict=True) if g is not None]
        if not pairs:
            return (None,) * (2 + len(leaves))
        outputs, weights = zip(*pairs, strict=True)
        return None, None, *torch.autograd.grad(outputs, leaves, weights, allow_unused=True, create_graph=again)


def _gates(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    hidden: Tensor,
    cells: Tensor,
    weights: Sequence[LSTMWeights],
    valid: Tensor | None,
    cut: Tensor | None,
    noise: Noise | None,
) -> tuple[Tensor, ...]:
    """Gates i, f, g, o (T, B, D, H) from the states of all steps, zero in padding."""
    dtype = cells.dtype
    if valid is not None:
        x = torch.where(valid[..., 0], x, 0.0)
    T, B, D, H = cells.shape
    # Without derivatives, a part of the steps at a time: what lies between stays in the cache.
    part = T if torch.is_grad_enabled() or torch.compiler.is_compiling() else max(1, _ROWS // max(1, B))
    gates = None if part >= T else _room((D, T, B, 4, H), cells)
    found = []
    for d, w in enumerate(weights):
        h = _before(hidden[:, :, d], h_0[d], valid, cut, d).to(dtype)  # (T, B, P)
        c = _before(cells[:, :, d], c_0[d].to(dtype), valid, cut, d)  # (T, B, H)
        w = w.to(dtype)
        mask = recurrent_keep(noise, h_0[d].to(dtype), d)
        for t in range(0, max(T, 1), max(part, 1)):
            now = slice(t, t + part)
            seen = None if mask is None else h[now] * mask
            step = lstm_step(lstm_input(x[now].to(dtype), w), h[now], c[now], w, seen)
            if gates is None:
                found.append(step)
            else:
                torch.stack(step[2:], 2, out=gates[d, now])
    if gates is not None:
        if valid is not None:
            gates.masked_fill_(~valid[None], 0.0)
        return gates.permute(3, 1, 2, 0, 4).unbind()
    joined = (_join([getattr(step, gate) for step in found]) for gate in LSTMStep._fields[2:])
    return tuple(joined if valid is None else (torch.where(valid, gate, 0.0) for gate in joined))


def _room(shape: tuple[int, ...], like: Tensor) -> Tensor:
    lib = library()
    return like.new_empty(shape) if lib is None or like.device.type != "cpu" else lib.empty(shape, like.dtype)


def recurrent_keep(noise: Noise | None, h: Tensor, direction: int) -> Tensor | None:
    """The mask of recurrent dropout (B, P), as the reference draws it."""
    from tidegate.ops import reference

    return reference._recurrent_keep(noise, h, direction == 1)


def _join(directions: list[Tensor]) -> Tensor:
    return directions[0].unsqueeze(2) if len(directions) == 1 else torch.stack(directions, 2)


def _before(states: Tensor, first: Tensor, valid: Tensor | None, cut: Tensor | None, d: int) -> Tensor:
    """The state that each step of one direction finds, from the states (T, B, N) that the steps leave."""
    T, first = states.shape[0], first.to(states.dtype)[None]
    if d == 0:
        found = torch.cat([first, states[:-1]])[:T]
    else:
        found = torch.cat([states[1:], first])[:T]
        if valid is not None:  # the last valid step is this direction's first
            after = torch.cat([valid[1:], torch.zeros_like(valid[:1])])[:T]
            found = torch.where(after[..., 0], found, first)
    return found if cut is None else torch.where(cut[:, :, d], 0.0, found)


def _masks(
    x: Tensor, directions: int, lengths: Tensor | None, reset: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """``valid`` (T, B, 1, 1) and ``cut`` (T, B, D, 1) of a :class:`LayerTrace`."""
    valid = cut = None
    if lengths is not None:
        steps = torch.arange(x.shape[0], device=x.device)
        valid = (steps[:, None] < lengths.to(x.device))[..., None, None]  # (T, B, 1, 1)
    if reset is not None:
        starts = reset.to(x.device)[..., None]  # (T, B, 1)
        if valid is not None:
            starts = starts & valid[..., 0]
        # A new sequence starts at t + 1: the backward direction is emptied before it reads t.
        sides = [starts, torch.cat([starts[1:], torch.zeros_like(starts[:1])])[: len(starts)]]
        cut = torch.stack(sides[:directions], 2)  # (T, B, D, 1)
    return valid, cut


def _held(noise: Noise | None, which: str, states: Tensor, weights: Sequence[LSTMWeights]) -> Tensor | float:
    """Zoneout's share of the old state: its rate outside training, else its masks (T, B, D, .)."""
    rate = 0.0 if noise is None else getattr(noise, f"zoneout_{which}")
    if noise is None or not noise.training or rate == 0.0:
        return rate
    stream = random.STREAM_ZONEOUT_HIDDEN if which == "hidden" else random.STREAM_ZONEOUT_CELL
    steps = noise.first_step + torch.arange(states.shape[0], device=states.device)
    masks = [
        random.bernoulli_steps(
            noise.seed, rate, steps, states.shape[1], states.shape[3], stream + d * random.STREAM_BACKWARD
        )
        for d in range(len(weights))
    ]
    return torch.stack(masks, 2).to(states.dtype)
