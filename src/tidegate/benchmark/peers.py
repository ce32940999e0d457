"""The layers that tidegate's is measured beside: each entry builds a run from a shape, weights and x."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

import tidegate as tg
from tidegate.errors import MissingExtra


class Shape(NamedTuple):
    """T steps, B rows, I inputs, H units, L layers, D directions, P outputs of a projection (0: none)."""

    T: int
    B: int
    I: int
    H: int
    L: int = 1
    D: int = 1
    P: int = 0

    @property
    def operations(self) -> float:
        """8 H (inputs + H) a step, row, layer and direction; training takes three times as many.

        With a projection 8 H (inputs + P) + 2 H P.
        """
        outputs = self.P or self.H
        inputs = [self.I] + [outputs * self.D] * (self.L - 1)
        gates = sum(8.0 * self.H * (i + outputs) for i in inputs)
        return (gates + 2.0 * self.H * self.P * self.L) * self.D * self.T * self.B

    def __str__(self) -> str:
        extra = f" to {self.P}" if self.P else ""
        extra += (f" x{self.L} layers" if self.L > 1 else "") + (" both directions" if self.D > 1 else "")
        return f"{self.T}, {self.B}, {self.I}, {self.H}{extra}"


SHAPES = [
    Shape(100, 1, 64, 64),
    Shape(100, 1, 128, 256),
    Shape(1000, 1, 128, 512),
    Shape(100, 32, 64, 128),
    Shape(100, 32, 256, 256),
    Shape(365, 256, 32, 64),
    Shape(365, 256, 32, 256),
    Shape(128, 64, 512, 512),
    Shape(128, 16, 1024, 1024),
    Shape(100, 32, 256, 256, D=2),
    Shape(365, 64, 32, 128, L=2),
]
QUICK = [SHAPES[n] for n in (0, 3, 4, 5)]

PEERS = ("torch", "onnxruntime", "openvino")

Run = Callable[[], object]
Build = Callable[[Shape, torch.nn.LSTM, torch.Tensor], Run]


def layer(kind: type, shape: Shape, source: torch.nn.LSTM, dtype: torch.dtype) -> torch.nn.Module:
    """A layer of ``kind`` with the weights of ``source``."""
    made = kind(shape.I, shape.H, shape.L, bidirectional=shape.D == 2, proj_size=shape.P, dtype=dtype)
    made.load_state_dict({name: p.to(dtype) for name, p in source.state_dict().items()})
    return made


def infer(kind: type, dtype: torch.dtype) -> Build:
    def build(shape: Shape, source: torch.nn.LSTM, x: torch.Tensor) -> Run:
        lstm, x = layer(kind, shape, source, dtype).eval(), x.to(dtype)

        def run() -> object:
            with torch.no_grad():
                return lstm(x)[0]

        return run

    return build


def train(kind: type, dtype: torch.dtype) -> Build:
    def build(shape: Shape, source: torch.nn.LSTM, x: torch.Tensor) -> Run:
        lstm, x = layer(kind, shape, source, dtype), x.to(dtype).requires_grad_()
        inputs = [x, *lstm.parameters()]
        width = shape.D * (shape.P or shape.H)
        grad = torch.randn(shape.T, shape.B, width, generator=torch.Generator().manual_seed(1)).to(dtype)
        return lambda: torch.autograd.grad(lstm(x)[0], inputs, grad)

    return build


def onnx_model(shape: Shape, source: torch.nn.LSTM) -> bytes:
    """The same layer as an ONNX graph, whose gates are in the order i, o, f, c."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def reorder(p: torch.Tensor) -> np.ndarray:
        i, f, g, o = p.detach().numpy().reshape(4, shape.H, -1)
        return np.concatenate([i, o, f, g])

    nodes, weights, entry = [], [], "x"
    for level in range(shape.L):
        sides = [f"_l{level}{d}" for d in ("", "_reverse")[: shape.D]]
        for short, names in (("W", ["weight_ih"]), ("R", ["weight_hh"]), ("B", ["bias_ih", "bias_hh"])):
            value = np.stack([np.concatenate([reorder(getattr(source, n + s)) for n in names]) for s in sides])
            value = value[..., 0] if short == "B" else value
            weights.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{short}{level}"))
        direction = "bidirectional" if shape.D == 2 else "forward"
        inputs = [entry, f"W{level}", f"R{level}", f"B{level}"]
        nodes.append(helper.make_node("LSTM", inputs, [f"y{level}"], hidden_size=shape.H, direction=direction))
        nodes.append(helper.make_node("Transpose", [f"y{level}"], [f"t{level}"], perm=[0, 2, 1, 3]))
        weights.append(numpy_helper.from_array(np.array([shape.T, shape.B, -1]), f"s{level}"))
        entry = f"o{level}"
        nodes.append(helper.make_node("Reshape", [f"t{level}", f"s{level}"], [entry]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [shape.T, shape.B, shape.I])
    y = helper.make_tensor_value_info(entry, TensorProto.FLOAT, [shape.T, shape.B, shape.D * shape.H])
    graph = helper.make_graph(nodes, "lstm", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


def onnxruntime(shape: Shape, source: torch.nn.LSTM, x: torch.Tensor) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(onnx_model(shape, source), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)[0]


def openvino(shape: Shape, source: torch.nn.LSTM, x: torch.Tensor) -> Run:
    import openvino as ov

    core = ov.Core()
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(onnx_model(shape, source)), "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(x.numpy(), shared_memory=True))

    def run() -> object:
        request.infer()
        return request.get_output_tensor().data

    return run


def check_installed(names: Sequence[str]) -> None:
    """Are the packages of these peers there?

    Raises
    ------
    MissingExtra
        Naming what to install.
    """
    for name in names:
        for package in () if name == "torch" else ("onnx", name):
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(f"the peer {name} needs {package}; install it with: pip install 'tidegate[bench]'")


INFERENCE: dict[str, Build] = {
    "tidegate": infer(tg.LSTM, torch.float32),
    "tidegate bf16": infer(tg.LSTM, torch.bfloat16),
    "torch": infer(torch.nn.LSTM, torch.float32),
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
TRAINING: dict[str, Build] = {
    "tidegate": train(tg.LSTM, torch.float32),
    "tidegate bf16": train(tg.LSTM, torch.bfloat16),
    "torch": train(torch.nn.LSTM, torch.float32),
}
