"""A layer as an ONNX model: the ``LSTM`` operator itself, tried in onnxruntime before it is written.

T steps, B batch rows, I inputs, H hidden units, L layers, D directions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tidegate.errors import InterchangeError
from tidegate.interchange.onnx_graph import TOLERANCE, Exported, Graph, difference, run, start, write
from tidegate.interchange.onnx_import import Reversed
from tidegate.interchange.pytorch import from_torch, refuse
from tidegate.layer import LSTM

BATCHES, TIMES = (1, 3, 64), (1, 7, 500)
INPUTS = ("sequence_lens", "state")


def export_onnx(
    model: Any, path: str | Path, *, inputs: Sequence[str] = INPUTS, opset: int | None = None, **options: Any
) -> Exported:
    """Write a layer, or a trained model that can be exported whole, as ONNX.

    The graph holds one ``LSTM`` operator a layer. Batch and time are free. Inputs are ``input``,
    laid out as the layer takes it, ``sequence_lens`` (B,) int32, ``h_0`` and ``c_0`` (L*D, B, H);
    outputs are ``output``, laid out and merged as the layer gives it, ``h_n`` and ``c_n``. Rows
    without a step keep their initial state, as in tidegate. What acts in training only (dropout,
    recurrent_dropout, weight_dropout) leaves no trace.

    Parameters
    ----------
    model : tg.LSTM, Reversed, torch.nn.LSTM, or a model with ``export_onnx``, such as tg.Forecaster
    path : str or Path
        Replaced whole, or not at all.
    inputs : sequence of "sequence_lens" and "state"
        Which inputs the graph has beside ``input``; without "state" it starts from zeros.
    opset : int, optional
        The newest up to 22 that onnxruntime runs by default.
    **options
        For a model's own ``export_onnx``.

    Returns
    -------
    Exported

    Raises
    ------
    InterchangeError
        For what the operator cannot say (layer_norm, zoneout, proj_size, reset; float64, which
        onnxruntime does not run), and where onnxruntime gives other values than tidegate on
        batches of 1, 3 and 64 rows with 1, 7 and 500 steps and mixed lengths.
    MissingExtra
        Without ``tidegate[onnx]``.
    """
    if hasattr(model, "export_onnx"):
        return model.export_onnx(path, opset=opset, **options)
    if options:
        raise TypeError(f"a layer is exported with inputs and opset; given also {', '.join(options)}")
    layer, lstm = _layer(model)
    _check(lstm, inputs)
    graph = _graph(layer, lstm, inputs)
    data, version, session = start(graph, {"tidegate.layer": repr(layer)}, opset)
    checks, worst = 0, 0.0
    for steps in TIMES:
        for rows in BATCHES:
            feeds = _example(lstm, inputs, steps, rows)
            found, expected = run(session, feeds), _call(layer, feeds)
            error = difference(found, expected)
            if error > TOLERANCE:
                _explain(layer, feeds, found, expected, error)
            checks, worst = checks + 1, max(worst, error)
    return Exported(write(path, data), version, checks, worst)


def _layer(model: Any) -> tuple[nn.Module, LSTM]:
    """A copy on the CPU in evaluation mode, and the LSTM in it."""
    if isinstance(model, nn.LSTM):
        model = from_torch(model)
    if not isinstance(model, LSTM | Reversed):
        raise InterchangeError(
            "export_onnx writes a tg.LSTM, a torch.nn.LSTM or a trained tg.Forecaster; given "
            f"{type(model).__name__}: export each LSTM in it by itself"
        )
    with torch.no_grad():  # computed weights that have a gradient cannot be copied
        _lstm_of(model)._compute_weights()
        layer = copy.deepcopy(model).cpu().eval()
        lstm = _lstm_of(layer)
        lstm._compute_weights()  # on the CPU
    return layer, lstm


def _lstm_of(layer: Any) -> LSTM:
    return layer.lstm if isinstance(layer, Reversed) else layer


def _check(lstm: LSTM, inputs: Sequence[str]) -> None:
    for name in inputs:
        if name == "reset":
            raise InterchangeError(
                "the ONNX LSTM operator cannot say reset: its memories run on from the first step to the last; "
                "cut the sequences where they reset, and carry h_n and c_n between the calls"
            )
        if name not in INPUTS:
            raise InterchangeError(f"inputs are some of {', '.join(map(repr, INPUTS))}; given {name!r}")
    refuse(lstm, "the ONNX LSTM operator", peephole=True, apart=True)
    refuse_dtype(lstm)


def refuse_dtype(lstm: LSTM) -> None:
    """Raise for a dtype that onnxruntime does not run."""
    dtype = lstm.weight_ih_l0.dtype
    if dtype != torch.float32:
        raise InterchangeError(
            f"onnxruntime runs the LSTM operator in float32 on the CPU; given {dtype}: convert a copy with .float()"
        )


def _graph(layer: nn.Module, lstm: LSTM, inputs: Sequence[str]) -> Graph:
    rows, units = lstm.num_layers * lstm.directions, lstm.hidden_size
    time = ["batch", "time"] if lstm.batch_first else ["time", "batch"]
    g = Graph("lstm", "An LSTM written by tidegate. Gates and memories as in the ONNX operator LSTM.")
    x = g.input("input", np.float32, [*time, lstm.input_size], "sequences, padded at their ends")
    lengths = h_0 = c_0 = ""
    if "sequence_lens" in inputs:
        lengths = g.input("sequence_lens", np.int32, ["batch"], "valid steps of each row, from 0 to time")
    if "state" in inputs:
        h_0 = g.input("h_0", np.float32, [rows, "batch", units], "short-term memory before the first step")
        c_0 = g.input("c_0", np.float32, [rows, "batch", units], "long-term memory before the first step")
    if lstm.batch_first:
        x = g.add("Transpose", x, perm=[1, 0, 2])
    top, h, c = g.lstm(lstm, x, lengths, h_0, c_0, isinstance(layer, Reversed))
    y, shape = _merged(g, lstm, top)
    if lstm.batch_first:
        y = g.add("Transpose", y, perm=[1, 0, 2, 3][: len(shape) + 2])
    g.add("Identity", y, name="output")
    g.add("Identity", h, name="h_n")
    g.add("Identity", c, name="c_n")
    g.output("output", np.float32, [*time, *shape], "the top layer's output; zero past a row's length")
    g.output("h_n", np.float32, [rows, "batch", units], "short-term memory after the last valid step")
    g.output("c_n", np.float32, [rows, "batch", units], "long-term memory after the last valid step")
    return g


def _merged(g: Graph, lstm: LSTM, y: str) -> tuple[str, list[int]]:
    """The top's (T, D, B, H) merged to (T, B, ...), and the dimensions after these two."""
    units, d = lstm.hidden_size, lstm.directions
    if lstm.merge is None:
        return g.add("Transpose", y, perm=[0, 2, 1, 3]), [d, units]
    if lstm.merge == "concat" or d == 1:
        return g.joined(y, d, units), [d * units]
    one, other = (g.add("Squeeze", g.slice(y, k, k + 1, 1), g.whole(1)) for k in (0, 1))
    if lstm.merge == "product":
        return g.add("Mul", one, other), [units]
    both = g.add("Add", one, other)
    return (g.add("Mul", both, g.constant(0.5)) if lstm.merge == "mean" else both), [units]


