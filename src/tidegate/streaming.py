"""One step at a time, for little more than the kernel's own time.

``lstm.step`` comes here with grad off; a :class:`Streamer` goes further and owns its weights and
buffers. Both prepare the kernels' calls once and then only fill in addresses.

L layers, B batch rows, I inputs, H hidden units, P outputs (H without projection).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.modules.module as _everywhere
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from tidegate import ops
from tidegate.ops import interface, native
from tidegate.ops.interface import DTYPES, STEPS
from tidegate.ops.library import check, library
from tidegate.ops.types import accumulator
from tidegate.state import State

if TYPE_CHECKING:
    from tidegate.layer import LSTM

# Where some addresses lie in a call (native/include/tidegate.h): x, h_0 and c_0 end its first piece.
_WEIGHTS = interface.SIZES.size
_X, _H_0, _C_0 = _WEIGHTS - 24, _WEIGHTS - 16, _WEIGHTS - 8
_PACKED = _WEIGHTS + interface.WEIGHTS.size
_OUTPUT = _PACKED + interface.MASKS.size + interface.NOISE.size
_H_N, _C_N = _OUTPUT + 24, _OUTPUT + 32
_STALE = 3


class Plan:
    """Packed weights and prepared calls of one layer stack for one number of rows."""

    def __init__(self, lstm: LSTM, batch: int, frozen: bool) -> None:
        lib = library()
        assert lib is not None
        self.run, self.zeros, self.updates, self.layers = lib.step, lib.zeros, _updates, lstm.num_layers
        # Each parameter with its version and address, to see that it is still what was packed.
        self.watched = [
            (name, p, 0 if p.is_inference() else p._version, p.data_ptr())
            for name, p in lstm._parameters.items()
            if p is not None
        ]
        self.dtype = lstm.weight_ih_l0.dtype
        self.cell_dtype = accumulator(self.dtype)
        self.zoneout = lstm.zoneout
        self.h_shape = (lstm.num_layers, batch, lstm.state_size)
        self.c_shape = (lstm.num_layers, batch, lstm.hidden_size)
        self.x_shape = (batch, lstm.input_size)
        self.calls: list[bytearray] = []
        self.alive: list[Any] = []
        for layer in range(lstm.num_layers):
            [w] = lstm.weights(layer)
            inputs = lstm.input_size if layer == 0 else lstm.state_size
            sizes = (DTYPES[self.dtype], lib.threads(), 1, batch, inputs, lstm.hidden_size, 1, lstm.proj_size)
            given = (*w[:4], w.ch, w.hr, w.norm_ih, w.norm_hh, w.norm_c)
            kept = [None if p is None else (native._plain(p.detach()).clone() if frozen else p) for p in given]
            at = [address for p in kept for address in (0 if p is None else p.data_ptr(), 0)]
            weights, norms = at[:12], at[12:]
            strides = (batch * inputs, inputs, 0, 0, 0)
            call = bytearray(
                interface.assemble(
                    interface.SIZES.pack(interface.VERSION, *sizes, *strides, 0, 0, 0),
                    interface.WEIGHTS.pack(*weights),
                    interface.NORMS.pack(*norms),
                    noise=interface.NOISE.pack(0, 0.0, *self.zoneout, 0, 0, 0),
                )
            )
            packed = torch.empty(lib.packed_bytes(bytes(call)), dtype=torch.uint8, device="cpu")
            check(lib.pack(bytes(call), packed.data_ptr()), None, 1)
            _fill(call, _PACKED, packed.data_ptr())
            if frozen:  # packed weights stand alone; otherwise the kernels compare samples
                for offset in (*range(0, 64, 8), 80, 88):  # all but peepholes, which say that there are some
                    _fill(call, _WEIGHTS + offset, 0)
            self.calls.append(call)
            self.alive.append((packed, kept))
        joined = b"".join(self.calls)
        self.joined = ctypes.create_string_buffer(joined, len(joined))
        self.at = ctypes.addressof(self.joined)
        self.output = torch.empty(self.h_shape[1:], dtype=self.dtype, device="cpu")


def _fill(call: bytearray, offset: int, address: int) -> None:
    call[offset : offset + 8] = address.to_bytes(8, "little")


_updates = 0  # optimiser steps so far: fused ones leave the parameters' versions unchanged
_hook: Any = None


def _count_update(*_: Any) -> None:
    global _updates
    _updates += 1


def forget(lstm: LSTM) -> None:
    """Drop the packed weights of a layer and their addresses, as they may have changed."""
    lstm.__dict__.pop("_plan", None)
    lstm.__dict__.pop("_route", None)


def _current(plan: Plan, lstm: LSTM) -> bool:
    """Are the parameters still those that were packed, as far as torch's counters tell?"""
    parameters = lstm._parameters
    for name, p, version, address in plan.watched:
        if parameters.get(name) is not p or p._version != version or p.data_ptr() != address:
            return False
    return plan.updates == _updates and plan.zoneout is lstm.zoneout


