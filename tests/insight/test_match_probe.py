"""A planted counter of brackets is the first that match and probe name; controls know nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tidegate as tg
from tidegate.insight import Span, match, probe

OPEN, CLOSE = 0, 1
COUNTER, UNITS, TOKENS = 5, 8, 4


def brackets(rows: int = 12, steps: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot tokens (T, B, 4) with balanced brackets among other tokens, and the depth after each step (T, B)."""
    random = np.random.default_rng(3)
    tokens, depth = np.zeros((steps, rows), dtype=int), np.zeros((steps, rows), dtype=int)
    for row in range(rows):
        now = 0
        for t in range(steps):
            kinds = [2, 3] + ([OPEN] if now < 2 else []) + ([CLOSE] if now else [])
            tokens[t, row] = random.choice(kinds)
            now += int(tokens[t, row] == OPEN) - int(tokens[t, row] == CLOSE)
            depth[t, row] = now
    return torch.nn.functional.one_hot(torch.from_numpy(tokens), TOKENS).double(), torch.from_numpy(depth)


def counting() -> tg.LSTM:
    """Random units, and one that adds 0.76 for an open bracket and takes it away for a closed one."""
    torch.manual_seed(7)
    lstm = tg.LSTM(TOKENS, UNITS, dtype=torch.float64).eval()
    with torch.no_grad():
        for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0):
            weight.view(4, UNITS, -1)[:, COUNTER] = 0.0
        lstm.bias_ih_l0.view(4, UNITS)[[0, 1, 3], COUNTER] = 40.0
        lstm.weight_ih_l0.view(4, UNITS, TOKENS)[2, COUNTER, OPEN] = 1.0
        lstm.weight_ih_l0.view(4, UNITS, TOKENS)[2, COUNTER, CLOSE] = -1.0
    return lstm


def spans_of(depth: np.ndarray) -> set[Span]:
    """Stretches with a bracket open."""
    found = set()
    for row in range(depth.shape[1]):
        edge = np.diff(np.concatenate([[0], depth[:, row] > 0, [0]]).astype(int))
        found |= {Span(row, int(a), int(b)) for a, b in zip(*(np.flatnonzero(edge == s) for s in (1, -1)), strict=True)}
    return found


def test_match_names_the_counter():
    x, depth = brackets()
    spans = sorted(spans_of(depth.numpy()))
    marked = next(s for s in spans if s.start > 0 and s.end < 40 and s.end - s.start > 3)
    found = match(counting(), x, marked, threshold=0.5)
    assert found.units[0] == COUNTER
    assert found.contrast.argmax() == COUNTER
    assert found.signs[0] == 1
    others = set(spans) - {marked}
    alone = match(counting(), x, marked, threshold=0.5, most=1)
    assert set(alone.spans) == others
    assert (alone.scores == 1.0).all()
    assert alone.to_frame().height == len(others)
    lengths = [abs(s.end - s.start - (marked.end - marked.start)) for s in alone.spans]
    assert lengths == sorted(lengths)  # among equals the nearest length comes first


def test_match_takes_negative_units_and_finds_none():
    x, depth = brackets()
    lstm = counting()
    lstm.weight_ih_l0.data.view(4, UNITS, TOKENS)[2, COUNTER].neg_()
    marked = next(s for s in sorted(spans_of(depth.numpy())) if s.start > 0 and s.end < 40)
    assert match(lstm, x, marked).signs[0] == -1
    nothing = match(lstm, x, marked, threshold=50.0)
    assert len(nothing.units) == len(nothing.spans) == 0
    assert nothing.to_frame().height == 0
    with pytest.raises(ValueError, match="0 <= start < end; given"):
        match(lstm, x, (0, 5, 5))
    with pytest.raises(ValueError, match="row from 0 to 11"):
        match(lstm, x, (12, 0, 5))


def test_probe_names_the_counter():
    x, depth = brackets(40)
    for labels, measure, chance in ((depth.double(), "R2", 0.0), (depth > 0, "balanced accuracy", 0.5)):
        found = probe(counting(), x, labels)
        print(found)
        assert found.measure == measure
        assert found.chance == chance
        assert found.ranking[0].tolist() == [0, COUNTER]
        assert found.memory > 0.98
        assert found.units[0, COUNTER] > 0.98
        assert abs(found.permuted - chance) < 0.1
        assert found.input < 0.75
        assert found.untrained < found.memory - 0.05
    three = probe(counting(), x, depth)
    assert three.chance == 1 / 3
    assert abs(three.permuted - 1 / 3) < 0.1


def test_probe_leaves_out_what_has_no_label():
    x, depth = brackets(20)
    labels = depth.double()
    clean = probe(counting(), x[:30], labels[:30])
    labels[30:] = torch.nan
    x[30:] = 5.0
    assert probe(counting(), x, labels).memory == pytest.approx(clean.memory, abs=1e-9)
    cut = probe(counting(), x, depth.double(), lengths=torch.full((20,), 30))
    assert cut.memory == pytest.approx(clean.memory, abs=1e-9)
    classes = depth.clone()
    classes[30:] = -1
    assert probe(counting(), x, classes).chance == 1 / 3


def test_probe_keeps_the_layer_and_refuses():
    x, depth = brackets(4)
    lstm = counting().train()
    before = {name: p.clone() for name, p in lstm.named_parameters()}
    state = torch.get_rng_state()
    assert probe(lstm, x, depth.double()).to_frame().height == 4
    assert lstm.training
    assert all(torch.equal(before[name], p) for name, p in lstm.named_parameters())
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="one a step and row"):
        probe(lstm, x, depth[:5])
    with pytest.raises(ValueError, match="given 1 rows"):
        probe(lstm, x[:, :1], depth[:, :1])
    with pytest.raises(ValueError, match="at least two classes"):
        probe(lstm, x, depth * 0)
