"""Packed sequences of very unequal lengths: read in pieces, with the results of torch's layer and of padding."""

from __future__ import annotations

import pytest
import torch
from helpers import TOLERANCE, assert_close, gradients, needs_native
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import tidegate as tg
from tidegate import packed

LENGTHS = {
    "one long": [1, 7, 60, 5, 7, 6],
    "falling": [300, 100, 40, 39, 10, 3, 1, 1],
    "rising": [1, 2, 8, 33, 150],
    "twice": [200, 1, 200, 1, 1],
}


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(packed, "SMALL", 0)
    monkeypatch.setattr(packed, "PADDING", 2)


def sequences(lengths: list[int], dtype: torch.dtype = torch.float64, features: int = 4) -> PackedSequence:
    torch.manual_seed(0)
    made = pack_sequence([torch.randn(n, features, dtype=dtype) for n in lengths], enforce_sorted=False)
    made.data.requires_grad_()
    return made


def pieces(of: PackedSequence) -> list[tuple[int, int]]:
    """Steps and rows of each."""
    return [(len(sizes), int(sizes[0])) for sizes, _, _ in packed._pieces(of.batch_sizes, int(of.batch_sizes[0]))]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "rnn", "projection"])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_pieces_give_what_torch_gives(lengths, in_order, kind, given):
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    if kind == "projection":
        options["proj_size"] = 3
    theirs = torch.nn.RNN(4, 5, **options) if kind == "rnn" else torch.nn.LSTM(4, 5, **options)
    ours = tg.RNN(4, 5, **options) if kind == "rnn" else tg.LSTM(4, 5, **options)
    ours.load_state_dict(theirs.state_dict())
    x = sequences(sorted(lengths, reverse=True) if in_order else lengths)
    if in_order:
        x = PackedSequence(x.data, x.batch_sizes)
    assert packed.is_wasteful(x)
    assert len(pieces(x)) > 1
    sizes = {"lstm": (5, 5), "rnn": (5,), "projection": (3, 5)}[kind]
    start = [torch.randn(4, len(lengths), n, dtype=torch.float64, requires_grad=True) for n in sizes]
    found = []
    for module in (theirs, ours):
        output, after = module(x, (start[0] if kind == "rnn" else tuple(start)) if given else None)
        values = [output.data, after] if kind == "rnn" else [output.data, *after]
        assert output[1:3] == x[1:3] if in_order else all(map(torch.equal, output[1:], x[1:]))
        found.append(values + gradients(values, [x.data, *start, *module.parameters()]))
    assert kind == "rnn" or isinstance(after, tg.State)
    for want, got in zip(*found, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recorded", [False, True])
@needs_native
def test_pieces_are_the_bits_of_padding(lengths, dtype, recorded):
    x = sequences(lengths, dtype)
    lstm = tg.LSTM(4, 33, bidirectional=True, dtype=dtype).eval()
    with torch.set_grad_enabled(recorded):
        output, state = lstm(x)
        padded, valid = pad_packed_sequence(x)
        want, after = lstm(padded, lengths=valid)
    assert torch.equal(pad_packed_sequence(output)[0], want)
    assert torch.equal(state.h, after.h)
    assert torch.equal(state.c, after.c)


def test_rows_of_similar_lengths_share_a_piece(monkeypatch):
    monkeypatch.setattr(packed, "PADDING", 4)
    assert pieces(sequences([5, 8000, 5, 4])) == [(8000, 1), (5, 3)]
    assert pieces(sequences([100, 25, 24, 6, 5, 1])) == [(100, 2), (24, 2), (5, 1), (1, 1)]
    assert pieces(sequences([9, 9])) == [(9, 2)]
    assert not packed.is_wasteful(sequences([100, 60, 1]))


def test_what_is_small_or_asks_for_all_steps_is_padded(monkeypatch):
    x, lstm = sequences([60, 1, 1, 1]), tg.LSTM(4, 5, weight_dropout=0.5, dtype=torch.float64)
    calls: list[PackedSequence] = []
    whole = packed.in_pieces
    monkeypatch.setattr(packed, "in_pieces", lambda x, *rest: calls.append(x) or whole(x, *rest))
    lstm(x)  # one mask of the weights a call
    assert lstm.trace(x).layers[0].cell.shape == (60, 4, 1, 5)
    lstm.eval()(x, reset=torch.zeros(60, 4, dtype=torch.bool))
    assert not calls
    lstm(x)
    assert len(calls) == 1
    monkeypatch.setattr(packed, "SMALL", 240)
    lstm(x)
    assert len(calls) == 1


def test_weights_are_computed_once(monkeypatch):
    lstm = tg.LSTM(4, 5, dtype=torch.float64)
    read = []

    class Count(torch.nn.Module):
        def forward(self, weight):
            read.append(1)
            return weight

    torch.nn.utils.parametrize.register_parametrization(lstm, "weight_hh_l0", Count(), unsafe=True)
    read.clear()
    lstm(sequences(LENGTHS["falling"]))
    assert len(read) == 1


@pytest.mark.parametrize(
    ("order", "back"), [([0, 0, 1], None), ([0, 9, 1], [0, 1, 2]), ([1, 2, 0], [1, 2, 0]), (None, [0, 1, 2])]
)
def test_orders_that_do_not_undo_each_other_are_refused(order, back):
    order, back = (None if n is None else torch.tensor(n) for n in (order, back))
    x = PackedSequence(torch.zeros(5, 4), torch.tensor([3, 2]), order, back)
    for layer in (tg.LSTM(4, 5), tg.RNN(4, 5)):
        with pytest.raises(ValueError, match="undo each other; given two that do not"):
            layer(x)


@pytest.mark.parametrize("lengths", [[5, 3], [60, 1, 1]])
@pytest.mark.parametrize("features", [(), (4, 1)])
def test_entries_of_other_dimensions_are_refused(lengths, features):
    x = pack_sequence([torch.zeros(n, *features) for n in lengths])
    for layer in (tg.LSTM(4, 5), tg.RNN(4, 5)):
        with pytest.raises(ValueError, match=r"data of a packed sequence is \(entries, features\); given shape"):
            layer(x)


@pytest.mark.parametrize("options", [{"recurrent_dropout": 0.5}, {"zoneout": (0.0, 0.5)}], ids=str)
def test_each_piece_draws_its_masks(options):
    """Rows that are alike but for their pieces differ, and a seed gives the same again."""
    lstm = tg.LSTM(4, 32, dtype=torch.float64, **options)
    row = torch.randn(40, 4, dtype=torch.float64)
    x, found = pack_sequence([row, row[:2]]), []
    assert len(pieces(x)) == 2
    for _ in range(2):
        torch.manual_seed(0)
        found.append(lstm(x)[0].data)
    assert torch.equal(*found)
    assert not torch.equal(found[0][2], found[0][3])  # the second step of both


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_sizes": torch.tensor([2, 3])}, r"never grow and add up to its entries; given \[2, 3\] for 5 entries"),
        ({"batch_sizes": torch.tensor([3, 1])}, r"given \[3, 1\] for 5 entries"),
        ({"batch_sizes": torch.tensor([5, 0])}, r"given \[5, 0\] for 5 entries"),
        ({"batch_sizes": torch.tensor([6, -1])}, r"given \[6, -1\] for 5 entries"),
        ({"batch_sizes": torch.zeros(0, dtype=torch.int64)}, r"given \[\] for 5 entries"),
        ({"batch_sizes": torch.ones(9, dtype=torch.int64)}, r"given \[1, 1, 1, 1, 1, 1, 1, 1, ...\] for 5 entries"),
        ({"sorted_indices": torch.tensor([1, 0])}, r"sorted_indices .* given shape \(2,\), expected \(3,\)"),
        ({"unsorted_indices": torch.tensor([1, 0])}, r"unsorted_indices .* given shape \(2,\), expected \(3,\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    parts = {"data": torch.zeros(5, 4), "batch_sizes": torch.tensor([3, 2])} | change
    for layer in (tg.LSTM(4, 5), tg.RNN(4, 5)):
        with pytest.raises(ValueError, match=message):
            layer(PackedSequence(**parts))


def test_wrong_states_and_features_are_refused_as_if_padded():
    x = sequences(LENGTHS["one long"])
    for layer in (tg.LSTM, tg.RNN):
        with pytest.raises(ValueError, match=r"given 4 in shape .*, expected 3"):
            layer(3, 5, dtype=torch.float64)(x)
        with pytest.raises(TypeError, match=r"given torch.float64, expected torch.float32"):
            layer(4, 5)(x)
    state = torch.zeros(1, 5, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"given shape \(1, 5, 5\), expected \(1, 6, 5\)"):
        tg.LSTM(4, 5, dtype=torch.float64)(x, (state, state))
    with pytest.raises(ValueError, match=r"given shape \(1, 5, 5\), expected \(1, 6, 5\)"):
        tg.RNN(4, 5, dtype=torch.float64)(x, state)


@pytest.mark.parametrize("lengths", [[9, 7, 8, 2], [5, 5]])
def test_dropout_between_layers_is_that_of_torch(lengths, monkeypatch):
    monkeypatch.setattr(packed, "PADDING", 4)
    theirs = torch.nn.LSTM(4, 5, 3, dropout=0.5, dtype=torch.float64)
    ours = tg.LSTM(4, 5, 3, dropout=0.5, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x, found = sequences(lengths), []
    for module in (theirs, ours):
        torch.manual_seed(4)
        output, state = module(x)
        found.append([output.data, *state, torch.rand(1, dtype=torch.float64)])
    for want, got in zip(*found, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("layer", [tg.LSTM, tg.RNN])
def test_padding_has_no_say(layer, monkeypatch):
    module, x = layer(4, 5, 2, bidirectional=True, dtype=torch.float64), sequences([9, 2, 5])
    pad, padded = packed.Places.pad, []

    def wild(places, data):
        valid = pad(places, torch.ones_like(data))
        padded.append(torch.where(valid == 1, pad(places, data), torch.nan))
        return padded[-1]

    results = []
    for filled in (pad, wild):
        monkeypatch.setattr(packed.Places, "pad", filled)
        output = module(x)[0].data
        results.append([output, *gradients([output], [x.data, *module.parameters()])])
    assert padded[0].isnan().any()
    for want, got in zip(*results, strict=True):
        assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore")
def test_compiles_without_a_break():
    lstm = tg.LSTM(4, 5, 2, bidirectional=True)
    compiled = torch.compile(lstm, fullgraph=True)
    for lengths in ([3, 7, 5], [2, 2, 9, 1]):
        x = sequences(lengths, torch.float32)
        assert_close(compiled(x)[0].data, lstm(x)[0].data, TOLERANCE[torch.float32])
