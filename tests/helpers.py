"""Comparisons that the tests share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tidegate.ops.library import library, missing

needs_native = pytest.mark.skipif(library() is None, reason=missing() or "the kernels are there")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float | None = None, what: str = "") -> None:
    """Relative tolerance, plus the same times the largest expected value."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, expected {expected.dtype}"
    if expected.numel() == 0:
        return
    tolerance = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    largest = expected.detach().abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * largest, msg=lambda m: f"{what}: {m}")


def gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a fixed random projection of the outputs; zeros where an input plays no part."""
    generator = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=torch.float64)
    for y in outputs:
        loss = loss + (y * torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)).sum().double()
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]
