"""The seam as one opaque torch operator, for graphs: compilation, export, tracing, fake tensors.

Which backend runs is decided when the operator runs, so a graph meets no break and no guard. Its
derivative is an operator too, and that one's derivative runs through the reference.

T steps, B batch rows, I inputs, H hidden units, P outputs, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tidegate.cell import LSTMWeights
from tidegate.ops import checkpoint, native
from tidegate.ops.interface import DTYPES
from tidegate.ops.library import library
from tidegate.ops.types import Noise, SequenceResult, accumulator

_library = torch.library.Library("tidegate", "DEF")
_GIVEN = (
    "Tensor x, Tensor h_0, Tensor c_0, Tensor[] weights, int[] fields, Tensor? lengths, Tensor? reset, "
    "Tensor? seed, float[] rates, bool training"
)
_COMMON = f"{_GIVEN}, int checkpoint_every"
_library.define(
    f"lstm_sequence({_COMMON}, bool save) "
    "-> (Tensor output, Tensor cells, Tensor h_n, Tensor c_n, Tensor gates, Tensor native)"
)
_library.define(
    f"lstm_sequence_backward({_COMMON}, Tensor? output, Tensor? cells, Tensor gates, Tensor native, "
    "Tensor? d_output, Tensor? d_cells, Tensor? d_h_n, Tensor? d_c_n) -> Tensor[]"
)
_library.define(f"lstm_trace({_GIVEN}) -> (Tensor output, Tensor cells, Tensor h_n, Tensor c_n, Tensor gates)")
_FIELDS = len(LSTMWeights._fields)


def lstm_sequence(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    lengths: Tensor | None,
    reset: Tensor | None,
    noise: Noise | None,
    checkpoint_every: int | None = None,
) -> SequenceResult:
    """As :func:`tidegate.ops.lstm_sequence`, through the operator."""
    given = _given(x, h_0, c_0, weights, lengths, reset, noise)
    # Traces of torch.jit are checked without gradients, and have to come out alike.
    wanted = torch.is_grad_enabled() and torch._C._get_tracing_state() is None
    save = wanted and any(t.requires_grad for t in (*given[:3], *given[3]))
    return SequenceResult(*torch.ops.tidegate.lstm_sequence(*given, checkpoint_every or 0, save)[:4])


def lstm_trace(*call: Any) -> tuple[SequenceResult, tuple[Tensor, ...]]:
    """Results of a call (x, h_0, ..., noise) and its gates i, f, g, o (T, B, D, H), without derivatives."""
    *result, gates = torch.ops.tidegate.lstm_trace(*_given(*call))
    return SequenceResult(*result), gates.unbind()


def _given(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    lengths: Tensor | None,
    reset: Tensor | None,
    noise: Noise | None,
) -> tuple[Any, ...]:
    """What both operators take."""
    there, flat = native.flatten(weights)
    fields = [sum(given << n for n, given in enumerate(row)) for row in there]
    seed, rates, training = None, [0.0, 0.0, 0.0], True
    if noise is not None:
        seed, training = noise.seed, noise.training
        rates = [noise.recurrent_dropout, noise.zoneout_hidden, noise.zoneout_cell]
    c_0 = c_0.to(accumulator(x.dtype))
    return x, h_0.to(x.dtype), c_0, flat, fields, lengths, reset, seed, rates, training


def _call(
    fields: Sequence[int],
    lengths: Tensor | None,
    reset: Tensor | None,
    seed: Any,
    rates: Any,
    training: bool,
    every: int,
) -> native.Call:
    noise = None if seed is None else Noise(seed, rates[0], rates[1], rates[2], training)
    there = tuple(tuple(bool(f >> n & 1) for n in range(_FIELDS)) for f in fields)
    return native.Call(lengths, reset, noise, there, every or None)


def _forward(x, h_0, c_0, weights, fields, lengths, reset, seed, rates, training, every, save):
    from tidegate import ops

    call = _call(fields, lengths, reset, seed, rates, training, every)
    split = call.weights(weights)
    if torch._C._get_tracing_state() is None:  # a graph may be given others than it was made with
        ops.check_sizes(x, h_0, c_0, split, lengths, reset)
    result: Any
    gates: Tensor | None = None
    choice = ops.choose(x, split, call.noise)
    if choice.name == "native":
        *result, gates = native.forward(call, x, h_0, c_0, weights, save=save)
    else:
        ops.warn_if_slow(choice)
        ops.check_lengths(lengths, x.shape[0])
        with torch.autocast(x.device.type, enabled=False), torch.no_grad():
            found: Any = ops.BACKENDS[choice.name].run(x, h_0, c_0, split, lengths, reset, call.noise)
        result = [r.clone() for r in found]
    if gates is None:
        gates = _gates(x, c_0, weights, fields, every, save)
    return *result, gates, torch.tensor([choice.name == "native"])


def _gates(x: Tensor, c_0: Tensor, weights: Sequence[Tensor], fields: Sequence[int], every: int, save: bool) -> Tensor:
    """Room for what ``native.forward`` hands on to the backward pass."""
    if not save:
        return x.new_empty(0)
    if every:
        width = weights[1].shape[1] + c_0.shape[-1]  # of h and of c
        return c_0.new_empty(len(fields), checkpoint.room(x.shape[0], every), x.shape[1], width)
    lib, H = library(), weights[0].shape[0] // 4
    lanes = lib.gate_width(DTYPES[x.dtype], 1, False) // 4 if lib is not None and x.dtype in DTYPES else 1
    width = (H + lanes - 1) // lanes * lanes * 4
    if fields[0] >> LSTMWeights._fields.index("norm_ih") & 1:
        width = 2 * width + 2 * lanes
    return x.new_empty(len(fields), x.shape[0], x.shape[1], width)


def _forward_shapes(x, h_0, c_0, weights, fields, lengths, reset, seed, rates, training, every, save):
    (T, B, _), D = x.shape, len(fields)
    H, P = c_0.shape[-1], h_0.shape[-1]
    return (
        x.new_empty(T, B, D, P),
        c_0.new_empty(T, B, D, H),
        x.new_empty(D, B, P),
        c_0.new_empty(D, B, H),
        _gates(x, c_0, weights, fields, every, save),
        torch.empty(1, dtype=torch.bool),
    )


def _trace(x, h_0, c_0, weights, fields, lengths, reset, seed, rates, training):
    from tidegate import ops

    call = _call(fields, lengths, reset, seed, rates, training, 0)
    with torch.autocast(x.device.type, enabled=False), torch.no_grad():
        result, trace = ops.lstm_trace(x, h_0, c_0, call.weights(weights), lengths, reset, call.noise)
    return *result, torch.stack(trace[:4])


def _trace_shapes(x, h_0, c_0, weights, fields, lengths, reset, seed, rates, training):
    given = (x, h_0, c_0, weights, fields, lengths, reset, seed, rates, training)
    *result, _, _ = _forward_shapes(*given, 0, False)
    return *result, c_0.new_empty(4, *result[1].shape)


def _backward(
    x,
    h_0,
    c_0,
    weights,
    fields,
    lengths,
    reset,
    seed,
    rates,
    training,
    every,
    output,
    cells,
    gates,
    used_native,
    *grads,
):
    call = _call(fields, lengths, reset, seed, rates, training, every)
    if bool(used_native):
        x = x.contiguous()
        if x.numel() and not gates.numel():  # the graph was made without gradients
            output, cells, _, _, gates = native.forward(call, x, h_0, c_0, weights, save=True)
        return list(native.backward(call, x, h_0, c_0, weights, (output, cells, gates), grads))
    inputs = (x, h_0, c_0, *weights)
    with torch.autocast(x.device.type, enabled=False), _recording():
        found = native.by_reference(call, inputs, grads)
    return [torch.zeros_like(t) if g is None else g.detach() for t, g in zip(inputs, found, strict=True)]


def _recording() -> Any:
    """Autograd inside an operator, where torch has switched it off."""
    keys = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradCPU", "AutogradCUDA", "AutogradOther", "AutogradFunctionality", "ADInplaceOrView"):
        keys = keys.remove(getattr(torch._C.DispatchKey, key))
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), keys)


def _backward_shapes(x, h_0, c_0, weights, *rest):
    return [t.new_empty(t.shape) for t in (x, h_0, c_0, *weights)]


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    x, h_0, c_0, weights, ctx.fields, lengths, reset, seed, ctx.rates, ctx.training, ctx.every, _ = inputs
    out, cells, _, _, gates, used_native = output
    if ctx.every:
        out = cells = None
    ctx.save_for_backward(x, h_0, c_0, lengths, reset, seed, out, cells, gates, used_native, *weights)


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    x, h_0, c_0, lengths, reset, seed, out, cells, gates, used_native, *weights = ctx.saved_tensors
    d_x, d_h, d_c, *d_weights = torch.ops.tidegate.lstm_sequence_backward(
        x, h_0, c_0, weights, ctx.fields, lengths, reset, seed, ctx.rates, ctx.training, ctx.every,
        *[None if t is None else t.detach() for t in (out, cells)], gates, used_native, *grads[:4],
    )  # fmt: skip
    return d_x, d_h, d_c, d_weights, *[None] * 8


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    x, h_0, c_0, weights, fields, lengths, reset, seed, rates, training, every, _, _, _, _, *grads = inputs
    ctx.call = _call(fields, lengths, reset, seed, rates, training, every)
    ctx.save_for_backward(x, h_0, c_0, *grads, *weights)


def _differentiate_twice(ctx: Any, second: Sequence[Tensor | None]) -> tuple[Any, ...]:
    x, h_0, c_0, *rest = ctx.saved_tensors
    d_x, d_h, d_c, *others = native.second_derivative(ctx.call, (x, h_0, c_0, *rest), second)
    return d_x, d_h, d_c, others[4:], *[None] * 11, *others[:4]


_library.impl("lstm_sequence", _forward, "CompositeExplicitAutograd")
_library.impl("lstm_sequence_backward", _backward, "CompositeExplicitAutograd")
_library.impl("lstm_trace", _trace, "CompositeExplicitAutograd")
torch.library.register_fake("tidegate::lstm_sequence", _forward_shapes, lib=_library)
torch.library.register_fake("tidegate::lstm_sequence_backward", _backward_shapes, lib=_library)
torch.library.register_fake("tidegate::lstm_trace", _trace_shapes, lib=_library)
torch.library.register_autograd("tidegate::lstm_sequence", _differentiate, setup_context=_save_inputs, lib=_library)
torch.library.register_autograd(
    "tidegate::lstm_sequence_backward", _differentiate_twice, setup_context=_save_backward, lib=_library
)
