"""CPU: the C++ kernels of ``native/`` behind one call, with their derivative.

T steps, B batch rows, I inputs, H hidden units, P outputs, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tidegate.cell import LSTMWeights
from tidegate.ops import checkpoint, interface, reference
from tidegate.ops.interface import DTYPES
from tidegate.ops.library import Library, check, library, missing
from tidegate.ops.types import Noise, SequenceResult, accumulator


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
        if (w.hr is None) != (weights[0].hr is None):
            return "a projection has a native kernel for every direction, not for some of them"
        if w.hr is not None and w.hr.shape[0] == 0:
            return "a projection to no outputs has no native kernel"
        norms = (w.norm_ih is None, w.norm_hh is None, w.norm_c is None)
        if any(norms) != all(norms) or (w.norm_ih is None) != (weights[0].norm_ih is None):
            return "layer_norm has a native kernel for all three norms of every direction, not for some of them"
        for p in w:
            if p is None:
                continue
            if not p.is_cpu or (type(p) is not Tensor and type(p) is not torch.nn.Parameter):
                return f"the weights ({type(p).__name__} on {p.device}) are no plain tensors in the CPU's memory"
            if p.dtype is not x.dtype:
                return f"the weights ({p.dtype}) differ in dtype from the input ({x.dtype})"
    return None


def transformed() -> bool:
    """Is a functorch transform or forward-mode differentiation active?"""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _wrapped(tensor: Tensor) -> bool:
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


Fields = tuple[tuple[bool, ...], ...]  # which of LSTMWeights' fields each direction has
_PROJECTION = LSTMWeights._fields.index("hr")


class Call(NamedTuple):
    """Everything but the differentiable tensors; the weights come flat, those that ``fields`` says in its order."""

    lengths: Tensor | None
    reset: Tensor | None
    noise: Noise | None
    fields: Fields
    checkpoint_every: int | None = None  # steps between the memories kept
    first_direction: int = 0  # 1: the only direction reads from the end
    joined: bool = False  # the output, and its gradient, is (T, B, D * P)
    # Where known beforehand: `weight_pieces` of a forward pass, and the empty memories (D, B, P) and (D, B, H) of a
    # call given none.
    pieces: tuple[bytes, bytes] | None = None
    zeros: tuple[Tensor, Tensor] | None = None

    @property
    def projects(self) -> bool:
        return self.fields[0][_PROJECTION]

    def begins(self, h_0: Tensor | None, c_0: Tensor | None) -> tuple[Tensor, Tensor]:
        """The memories that the call begins with."""
        if h_0 is not None and c_0 is not None:
            return h_0, c_0
        assert self.zeros is not None
        return self.zeros

    def weights(self, flat: Sequence[Tensor]) -> list[LSTMWeights]:
        given: Any = iter(flat)
        rows: list[list[Any]] = [[next(given) if there else None for there in fields] for fields in self.fields]
        return [LSTMWeights(*row) for row in rows]


def flatten(weights: Sequence[LSTMWeights]) -> tuple[Fields, list[Tensor]]:
    """What :meth:`Call.weights` puts together again."""
    return tuple([tuple([p is not None for p in w]) for w in weights]), [p for w in weights for p in w if p is not None]


@cache
def places(fields: Fields) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of the flat weights, or of their gradients, a call names where (native/include/tidegate.h); -1 for none.

    First its weights, then its norms.
    """
    order: Any = iter(range(sum(map(sum, fields))))
    rows: list[list[Any]] = [[next(order) if there else -1 for there in direction] for direction in fields]
    index = [LSTMWeights(*row) for row in rows]  # a single direction stands for both
    both: Any = (index[0], index[-1])
    weights = tuple(getattr(w, name) for name in ("ih", "hh", "b_ih", "b_hh", "ch", "hr") for w in both)
    return weights, tuple(getattr(w, name) for name in ("norm_ih", "norm_hh", "norm_c") for w in both)


def addresses(fields: Fields, flat: Sequence[Tensor]) -> tuple[list[int], bytes]:
    """Those of contiguous weights, or of their gradients, as a call names them, and its piece of norms."""
    at = [p.data_ptr() for p in flat]
    at.append(0)  # for place -1
    weights, norms = places(fields)
    return [at[k] for k in weights], interface.NORMS.pack(*[at[k] for k in norms])


