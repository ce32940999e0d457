"""Laws that every backend obeys. A new backend is tested by being in ``ops.BACKENDS``.

The truth is written here a second time, row by row and step by step, from ``cell.py`` alone, so
that a mistake in a backend's masks, directions or order shows.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import assert_close, gradients
from torch import Tensor

from tidegate import ops
from tidegate.cell import LSTMWeights, lstm_input, lstm_step
from tidegate.ops import random

DTYPES = [torch.float64, torch.float32]
SIZES = [(1, 1, 1, 1), (5, 3, 4, 2), (13, 2, 3, 17), (9, 7, 5, 33)]  # T, B, I, H


class Case:
    """Random inputs and weights of one layer."""

    def __init__(self, sizes, directions, dtype, *, bias=True, peephole=False, layer_norm=False, proj=0, seed=0):
        T, B, I, H = sizes
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape, scale=1.0):
            return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()

        P = proj or H
        self.sizes, self.directions = sizes, directions
        self.x = draw(T, B, I)
        self.h_0, self.c_0 = draw(directions, B, P), draw(directions, B, H)
        self.weights = [
            LSTMWeights(
                draw(4 * H, I, scale=0.5),
                draw(4 * H, P, scale=0.5),
                draw(4 * H) if bias else None,
                draw(4 * H) if bias else None,
                draw(P, H, scale=0.5) if proj else None,
                draw(3, H) if peephole else None,
                draw(4 * H) if layer_norm else None,
                draw(4 * H) if layer_norm else None,
                draw(2, H) if layer_norm else None,
            )
            for _ in range(directions)
        ]

    def leaves(self) -> list[Tensor]:
        return [self.x, self.h_0, self.c_0, *(p for w in self.weights for p in w if p is not None)]

    def run(self, backend, lengths=None, reset=None, noise=None):
        with ops.use_backend(backend):
            return ops.lstm_sequence(self.x, self.h_0, self.c_0, self.weights, lengths, reset, noise)


class Masks:
    """What random masks do to one row's step, written out (Gal & Ghahramani 2016; Krueger et al. 2017)."""

    def __init__(self, noise, case, d, b):
        self.noise, self.rows, self.b, self.backward = noise, case.sizes[1], b, random.STREAM_BACKWARD * d

    def bits(self, rate, t, units, stream):
        return random.bernoulli(self.noise.seed, rate, t, self.rows, units, stream + self.backward)[self.b]

    def seen(self, h):
        """What the gates see of h: one mask a sequence, scaled by what is kept."""
        rate = 0.0 if self.noise is None or not self.noise.training else self.noise.recurrent_dropout
        if rate == 0.0:
            return h
        drop = self.bits(rate, 0, h.shape[-1], random.STREAM_RECURRENT_DROPOUT)
        return h * (~drop).to(h.dtype) / (1 - rate) if rate < 1 else h * 0

    def zoned(self, t, new, old, rate, stream):
        if self.noise is None or rate == 0.0:
            return new
        if not self.noise.training:
            return rate * old + (1 - rate) * new
        return torch.where(self.bits(rate, t, new.shape[-1], stream), old, new)

    def after(self, t, step, h, c):
        """Both memories after a step, from the step and those before it."""
        if self.noise is None:
            return step.hidden, step.cell
        return (
            self.zoned(t, step.hidden, h, self.noise.zoneout_hidden, random.STREAM_ZONEOUT_HIDDEN),
            self.zoned(t, step.cell, c, self.noise.zoneout_cell, random.STREAM_ZONEOUT_CELL),
        )


def truth(case: Case, lengths=None, reset=None, noise=None):
    """Each row and direction alone, each segment between resets alone, one step after another."""
    T, B = case.sizes[:2]
    out, cells, h_n, c_n = {}, {}, {}, {}
    for d, b in itertools.product(range(case.directions), range(B)):
        w, masks = case.weights[d], Masks(noise, case, d, b)
        n = T if lengths is None else int(lengths[b])
        starts = sorted({0} | {t for t in range(n) if reset is not None and reset[t, b]})
        segments = [range(s, e) for s, e in zip(starts, [*starts[1:], n], strict=True)]
        h, c = case.h_0[d, b : b + 1], case.c_0[d, b : b + 1]
        fresh = reset is not None and n > 0 and bool(reset[0, b]) and d == 0
        for k, segment in enumerate(segments if d == 0 else segments[::-1]):
            if k > 0 or fresh:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            for t in segment if d == 0 else reversed(segment):
                step = lstm_step(lstm_input(case.x[t, b : b + 1], w), h, c, w, masks.seen(h))
                h, c = masks.after(t, step, h, c)
                out[t, b, d], cells[t, b, d] = h[0], c[0]
        h_n[d, b], c_n[d, b] = h[0], c[0]
    zero_h, zero_c = torch.zeros_like(case.h_0[0, 0]), torch.zeros_like(case.c_0[0, 0])

    def gather(values, zero):
        rows = [values.get((t, b, d), zero) for t in range(T) for b in range(B) for d in range(case.directions)]
        return torch.stack(rows).view(T, B, case.directions, -1)

    def states(values):
        rows = [values[d, b] for d in range(case.directions) for b in range(B)]
        return torch.stack(rows).view(case.directions, B, -1)

    return ops.SequenceResult(gather(out, zero_h), gather(cells, zero_c), states(h_n), states(c_n))


