"""Single steps: the same bits as whole sequences, and what they are given."""

from __future__ import annotations

import pickle
import time

import pytest
import torch
from streams import H, I, kept, layer, moved, stepped, whole

import tidegate as tg
from tidegate import streaming

OPTIONS = [{}, {"peephole": True, "bias": False}, {"zoneout": (0.2, 0.3)}, {"layer_norm": True}]
OPTIONS += [{"proj_size": 7}, {"proj_size": 7, "layer_norm": True, "zoneout": (0.2, 0.3)}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("B", [1, 7])
def test_steps_have_the_bits_of_the_whole(isa, dtype, options, B):
    lstm = moved(layer(dtype, **options))
    x, reset = torch.randn(9, B, I).to(dtype), torch.rand(9, B) < 0.3
    with torch.no_grad():
        output, state = lstm(x, reset=reset)
    found, last = stepped(lstm, x, reset=reset)
    assert kept(lstm)
    assert torch.equal(found, output)
    assert torch.equal(last.h, state.h)
    assert torch.equal(last.c, state.c)


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("outputs", [0, 220])
def test_steps_of_large_weights_have_the_bits_of_the_whole_on_any_number_of_threads(
    isa, dtype, B, outputs, all_threads
):
    """Several threads read them, from either end."""
    lstm = tg.LSTM(I, 350, proj_size=outputs, dtype=dtype).eval()
    x = torch.randn(40, B, I).to(dtype)
    torch.set_num_threads(1)
    output, state = whole(lstm, x)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        streaming.forget(lstm)
        found, last = stepped(lstm, x)
        assert torch.equal(found, output), count
        assert torch.equal(last.c, state.c), count


def test_steps_after_pauses_and_close_behind_each_other_have_the_bits_of_the_whole(threads):
    """One thread or several take them, whichever is faster at the time."""
    torch.set_num_threads(2)
    lstm, x = tg.LSTM(I, 350).eval(), torch.randn(300, 1, I)
    output, state = whole(lstm, x)[0], None
    with torch.no_grad():
        for t in range(len(x)):
            if t % 100 == 0:
                time.sleep(0.02)
            found, state = lstm.step(x[t], state)
            assert torch.equal(found, output[t]), t


def test_a_layer_that_has_stepped_can_be_pickled():
    lstm, x = layer(), torch.randn(2, 3, I)
    expected = stepped(lstm, x)[0]
    assert torch.equal(stepped(pickle.loads(pickle.dumps(lstm)), x)[0], expected)


def test_hooks_still_see_steps():
    lstm, seen = layer(), []
    lstm.register_forward_hook(lambda *_: seen.append(1))
    stepped(lstm, torch.randn(2, 3, I))
    assert len(seen) == 2


def test_steps_with_gradients_keep_them():
    lstm = layer()
    output, _ = lstm.step(torch.randn(3, I))
    output.sum().backward()
    assert lstm.weight_hh_l0.grad is not None


@torch.no_grad()
def test_steps_of_a_single_stream_keep_the_weights_packed():
    lstm, x = layer(), torch.randn(4, I)
    alone, state = stepped(lstm, x)
    plan = vars(lstm)["_plan"]
    rows, after = stepped(lstm, x[:, None])
    assert vars(lstm)["_plan"] is plan
    assert torch.equal(alone, rows[:, 0])
    assert torch.equal(torch.stack(state), torch.stack(after)[:, :, 0])
    again, _ = lstm.step(x[0], state, torch.tensor(True))
    assert torch.equal(again, alone[0])
    assert vars(lstm)["_plan"] is plan


@torch.no_grad()
def test_zoneout_that_is_changed_between_steps():
    lstm, x = layer(zoneout=0.1), torch.randn(3, 2, I)
    stepped(lstm, x)
    lstm.zoneout = (0.5, 0.7)
    assert torch.equal(stepped(lstm, x)[0], whole(lstm, x)[0])


@torch.no_grad()
def test_a_weight_that_is_parametrised_between_steps():
    lstm, x = layer(), torch.randn(3, 2, I)
    before, _ = stepped(lstm, x)
    torch.nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    torch.testing.assert_close(stepped(lstm, x)[0], before)


@torch.no_grad()
def test_hooks_on_all_modules_see_steps():
    lstm, seen = layer(), []
    lstm.step(torch.randn(2, I))
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        lstm.step(torch.randn(2, I))
    finally:
        handle.remove()
    assert lstm in seen


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ((torch.zeros(2, 3, H), torch.zeros(2, 3, H, device="meta")), ValueError, "c_0 .*given meta, expected cpu"),
        (torch.zeros(2, 2, 3, H), TypeError, r"pair \(h_0, c_0\); given Tensor"),
        (5, TypeError, r"pair \(h_0, c_0\); given int"),
    ],
    ids=["elsewhere", "tensor", "number"],
)
@pytest.mark.parametrize("grad", [False, True])
def test_states_that_a_step_refuses(given, kind, said, grad):
    lstm = layer()
    with torch.set_grad_enabled(grad):
        lstm.step(torch.zeros(3, I))
        with pytest.raises(kind, match=said):
            lstm.step(torch.zeros(3, I), given)


@pytest.mark.parametrize("grad", [False, True])
def test_a_step_takes_the_same_resets_with_gradients_and_without(grad):
    lstm, x = layer(), torch.randn(2, I)
    state = tg.State(torch.randn(2, 2, H), torch.randn(2, 2, H))
    with torch.set_grad_enabled(grad):
        expected = lstm.step(x, state, torch.tensor([True, False]))[0]
        assert torch.equal(lstm.step(x, state, [True, False])[0], expected)
        with pytest.raises(TypeError, match="reset is a bool tensor"):
            lstm.step(x, state, torch.tensor([1.0, 0.0]))
        with pytest.raises(TypeError, match="step reads a torch.Tensor; given ndarray"):
            lstm.step(x.numpy())


@torch.no_grad()
def test_steps_read_tensors_of_torchs_negative_bit():
    lstm, x = layer(), torch.randn(2, I)
    h, c = torch.randn(2, 2, 2, H)
    expected = lstm.step(-x, (-h, -c))[0]
    for step in range(3):
        given = [torch._neg_view(t) if step == k else -t for k, t in enumerate((x, h, c))]
        assert torch.equal(lstm.step(given[0], tuple(given[1:]))[0], expected)
    stream = tg.Streamer(lstm, batch=2)
    assert torch.equal(stream.step(torch._neg_view(x)), lstm.step(-x)[0])
    expected = lstm.step(x, (h, c))[0]
    lstm.weight_hh_l0 = torch.nn.Parameter(torch._neg_view(-lstm.weight_hh_l0))
    assert torch.equal(lstm.step(x, (h, c))[0], expected)
