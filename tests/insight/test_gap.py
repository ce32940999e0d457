"""The ledger's honesty figure, against erasing by hand, and where it must be 0 or must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from insight_layers import OPTIONS, layer, state
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import tidegate as tg
from tidegate.cell import lstm_input, lstm_step
from tidegate.insight import ledger, ledger_gap, output_ledger
from tidegate.insight.gap import agreement


def erased_by_hand(lstm: tg.LSTM, x: torch.Tensor, step: int, direction: int) -> torch.Tensor:
    """c at the end (B, H) of a plain layer whose write at one step is left out, step by step."""
    w = lstm.weights(0)[direction]
    h, c = (s[direction] for s in lstm.initial_state(x.shape[1]))
    order = range(len(x))
    for t in reversed(order) if direction else order:
        old_c = c
        h, c, _, f, _, o = lstm_step(lstm_input(x[t], w), h, c, w)
        if t == step:
            c = f * old_c
            h = o * torch.tanh(c)
    return c


@torch.no_grad()
def test_against_erasing_by_hand():
    lstm, x = layer(3, 6, scale=2.0, bidirectional=True), torch.randn(12, 2, 3, dtype=torch.float64)
    found = ledger_gap(lstm, x, [0, 5, 11])
    for k, t in enumerate(found.steps):
        for d in range(2):
            whole = ledger(lstm, x).memory[0, :, d]
            lost = whole - erased_by_hand(lstm, x, t, d).numpy()
            np.testing.assert_allclose(found.erased[k, :, d], lost, rtol=1e-9, atol=1e-13)
        other = x.clone()
        other[t] = x.mean((0, 1))
        lost = ledger(lstm, x).memory[0] - ledger(lstm, other).memory[0]
        np.testing.assert_allclose(found.replaced[k], lost, rtol=1e-9, atol=1e-13)
    assert found.memory["erased"].gap > 0.02  # the gates did move


@pytest.mark.parametrize("name", OPTIONS)
def test_frozen_erasure_is_the_ledger(name):
    lstm = layer(3, 12, **OPTIONS[name])
    x = torch.randn(30, 4, 3, dtype=torch.float64)
    reset, lengths = torch.rand(30, 4) < 0.05, torch.tensor([30, 20, 0, 7])
    if lstm.batch_first:
        x, reset = x.transpose(0, 1), reset.t()
    for number in range(lstm.num_layers):
        found = ledger_gap(lstm, x, layer=number, hx=state(lstm, 4), lengths=lengths, reset=reset)
        np.testing.assert_allclose(found.frozen, found.entry, atol=1e-12, rtol=0)
        assert abs(found.memory["frozen"].slope - 1) < 1e-9
        assert np.isnan(found.entry[found.steps >= 7, 3]).all()
        assert found.memory["erased"].gap < 2.0


@pytest.mark.parametrize("name", ["plain", "both directions, two layers", "projection", "zoneout", "batch first"])
def test_without_recurrence_erasure_is_the_ledger(name):
    """With weight_hh = 0 and no peephole the gates see no memory: a live erasure changes what the ledger says."""
    options = OPTIONS[name] | {"num_layers": 1}
    lstm = layer(3, 12, **options)
    for key, parameter in lstm.named_parameters():
        if key.startswith("weight_hh"):
            parameter.data.zero_()
    x = torch.randn(*((4, 30) if lstm.batch_first else (30, 4)), 3, dtype=torch.float64)
    found = ledger_gap(lstm, x, hx=state(lstm, 4))
    assert found.memory["erased"].gap < 1e-12
    lstm.weight_hh_l0.data.normal_(std=0.3)
    assert ledger_gap(lstm, x).memory["erased"].gap > 1e-3


def test_erased_output_against_the_model():
    """Without recurrence the output after an erasure is that of a memory without the entry."""
    lstm, x = layer(3, 6), torch.randn(20, 2, 3, dtype=torch.float64)
    lstm.weight_hh_l0.data.zero_()
    head = torch.nn.Linear(6, 1, dtype=torch.float64)

    def score(x):
        return head(lstm(x)[0][-1])[:, 0]

    found = ledger_gap(lstm, x, [3, 15, 19], score=score)
    o = lstm.trace(x).layers[0].output[-1, :, 0].detach().numpy()
    memory = ledger(lstm, x).memory[0, :, 0]
    w = head.weight.detach().numpy()[0]
    expected = [(o * (np.tanh(memory) - np.tanh(memory - e))) @ w for e in found.entry[:, :, 0]]
    np.testing.assert_allclose(found.output_erased, expected, rtol=1e-9, atol=1e-14)
    shares = output_ledger(lstm, x, score).by_step()[found.steps]
    np.testing.assert_allclose(found.output_entry, shares, rtol=1e-12)
    other = x.clone()
    other[3] = x.mean((0, 1))
    np.testing.assert_allclose(found.output_replaced[0], (score(x) - score(other)).detach(), rtol=1e-9)


def test_a_token_that_only_forgets():
    """A planted reset token closes the forget gate and writes nothing: only its replacement tells."""
    lstm = tg.LSTM(2, 1, dtype=torch.float64)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
        lstm.weight_ih_l0[1, 1] = -80.0  # the token shuts f
        lstm.bias_ih_l0[1] = 40.0
        lstm.weight_ih_l0[2, 0] = 1.0  # the number is written
        lstm.bias_ih_l0[0] = lstm.bias_ih_l0[3] = 40.0
    x = torch.zeros(20, 1, 2, dtype=torch.float64)
    x[:, 0, 0] = torch.rand(20)
    x[12] = torch.tensor([0.0, 1.0])
    found = ledger_gap(lstm, x, [12], score=lambda x: lstm(x)[0][-1, :, 0], baseline=torch.zeros(2))
    assert found.entry.item() == found.erased.item() == 0.0
    assert found.output_entry.item() == found.output_erased.item() == 0.0
    lost = ledger(lstm, torch.cat([x[:12], 0 * x[:1], x[13:]])).memory.item() - ledger(lstm, x).memory.item()
    assert lost > 1.0
    np.testing.assert_allclose(found.replaced.item(), -lost, rtol=1e-12)
    assert found.memory["replaced"].gap == found.output["replaced"].gap == 1.0
    assert found.memory["erased"].gap == 0.0


def test_random_weights_show_why_it_is_needed():
    """T = 100, random weights: for outputs the ledger and what really happens are far from equal."""
    lstm, x = layer(16, 64, scale=2.0), torch.randn(100, 2, 16, dtype=torch.float64)
    found = ledger_gap(lstm, x, range(60, 100), score=lambda x: lstm(x)[0][-1].sum(-1))
    print(found)
    assert found.output["replaced"].gap > 0.3
    assert str(found).count("slope") == 5
    assert len(found.to_frame()) == 40 * 2 * 64


def test_tokens_and_whole_baselines():
    torch.manual_seed(1)
    embed, lstm = torch.nn.Embedding(5, 3), tg.LSTM(3, 4, batch_first=True).eval()
    tokens = torch.randint(5, (2, 7))
    found = ledger_gap(lstm, tokens, [2], score=lambda t: lstm(embed(t))[0][:, -1].sum(-1), baseline=0)
    other = tokens.clone()
    other[:, 2] = 0
    with torch.no_grad():
        lost = lstm(embed(tokens))[0][:, -1].sum(-1) - lstm(embed(other))[0][:, -1].sum(-1)
    np.testing.assert_allclose(found.output_replaced[0], lost, atol=1e-6)
    with pytest.raises(ValueError, match="give baseline"):
        ledger_gap(lstm, tokens, score=lambda t: lstm(embed(t))[0][:, -1].sum(-1))
    x = torch.randn(2, 7, 3)
    whole = ledger_gap(lstm, x, [2], baseline=x.flip(1))
    single = ledger_gap(lstm, x[:1], [2], baseline=x[0, 4])
    np.testing.assert_allclose(whole.replaced[:, 0], single.replaced[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", [*OPTIONS, "unbatched", "packed"])
@torch.no_grad()
def test_the_final_states_are_those_after_the_erasure(name):
    """A score of h_n is the same function of x as one of the output's last steps, and has the same numbers."""
    lstm = layer(3, 6, scale=2.0, **OPTIONS.get(name, {"num_layers": 2}))
    x, lengths = torch.randn(12, 4, 3, dtype=torch.float64), torch.tensor([12, 7, 1, 5])
    D, rows = lstm.directions, torch.arange(4)
    if name == "unbatched":
        x, lengths, rows = x[:, 0], None, None
    elif lstm.batch_first:
        x = x.transpose(0, 1)

    def run(x):
        if name == "packed":
            return lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return lstm(x, lengths=lengths)

    def by_output(x):
        output, _ = run(x)
        if rows is None:
            return output[-1].sum(-1)
        output = pad_packed_sequence(output)[0] if name == "packed" else output
        output = output.transpose(0, 1) if lstm.batch_first else output
        ahead = output[lengths - 1, rows].unflatten(-1, (D, -1))[:, 0]
        return (torch.cat([ahead, output[0].unflatten(-1, (D, -1))[:, 1]], -1) if D == 2 else ahead).sum(-1)

    found = [ledger_gap(lstm, x, score=score) for score in (by_output, lambda x: run(x)[1].h[-D:].sum(-1).sum(0))]
    for part in ("output_entry", "output_erased", "output_replaced"):
        values = [getattr(one, part) for one in found]
        np.testing.assert_allclose(values[1], values[0], rtol=1e-9, atol=1e-13)
    memory = ledger_gap(lstm, x, score=lambda x: run(x)[1].c[-D:].sum(-1).sum(0))
    np.testing.assert_allclose(memory.output_erased, memory.erased.sum((2, 3)), rtol=1e-9, atol=1e-13)
    assert np.nanmax(np.abs(memory.output_erased)) > 0.01