def weight_pieces(fields: Fields, flat: Sequence[Tensor]) -> tuple[bytes, bytes]:
    """A call's pieces of contiguous weights and of norms."""
    weights, norms = addresses(fields, flat)
    return interface.WEIGHTS.pack(*weights), norms


def lstm_sequence(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    lengths: Tensor | None,
    reset: Tensor | None,
    noise: Noise | None,
    need_cells: bool = True,
    checkpoint_every: int | None = None,
) -> SequenceResult:
    """One LSTM layer over a whole sequence; see :func:`tidegate.ops.lstm_sequence`."""
    dtype, cell_dtype = x.dtype, accumulator(x.dtype)
    if h_0.dtype is not dtype or c_0.dtype is not cell_dtype:  # asked first, as `to` costs a microsecond
        h_0, c_0 = h_0.to(dtype), c_0.to(cell_dtype)
    fields, flat = flatten(weights)
    call = Call(lengths, reset, noise, fields, checkpoint_every)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, h_0, c_0, *flat)):
        return SequenceResult(*differentiable(call, need_cells, x, h_0, c_0, *flat))
    return SequenceResult(*forward(call, x, h_0, c_0, flat, save=False, need_cells=need_cells)[:4])


def forward(
    call: Call,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    flat: Sequence[Tensor],
    *,
    save: bool,
    need_cells: bool = True,
    open_gates: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:
    """Output, cells, h_n, c_n and, if ``save``, what the backward pass reads beside them.

    That is the activated gates (with layer norm the normalised products), or the memories that
    ``call.checkpoint_every`` keeps. With ``open_gates`` it is for ``lstm_trace`` and no backward pass: the
    activated gates of any layer, in the accumulators' type. Without ``h_0`` and ``c_0`` the memories begin as
    ``call.zeros``.
    """
    h, c = call.begins(h_0, c_0)
    if save and call.checkpoint_every is not None:
        return checkpoint.native_forward(call, x, h, c, flat, need_cells=need_cells)
    lib = _library()
    T, B, _ = x.shape
    (D, _, H), P = c.shape, h.shape[2]
    dtype, cell_dtype = x.dtype, c.dtype
    output = lib.empty((T, B, D * P) if call.joined else (T, B, D, P), dtype)
    cells = None
    if save or need_cells:
        if cell_dtype is dtype and P == H:
            cells = lib.empty_like(output)
        else:
            cells = lib.empty((T, B, D * H) if call.joined else (T, B, D, H), cell_dtype)
    gates = None
    if save:
        norm = places(call.fields)[1][0] >= 0
        width = lib.gate_width(DTYPES[dtype], H, norm and not open_gates)
        gates = lib.empty((D, T, B, width), cell_dtype if open_gates else dtype)
    if h_0 is not None:
        h_0, c_0 = h, c = _plain(h), _plain(c)
    h_n, c_n = torch.empty_like(h), torch.empty_like(c)
    if call.pieces is None:
        flat = _contiguous(flat)
    weights, norms = call.pieces or weight_pieces(call.fields, flat)
    inputs, _alive = _inputs(call, x, h_0, c_0, (H, D, P if call.projects else 0), (0, 0, 0))
    outputs = interface.OUTPUTS.pack(output.data_ptr(), _at(cells), _at(gates), h_n.data_ptr(), c_n.data_ptr())
    rest = interface.REST.pack(open_gates, 0)
    code = lib.forward(interface.assemble(weights=weights, norms=norms, outputs=outputs, rest=rest, **inputs))
    if code:
        check(code, call.lengths, T)
    return output, cells, h_n, c_n, gates


def _inputs(
    call: Call, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, sizes: Sequence[int], d_strides: Sequence[int]
) -> tuple[dict[str, bytes], list[Any]]:
    """A call's sizes, masks and noise, and the tensors that must live until it ends. States are contiguous.

    ``sizes`` are H, D and, with a projection, P, else 0.
    """
    T, B, I = x.shape
    x = x.resolve_neg()
    if I > 1 and x.stride(2) != 1:
        x = x.contiguous()
    pieces = {
        "sizes": interface.SIZES.pack(
            interface.VERSION, DTYPES[x.dtype], _library().threads(), T, B, I, *sizes, x.stride(0), x.stride(1),
            *d_strides, x.data_ptr(), _at(h_0), _at(c_0),
        )
    }  # fmt: skip
    lengths, reset, noise = call.lengths, call.reset, call.noise
    if lengths is not None or reset is not None:
        if lengths is not None:
            lengths = lengths.to("cpu", torch.int64).contiguous()
        if reset is not None:
            reset = reset.to("cpu", torch.bool).contiguous()
        pieces["masks"] = interface.MASKS.pack(0, _at(lengths), _at(reset))
    if noise is not None or call.first_direction:
        random: tuple[Any, ...] = (0, 0.0, 0.0, 0.0, 0, 0)
        if noise is not None:
            rates = (noise.recurrent_dropout, noise.zoneout_hidden, noise.zoneout_cell)
            random = (int(noise.seed), *rates, int(noise.training), noise.first_step)
        pieces["noise"] = interface.NOISE.pack(*random, call.first_direction)
    return pieces, [x, lengths, reset]


def _contiguous(flat: Sequence[Tensor]) -> list[Tensor]:
    return [_plain(p) for p in flat]


def _plain(t: Tensor) -> Tensor:
    """A tensor whose memory holds its values in their order."""
    return t.resolve_neg().contiguous()


def backward(
    call: Call,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    flat: Sequence[Tensor],
    saved: tuple[Tensor | None, Tensor | None, Tensor],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool] = (True, True, True),
) -> tuple[Tensor | None, ...]:
    """Gradients of x, h_0, c_0, as far as ``needs`` asks, and all weights from those of output, cells, h_n and c_n."""
    output, cells, gates = saved
    if call.checkpoint_every is not None:
        return checkpoint.native_backward(call, x, *call.begins(h_0, c_0), flat, gates, grads, needs[0])
    lib = _library()
    if not x.is_contiguous() and not x.transpose(0, 1).is_contiguous():
        x = x.contiguous()  # d_x shares its strides
    # As the forward pass left them, unless a hook on saved tensors gave others back.
    output, cells = (None if t is None else _plain(t) for t in (output, cells))
    gates = _plain(gates)
    flat = _contiguous(flat)
    h, c = call.begins(h_0, c_0)
    if h_0 is not None:
        h_0, c_0 = h, c = _plain(h), _plain(c)
    (D, _, H), P = c.shape, h.shape[2]
    d_output, d_cells, d_h_n, d_c_n = (None if g is None else g.resolve_neg() for g in grads)
    strides: Any = (0, 0, 0)
    if d_output is not None:
        if d_output.stride(-1) != 1 and d_output.shape[-1] > 1:
            d_output = d_output.contiguous()
        strides = d_output.stride()
        strides = (strides[0], strides[1], P) if call.joined else strides[:3]
    weights, norms = weight_pieces(call.fields, flat)
    inputs, _alive = _inputs(call, x, h_0, c_0, (H, D, P if call.projects else 0), strides)
    d_x = lib.empty_like(x) if needs[0] else None
    d_h_0 = torch.empty_like(h) if needs[1] else None
    d_c_0 = torch.empty_like(c) if needs[2] else None
    d_flat = [lib.empty_like(p) for p in flat]
    d_cells, d_h_n, d_c_n = (None if g is None else g.contiguous() for g in (d_cells, d_h_n, d_c_n))
    d_weights, d_norms = addresses(call.fields, d_flat)
    outputs = interface.OUTPUTS.pack(_at(output), _at(cells), gates.data_ptr(), 0, 0)
    gradients = interface.GRADIENTS.pack(
        _at(d_output), _at(d_cells), _at(d_h_n), _at(d_c_n), _at(d_x), _at(d_h_0), _at(d_c_0), *d_weights
    )
    code = lib.backward(
        interface.assemble(
            weights=weights, norms=norms, outputs=outputs, gradients=gradients, d_norms=d_norms, **inputs
        )
    )
    if code:
        check(code, call.lengths, x.shape[0])
    return (d_x, d_h_0, d_c_0, *d_flat)


