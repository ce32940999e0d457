"""The ledger is complete, says what was written, and stays so for outputs."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from insight_layers import OPTIONS, layer, state

import tidegate as tg
from tidegate.insight import ledger, output_ledger

MODULE = sys.modules["tidegate.insight.ledger"]
LIMIT = {torch.float64: 1e-12, torch.float32: 1e-5}


def long_ledger(dtype: torch.dtype, ends=None) -> tg.insight.Ledger:
    """T = 1000, H = 128, both directions, c_0, lengths and resets."""
    lstm = tg.LSTM(8, 128, bidirectional=True, dtype=dtype, init=tg.init.chrono(1000))
    x, reset = torch.randn(1000, 3, 8, dtype=dtype), torch.zeros(1000, 3, dtype=torch.bool)
    reset[400, 0] = reset[0, 1] = reset[600, 1] = reset[950, 1] = True  # the last is padding
    return ledger(lstm, x, ends, hx=state(lstm, 3), lengths=torch.tensor([1000, 700, 300]), reset=reset)


@pytest.mark.parametrize("dtype", LIMIT)
def test_complete(dtype):
    found = long_ledger(dtype)
    assert found.error < LIMIT[dtype]
    assert np.abs(found.initial[0, 2]).min() > 0  # no reset in this row: c_0 has its share
    assert (found.initial[0, :2, 0] == 0).all()  # a reset leaves nothing of c_0
    assert (found.initial[0, :2, 1] == 0).all()
    assert (found.entries[0, :400, 0, 0] == 0).all()
    assert (found.entries[0, 400:, 0, 1] == 0).all()
    assert (found.entries[0, 300:, 2] == 0).all()  # padding writes nothing
    assert np.abs(found.entries[0, 0, 2, 0]).max() > 0


def test_complete_at_other_times():
    found = long_ledger(torch.float64, [0, 399, 400, 650, 999])
    assert found.error < 1e-12
    assert (found.entries[1, 400:, :, 0] == 0).all()  # the forward memory knows nothing of later steps
    assert (found.entries[1, :399, :, 1] == 0).all()  # nor the backward one of earlier ones


@torch.no_grad()
def test_other_times_are_the_layers_own():
    """The memory taken apart at a step is that of each direction after that step, not after its mirror image."""
    lstm, x = layer(3, 5, bidirectional=True), torch.randn(9, 2, 3, dtype=torch.float64)
    cell = tg.insight.trace(lstm, x).layers[0].cell
    found = ledger(lstm, x, [2, 7])
    for n, end in enumerate((2, 7)):
        np.testing.assert_allclose(found.memory[n], cell[end], rtol=1e-12)
        assert not found.entries[n, end + 1 :, :, 0].any()
        assert not found.entries[n, :end, :, 1].any()


@torch.no_grad()
def test_memory_is_the_layers():
    """The memory that entries add up to is c_n, and c of a call that stops at the end time."""
    lstm = layer(3, 12, bidirectional=True)
    x, lengths = torch.randn(30, 3, 3, dtype=torch.float64), torch.tensor([30, 0, 17])
    hx = state(lstm, 3)
    found = ledger(lstm, x, hx=hx, lengths=lengths)
    _, (_, c_n) = lstm(x, hx, lengths)
    np.testing.assert_allclose(found.memory[0].swapaxes(0, 1), c_n, rtol=1e-12)
    part = ledger(lstm, x, [9], hx=hx, lengths=lengths)
    _, (_, c_9) = lstm(x[:10], hx, lengths.clamp(max=10))
    np.testing.assert_allclose(part.memory[0, :, 0], c_9[0], rtol=1e-12)


def include_own(F: torch.Tensor) -> torch.Tensor:
    return F.flip(0).cumprod(0).flip(0)


def drop_initial(F: torch.Tensor, left: torch.Tensor, c_0: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(c_0)


def keep_order(values: torch.Tensor, direction: int) -> torch.Tensor:
    return values


@pytest.mark.parametrize(
    ("name", "mutant"), [("retention", include_own), ("initial_share", drop_initial), ("along", keep_order)]
)
def test_mutants_do_not_add_up(name, mutant, monkeypatch):
    """F_t in its own product, c_0 dropped, the backward direction not reversed: each leaves a gap."""
    monkeypatch.setattr(MODULE, name, mutant)
    assert long_ledger(torch.float64).error > 1e-3


@pytest.mark.parametrize("name", OPTIONS)
def test_complete_with_options(name):
    lstm = layer(3, 12, **OPTIONS[name])
    x = torch.randn(4, 30, 3) if lstm.batch_first else torch.randn(30, 4, 3)
    reset = torch.rand(x.shape[:2]) < 0.05
    for number in range(lstm.num_layers):
        found = ledger(
            lstm, x.double(), layer=number, hx=state(lstm, 4), lengths=torch.tensor([30, 21, 0, 7]), reset=reset
        )
        assert found.error < 1e-12


def adder() -> tg.LSTM:
    """One unit that adds the first input where the second one marks it; nothing is learnt.

    i opens on the mark, g is the tanh of a small share of the number, f and o stay open.
    """
    lstm = tg.LSTM(2, 1, dtype=torch.float64)
    far, small = 40.0, 1e-3
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
        lstm.weight_ih_l0[0, 1], lstm.bias_ih_l0[0] = 2 * far, -far
        lstm.bias_ih_l0[1] = lstm.bias_ih_l0[3] = far
        lstm.weight_ih_l0[2, 0] = small
    return lstm


def test_adder_is_read_off():
    """Hochreiter & Schmidhuber's adding problem: the ledger names the two marked steps and their numbers."""
    numbers, marks = torch.rand(100, 5, dtype=torch.float64), torch.zeros(100, 5, dtype=torch.float64)
    places = torch.stack([torch.randperm(100)[:2] for _ in range(5)])  # (B, 2)
    for row, (a, b) in enumerate(places):
        marks[a, row] = marks[b, row] = 1.0
    lstm = adder()
    found = ledger(lstm, torch.stack([numbers, marks], -1))
    entries = found.entries[0, :, :, 0, 0]  # (T, B)
    marked = np.abs(entries[marks.numpy() == 1]).sum()
    share = marked / np.abs(entries).sum()
    print(f"share of the marks: {share:.12f}")
    assert share > 0.999
    recovered = np.arctanh(np.take_along_axis(entries, places.T.numpy(), 0)) / 1e-3
    np.testing.assert_allclose(recovered, np.take_along_axis(numbers.numpy(), places.T.numpy(), 0), rtol=1e-9)
    total = entries.sum(0) / 1e-3
    np.testing.assert_allclose(total, (numbers * marks).sum(0), rtol=1e-6)


