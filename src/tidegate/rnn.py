"""The vanilla RNN as a module; drop-in for ``torch.nn.RNN``. What it shares with the LSTM is in ``recurrent.py``.

T steps, B batch rows, I inputs, H hidden units, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from tidegate import ops, packed
from tidegate.cell import RNNWeights
from tidegate.checks import check_choice, check_state
from tidegate.recurrent import Recurrent


class RNN(Recurrent):
    """The vanilla RNN, ``h = tanh(x W_x + h W_h + b)``, that the LSTM is measured against.

    Takes the place of ``torch.nn.RNN``; ``merge``, ``lengths`` and ``reset`` as in :class:`LSTM`.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As in :class:`LSTM`.
    nonlinearity : "tanh" or "relu"
    merge, variational, init
        As in :class:`LSTM`.
    """

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        merge: str | None = "concat",
        variational: bool = False,
        init: Any = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge, 0, variational
        )
        check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        self.nonlinearity = nonlinearity
        self.mode = f"RNN_{nonlinearity.upper()}"
        self._make_parameters(init, device, dtype)

    def weights(self, layer: int) -> list[RNNWeights]:
        """The parameters of one layer, one entry a direction."""
        return [
            RNNWeights(*(self._get(name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))
            for of, suffix in self._suffixes()
            if of == layer
        ]

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Any, Tensor]:
        """Read whole sequences; as :meth:`LSTM.forward`, with h alone as the state (L*D, B, H)."""
        if lengths is None and reset is None and packed.is_wasteful(input):
            start = self._states(hx, self._like_padded(input, self.weight_ih_l0), batched=True)

            def read(piece: PackedSequence, start: packed.Memories) -> tuple[PackedSequence, packed.Memories]:
                output, state = self._through_layers(piece, *start)
                return output, (state,)

            output, (state,) = packed.in_pieces(input, (start,), read)
            return output, state
        return self._through_layers(input, hx, lengths, reset)

    def _states(self, hx: Any, x: Tensor, batched: bool) -> Tensor:
        shape = (self.num_layers * self.directions, x.shape[1], self.hidden_size)
        return x.new_zeros(shape) if hx is None else check_state("h_0", hx, shape, x, batched)

    def _through_layers(self, input: Any, hx: Any, lengths: Any = None, reset: Any = None) -> tuple[Any, Tensor]:
        x, lengths, reset, layout = self._enter(input, lengths, reset)
        hx, h_n = self._states(hx, x, layout.batched), []
        for layer in range(self.num_layers):
            h_0 = hx[layer * self.directions : (layer + 1) * self.directions]
            output, final = ops.rnn_sequence(x, h_0, self.weights(layer), lengths, reset, self.nonlinearity)
            h_n.append(final)
            if layer + 1 < self.num_layers:
                x = self._between(output, layout)
        state = torch.cat(h_n)
        return self._leave(output, layout), state if layout.batched else state.squeeze(1)
