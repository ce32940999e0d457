"""The memory carried between calls: short-term ``h`` and long-term ``c``.

L layers, D directions, B batch rows, P outputs, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
        """The state of some batch rows, in the order given (beam search, dropped streams)."""
        rows = torch.as_tensor(rows, device=self.h.device)
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(-1)
        rows = rows.reshape(-1)
        return State(self.h.index_select(-2, rows), self.c.index_select(-2, rows))

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """One batch from several, rows in the order given."""
        if not states:
            raise ValueError("stack needs at least one state; given none")
        batched = [s if s.h.dim() == 3 else State(s.h.unsqueeze(1), s.c.unsqueeze(1)) for s in states]
        return State(torch.cat([s.h for s in batched], 1), torch.cat([s.c for s in batched], 1))

    def to_bytes(self) -> bytes:
        """The state in the safetensors format."""
        from safetensors.torch import save

        tensors = {"h": self.h.detach().cpu().contiguous(), "c": self.c.detach().cpu().contiguous()}
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

        try:
            tensors = load(data)
        except SafetensorError as error:
            raise ValueError(f"a state is stored in the safetensors format; these bytes are not: {error}") from None
        if set(tensors) != {"h", "c"} or tensors["h"].shape[:-1] != tensors["c"].shape[:-1]:
            raise ValueError(f"a state holds h and c of the same layers and rows; these bytes hold {sorted(tensors)}")
        return State(tensors["h"].to(device), tensors["c"].to(device))