def fast_step(lstm: LSTM, x: Tensor, state: Any, reset: Tensor | None) -> tuple[Tensor, State] | None:
    """``lstm.step`` for x (B, I) or (I,) straight on the kernels, or None where the general way is needed."""
    if type(x) is not Tensor:
        return None
    plan = lstm.__dict__.get("_plan")
    if plan is None or x.shape != plan.x_shape or not _current(plan, lstm):
        if x.dim() == 1:
            return _single(lstm, x, state, reset)
        plan = _prepare(lstm, x)
        if plan is None:
            return None
    if (
        x.dtype is not plan.dtype
        or not x.is_cpu
        or x.is_neg()
        or (lstm.training and lstm.random)
        or "forward" in lstm.__dict__
        or lstm._forward_hooks
        or lstm._forward_pre_hooks
        or _everywhere._global_forward_hooks
        or _everywhere._global_forward_pre_hooks
        or not ops.plain()
    ):
        return None
    dtype, cell_dtype = plan.dtype, plan.cell_dtype
    if state is None:
        h = plan.zeros(plan.h_shape, dtype)
        c = plan.zeros(plan.c_shape, cell_dtype)
    else:
        if type(state) is not State and (type(state) is not tuple or len(state) != 2):
            return None
        h, c = state
        if type(h) is not Tensor or type(c) is not Tensor or h.dtype is not dtype or c.dtype is not cell_dtype:
            return None
        if h.shape != plan.h_shape or c.shape != plan.c_shape or not h.is_cpu or not c.is_cpu:
            return None
        if h.is_neg() or c.is_neg():
            return None
    if not (x.is_contiguous() and h.is_contiguous() and c.is_contiguous()):
        x, h, c = x.contiguous(), h.contiguous(), c.contiguous()
    at_reset = 0
    if reset is not None:
        if type(reset) is not Tensor or reset.dtype is not torch.bool or reset.shape != x.shape[:1] or not reset.is_cpu:
            return None
        reset = reset.contiguous()
        at_reset = reset.data_ptr()
    output, h_n, c_n = torch.empty_like(plan.output), torch.empty_like(h), torch.empty_like(c)
    code = plan.run(
        STEPS.pack(
            plan.at, plan.layers, x.data_ptr(), h.data_ptr(), c.data_ptr(), at_reset,
            output.data_ptr(), h_n.data_ptr(), c_n.data_ptr(),
        )
    )  # fmt: skip
    if code:
        forget(lstm)
        if code == _STALE:
            return fast_step(lstm, x, state, reset)
        check(code, None, 1)
    return output, State(h_n, c_n)


def _single(lstm: LSTM, x: Tensor, state: Any, reset: Any) -> tuple[Tensor, State] | None:
    """``fast_step`` for a single x (I,), as a row of its own."""
    if state is not None:
        if type(state) not in (State, tuple) or [type(m) is Tensor and m.dim() for m in state] != [2, 2]:
            return None
        state = tuple(m.unsqueeze(1) for m in state)
    if reset is not None:
        if type(reset) is not Tensor or reset.dim():
            return None
        reset = reset.unsqueeze(0)
    found = fast_step(lstm, x.unsqueeze(0), state, reset)
    if found is None:
        return None
    output, after = found
    return output.squeeze(0), State(after.h.squeeze(1), after.c.squeeze(1))


def _prepare(lstm: LSTM, x: Tensor) -> Plan | None:
    """A new plan, kept with the layer; None where its weights cannot be kept packed."""
    global _hook
    if x.dim() != 2 or x.shape[1] != lstm.input_size or x.shape[0] == 0 or not _eligible(lstm, x):
        return None
    if _hook is None:
        _hook = register_optimizer_step_post_hook(_count_update)
    plan = lstm.__dict__["_plan"] = Plan(lstm, x.shape[0], frozen=False)
    return plan


