"""Single steps: the same bits as whole sequences; and the packed weights of both, which are never stale."""

from __future__ import annotations

import copy
import pickle
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

import tidegate as tg
from tidegate import ops, streaming

I, H = 5, 19


@pytest.fixture(params=[torch.float32, torch.float64, torch.bfloat16], ids=str)
def dtype(request):
    return request.param


def layer(dtype=torch.float32, **options):
    return tg.LSTM(I, H, num_layers=2, dtype=dtype, **options).eval()


def kept(lstm):
    """Are the layer's weights kept packed for steps, that is: was the short way taken?"""
    return "_plan" in vars(lstm)


def kept_whole(lstm):
    """The same for whole sequences."""
    return "_route" in vars(lstm) and len(vars(lstm)["_route"].kept) == 1


@torch.no_grad()
def whole(lstm, x):
    return lstm(x)


def afresh(lstm, x):
    """A whole sequence with weights packed for this call alone."""
    return whole(copy.deepcopy(lstm), x)


@torch.no_grad()
def stepped(lstm, x, state=None, reset=None):
    outputs = []
    for t, x_t in enumerate(x):
        output, state = lstm.step(x_t, state, None if reset is None else reset[t])
        outputs.append(output)
    return torch.stack(outputs), state


OPTIONS = [{}, {"peephole": True, "bias": False}, {"zoneout": (0.2, 0.3)}, {"layer_norm": True}]


def moved(lstm):
    """The gains of a layer norm away from one, where they would hide a mistake."""
    with torch.no_grad():
        for name, p in lstm.named_parameters():
            if "norm" in name:
                p.normal_()
    return lstm


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
def test_steps_of_large_weights_have_the_bits_of_the_whole_on_any_number_of_threads(isa, dtype, B, all_threads):
    """Several threads read them, from either end."""
    lstm, x = tg.LSTM(I, 350, dtype=dtype).eval(), torch.randn(40, B, I).to(dtype)
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


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("B", [1, 7])
def test_a_streamer_has_the_bits_of_the_whole(isa, dtype, B, norm):
    lstm = moved(layer(dtype, layer_norm=norm))
    x = torch.randn(9, B, I).to(dtype)
    with torch.no_grad():
        output, state = lstm(x)
    stream = tg.Streamer(lstm, batch=B)
    for x_t, want in zip(x, output, strict=True):
        assert torch.equal(stream.step(x_t), want)
    assert torch.equal(stream.state.h, state.h)
    assert torch.equal(stream.state.c, state.c)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_a_streamer_keeps_its_weights_until_refreshed(norm):
    lstm = layer(layer_norm=norm)
    x = torch.randn(1, I)
    stream = tg.Streamer(lstm)
    before = stream.step(x).clone()
    with torch.no_grad():
        for p in lstm.parameters():
            p.add_(0.1)
    stream.reset()
    assert torch.equal(stream.step(x), before)
    stream.refresh()
    stream.reset()
    with torch.no_grad():
        assert torch.equal(stream.step(x), lstm(x.unsqueeze(0))[0][0])


def test_a_streamer_takes_and_gives_its_state():
    lstm = layer()
    x = torch.randn(6, 3, I)
    stream = tg.Streamer(lstm, batch=3)
    stream.step(x[0])
    saved = stream.state
    after = stream.step(x[1]).clone()
    stream.step(x[2])
    stream.state = saved
    assert torch.equal(stream.step(x[1]), after)
    stream.reset(torch.tensor([True, False, False]))
    assert (stream.state.h[:, 0] == 0).all()
    assert (stream.state.h[:, 1] != 0).all()


