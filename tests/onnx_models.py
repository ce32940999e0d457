"""Small ONNX models with LSTM nodes, and onnxruntime on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

F32 = np.float32


def weights(inputs: int, units: int, directions: int = 1, seed: int = 0, peephole: bool = False) -> dict[str, Any]:
    """W, R, B and, if asked for, P of one node."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (0.5 * rng.normal(size=(directions, *shape))).astype(F32)

    found = {"W": draw(4 * units, inputs), "R": draw(4 * units, units), "B": draw(8 * units)}
    return found | ({"P": draw(3 * units)} if peephole else {})


def node(prefix: str, x: str, units: int, given: dict[str, Any], extra: dict[str, str] | None = None, **attributes):
    """An LSTM node that reads ``x``; its tensors are named with the prefix."""
    names = {"X": x, **{k: prefix + k for k in given}, **(extra or {})}
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    inputs = [names.get(k, "") for k in order]
    outputs = [prefix + k for k in ("Y", "Y_h", "Y_c")]
    return helper.make_node("LSTM", inputs, outputs, prefix + "LSTM", hidden_size=units, **attributes)


def model(
    nodes: list, constants: dict[str, Any], outputs: list[str], inputs: tuple[str, ...] = ("X",), opset: int = 22
):
    """A model of these nodes; ``lens`` is an int32 input, the others are float32."""
    kinds = {"lens": TensorProto.INT32}
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def single(units: int = 4, inputs: int = 3, directions: int = 1, peephole: bool = False, **attributes: Any):
    """A model of one node, all outputs named Y, Y_h, Y_c."""
    given = weights(inputs, units, directions, peephole=peephole)
    return model([node("", "X", units, given, **attributes)], given, ["Y", "Y_h", "Y_c"])


def run(of: onnx.ModelProto | bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs by onnxruntime."""
    data = of if isinstance(of, bytes) else of.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)
