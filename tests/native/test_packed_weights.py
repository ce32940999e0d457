"""Weights that stay packed between calls and steps are never stale."""

from __future__ import annotations

import copy

import pytest
import torch
from streams import H, I, afresh, kept, kept_whole, layer, stepped, whole

import tidegate as tg
from tidegate import ops


def fused_adam(lstm):
    optimiser = torch.optim.Adam(lstm.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        lstm(torch.randn(3, 2, I))[0].sum().backward()
    optimiser.step()


def data_write(lstm):
    lstm.weight_hh_l1.data.mul_(1.5)


def data_doubled(lstm):
    lstm.weight_ih_l0.data.mul_(2)  # which leaves every mantissa as it is


def data_negated(lstm):
    lstm.bias_ih_l1.data.neg_()


def numpy_write(lstm):
    lstm.weight_ih_l0.detach().numpy()[:] += 0.25


def in_place(lstm):
    with torch.no_grad():
        lstm.bias_ih_l0.add_(0.5)


def load(lstm):
    lstm.load_state_dict(layer().state_dict())


def replace(lstm):
    lstm.weight_ih_l0 = torch.nn.Parameter(torch.randn(4 * H, I))


def swap_data(lstm):
    lstm.weight_ih_l0.data = torch.randn(4 * H, I)


def gain_write(lstm):
    lstm.norm_hh_l1.data.mul_(1.5)


def norm_c_write(lstm):
    lstm.norm_c_l0.detach().numpy()[:] += 0.25


def projection_write(lstm):
    lstm.weight_hr_l0.data[:, 3] *= 1.5


CHANGES = [fused_adam, data_write, data_doubled, data_negated, numpy_write, in_place, load, replace, swap_data]
CHANGES += [gain_write, norm_c_write, projection_write]
OPTIONS = {gain_write: {"layer_norm": True}, norm_c_write: {"layer_norm": True}, projection_write: {"proj_size": 7}}


@pytest.mark.parametrize(("read", "keeps"), [(stepped, kept), (whole, kept_whole)], ids=["steps", "whole"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_packed_weights_are_never_stale(change, read, keeps):
    lstm, x = layer(**OPTIONS.get(change, {})), torch.randn(2, 3, I)
    read(lstm, x)
    assert keeps(lstm)
    for _ in range(2):
        change(lstm)
        found, _ = read(lstm, x)
        with torch.no_grad(), ops.use_backend("reference"):
            expected = lstm(x)[0]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("matrix", ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"])
@pytest.mark.parametrize("columns", [40, 45, 128, 192, 256])
def test_steps_see_each_column_that_is_written_past_torchs_counters(dtype, matrix, columns):
    inputs, units = (columns, 16) if matrix == "weight_ih_l0" else (4, columns)
    lstm = tg.LSTM(inputs, units, proj_size=8 if matrix == "weight_hr_l0" else 0, dtype=dtype).eval()
    x = torch.randn(3, 1, inputs).to(dtype)
    for column in range(columns):
        stepped(lstm, x)
        getattr(lstm, matrix).data[:, column] = 0.5
        assert torch.equal(stepped(lstm, x)[0], afresh(lstm, x)[0]), column


@pytest.mark.parametrize("outputs", [0, 7])
def test_every_weight_of_a_whole_sequence_is_looked_at(isa, dtype, outputs):
    """A change of any single one, of its lowest bit alone, is seen, in blocks that are full and in one that is not."""
    lstm, x = layer(dtype, proj_size=outputs), torch.randn(2, 3, I).to(dtype)
    for name, p in lstm.named_parameters():
        words = p.detach().flatten().view({8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]).numpy()
        for at in range(0, len(words), 1 if len(words) < 500 else 3):
            whole(lstm, x)
            before = words[at]
            words[at] ^= 1
            found, expected = whole(lstm, x), afresh(lstm, x)
            assert torch.equal(found[0], expected[0]), (name, at)
            assert torch.equal(found[1].c, expected[1].c), (name, at)
            words[at] = before
    assert kept_whole(lstm)


def negate_all(w):
    w *= -1


def negate_two(w):  # in the upper half of one 64-bit word and of that below it: sums of words stay as they are
    w[0:2, 1] *= -1


def swap_rows(w):
    w[[1, 2]] = w[[2, 1]]


def swap_gates(w):
    w[[0, -1]] = w[[-1, 0]]


def turn_around(w):
    w[:] = w[::-1].copy()


@pytest.mark.parametrize("change", [negate_all, negate_two, swap_rows, swap_gates, turn_around])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"])
def test_changes_that_could_cancel_are_seen(isa, name, change):
    lstm = tg.LSTM(16, 32, proj_size=16 if name == "weight_hr_l0" else 0).eval()  # rows are whole vectors
    x = torch.randn(2, 3, 16)
    before = whole(lstm, x)[0]
    change(getattr(lstm, name).detach().numpy())
    found = whole(lstm, x)[0]
    assert torch.equal(found, afresh(lstm, x)[0])
    assert not torch.equal(found, before)


def test_weights_kept_on_one_instruction_set_are_not_read_on_another(lib):
    lstm, x, before = layer(), torch.randn(2, 3, I), lib.isa
    try:
        for name in [*lib.isas, *reversed(lib.isas)]:
            lib.set_isa(name)
            assert torch.equal(whole(lstm, x)[0], afresh(lstm, x)[0])
    finally:
        lib.set_isa(before)


def test_weights_are_kept_for_evaluation_only():
    lstm, x = layer(), torch.randn(2, 3, I)
    lstm(x)[0].sum().backward()
    assert not kept_whole(lstm)
    whole(lstm, x)
    assert kept_whole(lstm)
    assert not kept_whole(copy.deepcopy(lstm))
    lstm.train()
    assert not kept_whole(lstm)


def test_parameters_made_in_inference_mode_are_packed_afresh():
    with torch.inference_mode():
        lstm = layer()
    x = torch.randn(2, 3, I)
    with torch.inference_mode():
        for _ in range(2):
            lstm.weight_ih_l0.mul_(1.5)
            with ops.use_backend("reference"):
                expected = lstm(x)[0]
            torch.testing.assert_close(stepped(lstm, x)[0], expected)
    assert not kept(lstm)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.weight_norm])
def test_computed_weights_are_packed_afresh(norm):
    lstm = norm(layer(), "weight_hh_l0")
    x = torch.randn(2, 3, I)
    for _ in range(2):
        with torch.no_grad():
            next(p for name, p in lstm.named_parameters() if "original0" in name or name.endswith("_g")).mul_(1.5)
            with ops.use_backend("reference"):
                expected = lstm(x)[0]
        torch.testing.assert_close(stepped(lstm, x)[0], expected)


class Counted(torch.nn.Module):
    read = 0

    def forward(self, weight):
        self.read += 1
        return weight * 1.5


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l1"])
def test_a_call_computes_a_parametrised_weight_once(name, grad):
    """Spectral norm, for one, moves on each time."""
    lstm, x, counted = layer(zoneout=0.1), torch.randn(2, 3, I), Counted()
    torch.nn.utils.parametrize.register_parametrization(lstm, name, counted)
    with torch.set_grad_enabled(grad):
        for call in (lambda: lstm(x), lambda: lstm.step(x[0]), lambda: lstm.step(x[0, 0]), lambda: lstm.trace(x)):
            counted.read = 0
            call()
            assert counted.read == 1


def test_a_copy_and_another_number_of_rows_pack_anew():
    lstm, x = layer(), torch.randn(2, 3, I)
    expected = stepped(lstm, x)[0]
    clone = copy.deepcopy(lstm)
    assert torch.equal(stepped(clone, x)[0], expected)
    assert torch.equal(stepped(lstm, x[:, :1])[0], expected[:, :1])
    assert torch.equal(stepped(lstm, x)[0], expected)
