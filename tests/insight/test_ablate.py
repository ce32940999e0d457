"""Ablations against the equations with the gate fixed, and history against shorter input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import needs_native
from insight_layers import layer, state
from torch.nn.utils.rnn import pack_padded_sequence

import tidegate as tg
from tidegate import ops
from tidegate.cell import lstm_input
from tidegate.insight import ablate, ablate_each, history_kept
from tidegate.insight.ablate import GATES

OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "peephole": {"peephole": True},
    "layer norm": {"layer_norm": True},
    "both directions": {"bidirectional": True},
}


def fixed_by_hand(lstm: tg.LSTM, x, hx, d: int, gate: str | None, units: list[int], value: torch.Tensor):
    """h of one direction (T, B, H) with a gate of some units put at a value after its activation."""
    w, norm = lstm.weights(0)[d], torch.nn.functional.layer_norm
    h, c, outputs = hx[0][d], hx[1][d], []
    for x_t in x.flip(0) if d else x:
        a_h = h @ w.hh.t()
        if w.norm_hh is not None:
            a_h = norm(a_h, a_h.shape[-1:], w.norm_hh)
        a_i, a_f, a_g, a_o = (lstm_input(x_t, w) + a_h).chunk(4, -1)
        if w.ch is not None:
            a_i, a_f = a_i + c * w.ch[0], a_f + c * w.ch[1]
        gates = {"input": a_i.sigmoid(), "forget": a_f.sigmoid(), "candidate": a_g.tanh()}
        if gate in gates:
            gates[gate][:, units] = value[units]
        c = gates["forget"] * c + gates["input"] * gates["candidate"]
        o = (a_o + c * w.ch[2] if w.ch is not None else a_o).sigmoid()
        if gate == "output":
            o[:, units] = value[units]
        if gate is None:
            o[:, units] = 0.0
        shown = c if w.norm_c is None else norm(c, c.shape[-1:], *w.norm_c)
        h = o * shown.tanh()
        outputs.append(h)
    return torch.stack(outputs[::-1] if d else outputs)


@pytest.mark.parametrize("gate", [*GATES, None])
@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_against_the_equations(name, gate):
    lstm = layer(3, 6, scale=2.0, **OPTIONS[name])
    x, hx = torch.randn(10, 4, 3, dtype=torch.float64), state(lstm, 4)
    value = torch.tensor([0.0, 1.0, 0.3, 0.9, 0.5, 0.1], dtype=torch.float64)
    value = value * 2 - 1 if gate == "candidate" else value
    v = torch.randn(lstm.output_size, dtype=torch.float64)

    def score(x):
        return lstm(x, hx)[0].sum(0) @ v

    for units, direction in (([0, 1, 4], None), ([3], lstm.directions - 1)):
        given = {} if gate is None else {"value": value}
        found = ablate(lstm, x, score, gate=gate, units=units, direction=direction, **given)
        sides = [
            fixed_by_hand(lstm, x, hx, d, gate, units if direction in (None, d) else [], value)
            if direction in (None, d)
            else lstm(x, hx)[0][..., d * 6 : (d + 1) * 6]
            for d in range(lstm.directions)
        ]
        np.testing.assert_allclose(found.after[0], torch.cat(sides, -1).sum(0) @ v, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.before, score(x))
    np.testing.assert_allclose(score(x), found.before, rtol=0)  # nothing stays changed


@torch.no_grad()
def test_mean_of_the_data_and_every_part():
    lstm, x = layer(3, 4, bidirectional=True, num_layers=2), torch.randn(10, 4, 3, dtype=torch.float64)
    lengths = torch.tensor([10, 3, 0, 7])

    def score(x):
        return lstm(x, lengths=lengths)[0].sum((0, 2))

    forget = lstm.trace(x, lengths=lengths).layers[1].forget  # (T, B, D, H), padding 0
    mean = forget.sum((0, 1)) / lengths.sum()
    by_default = ablate(lstm, x, score, gate="forget", direction=1)
    np.testing.assert_allclose(
        by_default.after, ablate(lstm, x, score, gate="forget", direction=1, value=mean[1]).after
    )
    each = ablate_each(lstm, x, score)
    assert len(each.names) == 4 + 2 + 2 * 4
    place = each.names.index("without all units, backward")
    forward_only = lstm(x, lengths=lengths)[0][..., :4].sum((0, 2))
    np.testing.assert_allclose(each.after[place], forward_only, rtol=1e-12)
    np.testing.assert_allclose(each.after[each.names.index("forget gate fixed")],
                               ablate(lstm, x, score, gate="forget").after[0])  # fmt: skip
    alone = ablate(lstm, x, score, units=[2], direction=1).after[0]
    np.testing.assert_allclose(each.after[each.names.index("without unit 2, backward")], alone)
    assert each.to_frame()["what"].to_list() == each.names


@needs_native
@torch.no_grad()
def test_native_equals_reference_and_steps_follow():
    lstm, x = tg.LSTM(3, 20).eval(), torch.randn(10, 2, 3)

    def score(x):
        step, after = torch.zeros(2), None
        for x_t in x:  # prepared calls of single steps must not outlive the change
            y, after = lstm.step(x_t, after)
            step = step + y.sum(-1)
        whole = lstm(x)[0].sum((0, 2))
        torch.testing.assert_close(step, whole)
        return whole

    found = []
    for backend in ("native", "reference"):
        with ops.use_backend(backend):
            found.append(ablate(lstm, x, score, units=[3, 17]).after)
            found.append(ablate(lstm, x, score, gate="forget", value=1.0).after)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4)
    np.testing.assert_allclose(found[1], found[3], rtol=1e-4)


def test_refusals():
    lstm, x = layer(3, 4), torch.randn(5, 2, 3, dtype=torch.float64)

    def score(x):
        return lstm(x)[0].sum((0, 2))

    for options, message in (
        ({"gate": "forgot"}, "gate is one of"),
        ({"value": 0.5}, "no gate"),
        ({"gate": "forget", "value": 1.5}, "between 0 and 1"),
        ({"units": [4]}, "from 0 to 3; given 4"),
        ({"direction": 1}, "from 0 to 0; given 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ablate(lstm, x, score, **options)


@torch.no_grad()
def test_history_is_shorter_input():
    for first in (False, True):
        lstm, x = layer(3, 4, batch_first=first, num_layers=2), torch.randn(20, 2, 3, dtype=torch.float64)
        turn = (lambda t: t.transpose(0, 1)) if first else (lambda t: t)

        def score(x, lstm=lstm, first=first):
            return lstm(x)[0][:, -1].sum(-1) if first else lstm(x)[0][-1].sum(-1)

        found = history_kept(lstm, turn(x), score, [0, 3, 15, 40], end=15, time=15.0, unit="minute")
        for k, kept in enumerate((0, 3)):
            np.testing.assert_allclose(found.scores[k], score(turn(x[15 - kept :])), rtol=1e-12)
        np.testing.assert_allclose(found.scores[2:], np.stack([score(turn(x))] * 2), rtol=1e-12)
        np.testing.assert_allclose(found.whole, score(turn(x)))
        assert found.to_frame()["kept_minute"].to_list() == [0.0, 45.0, 225.0, 600.0]


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_history_ends_where_each_row_does(packed):
    lengths, reset = torch.tensor([20, 7, 0, 13]), torch.zeros(20, 4, dtype=torch.bool)
    reset[10, 3] = True  # the model's own
    for first in (False, True):
        lstm, x = layer(3, 4, batch_first=first), torch.randn(20, 4, 3, dtype=torch.float64)

        def score(x, lstm=lstm, first=first):
            if packed:
                given = pack_padded_sequence(x[:, [0, 1, 3]], lengths[[0, 1, 3]], enforce_sorted=False)
                return lstm(given)[1].h[0].sum(-1)
            x, starts = (x.transpose(0, 1), reset.t()) if first else (x, reset)
            return lstm(x, lengths=lengths, reset=starts)[1].h[0].sum(-1)

        found = history_kept(lstm, x, score, [1, 2, 7, 20])
        for k, kept in enumerate((1, 2, 7, 20)):
            for place, row in enumerate([0, 1, 3] if packed else range(4)):
                length = int(lengths[row])
                start = max(0, length - kept, 10 if row == 3 and not packed else 0)
                own = x[start:length, row]
                alone = lstm(own)[1].h.sum() if length else 0.0
                np.testing.assert_allclose(found.scores[k, place], alone, rtol=1e-12)


@torch.no_grad()
def test_history_of_a_single_sequence():
    lstm, x = layer(3, 4, batch_first=True), torch.randn(9, 3, dtype=torch.float64)
    found = history_kept(lstm, x, lambda x: lstm(x)[0][-1].sum(), [4])
    np.testing.assert_allclose(found.scores[0, 0], lstm(x[-4:])[0][-1].sum(), rtol=1e-12)


def test_no_history_at_the_end_is_refused():
    """Nothing is read after the memory is emptied there: the whole history would be given as if it were none."""
    lstm, x = layer(3, 4), torch.randn(5, 2, 3, dtype=torch.float64)

    def score(x):
        return lstm(x)[0][-1].sum(-1)

    with pytest.raises(ValueError, match="at least 0 with end given and 1 without; given 0"):
        history_kept(lstm, x, score, [0])
    with pytest.raises(ValueError, match="5 steps reads nothing from end - kept = 5 on; given end=5"):
        history_kept(lstm, x, score, [0], end=5)
