"""Keras weights by their names, from mappings and files.

Nothing in a file is executed; a Keras archive's HDF5 part is read with h5py (``tidegate[keras]``).
"""

from __future__ import annotations

import importlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.data.atomic import why
from tidegate.errors import InterchangeError, MissingExtra, TidegateError

LARGEST = 2**32  # bytes of weights in a file
SPARSE = 1024  # bytes of weights for each of an HDF5 file at most: more is no file of trained weights
# What zipfile, numpy, json and h5py raise on files that were cut or changed.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError, EOFError, RuntimeError,
    MemoryError,
)  # fmt: skip
_INNER = {"cell", "lstm_cell", "vars"}  # parts of a name that lie below a layer
_ORDER = {"kernel": 0, "recurrent_kernel": 1, "bias": 2, "0": 0, "1": 1, "2": 2}


def is_cell(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Are these the kernel (I, 4H) and the recurrent kernel (H, 4H) of an LSTM?"""
    return (
        len(shapes) == 2
        and all(len(s) == 2 and min(s) > 0 for s in shapes)
        and shapes[0][1] == shapes[1][1] == 4 * shapes[1][0]
    )


def cells_of(weights: Mapping[str, Any], layers: Sequence[str] | None) -> tuple[list[list[np.ndarray]], bool]:
    """The arrays of each LSTM cell, in the order given or that of ``layers``; are they of two directions?"""
    groups = _groups(weights)
    if layers is not None:
        chosen: dict[str, list[np.ndarray]] = {}
        for layer in layers:
            found = {name: arrays for name, arrays in groups.items() if layer in name.split("/")}
            if not found:
                raise InterchangeError(f"there is no LSTM layer {layer!r}; there are: {', '.join(_names(groups))}")
            chosen |= found
        groups = chosen
    if not groups:
        raise InterchangeError(
            "no name here ends in kernel, recurrent_kernel (or 0, 1) with an LSTM's shapes (I, 4H) and (H, 4H)"
        )
    backward = [any(_part(p, "backward") for p in name.split("/")) for name in groups]
    both = any(backward)
    if both:
        # HDF5 lists names by the alphabet, where backward comes first.
        ordered = sorted(groups, key=lambda name: (_names(groups).index(_layer(name)), _direction(name)))
        if [_direction(name) for name in ordered] != [0, 1] * (len(ordered) // 2):
            raise InterchangeError(f"each layer has a forward and a backward part; given {', '.join(groups)}")
        groups = {name: groups[name] for name in ordered}
    return list(groups.values()), both


def layers_of(weights: Mapping[str, Any]) -> list[str]:
    """Names of the layers with an LSTM."""
    return _names(_groups(weights))


def read(path: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Weights of a file, a list or by name, and the layers' configurations where it holds them.

    Raises
    ------
    InterchangeError
        If the file is missing, damaged, of another kind or too large.
    """
    try:
        if path.suffix == ".npz":
            return _npz(path), []
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                config = _configs(json.loads(_member(archive, "config.json")))
                return _hdf5(io.BytesIO(_member(archive, "model.weights.h5")), config)
        if path.suffix in (".h5", ".hdf5"):
            with open(path, "rb") as file:
                return _hdf5(file, [])
    except OSError as error:
        reason = why(error) if error.errno else " ".join(str(error).split())
        raise InterchangeError(f"cannot read {path}: {reason}") from None
    except _DAMAGED as error:
        if isinstance(error, TidegateError):
            raise
        raise InterchangeError(f"{path} is damaged or no {path.suffix} file: {error}") from None
    raise InterchangeError(f"weights come from a .npz, .h5, .weights.h5 or .keras file; given {path}")


def _npz(path: Path) -> Any:
    with open(path, "rb") as opened:
        if opened.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):  # numpy would take it for a pickle
            raise InterchangeError(f"{path} is damaged or no .npz file: it is no archive of arrays")
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as file:
            if sum(info.file_size for info in file.zip.infolist()) > LARGEST:
                raise InterchangeError(f"{path} unpacks to more than {LARGEST:,} bytes")
            try:
                arrays = {name: file[name] for name in file.files}
            except ValueError as error:
                if "pickle" not in str(error):
                    raise
                raise InterchangeError(f"{path} holds Python objects, where arrays of numbers are read") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InterchangeError(f"{path} is damaged or no .npz file: {name} in it is no array")
    unnamed = [f"arr_{k}" for k in range(len(arrays))]
    return [arrays[name] for name in unnamed] if set(arrays) == set(unnamed) else arrays


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > LARGEST:
        raise InterchangeError(f"{name} unpacks to more than {LARGEST:,} bytes")
    return archive.read(name)


