"""LSTMs of other frameworks in, and ours out: torch, Keras and ONNX.

Nothing here needs the other framework but ONNX, whose packages are the extra ``tidegate[onnx]``.
"""

from __future__ import annotations

from tidegate.interchange.keras import KerasLayer, from_keras, to_keras
from tidegate.interchange.onnx_export import export_onnx
from tidegate.interchange.onnx_graph import Exported
from tidegate.interchange.onnx_import import ImportedLSTM, Reversed, load_onnx
from tidegate.interchange.pytorch import from_torch, to_torch

__all__ = [
    "Exported",
    "ImportedLSTM",
    "KerasLayer",
    "Reversed",
    "export_onnx",
    "from_keras",
    "from_torch",
    "load_onnx",
    "to_keras",
    "to_torch",
]
