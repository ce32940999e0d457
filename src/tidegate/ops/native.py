"""CPU: the C++ kernels of ``native/`` behind one call, with their derivative.

T steps, B batch rows, I inputs, H hidden units, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tidegate.cell import LSTMWeights
from tidegate.ops import reference
from tidegate.ops.library import CALL, DTYPES, VERSION, Library, check, library, missing
from tidegate.ops.types import Noise, SequenceResult

_ACCUMULATOR = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32}


def declines(x: Tensor, weights: Sequence[LSTMWeights], noise: Noise | None) -> str | None:
    """Why the kernels do not take this call, or None."""
    if library() is None:
        return missing()
    if x.device.type != "cpu":
        return f"the native kernels run on the CPU, and the input is on {x.device}"
    if x.dtype not in DTYPES:
        return f"the native kernels compute in float32, float64 and bfloat16, and the input is {x.dtype}"
    if transformed():
        return "inside a function transform or forward-mode differentiation only plain torch is traceable"
    for w in weights:
        if w.hr is not None:
            return "proj_size has no native kernel"
        if w.norm_ih is not None or w.norm_hh is not None or w.norm_c is not None:
            return "layer_norm has no native kernel"
        if w.ih.dtype is not x.dtype or w.hh.dtype is not x.dtype:
            return f"the weights ({w.ih.dtype}) differ in dtype from the input ({x.dtype})"
    return None


def transformed() -> bool:
    """Is a functorch transform or forward-mode differentiation active?"""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class Call(NamedTuple):
    """Everything but the differentiable tensors."""

    lengths: Tensor | None
    reset: Tensor | None
    noise: Noise | None
    fields: tuple[tuple[bool, ...], ...]  # which weights each direction has

    def weights(self, flat: Sequence[Tensor]) -> list[LSTMWeights]:
        given = iter(flat)
        return [LSTMWeights(*(next(given) if there else None for there in fields)) for fields in self.fields]


def flatten(weights: Sequence[LSTMWeights]) -> tuple[list[Tensor], tuple[tuple[bool, ...], ...]]:
    """All parameters in order, and which there are."""
    flat = [p for w in weights for p in w if p is not None]
    return flat, tuple(tuple(p is not None for p in w) for w in weights)


def lstm_sequence(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    lengths: Tensor | None,
    reset: Tensor | None,
    noise: Noise | None,
    need_cells: bool = True,
) -> SequenceResult:
    """One LSTM layer over a whole sequence; see :func:`tidegate.ops.lstm_sequence`."""
    h_0, c_0 = h_0.to(x.dtype), c_0.to(_ACCUMULATOR[x.dtype])
    flat, fields = flatten(weights)
    call = Call(lengths, reset, noise, fields)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, h_0, c_0, *flat)):
        return SequenceResult(*_Sequence.apply(call, x, h_0, c_0, *flat))
    return SequenceResult(*forward(call, x, h_0, c_0, flat, save=False, need_cells=need_cells)[:4])


def forward(
    call: Call,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    flat: Sequence[Tensor],
    *,
    save: bool,
    need_cells: bool = True,
    packed: int = 0,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:
    """Output, cells, h_n, c_n and, if ``save``, the activated gates that the backward pass reads."""
    lib = _library()
    T, B, _ = x.shape
    D, H = len(call.fields), flat[1].shape[1]
    dtype, accumulator = x.dtype, _ACCUMULATOR[x.dtype]
    output = lib.empty((T, B, D, H), dtype)
    cells = lib.empty((T, B, D, H), accumulator) if save or need_cells else None
    gates = lib.empty((D, T, B, lib.gate_width(DTYPES[dtype], H)), dtype) if save else None
    h_n, c_n = torch.empty((D, B, H), dtype=dtype), torch.empty((D, B, H), dtype=accumulator)
    inputs = _Inputs(call, x, h_0, c_0, flat)
    outputs = (_at(output), _at(cells), _at(gates), _at(h_n), _at(c_n))
    check(lib.forward(CALL.pack(*inputs.sizes, 0, 0, 0, *inputs.pointers(packed), *outputs, *_NO_GRADIENTS)))
    return output, cells, h_n, c_n, gates


_NO_GRADIENTS = (0,) * 15


class _Inputs:
    """The first fields of a call, with the tensors that must live as long as it runs."""

    def __init__(self, call: Call, x: Tensor, h_0: Tensor, c_0: Tensor, flat: Sequence[Tensor]) -> None:
        T, B, I = x.shape
        H = flat[1].shape[1]
        if x.stride(2) != 1 and I > 1:
            x = x.contiguous()
        self.x, self.h_0, self.c_0 = x, h_0.contiguous(), c_0.contiguous()
        self.weights = [LSTMWeights(*(_at(p) for p in w)) for w in call.weights(_contiguous(flat, self))]
        self.lengths = None if call.lengths is None else call.lengths.to("cpu", torch.int64).contiguous()
        self.reset = None if call.reset is None else call.reset.to("cpu", torch.bool).contiguous()
        self.noise = call.noise
        self.sizes = (
            (VERSION, DTYPES[x.dtype], torch.get_num_threads(), T, B, I, H, len(self.weights))
            + (x.stride(0), x.stride(1))
        )  # fmt: skip

    def pointers(self, packed: int = 0) -> tuple[Any, ...]:
        first, second = self.weights[0], self.weights[-1]
        noise = self.noise
        random = (0, 0.0, 0.0, 0.0, 0)
        if noise is not None:
            rates = (noise.recurrent_dropout, noise.zoneout_hidden, noise.zoneout_cell)
            random = (int(noise.seed), *rates, int(noise.training))
        return (
            self.x.data_ptr(), self.h_0.data_ptr(), self.c_0.data_ptr(),
            first.ih, second.ih, first.hh, second.hh, first.b_ih, second.b_ih, first.b_hh, second.b_hh,
            first.ch, second.ch,
            packed, _at(self.lengths), _at(self.reset), *random,
        )  # fmt: skip


def backward(
    call: Call,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    flat: Sequence[Tensor],
    saved: tuple[Tensor, Tensor, Tensor],
    grads: Sequence[Tensor | None],
    need_x: bool = True,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, h_0, c_0 and all weights from those of output, cells, h_n and c_n."""
    lib = _library()
    output, cells, gates = saved
    if not x.is_contiguous() and not x.transpose(0, 1).is_contiguous():
        x = x.contiguous()  # d_x shares its strides
    inputs = _Inputs(call, x, h_0, c_0, flat)
    d_x = None
    if need_x:
        T, B, I = x.shape
        d_x = lib.empty((T, B, I), x.dtype) if x.is_contiguous() else lib.empty((B, T, I), x.dtype).transpose(0, 1)
    d_h_0, d_c_0 = torch.empty_like(inputs.h_0), torch.empty_like(inputs.c_0)
    d_flat: list[Tensor] = [torch.empty(p.shape, dtype=p.dtype) for p in flat]
    d_output, d_cells, d_h_n, d_c_n = grads
    if d_output is not None and d_output.stride(3) != 1:
        d_output = d_output.contiguous()
    rest = [None if g is None else g.contiguous() for g in (d_cells, d_h_n, d_c_n)]
    strides = (0, 0, 0) if d_output is None else d_output.stride()[:3]
    d_weights = [LSTMWeights(*(_at(p) for p in w)) for w in call.weights(d_flat)]
    first, second = d_weights[0], d_weights[-1]
    check(
        lib.backward(
            CALL.pack(
                *inputs.sizes, *strides, *inputs.pointers(),
                output.data_ptr(), cells.data_ptr(), gates.data_ptr(), 0, 0,
                _at(d_output), *map(_at, rest), _at(d_x), d_h_0.data_ptr(), d_c_0.data_ptr(),
                first.ih, second.ih, first.hh, second.hh, first.b_ih, second.b_ih, first.ch, second.ch,
            )
        )
    )  # fmt: skip
    d_flat = [p for w in call.weights(d_flat) for p in w._replace(b_hh=w.b_ih) if p is not None]
    return (d_x, d_h_0, d_c_0, *d_flat)


