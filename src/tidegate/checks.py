"""Checks of what a caller hands to a layer. Each message states the rule, the given, the expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_whole(name: str, value: Any, least: int) -> None:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is a whole number; given {value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} is a whole number of at least {least}; given {value}")


def check_rate(name: str, value: Any) -> None:
    """A probability."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} is a rate from 0 to 1; given {value!r} of type {type(value).__name__}")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is a rate from 0 to 1; given {value}")


def check_flag(name: str, value: Any) -> None:
    """A yes or no."""
    if not isinstance(value, bool | int | np.bool_):
        raise TypeError(f"{name} is True or False; given {value!r} of type {type(value).__name__}")
    if value not in (0, 1):
        raise ValueError(f"{name} is True or False; given {value}")


def check_dtype(dtype: Any) -> None:
    """One that weights can have; None is torch's default."""
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype is a torch.dtype or None; given {dtype!r} of type {type(dtype).__name__}")
    if dtype not in (None, *_DTYPES):
        raise TypeError(f"dtype is one of {', '.join(map(str, _DTYPES))}; given {dtype}")


def check_choice(name: str, value: Any, choices: tuple) -> None:
    """One of a few values."""
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}; given {value!r}")


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast makes of x; None outside of it, and for what it leaves alone: float64 and whole numbers."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device) if x.is_floating_point() and x.dtype != torch.float64 else None


def check_input(x: Any, features: int, weight: Tensor, batch_first: bool) -> Tensor:
    """A batched (3 dimensions) or unbatched (2) sequence that fits the layer."""
    if not isinstance(x, Tensor):
        raise TypeError(f"input is a torch.Tensor or a PackedSequence; given {type(x).__name__}")
    if x.is_nested:
        raise TypeError(
            "input is a dense tensor; given a nested one: convert it with .to_padded_tensor(0.0) and "
            "give the rows' lengths as lengths=, in the jagged layout its offsets().diff()"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"input is a dense tensor; given {x.layout}: convert it with .to_dense()")
    layout = f"(B, T, {features})" if batch_first else f"(T, B, {features})"
    if x.dim() not in (2, 3):
        raise ValueError(
            f"input has 3 dimensions {layout}, or 2 for a single sequence (T, {features}); given shape {tuple(x.shape)}"
        )
    if x.shape[-1] != features:
        raise ValueError(
            f"the input's last dimension is input_size; given {x.shape[-1]} in shape {tuple(x.shape)}, "
            f"expected {features} in {layout}"
        )
    if x.device != weight.device:
        raise ValueError(f"input is on the layer's device; given {x.device}, expected {weight.device}")
    if x.dtype != weight.dtype and (autocast_dtype(x) is None or autocast_dtype(weight) is None):
        raise TypeError(
            f"input has the dtype of the layer's weights; given {x.dtype}, expected {weight.dtype}: "
            "convert one of them with .to(dtype)"
        )
    return x


def check_batch_mask(name: str, value: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """``lengths`` (whole numbers) or ``reset`` (bool) of a given shape, on the input's device."""
    value = torch.as_tensor(value, device=device)
    if name == "lengths" and not value.numel():  # an empty list is float
        value = value.long()
    if name == "reset" and value.dtype != torch.bool:
        raise TypeError(f"reset is a bool tensor, true where a new sequence starts; given {value.dtype}")
    if name == "lengths" and (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
        raise TypeError(f"lengths are whole numbers; given {value.dtype}")
    if tuple(value.shape) != shape:
        what = "one number a row" if name == "lengths" else "laid out like the input's time and batch"
        raise ValueError(f"{name} is {what}; given shape {tuple(value.shape)}, expected {shape}")
    return value if name == "reset" else value.to(torch.int64)


def check_state(name: str, state: Any, shape: tuple[int, int, int], x: Tensor, batched: bool) -> Tensor:
    """An initial state that fits; unbatched ones come without the batch dimension. Returns 3 dimensions."""
    if not isinstance(state, Tensor):
        raise TypeError(f"{name} is a torch.Tensor; given {type(state).__name__}")
    expected = shape if batched else (shape[0], shape[2])
    if tuple(state.shape) != expected:
        raise ValueError(
            f"{name} is (layers x directions, {'batch, ' if batched else ''}features); "
            f"given shape {tuple(state.shape)}, expected {expected}"
        )
    if state.device != x.device:
        raise ValueError(f"{name} is on the input's device; given {state.device}, expected {x.device}")
    half = x.dtype in (torch.float16, torch.bfloat16)
    fits = (x.dtype, torch.float32) if name == "c_0" and half else (x.dtype,)
    if state.dtype not in fits and (autocast_dtype(x) is None or autocast_dtype(state) is None):
        raise TypeError(f"{name} has the input's dtype; given {state.dtype}, expected {x.dtype}")
    return state if batched else state.unsqueeze(1)
