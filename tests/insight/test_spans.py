"""Half-lives that were planted are read back; saturated, latched, dead and duplicate units are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from insight_layers import layer

import tidegate as tg
from tidegate.insight import memory_spans


def planted(T: int, both: bool = False) -> tg.LSTM:
    """The chrono bias ln(T - 1) on the forget gate, and no weights."""
    lstm = tg.LSTM(2, 3, dtype=torch.float64)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
        for bias in (lstm.bias_ih_l0, lstm.bias_hh_l0)[: 2 if both else 1]:
            bias[3:6] = math.log(T - 1)
    return lstm


@pytest.mark.parametrize("T", [10, 100, 500])
def test_chrono_bias_is_read_back(T):
    x = torch.randn(800, 2, 2, dtype=torch.float64)
    true = math.log(0.5) / math.log(1 - 1 / T)
    found = memory_spans(planted(T), x, time=0.5, unit="hour")
    print(f"T = {T}: true {true:.2f}, first lag {found.half_life[0, 0]}, logarithm {found.half_life_log[0, 0]:.4f}")
    np.testing.assert_allclose(found.half_life_log, true, rtol=1e-9)
    assert (found.half_life == math.ceil(true)).all()
    if T == 100:
        np.testing.assert_allclose(found.half_life, 68.97, rtol=0.01)
    np.testing.assert_allclose(found.half_life_time, math.ceil(true) / 2)
    np.testing.assert_allclose(found.retention[5], (1 - 1 / T) ** 5, rtol=1e-12)
    double = memory_spans(planted(T, both=True), x)
    assert (np.abs(double.half_life_log / true - 1) > 0.5).all()


def test_a_gate_at_one_never_forgets():
    lstm = planted(100)
    lstm.bias_ih_l0.data[4] = 80.0
    lstm.bias_ih_l0.data[5] = -800.0
    found = memory_spans(lstm, torch.randn(50, 2, 2, dtype=torch.float64))
    assert found.half_life[0].tolist() == [np.inf, np.inf, 1.0]  # 69 lags are not in 50 steps
    assert found.half_life_log[0, 1] == np.inf
    assert found.half_life_log[0, 2] < 1e-2
    assert found.longest_lag == 49


def test_median_not_mean():
    """A gate that is open at two steps of three: the mean of f overstates how long is remembered."""
    lstm = planted(100)
    lstm.weight_ih_l0.data[3:6, 0] = 1.0
    lstm.bias_ih_l0.data[3:6] = 0.0
    x = torch.full((300, 1, 2), 6.0, dtype=torch.float64)
    x[::3] = -1.0
    found = memory_spans(lstm, x)
    f = torch.sigmoid(x[:, 0, 0])
    assert (found.half_life == 2).all()  # of three starts two are followed by the closed gate within two steps
    np.testing.assert_allclose(found.half_life_log, math.log(0.5) / f.log().mean(), rtol=1e-9)
    assert math.log(0.5) / math.log(f.mean()) > 1.5 * found.half_life_log[0, 0]


def test_retention_stops_at_resets_and_ends():
    lstm = planted(10)
    lstm.weight_ih_l0.data[3:6, 0] = 1.0
    x = torch.randn(40, 2, 2, dtype=torch.float64)
    reset = torch.zeros(40, 2, dtype=torch.bool)
    reset[20] = True
    found = memory_spans(lstm, x, reset=reset, lengths=torch.tensor([40, 33]))
    parts = [memory_spans(lstm, x[a:b, [r]]) for a, b, r in ((0, 20, 0), (20, 40, 0), (0, 20, 1), (20, 33, 1))]
    f = lstm.trace(x).layers[0].forget[:, :, 0].detach()
    pairs = [f[t + 1, r] for a, b, r in ((0, 20, 0), (20, 40, 0), (0, 20, 1), (20, 33, 1)) for t in range(a, b - 1)]
    np.testing.assert_allclose(found.retention[1, 0], torch.stack(pairs).median(0).values)
    assert np.isnan(found.retention[20:]).all()
    assert max(p.longest_lag for p in parts) == 19


def test_kinds_of_units():
    lstm = layer(3, 6)
    H = 6
    with torch.no_grad():
        lstm.weight_hh_l0[:, :] = 0
        for rows in (lstm.weight_ih_l0, lstm.bias_ih_l0, lstm.bias_hh_l0):
            rows.view(4, H, *rows.shape[1:])[:, 1] = rows.view(4, H, *rows.shape[1:])[:, 0]  # unit 1 repeats unit 0
        lstm.bias_ih_l0.view(4, H)[2, 1] += 0.0
        lstm.bias_ih_l0.view(4, H)[1, 2] = 9.0  # unit 2: f stays open
        lstm.weight_ih_l0.view(4, H, 3)[3, 3] = 0
        lstm.bias_ih_l0.view(4, H)[3, 3] = -20.0  # unit 3: o stays shut
        lstm.bias_ih_l0.view(4, H)[0, 4] = 20.0  # unit 4: i stays open
        lstm.weight_ih_l0.view(4, H, 3)[0, 4] = 0
    found = memory_spans(lstm, torch.randn(200, 3, 3, dtype=torch.float64))
    assert found.duplicate[0].tolist() == [1, 0, -1, -1, -1, -1]
    assert found.latched[0].tolist() == [False, False, True, False, False, False]
    assert found.dead[0].tolist() == [False, False, False, True, False, False]
    assert found.high[0, 0, 4] == found.low[2, 0, 3] == found.high[1, 0, 2] == 1.0
    assert found.low[0, 0, 4] == 0.0
    frame = memory_spans(lstm, torch.randn(20, 3, 3, dtype=torch.float64), time=15.0, unit="minute").to_frame()
    assert len(frame) == 6
    assert frame["half_life_minute"].to_list() == [15.0 * k for k in frame["half_life"]]


def test_zoneout_counts():
    lstm = planted(10)
    lstm.zoneout = (0.0, 0.5)
    found = memory_spans(lstm, torch.randn(50, 2, 2, dtype=torch.float64))
    np.testing.assert_allclose(found.retention[1], 0.5 + 0.5 * 0.9)


def test_both_directions():
    lstm = layer(3, 4, bidirectional=True)
    x = torch.randn(60, 2, 3, dtype=torch.float64)
    found = memory_spans(lstm, x)
    turned = tg.LSTM(3, 4, dtype=torch.float64).eval()
    turned.load_state_dict({n: getattr(lstm, n + "_reverse") for n in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")})  # fmt: skip  # noqa: E501
    alone = memory_spans(turned, x.flip(0))
    np.testing.assert_allclose(found.retention[:, 1], alone.retention[:, 0], rtol=1e-9)


def test_dead_is_what_is_shown_after_layer_norm():
    """A unit whose gain is 0 shows nothing, however its c moves."""
    lstm, x = layer(3, 4, layer_norm=True, bidirectional=True), torch.randn(200, 3, 3, dtype=torch.float64)
    lstm.norm_c_l0.data[:, 1] = 0.0
    found = memory_spans(lstm, x)
    shown = lstm(x)[0].detach().unflatten(-1, (2, 4)).flatten(0, 1).std(0)
    np.testing.assert_array_equal(found.dead, shown < 1e-3)
    assert found.dead.tolist() == [[False, True, False, False], [False] * 4]


def test_the_median_of_an_even_number_lies_between_the_middle_two():
    lstm = planted(10)
    lstm.weight_ih_l0.data[3:6, 0] = 1.0
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    found = memory_spans(lstm, x)
    f = lstm.trace(x).layers[0].forget[1, :, 0].detach()  # (B, H)
    np.testing.assert_allclose(found.retention[1, 0], np.median(f, 0), rtol=1e-12)