def _example(lstm: LSTM, inputs: Sequence[str], steps: int, rows: int) -> dict[str, np.ndarray]:
    """Random inputs; the first row is full, the second empty, the others have any length."""
    rng = np.random.default_rng([steps, rows])
    shape = (rows, steps) if lstm.batch_first else (steps, rows)
    feeds: dict[str, np.ndarray] = {"input": rng.normal(size=(*shape, lstm.input_size))}
    if "sequence_lens" in inputs:
        lengths = rng.integers(0, steps + 1, rows)
        lengths[0] = steps
        lengths[1:2] = 0
        feeds["sequence_lens"] = lengths.astype(np.int32)
    if "state" in inputs:
        size = (lstm.num_layers * lstm.directions, rows, lstm.hidden_size)
        feeds |= {name: rng.normal(size=size) for name in ("h_0", "c_0")}
    return {k: v if k == "sequence_lens" else v.astype(np.float32) for k, v in feeds.items()}


@torch.no_grad()
def _call(layer: nn.Module, feeds: dict[str, np.ndarray], dtype: torch.dtype = torch.float32) -> list[np.ndarray]:
    values = {k: torch.from_numpy(v) for k, v in feeds.items()}
    x = values["input"].to(dtype)
    hx: tuple[Tensor, Tensor] | None = None
    if "h_0" in values:
        hx = (values["h_0"].to(dtype), values["c_0"].to(dtype))
    output, (h, c) = layer(x, hx, lengths=values.get("sequence_lens"))
    return [output.numpy(), h.numpy(), c.numpy()]


def _explain(layer: nn.Module, feeds: dict[str, np.ndarray], found: Any, expected: Any, error: float) -> None:
    """Raise, unless rounding alone moves both: long chaotic sequences are judged against float64."""
    truth = _call(copy.deepcopy(layer).double(), feeds, torch.float64)
    ours, theirs = difference(expected, truth), difference(found, truth)
    if theirs > max(TOLERANCE, 4 * ours):
        raise InterchangeError(
            f"onnxruntime differs from tidegate by {error:.1e}, more than {TOLERANCE:.0e}, on input of shape "
            f"{feeds['input'].shape}; nothing was written"
        )
