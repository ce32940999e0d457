"""Whole sequences of plain calls, straight on the kernels.

What a call costs beside its kernels is checks, dispatch and the gathering of addresses: more than the
kernels themselves where a sequence is short. Here the addresses of the weights are gathered once, and a
call that asks for nothing out of the ordinary is seen to be one by a few comparisons.

L layers, D directions, T steps, B batch rows, I inputs, H hidden units, P outputs of a direction (H without
projection).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tidegate import ops
from tidegate.ops import interface, native
from tidegate.ops.interface import DTYPES
from tidegate.ops.library import POOLED_BYTES, check, library
from tidegate.ops.types import accumulator
from tidegate.state import State

if TYPE_CHECKING:
    from tidegate.layer import LSTM


class Rows(NamedTuple):
    """What calls of B rows share."""

    batch: int
    h: Tensor  # (L*D, B, P) zeros, which nobody writes to
    c: Tensor  # (L*D, B, H)
    recorded: list[tuple[native.Call, list[Tensor]]]  # of each layer, for calls with gradients


class Route:
    """A layer stack's weights by their addresses, as long as these hold."""

    def __init__(self, lstm: LSTM) -> None:
        lib = library()
        assert lib is not None
        self.run, self.empty, self.zeros, self.threads = lib.forward, lib.empty, lib.zeros, lib.threads
        self.dtype = lstm.weight_ih_l0.dtype
        self.cell_dtype = accumulator(self.dtype)
        self.code = DTYPES[self.dtype]
        self.watched = [(name, p, p.data_ptr()) for name, p in lstm._parameters.items() if p is not None]
        self.layers, self.recorded = [], []
        self.rows: Rows | None = None  # as many as the last call had
        self.output: tuple[tuple[int, int], Tensor | None] = (0, 0), None  # steps and rows, and a tensor of that size
        self.kept: list[list[Tensor]] = []  # packed weights of all layers that no call is using
        for layer in range(lstm.num_layers):
            fields, flat = native.flatten(lstm.weights(layer))
            pieces = native.weight_pieces(fields, flat)
            self.recorded.append((native.Call(None, None, None, fields, joined=True, pieces=pieces), flat))
            self.layers.append(pieces)

    def keep(self, lstm: LSTM) -> list[Tensor]:
        """New memory for the packed weights of each layer; which bits they were made from the kernels see to."""
        lib = library()
        assert lib is not None
        made = []
        for layer in range(lstm.num_layers):
            inputs = lstm.input_size if layer == 0 else lstm.state_size * lstm.directions
            sizes = (self.code, 1, 1, 1, inputs, lstm.hidden_size, lstm.directions, lstm.proj_size)
            call = interface.assemble(interface.SIZES.pack(interface.VERSION, *sizes, *(0,) * 8), *self.layers[layer])
            made.append(self.empty((lib.kept_bytes(call),), torch.uint8))
            made[-1][:8].zero_()
        return made

    def of(self, lstm: LSTM, rows: int) -> Rows:
        """What calls of so many rows share; made anew where the last one had others."""
        known = self.rows  # once, as other threads may change it
        if known is not None and known.batch == rows:
            return known
        D, L = lstm.directions, lstm.num_layers
        with torch.inference_mode(False):
            h = self.zeros((L * D, rows, lstm.state_size), self.dtype)
            c = self.zeros((L * D, rows, lstm.hidden_size), self.cell_dtype)
            zeros = h[:D], c[:D]
        recorded = [(call._replace(zeros=zeros), flat) for call, flat in self.recorded]
        self.rows = made = Rows(rows, h, c, recorded)
        return made

    def new_output(self, steps: int, rows: int, width: int) -> Tensor:
        """An output (T, B, D*P): a small one like the last, which takes half the time that a shape takes."""
        size, like = self.output
        if size != (steps, rows):
            large = steps * rows * width * self.dtype.itemsize >= POOLED_BYTES
            like = None if large else torch.empty((steps, rows, width), dtype=self.dtype, device="cpu")
            self.output = (steps, rows), like
        return self.empty((steps, rows, width), self.dtype) if like is None else torch.empty_like(like)

    def holds(self, lstm: LSTM) -> bool:
        """Are the parameters still those whose addresses were taken? Their values are read at each call."""
        parameters = lstm._parameters
        for name, p, address in self.watched:
            if parameters.get(name) is not p or p.data_ptr() != address or not p.is_contiguous():
                return False
        return True


