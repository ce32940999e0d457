"""The seam inside graphs and transforms: compiled, faked, traced, mapped, differentiated forward."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import assert_close
from torch._subclasses.fake_tensor import FakeTensorMode

import tidegate as tg
from tidegate import ops
from tidegate.cell import LSTMWeights
from tidegate.ops import graph

T, B, I, H = 7, 3, 4, 5


@pytest.fixture(params=[False, True], ids=["plain", "norm"])
def lstm(request):
    return tg.LSTM(I, H, num_layers=2, bidirectional=True, layer_norm=request.param).double()


def loss(result):
    output, (h, c) = result
    return output.square().sum() + h.sum() + (c * c).sum()


@pytest.mark.parametrize("backend", ["aot_eager", "eager"])
def test_compiles_without_a_break(lstm, backend):
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    lengths, reset = torch.tensor([7, 0, 3]), torch.rand(T, B) < 0.3
    compiled = torch.compile(lstm, fullgraph=True, backend=backend)
    parameters = [x, *lstm.parameters()]
    expected = torch.autograd.grad(loss(lstm(x, None, lengths, reset)), parameters)
    found = torch.autograd.grad(loss(compiled(x, None, lengths, reset)), parameters)
    for got, want in zip(found, expected, strict=True):
        assert_close(got, want)


def test_a_compiled_layer_runs_on_the_kernels(monkeypatch):
    calls = []
    forward = ops.native.forward
    monkeypatch.setattr(ops.native, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    layer = tg.LSTM(I, H)
    x = torch.randn(T, B, I)
    with torch.no_grad():
        output = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0]
        assert calls
        assert torch.equal(output, layer(x)[0])


def test_a_compiled_layer_runs_on_the_reference_where_the_kernels_decline(monkeypatch):
    layer = tg.LSTM(I, H, proj_size=2).double()
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(layer(x)), [x, *layer.parameters()])
    declining = ops.BACKENDS["native"]._replace(run=None, declines=lambda *_: "this test says so")
    monkeypatch.setitem(ops.BACKENDS, "native", declining)
    for got, want in zip(torch.autograd.grad(loss(compiled(x)), [x, *layer.parameters()]), expected, strict=True):
        assert_close(got, want)


def test_fake_tensors_have_the_shapes_of_real_ones(lstm):
    x = torch.randn(T, B, I, dtype=torch.float64)
    real = lstm(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        output, (h, c) = lstm(mode.from_tensor(x))
    for fake, found in zip((output, h, c), (real[0], *real[1]), strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (found.shape, found.dtype, found.stride())


def sequence_arguments(dtype=torch.float64, norm=False, outputs=3):
    draw = lambda *shape: torch.randn(*shape, dtype=dtype).requires_grad_()  # noqa: E731
    norms = {"norm_ih": draw(12), "norm_hh": draw(12), "norm_c": draw(2, 3)} if norm else {}
    hr = None if outputs == 3 else draw(outputs, 3)
    w = LSTMWeights(draw(4 * 3, 2), draw(4 * 3, outputs), draw(12), draw(12), hr, **norms)
    return draw(3, 2, 2), draw(1, 2, outputs), draw(1, 2, 3), [w]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_saved_arrays_have_the_shape_that_a_graph_expects(isa, dtype, norm):
    x, h, c, [w] = sequence_arguments(dtype, norm)
    c = c.to(ops.types.accumulator(dtype))
    fields, flat = ops.native.flatten([w])
    *_, saved = ops.native.forward(ops.native.Call(None, None, None, fields), x, h, c, flat, save=True)
    fields = [sum(1 << n for n, p in enumerate(w) if p is not None)]
    expected = graph._gates(x, c, list(w[:2]), fields, 0, True)
    assert (saved.shape, saved.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize("every", [0, 2])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("outputs", [3, 2])
def test_the_operator_is_registered_rightly(every, norm, outputs):
    x, h, c, [w] = sequence_arguments(norm=norm, outputs=outputs)
    flat, fields = [p for p in w if p is not None], [(0b1_1100_1111 if norm else 0b1111) | (outputs < 3) << 4]
    arguments = (x, h, c, flat, fields, torch.tensor([3, 1]), None, None, [0.0, 0.0, 0.0], True, every)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.tidegate.lstm_sequence.default, (*arguments, True), test_utils=checks)


def test_first_and_second_derivatives_of_the_operator():
    x, h, c, [w] = sequence_arguments()

    def run(x, h, c, *flat):
        return tuple(graph.lstm_sequence(x, h, c, [LSTMWeights(*flat)], torch.tensor([3, 2]), None, None))

    assert torch.autograd.gradcheck(run, (x, h, c, *w[:4]))
    assert torch.autograd.gradgradcheck(run, (x, h, c, *w[:4]))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own jvp uses it
def test_forward_mode_gives_the_right_tangent(lstm):
    x, v = torch.randn(2, T, B, I, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda x: lstm(x)[0], (x,), (v,))
    step = 1e-6
    with torch.no_grad():
        difference = (lstm(x + step * v)[0] - lstm(x - step * v)[0]) / (2 * step)
    assert tangent.abs().max() > 1e-3
    assert_close(tangent, difference, 1e-7)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        assert_close(torch.autograd.forward_ad.unpack_dual(lstm(dual)[0]).tangent, tangent)


def test_transforms_run_through_the_reference(lstm):
    x = torch.randn(4, T, B, I, dtype=torch.float64)
    mapped = torch.func.vmap(lambda x: lstm(x)[0])(x)
    for got, part in zip(mapped, x, strict=True):
        assert_close(got, lstm(part)[0])
    gradient = torch.func.grad(lambda x: lstm(x)[0].square().sum())(x[0])
    leaf = x[0].clone().requires_grad_()
    assert_close(gradient, torch.autograd.grad(lstm(leaf)[0].square().sum(), leaf)[0])


def test_a_batch_of_gradients_at_once(lstm):
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    output = lstm(x)[0]
    vectors = torch.randn(2, *output.shape, dtype=torch.float64)
    (found,) = torch.autograd.grad(output, x, vectors, is_grads_batched=True, retain_graph=True)
    for got, vector in zip(found, vectors, strict=True):
        assert_close(got, torch.autograd.grad(output, x, vector, retain_graph=True)[0])


class Output(torch.nn.Module):
    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x):
        return self.lstm(x)[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_layer_follows_its_input():
    layer = Output(tg.LSTM(I, H))
    x, other = torch.randn(2, T, B, I)
    with torch.no_grad():
        traced = torch.jit.trace(layer, x, check_trace=False)
        assert torch.equal(traced(other), layer(other))


def test_the_slow_path_is_named_once():
    layer, x = tg.LSTM(I, H, dtype=torch.float16), torch.randn(T, B, I).half()
    ops._warned.clear()
    with pytest.warns(ops.SlowPathWarning, match="float16") as found:
        layer(x)
    assert found[0].filename == __file__  # the user's line
    layer(x)  # warnings are errors here: a second one would fail
    assert "float16" in str(layer.backend(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_graphs_made_without_gradients_can_learn():
    lstm, x = tg.LSTM(3, 4, peephole=True), torch.randn(5, 2, 3)
    with torch.no_grad():
        made = [torch.jit.trace(lstm, x), torch.export.export(lstm, (x,)).module()]
    made.append(torch.jit.trace(lstm, x))  # which torch checks without gradients
    lstm(x)[0].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in lstm.named_parameters()}
    for module in made:
        module.zero_grad()
        module(x)[0].square().sum().backward()
        for name, p in module.named_parameters():
            torch.testing.assert_close(p.grad, expected[name])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_layer_refuses_what_does_not_fit():
    x, state = torch.randn(5, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
    traced = torch.jit.trace(tg.LSTM(3, 4), (x, state))
    for given in ((torch.randn(5, 2, 2), state), (torch.randn(5, 7, 3), state)):
        with pytest.raises(RuntimeError, match="do not fit together|has shape"):
            traced(*given)


def test_an_exported_layer_is_saved(tmp_path):
    lstm, x = tg.LSTM(3, 4).eval(), torch.randn(5, 2, 3)
    torch.export.save(torch.export.export(lstm, (x,)), tmp_path / "lstm.pt2")
    output, state = torch.export.load(tmp_path / "lstm.pt2").module()(x)
    assert isinstance(state, tg.State)
    torch.testing.assert_close(output, lstm(x)[0])


LOADS = """
import torch, tidegate
x, output = torch.load("given.pt", weights_only=True)[:2]
for found in (torch.export.load("exported.pt2").module()(x), torch.jit.load("traced.pt")(x)):
    torch.testing.assert_close(found[0], output)
"""


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_torch_saved_loads_where_the_package_is_imported_after_it(tmp_path):
    lstm, x = tg.LSTM(3, 4).eval().requires_grad_(False), torch.randn(5, 2, 3)
    torch.save((x, *lstm(x)), tmp_path / "given.pt")
    torch.export.save(torch.export.export(lstm, (x,)), tmp_path / "exported.pt2")
    torch.jit.save(torch.jit.trace(lstm, x), tmp_path / "traced.pt")
    light = "import sys, tidegate; assert 'torch' not in sys.modules"
    for script in (LOADS, light):
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("made", [tg.LSTM, tg.RNN, torch.nn.LSTM])
def test_scripting_is_refused_with_a_way_out(made):
    model = torch.nn.Sequential(made(3, 4))
    tg.swap(model)
    with pytest.raises(
        RuntimeError, match=r"torch.jit.script cannot read \w+; torch.jit.trace and torch.export.export"
    ):
        torch.jit.script(model)
