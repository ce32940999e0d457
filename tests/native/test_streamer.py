"""Steps on frozen weights: the same bits as whole sequences, and what a Streamer takes over."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from streams import H, I, layer, moved, stepped, whole
from torch.nn.utils import prune

import tidegate as tg

OPTIONS = [{}, {"layer_norm": True}, {"peephole": True}, {"proj_size": 7}, {"proj_size": 7, "peephole": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("B", [1, 7])
def test_a_streamer_has_the_bits_of_the_whole(isa, dtype, B, options):
    lstm = moved(layer(dtype, **options))
    x = torch.randn(9, B, I).to(dtype)
    with torch.no_grad():
        output, state = lstm(x)
    stream = tg.Streamer(lstm, batch=B)
    for x_t, want in zip(x, output, strict=True):
        assert torch.equal(stream.step(x_t), want)
    assert torch.equal(stream.state.h, state.h)
    assert torch.equal(stream.state.c, state.c)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_streamer_keeps_its_weights_until_refreshed(options):
    lstm = layer(**options)
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


@pytest.mark.parametrize("outputs", [0, 7])
def test_a_streamer_takes_and_gives_its_state(outputs):
    lstm = layer(proj_size=outputs)
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
    with pytest.raises(ValueError, match="float16"):
        tg.Streamer(tg.LSTM(I, H, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"state's h is \(L, B, P\) = \(1, 1, 3\); given \(1, 1, 19\)"):
        tg.Streamer(tg.LSTM(I, H, proj_size=3)).state = (torch.zeros(1, 1, H), torch.zeros(1, 1, H))
    with pytest.raises(ValueError, match="batch is the number of rows"):
        tg.Streamer(tg.LSTM(I, H), batch=0)
    stream = tg.Streamer(tg.LSTM(I, H))
    with pytest.raises(ValueError, match=r"step reads \(B, I\) = \(1, 5\); given \(1, 4\)"):
        stream.step(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="float32 on the CPU; given torch.float64"):
        stream.step(torch.zeros(1, 5, dtype=torch.float64))


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
