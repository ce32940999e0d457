"""What the LSTM and the vanilla RNN share: parameters by torch's names, layouts, stacking and merging.

T steps, B batch rows, I inputs, H hidden units, P outputs of a direction (H without projection),
L layers, D directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from tidegate import init as _init
from tidegate.checks import (
    check_batch_mask,
    check_choice,
    check_dtype,
    check_flag,
    check_input,
    check_rate,
    check_whole,
)
from tidegate.packed import Places, check, places

MERGES = ("concat", "sum", "mean", "product", None)


class Layout(NamedTuple):
    """How the caller laid out what was brought into (T, B, I)."""

    batched: bool
    places: Places | None  # of a packed input


def variational_dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout of (T, B, F) with one mask for all steps of a sequence (Gal & Ghahramani 2016)."""
    return x * F.dropout(torch.ones_like(x[:1]), rate)


class Recurrent(nn.Module):
    """What LSTM and RNN share: parameters by torch's names, layouts, stacking and merging."""

    _gates: int  # blocks of H rows in each weight
    mode: str
    weight_ih_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        merge: str | None,
        proj_size: int = 0,
        variational: bool = False,
    ) -> None:
        super().__init__()
        check_whole("input_size", input_size, 1)
        check_whole("hidden_size", hidden_size, 1)
        check_whole("num_layers", num_layers, 1)
        check_whole("proj_size", proj_size, 0)
        check_rate("dropout", dropout)
        check_choice("merge", merge, MERGES)
        check_flag("bias", bias)
        check_flag("batch_first", batch_first)
        check_flag("bidirectional", bidirectional)
        check_flag("variational", variational)
        if proj_size >= hidden_size:
            raise ValueError(f"proj_size is below hidden_size ({hidden_size}), or 0 for none; given {proj_size}")
        if dropout and num_layers == 1:
            warnings.warn(
                "dropout acts between layers, so with num_layers=1 it does nothing; "
                f"given dropout={dropout} and num_layers=1",
                stacklevel=3,
            )
        self.input_size = int(input_size)
        self.hidden_size = int(hidden_size)
        self.num_layers = int(num_layers)
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dropout = float(dropout)
        self.variational = bool(variational)
        self.bidirectional = bool(bidirectional)
        self.merge = merge
        self.proj_size = int(proj_size)

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def state_size(self) -> int:
        """P: the size of the short-term memory and of one direction's output."""
        return self.proj_size or self.hidden_size

    @property
    def output_size(self) -> int:
        """Features of the output's last dimension."""
        return self.state_size * (self.directions if self.merge == "concat" else 1)

    def _suffixes(self) -> Iterable[tuple[int, str]]:
        """Layer and suffix of each parameter set, in torch's order: _l0, _l0_reverse, _l1, ..."""
        for layer in range(self.num_layers):
            for direction in ("", "_reverse")[: self.directions]:
                yield layer, f"_l{layer}{direction}"

    def _shapes(self, inputs: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of one direction's parameters, torch's first and in torch's order."""
        rows = self._gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, self.state_size)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        return shapes

    def _make_parameters(self, init: Any, device: Any, dtype: Any) -> None:
        check_dtype(dtype)
        self._init = _init.listed(init)
        for layer, suffix in self._suffixes():
            inputs = self.input_size if layer == 0 else self.state_size * self.directions
            for name, shape in self._shapes(inputs).items():
                self.register_parameter(name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, as the layer's ``init`` says."""
        _init.apply(self, self._init)

    def _get(self, name: str) -> Any:
        return getattr(self, name, None)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Each direction's parameters, as ``torch.nn.LSTM.all_weights``."""
        return [
            [p for name in self._shapes(1) if (p := self._get(name + suffix)) is not None]
            for _, suffix in self._suffixes()
        ]

    def flatten_parameters(self) -> None:
        """Nothing to do: the kernels pack weights themselves. Here because models call it."""

    def extra_repr(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}"]
        defaults: dict[str, Any] = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        defaults |= {"proj_size": 0, "merge": "concat", "nonlinearity": "tanh", "layer_norm": False, "peephole": False}
        defaults |= {"recurrent_dropout": 0.0, "weight_dropout": 0.0, "zoneout": (0.0, 0.0), "checkpoint_every": None}
        defaults |= {"variational": False}
        shown += [f"{k}={getattr(self, k)!r}" for k, v in defaults.items() if getattr(self, k, v) != v]
        return ", ".join(shown)

    # -- layouts ---------------------------------------------------------------------------------

    def _enter(
        self, input: Tensor | PackedSequence, lengths: Any, reset: Any, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Layout]:
        """Any layout to x (T, B, I), lengths (B,) and reset (T, B); its dtype is that of ``weight``, the first one."""
        at, weight = None, self.weight_ih_l0 if weight is None else weight
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("a packed sequence brings its own lengths; lengths was given as well, expected None")
            at = places(input)
            x, lengths = at.pad(input.data), at.lengths  # (T, B, I)
            check_input(x, self.input_size, weight, batch_first=False)
            batched, batch_first = True, False
        else:
            x = check_input(input, self.input_size, weight, self.batch_first)
            batched, batch_first = x.dim() == 3, self.batch_first
            if not batched:
                x = x.unsqueeze(1)  # (T, 1, I)
            elif batch_first:
                x = x.transpose(0, 1)
        steps, rows = x.shape[0], x.shape[1]
        if lengths is not None and at is None:
            lengths = check_batch_mask("lengths", lengths, (rows,) if batched else (), x.device).reshape(rows)
        if reset is not None:
            shape = (steps,) if not batched else (rows, steps) if batch_first else (steps, rows)
            reset = check_batch_mask("reset", reset, shape, x.device)
            reset = reset.unsqueeze(1) if not batched else reset.t() if batch_first else reset
        return x, lengths, reset, Layout(batched, at)

    def _like_padded(self, input: PackedSequence, weight: Tensor) -> Tensor:
        """Checks a packed input; an empty (0, B, I) with the rows, dtype and device that it would have if padded."""
        check(input)
        data = input.data.unsqueeze(1)  # (N, 1, I)
        check_input(data, self.input_size, weight, batch_first=False)
        return data[:0].expand(0, int(input.batch_sizes[0]), -1)

    def _leave(self, output: Tensor, layout: Layout) -> Tensor | PackedSequence:
        """The top layer's output (T, B, D, P), merged, back in the caller's layout."""
        output = _merge(output, self.merge)
        if layout.places is not None:
            return layout.places.repack(output)
        if not layout.batched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output

    def _between(self, output: Tensor, layout: Layout) -> Tensor:
        """What the next layer reads: directions joined by concatenation, with dropout."""
        x = output.flatten(2)  # (T, B, D * P)
        if not self.dropout or not self.training:
            return x
        if self.variational:
            return variational_dropout(x, self.dropout)
        if layout.places is not None:  # the mask that torch draws
            return layout.places.pad(F.dropout(layout.places.unpad(x), self.dropout))
        return F.dropout(x, self.dropout)

    def step(self, x_t: Tensor, state: Any = None, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """Read one step: x_t (B, I) or (I,), reset (B,); the output is (B, P), or (P,), with the state after it.

        Raises
        ------
        ValueError
            If the layer is bidirectional, which cannot stream.
        """
        self._refuse_streaming("step")
        if not isinstance(x_t, Tensor):
            raise TypeError(f"step reads a torch.Tensor; given {type(x_t).__name__}")
        if x_t.dim() not in (1, 2):
            raise ValueError(
                f"step reads one step (B, {self.input_size}) or ({self.input_size},); given {tuple(x_t.shape)}"
            )
        time = 1 if self.batch_first and x_t.dim() == 2 else 0
        if reset is not None:
            reset = check_batch_mask("reset", reset, tuple(x_t.shape[:-1]), x_t.device).unsqueeze(time)
        output, after = self(x_t.unsqueeze(time), state, reset=reset)
        return output.squeeze(time), after

    def __prepare_scriptable__(self) -> NoReturn:
        """What ``torch.jit.script`` asks for, whose own words would name no way out."""
        raise RuntimeError(
            f"torch.jit.script cannot read {type(self).__name__}; torch.jit.trace and torch.export.export take it, and "
            "tidegate.restore(model) gives torch's layers back where tidegate.swap took them"
        )

    def _refuse_streaming(self, what: str) -> None:
        if self.bidirectional:
            raise ValueError(
                f"{what} goes forward in time; this layer is bidirectional, and its backward direction needs "
                "the end of the sequence before its first output: expected bidirectional=False"
            )


def _merge(output: Tensor, merge: str | None) -> Tensor:
    """Join the directions of (T, B, D, P)."""
    if merge == "concat":
        return output.flatten(2)
    if merge == "sum":
        return output.sum(2)
    if merge == "mean":
        return output.mean(2)
    if merge == "product":
        return output.prod(2) if output.shape[2] == 1 else output[:, :, 0] * output[:, :, 1]
    return output
