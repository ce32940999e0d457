"""Integrated gradients: complete, exact where it must be, silent on padding, equal to captum's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import needs_native
from insight_layers import OPTIONS, layer

import tidegate as tg
from tidegate import ops
from tidegate.insight import attribute

LENGTHS = torch.tensor([15, 4, 0, 9])


def numbers() -> torch.Tensor:
    x = torch.randn(15, 4, 3, dtype=torch.float64)
    x[4:, 1] = torch.nan
    return x


@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "reference"])
@pytest.mark.parametrize("name", OPTIONS)
def test_complete(name, backend):
    lstm = layer(3, 8, scale=2.0, **OPTIONS[name])
    head = torch.nn.Linear(lstm.output_size, 1, dtype=torch.float64)
    x, turn = numbers(), lstm.batch_first
    x = x.transpose(0, 1) if turn else x

    def score(x):
        y = lstm(x, lengths=LENGTHS)[0]
        return head(y.sum(1 if turn else 0))[:, 0]

    with ops.use_backend(backend):
        found = attribute(score, x, lengths=LENGTHS, batch_first=turn)
    total = found.shares.sum((1, 2) if turn else (0, 2))
    moved = found.value - found.baseline_value
    print(f"{name}: completeness error {np.abs(found.error).max():.1e} of {np.abs(moved).max():.2f}")
    np.testing.assert_allclose(total - moved, found.error, atol=1e-14)
    if not lstm.layer_norm:  # near a constant input layer norm jumps, which no rule of 64 points follows
        assert np.abs(found.error).max() < 1e-6
    assert np.abs(moved[[0, 1, 3]]).min() > 1e-3
    by_row = found.shares if turn else found.shares.swapaxes(0, 1)
    for row, length in enumerate(LENGTHS):
        assert (by_row[row, int(length) :] == 0).all()
        assert (by_row[row, : int(length)] != 0).all()


def test_error_says_what_is_missing():
    """Few points give a large error, and the error is the true one."""
    lstm, x = layer(3, 8, scale=6.0), torch.randn(15, 4, 3, dtype=torch.float64)

    def score(x):
        return lstm(x)[0][-1].sum(-1)

    rough, fine = attribute(score, x, points=2), attribute(score, x, points=256)
    assert np.abs(rough.error).max() > 1e-2
    assert np.abs(fine.error).max() < 1e-8
    np.testing.assert_allclose(rough.by_step().sum(0) - fine.by_step().sum(0), rough.error, atol=1e-7)


def test_exact_on_a_linear_model():
    w = torch.randn(6, 3, dtype=torch.float64)
    x, b = torch.randn(6, 2, 3, dtype=torch.float64), torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
    found = attribute(lambda x: (x * w[:, None]).sum((0, 2)), x, baseline=b, points=1)
    np.testing.assert_allclose(found.shares, (x - b) * w[:, None], rtol=1e-12)
    assert np.abs(found.error).max() < 1e-13


def test_baselines():
    x = numbers()
    lstm = layer(3, 8)

    def score(x):
        return lstm(x, lengths=LENGTHS)[1][0][-1].sum(-1)

    found = attribute(score, x, lengths=LENGTHS)
    valid = torch.arange(15)[:, None] < LENGTHS
    mean = x[valid].mean(0)
    same = attribute(score, x, lengths=LENGTHS, baseline=mean)
    np.testing.assert_allclose(found.shares, same.shares, rtol=1e-10)
    held = attribute(score, x, lengths=LENGTHS, fixed=[False, True, False])
    assert (held.shares[..., 1] == 0).all()
    assert np.abs(held.error).max() < 1e-8
    assert np.abs(held.shares[..., 0] - found.shares[..., 0]).max() > 1e-6


def test_randomised_weights_change_it():
    """A sanity check (Adebayo et al. 2018): shares must depend on what the model has learnt."""
    x, found = torch.randn(15, 4, 3, dtype=torch.float64), []
    lstm = layer(3, 8)
    for _ in range(6):
        found.append(attribute(lambda x: lstm(x)[0][-1].sum(-1), x).shares.ravel())
        lstm.reset_parameters()
    apart = np.abs(np.corrcoef(found)[0, 1:])
    assert apart.mean() < 0.6


@pytest.mark.parametrize("forgets", [True, False])
def test_counts_what_the_gates_do(forgets):
    """A step that only shuts the forget gate, which the ledger gives nothing, gets a share."""
    lstm = tg.LSTM(2, 1, dtype=torch.float64)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
        lstm.weight_ih_l0[1, 1] = -8.0 if forgets else 0.0
        lstm.bias_ih_l0[1] = 4.0
        lstm.weight_ih_l0[2, 0] = 1.0
        lstm.bias_ih_l0[0] = lstm.bias_ih_l0[3] = 40.0
    x = torch.zeros(20, 1, 2, dtype=torch.float64)
    x[:, 0, 0], x[12, 0] = 0.1, torch.tensor([0.0, 1.0])
    found = attribute(lambda x: lstm(x)[0][-1, :, 0], x, baseline=torch.zeros(2))
    assert (found.shares[12, 0, 1] < -0.05) == forgets


def test_tokens():
    embed, lstm = torch.nn.Embedding(9, 5, dtype=torch.float64), layer(5, 8, batch_first=True)
    tokens, lengths = torch.randint(9, (3, 7)), torch.tensor([7, 2, 5])

    def score(tokens):
        return lstm(embed(tokens), lengths=lengths)[1][0][-1].sum(-1)

    found = attribute(score, tokens, embedding=embed, lengths=lengths, batch_first=True, baseline=3)
    direct = attribute(
        lambda x: lstm(x, lengths=lengths)[1][0][-1].sum(-1),
        embed(tokens),
        lengths=lengths,
        batch_first=True,
        baseline=embed.weight[3].detach(),
    )
    np.testing.assert_allclose(found.shares, direct.shares, rtol=1e-10)
    assert np.abs(found.error).max() < 1e-10
    assert (found.by_step()[tokens.numpy() == 3] == 0).all()
    assert (found.by_step()[1, 2:] == 0).all()
    assert len(found.to_frame()) == 3 * 7 * 5
    with pytest.raises(TypeError, match="tokens with the embedding"):
        attribute(score, tokens)


@pytest.mark.parametrize("options", ["plain", "both directions, two layers"])
def test_agrees_with_captum(options):
    captum = pytest.importorskip("captum.attr")
    lstm = layer(3, 8, batch_first=True, **OPTIONS[options])
    x, b = torch.randn(4, 15, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    def score(x):
        return lstm(x)[0][:, -1].sum(-1)

    found = attribute(score, x, baseline=b, batch_first=True, points=50)
    theirs = captum.IntegratedGradients(score).attribute(x, b.expand_as(x), n_steps=50, method="gausslegendre")
    apart = np.abs(found.shares - theirs.numpy()).max()
    print(f"{options}: apart from captum's by {apart:.1e}")
    assert apart < 1e-7  # captum keeps its nodes and weights in float32