def head_for(lstm: tg.LSTM, outputs: int = 1) -> torch.nn.Linear:
    return torch.nn.Linear(lstm.output_size, outputs, dtype=torch.float64)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("readout", ["mean over steps", "last of each row", "memory"])
def test_output_shares_add_up(name, readout):
    """For readouts that are linear in h or c, all that is left over is the head's bias."""
    lstm = layer(3, 12, **OPTIONS[name])
    head, hx = head_for(lstm), state(lstm, 4)
    x = torch.randn(30, 4, 3, dtype=torch.float64)
    reset, lengths = torch.rand(30, 4) < 0.05, torch.tensor([30, 20, 1, 7])
    if lstm.batch_first:
        x, reset = x.transpose(0, 1), reset.t()

    def score(x):
        y, (h_n, c_n) = lstm(x, hx, lengths, reset)
        if readout == "memory":
            return c_n[-1].sum(-1)
        if readout == "last of each row":
            return head(h_n[-lstm.directions :].transpose(0, 1).flatten(1))[:, 0]
        return head(y.mean(1 if lstm.batch_first else 0))[:, 0]

    found = output_ledger(lstm, x, score)
    np.testing.assert_allclose(found.value, score(x).detach().numpy(), rtol=1e-12)
    bias = 0.0 if readout == "memory" else head.bias.item()
    np.testing.assert_allclose(found.rest, bias, atol=1e-12)
    assert (found.by_step()[7:, 3] == 0).all()


