"""One operation, several backends: an LSTM layer over a whole sequence.

``lstm_sequence`` picks the backend; ``choose`` says which and why. A backend is one module with
``lstm_sequence`` and ``declines``, entered in ``BACKENDS`` with the fastest first.

T steps, B batch rows, I inputs, H hidden units, P outputs, D directions.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tidegate.cell import LSTMWeights, RNNWeights
from tidegate.checks import autocast_dtype
from tidegate.errors import ConfigError
from tidegate.ops import checkpoint, graph, native, reference, rnn
from tidegate.ops.trace import LayerTrace, lstm_trace
from tidegate.ops.types import BackendChoice, Noise, SequenceResult, SlowPathWarning

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendChoice",
    "LayerTrace",
    "Noise",
    "SequenceResult",
    "SlowPathWarning",
    "choose",
    "lstm_sequence",
    "lstm_trace",
    "rnn_sequence",
    "use_backend",
]


class Backend(NamedTuple):
    """A way to run ``lstm_sequence``; ``declines`` gives the reason why it does not take a call."""

    run: Callable[..., SequenceResult]
    declines: Callable[[Tensor, Sequence[LSTMWeights], Noise | None], str | None]
    summary: str


BACKENDS: dict[str, Backend] = {
    "native": Backend(native.lstm_sequence, native.declines, "C++ kernels for the CPU"),
    "reference": Backend(
        reference.lstm_sequence,
        lambda x, weights, noise: None,
        "a loop over the steps in plain torch, which takes every dtype, device, option and derivative",
    ),
}

_forced: ContextVar[str | None] = ContextVar("tidegate_backend", default=os.environ.get("TIDEGATE_BACKEND") or None)


def plain() -> bool:
    """Is nothing active that a way around the dispatcher would miss?

    That is another backend asked for, autocast, function transforms, tracing, and modes that watch operators.
    """
    return (
        _forced.get() in (None, "native")
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
        and not native.transformed()
    )


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run everything inside on the named backend; it raises where that backend declines."""
    _known(name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(x: Tensor, weights: Sequence[LSTMWeights], noise: Noise | None = None) -> BackendChoice:
    """The backend that ``lstm_sequence`` would take for this input, with the reason.

    Raises
    ------
    ValueError
        If the environment variable TIDEGATE_BACKEND or ``use_backend`` names a backend that is
        unknown or does not take this call.
    """
    forced = _forced.get()
    if forced is not None:
        _known(forced, " in TIDEGATE_BACKEND")
        reason = BACKENDS[forced].declines(x, weights, noise)
        if reason is not None:
            raise ValueError(f"backend {forced!r} was asked for, but {reason}")
        return BackendChoice(forced, f"asked for by name; {BACKENDS[forced].summary}", {})
    declined: dict[str, str] = {}
    for name, backend in BACKENDS.items():
        reason = backend.declines(x, weights, noise)
        if reason is None:
            why = "".join(f"; not {other}, because {text}" for other, text in declined.items())
            return BackendChoice(name, backend.summary + why, declined)
        declined[name] = reason
    raise AssertionError("the reference takes every call")


def lstm_sequence(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    noise: Noise | None = None,
    *,
    need_cells: bool = True,
    checkpoint_every: int | None = None,
) -> SequenceResult:
    """Run one LSTM layer, one or two directions, over a whole sequence.

    Parameters
    ----------
    x : Tensor (T, B, I)
    h_0 : Tensor (D, B, P)
    c_0 : Tensor (D, B, H)
    weights : D times LSTMWeights
        The second one, if any, reads the sequence from its end.
    lengths : Tensor (B,) of int64, optional
        Valid steps of each row, 0 to T.
    reset : Tensor (T, B) of bool, optional
        True where a new sequence starts.
    noise : Noise, optional
    need_cells : bool
        False lets a backend leave out the memories of all steps, which saves their writing.
    checkpoint_every : int, optional
        For the backward pass keep the memories every so many steps and compute the rest again
        (Chen et al. 2016). Values do not change.

    Returns
    -------
    SequenceResult
        output (T, B, D, P), cells (T, B, D, H), h_n (D, B, P), c_n (D, B, H); in half precision
        cells and c_n are float32.
    """
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, h_0 = x.to(dtype), h_0.to(dtype)
        weights = [w.to(dtype) for w in weights]
    if torch.compiler.is_compiling() or recorded(x, h_0, c_0, weights):
        return graph.lstm_sequence(x, h_0, c_0, weights, lengths, reset, noise, checkpoint_every)
    check_sizes(x, h_0, c_0, weights, lengths, reset)
    if _forced.get() is None and native.declines(x, weights, noise) is None:  # the common case, at once
        return native.lstm_sequence(x, h_0, c_0, weights, lengths, reset, noise, need_cells, checkpoint_every)
    choice = choose(x, weights, noise)
    if choice.name == "native":
        return native.lstm_sequence(x, h_0, c_0, weights, lengths, reset, noise, need_cells, checkpoint_every)
    warn_if_slow(choice)
    check_lengths(lengths, x.shape[0])
    with torch.autocast(x.device.type, enabled=False):
        if checkpoint_every is not None and torch.is_grad_enabled() and not native.transformed():
            return checkpoint.reference_sequence(checkpoint_every, x, h_0, c_0, weights, lengths, reset, noise)
        return BACKENDS[choice.name].run(x, h_0, c_0, weights, lengths, reset, noise)


def recorded(x: Tensor, *rest: Any) -> bool:
    """Is something watching the operators, or has a tensor no memory of its own, so that addresses must not be taken?

    After the input come memories, and the weights of each direction.
    """
    if x.is_meta or torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None:
        return True
    given = [x]
    for one in rest:
        given += [one] if isinstance(one, Tensor) else [p for w in one for p in w]
    return any(t is not None and type(t) is not Tensor and type(t) is not torch.nn.Parameter for t in given)


_warned: set[str] = set()


def warn_if_slow(choice: BackendChoice) -> None:
    """Say once for each reason that a call runs on the reference although nobody asked for it."""
    for reason in choice.declined.values():
        if reason not in _warned:
            _warned.add(reason)
            text = f"this LSTM runs on the {choice.name} backend, step by step and many times slower: {reason}"
            warnings.warn(text, SlowPathWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """How far above the caller the first line lies that is neither tidegate's nor torch's own."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("tidegate", "torch"):
        level, frame = level + 1, frame.f_back
    return level


def rnn_sequence(
    x: Tensor,
    h_0: Tensor,
    weights: Sequence[RNNWeights],
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """Run one vanilla RNN layer over a whole sequence: output (T, B, D, H) and h_n (D, B, H).

    The vanilla RNN is what the LSTM is measured against; it has no kernels.
    """
    check_lengths(lengths, x.shape[0])
    watched = torch.compiler.is_compiling() or native.transformed() or recorded(x, h_0, weights)
    if not watched and rnn.takes(x, weights, lengths, reset, nonlinearity):
        return rnn.rnn_sequence(x, h_0, weights, lengths, nonlinearity)
    return reference.rnn_sequence(x, h_0, weights, lengths, reset, nonlinearity)


def _known(name: str, where: str = "") -> None:
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}{where}; there are {', '.join(map(repr, BACKENDS))}")


def check_sizes(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> None:
    """Do the tensors of a call fit together? The kernels take nothing but their addresses."""
    T, B, I = x.shape
    for w in weights:
        if w.hh.dim() != 2 or not w.fits(I, w.hh.shape[0] // 4, w.hh.shape[1]):
            shapes = ", ".join(f"{name} {tuple(p.shape)}" for name, p in w._asdict().items() if p is not None)
            raise ValueError(f"the weights do not fit together, or an input (T, B, I) {tuple(x.shape)}: {shapes}")
        for name, p in (("weight_ih", w.ih), ("weight_hh", w.hh), ("weight_hr", w.hr)):
            if p is not None and p.dtype != x.dtype:
                raise TypeError(f"each weight has the dtype of what it reads; given {p.dtype} of {name} for {x.dtype}")
    D, H, P = len(weights), weights[0].hh.shape[0] // 4, weights[0].hh.shape[1]
    for name, t, shape in (
        ("h_0", h_0, (D, B, P)), ("c_0", c_0, (D, B, H)), ("lengths", lengths, (B,)), ("reset", reset, (T, B)),
    ):  # fmt: skip
        if t is not None and t.shape != shape:
            raise ValueError(f"{name} has shape {shape} here; given {tuple(t.shape)}")
    for t in (h_0, c_0, *(p for w in weights for p in w if p is not None)):
        if t.device != x.device:
            raise ValueError(f"input, memories and weights are on one device; given {x.device} and {t.device}")


def check_lengths(lengths: Tensor | None, steps: int) -> None:
    """Values are looked at in eager mode only; a compiled graph must not break on them."""
    if lengths is None or lengths.numel() == 0 or torch.compiler.is_compiling() or native.transformed():
        return
    least, most = int(lengths.min()), int(lengths.max())
    if least < 0 or most > steps:
        raise ValueError(f"lengths are from 0 to the number of steps, {steps}; given values from {least} to {most}")