def some_lengths(T, B):
    return torch.randint(0, T + 1, (B,), generator=torch.Generator().manual_seed(3))


def some_reset(T, B):
    return torch.rand(T, B, generator=torch.Generator().manual_seed(4)) < 0.3


def compare(case, result, expected):
    for name, got, want in zip(result._fields, result, expected, strict=True):
        assert_close(got, want, what=name)
    # Gradients add up over steps and rows, in another order on each side.
    tolerance = 1e-10 if case.x.dtype == torch.float64 else 5e-5
    names = ["x", "h_0", "c_0"] + [
        f"{n}[{d}]" for d, w in enumerate(case.weights) for n, p in w._asdict().items() if p is not None
    ]
    leaves = case.leaves()
    for name, got, want in zip(names, gradients(list(result), leaves), gradients(list(expected), leaves), strict=True):
        assert_close(got, want, tolerance, f"gradient of {name}")


@pytest.fixture(params=list(ops.BACKENDS))
def backend(request):
    return request.param


def skip_where_declined(backend, case, noise=None):
    reason = ops.BACKENDS[backend].declines(case.x, case.weights, noise)
    if reason is not None:
        pytest.skip(f"{backend} declines: {reason}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("masks", ["none", "lengths", "reset", "both"])
def test_equals_the_equations_step_by_step(backend, sizes, directions, dtype, masks):
    case = Case(sizes, directions, dtype)
    skip_where_declined(backend, case)
    T, B = sizes[:2]
    lengths = some_lengths(T, B) if masks in ("lengths", "both") else None
    reset = some_reset(T, B) if masks in ("reset", "both") else None
    compare(case, case.run(backend, lengths, reset), truth(case, lengths, reset))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"peephole": True},
        {"layer_norm": True},
        {"proj": 3},
        {"proj": 2, "layer_norm": True, "peephole": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("directions", [1, 2])
def test_options_equal_the_equations(backend, options, directions, dtype):
    case = Case((6, 3, 4, 5), directions, dtype, **options)
    skip_where_declined(backend, case)
    lengths, reset = some_lengths(6, 3), some_reset(6, 3)
    compare(case, case.run(backend, lengths, reset), truth(case, lengths, reset))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chunked_equals_whole(backend, dtype):
    case = Case((11, 3, 4, 6), 1, dtype)
    skip_where_declined(backend, case)
    reset = some_reset(11, 3)
    whole = case.run(backend, reset=reset)
    h, c, outputs = case.h_0, case.c_0, []
    with ops.use_backend(backend):
        for steps in (slice(0, 1), slice(1, 7), slice(7, 11)):
            part = ops.lstm_sequence(case.x[steps], h, c, case.weights, None, reset[steps])
            h, c = part.h_n, part.c_n
            outputs.append(part.output)
    assert_close(torch.cat(outputs), whole.output)
    assert_close(c, whole.c_n)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_alone_equals_the_row_in_its_batch_in_any_order(backend, dtype):
    case = Case((8, 5, 3, 7), 2, dtype)
    skip_where_declined(backend, case)
    lengths, reset = some_lengths(8, 5), some_reset(8, 5)
    whole = case.run(backend, lengths, reset)
    order = torch.tensor([3, 0, 4, 2, 1])
    with ops.use_backend(backend):
        mixed = ops.lstm_sequence(
            case.x[:, order], case.h_0[:, order], case.c_0[:, order], case.weights, lengths[order], reset[:, order]
        )
        for b in range(5):
            row = slice(b, b + 1)
            alone = ops.lstm_sequence(
                case.x[:, row], case.h_0[:, row], case.c_0[:, row], case.weights, lengths[row], reset[:, row]
            )
            assert_close(alone.output, whole.output[:, row])
            assert_close(alone.c_n, whole.c_n[:, row])
    assert_close(mixed.output, whole.output[:, order])
    assert_close(mixed.h_n, whole.h_n[:, order])


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e30])
def test_padding_never_leaks(backend, junk):
    case = Case((6, 4, 3, 5), 2, torch.float64)
    skip_where_declined(backend, case)
    lengths = torch.tensor([6, 0, 3, 1])
    clean = case.run(backend, lengths)
    expected = gradients(list(clean), case.leaves())
    padded = torch.arange(6)[:, None] >= lengths
    with torch.no_grad():
        case.x[padded] = junk
    result = case.run(backend, lengths)
    found = gradients(list(result), case.leaves())
    for got, want in zip([*result, *found], [*clean, *expected], strict=True):
        assert torch.equal(got, want)
    assert (result.output[padded] == 0).all()
    assert (found[0][padded] == 0).all()


