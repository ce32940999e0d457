"""Which inputs mattered: integrated gradients (Sundararajan, Taly & Yan 2017, eq. 1).

    share_k = (x_k - b_k) * integral over a in [0, 1] of dy/dx_k at b + a (x - b)

Shares add up to y(x) - y(b) (completeness), up to the error of the integral, which is returned. Unlike
the ledger they count what a step does by moving gates; unlike it they depend on a baseline.

T steps, B batch rows, I inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tidegate.frames import array, long_frame
from tidegate.insight.calls import Score, scored

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Attribution:
    """What each input adds to an output beyond the baseline; in the output's unit.

    Attributes
    ----------
    shares : (T, B, I), or (B, T, I) for such input
        0 past a row's length. For embedded tokens I is the embedding's size.
    value, baseline_value : (B,)
        The output for the input, and for the baseline.
    error : (B,)
        Completeness error: sum of the shares less (value - baseline_value).
    names : list of str
        Of the inputs.
    unit : str
        Of the output.
    batch_first : bool
    """

    shares: np.ndarray
    value: np.ndarray
    baseline_value: np.ndarray
    error: np.ndarray
    names: list[str]
    unit: str
    batch_first: bool

    def by_step(self) -> np.ndarray:
        """All inputs of a step together: (T, B), or (B, T)."""
        return self.shares.sum(-1)

    def to_frame(self) -> pl.DataFrame:
        """One row a step, row and input."""
        shares = self.shares.swapaxes(0, 1) if self.batch_first else self.shares
        axes = {"step": range(shares.shape[0]), "row": range(shares.shape[1]), "input": self.names}
        return long_frame(axes, {"share": shares})


def attribute(
    score: Score,
    x: Tensor,
    *,
    baseline: Any = None,
    fixed: Sequence[bool] | Tensor | None = None,
    lengths: Any = None,
    batch_first: bool = False,
    embedding: nn.Embedding | None = None,
    points: int = 64,
    names: Sequence[str] | None = None,
    unit: str = "",
) -> Attribution:
    """Integrated gradients of an output by its inputs.

    Parameters
    ----------
    score : callable
        ``score(x)`` gives the output (B,), each row's from that row alone. Call ``model.eval()`` first:
        a model that drops out at random has no one output.
    x : Tensor (T, B, I), (B, T, I) with ``batch_first``, or tokens (T, B) or (B, T) with ``embedding``
    baseline : tensor that broadcasts to x, optional
        Numbers, such as (I,); with ``embedding`` a token's index, or a vector of the embedding's size. By default
        the mean over the valid steps of x, or of all embedding vectors. For a trained
        model take the mean of its training data.
    fixed : bool (I,), optional
        Inputs that stay as they are, such as flags and calendar features: the mean of a flag is no
        value of a flag. They get no share.
    lengths : (B,), optional
        Valid steps; ``score`` must respect them too. Shares past them are 0.
    embedding : torch.nn.Embedding, optional
        The one that ``score`` passes x through, once.
    points : int
        Of the Gauss-Legendre rule, exact for polynomials of a below degree 2 * points.
    names : sequence of str, optional
        Of the inputs.
    unit : str
        Of the output, for labels.

    Returns
    -------
    Attribution
        With the completeness error of each row.
    """
    if points < 1:
        raise ValueError(f"points is at least 1; given {points}")
    embedded = x if embedding is None else embedding(x)
    embedded = embedded.detach()
    if not embedded.is_floating_point():
        raise TypeError(f"x is numbers, or tokens with the embedding that score passes them through; given {x.dtype}")
    start = _start(embedded, baseline, embedding, lengths, batch_first)
    if fixed is not None:
        start = torch.where(torch.as_tensor(fixed, dtype=torch.bool, device=x.device), embedded, start)
    valid = valid_steps(embedded, lengths, batch_first)
    if valid is not None:
        embedded, start = torch.where(valid, embedded, 0.0), torch.where(valid, start, 0.0)

    nodes, weights = np.polynomial.legendre.leggauss(points)
    slope = torch.zeros_like(embedded, dtype=torch.float64)
    rows = embedded.shape[0 if batch_first else 1]
    for node, weight in zip((nodes + 1.0) / 2.0, weights / 2.0, strict=True):
        at = (start + float(node) * (embedded - start)).requires_grad_()
        with torch.enable_grad():
            value = _score_at(score, x, at, embedding, rows)
        [gradient] = torch.autograd.grad(value.sum(), at)
        slope += float(weight) * gradient.double()
    with torch.no_grad():
        ends = [_score_at(score, x, at, embedding, rows) for at in (embedded, start)]
    after, before = (array(end).astype(np.float64) for end in ends)
    shares = slope * (embedded - start).double()
    if valid is not None:
        shares = torch.where(valid, shares, 0.0)
    total = shares.sum(-1).sum(1 if batch_first else 0)
    named = [str(k) for k in range(embedded.shape[-1])] if names is None else list(names)
    return Attribution(array(shares), after, before, array(total) - (after - before), named, unit, batch_first)


def mean_baseline(x: Tensor, lengths: Any = None, *, batch_first: bool = False) -> Tensor:
    """The mean of each input (I,) over all rows and valid steps."""
    valid = valid_steps(x, lengths, batch_first)
    if valid is None:
        return x.reshape(-1, x.shape[-1]).double().mean(0).to(x.dtype)
    total = torch.where(valid, x, 0.0).double().sum((0, 1))
    return (total / valid.sum().clamp(min=1)).to(x.dtype)


def valid_steps(x: Tensor, lengths: Any, batch_first: bool) -> Tensor | None:
    """True at the steps that are not padding, (T, B, 1) or (B, T, 1)."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths, device=x.device)
    valid = torch.arange(x.shape[1 if batch_first else 0], device=x.device)[:, None] < lengths
    return (valid.t() if batch_first else valid).unsqueeze(-1)


def _start(x: Tensor, baseline: Any, embedding: nn.Embedding | None, lengths: Any, batch_first: bool) -> Tensor:
    """The baseline in the shape of x (embedded)."""
    if baseline is None:
        if embedding is not None:
            return embedding.weight.detach().mean(0).expand_as(x)
        return mean_baseline(x, lengths, batch_first=batch_first).expand_as(x)
    start = torch.as_tensor(baseline, device=x.device)
    if embedding is not None and not start.is_floating_point():
        start = embedding(start).detach()
    return start.to(x.dtype).expand_as(x)


def _score_at(score: Score, x: Tensor, at: Tensor, embedding: nn.Embedding | None, rows: int) -> Tensor:
    """The score with ``at`` as the input, or as what the embedding gives."""
    if embedding is None:
        return scored(score, at, rows)
    calls = []

    def swap(module: Any, args: Any, output: Tensor) -> Tensor:
        calls.append(1)
        return at

    handle = embedding.register_forward_hook(swap)
    try:
        value = scored(score, x, rows)
    finally:
        handle.remove()
    if len(calls) != 1:
        raise ValueError(f"score passes x through the embedding once; it did {len(calls)} times")
    return value
