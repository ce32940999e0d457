"""The memory carried between calls: short-term ``h`` and long-term ``c``.

L layers, D directions, B batch rows, P outputs, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_FORMAT = "tidegate.state"


class State(NamedTuple):
    """Both memories of every layer and direction; a tuple ``(h, c)``, as torch's layers use.

    h is (L*D, B, P), or (L*D, P) for unbatched calls; c the same with H. In half precision c
    is float32, so that a sequence read in chunks gives what it gives read at once.
    """

    h: Tensor
    c: Tensor

    def detach(self) -> State:
        """The same values, cut from the graph (truncated backpropagation)."""
        return State(self.h.detach(), self.c.detach())

    def clone(self) -> State:
        """A copy with storage of its own."""
        return State(self.h.clone(), self.c.clone())

    def to(self, device: torch.device | str) -> State:
        """Both memories on another device."""
        return State(self.h.to(device), self.c.to(device))

    def select(self, rows: int | Sequence[int] | Tensor) -> State:
        """The state of some batch rows, in the order given (beam search, dropped streams).

        Parameters
        ----------
        rows : int, sequence of int, Tensor of whole numbers, or of bool (B,)

        Raises
        ------
        ValueError, TypeError
            If there are no such rows.
        """
        if self.h.dim() < 3:
            raise ValueError(
                f"select takes batch rows of h (L*D, B, P); given a state of an unbatched call, {tuple(self.h.shape)}"
            )
        chosen, count = _whole_rows(rows), self.h.shape[-2]
        if chosen.dtype == torch.bool:
            if chosen.shape != (count,):
                raise ValueError(
                    f"rows as a mask has one bool a batch row; given shape {tuple(chosen.shape)}, expected {(count,)}"
                )
            chosen = chosen.nonzero().squeeze(-1)
        if chosen.device != self.h.device:
            _check_rows(chosen, count)  # before a GPU that cannot raise
            chosen = chosen.to(self.h.device)
        chosen = chosen.reshape(-1)
        try:
            return State(self.h.index_select(-2, chosen), self.c.index_select(-2, chosen))
        except (IndexError, RuntimeError):  # looked at afterwards, so that a good call pays nothing
            _check_rows(chosen, count)
            raise

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """One batch from several of the same layers and features, rows in the order given.

        Raises
        ------
        ValueError, TypeError
            If there are none, or they do not fit together.
        """
        if not states:
            raise ValueError("stack needs at least one state; given none")
        try:
            batched = [s if s.h.dim() == 3 else State(s.h.unsqueeze(1), s.c.unsqueeze(1)) for s in states]
            return State(torch.cat([s.h for s in batched], 1), torch.cat([s.c for s in batched], 1))
        except (AttributeError, RuntimeError):  # looked at afterwards, so that a good call pays nothing
            _check_alike(states)
            raise

    def to_bytes(self) -> bytes:
        """The state in the safetensors format."""
        from safetensors.torch import save

        tensors = {"h": self.h.detach().cpu().contiguous(), "c": self.c.detach().cpu().clone().contiguous()}
        return save(tensors, {"format": _FORMAT, "version": "1"})

    @staticmethod
    def from_bytes(data: bytes, device: torch.device | str = "cpu") -> State:
        """What ``to_bytes`` wrote; nothing in it is executed.

        Raises
        ------
        ValueError
            If the bytes are not a state.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"from_bytes reads the bytes that to_bytes wrote; given {type(data).__name__}")
        try:
            tensors = load(bytes(data))
        except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch has not
            raise ValueError(f"a state is stored in the safetensors format; these bytes are not: {error}") from None
        held = ", ".join(f"{name} {tuple(t.shape)} of {t.dtype}" for name, t in sorted(tensors.items()))
        fits = set(tensors) == {"h", "c"} and all(t.is_floating_point() and t.dim() in (2, 3) for t in tensors.values())
        if not fits or tensors["h"].shape[:-1] != tensors["c"].shape[:-1]:
            raise ValueError(f"a state holds h and c of the same layers and rows; these bytes hold {held}")
        return State(tensors["h"].to(device), tensors["c"].to(device))


def _whole_rows(rows: Any) -> Tensor:
    """Whole numbers or a mask."""
    try:
        chosen = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"rows are whole numbers, or a bool mask; given {rows!r}") from None
    if chosen.dtype == torch.bool or chosen.dtype == torch.int64:
        return chosen
    if (chosen.is_floating_point() or chosen.is_complex()) and chosen.numel():  # an empty list is float
        raise TypeError(f"rows are whole numbers, or a bool mask; given {chosen.dtype}")
    return chosen.long()


def _check_rows(rows: Tensor, count: int) -> None:
    if torch.compiler.is_compiling():
        return
    for row in rows.flatten().tolist():
        if not 0 <= row < count:
            raise ValueError(f"rows are from 0 to below the batch's {count} rows; given {row}")


def _check_alike(states: Sequence[State]) -> None:
    first: Any = None
    for k, s in enumerate(states):
        if not isinstance(s, State):
            raise TypeError(f"stack takes a sequence of tg.State; given {type(s).__name__} in it")
        sizes = tuple((part.shape[0], part.shape[-1]) for part in s)
        first = first or sizes
        if sizes != first:
            raise ValueError(
                "stack takes states of the same layers x directions and features, (L*D, P) of h and (L*D, H) of c; "
                f"given {sizes} in state {k}, expected {first} as in state 0"
            )


# Named tuples of a package are strangers to torch's own files: of weights alone, and of exported programs.
torch.serialization.add_safe_globals([State])
torch.utils._pytree._register_namedtuple(State, serialized_type_name="tidegate.State")
