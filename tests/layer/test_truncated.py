"""``tg.tbptt``: windows whose memory is carried and whose gradient is cut."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import tidegate as tg

T, B, I, H = 23, 3, 4, 5


def test_windows_carried_are_the_whole():
    torch.manual_seed(0)
    lstm, x = tg.LSTM(I, H, num_layers=2), torch.randn(T, B, I)
    whole, final = lstm(x)
    outputs, places = [], []
    for part, window in tg.tbptt(x, 10):
        output, state = lstm(part, window.state)
        window.carry(state)
        outputs.append(output)
        places.append((window.start, window.stop, window.first, window.last))
    assert places == [(0, 10, True, False), (10, 20, False, False), (20, 23, False, True)]
    torch.testing.assert_close(torch.cat(outputs), whole)
    torch.testing.assert_close(state.c, final.c)


def test_the_gradient_is_that_of_a_window_from_a_constant_state():
    torch.manual_seed(0)
    lstm, x = tg.LSTM(I, H), torch.randn(8, B, I, requires_grad=True)
    total = 0.0
    for part, window in tg.tbptt(x, 4):
        output, state = lstm(part, window.state)
        total = total + output.square().sum()
        window.carry(state)
        assert window.state is None or not window.state.c.requires_grad
    got = torch.autograd.grad(total, list(lstm.parameters()))
    first, middle = lstm(x[:4])
    second, _ = lstm(x[4:], tuple(m.detach() for m in middle))
    want = torch.autograd.grad(first.square().sum() + second.square().sum(), list(lstm.parameters()))
    for w, g in zip(want, got, strict=True):
        torch.testing.assert_close(g, w)


def test_several_tensors_batch_first():
    x, y = torch.randn(B, T, I), torch.arange(B * T).view(B, T)
    seen = []
    for (part, labels), window in tg.tbptt((x, y), 9, batch_first=True):
        assert part.shape[:2] == labels.shape
        seen.append(labels)
        window.carry(None)
    assert torch.equal(torch.cat(seen, 1), y)


@pytest.mark.parametrize("keep", [False, True])
def test_a_loader_starts_empty_or_goes_on(keep):
    batches = [torch.full((4, 1, 1), float(k)) for k in range(3)]
    states = []
    for part, window in tg.tbptt(batches, 2, keep_state=keep):
        states.append(None if window.state is None else int(window.state))
        window.carry(part[0, 0, 0])
    assert states == ([None, 0, 0, 1, 1, 2] if keep else [None, 0, None, 1, None, 2])


def test_a_data_loader():
    data = torch.utils.data.TensorDataset(torch.randn(6, T, I), torch.randn(6, T))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    rows = []
    for (x, y), window in tg.tbptt(loader, 12, batch_first=True):
        rows.append((len(x), y.shape[1], window.first))
        window.carry(None)
    assert rows == [(4, 12, True), (4, 11, False), (2, 12, True), (2, 11, False)]


def test_lengths_are_those_inside_the_window():
    torch.manual_seed(0)
    lstm, x, lengths = tg.LSTM(I, H), torch.randn(T, B, I), torch.tensor([7, 0, 15])
    whole, final = lstm(x, lengths=lengths)
    outputs, state = [], None
    for part, window in tg.tbptt(x, 6, lengths=lengths):
        output, state = lstm(part, window.state, lengths=window.lengths)
        window.carry(state)
        outputs.append(output)
    assert len(outputs) == 3  # nothing is left to read after step 15
    torch.testing.assert_close(torch.cat(outputs), whole[:15])
    torch.testing.assert_close(state.c, final.c)


def test_states_of_any_nesting_are_cut():
    a = torch.randn(2, requires_grad=True)
    state = tg.State(a, a)
    for _, window in tg.tbptt(torch.zeros(4, 1), 2):
        if window.state is not None:
            found = window.state
        window.carry({"first": [state, (a, None)]})
    assert type(found["first"][0]) is tg.State
    assert not found["first"][0].h.requires_grad
    assert not found["first"][1][0].requires_grad


def test_a_forgotten_memory_is_an_error():
    windows = tg.tbptt(torch.zeros(4, 1), 2)
    next(windows)
    with pytest.raises(RuntimeError, match=r"window\.carry\(state\); it was not called for Window\(steps 0 to 1\)"):
        next(windows)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.zeros(4, 1), {"window": 0}, "window is a whole number of at least 1; given 0"),
        ((torch.zeros(4, 1), torch.zeros(5, 1)), {"window": 2}, "the same steps and rows"),
        (torch.zeros(4), {"window": 2}, r"tensors are \(T, B, ...\)"),
        (torch.zeros(4, 2), {"window": 2, "lengths": [5, 1]}, "lengths are from 0 to the number of steps, 4"),
        (torch.zeros(4, 2), {"window": 2, "lengths": [1]}, "one number for each of 2 rows"),
        ([(1, 2)], {"window": 2}, "a batch is a tensor, or a tuple or list of tensors; given tuple of int"),
        ([pack_sequence([torch.zeros(3, 1)])], {"window": 2}, "given a PackedSequence"),
        (3, {"window": 2}, "given int"),
        ([torch.zeros(4, 1)], {"window": 2.5}, "window"),
    ],
)
def test_bad_input(data, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        list(tg.tbptt(data, **options))