@pytest.mark.parametrize("after", [torch.float64, torch.bfloat16])
def test_a_streamer_follows_its_layer_to_another_dtype(after):
    lstm, x = layer(), torch.randn(6, 2, I)
    stream = tg.Streamer(lstm, batch=2)
    for x_t in x[:3]:
        stream.step(x_t)
    _, state = whole(lstm, x[:3])
    lstm.to(after)
    stream.refresh()
    output, last = stepped(lstm, x[3:].to(after), (state.h.to(after), state.c.to(stream.state.c.dtype)))
    for x_t, want in zip(x[3:].to(after), output, strict=True):
        assert torch.equal(stream.step(x_t), want)
    assert torch.equal(stream.state.c, last.c)


def resize(lstm):
    lstm.weight_hh_l1 = torch.nn.Parameter(torch.randn(8, H))


def mix(lstm):
    lstm.weight_hh_l1 = torch.nn.Parameter(lstm.weight_hh_l1.detach().double())


REFUSED = [(resize, "shapes"), (mix, "differ in dtype"), (lambda lstm: lstm.half(), "float16")]
REFUSED += [(lambda lstm: lstm.to("meta"), "meta")]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=["shape", "mixed", "float16", "meta"])
def test_a_streamer_takes_over_no_weights_that_the_kernels_cannot_read(change, said):
    lstm, x = layer(), torch.randn(1, I)
    stream = tg.Streamer(lstm)
    before = stream.step(x).clone()
    stream.reset()
    change(lstm)
    with pytest.raises(ValueError, match=said):
        stream.refresh()
    assert torch.equal(stream.step(x), before)
    with pytest.raises(ValueError, match=said):
        tg.Streamer(lstm)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_streamer_is_not_copied(way):
    with pytest.raises(TypeError, match="make another of its layer, and set that one's state"):
        way(tg.Streamer(tg.LSTM(2, 3)))


def test_a_streamer_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="bidirectional"):
        tg.Streamer(tg.LSTM(I, H, bidirectional=True))
    with pytest.raises(ValueError, match="proj_size"):
        tg.Streamer(tg.LSTM(I, H, proj_size=3))
    with pytest.raises(ValueError, match="batch is the number of rows"):
        tg.Streamer(tg.LSTM(I, H), batch=0)
    stream = tg.Streamer(tg.LSTM(I, H))
    with pytest.raises(ValueError, match=r"step reads \(B, I\) = \(1, 5\); given \(1, 4\)"):
        stream.step(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="float32 on the CPU; given torch.float64"):
        stream.step(torch.zeros(1, 5, dtype=torch.float64))


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


CHANGES = [fused_adam, data_write, data_doubled, data_negated, numpy_write, in_place, load, replace, swap_data]
CHANGES += [gain_write, norm_c_write]


