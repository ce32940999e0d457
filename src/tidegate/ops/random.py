"""Counter-based random masks: the same seed gives the same bits on every backend.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). One counter
yields the words of four neighbouring units, so a mask needs neither storage nor an order.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF
_MUL = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# The last word of the counter: what the mask is for (plus 8 for the backward direction).
STREAM_RECURRENT_DROPOUT = 0
STREAM_ZONEOUT_HIDDEN = 1
STREAM_ZONEOUT_CELL = 2
STREAM_BACKWARD = 8


def _times(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low half of a product of 32-bit words, kept in int64 (which holds 63 bits)."""
    low, high = x & 0xFFFF, x >> 16
    low = low * factor  # below 2^48
    high = high * factor + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for each counter (int64 tensors that hold 32-bit values)."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & MASK32, (seed >> 32) & MASK32
    for _ in range(_ROUNDS):
        hi0, lo0 = _times(c0, _MUL[0])
        hi1, lo1 = _times(c2, _MUL[1])
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + _WEYL[0]) & MASK32, (k1 + _WEYL[1]) & MASK32
    return c0, c1, c2, c3


def bernoulli(seed: Tensor, rate: float, t: int, batch: int, units: int, stream: int) -> Tensor:
    """True with probability ``rate``: bool (B, H) of step ``t``.

    Unit u of row b takes word u % 4 of the counter (u // 4, b, t, stream).
    """
    quads = (units + 3) // 4
    counters = (
        torch.arange(quads, device=seed.device).expand(batch, quads),
        torch.arange(batch, device=seed.device)[:, None].expand(batch, quads),
        torch.full((), t, device=seed.device, dtype=torch.int64).expand(batch, quads),
        torch.full((), stream, device=seed.device, dtype=torch.int64).expand(batch, quads),
    )
    words = torch.stack(philox(counters, seed), -1).flatten(-2)  # (B, 4 quads)
    return words[:, :units] < threshold(rate)


def bernoulli_steps(seed: Tensor, rate: float, steps: Tensor, batch: int, units: int, stream: int) -> Tensor:
    """``bernoulli`` for several steps (T,) at once: bool (T, B, H)."""
    shape = (len(steps), batch, (units + 3) // 4)
    counters = (
        torch.arange(shape[2], device=seed.device).expand(shape),
        torch.arange(batch, device=seed.device)[:, None].expand(shape),
        steps.to(seed.device)[:, None, None].expand(shape),
        torch.full((), stream, device=seed.device, dtype=torch.int64).expand(shape),
    )
    words = torch.stack(philox(counters, seed), -1).flatten(-2)  # (T, B, 4 quads)
    return words[..., :units] < threshold(rate)


def threshold(rate: float) -> int:
    """The 32-bit bound below which a word counts as true."""
    return min(int(rate * 2.0**32), 2**32)
