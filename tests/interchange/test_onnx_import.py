"""Others' LSTM nodes as layers: the operator's definition, the backend suite of onnx, onnxruntime."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import onnx_models as om
import pytest
import torch
from helpers import assert_close
from onnx import helper, numpy_helper

import tidegate as tg
from tidegate.interchange import Reversed, load_onnx

SUITE = {
    "test_lstm_defaults", "test_lstm_with_initial_bias", "test_lstm_with_peepholes", "test_lstm_batchwise",
    "test_lstm_reverse", "test_lstm_bidirectional",
}  # fmt: skip


def suite() -> list:
    """The LSTM cases that onnx ships."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("onnx.backend.test.case.node.lstm")  # which enters its cases; all of them take seconds
    cases = importlib.import_module("onnx.backend.test.case.node")
    return [case for case in cases._NodeTestCases if case.name.startswith("test_lstm_")]


CASES = suite()


def x_of(steps: int = 6, rows: int = 3, inputs: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, rows, inputs)).astype(np.float32)


def assert_same(module, model, x: np.ndarray, layout: int = 0, hx=None, lengths=None, feeds=None) -> None:
    """A layer against onnxruntime on the model that it was read from."""
    y, y_h, y_c = om.run(model, {"X": x, **(feeds or {})})
    with torch.no_grad():
        output, state = module(torch.from_numpy(x), hx, lengths=lengths)
    assert_close(output, torch.from_numpy(np.ascontiguousarray(y.swapaxes(1, 2))).flatten(2), 1e-5, "Y")
    assert_close(state.h, torch.from_numpy(y_h), 1e-5, "Y_h")
    assert_close(state.c, torch.from_numpy(y_c), 1e-5, "Y_c")


# --- the suite of onnx ---------------------------------------------------------------------------------------


def test_the_suite_has_the_cases_known():
    assert {case.name for case in CASES} >= SUITE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_backend_suite(case):
    graph = case.model.graph
    layout = {a.name: a.i for a in graph.node[0].attribute}.get("layout", 0)
    for inputs, outputs in case.data_sets:
        feeds = dict(zip([i.name for i in graph.input], inputs, strict=True))
        names = list(graph.node[0].input)
        x = torch.from_numpy(feeds.pop(names[0]).copy())
        [found] = load_onnx(case.model, weights=feeds)
        with torch.no_grad():
            output, state = found.lstm(x, found.state, lengths=found.lengths)
        directions = feeds[names[1]].shape[0]
        y = output.unflatten(2, (directions, -1))  # (T, B, D, H), or (B, T, D, H) with layout 1
        ours = {"Y": y if layout else y.transpose(1, 2)}
        ours |= {k: s.transpose(0, 1) if layout else s for k, s in zip(("Y_h", "Y_c"), state, strict=True)}
        made = [k for k, name in zip(("Y", "Y_h", "Y_c"), graph.node[0].output, strict=False) if name]
        for key, expected in zip(made, outputs, strict=True):
            assert_close(ours[key], torch.from_numpy(expected.copy()), 1e-5, key)


# --- attributes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions_peepholes_and_lengths(direction, peephole):
    d = 2 if direction == "bidirectional" else 1
    given = om.weights(3, 4, d, peephole=peephole)
    node = om.node(
        "", "X", 4, given, {"sequence_lens": "lens", "initial_h": "h", "initial_c": "c"}, direction=direction
    )
    model = om.model([node], given, ["Y", "Y_h", "Y_c"], ("X", "lens", "h", "c"))
    [found] = load_onnx(model.SerializeToString())
    assert isinstance(found.lstm, Reversed) == (direction == "reverse")
    assert found.feeds == {"input": ["X"], "sequence_lens": ["lens"], "initial_h": ["h"], "initial_c": ["c"]}
    rng = np.random.default_rng(3)
    h, c = (rng.normal(size=(d, 3, 4)).astype(np.float32) for _ in range(2))
    lens = np.array([6, 1, 4], np.int32)
    hx = (torch.from_numpy(h), torch.from_numpy(c))
    assert_same(found.lstm, model, x_of(), hx=hx, lengths=torch.tensor([6, 1, 4]), feeds={"lens": lens, "h": h, "c": c})


