"""Others' LSTM nodes and ONNX files that are refused: what a layer cannot say, and what is damaged or hostile."""

from __future__ import annotations

import itertools
import sys
import tracemalloc

import numpy as np
import onnx
import onnx_models as om
import pytest
import torch
from onnx import TensorProto, helper

from tidegate.errors import InterchangeError, MissingExtra
from tidegate.interchange import load_onnx

# --- nodes --------------------------------------------------------------------------------------------------------

BAD_NODES = {
    "activations": ({"activations": ["Relu", "Tanh", "Tanh"]}, "activations are Sigmoid, Tanh, Tanh.*given Relu"),
    "clip": ({"clip": 3.0}, "clip=3 cuts what the gates see"),
    "direction": ({"direction": "sideways"}, "forward, reverse or bidirectional; given 'sideways'"),
    "layout": ({"layout": 2}, "layout is 0 or 1; given 2"),
    "input_forget": ({"input_forget": 7}, "input_forget is 0 or 1; given 7"),
    "unknown": ({"turbo": 1}, "'turbo' is no attribute"),
    "two directions of weights": ({"direction": "bidirectional"}, "W has shape .2, 16, 3."),
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_nodes_that_are_refused(name):
    attributes, message = BAD_NODES[name]
    with pytest.raises(InterchangeError, match=message):
        load_onnx(om.single(**attributes))


def test_weights_that_do_not_fit():
    given = om.weights(3, 4)
    node = om.node("", "X", 4, given)
    for key, value, message in (
        ("R", given["R"][:, :, :3], "R has shape .1, 16, 4."),
        ("B", given["B"][:, :7], "B has shape .1, 32."),
        ("W", given["W"][0], "W has 3 dimensions"),
        ("W", given["W"].astype(np.int32), "floating point"),
        ("R", given["R"].astype(np.float64), "one dtype"),
    ):
        with pytest.raises(InterchangeError, match=message):
            load_onnx(om.model([node], given | {key: value}, ["Y"]))
    states = om.node("", "X", 4, given, {"initial_h": "h"})
    with pytest.raises(InterchangeError, match="initial_h has 1 x batch x 4"):
        load_onnx(om.model([states], given | {"h": np.zeros((1, 2, 5), np.float32)}, ["Y"]))


def test_weights_that_the_graph_takes_as_inputs():
    given = om.weights(3, 4)
    model = om.model([om.node("", "X", 4, given)], {k: given[k] for k in ("R", "B")}, ["Y"], ("X", "W"))
    with pytest.raises(InterchangeError, match="W .'W'. is not a constant.*weights"):
        load_onnx(model)
    [found] = load_onnx(model, weights={"W": torch.from_numpy(given["W"])})
    assert found.lstm.input_size == 3


def test_no_lstm_and_an_lstm_inside_a_branch():
    relu = om.model([helper.make_node("Relu", ["X"], ["Y"])], {}, ["Y"])
    with pytest.raises(InterchangeError, match="no LSTM node"):
        load_onnx(relu)
    inner = helper.make_graph(
        [helper.make_node("LSTM", ["X", "W", "R"], ["y"], hidden_size=4)],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    branch = helper.make_node("If", ["X"], ["Y"], then_branch=inner, else_branch=inner)
    with pytest.raises(InterchangeError, match="inside a loop, a branch or a function"):
        load_onnx(om.model([branch], {}, ["Y"]))


# --- bad files ----------------------------------------------------------------------------------------------------


def attacks() -> dict[str, bytes]:
    whole = om.single().SerializeToString()
    return {
        "nothing": b"",
        "text": b"this is a text, not a model, and goes on for a while",
        "zeros": bytes(1000),
        "a zip": b"PK\x03\x04" + bytes(200),
        "cut": whole[: len(whole) // 2],
        "cut at the end": whole[:-1],
        "deep": b"\x3a\x7f" * 5000,
    }


@pytest.mark.parametrize("name", attacks())
def test_files_that_are_no_models(name, tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(attacks()[name])
    with pytest.raises(InterchangeError, match="not an ONNX model"):
        load_onnx(path)


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(InterchangeError, match="cannot read .*no such file"):
        load_onnx(tmp_path / "missing.onnx")
    with pytest.raises(InterchangeError, match="is not a file"):
        load_onnx(tmp_path)
    with pytest.raises(InterchangeError, match="given int"):
        load_onnx(3)
    huge = tmp_path / "huge.onnx"
    with open(huge, "wb") as file:
        file.truncate(2**31)  # a hole: no bytes on the disk
    with pytest.raises(InterchangeError, match="at most 2,147,483,647 bytes; .* has 2,147,483,648"):
        load_onnx(huge)


def test_a_constant_that_claims_more_than_it_has():
    model = om.single()
    tensor = next(t for t in model.graph.initializer if t.name == "W")
    del tensor.dims[:]
    tensor.dims.extend([1, 2**40, 2**40])
    with pytest.raises(InterchangeError, match="constant 'W' cannot be read: shape .* needs"):
        load_onnx(model)
    tensor.ClearField("raw_data")
    with pytest.raises(InterchangeError, match="constant 'W' cannot be read"):
        load_onnx(model)


def test_constants_that_grow_without_end():
    """Each node doubles: thirty of them would make four terabytes of four thousand bytes."""
    given = om.weights(3, 4)
    nodes = [helper.make_node("Concat", [f"w{k}", f"w{k}"], [f"w{k + 1}"], axis=2) for k in range(30)]
    nodes.append(helper.make_node("LSTM", ["X", "w30", "R"], ["Y"], hidden_size=4))
    with pytest.raises(InterchangeError, match=r"would take 2,097,152 bytes, made of 4,096 in the file"):
        load_onnx(om.model(nodes, {"w0": np.zeros((1, 16, 64), np.float32), "R": given["R"]}, ["Y"]))


def test_constants_in_a_circle():
    given = om.weights(3, 4)
    nodes = [
        helper.make_node("Concat", ["p", "q"], ["p"], axis=0),
        helper.make_node("Concat", ["p", "p"], ["q"], axis=0),
    ]
    nodes.append(helper.make_node("LSTM", ["X", "p", "R"], ["Y"], hidden_size=4))
    with pytest.raises(InterchangeError, match="not a constant"):
        load_onnx(om.model(nodes, {"R": given["R"]}, ["Y"]))


def outside(tmp_path, location: str, length: int | None = None) -> str:
    """A model in a folder of its own, with W in another file."""
    model = om.single()
    tensor = next(t for t in model.graph.initializer if t.name == "W")
    data = tensor.raw_data
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "W.bin").write_bytes(data)
    (tmp_path / "secret.bin").write_bytes(data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(length or len(data))}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return str(path)


def test_data_beside_the_model(tmp_path):
    [found] = load_onnx(outside(tmp_path, "W.bin"))
    expected = load_onnx(om.single())[0].lstm
    assert torch.equal(found.lstm.weight_ih_l0, expected.weight_ih_l0)


@pytest.mark.parametrize("location", ["../secret.bin", "ABSOLUTE", "link.bin", "", "missing.bin", "."])
def test_data_outside_the_folder(tmp_path, location):
    if location == "ABSOLUTE":
        location = str(tmp_path / "secret.bin")
    path = outside(tmp_path, location)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InterchangeError, match="expected a file inside the model's folder"):
        load_onnx(path)


def test_data_that_is_too_short(tmp_path):
    path = outside(tmp_path, "W.bin")
    (tmp_path / "model" / "W.bin").write_bytes(b"1234")
    with pytest.raises(InterchangeError, match="needs 192 bytes, and 'W.bin' has 4"):
        load_onnx(path)
    with pytest.raises(InterchangeError, match="lies in another file"):
        load_onnx(onnx.load(path, load_external_data=False))


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r'pip install "tidegate\[onnx\]"'):
        load_onnx(b"")


@pytest.mark.parametrize("key", ["direction", "layout", "activations"])
def test_attributes_of_the_wrong_type(key):
    model = om.single(**{key: 1.5})
    with pytest.raises(InterchangeError, match=f"the attribute {key} has the wrong type"):
        load_onnx(model)


def grown(nodes: list, constants: dict) -> tuple[list, int]:
    """Layers of two nodes with others between, and the bytes that reading them took beside."""
    lower, upper = om.weights(3, 4), om.weights(4, 4, seed=1)
    first = helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], "lower", hidden_size=4)
    last = helper.make_node("LSTM", ["last", "W2", "R2", "B2"], ["Y2"], "upper", hidden_size=4)
    constants = lower | {k + "2": v for k, v in upper.items()} | constants
    model = om.model([first, *nodes, last], constants, ["Y2"])
    tracemalloc.start()
    found = load_onnx(model)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found, most