@pytest.mark.parametrize(("read", "keeps"), [(stepped, kept), (whole, kept_whole)], ids=["steps", "whole"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_packed_weights_are_never_stale(change, read, keeps):
    lstm, x = layer(layer_norm=change in (gain_write, norm_c_write)), torch.randn(2, 3, I)
    read(lstm, x)
    assert keeps(lstm)
    for _ in range(2):
        change(lstm)
        found, _ = read(lstm, x)
        with torch.no_grad(), ops.use_backend("reference"):
            expected = lstm(x)[0]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("matrix", ["weight_ih_l0", "weight_hh_l0"])
@pytest.mark.parametrize("columns", [40, 45, 128, 192, 256])
def test_steps_see_each_column_that_is_written_past_torchs_counters(dtype, matrix, columns):
    inputs, units = (columns, 16) if matrix == "weight_ih_l0" else (4, columns)
    lstm, x = tg.LSTM(inputs, units, dtype=dtype).eval(), torch.randn(3, 1, inputs).to(dtype)
    for column in range(columns):
        stepped(lstm, x)
        getattr(lstm, matrix).data[:, column] = 0.5
        assert torch.equal(stepped(lstm, x)[0], afresh(lstm, x)[0]), column


def test_every_weight_of_a_whole_sequence_is_looked_at(isa, dtype):
    """A change of any single one, of its lowest bit alone, is seen, in blocks that are full and in one that is not."""
    lstm, x = layer(dtype), torch.randn(2, 3, I).to(dtype)
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
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_changes_that_could_cancel_are_seen(isa, name, change):
    lstm, x = tg.LSTM(16, 32).eval(), torch.randn(2, 3, 16)  # rows are whole vectors
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


def test_a_streamer_takes_a_state_of_its_shape_alone():
    stream = tg.Streamer(layer(), batch=3)
    with pytest.raises(ValueError, match=r"the state's h is \(L, B, H\) = \(2, 3, 19\); given \(19,\)"):
        stream.state = (torch.zeros(H), torch.zeros(2, 3, H))
    with pytest.raises(ValueError, match=r"batch is the number of rows, a whole number of at least 1; given 2\.0"):
        tg.Streamer(layer(), batch=2.0)
    assert torch.equal(tg.Streamer(layer(), np.int64(3)).state.h, torch.zeros(2, 3, H))


def test_what_a_streamer_is_given_in_place_of_a_state_or_a_mask():
    stream, h = tg.Streamer(layer(), batch=3), torch.ones(2, 3, H)
    stream.state = (h, h)
    for given, said in ((None, "given NoneType"), ((h,), "given tuple"), ((h, None), "c is a torch.Tensor")):
        with pytest.raises(TypeError, match=said):
            stream.state = given
    with pytest.raises(ValueError, match=r"one bool a row, \(B,\) = \(3,\); given shape \(2,\)"):
        stream.reset(torch.tensor([True, False]))
    assert torch.equal(torch.stack(stream.state), torch.stack((h, h)))


@pytest.mark.parametrize("name", ["weight_hh_l0", "weight_ih_l1"])
def test_weights_of_several_dtypes_are_refused(name):
    lstm, x = layer(), torch.randn(2, 3, I)
    lstm.register_parameter(name, torch.nn.Parameter(getattr(lstm, name).double()))
    for call in (lambda: lstm(x), lambda: stepped(lstm, x), lambda: lstm.trace(x)):
        with pytest.raises(TypeError, match=f"given torch.float64 of {name[:-3]} for torch.float32"):
            call()
    with pytest.raises(ValueError, match=r"weights \(torch.float64\) differ in dtype"):
        tg.Streamer(lstm)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("hook", [torch.nn.utils.weight_norm, partial(prune.l1_unstructured, amount=0.5)])
def test_a_streamer_reads_weights_that_hooks_compute(hook):
    lstm, x = layer(), torch.randn(1, I)
    hook(lstm, "weight_hh_l0")
    stream = None
    for _ in range(2):
        lstm(torch.randn(3, 2, I))[0].sum().backward()
        with torch.no_grad():
            for p in lstm.parameters():
                p.add_(0.1)
        if stream is None:
            stream = tg.Streamer(lstm)
        else:
            stream.refresh()
            stream.reset()
        with torch.no_grad():
            found = torch.stack([stream.step(x).clone() for _ in range(3)])
            assert torch.equal(found, lstm(x.expand(3, 1, I))[0])


def test_a_streamer_packs_weights_laid_out_otherwise():
    lstm, x = layer(), torch.randn(3, 1, I)
    with torch.no_grad():
        expected = lstm(x)[0]
        lstm.weight_hh_l0 = torch.nn.Parameter(lstm.weight_hh_l0.t().contiguous().t())
    stream = tg.Streamer(lstm)
    assert torch.equal(torch.stack([stream.step(x_t).clone() for x_t in x]), expected)


@pytest.mark.parametrize("layers", [1, 2])
def test_an_output_lives_until_the_step_after_next(layers):
    lstm, x = tg.LSTM(I, H, layers).eval(), torch.randn(3, 2, I)
    stream = tg.Streamer(lstm, batch=2)
    saved = stream.state
    for change in (lambda: None, stream.reset, lambda: stream.reset(torch.tensor([True, False]))):
        output = stream.step(x[0])
        kept = output.clone()
        change()
        stream.state = saved
        stream.step(x[1])
        assert torch.equal(output, kept)


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