class _Sequence(torch.autograd.Function):
    """``forward`` with ``backward`` as its derivative."""

    @staticmethod
    def forward(ctx, call, need_cells, x, h_0, c_0, *flat):
        output, cells, h_n, c_n, gates = forward(call, x, h_0, c_0, flat, save=True, need_cells=need_cells)
        ctx.call = call
        ctx.set_materialize_grads(False)
        saved = (output, cells, gates) if call.checkpoint_every is None else (None, None, gates)
        # Lengths and resets only so that autograd refuses a backward pass after they were written to; it cannot where
        # they come from inference mode.
        masks = [m if m is None or not m.is_inference() else None for m in (call.lengths, call.reset)]
        ctx.save_for_backward(*saved, x, h_0, c_0, *masks, *flat)
        return output, cells if need_cells else None, h_n, c_n

    @staticmethod
    def backward(ctx, *grads):
        output, cells, gates, x, h_0, c_0, _, _, *flat = ctx.saved_tensors
        if transformed() or any(g is not None and _wrapped(g) for g in grads):
            found = by_reference(ctx.call, (x, *ctx.call.begins(h_0, c_0), *flat), grads)
            return None, None, *(found if h_0 is not None else (found[0], None, None, *found[3:]))
        needs = ctx.needs_input_grad[2:5]
        if torch.is_grad_enabled():
            h_0, c_0 = ctx.call.begins(h_0, c_0)
            saved = (None if output is None else output.detach(), None if cells is None else cells.detach(), gates)
            return None, None, *_Gradient.apply(ctx.call, saved, needs, x, h_0, c_0, *grads, *flat)
        return None, None, *backward(ctx.call, x, h_0, c_0, flat, (output, cells, gates), grads, needs)


