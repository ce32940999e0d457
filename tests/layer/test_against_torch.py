"""``tg.LSTM`` and ``tg.RNN`` against ``torch.nn.LSTM`` and ``torch.nn.RNN`` with the same weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import TOLERANCE, assert_close, gradients
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import tidegate as tg

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
GRID = list(itertools.product([1, 2, 3], [False, True], [True, False], [False, True], [0, 3]))


def twins(dtype, **options):
    theirs = torch.nn.LSTM(4, 5, dtype=dtype, **options)
    ours = tg.LSTM(4, 5, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


def compare(theirs, ours, x, hx, dtype):
    """Outputs, states and the gradients of input, states and weights."""
    results = []
    for module in (theirs, ours):
        output, state = module(x, hx)
        leaves = [x.data if isinstance(x, PackedSequence) else x, *(hx or ()), *module.parameters()]
        data = output.data if isinstance(output, PackedSequence) else output
        results.append((output, [data, *state], gradients([data, *state], leaves)))
    (their_output, their_values, their_grads), (our_output, our_values, our_grads) = results
    if isinstance(x, PackedSequence):
        for got, want in zip(our_output[1:], their_output[1:], strict=True):
            assert (got is None) == (want is None)
            assert want is None or torch.equal(got, want)
    for got, want in zip(our_values, their_values, strict=True):
        assert_close(got, want, TOLERANCE[dtype])
    for got, want in zip(our_grads, their_grads, strict=True):
        assert_close(got, want, TOLERANCE[dtype], "gradient")


@pytest.mark.parametrize(("layers", "bidirectional", "bias", "batch_first", "proj"), GRID)
@pytest.mark.parametrize("kind", ["padded", "packed", "packed unsorted", "unbatched"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equal_outputs_states_and_gradients(layers, bidirectional, bias, batch_first, proj, kind, dtype):
    theirs, ours = twins(
        dtype, num_layers=layers, bidirectional=bidirectional, bias=bias, batch_first=batch_first, proj_size=proj
    )
    T, B, rows = 6, 3, layers * (1 + bidirectional)
    batch = () if kind == "unbatched" else (B,)
    shape = (T, 4) if kind == "unbatched" else (B, T, 4) if batch_first else (T, B, 4)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    hx = tuple(torch.randn(rows, *batch, size, dtype=dtype, requires_grad=True) for size in (proj or 5, 5))
    if kind == "packed":
        x = pack_padded_sequence(x.detach(), [6, 4, 1], batch_first)
        x.data.requires_grad_()
    elif kind == "packed unsorted":
        x = pack_padded_sequence(x.detach(), [2, 6, 4], batch_first, enforce_sorted=False)
        x.data.requires_grad_()
    compare(theirs, ours, x, hx, dtype)
    compare(theirs, ours, x, None, dtype)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("layers", [1, 2])
def test_rnn_equals_torch(bidirectional, nonlinearity, layers):
    options = {"num_layers": layers, "bidirectional": bidirectional, "nonlinearity": nonlinearity}
    theirs = torch.nn.RNN(4, 5, dtype=torch.float64, **options)
    ours = tg.RNN(4, 5, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
    h_0 = torch.randn(layers * (1 + bidirectional), 3, 5, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (theirs, ours):
        values = list(module(x, h_0))
        found.append(values + gradients(values, [x, h_0, *module.parameters()]))
    for want, got in zip(*found, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 2, "bias": False}])
def test_the_same_seed_draws_the_same_weights(options):
    torch.manual_seed(3)
    theirs = torch.nn.LSTM(4, 5, **options).state_dict()
    torch.manual_seed(3)
    ours = tg.LSTM(4, 5, **options).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_lengths_equal_packed():
    theirs, ours = twins(torch.float64, num_layers=2, bidirectional=True)
    x = torch.randn(7, 4, 4, dtype=torch.float64)
    lengths = torch.tensor([3, 7, 1, 5])
    packed, (h_n, c_n) = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
    output, state = ours(x, lengths=lengths)
    assert_close(output, pad_packed_sequence(packed)[0])
    assert_close(state.h, h_n)
    assert_close(state.c, c_n)