@pytest.mark.parametrize("peephole", [False, True])
def test_coupled_gate_is_one_minus_the_input_gate(peephole):
    model = om.single(directions=2, peephole=peephole, direction="bidirectional", input_forget=1)
    [found] = load_onnx(model)
    assert_same(found.lstm, model, x_of())
    plain = om.single(directions=2, peephole=peephole, direction="bidirectional")
    assert np.abs(om.run(model, {"X": x_of()})[0] - om.run(plain, {"X": x_of()})[0]).max() > 0.05


def test_layout_1_is_batch_first():
    given = om.weights(3, 4, 2)
    h = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float32)  # (B, D, H)
    attributes = {"direction": "bidirectional"}
    one = om.node("", "X", 4, given, {"initial_h": "h"}, layout=1, **attributes)
    [found] = load_onnx(om.model([one], given | {"h": h}, ["Y"]))
    other = om.node("", "X", 4, given, {"initial_h": "h"}, **attributes)
    model = om.model([other], given | {"h": np.ascontiguousarray(h.swapaxes(0, 1))}, ["Y", "Y_h", "Y_c"])
    x = x_of(rows=5)
    y, y_h, _ = om.run(model, {"X": x})
    output, state = found.lstm(torch.from_numpy(x).transpose(0, 1), found.state)
    assert found.lstm.batch_first
    assert_close(output.detach().unflatten(2, (2, 4)), torch.from_numpy(y.transpose(2, 0, 1, 3).copy()), 1e-5)
    assert_close(state.h.detach(), torch.from_numpy(y_h), 1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_dtypes_are_kept(dtype):
    given = {k: v.astype(dtype) for k, v in om.weights(3, 4).items()}
    [found] = load_onnx(om.model([om.node("", "X", 4, given)], given, ["Y"]))
    assert found.lstm.weight_ih_l0.dtype == torch.from_numpy(given["W"]).dtype
    i = torch.from_numpy(given["W"][0, :4])
    assert torch.equal(found.lstm.weight_ih_l0[:4].detach(), i)
    assert torch.equal(found.lstm.weight_ih_l0[4:8].detach(), torch.from_numpy(given["W"][0, 8:12]))  # f comes third


def test_default_activations_may_be_named():
    model = om.single(activations=["sigmoid", "Tanh", "tanh"])
    assert_same(load_onnx(model)[0].lstm, model, x_of())


# --- several nodes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_of_torch_come_back_as_one(bidirectional, batch_first, tmp_path):
    source = torch.nn.LSTM(3, 4, 3, bidirectional=bidirectional, batch_first=batch_first)
    path = tmp_path / "torch.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(source, (torch.randn(5, 2, 3),), str(path), dynamo=False, input_names=["x"])
    [found] = load_onnx(path)
    assert len(found.nodes) == 3
    x = torch.randn(6, 3, 3)
    turned = x.transpose(0, 1) if batch_first else x  # a node reads time first, whatever torch's module did
    expected = source(turned)[0].transpose(0, 1) if batch_first else source(x)[0]
    assert_close(found.lstm(x)[0], expected, 1e-5)


def two(between: list, second_input: str, units: int = 4, constants: dict | None = None, **attributes):
    low, high = om.weights(3, 4, seed=1), om.weights(4, units, seed=2)
    nodes = [om.node("a_", "X", 4, low), *between, om.node("b_", second_input, units, high, **attributes)]
    named = {f"a_{k}": v for k, v in low.items()} | {f"b_{k}": v for k, v in high.items()}
    return om.model(nodes, named | (constants or {}), ["b_Y", "b_Y_h", "b_Y_c"])


SQUEEZE = [helper.make_node("Squeeze", ["a_Y", "one"], ["z"])]


def test_what_is_no_layer_below_stays_apart():
    one = {"one": np.array([1])}
    assert [f.nodes for f in load_onnx(two(SQUEEZE, "z", constants=one))] == [["a_LSTM", "b_LSTM"]]
    assert [f.nodes for f in load_onnx(two(SQUEEZE, "z", units=5, constants=one))] == [["a_LSTM"], ["b_LSTM"]]
    apart = load_onnx(two(SQUEEZE, "z", constants=one, direction="reverse"))
    assert [type(f.lstm) for f in apart] == [tg.LSTM, Reversed]
    scaled = [*SQUEEZE, helper.make_node("Relu", ["z"], ["r"])]
    assert len(load_onnx(two(scaled, "r", constants=one))) == 2
    turned = [*SQUEEZE, helper.make_node("Transpose", ["z"], ["r"], perm=[1, 0, 2])]
    assert len(load_onnx(two(turned, "r", constants=one))) == 2  # the second reads rows as time


def test_constants_made_in_the_graph():
    given = om.weights(3, 4)
    parts = {
        "low": given["W"][:, :5],
        "high": given["W"][:, 5:],
        "R": given["R"],
        "B": given["B"][0],
        "at": np.array([0]),
    }
    nodes = [
        helper.make_node("Concat", ["low", "high"], ["Wn"], axis=1),
        helper.make_node("Constant", [], ["Rn"], value=numpy_helper.from_array(given["R"])),
        helper.make_node("Unsqueeze", ["B", "at"], ["Bn"]),
        helper.make_node("LSTM", ["X", "Wn", "Rn", "Bn"], ["Y", "Y_h", "Y_c"], hidden_size=4),
    ]
    model = om.model(nodes, parts, ["Y", "Y_h", "Y_c"])
    assert_same(load_onnx(model)[0].lstm, model, x_of())


def test_constant_states_and_lengths_are_told():
    given = om.weights(3, 4)
    constants = {"lens": np.array([6, 2], np.int32), "c": np.full((1, 2, 4), 0.5, np.float32)}
    node = om.node("", "X", 4, given, {"sequence_lens": "lens", "initial_c": "c"})
    model = om.model([node], given | constants, ["Y", "Y_h", "Y_c"])
    [found] = load_onnx(model)
    assert found.lengths.tolist() == [6, 2]
    assert_same(found.lstm, model, x_of(rows=2), hx=found.state, lengths=found.lengths)


# --- Reversed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
def test_reversed_is_the_backward_half_of_a_bidirectional_layer(batch_first):
    both = tg.LSTM(3, 4, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    one = tg.LSTM(3, 4, batch_first=batch_first, dtype=torch.float64)
    one.load_state_dict({k.removesuffix("_reverse"): v for k, v in both.state_dict().items() if "reverse" in k})
    x = torch.randn(5, 5, 3, dtype=torch.float64)
    for lengths in (None, torch.tensor([5, 0, 2, 1, 4])):
        output, state = Reversed(one)(x, lengths=lengths)
        expected, after = both(x, lengths=lengths)
        assert_close(output, expected[..., 4:])
        assert_close(state.c, after.c[1:])
    alone, _ = Reversed(one)(x[0], lengths=3)
    assert_close(alone[:3], Reversed(one)(x[0, :3])[0])
    with pytest.raises(ValueError, match="one direction"):
        Reversed(both)
    with pytest.raises(TypeError, match="torch.Tensor"):
        Reversed(one)(torch.nn.utils.rnn.pack_sequence([x[0]]))


def test_reversed_refuses_lengths_past_the_end():
    with pytest.raises(ValueError, match="from 0 to the number of steps, 5; given values from 2 to 8"):
        Reversed(tg.LSTM(3, 4))(torch.zeros(5, 2, 3), lengths=torch.tensor([8, 2]))
