"""A call of the kernels' C interface, ``struct tg_lstm`` of native/include/tidegate.h, as bytes in pieces.

Every field is eight bytes wide. What a layer's calls have in common is packed once.
"""

from __future__ import annotations

import struct

import torch

VERSION = 7
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}

SIZES = struct.Struct("<17q")  # with strides, x, h_0 and c_0
WEIGHTS = struct.Struct("<12q")
MASKS = struct.Struct("<3q")  # packed, lengths, reset
NOISE = struct.Struct("<q3d3q")  # with the first direction
OUTPUTS = struct.Struct("<5q")
GRADIENTS = struct.Struct("<19q")
NORMS = struct.Struct("<6q")
REST = struct.Struct("<2q")  # open_gates, kept
STEPS = struct.Struct("<9q")  # struct tg_steps

_NO_MASKS, _NO_NOISE, _NO_OUTPUTS = bytes(MASKS.size), bytes(NOISE.size), bytes(OUTPUTS.size)
_NO_GRADIENTS, _NO_NORMS, _NO_REST = bytes(GRADIENTS.size), bytes(NORMS.size), bytes(REST.size)


def assemble(
    sizes: bytes,
    weights: bytes,
    norms: bytes,
    *,
    masks: bytes = _NO_MASKS,
    noise: bytes = _NO_NOISE,
    outputs: bytes = _NO_OUTPUTS,
    gradients: bytes = _NO_GRADIENTS,
    d_norms: bytes = _NO_NORMS,
    rest: bytes = _NO_REST,
) -> bytes:
    """The whole call, in the struct's order; a piece that is left out is zeros, which stand for nothing."""
    return sizes + weights + masks + noise + outputs + gradients + norms + d_norms + rest
