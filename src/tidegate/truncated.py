"""Truncated backpropagation through time: windows of a long sequence, with the memory carried.

T steps, B batch rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from tidegate.checks import check_whole
from tidegate.state import State

Tensors = Tensor | Sequence[Tensor]
_NOTHING = object()


class Window:
    """One window of :func:`tbptt`: where it lies, the memory before it, and :meth:`carry` for the one after.

    Attributes
    ----------
    start, stop : int
        Its steps in the batch's sequences, ``stop`` excluded.
    first, last : bool
        Is it the batch's first or last one?
    state : State or None
        What the window before carried, cut from its graph; None where nothing was carried yet.
    lengths : Tensor (B,) or None
        Valid steps inside the window, where ``tbptt`` was given lengths.
    """

    def __init__(self, start: int, stop: int, steps: int, state: Any, lengths: Tensor | None) -> None:
        self.start, self.stop = start, stop
        self.first, self.last = start == 0, stop == steps
        self.state, self.lengths = state, lengths
        self._carried: Any = _NOTHING

    def carry(self, state: Any) -> None:
        """Hand the memory to the next window, cut from the graph.

        Parameters
        ----------
        state : State, Tensor, None, or tuples, lists and dicts of these
        """
        self._carried = detach(state)

    def __repr__(self) -> str:
        return f"Window(steps {self.start} to {self.stop - 1})"


def tbptt(
    data: Tensors | Iterable[Tensors],
    window: int,
    *,
    batch_first: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    keep_state: bool = False,
) -> Iterator[tuple[Any, Window]]:
    """Windows of long sequences for truncated backpropagation (Williams & Peng 1990).

    The gradient reaches back to a window's start; the memory reaches further, as it is carried
    from window to window without its graph.

    Parameters
    ----------
    data : Tensor (T, B, ...), tuple of such tensors, or an iterable of batches (a loader, a list)
        A batch is a tensor, or a tuple or list of tensors. All tensors of a batch have the same T, which need not be a multiple of ``window``.
    window : int
        Steps of each window; the last one may be shorter.
    batch_first : bool
        Tensors are (B, T, ...).
    lengths : Tensor (B,), optional
        Valid steps of each row of a single batch; each window then holds its own ``lengths``,
        and windows behind the longest row are left out.
    keep_state : bool
        The next batch goes on where the last one ended (one long text cut into batches).
        Otherwise each batch starts with empty memories.

    Yields
    ------
    tensors, Window
        The window's part of the data, in the form of the data (a view), and the window.

    Raises
    ------
    RuntimeError
        If :meth:`Window.carry` was not called before the next window is asked for: a memory
        would be forgotten without a word.

    Examples
    --------
    >>> for (x, y), window in tg.tbptt((inputs, targets), window=100):
    ...     output, state = lstm(x, window.state)
    ...     loss = F.mse_loss(head(output), y)
    ...     loss.backward()
    ...     window.carry(state)
    ...     optimiser.step()
    ...     optimiser.zero_grad()
    """
    check_whole("window", window, 1)
    one = isinstance(data, Tensor) or (isinstance(data, tuple) and all(isinstance(t, Tensor) for t in data))
    if lengths is not None and not one:
        raise ValueError("lengths are those of one batch of tensors; given with an iterable of batches")
    if not one and not isinstance(data, Iterable):
        raise TypeError(f"data are tensors or an iterable of batches; given {type(data).__name__}")
    return _windows([data] if one else data, window, batch_first, lengths, keep_state)  # type: ignore[list-item]


def _windows(
    batches: Iterable[Tensors], size: int, batch_first: bool, lengths: Any, keep_state: bool
) -> Iterator[tuple[Any, Window]]:
    state: Any = None
    time = 1 if batch_first else 0
    for batch in batches:
        steps, rows = _sizes(batch, time)
        if not keep_state:
            state = None
        given = None if lengths is None else _check_lengths(lengths, rows, steps)
        if given is not None:
            steps = int(given.max()) if rows else 0
        for start in range(0, steps, size):
            stop = min(start + size, steps)
            inside = None if given is None else (given - start).clamp(0, stop - start)
            window = Window(start, stop, steps, state, inside)
            yield _cut(batch, time, start, stop), window
            if window._carried is _NOTHING:
                raise RuntimeError(
                    f"a window's memory goes on with window.carry(state); it was not called for {window}, "
                    "expected once for each window (carry(None) to start empty)"
                )
            state = window._carried


def _sizes(batch: Any, time: int) -> tuple[int, int]:
    """T and B of a batch."""
    tensors = [batch] if isinstance(batch, Tensor) else batch
    if not isinstance(tensors, tuple | list) or not tensors or not all(isinstance(t, Tensor) for t in tensors):
        if isinstance(tensors, PackedSequence):
            raise TypeError("windows are cut from padded tensors with lengths; given a PackedSequence")
        raise TypeError(f"a batch is a tensor, or a tuple or list of tensors; given {_described(batch)}")
    if any(t.dim() < 2 for t in tensors):
        raise ValueError(
            f"tensors are (T, B, ...), or (B, T, ...) with batch_first; given {[tuple(t.shape) for t in tensors]}"
        )
    found = {(t.shape[time], t.shape[1 - time]) for t in tensors}
    if len(found) > 1:
        raise ValueError(
            f"all tensors of a batch have the same steps and rows; given {[tuple(t.shape) for t in tensors]}"
        )
    return found.pop()


def _described(batch: Any) -> str:
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of {', '.join(sorted({type(t).__name__ for t in batch})) or 'nothing'}"
    return type(batch).__name__


def _check_lengths(lengths: Any, rows: int, steps: int) -> Tensor:
    lengths = torch.as_tensor(lengths)
    if lengths.shape != (rows,):
        raise ValueError(f"lengths has one number for each of {rows} rows; given shape {tuple(lengths.shape)}")
    if rows and (int(lengths.min()) < 0 or int(lengths.max()) > steps):
        raise ValueError(
            f"lengths are from 0 to the number of steps, {steps}; "
            f"given values from {int(lengths.min())} to {int(lengths.max())}"
        )
    return lengths


def _cut(batch: Any, time: int, start: int, stop: int) -> Any:
    if isinstance(batch, Tensor):
        return batch.narrow(time, start, stop - start)
    parts = [t.narrow(time, start, stop - start) for t in batch]
    return tuple(parts) if isinstance(batch, tuple) else parts


def detach(state: Any) -> Any:
    """A state cut from its graph, whatever nesting of tuples, lists and dicts it is."""
    if state is None:
        return None
    if isinstance(state, Tensor | State):
        return state.detach()
    if isinstance(state, Mapping):
        return {name: detach(part) for name, part in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*map(detach, state))
    if isinstance(state, tuple | list):
        return type(state)(map(detach, state))
    raise TypeError(f"a state is made of tensors, tuples, lists and dicts; given {type(state).__name__}")
