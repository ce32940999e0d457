"""LSTM nodes of others' ONNX models as layers.

T steps, B batch rows, I inputs, H hidden units, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tidegate.errors import InterchangeError
from tidegate.interchange.onnx_file import MOVES, SMALL, Constants, evaluate, read, to_tensor
from tidegate.interchange.onnx_graph import need
from tidegate.layer import LSTM
from tidegate.ops import check_lengths
from tidegate.state import State

_INPUTS = ("input", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_KNOWN: dict[str, type] = {
    "activation_alpha": list, "activation_beta": list, "activations": list, "clip": float, "direction": bytes,
    "hidden_size": int, "input_forget": int, "layout": int, "output_sequence": int,
}  # fmt: skip
_BETWEEN = MOVES | {"Dropout", "Shape", "Gather"}  # what may lie between two layers
_LONGEST = 16  # nodes there


class Reversed(nn.Module):
    """An LSTM that reads each sequence from its last valid step to its first.

    Its output stands where its input stood; its final state is that after the first step. It is
    what ONNX calls ``direction="reverse"`` and Keras ``go_backwards=True`` (whose output Keras
    leaves in reading order).

    Parameters
    ----------
    lstm : LSTM
        Of one direction.
    """

    def __init__(self, lstm: LSTM) -> None:
        super().__init__()
        if lstm.bidirectional:
            raise ValueError("a reversed LSTM has one direction; given bidirectional=True")
        self.lstm = lstm

    def forward(self, input: Tensor, hx: Any = None, lengths: Any = None) -> tuple[Tensor, State]:
        """As :meth:`tidegate.LSTM.forward`, without ``reset``."""
        if not isinstance(input, Tensor):
            raise TypeError(f"input is a torch.Tensor; given {type(input).__name__}")
        output, state = self.lstm(self._flip(input, lengths), hx, lengths=lengths)
        return self._flip(output, lengths), state

    def _flip(self, x: Tensor, lengths: Any) -> Tensor:
        """Turn the valid steps of each row round, padding stays."""
        time = 1 if self.lstm.batch_first and x.dim() == 3 else 0
        if lengths is None:
            return x.flip(time)
        steps = torch.arange(x.shape[time], device=x.device)
        valid = torch.as_tensor(lengths, device=x.device)  # (B,), or () unbatched
        check_lengths(valid, len(steps))
        if valid.dim() == 0:
            return x.index_select(0, torch.where(steps < valid, valid - 1 - steps, steps))
        place = torch.where(steps < valid[:, None], valid[:, None] - 1 - steps, steps)  # (B, T)
        place = place if time == 1 else place.t()
        return x.gather(time, place[..., None].expand_as(x))


class ImportedLSTM(NamedTuple):
    """One stack of LSTM nodes as a layer in evaluation mode."""

    nodes: list[str]  # names in the file, bottom layer first
    lstm: LSTM | Reversed  # batch_first where the nodes' layout is 1
    state: State | None  # initial memories (L*D, B, H) that the file holds as constants
    lengths: Tensor | None  # (B,) valid steps that the file holds as a constant
    feeds: dict[str, list[str]]  # what of the graph feeds input, sequence_lens, initial_h and initial_c


class _Node(NamedTuple):
    """One LSTM node, checked, in tidegate's order of gates and layout of states."""

    name: str
    layer: dict[str, Any]  # arguments of tg.LSTM that all layers of a stack share
    inputs: int
    direction: str
    tensors: dict[str, list[Tensor]]  # parameters by name, one a direction
    states: list[Tensor | None]  # initial_h, initial_c
    lengths: Tensor | None
    feeds: dict[str, str]
    output: str


