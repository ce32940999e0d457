"""Bitwise laws of the kernels, and equality with the reference on every instruction set.

A row's results do not depend on the rows beside it or on the number of threads, outputs not on
chunking, weight gradients not on the number of threads.
"""

from __future__ import annotations

import copy
import itertools
import random

import pytest
import torch
from helpers import assert_close
from torch.nn.utils.rnn import pack_sequence

import tidegate as tg
from tidegate import ops
from tidegate.cell import LSTMWeights

NAMES = ("output", "cells", "h_n", "c_n")


class Layer:
    """One layer's inputs and weights; ``run`` returns results and all gradients by name."""

    def __init__(self, T, B, I, H, directions=1, dtype=torch.float32, seed=0, peephole=False, bias=True, **kind):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape, scale=1.0):
            return (torch.randn(*shape, generator=generator) * scale).to(dtype).requires_grad_()

        cell = torch.float32 if dtype == torch.bfloat16 else dtype
        norm, projects = kind.get("norm"), kind.get("projects")
        P = kind.get("outputs", (H + 2) // 3 if projects else H)
        self.x = draw(T, B, I)
        self.h = draw(directions, B, P, scale=0.5)
        self.c = draw(directions, B, H, scale=0.5).detach().to(cell).requires_grad_()
        scale = (I + H) ** -0.5
        self.weights = [
            LSTMWeights(
                draw(4 * H, I, scale=scale),
                draw(4 * H, P, scale=scale),
                draw(4 * H, scale=0.3) if bias else None,
                draw(4 * H, scale=0.3) if bias else None,
                draw(P, H, scale=H**-0.5) if projects else None,
                draw(3, H, scale=0.3) if peephole else None,
                draw(4 * H) if norm else None,
                draw(4 * H) if norm else None,
                draw(2, H) if norm else None,
            )
            for _ in range(directions)
        ]
        self.generator = generator

    def run(self, lengths=None, reset=None, noise=None, rows=None, backend="native", grads=None):
        rows = slice(None) if rows is None else rows
        x, h, c = self.x[:, rows], self.h[:, rows], self.c[:, rows]
        lengths = None if lengths is None else lengths[rows]
        reset = None if reset is None else reset[:, rows]
        with ops.use_backend(backend):
            result = ops.lstm_sequence(x, h, c, self.weights, lengths, reset, noise)
        found = dict(zip(NAMES, result, strict=True))
        if grads is None:
            generator = torch.Generator().manual_seed(1)
            steps = *self.x.shape[:2], len(self.weights)
            shapes = (*steps, self.h.shape[2]), (*steps, self.c.shape[2]), self.h.shape, self.c.shape
            grads = [
                torch.randn(shape, generator=generator).to(r.dtype) for shape, r in zip(shapes, result, strict=True)
            ]
        grads = [g[:, rows] for g in grads]
        leaves = {"d_x": self.x, "d_h": self.h, "d_c": self.c}
        for d, w in enumerate(self.weights):
            leaves |= {f"d_{name}[{d}]": p for name, p in w._asdict().items() if p is not None}
        found |= dict(zip(leaves, torch.autograd.grad(list(result), list(leaves.values()), grads), strict=True))
        return found


def in_float64(layer):
    precise = copy.copy(layer)
    for name in ("x", "h", "c"):
        setattr(precise, name, getattr(layer, name).detach().double().requires_grad_())
    precise.weights = [
        LSTMWeights(*(None if p is None else p.detach().double().requires_grad_() for p in w)) for w in layer.weights
    ]
    return precise


def some(T, B, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, T + 1, (B,), generator=generator), torch.rand(T, B, generator=generator) < 0.15


OPTIONS = {
    "plain": {},
    "norm": {"norm": True},
    "projection": {"projects": True},
    "norm and projection": {"norm": True, "projects": True},
}
KINDS = pytest.mark.parametrize("kind", OPTIONS.values(), ids=OPTIONS)
# Few projected outputs under a norm are too ill-conditioned for float32: of a single one it keeps the sign.
PRECISE = [(option, dtype) for option in OPTIONS for dtype in (torch.float32, torch.float64)]
PRECISE.remove(("norm and projection", torch.float32))

# T, B, I, H: the edges, some large odd widths, and rows enough for a backward pass in 2 and in 8 parts.
SIZES = [(1, 1, 1, 1), (3, 2, 1, 70), (300, 1, 2, 3), (2, 33, 70, 1), (40, 7, 33, 17), (5, 13, 3, 257), (2, 3, 511, 5)]
SIZES += [(40, 37, 11, 24), (33, 133, 4, 17)]
SIZES += [(9, 8, 1100, 21), (5, 3, 1030, 21), (1, 2, 513, 530)]  # more than a block of inputs, read by tiles or before


def sampled(count, longest=300, seed=7):
    """Sizes over the whole range, half of them with at most 30 steps."""
    generator = random.Random(seed)
    draw = lambda low, high: generator.randint(low, high)  # noqa: E731
    steps = [draw(1, longest if n % 2 else min(longest, 30)) for n in range(count)]
    return [(T, draw(1, 33), draw(1, 70), draw(1, 70)) for T in steps]


@pytest.mark.parametrize("sizes", SIZES + sampled(12), ids=str)
@pytest.mark.parametrize(("option", "dtype"), PRECISE, ids=str)
def test_equals_the_reference(isa, sizes, option, dtype):
    (T, B, _, H), kind = sizes, OPTIONS[option]
    layer = Layer(*sizes, directions=1 + H % 2, dtype=dtype, peephole=H % 3 == 0, bias=H % 5 != 0, **kind)
    lengths, reset = some(T, B)
    tolerance = 1e-10 if dtype == torch.float64 else 3e-5
    for masks in [(None, None), (lengths, reset)]:
        found, expected = layer.run(*masks), layer.run(*masks, backend="reference")
        exact = None
        if "norm" in kind and dtype == torch.float32:
            exact = in_float64(layer).run(*masks, backend="reference")
        for name, want in expected.items():
            if exact is None:
                assert_close(found[name], want, tolerance, name)
            else:  # the norm of few or nearly equal values is ill-conditioned: both sides err
                error, allowed = ((y[name].double() - exact[name]).abs().max() for y in (found, expected))
                assert error <= 2 * allowed + 1e-4 * exact[name].abs().max(), (name, error, allowed)


@pytest.mark.parametrize("rows", [2, 9])
def test_no_inputs(isa, rows):
    """What remains are the biases and the memory."""
    layer = Layer(3, rows, 0, 21, directions=2)
    found = layer.run()
    for name, want in layer.run(backend="reference").items():
        assert_close(found[name], want, 3e-5, name)


@pytest.mark.parametrize("outputs", [0, 1, 15, 16, 70, 131])
@pytest.mark.parametrize("units", [16, 70])
def test_projections_of_any_size(isa, outputs, units):
    """Also to more outputs than units; those to none are left to the reference."""
    layer = Layer(7, 5, 3, units, directions=2, dtype=torch.float64, projects=True, outputs=outputs)
    declined = ops.BACKENDS["native"].declines(layer.x, layer.weights, None)
    assert (declined is not None) == (outputs == 0)
    masks = some(7, 5)
    found = layer.run(*masks, backend="native" if outputs else "reference")
    for name, want in layer.run(*masks, backend="reference").items():
        assert_close(found[name], want, 1e-10, name)


@pytest.mark.parametrize("sizes", [(20, 5, 9, 17), (12, 33, 64, 48), (15, 1, 7, 33)], ids=str)
@KINDS
def test_bfloat16_is_near_float64(isa, sizes, kind):
    T, B, _, _ = sizes
    layer = Layer(*sizes, directions=2, dtype=torch.bfloat16, peephole=True, **kind)
    lengths, reset = some(T, B)
    expected = in_float64(layer).run(lengths, reset, backend="reference")
    found, plain = layer.run(lengths, reset), layer.run(lengths, reset, backend="reference")
    for name, want in expected.items():
        error, allowed = (found[name].double() - want).norm(), (plain[name].double() - want).norm()
        assert error <= 2 * allowed + 1e-3 * want.norm(), (name, error, allowed)


CASES = [(23, 19, 11, 37, torch.float32), (9, 40, 64, 80, torch.float32), (11, 13, 6, 21, torch.bfloat16)]
CASES += [(7, 9, 5, 130, torch.float64), (600, 3, 4, 9, torch.float32), (40, 1, 5, 64, torch.float32)]
CASES += [(90, 4, 5, 37, torch.float32)]
CASES += [(12, 9, 1100, 21, torch.float32), (11, 10, 1027, 21, torch.bfloat16)]  # sums of several blocks
CASES += [(5, 8, 3, 1030, torch.float32), (4, 7, 3, 529, torch.bfloat16)]
CASES += [(40, 37, 11, 24, torch.float32), (35, 70, 5, 21, torch.bfloat16), (33, 133, 4, 17, torch.float64)]
CASES += [(*sizes, dtype) for sizes, dtype in zip(sampled(2, 40, 3), (torch.bfloat16, torch.float32), strict=True)]


THREADED = [(option, masked) for option in ("plain", "norm") for masked in (False, True)] + [("projection", True)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("option", "masked"), THREADED, ids=str)
def test_results_do_not_depend_on_the_number_of_threads(isa, all_threads, case, option, masked):
    *sizes, dtype = case
    kind = OPTIONS[option]
    masks = some(*sizes[:2]) if masked else (None, None)
    for directions in (1, 2):
        layer = Layer(*sizes, directions=directions, dtype=dtype, peephole=True, **kind)
        torch.set_num_threads(1)
        expected = layer.run(*masks)
        for count in (2, 3, 4, 7):
            torch.set_num_threads(count)
            for name, got in layer.run(*masks).items():
                assert torch.equal(got, expected[name]), (name, count)


@pytest.mark.parametrize("units", [17, 20, 40])
@pytest.mark.parametrize("count", [6, 8, 10])
@pytest.mark.parametrize("projects", [False, True], ids=["plain", "projection"])
def test_more_threads_than_both_directions_have_blocks_for(isa, all_threads, units, count, projects):
    """Some have nothing to do, and the others find their own team to wait for."""
    layer = Layer(20, 2, 4, units, directions=2, projects=projects)
    torch.set_num_threads(1)
    expected = layer.run()
    torch.set_num_threads(count)
    for name, got in layer.run().items():
        assert torch.equal(got, expected[name]), name


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@KINDS
def test_a_row_does_not_depend_on_the_rows_beside_it(isa, case, masked, kind):
    *sizes, dtype = case
    masks = some(*sizes[:2]) if masked else (None, None)
    layer = Layer(*sizes, directions=2, dtype=dtype, **kind)
    whole = layer.run(*masks)
    B = sizes[1]
    for rows in ([0], [B - 1], sorted({B // 2, 0}, reverse=True), list(range(B))[::-1], list(range(0, B, 2))):
        part = layer.run(*masks, rows=rows)
        for name in ("output", "cells", "h_n", "c_n"):
            assert torch.equal(part[name], whole[name][:, rows]), (name, rows)
        for name in ("d_x", "d_h", "d_c"):
            assert torch.equal(part[name][:, rows], whole[name][:, rows]), (name, rows)


@pytest.mark.parametrize("H", [64, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("projects", [False, True], ids=["plain", "projection"])
def test_what_is_written_past_the_caches_has_the_same_bits(isa, dtype, H, projects):
    T, B, I = 500, 40, 3  # more than 16 MB of results, where the few rows below are less
    layer = Layer(T, B, I, H, directions=2, dtype=dtype, projects=projects)
    lengths, reset = some(T, B)
    whole, rows = layer.run(lengths, reset), [3, B - 1]
    part = layer.run(lengths, reset, rows=rows)
    for name in (*NAMES, "d_x", "d_h", "d_c"):
        of_whole, of_part = (whole[name], part[name]) if name in NAMES else (whole[name], part[name][:, rows])
        assert torch.equal(of_whole[:, rows], of_part), name
    padding = torch.arange(T)[:, None] >= lengths  # (T, B)
    with torch.no_grad():
        arguments = (layer.x, layer.h, layer.c, layer.weights, lengths, reset)
        result, trace = ops.lstm_trace(*arguments)
    assert torch.equal(result.output, whole["output"])
    for values in (result.output, result.cells, *trace[:4]):
        assert (values[padding] == 0).all()
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("case", CASES, ids=str)
@KINDS
def test_chunks_give_the_bits_of_the_whole(isa, case, kind):
    *sizes, dtype = case
    T = sizes[0]
    layer = Layer(*sizes, dtype=dtype, **kind)
    _, reset = some(*sizes[:2])
    with torch.no_grad():
        whole = ops.lstm_sequence(layer.x, layer.h, layer.c, layer.weights, None, reset)
        for size in (1, 2, 5, T - 1):
            h, c, outputs = layer.h, layer.c, []
            for start in range(0, T, size):
                steps = slice(start, start + size)
                part = ops.lstm_sequence(layer.x[steps], h, c, layer.weights, None, reset[steps])
                h, c = part.h_n, part.c_n
                outputs.append(part.output)
            assert torch.equal(torch.cat(outputs), whole.output)
            assert torch.equal(h, whole.h_n)
            assert torch.equal(c, whole.c_n)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_and_inference_give_the_same_bits(isa, kind, dtype):
    layer = Layer(9, 5, 7, 19, directions=2, dtype=dtype, **kind)
    trained = layer.run()
    with torch.no_grad():
        plain = ops.lstm_sequence(layer.x, layer.h, layer.c, layer.weights)
        bare = ops.lstm_sequence(layer.x, layer.h, layer.c, layer.weights, need_cells=False)
    for name, got in zip(NAMES, plain, strict=True):
        assert torch.equal(got, trained[name])
    assert bare.cells is None
    assert torch.equal(bare.output, plain.output)
    assert torch.equal(bare.c_n, plain.c_n)


@pytest.mark.parametrize("rates", list(itertools.product((0.0, 0.3, 1.0), (0.0, 0.6), (0.0, 0.4))), ids=str)
@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_random_masks_have_the_bits_of_the_reference(isa, rates, kind, dtype):
    layer = Layer(7, 5, 3, 37, directions=2, dtype=dtype, **kind)
    lengths, reset = some(7, 5)
    for training in (True, False):
        noise = ops.Noise(torch.tensor(-0x1234_5678_9ABC_DEF), *rates, training=training)
        found, expected = (layer.run(lengths, reset, noise, backend=name) for name in ("native", "reference"))
        for name, want in expected.items():
            assert_close(found[name], want, 3e-5, name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@KINDS
def test_nan_and_infinity_pass_as_in_the_reference(isa, value, kind):
    layer = Layer(6, 4, 3, 18, **kind)
    with torch.no_grad():
        layer.x[2, 1, 0] = value
        layer.c[0, 2, 5] = value
        found = ops.lstm_sequence(layer.x, layer.h, layer.c, layer.weights)
        with ops.use_backend("reference"):
            expected = ops.lstm_sequence(layer.x, layer.h, layer.c, layer.weights)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("units", [3, 18, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("projects", [False, True], ids=["plain", "projection"])
def test_infinity_spoils_no_more_gradients_than_in_the_reference(isa, dtype, units, projects):
    """Where units do not fill a vector, the lanes beside them hold 0 times infinity."""
    layer = Layer(6, 3, 2, units, dtype=dtype, projects=projects)
    with torch.no_grad():
        layer.x[2, 1, 0] = float("inf")
    inputs = [layer.x, layer.h, layer.c, *[p for w in layer.weights for p in w if p is not None]]

    def gradients():
        output = ops.lstm_sequence(layer.x, layer.h, layer.c, layer.weights).output
        return torch.autograd.grad(output.sum(), inputs)

    found = gradients()
    with ops.use_backend("reference"):
        expected = gradients()
    assert expected[0].isfinite().all()
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
@pytest.mark.parametrize("outputs", [0, 7])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_infinite_weights_spoil_no_more_gradients_than_in_torch(isa, value, outputs):
    """A row's last step has no gradient from a next one, of which zeros times infinity would be made."""
    torch.manual_seed(0)
    layers = torch.nn.LSTM(3, 18, proj_size=outputs), tg.LSTM(3, 18, proj_size=outputs)
    layers[0].weight_hh_l0.data[18 + 7, 2] = value  # of a forget gate
    layers[1].load_state_dict(layers[0].state_dict())
    x = pack_sequence([torch.randn(n, 3) for n in (1, 4, 1, 2, 1, 1, 3)], enforce_sorted=False)
    inputs = [x.data.requires_grad_(), torch.rand(1, 7, outputs or 18) + 0.1, torch.randn(1, 7, 18)]
    inputs[1:] = [p.requires_grad_() for p in inputs[1:]]
    want, got = (torch.autograd.grad(layer(x, tuple(inputs[1:]))[0].data.sum(), inputs) for layer in layers)
    rows = want[0].isfinite().all(1).sum()
    assert 7 <= rows < len(want[0])  # each row's last step
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["batch first", "expanded", "sliced", "strided units"])
def test_any_layout_of_the_input(isa, layout):
    T, B, I, H = 5, 4, 6, 7
    layer = Layer(T, B, I, H)
    base = torch.randn(2 * B, 2 * T, 2 * I)
    x = {
        "batch first": base[:B, :T, :I].contiguous().transpose(0, 1),
        "expanded": base[:1, :T, :I].transpose(0, 1).expand(T, B, I),
        "sliced": base[::2, ::2, I:].transpose(0, 1),
        "strided units": base[:B, :T, ::2].transpose(0, 1),
    }[layout]
    found = {}
    for backend, view in (("native", x), ("reference", x.contiguous())):
        layer.x = view.detach().requires_grad_()
        assert view.shape == (T, B, I)
        found[backend] = layer.run(backend=backend)
    for name, want in found["reference"].items():
        assert_close(found["native"][name], want, 3e-5, name)


@KINDS
def test_gradients_of_any_layout(kind):
    layer = Layer(5, 4, 3, 6, directions=2, **kind)
    result = ops.lstm_sequence(layer.x, layer.h, layer.c, layer.weights)
    P = layer.h.shape[2]
    for grad in (
        torch.ones(()).expand(5, 4, 2, P),
        torch.randn(4, 5, 2, P).transpose(0, 1),
        torch.randn(5, 4, P, 2).transpose(2, 3),
    ):
        (got,) = torch.autograd.grad(result.output, layer.x, grad, retain_graph=True)
        (want,) = torch.autograd.grad(
            result.output, layer.x, grad.clone(memory_format=torch.contiguous_format), retain_graph=True
        )
        assert torch.equal(got, want)


@pytest.mark.parametrize("sizes", [(0, 3, 2, 4), (3, 0, 2, 4), (0, 0, 1, 1)], ids=str)
@KINDS
def test_nothing_to_do(isa, sizes, kind):
    layer = Layer(*sizes, **kind)
    with torch.no_grad(), ops.use_backend("reference"):
        expected = ops.lstm_sequence(layer.x, layer.h, layer.c, layer.weights)
    ones = [torch.ones_like(r) for r in expected]
    found = layer.run(grads=ones)
    for name, want in zip(NAMES, expected, strict=True):
        assert torch.equal(found[name], want), name
    assert torch.equal(found["d_h"], ones[2])  # the initial state is the final one
    assert torch.equal(found["d_c"], ones[3])
    for name, weight in layer.weights[0]._asdict().items():
        assert weight is None or (found[f"d_{name}[0]"] == 0).all(), name
