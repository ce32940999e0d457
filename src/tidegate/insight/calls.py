"""Watching a layer inside any model: what it was called with, and its output as a place to differentiate by.

T steps, B batch rows, I inputs, H hidden units, P outputs, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tidegate.layer import LSTM
from tidegate.ops import LayerTrace
from tidegate.state import State

Score = Callable[[Any], Tensor]


class Call(NamedTuple):
    """The arguments of one call of a layer."""

    input: Any
    hx: Any = None
    lengths: Any = None
    reset: Any = None


class Watched(NamedTuple):
    """One call of a layer inside a model."""

    value: Tensor  # (B,) what the model's score gave
    call: Call
    trace: tuple[LayerTrace, ...]  # L
    hidden: Tensor  # (T, B, D, P) the top layer's output, a leaf that ``value`` depends on
    state: State  # h_n and c_n (L*D, B, .), leaves as well


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, for the layer itself; its mode before after that."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, training in modes.items():
            m.training = training


@contextmanager
def hooked(lstm: LSTM, compute: Callable[[Call, Any], Any]) -> Iterator[None]:
    """Inside, a call of the layer gives what ``compute`` makes of its arguments and its result."""

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        return compute(Call(*args, **kwargs), output)

    handle = lstm.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def scored(score: Score, x: Any, rows: int | None = None) -> Tensor:
    """``score(x)``, checked to be one number a row."""
    value = score(x)
    if not isinstance(value, Tensor) or value.dim() > 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"score gives one number a row, a tensor (B,); given {shape}")
    value = value.reshape(-1)
    if rows is not None and len(value) != rows:
        raise ValueError(f"score gives one number a row, a tensor (B,); given {len(value)} for {rows} rows")
    return value


def capture(lstm: LSTM, run: Callable[[], Any]) -> Call:
    """The arguments with which ``run`` calls the layer, such as the embedded tokens of a text model.

    Raises
    ------
    ValueError
        If it calls the layer never, or more than once.
    """
    calls: list[Call] = []

    def note(call: Call, output: Any) -> Any:
        calls.append(call)
        return output

    with hooked(lstm, note), torch.no_grad():
        run()
    _once(len(calls))
    return calls[0]


def replaced(lstm: LSTM, score: Score, x: Any, hidden: Tensor, ends: State) -> Tensor:
    """The score (B,) with the top layer's output replaced by ``hidden`` (T, B, D, P), its final states by ``ends``.

    h_n (D, B, P) and c_n (D, B, H); those of the layers below stay.
    """
    calls = []

    def swap(call: Call, output: Any) -> Any:
        calls.append(call)
        layout = lstm._enter(call.input, call.lengths, call.reset)[3]
        state = [torch.cat([s[: -len(e)], e.reshape(s[-len(e) :].shape)]) for s, e in zip(output[1], ends, strict=True)]
        return lstm._leave(hidden, layout), State(*state)

    with hooked(lstm, swap), torch.no_grad():
        value = scored(score, x)
    _once(len(calls))
    return value


def watch(lstm: LSTM, score: Score, x: Any) -> Watched:
    """Run ``score(x)`` with every gate of the layer kept and its output made a leaf."""
    found: list[Any] = []

    def open_up(call: Call, output: Any) -> Any:
        with torch.no_grad():
            trace = lstm.trace(*call)
        layout = lstm._enter(call.input, call.lengths, call.reset)[3]
        with torch.enable_grad():
            hidden = trace.layers[-1].hidden.detach().clone().requires_grad_()
            state = State(*(part.detach().clone().requires_grad_() for part in trace.state))
            found.append((call, trace.layers, hidden, state))
            return lstm._leave(hidden, layout), state

    with hooked(lstm, open_up), torch.enable_grad():
        value = scored(score, x)
    _once(len(found))
    return Watched(value, *found[0])


def _once(times: int) -> None:
    if times != 1:
        how = "never" if times == 0 else f"{times} times"
        raise ValueError(f"score calls the layer once, as lstm(x) or inside a model; it was called {how}")
