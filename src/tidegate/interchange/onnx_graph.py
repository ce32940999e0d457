"""What the ONNX exports share: a graph under construction, the LSTM operator, the trial in onnxruntime.

T steps, B batch rows, I inputs, H hidden units, L layers, D directions.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import tidegate
from tidegate.cell import LSTMWeights
from tidegate.data.atomic import atomic_write
from tidegate.errors import InterchangeError, MissingExtra
from tidegate.layer import LSTM

NEWEST, OLDEST = 22, 14  # the LSTM operator's latest version, and the first opset with all that is used here
LARGEST = 2**31 - 1  # bytes of a protobuf message
TOLERANCE = 1e-5


class Exported(NamedTuple):
    """A file that was written after its outputs were compared with tidegate's own."""

    path: Path
    opset: int
    checks: int  # calls compared
    error: float  # largest difference, relative to the larger of 1 and the largest value expected


def need(package: str) -> Any:
    """A package of the extra, imported when it is needed.

    Raises
    ------
    MissingExtra
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.partition(".")[0]
        raise MissingExtra(f'{name} is not installed and ONNX needs it: pip install "tidegate[onnx]"') from None


class Graph:
    """Nodes and constants of an ONNX graph, added one after the other."""

    def __init__(self, name: str, doc: str) -> None:
        self._helper, self._numpy = need("onnx.helper"), need("onnx.numpy_helper")
        self.name, self.doc = name, doc
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def input(self, name: str, dtype: Any, shape: Sequence[int | str], doc: str) -> str:
        """A named input; a dimension that is text is free."""
        self.inputs.append(self._value(name, dtype, shape, doc))
        return name

    def output(self, name: str, dtype: Any, shape: Sequence[int | str], doc: str) -> None:
        """Declare the value of this name an output."""
        self.outputs.append(self._value(name, dtype, shape, doc))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._numpy.from_array(np.asarray(value, dtype=dtype, order="C"), name))
        return name

    def whole(self, *values: int) -> str:
        """A vector of whole numbers, as axes, places and shapes are given."""
        return self.constant(values, np.int64)

    def add(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node with one output, named ``name`` or by itself."""
        name = name or f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(op, inputs, [name], f"{op}_{len(self._nodes)}", **attributes))
        return name

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        """``x[start:end]`` along an axis."""
        return self.add("Slice", x, self.whole(start), self.whole(end), self.whole(axis))

    def sorted(self, x: str, count: int) -> str:
        """The ``count`` values of the last axis in rising order."""
        name = f"sorted_{len(self._nodes)}"
        outputs = [name, name + "_places"]
        self._nodes.append(self._helper.make_node("TopK", [x, self.whole(count)], outputs, name, axis=-1, largest=0))
        return name

    def lstm(self, lstm: LSTM, x: str, lengths: str, h_0: str, c_0: str, reverse: bool = False) -> tuple[str, str, str]:
        """One LSTM node a layer: x (T, B, I) to the top's (T, D, B, H) and both states (L*D, B, H).

        ``lengths``, ``h_0`` and ``c_0`` are names, or empty.
        """
        units, d = lstm.hidden_size, lstm.directions
        direction = "bidirectional" if d == 2 else "reverse" if reverse else "forward"
        top, h_n, c_n = "", [], []
        for layer in range(lstm.num_layers):
            h, c = h_0, c_0
            if lstm.num_layers > 1 and h_0:
                h, c = (self.slice(s, layer * d, layer * d + d, 0) for s in (h_0, c_0))
            w, r, b, p = ("" if v is None else self.constant(v) for v in operator_weights(lstm.weights(layer)))
            given = [x, w, r, b, lengths, h, c, p]
            while not given[-1]:
                given.pop()
            made = [f"layer_{layer}_{what}" for what in ("output", "h", "c")]
            self._nodes.append(
                self._helper.make_node("LSTM", given, made, f"LSTM_{layer}", hidden_size=units, direction=direction)
            )
            top = made[0]
            h_n.append(made[1])
            c_n.append(made[2])
            if layer + 1 < lstm.num_layers:
                x = self.joined(top, d, units)
        h, c = (self.add("Concat", *s, axis=0) if len(s) > 1 else s[0] for s in (h_n, c_n))
        if lengths and h_0:
            # onnxruntime gives zeros for a row without steps; its memories are those before the first step.
            empty = self.add("Unsqueeze", self.add("Equal", lengths, self.constant(0, np.int32)), self.whole(1))
            h, c = self.add("Where", empty, h_0, h), self.add("Where", empty, c_0, c)
        return top, h, c

    def joined(self, y: str, directions: int, units: int) -> str:
        """Both directions concatenated: (T, D, B, H) to (T, B, D*H)."""
        if directions == 1:
            return self.add("Squeeze", y, self.whole(1))
        across = self.add("Transpose", y, perm=[0, 2, 1, 3])
        return self.add("Reshape", across, self.whole(0, 0, directions * units))

    def model(self, opset: int, metadata: Mapping[str, str]) -> bytes:
        """The graph as a file's bytes."""
        onnx = need("onnx")
        graph = self._helper.make_graph(self._nodes, self.name, self.inputs, self.outputs, self._constants)
        domains = [self._helper.make_opsetid("", opset)]
        model = self._helper.make_model(
            graph,
            opset_imports=domains,
            ir_version=self._helper.find_min_ir_version_for(domains),
            producer_name="tidegate",
            producer_version=tidegate.__version__,
            doc_string=self.doc,
        )
        self._helper.set_model_props(model, dict(metadata))
        size = model.ByteSize()
        if size > LARGEST:
            raise InterchangeError(f"an ONNX file holds at most {LARGEST:,} bytes; this model takes {size:,}")
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    def _value(self, name: str, dtype: Any, shape: Sequence[int | str], doc: str) -> Any:
        kind = self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._helper.make_tensor_value_info(name, kind, list(shape), doc)