def load_onnx(source: Any, *, weights: Mapping[str, Any] | None = None) -> list[ImportedLSTM]:
    """Read the LSTM nodes of a model.

    Nodes of which each reads the whole output of the one before, directions concatenated, become
    one layer with ``num_layers``. A coupled gate (``input_forget=1``, where onnxruntime takes
    f = 1 - i) becomes weights of f that are the negatives of i's, since 1 - sigmoid(a) = sigmoid(-a);
    nothing ties them in later training. ``Y`` of the operator is (T, D, B, H), or (B, T, D, H) with
    layout 1; the layer's output is that with the directions concatenated.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
    weights : mapping of str to array, optional
        Values for weights, initial states or lengths that the graph takes as inputs.

    Returns
    -------
    list of ImportedLSTM
        In the order of the file.

    Raises
    ------
    InterchangeError
        If the file is damaged or no model, holds no LSTM node, or one that ``tg.LSTM`` cannot say:
        other activations than sigmoid, tanh, tanh; clip; weights that are not constants.
    MissingExtra
        Without ``tidegate[onnx]``.
    """
    model, folder = read(source)
    constants = Constants(model, folder, weights or {})
    found = [
        _read_node(node, k, constants)
        for k, node in enumerate(model.graph.node)
        if node.op_type == "LSTM" and node.domain in ("", "ai.onnx")
    ]
    if _nested(model):
        raise InterchangeError("an LSTM node inside a loop, a branch or a function is not read; inline it first")
    if not found:
        raise InterchangeError("there is no LSTM node in this model")
    stacks: list[list[_Node]] = []
    for node in found:
        below = next((s for s in stacks if _fits(s[-1], node) and _reads(model, s[-1], node, constants)), None)
        if below is None:
            stacks.append([node])
        else:
            below.append(node)
    return [_stack(nodes) for nodes in stacks]


def _read_node(node: Any, place: int, constants: Constants) -> _Node:
    name = node.name or f"LSTM at place {place}"
    given = _attributes(name, node)
    direction = given.get("direction", "forward")
    coupled, layout = given.get("input_forget", 0), given.get("layout", 0)
    names = dict(zip(_INPUTS, [*node.input, *[""] * len(_INPUTS)], strict=False))
    values: dict[str, Tensor] = {}
    for key in ("W", "R", "B", "P"):
        if names[key]:
            value = constants.get(names[key])
            if value is None:
                raise InterchangeError(
                    f"{name}: {key} ({names[key]!r}) is not a constant of the model; give its value in weights"
                )
            values[key] = to_tensor(value) if value.dtype.kind in "fV" else torch.zeros(0)
    directions = 2 if direction == "bidirectional" else 1
    units, inputs = _check_shapes(name, values, directions, given.get("hidden_size"))
    states: list[Tensor | None] = []
    for key in ("initial_h", "initial_c"):
        value = constants.get(names[key]) if names[key] else None
        state = None if value is None else to_tensor(value)
        if state is not None and layout and state.dim() == 3:
            state = state.transpose(0, 1)
        if state is not None and (state.dim() != 3 or (state.shape[0], state.shape[2]) != (directions, units)):
            raise InterchangeError(
                f"{name}: {key} has {directions} x batch x {units} values; given {tuple(state.shape)}"
            )
        states.append(state)
    lengths = constants.get(names["sequence_lens"]) if names["sequence_lens"] else None
    if lengths is not None and (lengths.dtype.kind not in "iu" or lengths.ndim != 1 or (lengths < 0).any()):
        raise InterchangeError(
            f"{name}: sequence_lens holds a number of steps for each row; given {lengths.dtype} {lengths.shape}"
        )
    return _Node(
        name,
        {
            "hidden_size": units,
            "bidirectional": directions == 2,
            "batch_first": layout == 1,
            "bias": "B" in values,
            "peephole": "P" in values,
            "dtype": values["W"].dtype,
        },
        inputs,
        direction,
        _parameters(values, coupled == 1),
        states,
        None if lengths is None else torch.from_numpy(np.array(lengths, np.int64)),
        {key: names[key] for key in ("input", "sequence_lens", "initial_h", "initial_c")},
        node.output[0] if node.output else "",
    )


