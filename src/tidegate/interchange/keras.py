"""Keras LSTM weights in and out, by arrays and names; Keras is not needed.

Keras keeps ``kernel`` (I, 4H), ``recurrent_kernel`` (H, 4H) and one ``bias`` (4H,), gate order
i, f, c, o, which is torch's i, f, g, o; what is transposed here is all that differs.

I inputs, H hidden units, L layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tidegate.errors import InterchangeError
from tidegate.interchange import keras_files
from tidegate.interchange.pytorch import refuse
from tidegate.layer import LSTM

# Keras's merge modes and the layer's.
MERGES: dict[str | None, str | None] = {
    "concat": "concat", "sum": "sum", "ave": "mean", "mul": "product", None: None,
}  # fmt: skip
_PARTS = ("kernel", "recurrent_kernel", "bias")


class KerasLayer(NamedTuple):
    """What one Keras layer is made and filled with."""

    class_name: str  # "LSTM" or "Bidirectional"
    config: dict[str, Any]  # arguments of keras.layers.LSTM: units, use_bias, return_sequences
    merge_mode: str | None  # of Bidirectional
    names: list[str]  # of the weights
    weights: list[np.ndarray]  # for ``layer.set_weights``


class _Cell(NamedTuple):
    """The arrays of one direction of one layer."""

    kernel: np.ndarray  # (I, 4H)
    recurrent: np.ndarray  # (H, 4H)
    bias: np.ndarray | None  # (4H,)

    @property
    def units(self) -> int:
        return self.recurrent.shape[0]


def from_keras(
    weights: Any,
    *,
    bidirectional: bool | None = None,
    layers: str | Sequence[str] | None = None,
    config: Any = None,
    **options: Any,
) -> LSTM:
    """A ``tg.LSTM`` from the weights of one Keras LSTM, or of several stacked ones.

    Parameters
    ----------
    weights : list of arrays, mapping of str to array, or path
        ``layer.get_weights()``, or those of several layers one after the other; arrays by Keras's
        names, such as ``{w.path: w.numpy() for w in model.weights}``; an ``.npz`` of either; or,
        with ``tidegate[keras]``, a ``.weights.h5``, ``.h5`` or ``.keras`` file. Other layers' weights
        in a mapping or file are passed over.
    bidirectional : bool, optional
        Are the arrays those of ``Bidirectional`` layers, forward before backward? Found from names
        where there are names; False by default.
    layers : str or sequence of str, optional
        Names of the Keras layers to take, bottom first. Needed where a file has several.
    config : dict or list of dict, optional
        ``layer.get_config()`` of each layer, to be checked. A file that holds it is checked by itself.
    **options
        Further arguments of ``tg.LSTM``; ``batch_first`` is True by default, as in Keras, and
        ``merge`` is Keras's ``merge_mode`` of the top layer where ``config`` says it.

    Returns
    -------
    LSTM
        In evaluation mode; Keras's one bias is ``bias_ih``, and ``bias_hh`` is zero. Its output is that
        of ``return_sequences=True``; the final states are those of ``return_state=True``.

    Raises
    ------
    InterchangeError
        Where the arrays are no LSTM's, or a layer needs what ``tg.LSTM`` cannot say: other activations
        than tanh and sigmoid, ``go_backwards``, layers of different size, directions joined otherwise
        than by concatenation below the top.
    """
    wanted = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
    found: list[dict[str, Any]] = []
    if isinstance(weights, str | Path):
        weights, found = keras_files.read(Path(weights))
        if isinstance(weights, Mapping) and wanted is None:
            names = keras_files.layers_of(weights)
            if len(names) > 1:
                raise InterchangeError(
                    f"the file holds several LSTM layers, in no order: {', '.join(names)}; say with layers which "
                    "to take, bottom first"
                )
            wanted = names
        found = [c for c in found if c.get("config", c).get("name") in (wanted or ())]
        found.sort(key=lambda c: (wanted or []).index(c.get("config", c)["name"]))
    if isinstance(weights, Mapping):
        cells, named = keras_files.cells_of(weights, wanted)
        arrays = [array for cell in cells for array in cell]
        if bidirectional is not None and bidirectional != named:
            raise InterchangeError(
                f"the names are those of {'both directions' if named else 'one direction'}; given "
                f"bidirectional={bidirectional}"
            )
        bidirectional = named
    elif wanted is not None:
        raise InterchangeError("layers chooses by name; given a list of arrays, which has no names")
    else:
        arrays = _flat(weights)
    given = [config] if isinstance(config, Mapping) else list(config or found)
    try:
        merge = _check_config(given)
    except (AttributeError, KeyError, TypeError) as error:
        raise InterchangeError(f"a layer's configuration is no Keras configuration: {error}") from None
    both = bool(bidirectional) if bidirectional is not None or not given else _is_bidirectional(given[0])
    return _make(_cells(arrays), both, {"batch_first": True} | merge | options)


def to_keras(lstm: LSTM) -> list[KerasLayer]:
    """What Keras needs to compute the same: one entry a layer, bottom first.

    ``keras.layers.LSTM(**entry.config)`` (within ``Bidirectional(..., merge_mode=entry.merge_mode)``), built, then
    ``layer.set_weights(entry.weights)``. Both biases are added. Rates of dropout act in training only and are left
    behind.

    Raises
    ------
    InterchangeError
        For what Keras's LSTM cannot say: zoneout, layer_norm, peephole, proj_size, merge=None of one direction,
        bfloat16.
    """
    refuse(lstm, "Keras's LSTM")
    if lstm.weight_ih_l0.dtype == torch.bfloat16:
        raise InterchangeError("Keras takes numpy arrays, which have no bfloat16: convert a copy with .float()")
    lstm._compute_weights()
    modes = {ours: keras for keras, ours in MERGES.items()}
    made = []
    for layer in range(lstm.num_layers):
        arrays, names = [], []
        for direction, w in zip(("forward_lstm", "backward_lstm"), lstm.weights(layer), strict=False):
            parts = [w.ih.t(), w.hh.t()]
            if w.b_ih is not None and w.b_hh is not None:
                parts.append(w.b_ih + w.b_hh)
            arrays += [np.array(p.detach().cpu().numpy(), order="C") for p in parts]  # copies
            prefix = f"{direction}/" if lstm.bidirectional else ""
            names += [prefix + part for part in _PARTS[: len(parts)]]
        top = layer == lstm.num_layers - 1
        config = {"units": lstm.hidden_size, "use_bias": lstm.bias, "return_sequences": True}
        mode = None if not lstm.bidirectional else modes[lstm.merge] if top else "concat"
        made.append(KerasLayer("Bidirectional" if lstm.bidirectional else "LSTM", config, mode, names, arrays))
    return made


def _flat(weights: Any) -> list[np.ndarray]:
    """Arrays, or lists of them, one after the other."""
    if not isinstance(weights, list | tuple):
        raise InterchangeError(
            f"Keras weights are a list of arrays, a mapping of names to arrays, or a path; "
            f"given {type(weights).__name__}"
        )
    arrays: list[np.ndarray] = []
    for one in weights:
        if isinstance(one, list | tuple):
            arrays += _flat(one)
        else:
            arrays.append(one.detach().cpu().numpy() if isinstance(one, Tensor) else np.asarray(one))
    return arrays


def _cells(arrays: list[np.ndarray]) -> list[_Cell]:
    """Arrays in order: kernel, recurrent kernel, and a bias where one follows."""
    cells: list[_Cell] = []
    place = 0
    while place < len(arrays):
        part = arrays[place : place + 3]
        shapes = [a.shape for a in part]
        if len(part) < 2 or not keras_files.is_cell(shapes[:2]):
            raise InterchangeError(
                "an LSTM has kernel (I, 4H), recurrent_kernel (H, 4H) and bias (4H,) in this order; "
                f"given {', '.join(map(str, shapes))}"
            )
        width = shapes[1][1]
        bias = part[2] if len(part) == 3 and shapes[2] == (width,) else None
        if len(part) == 3 and bias is None and len(shapes[2]) == 1:
            raise InterchangeError(
                f"bias has shape ({width},), as both kernels have {width} columns; given {shapes[2]}"
            )
        cells.append(_Cell(part[0], part[1], bias))
        place += 2 if bias is None else 3
    if not cells:
        raise InterchangeError("there are no weights of an LSTM here")
    return cells


def _make(cells: list[_Cell], bidirectional: bool, options: dict[str, Any]) -> LSTM:
    d = 2 if bidirectional else 1
    units, inputs = cells[0].units, cells[0].kernel.shape[0]
    if len(cells) % d:
        raise InterchangeError(f"bidirectional layers have two sets of weights each; given {len(cells)} sets")
    if any(cell.units != units for cell in cells):
        sizes = ", ".join(str(cell.units) for cell in cells)
        raise InterchangeError(f"the layers of one tg.LSTM have one size; given {sizes} units: take them one by one")
    if len({cell.bias is None for cell in cells}) > 1:
        raise InterchangeError("the layers of one tg.LSTM all have a bias, or none has; given both")
    for place, cell in enumerate(cells):
        expected = inputs if place < d else d * units
        if cell.kernel.shape[0] != expected:
            hint = " (are they one Bidirectional layer? then give bidirectional=True)" if d == 1 and place == 1 else ""
            raise InterchangeError(
                f"layer {place // d} reads {expected} values, {'both directions' if d == 2 else 'the output'} of the "
                f"layer below; its kernel has {cell.kernel.shape[0]} rows{hint}"
            )
    kinds = {a.dtype for cell in cells for a in cell if a is not None}
    if len(kinds) > 1 or next(iter(kinds)).kind != "f":
        raise InterchangeError(f"weights have one floating dtype; given {', '.join(sorted(map(str, kinds)))}")
    tensors = [[None if a is None else torch.from_numpy(np.array(a)) for a in cell] for cell in cells]
    options = {"dtype": tensors[0][0].dtype} | options  # type: ignore[union-attr]
    made = LSTM(inputs, units, len(cells) // d, cells[0].bias is not None, bidirectional=bidirectional, **options)
    weights: dict[str, Tensor] = {}
    for place, (kernel, recurrent, bias) in enumerate(tensors):
        assert kernel is not None
        assert recurrent is not None
        suffix = f"_l{place // d}" + ("_reverse" if place % d else "")
        weights["weight_ih" + suffix], weights["weight_hh" + suffix] = kernel.t(), recurrent.t()
        if bias is not None:
            weights["bias_ih" + suffix], weights["bias_hh" + suffix] = bias, torch.zeros_like(bias)
    made.load_state_dict(weights, strict=False)  # options may add parameters, which stay as they start
    return made.eval()


def _is_bidirectional(config: Mapping[str, Any]) -> bool:
    return "layer" in config.get("config", config)


def _check_config(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Refuse what the layer cannot say; the merge of the top layer, where it is known."""
    merge: dict[str, Any] = {}
    for place, outer in enumerate(configs):
        config = outer.get("config", outer)
        kind = outer.get("class_name", "LSTM")
        if "layer" in config:
            kind = config["layer"].get("class_name", "LSTM")
            mode = config.get("merge_mode", "concat")
            if mode not in MERGES:
                raise InterchangeError(f"merge_mode is one of {', '.join(map(repr, MERGES))}; given {mode!r}")
            if place + 1 < len(configs) and mode != "concat":
                raise InterchangeError(
                    f"below the top layer, directions are joined by concatenation; given merge_mode={mode!r}"
                )
            merge = {"merge": MERGES[mode]}
            _check_layer(config["layer"].get("config", {}), kind)
            backward = config.get("backward_layer") or {}
            if backward:
                inner = backward.get("config", {})
                _check_layer({**inner, "go_backwards": not inner.get("go_backwards", True)}, kind)
        else:
            _check_layer(config, kind)
    return merge


def _check_layer(config: Mapping[str, Any], kind: str) -> None:
    if kind != "LSTM":
        raise InterchangeError(f"the layer is a keras.layers.{kind}; an LSTM is expected")
    for key, expected in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        value = config.get(key, expected)
        value = value.get("config", value) if isinstance(value, Mapping) else value
        value = value.get("name", value) if isinstance(value, Mapping) else value
        if value != expected:
            raise InterchangeError(f"{key}={value!r}: the gates of tg.LSTM have {expected!r}, as the equations do")
    if config.get("go_backwards", False):
        raise InterchangeError(
            "go_backwards=True: tg.LSTM reads forwards; load the weights as a forward layer and wrap it in "
            "tg.interchange.Reversed, whose output stands in the order of the input"
        )
    rates = {k: config[k] for k in ("dropout", "recurrent_dropout") if config.get(k)}
    if rates:
        said = ", ".join(f"{k}={v}" for k, v in rates.items())
        warnings.warn(f"{said} acts in training only and is not taken over; give tg.LSTM's own", stacklevel=4)
