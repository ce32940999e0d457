"""Gradient norms by lag, against a loop over the equations and against the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from insight_layers import OPTIONS, layer

import tidegate as tg
from tidegate.cell import _norm_cell
from tidegate.insight import gradient_flow


def by_hand(lstm: tg.LSTM, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Norms of dL/dh_t and dL/dc_t for L the sum of the last h, with every memory a node of its own."""
    w = lstm.weights(0)[0]
    h, c = (torch.zeros(x.shape[1], n, dtype=x.dtype) for n in (lstm.state_size, lstm.hidden_size))
    hs, cs = [], []
    for x_t in x:
        a = x_t @ w.ih.t() + h @ w.hh.t() + w.b_ih + w.b_hh
        if w.norm_ih is not None:
            norm = torch.nn.functional.layer_norm
            size = a.shape[-1:]
            a = norm(x_t @ w.ih.t(), size, w.norm_ih) + norm(h @ w.hh.t(), size, w.norm_hh) + w.b_ih + w.b_hh
        i, f, g, o = a.chunk(4, -1)
        if w.ch is not None:
            i, f = i + c * w.ch[0], f + c * w.ch[1]
        c = (f.sigmoid() * c + i.sigmoid() * g.tanh()).requires_grad_()
        cs.append(c)
        if w.ch is not None:
            o = o + c * w.ch[2]
        h = o.sigmoid() * torch.tanh(c if w.norm_c is None else _norm_cell(c, w.norm_c))
        if w.hr is not None:
            h = h @ w.hr.t()
        hs.append(h)
    d_h, d_c = (torch.autograd.grad(hs[-1].sum(), s, retain_graph=True) for s in (hs, cs))
    return tuple(np.array([float(g.norm(dim=-1).mean()) for g in reversed(gs)]) for gs in (d_h, d_c))


@pytest.mark.parametrize("name", ["plain", "peephole", "layer norm", "projection"])
def test_against_a_loop(name):
    lstm = layer(3, 6, scale=2.0, **(OPTIONS[name] | {"bidirectional": False}))
    x = torch.randn(15, 2, 3, dtype=torch.float64)
    found = gradient_flow(lstm, x)
    hidden, cell = by_hand(lstm, x)
    np.testing.assert_allclose(found.hidden, hidden, rtol=1e-9)
    np.testing.assert_allclose(found.cell, cell, rtol=1e-9)


def test_a_carried_state_is_read():
    """The second half after the memory of the first has the gradients of the whole at its lags."""
    lstm, x = layer(3, 6, scale=2.0), torch.randn(12, 2, 3, dtype=torch.float64)
    whole = gradient_flow(lstm, x)
    with torch.no_grad():
        _, carried = lstm(x[:6])
    half = gradient_flow(lstm, x[6:], hx=carried)
    for name in ("hidden", "cell", "memory_path"):
        np.testing.assert_allclose(getattr(half, name), getattr(whole, name)[:6], rtol=1e-9)


def test_closed_form():
    """Where the gates see no memory, the gradient by c is the product of the forget gates."""
    lstm, x = layer(3, 6), torch.randn(40, 2, 3, dtype=torch.float64)
    found = gradient_flow(lstm, x)
    assert np.abs(found.cell / found.memory_path - 1).max() > 0.01
    lstm.weight_hh_l0.data.zero_()
    found = gradient_flow(lstm, x)
    np.testing.assert_allclose(found.cell, found.memory_path, rtol=1e-12)
    assert found.memory_path[0] > 0


def test_beside_the_rnn():
    """With open forget gates the LSTM's gradient reaches back where the RNN's has vanished."""
    lstm = tg.LSTM(3, 32, init=tg.init.chrono(100))
    found = gradient_flow(lstm, torch.randn(100, 2, 3), tg.RNN(3, 32))
    print(f"at lag 90: LSTM {found.cell[90] / found.cell[0]:.2e}, RNN {found.rnn[90] / found.rnn[0]:.2e} of lag 0")
    assert found.cell[90] / found.cell[0] > 1e6 * found.rnn[90] / found.rnn[0]
    assert found.to_frame().columns == ["lag", "hidden", "cell", "memory_path", "rnn"]


def test_rnn_against_a_loop():
    rnn, x = tg.RNN(3, 5, dtype=torch.float64), torch.randn(8, 2, 3, dtype=torch.float64)
    [w] = rnn.weights(0)
    h, hs = torch.zeros(2, 5, dtype=torch.float64), []
    for x_t in x:
        h = torch.tanh(x_t @ w.ih.t() + h @ w.hh.t() + w.b_ih + w.b_hh)
        hs.append(h)
    grads = torch.autograd.grad((hs[-1] ** 2).sum(), hs)
    expected = [float(g.norm(dim=-1).mean()) for g in reversed(grads)]
    found = gradient_flow(layer(3, 4), x, rnn, loss=lambda y: (y[-1] ** 2).sum())
    np.testing.assert_allclose(found.rnn, expected, rtol=1e-9)


def test_stacks_and_refusals():
    lstm = layer(3, 4, num_layers=2, batch_first=True)
    assert len(gradient_flow(lstm, torch.randn(2, 9, 3, dtype=torch.float64)).rnn) == 9
    with pytest.raises(ValueError, match="bidirectional"):
        gradient_flow(layer(3, 4, bidirectional=True), torch.randn(9, 2, 3, dtype=torch.float64))


def test_the_rnn_beside_it_is_always_the_same():
    lstm, x = layer(3, 4), torch.randn(9, 2, 3, dtype=torch.float64)
    before = torch.get_rng_state()
    found = [gradient_flow(lstm, x).rnn for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(*found)