def _attributes(name: str, node: Any) -> dict[str, Any]:
    """A node's attributes, where tg.LSTM can say them."""
    helper = need("onnx.helper")
    given: dict[str, Any] = {}
    for attribute in node.attribute:
        key = attribute.name
        if key not in _KNOWN:
            raise InterchangeError(f"{name}: {key!r} is no attribute of the ONNX LSTM operator")
        try:
            given[key] = helper.get_attribute_value(attribute)
        except ValueError:
            given[key] = None
        if not isinstance(given[key], _KNOWN[key]):
            raise InterchangeError(f"{name}: the attribute {key} has the wrong type or no value")
    direction = given.get("direction", b"forward").decode(errors="replace").lower()
    given["direction"] = direction
    if direction not in ("forward", "reverse", "bidirectional"):
        raise InterchangeError(f"{name}: direction is forward, reverse or bidirectional; given {direction!r}")
    for key in ("input_forget", "layout"):
        if given.get(key, 0) not in (0, 1):
            raise InterchangeError(f"{name}: {key} is 0 or 1; given {given[key]}")
    wanted = ["sigmoid", "tanh", "tanh"] * (2 if direction == "bidirectional" else 1)
    activations = [a.decode(errors="replace") if isinstance(a, bytes) else str(a) for a in given.get("activations", [])]
    if activations and [a.lower() for a in activations] != wanted:
        raise InterchangeError(
            f"{name}: activations are Sigmoid, Tanh, Tanh, which are the LSTM's equations in tg.LSTM and its "
            f"kernels; given {', '.join(activations)}"
        )
    if "clip" in given and not given["clip"] >= np.finfo(np.float32).max:
        raise InterchangeError(
            f"{name}: clip={given['clip']:g} cuts what the gates see at every step, which tg.LSTM has no option for"
        )
    return given


def _check_shapes(name: str, values: dict[str, Tensor], directions: int, units: int | None) -> tuple[int, int]:
    """H and I, where all weights have the operator's shapes."""
    for key in ("W", "R"):
        if key not in values or values[key].dim() != 3:
            shape = tuple(values[key].shape) if key in values else "nothing"
            raise InterchangeError(f"{name}: {key} has 3 dimensions and is floating point; given {shape}")
    units = values["R"].shape[2] if units is None else units
    inputs = values["W"].shape[2]
    expected = {"W": (4 * units, inputs), "R": (4 * units, units), "B": (8 * units,), "P": (3 * units,)}
    for key, value in values.items():
        shape = (directions, *expected[key])
        if tuple(value.shape) != shape or 0 in shape:
            raise InterchangeError(
                f"{name}: {key} has shape {shape} for {directions} direction(s) of {units} units; "
                f"given {tuple(value.shape)}"
            )
        if value.dtype != values["W"].dtype:
            raise InterchangeError(f"{name}: all weights have one dtype; given {values['W'].dtype} and {value.dtype}")
    return units, inputs


def _parameters(values: dict[str, Tensor], coupled: bool) -> dict[str, list[Tensor]]:
    """Gates from i, o, f, c to i, f, g, o; peepholes from i, o, f to i, f, o."""

    def gates(weight: Tensor) -> Tensor:
        i, o, f, g = weight.chunk(4)
        return torch.cat([i, -i if coupled else f, g, o])

    found = {
        "weight_ih": [gates(w) for w in values["W"]],
        "weight_hh": [gates(r) for r in values["R"]],
    }
    if "B" in values:
        halves = [b.chunk(2) for b in values["B"]]
        found |= {"bias_ih": [gates(w) for w, _ in halves], "bias_hh": [gates(r) for _, r in halves]}
    if "P" in values:
        rows = [p.chunk(3) for p in values["P"]]
        found["weight_ch"] = [torch.stack([i, -i if coupled else f, o]) for i, o, f in rows]
    return found


def _fits(below: _Node, node: _Node) -> bool:
    """Can both be layers of one tg.LSTM?"""
    wide = below.layer["hidden_size"] * (2 if below.layer["bidirectional"] else 1)
    return (
        node.layer == below.layer
        and node.direction == below.direction
        and node.inputs == wide
        and node.feeds["sequence_lens"] == below.feeds["sequence_lens"]
    )


