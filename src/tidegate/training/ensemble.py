"""Several members, trained apart from different seeds, answering together.

Their errors differ, and the mean of what they say is better than what they say alone (Lakshminarayanan
et al. 2017). An ensemble costs as many trainings as it has members: compare at equal compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tidegate.errors import RunError

SEEDS = 1_000  # between the members' seeds


class Ensemble(nn.Module):
    """Runs its members and combines what they give.

    Parameters
    ----------
    members : iterable of nn.Module
        Alike, and called with the same arguments.
    combine : callable
        From outputs stacked in a first dimension to one output.
    """

    def __init__(self, members: Iterable[nn.Module], combine: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.combine = combine

    def forward(self, *given: Any) -> Tensor:
        """One output of all members."""
        return self.combine(torch.stack([member(*given) for member in self.members]))

    @property
    def recurrent(self) -> nn.Module:
        """There is no one layer: looking inside and export ask for it, and are told so."""
        raise RunError(
            f"this model is an ensemble of {len(self.members)}, which has no one LSTM to look at or to export; train "
            "with --members 1"
        )


def mean_of_probabilities(outputs: Tensor) -> Tensor:
    """Logarithm of the mean probability: (members, ..., K) scores before softmax to (..., K)."""
    return torch.logsumexp(outputs.log_softmax(-1), 0) - math.log(len(outputs))


def mean_of_quantiles(outputs: Tensor) -> Tensor:
    """Level by level (Vincent 1912), which keeps quantiles in order: (members, ..., Q) to (..., Q)."""
    return outputs.mean(0)
