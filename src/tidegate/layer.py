"""The LSTM as a module: stacking, directions, merging, options.

Drop-in for ``torch.nn.LSTM``: same arguments, parameter names, shapes and gate order, so that a
``state_dict`` loads in either direction. The computation is in ``ops``.

T steps, B batch rows, I inputs, H hidden units, P outputs of a direction (H without projection),
L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from tidegate import direct, ops, packed, streaming
from tidegate.cell import LSTMWeights
from tidegate.checks import autocast_dtype, check_flag, check_rate, check_state, check_whole
from tidegate.ops.types import accumulator
from tidegate.recurrent import Recurrent
from tidegate.state import State
from tidegate.trace import Trace


class LSTM(Recurrent):
    """A multi-layer LSTM that takes the place of ``torch.nn.LSTM``.

    For each step of each layer (Hochreiter & Schmidhuber 1997; Gers et al. 2000)::

        f = sigmoid(x W_xf + h W_hf + b_f)      i = sigmoid(x W_xi + h W_hi + b_i)
        g = tanh(x W_xc + h W_hc + b_c)         o = sigmoid(x W_xo + h W_ho + b_o)
        c = f * c + i * g                       h = o * tanh(c)

    Parameters
    ----------
    input_size, hidden_size : int
        Features of the input (I) and units (H).
    num_layers : int
        Layers stacked; between them both directions are concatenated.
    bias : bool
    batch_first : bool
        Input and output are (B, T, ...) instead of (T, B, ...); states are not affected.
    dropout : float
        Rate on each layer's output but the last one's.
    bidirectional : bool
        A second LSTM reads each sequence from its end.
    proj_size : int
        Project h to this many features (Sak et al. 2014); 0 for none.
    device, dtype
        As in torch.
    merge : "concat", "sum", "mean", "product" or None
        How the top layer's directions are joined; None keeps them apart as (..., D, P).
    recurrent_dropout : float
        Rate of one mask a sequence on what the gates see of h (Gal & Ghahramani 2016).
    variational : bool
        ``dropout`` draws one mask a sequence instead of one a step (Gal & Ghahramani 2016).
    weight_dropout : float
        Rate on ``weight_hh``, drawn once a call (DropConnect; Merity et al. 2017).
    zoneout : float or (float, float)
        Rate at which a unit keeps its old h and c, or one rate each (Krueger et al. 2017).
    layer_norm : bool
        LN(x W_x) + LN(h W_h) + b, and LN(c) before the output's tanh (Ba et al. 2016).
    peephole : bool
        i and f also see the c before the step, o the c after it (Gers et al. 2002).
    checkpoint_every : int, optional
        Keep both memories every so many steps for the backward pass and compute everything else
        again: about 1.3 times the time, and memory of the order of sqrt(T) near the root of T
        (Chen et al. 2016). Outputs and states stay the same bits, gradients the same up to rounding.
    init : str, callable or sequence of these
        How weights start; see ``tidegate.init``. Torch's default by default.

    Examples
    --------
    >>> lstm = tg.LSTM(8, 16, num_layers=2, bidirectional=True, merge="sum")
    >>> output, (h_n, c_n) = lstm(torch.randn(50, 4, 8), lengths=torch.tensor([50, 3, 0, 20]))
    >>> output.shape
    torch.Size([50, 4, 16])
    """

    _gates = 4
    mode = "LSTM"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        merge: str | None = "concat",
        variational: bool = False,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        layer_norm: bool = False,
        peephole: bool = False,
        checkpoint_every: int | None = None,
        init: Any = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            merge,
            proj_size,
            variational,
        )
        check_rate("recurrent_dropout", recurrent_dropout)
        check_rate("weight_dropout", weight_dropout)
        rates = tuple(zoneout) if isinstance(zoneout, Sequence) else (zoneout, zoneout)
        if len(rates) != 2:
            raise ValueError(f"zoneout is one rate, or one for h and one for c; given {zoneout!r}")
        for rate in rates:
            check_rate("zoneout", rate)
        check_flag("layer_norm", layer_norm)
        check_flag("peephole", peephole)
        self.recurrent_dropout = float(recurrent_dropout)
        self.weight_dropout = float(weight_dropout)
        self.zoneout = (float(rates[0]), float(rates[1]))
        self.layer_norm = bool(layer_norm)
        self.peephole = bool(peephole)
        if checkpoint_every is not None:
            check_whole("checkpoint_every", checkpoint_every, 1)
        self.checkpoint_every = checkpoint_every
        self._weight_names = self._name_weights()
        self._make_parameters(init, device, dtype)

    def _shapes(self, inputs: int) -> dict[str, tuple[int, ...]]:
        shapes = super()._shapes(inputs)
        units = self.hidden_size
        if self.peephole:
            shapes["weight_ch"] = (3, units)
        if self.layer_norm:
            shapes |= {"norm_ih": (4 * units,), "norm_hh": (4 * units,), "norm_c": (2, units)}
        return shapes

    def weights(self, layer: int) -> list[LSTMWeights]:
        """The parameters of one layer, one entry a direction."""
        parameters, found = self._parameters, []
        for names in self._weight_names[layer]:
            # Parametrised weights (weight norm) are attributes instead.
            row: list[Any] = [
                None if n is None else parameters[n] if n in parameters else getattr(self, n) for n in names
            ]
            found.append(LSTMWeights(*row))
        return found

    @property
    def computed(self) -> bool:
        """Are weights computed, by a hook or, parametrised (weight norm), when read? A call reads those once."""
        names = [n for layer in self._weight_names for row in layer for n in row if n is not None]
        return any(n not in self._parameters for n in names)

    @contextmanager
    def _looked_at(self) -> Iterator[None]:
        """Evaluation mode where weights are computed: reading them in training may change them (spectral norm)."""
        trained = [m for m in self.modules() if m.training] if self.computed else []
        for module in trained:
            module.training = False
        try:
            yield
        finally:
            for module in trained:
                module.training = True

    def _compute_weights(self) -> None:
        """Have weights that a hook computes before each call (pruning, old weight norm) made of today's parameters."""
        if self.computed:
            self._run_hooks_before(self.weight_ih_l0.new_empty(0, 1, self.input_size), None, None, None)

    def _run_hooks_before(self, *given: Any) -> None:
        """The hooks before a call; what they return is not taken."""
        for key, hook in self._forward_pre_hooks.items():
            kwargs: tuple[Any, ...] = ({},) if key in self._forward_pre_hooks_with_kwargs else ()
            hook(self, given, *kwargs)

    @property
    def weights_fit(self) -> bool:
        """Have the weights still the shapes that the layer was made with?"""
        sizes = [self.input_size, *[self.state_size * self.directions] * (self.num_layers - 1)]
        return all(
            w.fits(inputs, self.hidden_size, self.state_size)
            for layer, inputs in enumerate(sizes)
            for w in self.weights(layer)
        )

    def _name_weights(self) -> list[list[tuple[str | None, ...]]]:
        """The attributes that ``weights`` reads: for each layer and direction in the order of LSTMWeights."""
        order = (
            "weight_ih",
            "weight_hh",
            "bias_ih",
            "bias_hh",
            "weight_hr",
            "weight_ch",
            "norm_ih",
            "norm_hh",
            "norm_c",
        )
        there = self._shapes(1)
        named = [tuple(n + suffix if n in there else None for n in order) for _, suffix in self._suffixes()]
        return [named[k : k + self.directions] for k in range(0, len(named), self.directions)]

    def _noise(self, device: torch.device | None = None) -> list[ops.Noise | None]:
        """Random masks of one call, one entry a layer."""
        zoned = self.zoneout != (0.0, 0.0)
        if not zoned and not (self.training and self.recurrent_dropout):
            return [None] * self.num_layers
        device = device or self.weight_ih_l0.device
        if self.training:
            seeds = torch.randint(2**63 - 1, (self.num_layers,), device=device)
        else:
            seeds = torch.zeros(self.num_layers, dtype=torch.int64, device=device)
        return [ops.Noise(seed, self.recurrent_dropout, *self.zoneout, self.training) for seed in seeds.unbind()]

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Any, State]:
        """Read whole sequences.

        Parameters
        ----------
        input : Tensor (T, B, I), (B, T, I) if batch_first, (T, I), or PackedSequence
        hx : (h_0 (L*D, B, P), c_0 (L*D, B, H)), optional
            Memories before the first step, without B for unbatched input; zeros by default.
        lengths : Tensor (B,) of whole numbers, optional
            Valid steps of each row, zero allowed, in any order. Past them the output is zero and
            nothing is read; the final states are those of the last valid step.
        reset : bool Tensor, laid out as the input's time and batch, optional
            True where a new sequence starts. No memory and no gradient crosses. ``hx`` feeds the
            first segment (forward direction) or the last one (backward direction).

        Returns
        -------
        output : Tensor (T, B, D*P) or as ``merge`` and the input's layout say
        State
            h_n (L*D, B, P) and c_n (L*D, B, H).

        Raises
        ------
        ValueError, TypeError
            Where shape, dtype, device or range is wrong, before any work.
        """
        if not torch.compiler.is_compiling():
            found = direct.sequence(self, input, hx, lengths, reset)
            if found is not None:
                return found
        given = [self.weights(layer) for layer in range(self.num_layers)]
        run = partial(ops.lstm_sequence, need_cells=False, checkpoint_every=self.checkpoint_every)
        read = partial(self._through_layers, given, run, direct_first=True)
        once = self.training and self.weight_dropout  # one mask a call
        if lengths is None and reset is None and not once and packed.is_wasteful(input):
            start = self._states(hx, self._like_padded(input, given[0][0].ih), batched=True)
            output, state = packed.in_pieces(input, start, read)
            return output, State(*state)
        return read(input, hx, lengths, reset)

    _own_forward = forward  # a subclass with another takes no short ways

    def _through_layers(
        self,
        given: list[list[LSTMWeights]],
        run: Callable[..., ops.SequenceResult],
        input: Any,
        hx: Any,
        lengths: Any = None,
        reset: Any = None,
        *,
        direct_first: bool = False,
    ) -> tuple[Any, State]:
        """Stack ``run``, which reads one layer with its weights, over all layers; or what ``direct`` makes of it."""
        x, lengths, reset, layout = self._enter(input, lengths, reset, given[0][0].ih)
        if direct_first and layout.places is not None and not torch.compiler.is_compiling():
            found = direct.sequence(self, x, hx, lengths, reset, batch_first=False)
            if found is not None:
                return layout.places.repack(found[0]), found[1]
        h_0, c_0 = self._states(hx, x, layout.batched)
        noise = self._noise(x.device)
        result: Any = None
        h_n, c_n = [], []
        for layer, weights in enumerate(given):
            if self.weight_dropout and self.training:
                weights = [w._replace(hh=F.dropout(w.hh, self.weight_dropout)) for w in weights]
            h, c = h_0, c_0
            if self.num_layers > 1:
                rows = slice(layer * self.directions, (layer + 1) * self.directions)
                h, c = h_0[rows], c_0[rows]
            result = run(x, h, c, weights, lengths, reset, noise[layer])
            h_n.append(result.h_n)
            c_n.append(result.c_n)
            if layer + 1 < self.num_layers:
                x = self._between(result.output, layout)
        state = State(h_n[0], c_n[0]) if self.num_layers == 1 else State(torch.cat(h_n), torch.cat(c_n))
        if not layout.batched:
            state = State(state.h.squeeze(1), state.c.squeeze(1))
        return self._leave(result.output, layout), state

    def trace(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> Trace:
        """Read whole sequences as :meth:`forward` does, and keep every gate and memory of every step.

        Differentiable. The gates of all steps come from one matrix product, or from the kernels. Of the layer's hooks
        those before a call run, as weight norm and pruning compute weights there; what they return is not taken.

        Returns
        -------
        Trace
            ``layers``, each with gates and memories (T, B, D, H), of h (T, B, D, P), whatever the input's layout, and
            ``output`` and ``state`` as :meth:`forward` gives them.
        """
        layers: list[ops.LayerTrace] = []

        def run(*given: Any) -> ops.SequenceResult:
            result, traced = ops.lstm_trace(*given)
            layers.append(traced)
            return result

        if not torch.compiler.is_compiling():
            self._run_hooks_before(input, hx, lengths, reset)
        weights = [self.weights(layer) for layer in range(self.num_layers)]
        output, state = self._through_layers(weights, run, input, hx, lengths, reset)
        return Trace(tuple(layers), output, state)

    def step(
        self, x_t: Tensor, state: tuple[Tensor, Tensor] | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read one step: x_t (B, I) or (I,), reset (B,); the output is (B, P), or (P,).

        Raises
        ------
        ValueError
            If the layer is bidirectional, which cannot stream.
        """
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = streaming.fast_step(self, x_t, state, reset)
            if found is not None:
                return found
        return super().step(x_t, state, reset)

    @property
    def random(self) -> bool:
        """Does a call in training mode draw random numbers?"""
        return bool(self.dropout or self.recurrent_dropout or self.weight_dropout or self.zoneout != (0.0, 0.0))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_plan", "_route")}

    # What may change weights behind torch's version counters also drops their packed copies.

    def train(self, mode: bool = True) -> LSTM:
        streaming.forget(self)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> LSTM:
        streaming.forget(self)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        streaming.forget(self)
        super()._load_from_state_dict(*args, **kwargs)

    def initial_state(self, batch: int | None = None) -> State:
        """Empty memories: h (L*D, B, P) and c (L*D, B, H), without B where ``batch`` is None."""
        if isinstance(batch, np.integer):
            batch = int(batch)
        if batch is not None and not isinstance(batch, torch.SymInt):  # as torch.export counts
            check_whole("batch", batch, 0)
        like, rows = self.weight_ih_l0, self.num_layers * self.directions
        shape = (rows,) if batch is None else (rows, batch)
        h = like.new_zeros(*shape, self.state_size, dtype=like.dtype)
        return State(h, like.new_zeros(*shape, self.hidden_size, dtype=accumulator(like.dtype)))

    def backend(self, input: Tensor | PackedSequence) -> ops.BackendChoice:
        """Which backend would run this input, and why; a slow one names what forces it."""
        x, noise = input.data if isinstance(input, PackedSequence) else input, None
        with self._looked_at():
            weights = self.weights(0)
        dtype = autocast_dtype(x)
        if dtype is not None:  # as the call itself casts
            x, weights = x.to(dtype), [w.to(dtype) for w in weights]
        if self.zoneout != (0.0, 0.0) or (self.training and self.recurrent_dropout):
            noise = ops.Noise(torch.zeros((), dtype=torch.int64), self.recurrent_dropout, *self.zoneout, self.training)
        return ops.choose(x, weights, noise)

    def _states(self, hx: Any, x: Tensor, batched: bool) -> tuple[Tensor, Tensor]:
        rows = self.num_layers * self.directions
        if hx is None:
            h = x.new_zeros(rows, x.shape[1], self.state_size)
            dtype = accumulator(x.dtype)
            if dtype is x.dtype and not self.proj_size:
                return h, h  # nobody writes to them
            return h, x.new_zeros(rows, x.shape[1], self.hidden_size, dtype=dtype)
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            raise TypeError(f"hx is a pair (h_0, c_0); given {type(hx).__name__}")
        return (
            check_state("h_0", hx[0], (rows, x.shape[1], self.state_size), x, batched),
            check_state("c_0", hx[1], (rows, x.shape[1], self.hidden_size), x, batched),
        )
