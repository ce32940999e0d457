"""What crosses the seam between a layer and its backends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The long-term memory's dtype beside weights of ``dtype``: float32 at least, or small additions are lost."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class SlowPathWarning(UserWarning):
    """A call runs on a slow backend; the text names what forces it."""


class Noise(NamedTuple):
    """Random masks of one call. Backends make the bits from the seed (``ops/random.py``)."""

    seed: Tensor  # () int64
    recurrent_dropout: float = 0.0
    zoneout_hidden: float = 0.0
    zoneout_cell: float = 0.0
    training: bool = True
    first_step: int = 0  # the masks' index of the call's first step, where it is part of a longer sequence


class SequenceResult(NamedTuple):
    """One layer, one or two directions, over a whole sequence."""

    output: Tensor  # (T, B, D, P) zero past a row's length
    cells: Tensor | None  # (T, B, D, H) long-term memory after each step; None where not asked for
    h_n: Tensor  # (D, B, P)
    c_n: Tensor  # (D, B, H)


class BackendChoice(NamedTuple):
    """Which backend runs and why.

    ``declined`` holds, for each faster backend that was passed over, the reason in a sentence.
    """

    name: str
    reason: str
    declined: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"