def test_a_single_sequence_of_a_layer_with_the_batch_first():
    """What stands first in it is time."""
    lstm, x = layer(3, 6, batch_first=True), torch.randn(9, 3, dtype=torch.float64)
    expected = ledger_gap(lstm, x[None], score=lambda x: lstm(x)[0][:, -1].sum(-1))
    found = ledger_gap(lstm, x, score=lambda x: lstm(x)[0][-1].sum(-1))
    for part in ("replaced", "output_replaced", "output_erased"):
        np.testing.assert_allclose(getattr(found, part), getattr(expected, part), rtol=1e-9)
    np.testing.assert_allclose(ledger_gap(lstm, x).replaced, expected.replaced, rtol=1e-9)
    tokens = torch.tensor([4, 1, 2])  # one sequence, embedded
    embed = torch.nn.Embedding(5, 3, dtype=torch.float64)
    found = ledger_gap(lstm, tokens, score=lambda t: lstm(embed(t))[0][-1].sum(-1), baseline=0)
    expected = ledger_gap(lstm, tokens[None], score=lambda t: lstm(embed(t))[0][:, -1].sum(-1), baseline=0)
    np.testing.assert_allclose(found.output_replaced, expected.output_replaced, rtol=1e-9)


def test_agreement():
    entry = np.array([1.0, 2.0, 3.0, np.nan])
    found = agreement(entry, 2 * entry)
    np.testing.assert_allclose(found, [2.0, 1.0, 0.5])
    assert agreement(np.zeros(3), np.zeros(3)).gap == 0.0
    assert agreement(np.ones(3), np.zeros(3)).gap == float("inf")
