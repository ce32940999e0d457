"""How weights start.

Each initialiser is a small callable on a layer; pass one, or a sequence of them, as
``tg.LSTM(..., init=...)``, or call it on a layer made before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tidegate.layer import LSTM

Initialiser = Callable[[Any], None]


def torch_default() -> Initialiser:
    """Every weight and bias uniform in [-1/sqrt(H), 1/sqrt(H)], as ``torch.nn.LSTM`` draws them.

    Gains of a layer norm start at one, its bias at zero.
    """
    return _torch_default


def _torch_default(layer: Any) -> None:
    bound = 1.0 / math.sqrt(layer.hidden_size) if layer.hidden_size > 0 else 0.0
    for name, parameter in layer.named_parameters():
        if name.startswith("norm_"):
            nn.init.ones_(parameter)
            if name.startswith("norm_c"):
                nn.init.zeros_(parameter[1])
        else:
            nn.init.uniform_(parameter, -bound, bound)


def forget_bias(value: float = 1.0) -> Initialiser:
    """Forget gates open at the start: their bias is ``value`` in every layer and direction.

    Torch's LSTM has two bias vectors that are added up; the value goes into ``bias_ih``, and the
    forget part of ``bias_hh`` is zero, so that it counts once (Jozefowicz et al. 2015).
    """
    return partial(_forget_bias, value=value)


def _forget_bias(layer: LSTM, value: float) -> None:
    for b_ih, b_hh in _biases(layer, "forget_bias"):
        forget = _gate(layer, 1)
        b_ih[forget] = value
        b_hh[forget] = 0.0


def chrono(t_max: float) -> Initialiser:
    """Time constants of the memory spread up to ``t_max`` steps (Tallec & Ollivier 2018, eq. 16).

    ``b_f = ln(u)`` with u uniform in [1, t_max - 1], and ``b_i = -b_f``; other gate biases are zero.

    Raises
    ------
    ValueError, TypeError
        If ``t_max`` is no finite number of at least 3.
    """
    rule = "chrono needs a longest lag t_max, a finite number of at least 3 steps"
    if isinstance(t_max, bool) or not isinstance(t_max, Real):
        raise TypeError(f"{rule}; given {t_max!r} of type {type(t_max).__name__}")
    if not 3 <= t_max < math.inf:
        raise ValueError(f"{rule}; given {t_max}")

    return partial(_chrono, t_max=t_max)


def _chrono(layer: LSTM, t_max: float) -> None:
    for b_ih, b_hh in _biases(layer, "chrono"):
        span = torch.empty_like(b_ih[_gate(layer, 1)]).uniform_(1.0, t_max - 1.0).log()
        b_ih.zero_()
        b_hh.zero_()
        b_ih[_gate(layer, 1)] = span
        b_ih[_gate(layer, 0)] = -span


def orthogonal(gain: float = 1.0) -> Initialiser:
    """Each gate's recurrent matrix starts orthogonal (Saxe et al. 2014)."""
    return partial(_orthogonal, gain=gain)


def _orthogonal(layer: Any, gain: float) -> None:
    for name in _named(layer, "weight_hh", "orthogonal"):
        weight = torch.empty_like(getattr(layer, name)).detach()
        for block in weight.split(layer.hidden_size):
            nn.init.orthogonal_(block, gain)
        _write(layer, name, weight)


_BY_NAME: dict[str, Callable[[], Initialiser]] = {
    "torch": torch_default,
    "forget_bias": forget_bias,
    "orthogonal": orthogonal,
}


def listed(init: str | Initialiser | Iterable[str | Initialiser] | None) -> list[str | Initialiser]:
    """``init`` as a list, checked."""
    rule = (
        f"init is one of {', '.join(map(repr, _BY_NAME))}, a callable on the layer such as tg.init.chrono(500), "
        "or a sequence of these"
    )
    if init is None:
        return []
    if not isinstance(init, str | Iterable) and not callable(init):
        raise TypeError(f"{rule}; given {init!r} of type {type(init).__name__}")
    chosen = [init] if isinstance(init, str) or callable(init) else list(init)
    for one in chosen:
        if isinstance(one, str) and one not in _BY_NAME:
            raise ValueError(f"{rule}; given {one!r}")
        if not isinstance(one, str) and not callable(one):
            raise TypeError(f"{rule}; given {one!r} of type {type(one).__name__}")
    return chosen


def apply(layer: nn.Module, init: str | Initialiser | Iterable[str | Initialiser] | None) -> None:
    """Draw torch's default, then apply each initialiser of ``init`` in turn."""
    chosen = listed(init)
    with torch.no_grad():
        torch_default()(layer)
        for one in chosen:
            left = (_BY_NAME[one]() if isinstance(one, str) else one)(layer)
            if callable(left):  # the maker of an initialiser in place of one
                name = getattr(one, "__name__", repr(one))
                raise TypeError(f"init={name} made an initialiser and drew nothing; pass what it returns, {name}()")


def _gate(layer: LSTM, index: int) -> slice:
    return slice(index * layer.hidden_size, (index + 1) * layer.hidden_size)


def _biases(layer: Any, what: str) -> Iterator[list[Tensor]]:
    """Copies of both biases of each direction, which the layer takes over as they are when the next are asked for."""
    if not getattr(layer, "bias", True):
        raise ValueError(f"{what} sets gate biases, but the layer was made with bias=False")
    for name in _named(layer, "bias_ih", what):
        both = name, name.replace("bias_ih", "bias_hh")
        values = [getattr(layer, n).detach().clone() for n in both]
        if len(values[0]) != 4 * layer.hidden_size:
            raise ValueError(f"{what} sets the biases of an LSTM's gates; given {type(layer).__name__}, which has none")
        yield values
        for n, value in zip(both, values, strict=True):
            _write(layer, n, value)


def _named(layer: Any, start: str, what: str) -> list[str]:
    """Names of the parameters that begin so, with those that a parametrisation computes."""
    names = [n for n in (*layer._parameters, *getattr(layer, "parametrizations", ())) if n.startswith(start)]
    if not names:
        raise ValueError(f"{what} sets {start} of a recurrent layer; given {type(layer).__name__}, which has none")
    return names


@torch.no_grad()
def _write(layer: Any, name: str, value: Tensor) -> None:
    """A new value of a parameter, or of what a parametrisation computes it from."""
    if name in layer._parameters:
        layer._parameters[name].copy_(value)
        return
    try:
        setattr(layer, name, value)
    except RuntimeError as error:  # a parametrisation that says no way back
        raise ValueError(f"{name} cannot be set: {error}; draw weights before they are parametrised") from None
