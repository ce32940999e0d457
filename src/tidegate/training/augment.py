"""Augmentation of series in training: what does not change the label.

Um et al. 2017 (scaling, time-warping, cropping of wearable sensors' series).

T steps, B sequences, I inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLOWEST, FASTEST = 0.5, 2.0


def scale(inputs: Tensor, spread: float) -> Tensor:
    """Multiply each input (T, B, I) of each sequence by a random factor; ``spread`` is the SD of its logarithm."""
    return inputs * torch.exp(spread * torch.randn_like(inputs[:1]))


def resample(inputs: Tensor, lengths: Tensor, warp: float, crop: float) -> tuple[Tensor, Tensor]:
    """Read a random stretch of each sequence at a random speed, with straight lines between steps.

    Parameters
    ----------
    inputs : (T, B, I)
    lengths : (B,)
    warp : float
        SD of the logarithm of the speed, which stays between a half and twice.
    crop : float
        Largest share cut off; how much, and from which end, is drawn for each sequence.

    Returns
    -------
    inputs (T', B, I), zero past the lengths, and lengths (B,)
    """
    batch = len(lengths)
    span = (lengths - 1).clamp(min=0) * (1 - crop * torch.rand(batch))  # steps from first to last that is read
    start = ((lengths - 1).clamp(min=0) - span) * torch.rand(batch)
    speed = torch.exp(warp * torch.randn(batch)).clamp(SLOWEST, FASTEST)
    count = torch.where(lengths > 0, (span / speed).round().long() + 1, 0)  # (B,)
    step = torch.arange(max(1, int(count.max())))[:, None]  # (T', 1)
    place = start + step * span / (count - 1).clamp(min=1)  # (T', B)
    low = place.floor().long().clamp(min=0, max=len(inputs) - 1)
    high = torch.minimum(low + 1, (lengths - 1).clamp(min=0))
    rows = torch.arange(batch)
    found = torch.lerp(inputs[low, rows], inputs[high, rows], (place - low)[..., None].to(inputs.dtype))
    return found * (step < count)[..., None], count