def test_an_empty_row_returns_its_initial_state(backend):
    case = Case((4, 3, 2, 5), 2, torch.float64)
    skip_where_declined(backend, case)
    result = case.run(backend, torch.tensor([0, 4, 0]))
    for b in (0, 2):
        assert torch.equal(result.h_n[:, b], case.h_0[:, b])
        assert torch.equal(result.c_n[:, b], case.c_0[:, b])


def test_no_gradient_crosses_a_reset(backend):
    case = Case((9, 1, 3, 4), 2, torch.float64)
    skip_where_declined(backend, case)
    reset = torch.zeros(9, 1, dtype=torch.bool)
    reset[5] = True
    result = case.run(backend, reset=reset)
    (after,) = torch.autograd.grad(result.output[5:, :, 0].sum(), case.x, retain_graph=True)
    (before,) = torch.autograd.grad(result.output[:5, :, 1].sum(), case.x, retain_graph=True)
    assert (after[:5] == 0).all()
    assert (after[5:] != 0).all()
    assert (before[5:] == 0).all()
    assert (before[:5] != 0).all()
    h_0, c_0 = torch.autograd.grad(result.output[5:, :, 0].sum(), [case.h_0, case.c_0])
    assert (h_0 == 0).all()
    assert (c_0 == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reversal_swaps_the_directions(backend, dtype):
    case = Case((7, 2, 3, 5), 2, dtype)
    skip_where_declined(backend, case)
    result = case.run(backend)
    with ops.use_backend(backend):
        mirrored = ops.lstm_sequence(case.x.flip(0), case.h_0.flip(0), case.c_0.flip(0), case.weights[::-1])
    assert_close(mirrored.output.flip(0).flip(2), result.output)
    assert_close(mirrored.h_n.flip(0), result.h_n)


def test_first_and_second_derivatives(backend):
    case = Case((3, 2, 2, 3), 2, torch.float64)
    skip_where_declined(backend, case)
    lengths, reset = torch.tensor([3, 2]), some_reset(3, 2)
    fields = [p for w in case.weights for p in w]
    leaves = case.leaves()

    def run(x, h_0, c_0, *weights):
        given = iter(weights)
        rebuilt = [None if p is None else next(given) for p in fields]
        size = len(LSTMWeights._fields)
        split = [LSTMWeights(*rebuilt[k : k + size]) for k in range(0, len(rebuilt), size)]
        with ops.use_backend(backend):
            return tuple(ops.lstm_sequence(x, h_0, c_0, split, lengths, reset))

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


NOISES = [
    {"recurrent_dropout": 0.4},
    {"recurrent_dropout": 1.0},
    {"zoneout_hidden": 0.3, "zoneout_cell": 0.6},
    {"zoneout_cell": 0.5, "recurrent_dropout": 0.2},
]
OTHERS = [{}, {"peephole": True, "bias": False}, {"layer_norm": True, "peephole": True}, {"proj": 3}]


@pytest.mark.parametrize("rates", NOISES, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_random_masks_equal_the_equations(backend, rates, training, directions, masked, options):
    noise = ops.Noise(torch.tensor(0x1234_5678_9ABC_DEF0), **rates, training=training)
    case = Case((6, 3, 4, 9), directions, torch.float64, **options)
    skip_where_declined(backend, case, noise)
    lengths, reset = (some_lengths(6, 3), some_reset(6, 3)) if masked else (None, None)
    compare(case, case.run(backend, lengths, reset, noise), truth(case, lengths, reset, noise))