differentiable = _Sequence.apply
# The same without what only function transforms need, for calls outside of them.
differentiable_plain = super(torch.autograd.Function, _Sequence).apply


class _Gradient(torch.autograd.Function):
    """``backward`` as an operation of its own; its derivative runs through the reference."""

    @staticmethod
    def forward(ctx, call, saved, needs, x, h_0, c_0, *rest):
        grads, flat = rest[:4], rest[4:]
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h_0, c_0, *rest)
        return backward(call, x, h_0, c_0, flat, saved, grads, needs)

    @staticmethod
    def backward(ctx, *second):
        return None, None, None, *second_derivative(ctx.call, ctx.saved_tensors, second)


def second_derivative(
    call: Call, inputs: Sequence[Tensor | None], second: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The derivative of ``backward`` by x, h_0, c_0, its four gradients and the weights, in this order."""
    with torch.enable_grad():
        leaves = [None if t is None else leaf(t) for t in inputs]
        first = by_reference(call, [t for t in (*leaves[:3], *leaves[7:]) if t is not None], leaves[3:7])
    pairs = [(f, s) for f, s in zip(first, second, strict=True) if f is not None and s is not None and f.requires_grad]
    wanted = [t for t in leaves if t is not None]
    found: list[Tensor | None] = [None] * len(wanted)
    if pairs:
        outputs, weights = zip(*pairs, strict=True)
        graph = torch.is_grad_enabled()
        found = list(torch.autograd.grad(outputs, wanted, weights, allow_unused=True, create_graph=graph))
    given = iter(found)
    return tuple(None if t is None else next(given) for t in leaves)


def by_reference(call: Call, inputs: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """What ``backward`` computes, through the reference and differentiable itself."""
    with torch.enable_grad():
        leaves = [leaf(t) for t in inputs]
        x, h_0, c_0, *flat = leaves
        result = reference.lstm_sequence(x, h_0, c_0, call.weights(flat), call.lengths, call.reset, call.noise)
        if call.joined:
            result = result._replace(output=result.output.flatten(2))
        pairs = [(r, g) for r, g in zip(result, grads, strict=True) if r is not None and g is not None]
        pairs = [(r, g) for r, g in pairs if r.requires_grad]
        if not pairs:  # without steps no result depends on anything
            return (None,) * len(leaves)
        outputs, weights = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, leaves, weights, allow_unused=True, create_graph=True)


def leaf(t: Tensor) -> Tensor:
    """Where a derivative stops: one input must not be reached through another, such as x through d_output."""
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


def saved_gates(output: Tensor) -> Tensor:
    """The gates (D, T, B, width) that stand behind an output of ``lstm_sequence`` for its backward pass."""
    assert output.grad_fn is not None
    return output.grad_fn.saved_tensors[2]  # type: ignore[attr-defined]


def _library() -> Library:
    lib = library()
    if lib is None:
        raise RuntimeError(missing())
    return lib


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