def sequence(
    lstm: LSTM, x: Any, hx: Any, lengths: Any, reset: Any, batch_first: bool | None = None
) -> tuple[Tensor, State] | None:
    """A call for x (T, B, I), or (B, T, I) if batch_first (None: as the layer); None where the general way is needed.

    Nothing is being compiled.
    """
    if batch_first is None:
        batch_first = lstm.batch_first
    route: Route | None = lstm.__dict__.get("_route")
    if route is None or not route.holds(lstm):
        route = _made(lstm)
        if route is None:
            return None
    dtype = route.dtype
    if (
        type(x) is not Tensor
        or x.dtype is not dtype
        or x.dim() != 3
        or not x.is_cpu
        or x.is_neg()
        or x.is_nested
        or (lstm.training and lstm.random)
        or lstm.zoneout != (0.0, 0.0)
        or (lstm.merge != "concat" and (lstm.merge is None or lstm.bidirectional))
        or not ops.plain()
    ):
        return None
    if batch_first:
        x = x.transpose(0, 1)
    T, B, I = x.shape
    if lstm.input_size != I or T == 0 or B == 0:
        return None
    D, L = lstm.directions, lstm.num_layers
    state: tuple[Tensor, Tensor] | None = None  # zeros
    if hx is not None:
        if type(hx) is not State and (type(hx) is not tuple or len(hx) != 2):
            return None
        h, c = hx
        if type(h) is not Tensor or type(c) is not Tensor or h.dtype is not dtype or c.dtype is not route.cell_dtype:
            return None
        if h.shape != (L * D, B, lstm.state_size) or c.shape != (L * D, B, lstm.hidden_size):
            return None
        if not (h.is_cpu and c.is_cpu) or h.is_neg() or c.is_neg():
            return None
        state = h.contiguous(), c.contiguous()
    if lengths is not None:
        if not _mask(lengths, torch.int64, (B,)):
            return None
        lengths = lengths.contiguous()
    if reset is not None:
        if not _mask(reset, torch.bool, (B, T) if batch_first else (T, B)):
            return None
        reset = (reset.t() if batch_first else reset).contiguous()
    if x.stride(2) != 1:
        if x.layout is not torch.strided:
            return None
        x = x.contiguous()
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (state is not None and (state[0].requires_grad or state[1].requires_grad))
        or any(p.requires_grad for _, p, _ in route.watched)
    ):
        if lstm.checkpoint_every is not None:
            return None
        output, after = _recorded(lstm, route, x, state, lengths, reset)
    else:
        output, after = _evaluated(lstm, route, x, state, lengths, reset)
    return output.transpose(0, 1) if batch_first else output, after


def _mask(given: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    return type(given) is Tensor and given.dtype is dtype and given.is_cpu and given.shape == shape


def _evaluated(
    lstm: LSTM,
    route: Route,
    x: Tensor,
    state: tuple[Tensor, Tensor] | None,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, State]:
    """A call without gradients, for x (T, B, I) and weights that stay packed."""
    T, B, _ = x.shape
    H, P, D, dtype = lstm.hidden_size, lstm.state_size, lstm.directions, route.dtype
    like = route.of(lstm, B)
    h_n, c_n = torch.empty_like(like.h), torch.empty_like(like.c)
    at_h, at_c = (0, 0) if state is None else (state[0].data_ptr(), state[1].data_ptr())
    at_h_n, at_c_n = h_n.data_ptr(), c_n.data_ptr()
    threads = route.threads()
    h_bytes, c_bytes = D * B * P * dtype.itemsize, D * B * H * route.cell_dtype.itemsize
    pieces: dict[str, bytes] = {}
    if lengths is not None or reset is not None:
        pieces["masks"] = interface.MASKS.pack(0, *[0 if m is None else m.data_ptr() for m in (lengths, reset)])
    try:
        kept = route.kept.pop()
    except IndexError:  # the first call, or one beside another
        kept = route.keep(lstm)
    for (weights, norms), packed in zip(route.layers, kept, strict=True):
        output = route.new_output(T, B, D * P)
        sizes = interface.SIZES.pack(
            interface.VERSION, route.code, threads, T, B, x.shape[2], H, D, lstm.proj_size, x.stride(0),
            x.stride(1), 0, 0, 0, x.data_ptr(), at_h, at_c,
        )  # fmt: skip
        outputs = interface.OUTPUTS.pack(output.data_ptr(), 0, 0, at_h_n, at_c_n)
        rest = interface.REST.pack(0, packed.data_ptr())
        call = interface.assemble(sizes, weights, norms, outputs=outputs, rest=rest, **pieces)
        if code := route.run(call):
            check(code, lengths, T)
        x = output
        at_h_n, at_c_n = at_h_n + h_bytes, at_c_n + c_bytes
        if state is not None:
            at_h, at_c = at_h + h_bytes, at_c + c_bytes
    if not route.kept:
        route.kept.append(kept)
    return x, State(h_n, c_n)


def _recorded(
    lstm: LSTM,
    route: Route,
    x: Tensor,
    state: tuple[Tensor, Tensor] | None,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, State]:
    """A call with what autograd needs."""
    before: list[Any] = [state or (None, None)] * lstm.num_layers
    if state is not None and lstm.num_layers > 1:
        before = list(zip(*[memory.split(lstm.directions) for memory in state], strict=True))
    states = []
    for (call, flat), memories in zip(route.of(lstm, x.shape[1]).recorded, before, strict=True):
        if lengths is not None or reset is not None:
            call = call._replace(lengths=lengths, reset=reset)
        x, _, *after = native.differentiable_plain(call, False, x, *memories, *flat)
        states.append(after)
    h_n, c_n = states[0] if len(states) == 1 else map(torch.cat, zip(*states, strict=True))
    return x, State(h_n, c_n)


def _made(lstm: LSTM) -> Route | None:
    """A new route, kept with the layer; None where the layer always goes the general way."""
    lstm.__dict__.pop("_route", None)
    if lstm.computed:
        return None
    weights = [w for layer in range(lstm.num_layers) for w in lstm.weights(layer)]
    given = [p for w in weights for p in w if p is not None]
    like = given[0]
    for p in given:
        if type(p) is not torch.nn.Parameter or not p.is_contiguous() or p.dtype is not like.dtype or not p.is_cpu:
            return None
        if p.is_neg():
            return None
    if native.declines(like, weights, None) is not None or not lstm.weights_fit:
        return None
    route = lstm.__dict__["_route"] = Route(lstm)
    return route