def test_what_lies_between_layers_and_grows_is_not_followed():
    index = np.zeros(20_000, np.int64)
    gathers = [
        helper.make_node("Gather", ["Y", "index"], ["a"], axis=0),
        helper.make_node("Gather", ["a", "index"], ["last"], axis=2),
    ]
    found, most = grown(gathers, {"index": index})
    assert len(found) == 2
    assert most < 30e6
    names = ["Y", *(f"n{k}" for k in range(7)), "last"]
    joins = [helper.make_node("Concat", [a] * 16, [b], axis=0) for a, b in itertools.pairwise(names)]
    found, most = grown(joins, {})
    assert len(found) == 2
    assert most < 30e6


def test_lengths_and_states_of_the_wrong_kind():
    given = om.weights(3, 4)
    node = om.node("", "X", 4, given, {"sequence_lens": "lens"})
    for wrong in (np.array([1.0, np.nan], np.float32), np.array([[2]], np.int32), np.array([-1], np.int32)):
        with pytest.raises(InterchangeError, match="sequence_lens holds a number of steps for each row"):
            load_onnx(om.model([node], given | {"lens": wrong}, ["Y"]))
    node = om.node("", "X", 4, given, {"initial_h": "h"})
    with pytest.raises(InterchangeError, match="are float16, float32, float64 or bfloat16; the model holds int64"):
        load_onnx(om.model([node], given | {"h": np.zeros((1, 2, 4), np.int64)}, ["Y"]))
    model = om.model([om.node("", "X", 4, given)], given, ["Y"])
    for tensor in model.graph.initializer:
        size = np.prod(tensor.dims)
        tensor.ClearField("raw_data")
        tensor.data_type, tensor.raw_data = onnx.TensorProto.FLOAT8E4M3FN, bytes(int(size))
    with pytest.raises(InterchangeError, match="the model holds float8"):
        load_onnx(model)


def test_states_of_other_rows_in_one_stack():
    lower, upper = om.weights(3, 4), om.weights(4, 4, seed=1)
    nodes = [
        om.node("", "X", 4, lower, {"initial_h": "h"}),
        helper.make_node("Squeeze", ["Y", "one"], ["s"]),
        helper.make_node("LSTM", ["s", "W2", "R2", "B2", "", "h2"], ["Y2"], hidden_size=4),
    ]
    constants = lower | {k + "2": v for k, v in upper.items()}
    constants |= {"one": np.array([1]), "h": np.zeros((1, 2, 4), np.float32), "h2": np.zeros((1, 3, 4), np.float32)}
    with pytest.raises(InterchangeError, match="initial states of one stack are of 2 and of other rows"):
        load_onnx(om.model(nodes, constants, ["Y2"]))