def _hdf5(file: Any, configs: list[dict[str, Any]]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError:
        raise MissingExtra(
            'h5py is not installed and this Keras file needs it: pip install "tidegate[keras]"; or save the weights '
            "with numpy.savez(path, *layer.get_weights())"
        ) from None
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    size = file.seek(0, io.SEEK_END)
    with h5py.File(file, "r") as tree:
        if "model_config" in tree.attrs:
            configs = _configs(json.loads(tree.attrs["model_config"]))

        def visit(name: str, item: Any) -> None:
            if not isinstance(item, h5py.Dataset):
                if name.endswith("/vars") and isinstance(item.attrs.get("name"), str):
                    names[name.removesuffix("/vars")] = item.attrs["name"]
                return
            if name.startswith("optimizer") or name.partition(":")[0].rpartition("/")[2] not in _ORDER:
                return
            if item.external or item.is_virtual:
                raise InterchangeError(f"{name} lies in another file, which is not read")
            if item.nbytes > LARGEST:
                raise InterchangeError(f"{name} has more than {LARGEST:,} bytes")
            if item.nbytes + sum(array.nbytes for array in arrays.values()) > min(LARGEST, SPARSE * size):
                raise InterchangeError(f"{name} and what stands before it unpack to far more than the file holds")
            arrays[name] = item[()]

        tree.visititems(visit)
    return {_renamed(name, names): value for name, value in arrays.items()}, configs


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """A weights file's path with the layer's own name, where the file keeps it."""
    parts = name.split("/")
    for k in range(1, len(parts)):
        own = names.get("/".join(parts[:k]))
        if own and not _part(parts[k - 1], "forward") and not _part(parts[k - 1], "backward"):
            return "/".join([own, *parts[k:]])
    return name


def _groups(weights: Mapping[str, Any]) -> dict[str, list[np.ndarray]]:
    """Arrays of each LSTM cell: kernel, recurrent kernel and, where there is one, bias."""
    groups: dict[str, dict[int, np.ndarray]] = {}
    for name, value in weights.items():
        prefix, _, last = name.partition(":")[0].rpartition("/")
        if last in _ORDER:
            groups.setdefault(prefix, {})[_ORDER[last]] = np.asarray(value)
    return {
        prefix: [parts[k] for k in sorted(parts)]
        for prefix, parts in groups.items()
        if {0, 1} <= set(parts) and is_cell([parts[0].shape, parts[1].shape])
    }


def _names(groups: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(_layer(name) for name in groups))


def _layer(name: str) -> str:
    """The layer of a cell's name: its last part that is neither the cell nor a direction."""
    parts = [p for p in name.split("/") if p not in _INNER and not p.startswith("lstm_cell")]
    parts = [p for p in parts if not _part(p, "forward") and not _part(p, "backward")]
    return parts[-1] if parts else name


def _part(name: str, direction: str) -> bool:
    return name.startswith(direction + "_")


def _direction(name: str) -> int:
    return int(any(_part(p, "backward") for p in name.split("/")))


def _configs(tree: Any) -> list[dict[str, Any]]:
    """Every LSTM and wrapped LSTM in a model's configuration, with its class."""
    found: list[dict[str, Any]] = []
    rest = [tree]
    while rest:
        node = rest.pop()
        if isinstance(node, dict):
            if isinstance(node.get("config"), dict) and node.get("class_name") in ("LSTM", "Bidirectional"):
                found.append(node)
            else:
                rest += node.values()
        elif isinstance(node, list):
            rest += node
    return found
