"""What the layer adds to torch's: merging, lengths, resets, streaming, options, clear refusals."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import assert_close, gradients

import tidegate as tg
from tidegate.errors import TidegateError

F64 = torch.float64


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", [tg.LSTM, tg.RNN])
def test_merges_are_made_of_the_halves_of_concat(layers, kind):
    base = kind(3, 4, num_layers=layers, bidirectional=True, dtype=F64)
    x = torch.randn(6, 2, 3, dtype=F64)
    output, _ = base(x)
    left, right = output.split(4, -1)
    expected = {"sum": left + right, "mean": (left + right) / 2, "product": left * right}
    expected[None] = torch.stack([left, right], -2)
    for merge, value in expected.items():
        layer = kind(3, 4, num_layers=layers, bidirectional=True, dtype=F64, merge=merge)
        layer.load_state_dict(base.state_dict())
        assert_close(layer(x)[0], value, what=str(merge))
        packed, _ = layer(torch.nn.utils.rnn.pack_sequence([x[:, 0], x[:4, 1]]))
        padded, _ = layer(x, lengths=torch.tensor([6, 4]))
        assert_close(packed.data, torch.cat([padded[:4].flatten(0, 1), padded[4:, 0]]), what=f"packed {merge}")
        assert layer.output_size == 4


@pytest.mark.parametrize("batch_first", [False, True])
def test_reset_equals_separate_sequences(batch_first):
    layer = tg.LSTM(3, 4, num_layers=2, dtype=F64, batch_first=batch_first)
    x = torch.randn(9, 1, 3, dtype=F64)
    reset = torch.zeros(9, 1, dtype=torch.bool)
    reset[[3, 7]] = True
    parts = [layer(x[s].transpose(0, 1) if batch_first else x[s])[0] for s in (slice(0, 3), slice(3, 7), slice(7, 9))]
    whole, _ = layer(x.transpose(0, 1), reset=reset.t()) if batch_first else layer(x, reset=reset)
    assert_close(whole, torch.cat(parts, 1 if batch_first else 0))
    alone, _ = layer(x[:, 0], reset=reset[:, 0])
    assert_close(alone, whole[0] if batch_first else whole[:, 0])


def test_nan_in_padding_reaches_nothing():
    layer = tg.LSTM(3, 4, num_layers=2, bidirectional=True, dtype=F64)
    x = torch.randn(6, 3, 3, dtype=F64)
    lengths = torch.tensor([6, 2, 0])
    x[torch.arange(6)[:, None] >= lengths] = float("nan")
    x.requires_grad_()
    output, state = layer(x, lengths=lengths)
    for value in [output, *state, *gradients([output, *state], [x, *layer.parameters()])]:
        assert value.isfinite().all()
    assert torch.equal(state.h[:, 2], torch.zeros(4, 4, dtype=F64))


@pytest.mark.parametrize("options", [{}, {"proj_size": 2}, {"peephole": True, "layer_norm": True, "num_layers": 2}])
@pytest.mark.parametrize("batch_first", [False, True])
def test_whole_equals_chunked_equals_stepped(options, batch_first):
    layer = tg.LSTM(3, 4, dtype=F64, batch_first=batch_first, **options)
    x = torch.randn(2, 7, 3, dtype=F64) if batch_first else torch.randn(7, 2, 3, dtype=F64)
    time = 1 if batch_first else 0
    reset = torch.rand(x.shape[:2]) < 0.3
    whole, last = layer(x, reset=reset)
    state = layer.initial_state(2)
    stepped = []
    for x_t, reset_t in zip(x.unbind(time), reset.unbind(time), strict=True):
        y, state = layer.step(x_t, state, reset_t)
        stepped.append(y)
    assert_close(torch.stack(stepped, time), whole)
    assert_close(state.c, last.c)
    state, chunks = None, []
    for chunk, chunk_reset in zip(x.split([3, 4], time), reset.split([3, 4], time), strict=True):
        y, state = layer(chunk, state, reset=chunk_reset)
        chunks.append(y)
    assert_close(torch.cat(chunks, time), whole)


def test_a_single_stream_steps_without_a_batch():
    layer = tg.LSTM(3, 4, batch_first=True)
    x = torch.randn(5, 3)
    state = layer.initial_state()
    for x_t in x:
        y, state = layer.step(x_t, state)
    whole, last = layer(x)
    assert_close(y, whole[-1])
    assert_close(state.h, last.h)


def test_state_selects_stacks_and_survives_bytes():
    layer = tg.LSTM(3, 4, num_layers=2)
    _, state = layer(torch.randn(5, 3, 3))
    again = tg.State.from_bytes(state.to_bytes())
    assert torch.equal(again.h, state.h)
    assert torch.equal(again.c, state.c)
    picked = state.select([2, 0])
    assert torch.equal(picked.h, state.h[:, [2, 0]])
    assert torch.equal(state.select(torch.tensor([True, False, True])).c, state.c[:, [0, 2]])
    back = tg.State.stack([state.select(0), state.select([1, 2])])
    assert torch.equal(back.c, state.c)
    assert state.h.requires_grad
    assert not state.detach().h.requires_grad
    with pytest.raises(ValueError, match="safetensors"):
        tg.State.from_bytes(b"not a state")


def test_random_masks_follow_the_seed_and_stop_at_evaluation():
    layer = tg.LSTM(3, 8, recurrent_dropout=0.5, weight_dropout=0.3, zoneout=(0.2, 0.1), num_layers=2, dropout=0.2)
    x = torch.randn(6, 2, 3)
    torch.manual_seed(5)
    first, _ = layer(x)
    torch.manual_seed(5)
    second, _ = layer(x)
    third, _ = layer(x)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_zoneout_of_one_keeps_the_state():
    layer = tg.LSTM(3, 4, zoneout=1.0)
    hx = (torch.randn(1, 2, 4), torch.randn(1, 2, 4))
    output, state = layer(torch.randn(5, 2, 3), hx)
    assert torch.equal(state.h, hx[0])
    assert torch.equal(state.c, hx[1])
    assert torch.equal(output, hx[0].expand(5, 2, 4))


def test_masks_are_drawn_at_their_rates():
    seed = torch.tensor(99)
    drawn = tg.ops.random.bernoulli(seed, 0.3, 5, 200, 101, 1).double()
    assert abs(drawn.mean().item() - 0.3) < 0.01
    other = tg.ops.random.bernoulli(seed, 0.3, 6, 200, 101, 1).double()
    assert abs(torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1].item()) < 0.02


def test_philox_gives_the_published_words():
    # Known answers of Philox4x32-10 from the Random123 distribution (kat_vectors).
    zero = torch.zeros((), dtype=torch.int64)
    ones = torch.tensor(0xFFFFFFFF)
    words = tg.ops.random.philox((zero,) * 4, zero)
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    words = tg.ops.random.philox((ones,) * 4, torch.tensor(-1))
    assert [int(w) for w in words] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_copies_and_pickles():
    layer = tg.LSTM(3, 4, bidirectional=True, merge="mean", init=["orthogonal", tg.init.chrono(50)])
    x = torch.randn(5, 2, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_long_term_memory_in_float32(dtype):
    layer = tg.LSTM(3, 4).to(dtype)
    x = torch.randn(50, 2, 3)
    output, state = layer(x.to(dtype))
    assert output.dtype == state.h.dtype == dtype
    assert state.c.dtype == torch.float32
    half, carried = [], None
    for chunk in x.to(dtype).split(7):
        y, carried = layer(chunk, carried)
        half.append(y)
    assert torch.equal(torch.cat(half), output)


def test_autocast_runs_in_half_precision():
    layer = tg.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), layer(x)[0], rtol=0.05, atol=0.02)


def test_initialisers():
    layer = tg.LSTM(3, 8, num_layers=2, bidirectional=True, init="forget_bias")
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            assert torch.equal(parameter[8:16], torch.full((8,), 1.0 if "ih" in name else 0.0))
    chrono = tg.LSTM(3, 500, init=tg.init.chrono(100))
    bias = chrono.bias_ih_l0 + chrono.bias_hh_l0
    assert bias[500:1000].min() >= 0
    assert 4 < bias[500:1000].max() < torch.tensor(99.0).log()
    assert torch.equal(bias[:500], -bias[500:1000])
    orthogonal = tg.LSTM(3, 6, init=["orthogonal", tg.init.chrono(10)])
    for block in orthogonal.weight_hh_l0.split(6):
        torch.testing.assert_close(block @ block.T, torch.eye(6), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="init is one of 'torch'"):
        tg.LSTM(3, 4, init="xavier")
    with pytest.raises(ValueError, match="bias=False"):
        tg.LSTM(3, 4, bias=False, init="forget_bias")


@pytest.mark.parametrize("start", ["forget_bias", tg.init.chrono(10)])
def test_initialisers_of_gates_that_are_not_there(start):
    with pytest.raises(ValueError, match="sets the biases of an LSTM's gates; given RNN, which has none"):
        tg.RNN(3, 4, init=start)
    with pytest.raises(ValueError, match="sets bias_ih of a recurrent layer; given Sequential, which has none"):
        (tg.init.forget_bias() if start == "forget_bias" else start)(torch.nn.Sequential(tg.LSTM(3, 4)))
    with pytest.raises(ValueError, match="orthogonal sets weight_hh of a recurrent layer; given Linear"):
        tg.init.orthogonal()(torch.nn.Linear(3, 4))


class Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2.0 * weight

    def right_inverse(self, weight):
        return weight / 2.0


def test_initialisers_of_parametrised_weights():
    layer = tg.LSTM(3, 6, num_layers=2)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l1")
    for name in ("bias_ih_l0", "bias_hh_l1"):
        torch.nn.utils.parametrize.register_parametrization(layer, name, Doubled())
    for start in (tg.init.orthogonal(), tg.init.chrono(10), tg.init.forget_bias(2.0)):
        start(layer)
    for weight in (layer.weight_hh_l0, layer.weight_hh_l1):
        for block in weight.detach().split(6):
            torch.testing.assert_close(block @ block.T, torch.eye(6), rtol=0, atol=1e-5)
    for k in range(2):
        bias = getattr(layer, f"bias_ih_l{k}") + getattr(layer, f"bias_hh_l{k}")
        torch.testing.assert_close(bias[6:12], torch.full((6,), 2.0))
        assert (bias[:6] < 0).all()
        assert (bias[12:] == 0).all()


def test_initialisers_of_a_parametrisation_without_a_way_back():
    layer = tg.LSTM(3, 6)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", torch.nn.Tanh())
    with pytest.raises(ValueError, match="weight_hh_l0 cannot be set: .*; draw weights before they are parametrised"):
        tg.init.orthogonal()(layer)


def test_backend_says_which_and_why():
    layer = tg.LSTM(3, 4, dtype=torch.float16)
    choice = layer.backend(torch.randn(5, 2, 3).half())
    assert choice.name == "reference"
    with pytest.raises(ValueError, match="unknown backend 'fast'; there are"), tg.ops.use_backend("fast"):
        pass


def test_a_mistyped_backend_of_the_environment_is_named():
    token = tg.ops._forced.set("fast")  # as at import
    try:
        with pytest.raises(TidegateError, match="unknown backend 'fast' in TIDEGATE_BACKEND; there are 'native'"):
            tg.LSTM(3, 4)(torch.randn(5, 2, 3))
    finally:
        tg.ops._forced.reset(token)


def test_autocast_leaves_double_precision_alone():
    layer, x = tg.LSTM(3, 4).double(), torch.randn(5, 2, 3).double()
    expected = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x)[0], expected)
        assert layer.trace(x).output.dtype == torch.float64
        with pytest.raises(TypeError, match="dtype of the layer's weights; given torch.int64"):
            layer(x.long())


def test_states_in_files_of_weights_alone(tmp_path):
    _, state = tg.LSTM(3, 4)(torch.randn(5, 2, 3))
    torch.save(state, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert isinstance(again, tg.State)
    assert torch.equal(again.h, state.h)
    same = torch.zeros(1, 2, 4)
    assert torch.equal(tg.State.from_bytes(tg.State(same, same).to_bytes()).c, same)


def test_whole_numbers_of_numpy():
    layer = tg.LSTM(np.int64(3), np.int32(4), num_layers=np.int64(2), dropout=np.float32(0.5))
    assert [type(n) for n in (layer.input_size, layer.hidden_size, layer.num_layers)] == [int] * 3
    assert layer(torch.zeros(5, 0, 3), lengths=[])[0].shape == (5, 0, 4)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_trace_sees_weights_that_hooks_compute():
    layer, x = torch.nn.utils.weight_norm(tg.LSTM(3, 4), "weight_hh_l0"), torch.randn(5, 2, 3)
    optimiser = torch.optim.SGD(layer.parameters(), 1.0)
    layer(x)[0].sum().backward()
    optimiser.step()
    torch.testing.assert_close(layer.trace(x).output, layer(x)[0])


def test_backend_under_autocast():
    layer = tg.LSTM(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        casts = [layer.backend(torch.zeros(5, 2, 3, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]
    half = layer.bfloat16().backend(torch.zeros(5, 2, 3, dtype=torch.bfloat16))
    assert casts == [half, half]


def test_flags_as_torch_takes_them():
    layer = tg.LSTM(3, 4, bias=0, batch_first=np.True_, bidirectional=1)
    assert (layer.bias, layer.batch_first, layer.bidirectional) == (False, True, True)


def test_initialisers_from_a_generator_last():
    layer = tg.LSTM(3, 4, init=(name for name in ("torch", "forget_bias")))
    layer.reset_parameters()
    assert torch.equal(layer.bias_ih_l0[4:8], torch.ones(4))


def test_no_rows_at_all():
    layer = tg.LSTM(3, 4)
    assert layer.initial_state(0).h.shape == (1, 0, 4)
    assert layer.initial_state(np.int64(2)).h.shape == (1, 2, 4)
    assert layer.initial_state(3).select([]).c.shape == (1, 0, 4)


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*:FutureWarning")
def test_states_in_a_compiled_graph():
    layer = tg.LSTM(3, 4)

    def read(x, rows):
        first = layer(x, layer.initial_state(x.shape[1]))[1].select(rows)
        return tg.State.stack([first, first.select([0])])

    compiled = torch.compile(read, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (torch.tensor([2, 0]), torch.tensor([1, 1, 0])):
        x = torch.randn(5, 3, 3)
        assert_close(compiled(x, rows).h, read(x, rows).h)


def test_dropout_in_one_layer_warns():
    with pytest.warns(UserWarning, match="num_layers=1 it does nothing"):
        tg.LSTM(3, 4, dropout=0.2)
