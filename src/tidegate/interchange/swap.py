"""Every ``torch.nn.LSTM`` inside a model computed by tidegate, and back.

The modules stay the very objects they were: only their class changes. Parameters, hooks, sharing,
names, references held elsewhere and optimisers made before are untouched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
from torch import nn

from tidegate.layer import LSTM


def _apart(function: Callable[..., Any]) -> Any:
    """The function out of ``torch.compile``'s sight: that it refuses torch's LSTMs it remembers for all code it saw."""
    disabled = cache(lambda: torch.compiler.disable(function))

    @wraps(function)
    def run(self: LSTM, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or "torch._dynamo" not in sys.modules:
            return function(self, *args, **kwargs)
        return disabled()(self, *args, **kwargs)

    return run


class SwappedLSTM(LSTM, nn.LSTM):  # type: ignore[misc]
    """A ``torch.nn.LSTM`` that :func:`swap` turned into a tidegate layer; still an instance of both."""

    forward, step, trace = _apart(LSTM.forward), _apart(LSTM.step), _apart(LSTM.trace)
    _own_forward = forward

    def __getstate__(self) -> dict[str, Any]:
        state = nn.LSTM.__getstate__(self)
        return {name: value for name, value in state.items() if name not in ("_plan", "_route")}


class Swapped(NamedTuple):
    """What :func:`swap` or :func:`restore` did, by the names under which the model holds its modules."""

    replaced: list[str]
    left: dict[str, str]  # name: reason

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)}: {', '.join(map(_shown, self.replaced)) or 'none'}"]
        lines += [f"left {_shown(name)}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


# What a layer has beyond torch's.
_OPTIONS: dict[str, Any] = {
    "merge": "concat",
    "variational": False,
    "recurrent_dropout": 0.0,
    "weight_dropout": 0.0,
    "zoneout": (0.0, 0.0),
    "layer_norm": False,
    "peephole": False,
    "checkpoint_every": None,
    "_init": None,
}


def swap(model: nn.Module, *, force: bool = False) -> Swapped:
    """Let tidegate compute every ``torch.nn.LSTM`` inside a model, in place.

    Weights, ``state_dict`` and results stay what they were; a module used in several places
    stays shared, an optimiser made before goes on working, hooks run, and
    ``isinstance(module, torch.nn.LSTM)`` stays true. :func:`restore` goes back.

    Parameters
    ----------
    model : nn.Module
        May be an LSTM itself.
    force : bool
        Replace also what would run on the slow reference backend (other devices, float16).

    Returns
    -------
    Swapped
        Names of the modules replaced, and for each one left the reason: subclasses (their
        ``forward`` may differ), scripted modules, weights under a parametrisation, and what would
        run on the slow backend.

    Raises
    ------
    TypeError
        If ``model`` is not a module.

    Examples
    --------
    >>> report = tg.swap(model)
    >>> print(report)
    replaced 2: encoder.lstm, decoder.lstm
    """
    return _visit(model, lambda module: _replace(module, force))


def restore(model: nn.Module) -> Swapped:
    """Undo :func:`swap`: torch computes every swapped LSTM inside the model again.

    Returns
    -------
    Swapped
        Names of the modules given back; one that was parametrised meanwhile is left.
    """
    return _visit(model, _give_back)


def _visit(model: nn.Module, change: Callable[[nn.Module], str | bool]) -> Swapped:
    """Change each module once; True means changed, False not concerned, a text why not."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is a torch.nn.Module; given {type(model).__name__}")
    outcomes: dict[int, str | bool] = {}
    replaced, left = [], {}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) not in outcomes:
            outcomes[id(module)] = change(module)
        outcome = outcomes[id(module)]
        if isinstance(outcome, str):
            left[name] = outcome
        elif outcome:
            replaced.append(name)
    return Swapped(replaced, left)


def _replace(module: nn.Module, force: bool) -> str | bool:
    if isinstance(module, LSTM):
        return False
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted: its code is fixed" if getattr(module, "original_name", "") == "LSTM" else False
    if not isinstance(module, nn.LSTM):
        return False
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "parametrised: torch gave it a class of its own; parametrise a tidegate.LSTM instead"
    if type(module) is not nn.LSTM:
        return f"a subclass of torch.nn.LSTM, {type(module).__qualname__}, may compute something else"
    missing = [name for name in module._flat_weights_names if name not in module._parameters]
    if missing:
        return f"its {missing[0]} is not a parameter of its own (made by a hook, as old weight norm does)"
    layer = _turn(module)
    x = layer.weight_ih_l0.new_empty(1, 1, layer.input_size)
    declined = layer.backend(x).declined
    if declined and not force:
        _give_back(layer)
        return f"it would run on the slow reference backend, as {next(iter(declined.values()))}; force=True replaces it"
    return True


def _turn(module: nn.LSTM) -> SwappedLSTM:
    module.__class__ = SwappedLSTM
    assert isinstance(module, SwappedLSTM)
    for name, value in _OPTIONS.items():
        setattr(module, name, value)
    module._weight_names = module._name_weights()
    return module


def _give_back(module: nn.Module) -> str | bool:
    if not isinstance(module, SwappedLSTM):
        return False
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "parametrised: torch gave it a class of its own; remove its parametrisations first"
    for name in (*_OPTIONS, "_weight_names", "_plan", "_route"):
        module.__dict__.pop(name, None)
    module.__class__ = nn.LSTM  # type: ignore[assignment]
    module._init_flat_weights()
    return True


def _shown(name: str) -> str:
    return name or "the model itself"
