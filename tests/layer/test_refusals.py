"""What a layer, its state and its options refuse, in sentences that name the rule, the given and the expected."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save

import tidegate as tg


def refusal(*args, **kwargs):
    layer = tg.LSTM(3, 4)
    return lambda: layer(*args, **kwargs)


def ops_forced(name, layer):
    with tg.ops.use_backend(name):
        layer(torch.randn(5, 2, 3, dtype=layer.weight_ih_l0.dtype))


def state(units=4, **options):
    return tg.LSTM(3, units, **options).initial_state(3)


BAD = {
    "dimensions": (refusal(torch.randn(5)), ValueError, r"3 dimensions \(T, B, 3\).*given shape \(5,\)"),
    "features": (refusal(torch.randn(5, 2, 4)), ValueError, "input_size; given 4 .* expected 3"),
    "dtype": (refusal(torch.randn(5, 2, 3).double()), TypeError, "given torch.float64, expected torch.float32"),
    "not a tensor": (refusal([[1.0]]), TypeError, "torch.Tensor or a PackedSequence; given list"),
    "device": (refusal(torch.randn(5, 2, 3, device="meta")), ValueError, "given meta, expected cpu"),
    "state": (refusal(torch.randn(5, 2, 3), torch.zeros(1, 2, 4)), TypeError, r"pair \(h_0, c_0\); given Tensor"),
    "state shape": (
        refusal(torch.randn(5, 2, 3), (torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))),
        ValueError,
        r"h_0 .* given shape \(1, 3, 4\), expected \(1, 2, 4\)",
    ),
    "state dtype": (
        refusal(torch.randn(5, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4).double())),
        TypeError,
        "c_0 has the input's dtype; given torch.float64",
    ),
    "lengths shape": (refusal(torch.randn(5, 2, 3), lengths=[5]), ValueError, r"given shape \(1,\), expected \(2,\)"),
    "lengths range": (refusal(torch.randn(5, 2, 3), lengths=[6, 1]), ValueError, "from 0 to the number of steps, 5"),
    "lengths negative": (refusal(torch.randn(5, 2, 3), lengths=[-1, 1]), ValueError, "given values from -1 to 1"),
    "lengths dtype": (refusal(torch.randn(5, 2, 3), lengths=[1.0, 2.0]), TypeError, "whole numbers; given torch.float"),
    "reset dtype": (refusal(torch.randn(5, 2, 3), reset=torch.zeros(5, 2)), TypeError, "bool tensor"),
    "reset shape": (
        refusal(torch.randn(5, 2, 3), reset=torch.zeros(2, 5, dtype=torch.bool)),
        ValueError,
        r"given shape \(2, 5\), expected \(5, 2\)",
    ),
    "sizes": (lambda: tg.LSTM(3, 0), ValueError, "hidden_size is a whole number of at least 1; given 0"),
    "float size": (lambda: tg.LSTM(3.0, 4), TypeError, "input_size is a whole number; given 3.0"),
    "rate": (lambda: tg.LSTM(3, 4, recurrent_dropout=1.5), ValueError, "recurrent_dropout is a rate .* given 1.5"),
    "zoneout": (lambda: tg.LSTM(3, 4, zoneout=(0.1, 0.2, 0.3)), ValueError, "one rate, or one for h and one for c"),
    "merge": (lambda: tg.LSTM(3, 4, merge="add"), ValueError, "merge is one of 'concat'.*given 'add'"),
    "projection": (lambda: tg.LSTM(3, 4, proj_size=4), ValueError, r"below hidden_size \(4\).*given 4"),
    "packed lengths": (
        refusal(torch.nn.utils.rnn.pack_sequence([torch.randn(5, 3)]), lengths=[5]),
        ValueError,
        "brings its own lengths; lengths was given as well, expected None",
    ),
    "packed features": (
        refusal(torch.nn.utils.rnn.pack_sequence([torch.randn(5, 7), torch.randn(2, 7)])),
        ValueError,
        "input_size; given 7 .* expected 3",
    ),
    "packed dtype": (
        refusal(torch.nn.utils.rnn.pack_sequence([torch.randn(5, 3).double()])),
        TypeError,
        "given torch.float64, expected torch.float32",
    ),
    "what does not fit together": (
        lambda: tg.ops.lstm_sequence(torch.randn(5, 2, 7), *state(), tg.LSTM(3, 4).weights(0)),
        ValueError,
        r"weights do not fit together, or an input \(T, B, I\) \(5, 2, 7\): ih \(16, 3\), hh \(16, 4\)",
    ),
    "state device": (
        refusal(torch.randn(5, 2, 3), (torch.zeros(1, 2, 4, device="meta"), torch.zeros(1, 2, 4))),
        ValueError,
        "h_0 .*given meta, expected cpu",
    ),
    "initialiser": (lambda: tg.LSTM(3, 4, init="forget"), ValueError, "given 'forget'"),
    "longest lag": (
        lambda: tg.LSTM(3, 4, init=tg.init.chrono(1)),
        ValueError,
        "longest lag t_max, a finite number of at least 3 steps; given 1",
    ),
    "dtype of weights": (
        lambda: tg.LSTM(3, 4, dtype=torch.long),
        TypeError,
        "dtype is one of torch.float32.*given torch.int64",
    ),
    "dtype's name": (lambda: tg.RNN(3, 4, dtype="float"), TypeError, "dtype is a torch.dtype or None; given 'float'"),
    "number to start": (lambda: tg.LSTM(3, 4, init=5), TypeError, "init is one of .*given 5 of type int"),
    "start not called": (lambda: tg.LSTM(3, 4, init=tg.init.forget_bias), TypeError, r"pass what .* forget_bias\(\)"),
    "list to start": (lambda: tg.LSTM(3, 4, init=["torch", 5]), TypeError, "sequence of these; given 5 of type int"),
    "negative rows": (
        lambda: tg.LSTM(3, 4).initial_state(-3),
        ValueError,
        "batch is a whole number of at least 0; given -3",
    ),
    "no rows": (lambda: tg.LSTM(3, 4).initial_state("x"), TypeError, "batch is a whole number; given 'x' of type str"),
    "row": (lambda: state().select([0, 5]), ValueError, "rows are from 0 to below the batch's 3 rows; given 5"),
    "row from the end": (lambda: state().select(-1), ValueError, "batch's 3 rows; given -1"),
    "row's name": (lambda: state().select("x"), TypeError, "whole numbers, or a bool mask; given 'x'"),
    "half a row": (lambda: state().select([0.5]), TypeError, "whole numbers, or a bool mask; given torch.float32"),
    "mask": (lambda: state().select([True]), ValueError, r"given shape \(1,\), expected \(3,\)"),
    "rows of none": (lambda: tg.LSTM(3, 4).initial_state().select(0), ValueError, r"unbatched call, \(1, 4\)"),
    "other units": (
        lambda: tg.State.stack([state(), state(5)]),
        ValueError,
        r"given \(\(1, 5\), \(1, 5\)\) in state 1, expected \(\(1, 4\), \(1, 4\)\) as in state 0",
    ),
    "other layers": (lambda: tg.State.stack([state(), state(num_layers=2)]), ValueError, r"given \(\(2, 4\)"),
    "a state alone": (lambda: tg.State.stack(state()), TypeError, "sequence of tg.State; given Tensor in it"),
    "checkpoint": (lambda: tg.LSTM(3, 4, checkpoint_every=0), ValueError, "at least 1; given 0"),
    "state bytes": (lambda: tg.State.from_bytes(b"no state"), ValueError, "safetensors format; these bytes are not"),
    "bytes of whole numbers": (
        lambda: tg.State.from_bytes(save({"h": torch.zeros(1, 2, 4).long(), "c": torch.zeros(1, 2, 4)})),
        ValueError,
        r"these bytes hold c \(1, 2, 4\) of torch.float32, h \(1, 2, 4\) of torch.int64$",
    ),
    "bytes of a number": (
        lambda: tg.State.from_bytes(save({"h": torch.zeros(()), "c": torch.zeros(())})),
        ValueError,
        "h and c of the same layers and rows",
    ),
    "no state": (lambda: tg.State.stack([]), ValueError, "at least one state; given none"),
    "backend that declines": (
        lambda: ops_forced("native", tg.LSTM(3, 4, dtype=torch.float16)),
        ValueError,
        "backend 'native' was asked for, but",
    ),
    "stream": (
        lambda: tg.LSTM(3, 4, bidirectional=True).step(torch.randn(2, 3)),
        ValueError,
        "bidirectional, and its backward direction",
    ),
    "step's reset": (
        lambda: tg.LSTM(3, 4, batch_first=True).step(torch.randn(2, 3), reset=torch.zeros(2, 1, dtype=torch.bool)),
        ValueError,
        r"reset .* given shape \(2, 1\), expected \(2,\)",
    ),
    "sparse": (refusal(torch.randn(5, 2, 3).to_sparse()), TypeError, "a dense tensor; given torch.sparse_coo"),
    "no bytes": (lambda: tg.State.from_bytes(None), TypeError, "the bytes that to_bytes wrote; given NoneType"),
    "step": (lambda: tg.LSTM(3, 4).step(torch.randn(5, 2, 3)), ValueError, r"one step \(B, 3\) or \(3,\)"),
    "nonlinearity": (lambda: tg.RNN(3, 4, nonlinearity="gelu"), ValueError, "nonlinearity is one of 'tanh', 'relu'"),
}


@pytest.mark.parametrize("name", BAD)
def test_refusals_state_rule_given_and_expected(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("a", TypeError),
        (None, TypeError),
        (True, TypeError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-4, ValueError),
    ],
)
def test_longest_lags_that_are_none(value, kind):
    with pytest.raises(kind, match=f"a finite number of at least 3 steps; given {value!r}"):
        tg.init.chrono(value)


@pytest.mark.parametrize(("value", "kind"), [("yes", TypeError), (None, TypeError), (1.0, TypeError), (2, ValueError)])
@pytest.mark.parametrize("flag", ["bias", "batch_first", "bidirectional", "variational", "layer_norm", "peephole"])
def test_flags_that_are_none(flag, value, kind):
    for layer in (tg.LSTM, tg.RNN)[: 1 if flag in ("layer_norm", "peephole") else 2]:
        with pytest.raises(kind, match=f"{flag} is True or False; given {value!r}"):
            layer(3, 4, **{flag: value})


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_nested_input_is_refused_with_a_way_out(layout):
    nested = torch.nested.nested_tensor([torch.zeros(5, 3), torch.zeros(2, 3)], layout=layout)
    for layer in (tg.LSTM(3, 4), tg.LSTM(3, 4, batch_first=True), tg.RNN(3, 4)):
        with pytest.raises(TypeError, match=r"nested one: .*to_padded_tensor\(0.0\).* lengths=, .* offsets\(\).diff"):
            layer(nested)
