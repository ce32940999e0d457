"""``lstm.trace``: equal to gates computed step by step, on each backend, with every option and derivative."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from helpers import assert_close, gradients, needs_native

import tidegate as tg
from tidegate import ops
from tidegate.cell import lstm_input, lstm_step
from tidegate.ops import random

T, B, I, H = 11, 4, 3, 20
LENGTHS = torch.tensor([11, 0, 6, 9])
GATES = ("input", "forget", "candidate", "output")
OPTIONS = {
    "plain": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "peephole": {"peephole": True, "bidirectional": True},
    "layer norm": {"layer_norm": True, "bidirectional": True},
    "projection": {"proj_size": 7, "num_layers": 2, "bidirectional": True},
    "zoneout": {"zoneout": (0.3, 0.2), "bidirectional": True},
    "zoneout, projection": {"zoneout": (0.3, 0.2), "proj_size": 7},
    "recurrent dropout": {"recurrent_dropout": 0.4, "bidirectional": True},
    "weight dropout": {"weight_dropout": 0.4, "num_layers": 2, "dropout": 0.3},
    "no bias": {"bias": False},
}


def resets() -> torch.Tensor:
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[4, 0] = reset[5, 0] = reset[3, 2] = reset[6, 2] = reset[0, 3] = True
    return reset


def layer(training: bool, **options) -> tg.LSTM:
    lstm = tg.LSTM(I, H, dtype=torch.float64, **options)
    for parameter in lstm.parameters():
        parameter.data.mul_(3.0)
    return lstm.train(training)


def state(lstm: tg.LSTM) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(part.shape, dtype=torch.float64) for part in lstm.initial_state(B))


def by_steps(lstm: tg.LSTM, below: torch.Tensor, hx, layer: int, noise, weights, lengths, reset):
    """Gates and memories of one layer (T, B, D, .), one step of one row at a time."""
    D = lstm.directions
    names = (*GATES, "cell", "hidden")
    sizes = [H] * 5 + [lstm.state_size]
    found = {n: torch.zeros(T, B, D, s, dtype=torch.float64) for n, s in zip(names, sizes, strict=True)}
    for d in range(D):
        w = weights[d]
        for b in range(B):
            h, c = hx[0][layer * D + d, b : b + 1], hx[1][layer * D + d, b : b + 1]
            steps = range(int(lengths[b]))
            for t in reversed(steps) if d else steps:
                edge = t + 1 if d else t
                if edge < int(lengths[b]) and reset[edge, b]:
                    h, c = torch.zeros_like(h), torch.zeros_like(c)
                seen = h
                if noise is not None and noise.training and noise.recurrent_dropout:
                    drop = random.bernoulli(noise.seed, noise.recurrent_dropout, 0, B, h.shape[1], 8 * d)[b]
                    seen = h * ~drop / (1 - noise.recurrent_dropout)
                step = lstm_step(lstm_input(below[t, b : b + 1], w), h, c, w, seen)
                for gate in GATES:
                    found[gate][t, b, d] = getattr(step, gate)[0]
                new = {"hidden": step.hidden, "cell": step.cell}
                if noise is not None:
                    for stream, name, rate, old in (
                        (1, "hidden", noise.zoneout_hidden, h),
                        (2, "cell", noise.zoneout_cell, c),
                    ):
                        kept = rate
                        if noise.training:
                            kept = random.bernoulli(noise.seed, rate, t, B, old.shape[1], stream + 8 * d)[b].double()
                        new[name] = kept * old + (1 - kept) * new[name]
                h, c = new["hidden"], new["cell"]
                found["hidden"][t, b, d], found["cell"][t, b, d] = h[0], c[0]
    return found


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "reference"])
@torch.no_grad()
def test_equals_step_by_step(backend, name, training, monkeypatch):
    monkeypatch.setattr(ops.trace, "_ROWS", 2 * B)  # several parts
    lstm = layer(training, **OPTIONS[name])
    x, hx, reset = torch.randn(T, B, I, dtype=torch.float64), state(lstm), resets()
    x[6:, 2] = torch.nan  # padding is not read
    if backend == "native" and ops.native.declines(x, lstm.weights(0), None):
        pytest.skip("the kernels do not take this option")
    noise = None
    torch.manual_seed(3)
    with ops.use_backend(backend):
        trace = lstm.trace(x, hx, LENGTHS, reset)
    torch.manual_seed(3)
    noises = lstm._noise()
    for number, traced in enumerate(trace.layers):
        weights, noise = lstm.weights(number), noises[number]
        if lstm.weight_dropout and training:
            weights = [w._replace(hh=torch.nn.functional.dropout(w.hh, lstm.weight_dropout)) for w in weights]
        below = x.nan_to_num(0.0) if number == 0 else traced.x
        expected = by_steps(lstm, below, hx, number, noise, weights, LENGTHS, reset)
        for gate, values in expected.items():
            assert_close(getattr(traced, gate), values, 1e-11, f"{gate} of layer {number}")
        if lstm.dropout and training and number == 0:  # draws between the layers, as the forward pass does
            torch.nn.functional.dropout(expected["hidden"].flatten(2), lstm.dropout)
    torch.manual_seed(3)
    with ops.use_backend(backend):
        output, (h_n, c_n) = lstm(x, hx, LENGTHS, reset)
    for what, a, b in (("output", trace.output, output), ("h_n", trace.state.h, h_n), ("c_n", trace.state.c, c_n)):
        assert_close(a, b, 1e-12, what)


@pytest.mark.parametrize("name", ["plain", "peephole", "zoneout", "recurrent dropout", "layer norm"])
@torch.no_grad()
def test_float32_gates_of_the_kernels(name):
    lstm = tg.LSTM(I, H, **OPTIONS[name])
    x = torch.randn(T, B, I)
    torch.manual_seed(3)
    [traced] = lstm.trace(x).layers
    torch.manual_seed(3)
    [exact] = lstm.double().trace(x.double()).layers
    limit = 2e-6 if lstm.layer_norm else 1e-6  # h and c have drifted apart too, and norms magnify that
    for gate in GATES:
        assert (getattr(traced, gate) - getattr(exact, gate)).abs().max() < limit


@needs_native
@pytest.mark.parametrize("name", ["plain", "two layers, both directions", "peephole", "zoneout", "layer norm"])
def test_derivative_of_the_gates(name):
    """Gates from the kernels have the values and the derivative of gates computed in the reference."""
    lstm = layer(False, **OPTIONS[name])
    x, hx, reset = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True), state(lstm), resets()
    found, values = [], []
    for backend in ("native", "reference"):
        with ops.use_backend(backend):
            trace = lstm.trace(x, hx, LENGTHS, reset)
        values.append([getattr(traced, gate).detach() for traced in trace.layers for gate in GATES])
        outputs = [getattr(traced, n) for traced in trace.layers for n in (*GATES, "cell", "hidden")]
        found.append(gradients(outputs, [x, *lstm.parameters()]))
    for fast, slow in zip(*values, strict=True):
        assert_close(fast, slow, 1e-11, "gate")
    for fast, slow in zip(*found, strict=True):
        assert_close(fast, slow, 1e-9, "gradient")


@needs_native
def test_second_derivative():
    lstm = layer(False)
    x = torch.randn(4, 2, I, dtype=torch.float64, requires_grad=True)
    with ops.use_backend("native"):
        assert torch.autograd.gradgradcheck(lambda x: lstm.trace(x).layers[0].forget.sum(-1), (x,))


@torch.no_grad()
def test_keep_and_write_rebuild_the_memory():
    """c = keep * c before + write, for zoneout, resets and lengths alike."""
    for training in (False, True):
        lstm = layer(training, bidirectional=True, zoneout=(0.3, 0.2))
        hx = state(lstm)
        [traced] = lstm.trace(torch.randn(T, B, I, dtype=torch.float64), hx, LENGTHS, resets()).layers
        before = traced.before()[1]
        rebuilt = traced.keep * before + traced.write
        rebuilt = torch.where(traced.valid, rebuilt, 0.0)
        assert_close(rebuilt, traced.cell, 1e-13, "c")


@torch.no_grad()
def test_layouts():
    lstm = tg.LSTM(I, H, batch_first=True)
    x = torch.randn(B, T, I)
    batched = lstm.trace(x, lengths=LENGTHS)
    assert batched.output.shape == (B, T, H)
    assert batched.layers[0].forget.shape == (T, B, 1, H)
    alone = lstm.trace(x[3, :9])
    assert_close(alone.layers[0].forget[:, 0], batched.layers[0].forget[:9, 3], 1e-6, "unbatched")
    packed = torch.nn.utils.rnn.pack_padded_sequence(x[[0, 3]], torch.tensor([11, 9]), batch_first=True)
    assert_close(lstm.trace(packed).layers[0].cell, batched.layers[0].cell[:, [0, 3]], 1e-6, "packed")
    assert lstm.trace(x[:, :0]).layers[0].forget.shape == (0, B, 1, H)


@needs_native
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "peephole": True}], ids=["plain", "layer norm"])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_gates_are_those_of_the_kernels(autocast, options, training):
    """In float32, as they were before any rounding: they rebuild the float32 memory."""
    lstm = tg.LSTM(I, H, bidirectional=True, dtype=torch.float32 if autocast else torch.bfloat16, **options)
    x = torch.randn(T, B, I, dtype=lstm.weight_ih_l0.dtype)
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        [traced] = lstm.trace(x, lengths=LENGTHS, reset=resets()).layers
    assert traced.hidden.dtype is torch.bfloat16
    assert traced.forget.dtype is torch.float32
    rebuilt = torch.where(traced.valid, traced.keep * traced.before()[1] + traced.write, 0.0)
    assert_close(rebuilt, traced.cell, 1e-6, "c")
    for gate in GATES:
        assert not getattr(traced, gate)[LENGTHS[0] :, 1].any()
        assert not getattr(traced, gate)[LENGTHS[2] :, 2].any()


@needs_native
@pytest.mark.parametrize("options", [{}, {"layer_norm": True}], ids=["plain", "layer norm"])
def test_derivative_under_autocast(options):
    """That of the same gates in plain torch, from rounded x, h and weights."""
    lstm = tg.LSTM(I, H, **options)
    x, found = torch.randn(T, B, I, requires_grad=True), []
    for backend in ("native", "reference"):
        with ops.use_backend(backend), torch.autocast("cpu", torch.bfloat16):
            [traced] = lstm.trace(x, lengths=LENGTHS).layers
        found.append(gradients([traced.forget, traced.output], [x, *lstm.parameters()]))
    for fast, slow in zip(*found, strict=True):
        assert fast.dtype is torch.float32
        assert_close(fast, slow, 6e-2, "gradient")


@torch.no_grad()
def test_compiles_and_autocasts():
    lstm = tg.LSTM(I, H)
    x = torch.randn(T, B, I)
    expected = lstm.trace(x).layers[0].forget
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(lstm.trace(x).layers[0].forget.float(), expected, 2e-2, "autocast")
    compiled = torch.compile(lambda x: lstm.trace(x).layers[0].forget, fullgraph=True, backend="eager")
    assert_close(compiled(x), expected, 1e-5, "compiled")


@pytest.mark.parametrize("option", ["two layers, both directions", "peephole", "layer norm", "projection", "zoneout"])
@pytest.mark.parametrize("derivatives", [False, True])
def test_a_compiled_graph_takes_the_gates_from_the_kernels_where_none_is_differentiated(option, derivatives):
    lstm, x, reset = layer(False, **OPTIONS[option]), torch.randn(T, B, I, dtype=torch.float64), resets()
    called = []
    torch.compiler.reset()

    def backend(graph, inputs):
        called.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def run(x):
        return [gate for one in lstm.trace(x, lengths=LENGTHS, reset=reset).layers for gate in one[:6]]

    with torch.set_grad_enabled(derivatives):
        for found, expected in zip(torch.compile(run, fullgraph=True, backend=backend)(x), run(x), strict=True):
            assert_close(found, expected, 1e-12, option)
    assert any("lstm_trace" in target for target in called) != derivatives


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_no_steps_in_training(dtype):
    lstm = layer(True, **OPTIONS["recurrent dropout"]).to(dtype)
    with ops.use_backend("reference"):
        found = lstm.trace(torch.zeros(0, B, I, dtype=dtype))
    assert found.layers[0].forget.shape == (0, B, 2, H)
    assert found.output.shape == (0, B, 2 * H)
    found.layers[0].forget.sum().backward()


def test_to_frame():
    lstm = tg.LSTM(I, 2, bidirectional=True)
    trace = lstm.trace(torch.randn(T, B, I), lengths=LENGTHS)
    frame = trace.to_frame()
    assert len(frame) == int(LENGTHS.sum()) * 2 * 2
    one = frame.row(
        by_predicate=(pl.col("step") == 5) & (pl.col("row") == 2) & (pl.col("unit") == 1)
        & (pl.col("direction") == "backward"),
        named=True,
    )  # fmt: skip
    assert one["cell"] == trace.layers[0].cell[5, 2, 1, 1].item()
    assert trace.layers[0].steps.tolist() == LENGTHS.tolist()