def _eligible(lstm: LSTM, x: Tensor) -> bool:
    """May this layer's weights be kept packed? Only parameters whose changes torch counts."""
    if lstm.directions != 1 or type(lstm).forward is not type(lstm)._own_forward:
        return False
    if lstm.computed or not lstm.weights_fit:
        return False
    if x.device.type != "cpu" or x.dtype is not lstm.weight_ih_l0.dtype:
        return False
    weights = lstm.weights(0)
    for p in (p for layer in range(lstm.num_layers) for w in lstm.weights(layer) for p in w if p is not None):
        if type(p) is not torch.nn.Parameter or p.is_inference() or not p.is_contiguous() or p.dtype is not x.dtype:
            return False
        if p.is_neg():
            return False
    return native.declines(x, weights, None) is None


def _layer() -> Any:
    from tidegate.layer import LSTM

    return LSTM


class Streamer:
    """A one-directional LSTM read one step at a time, with weights frozen and buffers of its own.

    A step allocates nothing. Outputs are buffers of its own, which the step after next overwrites without
    autograd's notice: clone those that a loss over several steps reads, or its gradients are wrong.

    Parameters
    ----------
    lstm : LSTM
        On the CPU, in float32, float64 or bfloat16; read in evaluation mode. Its weights are copied;
        ``refresh`` copies them again.
    batch : int
        Rows B that step together.

    Raises
    ------
    ValueError
        If the layer cannot stream, or only the reference can run it.

    Examples
    --------
    >>> stream = tg.Streamer(tg.LSTM(3, 8))
    >>> stream.step(torch.randn(1, 3)).shape
    torch.Size([1, 8])
    """

    def __init__(self, lstm: LSTM, batch: int = 1) -> None:
        if not isinstance(lstm, _layer()):
            raise TypeError(f"a Streamer reads a tg.LSTM; given {type(lstm).__name__}")
        if not isinstance(batch, int | np.integer) or batch < 1:
            raise ValueError(f"batch is the number of rows, a whole number of at least 1; given {batch!r}")
        self._lstm, self._batch, self._turn = lstm, int(batch), 0
        self._h: list[Tensor] = []
        self.refresh()

    def refresh(self) -> None:
        """Take over the layer's weights as they are now; the state stays, in their dtype.

        Raises
        ------
        ValueError
            As the constructor: if the layer can no longer stream. The weights are then those of before.
        """
        lstm = self._lstm
        lstm._refuse_streaming("a Streamer")
        with lstm._looked_at(), torch.nn.utils.parametrize.cached():  # what is looked at is what is taken over
            lstm._compute_weights()
            weights = [w for layer in range(lstm.num_layers) for w in lstm.weights(layer)]
            reason = native.declines(lstm.weight_ih_l0.new_empty(0), weights, None)
            if reason is not None:
                raise ValueError(f"a Streamer needs the native kernels: {reason}")
            if not lstm.weights_fit:
                raise ValueError("a Streamer needs weights of the shapes that the layer was made with")
            plan = self._plan = Plan(lstm, self._batch, frozen=True)
        self._x_shape, self._dtype, self._run = plan.x_shape, plan.dtype, library().forward_at  # type: ignore[union-attr]
        self._calls: list[Any] = []
        # Two states in turn: a step must not overwrite the memory that it still reads.
        with torch.inference_mode(False):
            if not self._h:
                self._h = [plan.zeros(plan.h_shape, plan.dtype) for _ in range(2)]
                self._c = [plan.zeros(plan.c_shape, plan.cell_dtype) for _ in range(2)]
            elif self._h[0].dtype is not plan.dtype:
                self._h = [h.to(plan.dtype) for h in self._h]
                self._c = [c.to(plan.cell_dtype) for c in self._c]
            else:
                return
            # The top layer's, apart from its memories: ``reset`` and ``state`` leave what was returned.
            self._outputs = [plan.zeros(plan.h_shape[1:], plan.dtype) for _ in range(2)]

    def _prepare(self) -> None:
        """Calls for both turns, complete but for the address of the input."""
        plan = self._plan
        turns, self._alive = [], []
        h_bytes, c_bytes = (m[0][0].nbytes for m in (self._h, self._c))
        for turn in range(2):
            old_h, old_c = self._h[turn].data_ptr(), self._c[turn].data_ptr()
            new_h, new_c = self._h[1 - turn].data_ptr(), self._c[1 - turn].data_ptr()
            calls, at = [], []
            for layer, template in enumerate(plan.calls):
                call = bytearray(template)
                h, c = layer * h_bytes, layer * c_bytes
                below = new_h + h - h_bytes  # what the layer below has just written
                top = layer == len(plan.calls) - 1
                output = self._outputs[1 - turn].data_ptr() if top else new_h + h
                for offset, address in (
                    (_X, below), (_H_0, old_h + h), (_C_0, old_c + c),
                    (_OUTPUT, output), (_H_N, new_h + h), (_C_N, new_c + c),
                ):  # fmt: skip
                    _fill(call, offset, address if address > 0 else 0)
                calls.append((ctypes.c_char * len(call)).from_buffer(call))
                at.append(ctypes.addressof(calls[-1]))
            self._alive += calls
            turns.append((ctypes.c_int64.from_buffer(calls[0], _X), at, self._outputs[1 - turn]))
        self._calls = turns

    def step(self, x_t: Tensor) -> Tensor:
        """Read x_t (B, I) and return the output (B, P)."""
        if (
            type(x_t) is not Tensor
            or x_t.shape != self._x_shape
            or x_t.dtype is not self._dtype
            or not x_t.is_contiguous()
            or not x_t.is_cpu
            or x_t.is_neg()
        ):
            x_t = self._checked(x_t)
        if not self._calls:
            self._prepare()
        x, at, output = self._calls[self._turn]
        x.value = x_t.data_ptr()
        for call in at:
            code = self._run(call)
            if code:
                check(code, None, 1)
        self._turn = 1 - self._turn
        return output

    def _checked(self, x_t: Any) -> Tensor:
        if type(x_t) is not Tensor and type(x_t) is not torch.nn.Parameter:
            raise TypeError(f"step reads a torch.Tensor; given {type(x_t).__name__}")
        if x_t.shape != self._x_shape:
            raise ValueError(f"step reads (B, I) = {tuple(self._x_shape)}; given {tuple(x_t.shape)}")
        if x_t.dtype is not self._dtype or x_t.device.type != "cpu":
            raise ValueError(f"step reads {self._dtype} on the CPU; given {x_t.dtype} on {x_t.device}")
        return native._plain(x_t)

    @property
    def state(self) -> State:
        """A copy of both memories: h (L, B, P) and c (L, B, H)."""
        return State(self._h[self._turn].clone(), self._c[self._turn].clone())

    @state.setter
    def state(self, state: tuple[Tensor, Tensor]) -> None:
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise TypeError(f"the state is a pair (h, c); given {type(state).__name__}")
        h, c = state
        for name, memory, given in (("h", self._h[self._turn], h), ("c", self._c[self._turn], c)):
            if not isinstance(given, Tensor):
                raise TypeError(f"the state's {name} is a torch.Tensor; given {type(given).__name__}")
            if given.shape != memory.shape:
                sizes = "(L, B, P)" if name == "h" and self._lstm.proj_size else "(L, B, H)"
                raise ValueError(f"the state's {name} is {sizes} = {tuple(memory.shape)}; given {tuple(given.shape)}")
        self._h[self._turn].copy_(h.detach())
        self._c[self._turn].copy_(c.detach())

    def reset(self, rows: Tensor | None = None) -> None:
        """Empty the memories of the rows where ``rows`` (B,) is true, or of all."""
        if rows is not None:
            mask = torch.as_tensor(rows) if isinstance(rows, Tensor | np.ndarray | list | tuple | bool) else None
            if mask is None or mask.dtype != torch.bool:
                raise TypeError(f"rows is a bool tensor, true for those to empty; given {rows!r}")
            if mask.shape not in ((self._batch,), ()):
                raise ValueError(f"rows has one bool a row, (B,) = {(self._batch,)}; given shape {tuple(mask.shape)}")
        for memory in (self._h[self._turn], self._c[self._turn]):
            if rows is None:
                memory.zero_()
            else:
                memory[:, mask] = 0

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a Streamer cannot be copied or pickled: make another of its layer, and set that one's state")
