"""The vanilla RNN's one operation for all steps against the steps recorded one by one."""

from __future__ import annotations

import pytest
import torch

import tidegate as tg
from tidegate.cell import RNNWeights
from tidegate.ops import reference, rnn

T, B, INPUTS, H = 7, 4, 3, 5


def made(directions: int = 1) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g).requires_grad_()

    flat = [draw(*s) for _ in range(directions) for s in ((H, INPUTS), (H, H), (H,), (H,))]
    return draw(T, B, INPUTS), draw(directions, B, H), flat


def packed(flat: list[torch.Tensor]) -> list[RNNWeights]:
    return [RNNWeights(*flat[k : k + 4]) for k in range(0, len(flat), 4)]


@pytest.mark.parametrize(
    ("directions", "lengths", "nonlinearity"),
    [(1, None, "tanh"), (2, None, "tanh"), (2, None, "relu"), (1, [7, 0, 3, 1], "tanh")],
)
def test_equals_the_reference(directions, lengths, nonlinearity):
    x, h_0, flat = made(directions)
    valid = None if lengths is None else torch.tensor(lengths)
    assert rnn.takes(x, packed(flat), valid, None, nonlinearity)
    fast = rnn.rnn_sequence(x, h_0, packed(flat), valid, nonlinearity)
    slow = reference.rnn_sequence(x, h_0, packed(flat), valid, None, nonlinearity)
    torch.testing.assert_close(fast, slow)
    g = torch.Generator().manual_seed(1)
    seen = [torch.randn(t.shape, dtype=t.dtype, generator=g) for t in slow]
    leaves = [x, h_0, *flat]
    torch.testing.assert_close(torch.autograd.grad(fast, leaves, seen), torch.autograd.grad(slow, leaves, seen))


def test_second_derivatives():
    x, h_0, flat = made()
    inputs = [t.detach()[:3, :2].clone().requires_grad_() if t.dim() == 3 else t for t in (x, h_0, *flat)]
    assert torch.autograd.gradgradcheck(
        lambda x, h_0, *flat: rnn.rnn_sequence(x, h_0, packed(list(flat)), None, "tanh"), inputs
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own jvp uses it
def test_forward_derivatives_and_vmap_take_the_recorded_steps():
    layer = tg.RNN(INPUTS, H, dtype=torch.float64)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),))
    step = 1e-6
    torch.testing.assert_close(tangent, (layer(x + step)[0] - layer(x - step)[0]) / (2 * step), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(torch.func.vmap(lambda x: layer(x)[0])(x[None])[0], layer(x)[0])


@pytest.mark.parametrize("frozen", [False, True])
def test_second_derivatives_of_the_module(frozen):
    layer = tg.RNN(INPUTS, H, dtype=torch.float64).requires_grad_(not frozen)
    x = torch.randn(3, 2, INPUTS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x)


def test_second_derivatives_where_the_state_depends_on_the_weights_too():
    layer = tg.RNN(INPUTS, H, dtype=torch.float64)
    x = torch.randn(4, 2, INPUTS, dtype=torch.float64)

    def slope(hh: torch.Tensor, chunks: int) -> torch.Tensor:
        state, loss = None, torch.zeros(())
        for part in x.chunk(chunks):
            output, state = torch.func.functional_call(layer, {"weight_hh_l0": hh}, (part, state))
            loss = loss + output.pow(3).sum()
        [found] = torch.autograd.grad(loss, hh, create_graph=True)
        [second] = torch.autograd.grad(found.pow(2).sum(), hh)
        return second

    hh = layer.weight_hh_l0.detach().clone().requires_grad_()
    torch.testing.assert_close(slope(hh, 2), slope(hh, 1))


def test_steps_equal_the_whole():
    layer = tg.RNN(INPUTS, H, 2, dtype=torch.float64)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    state, outputs = None, []
    for x_t in x:
        output, state = layer.step(x_t, state)
        outputs.append(output)
    whole, after = layer(x)
    torch.testing.assert_close(torch.stack(outputs), whole)
    torch.testing.assert_close(state, after)
    torch.testing.assert_close(layer.step(x[0, 0])[0], whole[0, 0])