def test_output_share_is_the_issue_formula():
    """For a linear head on the last step: W [o_T * (tanh(C_T) / C_T) * entry]."""
    lstm, x = layer(3, 12), torch.randn(30, 4, 3, dtype=torch.float64)
    head = head_for(lstm)
    found = output_ledger(lstm, x, lambda x: head(lstm(x)[0][-1])[:, 0])
    [traced] = lstm.trace(x).layers
    o, c = (t[-1, :, 0].detach().numpy() for t in (traced.output, traced.cell))
    expected = head.weight.detach().numpy()[0] * o * np.tanh(c) / c * ledger(lstm, x).entries[0, :, :, 0]
    np.testing.assert_allclose(found.shares[:, :, 0], expected, rtol=1e-11)


def test_output_with_layer_norm_leaves_its_bias():
    lstm = layer(3, 12, layer_norm=True)
    lstm.norm_c_l0.data[1] = 0.3
    x, head = torch.randn(30, 4, 3, dtype=torch.float64), head_for(lstm)
    found = output_ledger(lstm, x, lambda x: head(lstm(x)[0][-1])[:, 0])
    shown = (lstm.trace(x).layers[0].output[-1, :, 0] * np.tanh(0.3)).detach()
    np.testing.assert_allclose(found.rest, head(shown)[:, 0].detach(), rtol=1e-10)


def test_one_call_is_asked_for():
    lstm, x = layer(3, 4), torch.randn(5, 2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="it was called never"):
        output_ledger(lstm, x, lambda x: x.sum((0, 2)))
    with pytest.raises(ValueError, match="it was called 2 times"):
        output_ledger(lstm, x, lambda x: lstm(x)[0][-1, :, 0] + lstm(x)[0][-1, :, 1])
    with pytest.raises(ValueError, match="one number a row"):
        output_ledger(lstm, x, lambda x: lstm(x)[0][-1])
    with pytest.raises(ValueError, match="from 0 to 4; given 5"):
        ledger(lstm, x, [5])


def test_by_lag_and_frame():
    lstm = layer(3, 4, bidirectional=True)
    x, lengths = torch.randn(6, 2, 3, dtype=torch.float64), torch.tensor([6, 4])
    found = ledger(lstm, x, lengths=lengths)
    lags, mean = found.by_lag()
    assert lags.tolist() == [0, 1, 2, 3, 4, 5]
    size = np.abs(found.entries[0]).mean(-1)  # (T, B, D)
    np.testing.assert_allclose(mean[1, 0], (size[4, 0, 0] + size[2, 1, 0]) / 2)
    np.testing.assert_allclose(mean[1, 1], (size[1, 0, 1] + size[1, 1, 1]) / 2)
    np.testing.assert_allclose(mean[5], size[[5 - 5, 5], 0, [0, 1]])
    frame = found.to_frame()
    assert len(frame) == 10 * 2 * 4
    one = frame.filter(step=2, row=1, direction="forward", unit=3)
    assert one["entry"].to_list() == [found.entries[0, 2, 1, 0, 3]]
    assert one["end"].to_list() == [3]


def test_lags_of_an_end_past_a_row_are_from_its_last_step():
    lstm = layer(3, 4, bidirectional=True)
    x, lengths = torch.randn(6, 3, 3, dtype=torch.float64), torch.tensor([6, 4, 0])
    found = ledger(lstm, x, [5], lengths=lengths)
    lags, mean = found.by_lag()
    size = np.abs(found.entries[0]).mean(-1)  # (T, B, D)
    assert lags.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(mean[0, 0], (size[5, 0, 0] + size[3, 1, 0]) / 2)
    np.testing.assert_allclose(mean[3, 0], (size[2, 0, 0] + size[0, 1, 0]) / 2)
    np.testing.assert_allclose(mean[0, 1], size[5, 0, 1])  # backward, the shorter rows are not read by then
