"""Others' ONNX files: read without trust, and their constants as arrays.

Nothing in a file is executed but a few operations that move numbers about; what is damaged, too
large or points outside the file's folder is refused in one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tidegate.data.atomic import why
from tidegate.errors import InterchangeError
from tidegate.interchange.onnx_graph import LARGEST, need

# They give no more numbers than they take.
MOVES = frozenset({"Constant", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat"})
SMALL = 2**20  # bytes that a constant may always take
DEPTH = 32  # nodes between a weight and the constants that it is made of


def read(source: Any) -> tuple[Any, Path | None]:
    """A ModelProto from a path, bytes or a ModelProto, and the folder its data may lie in.

    Raises
    ------
    InterchangeError
        If it is missing, too large, damaged or not a model.
    """
    onnx = need("onnx")
    folder = None
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        if isinstance(source, str | Path):
            folder = Path(source).parent
            source = _bytes(Path(source))
        if not isinstance(source, bytes | bytearray):
            raise InterchangeError(f"a path, bytes or an onnx.ModelProto is expected; given {type(source).__name__}")
        message = need("google.protobuf.message")
        model = onnx.ModelProto()
        try:
            model.ParseFromString(bytes(source))
        except (message.DecodeError, RecursionError, ValueError) as error:
            raise InterchangeError(f"this is not an ONNX model, or a damaged one ({error})") from None
    if not model.HasField("graph") or not model.ir_version:
        raise InterchangeError("this is not an ONNX model: it has no graph or no version")
    return model, folder


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_dir() or not path.is_file():
            raise InterchangeError(f"{path} is not a file")
        if size > LARGEST:
            raise InterchangeError(f"an ONNX file holds at most {LARGEST:,} bytes; {path} has {size:,}")
        return path.read_bytes()
    except OSError as error:
        raise InterchangeError(f"cannot read {path}: {why(error)}") from None


class Constants:
    """The constants of a graph by name: initializers, Constant nodes, and these moved about.

    Parameters
    ----------
    model : ModelProto
    folder : Path or None
        Where data outside the file may lie; None for none.
    given : mapping of str to array
        Values for names that the graph takes as inputs.
    """

    def __init__(self, model: Any, folder: Path | None, given: Mapping[str, Any]) -> None:
        self._folder = folder
        self._read = 0  # bytes taken from the file
        self._tensors = {t.name: t for t in model.graph.initializer}
        self._made_by = {name: node for node in model.graph.node for name in node.output if name}
        self.opset = max([o.version for o in model.opset_import if o.domain in ("", "ai.onnx")], default=1)
        self._values: dict[str, np.ndarray | None] = {name: _as_array(value) for name, value in given.items()}

    def get(self, name: str, depth: int = 0) -> np.ndarray | None:
        """The value of a name, None where it depends on the graph's inputs."""
        if name not in self._values:
            self._values[name] = None  # so that a circle ends, and no way is gone twice
            if name in self._tensors:
                self._values[name] = self._array(self._tensors[name])
            elif name in self._made_by and depth < DEPTH:
                self._fold(self._made_by[name], depth)
        return self._values.get(name)

    def _fold(self, node: Any, depth: int) -> None:
        if node.op_type not in MOVES or node.domain not in ("", "ai.onnx"):
            return
        feeds: dict[str, np.ndarray] = {}
        for name in node.input:
            value = self.get(name, depth + 1) if name else None
            if name and value is None:
                return
            if value is not None:
                feeds[name] = value
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    self._values[node.output[0]] = self._array(attribute.t)
                    return
        size = sum(feeds[name].nbytes for name in node.input if name)
        if size > 4 * self._read + SMALL:
            raise InterchangeError(
                f"the constant {node.output[0]!r} would take {size:,} bytes, made of {self._read:,} in the file"
            )
        found = evaluate([node], feeds, list(node.output), self.opset)
        if found is not None:
            self._values.update(zip(node.output, found, strict=True))

    def _array(self, tensor: Any) -> np.ndarray:
        """The numbers of a tensor; its size is checked before they are read."""
        onnx, numpy_helper = need("onnx"), need("onnx.numpy_helper")
        try:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor = self._outside(tensor)
            if tensor.HasField("raw_data"):
                size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
                if min(tensor.dims, default=0) < 0 or size != len(tensor.raw_data):
                    raise ValueError(
                        f"shape {tuple(tensor.dims)} needs {size:,} bytes, it has {len(tensor.raw_data):,}"
                    )
            value = numpy_helper.to_array(tensor)
            self._read += value.nbytes
            return value
        except InterchangeError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError, OSError, need("onnx.checker").ValidationError) as error:
            reason = " ".join(str(error).split())
            raise InterchangeError(f"the constant {tensor.name!r} cannot be read: {reason}") from None

    def _outside(self, tensor: Any) -> Any:
        """A copy of a tensor with its data from a file in the model's folder."""
        onnx = need("onnx")
        place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        if self._folder is None:
            raise InterchangeError(
                f"the constant {tensor.name!r} lies in another file ({place!r}); give the model's path to find it"
            )
        folder = self._folder.resolve()
        path = (folder / place).resolve()
        if not place or not path.is_relative_to(folder) or not path.is_file():
            raise InterchangeError(
                f"the constant {tensor.name!r} lies in {place!r}; expected a file inside the model's folder"
            )
        size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if size > path.stat().st_size:
            raise InterchangeError(
                f"the constant {tensor.name!r} needs {size:,} bytes, and {place!r} has {path.stat().st_size:,}"
            )
        filled = onnx.TensorProto()
        filled.CopyFrom(tensor)
        need("onnx.external_data_helper").load_external_data_for_tensor(filled, str(folder))
        filled.data_location = onnx.TensorProto.DEFAULT
        return filled


def evaluate(nodes: list[Any], feeds: Mapping[str, Any], outputs: list[str], opset: int) -> list[np.ndarray] | None:
    """Outputs of a few nodes computed by onnx's own reference, None where it cannot."""
    helper, reference = need("onnx.helper"), need("onnx.reference")
    kind = helper.np_dtype_to_tensor_dtype
    try:
        inputs = [helper.make_tensor_value_info(k, kind(v.dtype), v.shape) for k, v in feeds.items()]
        results = [helper.make_tensor_value_info(name, 0, None) for name in outputs]
        graph = helper.make_graph(nodes, "part", inputs, results)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        return reference.ReferenceEvaluator(model).run(outputs, dict(feeds))
    except Exception:  # whatever a stranger's nodes run into: they are then not constants
        return None


def to_tensor(value: np.ndarray) -> Tensor:
    """A tensor of its own from an array of any floating dtype that ONNX has."""
    if value.dtype.name not in ("float16", "float32", "float64", "bfloat16"):
        raise InterchangeError(
            f"weights and states are float16, float32, float64 or bfloat16; the model holds {value.dtype}"
        )
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(value).view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(value))  # a copy: the file's memory is read-only


def _as_array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