class _Sequence(torch.autograd.Function):
    """``forward`` with ``backward`` as its derivative."""

    @staticmethod
    def forward(ctx, call, x, h_0, c_0, *flat):
        output, cells, h_n, c_n, gates = forward(call, x, h_0, c_0, flat, save=True)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output, cells, gates, x, h_0, c_0, *flat)
        return output, cells, h_n, c_n

    @staticmethod
    def backward(ctx, *grads):
        output, cells, gates, x, h_0, c_0, *flat = ctx.saved_tensors
        if transformed():
            return None, *_by_reference(ctx.call, (x, h_0, c_0, *flat), grads)
        if torch.is_grad_enabled():
            saved = (output.detach(), cells.detach(), gates)
            return None, *_Gradient.apply(ctx.call, saved, ctx.needs_input_grad[1], x, h_0, c_0, *grads, *flat)
        found = backward(ctx.call, x, h_0, c_0, flat, (output, cells, gates), grads, ctx.needs_input_grad[1])
        return None, *found


class _Gradient(torch.autograd.Function):
    """``backward`` as an operation of its own; its derivative runs through the reference."""

    @staticmethod
    def forward(ctx, call, saved, need_x, x, h_0, c_0, *rest):
        grads, flat = rest[:4], rest[4:]
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h_0, c_0, *rest)
        return backward(call, x, h_0, c_0, flat, saved, grads, need_x)

    @staticmethod
    def backward(ctx, *grads):
        x, h_0, c_0, *rest = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [t if t is None or t.requires_grad else t.detach().requires_grad_() for t in (x, h_0, c_0, *rest)]
            inputs = (*leaves[:3], *leaves[7:])
            first = _by_reference(ctx.call, inputs, leaves[3:7])
        pairs = [(f, g) for f, g in zip(first, grads, strict=True) if f is not None and g is not None and f.requires_grad]
        wanted = [t for t in leaves if t is not None]
        found = iter(
            torch.autograd.grad(
                [f for f, _ in pairs],
                wanted,
                [g for _, g in pairs],
                allow_unused=True,
                create_graph=torch.is_grad_enabled(),
            )
        )
        return None, None, None, *(None if t is None else next(found) for t in leaves)


def _by_reference(
    call: Call, inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The same gradients through the reference, differentiable themselves."""
    with torch.enable_grad():
        leaves = [t if t.requires_grad else t.detach().requires_grad_() for t in inputs]
        x, h_0, c_0, *flat = leaves
        result = reference.lstm_sequence(x, h_0, c_0, call.weights(flat), call.lengths, call.reset, call.noise)
        pairs = [(r, g) for r, g in zip(result, grads, strict=True) if g is not None and r.requires_grad]
        return torch.autograd.grad(
            [r for r, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True, create_graph=True
        )


def _library() -> Library:
    lib = library()
    if lib is None:
        raise RuntimeError(missing())
    return lib


def _contiguous(flat: Sequence[Tensor], owner: _Inputs) -> list[Tensor]:
    owner.flat = [p if p.is_contiguous() else p.contiguous() for p in flat]  # type: ignore[attr-defined]
    return owner.flat  # type: ignore[attr-defined]


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
