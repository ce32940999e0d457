"""Second derivatives of a loss that is not linear in the output, where d_output itself depends on x."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_close

import tidegate as tg
from tidegate import ops


@pytest.mark.parametrize("layers", [1, 2])
def test_gradient_penalty(layers):
    lstm = tg.LSTM(3, 5, layers, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for backend in ("native", "reference"):
        with ops.use_backend(backend):
            loss = (lstm(x)[0] ** 2).sum()
            [slope] = torch.autograd.grad(loss, x, create_graph=True)
            found.append(torch.autograd.grad(slope.pow(2).sum(), [x, *lstm.parameters()]))
    for fast, slow in zip(*found, strict=True):
        assert_close(fast, slow, 1e-10, "second derivative")


def test_of_no_steps_there_is_none():
    lstm = tg.LSTM(3, 5)
    x = torch.zeros(0, 2, 3, requires_grad=True)
    [slope] = torch.autograd.grad(lstm(x)[0].sum(), x, create_graph=True)
    assert slope.shape == x.shape