def _reads(model: Any, below: _Node, node: _Node, constants: Constants) -> bool:
    """Does a node read the whole output of the one below, directions concatenated?

    The nodes between are tried with numbers of two sizes, whatever way they take to it.
    """
    made_by = {name: n for n in model.graph.node for name in n.output if name}
    between: list[Any] = []
    fixed: dict[str, np.ndarray] = {}
    open_names, seen = [node.feeds["input"]], set()
    while open_names:
        name = open_names.pop()
        if name in seen or name == below.output or not name:
            continue
        seen.add(name)
        value = constants.get(name)
        if value is not None:
            fixed[name] = value
        elif name in made_by and made_by[name].op_type in _BETWEEN and len(between) < _LONGEST:
            if made_by[name] not in between:
                between.append(made_by[name])
            open_names += made_by[name].input
        else:
            return False
    if not below.output:
        return False
    order = {id(n): k for k, n in enumerate(model.graph.node)}
    between.sort(key=lambda n: order[id(n)])
    d, units = (2 if below.layer["bidirectional"] else 1), below.layer["hidden_size"]
    for steps, rows in ((2, 3), (5, 4)):
        shape = (rows, steps, d, units) if below.layer["batch_first"] else (steps, d, rows, units)
        y = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        joined = y if below.layer["batch_first"] else y.swapaxes(1, 2)  # (.., .., D, H)
        found = _through(between, {**fixed, below.output: y}, 4 * y.nbytes + SMALL, constants.opset)
        value = found.get(node.feeds["input"])
        if value is None or not np.array_equal(value, joined.reshape(*joined.shape[:2], -1)):
            return False
    return True


def _through(nodes: list[Any], values: dict[str, np.ndarray], most: int, opset: int) -> dict[str, np.ndarray]:
    """Values by name after nodes in their order, up to one that cannot be computed or would give too many bytes."""
    for node in nodes:
        feeds = {name: values[name] for name in node.input if name in values}
        outputs = [name for name in node.output if name]
        size = sum(value.nbytes for value in feeds.values())
        if node.op_type == "Gather" and len(feeds) == 2:
            data, indices = (feeds[name] for name in node.input)
            size = indices.size * data.nbytes  # at most
        found = evaluate([node], feeds, outputs, opset) if size <= most else None
        if found is None:
            break
        values |= zip(outputs, found, strict=True)
    return values


def _stack(nodes: list[_Node]) -> ImportedLSTM:
    bottom = nodes[0]
    lstm = LSTM(bottom.inputs, num_layers=len(nodes), **bottom.layer).eval()
    weights = {}
    for layer, node in enumerate(nodes):
        for name, tensors in node.tensors.items():
            for direction, value in zip(("", "_reverse"), tensors, strict=False):
                weights[f"{name}_l{layer}{direction}"] = value
    lstm.load_state_dict(weights)
    return ImportedLSTM(
        [node.name for node in nodes],
        Reversed(lstm).eval() if bottom.direction == "reverse" else lstm,
        _state(nodes),
        bottom.lengths,
        {
            "input": [bottom.feeds["input"]],
            "sequence_lens": [bottom.feeds["sequence_lens"]],
            "initial_h": [node.feeds["initial_h"] for node in nodes],
            "initial_c": [node.feeds["initial_c"] for node in nodes],
        },
    )


def _state(nodes: list[_Node]) -> State | None:
    """Constant initial memories of all layers; zeros where only some are given. None where there are none."""
    known = [s for node in nodes for s in node.states if s is not None]
    if not known:
        return None
    rows = known[0].shape[1]
    if any(s.shape[1] != rows for s in known):
        raise InterchangeError(f"initial states of one stack are of {rows} and of other rows of a batch")
    d, units = known[0].shape[0], known[0].shape[2]
    both = []
    for k in (0, 1):
        parts = [node.states[k] for node in nodes]
        both.append(torch.cat([torch.zeros(d, rows, units, dtype=known[0].dtype) if s is None else s for s in parts]))
    return State(both[0], both[1])


def _nested(model: Any) -> bool:
    """Is an LSTM node somewhere below the main graph?"""
    graphs = [a for n in model.graph.node for a in n.attribute]
    nodes = [n for f in model.functions for n in f.node]
    while graphs or nodes:
        if nodes:
            node = nodes.pop()
            if node.op_type == "LSTM" and node.domain in ("", "ai.onnx"):
                return True
            graphs += node.attribute
        else:
            attribute = graphs.pop()
            nodes += attribute.g.node
            nodes += [n for g in attribute.graphs for n in g.node]
    return False