def operator_weights(weights: list[LSTMWeights]) -> list[Tensor | None]:
    """W (D, 4H, I), R (D, 4H, H), B (D, 8H) and P (D, 3H) of the operator, whose gate order is i, o, f, c."""
    w = torch.stack([_iofc(one.ih) for one in weights])
    r = torch.stack([_iofc(one.hh) for one in weights])
    b = p = None
    if weights[0].b_ih is not None:
        b = torch.stack([torch.cat([_iofc(one.b_ih), _iofc(one.b_hh)]) for one in weights])
    if weights[0].ch is not None:
        p = torch.stack([one.ch[[0, 2, 1]].flatten() for one in weights if one.ch is not None])  # i, o, f
    return [None if v is None else v.detach().cpu() for v in (w, r, b, p)]


def _iofc(weight: Tensor | None) -> Tensor:
    assert weight is not None
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, o, f, g])


def start(graph: Graph, metadata: Mapping[str, str], opset: int | None = None) -> tuple[bytes, int, Any]:
    """The model in the newest opset that onnxruntime runs, or in the one asked for, and a session on it.

    Raises
    ------
    InterchangeError
        If onnxruntime runs none of them.
    """
    defs, _ = need("onnx.defs"), need("onnxruntime")
    if opset is not None and not OLDEST <= opset <= defs.onnx_opset_version():
        raise InterchangeError(f"opset is from {OLDEST} to {defs.onnx_opset_version()}; given {opset}")
    newest = min(NEWEST, defs.onnx_opset_version())
    last: Exception | None = None
    for version in [opset] if opset is not None else range(newest, OLDEST - 1, -1):
        data = graph.model(version, metadata)
        try:
            return data, version, session(data)
        except Exception as error:  # onnxruntime's errors share no base of their own
            last = error
    raise InterchangeError(f"onnxruntime does not run this model ({_short(last)}); nothing was written")


def session(data: bytes) -> Any:
    """An onnxruntime session on the CPU that prints nothing."""
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(of: Any, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a session; what goes wrong in it is told in a sentence."""
    try:
        return of.run(None, dict(feeds))
    except Exception as error:
        raise InterchangeError(f"onnxruntime cannot run this model ({_short(error)}); nothing was written") from None


def difference(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    """Largest difference, relative to the larger of 1 and the largest value expected; infinite where not finite."""
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        if a.shape != e.shape:
            return np.inf
        if a.size:
            found = np.abs(a - e).max() / max(1.0, np.abs(e).max())
            worst = max(worst, float(found) if np.isfinite(found) else np.inf)
    return worst


def write(path: str | Path, data: bytes) -> Path:
    """Write a model, whole or not at all."""
    with atomic_write(path) as file:
        file.write(data)
    return Path(path)


def _short(error: Exception | None) -> str:
    text = " ".join(str(error).split())
    return text[:300] + ("…" if len(text) > 300 else "")
