"""Sequences and criteria of the long-lag tasks, against the paper's own description."""

from __future__ import annotations

import re

import pytest
import torch

from experiments.long_lag.copying import AddingTwo, Copy
from experiments.long_lag.lags import NoiseFree, NoRegularities, VeryLong
from experiments.long_lag.marks import Adding, Multiplication
from experiments.long_lag.order import SYMBOLS, order_6a, order_6b
from experiments.long_lag.reber import SYMBOLS as REBER_SYMBOLS
from experiments.long_lag.reber import Reber, embedded_string, misread
from experiments.long_lag.task import Batch, Errors, Recent


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def logits(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def recent(worst: list[float], mean: float = 0.0) -> Recent:
    found = Recent()
    found.add(Errors(torch.tensor(worst), torch.full((len(worst),), mean)))
    return found


def test_reber_strings_follow_the_grammar(generator):
    # As a regular expression, read from the paper's figure and not from the table of states: the upper way
    # first, then the lower one.
    reber = "B(?:TS*X(?:XT*VP)*(?:S|XT*VV)|PT*V(?:PXT*V)*(?:V|PS))E"
    pattern = re.compile(rf"B([TP]){reber}\1E")
    for _ in range(300):
        string, legal = embedded_string(generator)
        assert pattern.fullmatch(string), string
        assert len(legal) == len(string) - 1
        assert all(symbol in after for symbol, after in zip(string[1:], legal, strict=True))
        assert legal[-2] == string[1], "the symbol before the last is the second one"


def test_reber_sets_are_apart_and_the_criterion_finds_one_illegal_symbol(generator):
    task = Reber()
    task.start(generator)
    train, test = task.strings[:256], task.strings[256:]
    assert len(test) == 256
    assert not {s for s, _ in train} & {s for s, _ in test}
    assert {"".join(REBER_SYMBOLS[i] for i in s) for s in task.training} == {s for s, _ in train}
    outputs = task._all[1].float()

    def predict(batch):
        return outputs[: len(batch.x), : batch.x.shape[1]]  # all strings, or the first ones

    assert task.solved(Recent(), predict, generator)
    assert misread(outputs, task._all[1]) == 0
    outputs[3, 300] = 1.0  # now illegal symbols are as active as legal ones, in one string of the test set
    assert misread(outputs, task._all[1]) == 1
    assert not task.solved(Recent(), predict, generator)


def test_noise_free_sequences(generator):
    task = NoiseFree(p=5)  # a_1 .. a_4 are 0 to 3, x and y 4 and 5
    batch = task.draw(20, generator)
    symbols = batch.x.argmax(-1)
    assert symbols.shape == (5, 20)
    assert symbols[1:].T.tolist() == [[0, 1, 2, 3]] * 20
    assert batch.target.T[0].tolist() == [0, 1, 2, 3, symbols[0, 0].item()]
    assert set(symbols[0].tolist()) == {4, 5}
    assert (batch.target[-1] == symbols[0]).all()


def test_no_regularities_is_judged_at_the_end_alone(generator):
    task = NoRegularities(p=5)
    batch = task.draw(50, generator)
    assert batch.x[1:].argmax(-1).max() == 3, "x and y are at the ends alone"
    right = torch.zeros(5, 50, 6).scatter_(2, batch.target.unsqueeze(-1), 30.0)
    wrong_before = right.clone()
    wrong_before[2] = 0.0
    assert task.errors(wrong_before, batch).worst.max() < 1e-6
    assert NoiseFree.errors(task, right, batch).worst.max() < 1e-6
    right[-1] = 0.0
    torch.testing.assert_close(task.errors(right, batch).worst, torch.full((50,), 5 / 6))


def test_very_long_sequences(generator):
    task = VeryLong(50, 30_000)
    batch = task.draw(4000, generator)
    symbols = batch.x.argmax(-1)  # (T, B); a_1 .. a_50, e, b, x, y
    assert batch.x.shape[2] == 54
    assert batch.lengths.min() == 53, "b, x or y, q distractors, e"
    assert batch.lengths.float().mean() == pytest.approx(50 + 9 + 3, abs=0.5)  # q + 14 with the last symbol, by (3)
    assert (symbols[0] == 51).all()
    assert (symbols[1] == 52 + batch.target).all()
    for row in range(20):
        n = int(batch.lengths[row])
        assert symbols[n - 1, row] == 50
        assert symbols[2 : n - 1, row].max() < 50


def test_adding_by_hand(generator):
    task = Adding(100, 74_000)
    batch = task.draw(3000, generator)
    assert batch.lengths.min() == 100
    assert batch.lengths.max() == 110
    seen = set()
    for row in range(3000):
        n = int(batch.lengths[row])
        value, marker = batch.x[:n, row].T
        assert marker[0] == -1
        assert marker[-1] == -1
        places = (marker == 1).nonzero()[:, 0].tolist()
        assert len(places) in (1, 2)
        assert places[0] < 10 or len(places) == 1  # one mark is on the first pair, which keeps its -1
        assert max(places) <= 49
        seen.update(places)
        assert batch.target[row] == pytest.approx(0.5 + sum(float(value[p]) for p in places) / 4, abs=1e-6)
    assert seen == set(range(1, 50))
    assert batch.x[..., 0].min() < -0.99


def test_multiplication_by_hand(generator):
    batch = Multiplication(13).draw(500, generator)
    for row in range(500):
        value, marker = batch.x[:, row].T
        product = value[marker == 1].prod()
        assert batch.target[row] == pytest.approx(float(product), abs=1e-6)
    assert batch.x[..., 0].min() >= 0


@pytest.mark.parametrize("task", [order_6a(), order_6b()], ids=["6a", "6b"])
def test_marks_of_temporal_order_are_in_their_ranges(task, generator):
    batch = task.draw(2000, generator)
    symbols = batch.x.argmax(-1)
    ranges = [(10, 20), (50, 60)] if task.key == "6a" else [(10, 20), (33, 43), (66, 76)]
    classes = set()
    for row in range(2000):
        n = int(batch.lengths[row])
        text = "".join(SYMBOLS[i] for i in symbols[:n, row])
        assert 100 <= n <= 110
        assert text[0] == "E"
        assert text[-1] == "B"
        marks = [(t, s) for t, s in enumerate(text) if s in "XY"]
        assert len(marks) == len(ranges)
        assert all(low <= t <= high for (t, _), (low, high) in zip(marks, ranges, strict=True))
        order = "".join(s for _, s in marks)
        assert int(order.replace("X", "0").replace("Y", "1"), 2) == batch.target[row]
        classes.add(order)
    assert len(classes) == task.outputs


def test_errors_of_classes_by_hand():
    task = order_6a()
    outputs = logits([[0.7, 0.2, 0.05, 0.05]])
    found = task.errors(outputs, Batch(torch.empty(0), torch.tensor([1]), torch.tensor([0])))
    assert found.worst.item() == pytest.approx(0.3)
    assert found.mean.item() == pytest.approx((0.3 + 0.2 + 0.05 + 0.05) / 4)


def test_criteria_of_the_last_2000():
    adding, product = Adding(100, 74_000), Multiplication(13)
    none = None
    assert adding.solved(recent([0.039] * 2000, 0.0099), none, none)
    assert not adding.solved(recent([0.039] * 1999, 0.0099), none, none), "2,000 have to be seen"
    assert not adding.solved(recent([0.039] * 1999 + [0.0401], 0.0099), none, none)
    assert not adding.solved(recent([0.039] * 1999 + [float("nan")], 0.0099), none, none)
    assert not adding.solved(recent([0.039] * 2000, 0.0101), none, none)
    assert adding.solved(recent([9.0] + [0.0] * 2000), none, none), "older ones do not count"
    assert product.solved(recent([0.05] * 12 + [0.0] * 1988), none, none)
    assert not product.solved(recent([0.05] * 13 + [0.0] * 1987), none, none)


def test_fresh_sequences_decide_after_the_screen(generator):
    task = VeryLong(5, 0)
    calls = []

    def predict(batch: Batch) -> torch.Tensor:
        calls.append(len(batch.lengths))
        right = torch.zeros(len(batch.lengths), 2).scatter_(1, batch.target.unsqueeze(1), 10.0)
        if len(calls) == 3:
            right[-1] = 0.0
        return right

    assert not task.solved(recent([0.1] * 249), predict, generator)
    assert not task.solved(recent([0.1] * 249 + [0.2]), predict, generator)
    assert not calls, "no test before the screen is passed"
    latest = recent([0.1] * 250)
    assert not task.solved(latest, predict, generator), "one wrong sequence fails the test"
    assert not latest.worst
    assert task.solved(recent([0.1] * 250), predict, generator)
    assert sum(calls[3:]) == 10_000


def test_copy_memory_and_adding_beside_the_memoryless(generator):
    copy, adding = Copy(200, 1), AddingTwo(200, 1)
    batch = copy.draw(50, generator)
    read, wanted = batch.x.argmax(-1), batch.target
    assert (read[:10] == wanted[-10:]).all()
    assert (wanted[:-10] == 8).all()
    assert (read[209] == 9).all()
    # Blanks for certain, and one of eight symbols at random in the end.
    outputs = torch.full((220, 50, 9), -40.0)
    outputs[:210, :, 8] = 40.0
    outputs[210:, :, :8] = 0.0
    assert copy.losses(outputs, batch).mean().item() == pytest.approx(10 * torch.tensor(8.0).log().item() / 220)
    batch = adding.draw(20_000, generator)
    assert adding.losses(torch.ones(20_000, 1), batch).mean().item() == pytest.approx(1 / 6, rel=0.03)
