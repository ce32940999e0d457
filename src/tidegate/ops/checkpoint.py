"""Long sequences in pieces: memories are kept every k steps, everything else is computed again.

Training saves 20 H bytes a step and row; here it saves the two memories at each piece's start, and the
backward pass reads one piece at a time (Chen et al. 2016, "Training deep nets with sublinear
memory cost"). With k near the square root of T both shares are of the order of sqrt(T).

T steps, B batch rows, I inputs, H hidden units, P outputs, D directions, N pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tidegate.cell import LSTMWeights
from tidegate.ops import reference
from tidegate.ops.types import Noise, SequenceResult

Piece = tuple[int, int]  # first step and the one after the last


def pieces(steps: int, every: int, backward: bool = False) -> list[Piece]:
    """The pieces of ``steps`` steps, in the order in which a direction reads them."""
    found = [(a, min(a + every, steps)) for a in range(0, steps, every)] or [(0, 0)]
    return found[::-1] if backward else found


class Direction:
    """One direction's view of lengths, resets and masks, piece by piece."""

    def __init__(self, lengths: Tensor | None, reset: Tensor | None, noise: Noise | None, index: int) -> None:
        self.lengths, self.reset, self.noise, self.backward = lengths, reset, noise, index == 1

    def inputs(self, piece: Piece) -> tuple[Tensor | None, Tensor | None, Noise | None]:
        """``lengths``, ``reset`` and ``noise`` of a piece as a sequence of its own."""
        first, stop = piece
        lengths = None if self.lengths is None else (self.lengths - first).clamp(0, stop - first)
        reset = None if self.reset is None else self.reset[first:stop]
        noise = None if self.noise is None else self.noise._replace(first_step=self.noise.first_step + first)
        return lengths, reset, noise

    def cut(self, piece: Piece, state: Tensor) -> Tensor:
        """A memory (B, P) or (B, H), or its gradient, across the edge at which the direction enters a piece.

        A reset at a piece's first step is inside the piece for the forward direction. The
        backward direction meets it on the edge, where it comes from the piece that follows.
        """
        stop = piece[1]
        if not self.backward or self.reset is None or stop >= self.reset.shape[0]:
            return state
        starts = self.reset[stop]
        if self.lengths is not None:
            starts = starts & (self.lengths > stop)
        return torch.where(starts[:, None], 0.0, state)


def native_forward(
    call: Any, x: Tensor, h_0: Tensor, c_0: Tensor, flat: Sequence[Tensor], *, need_cells: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """Output, cells, h_n, c_n, and the memories at each piece's start (D, N, B, P + H)."""
    from tidegate.ops import native  # the two call each other

    T, B, _ = x.shape
    D, _, H = c_0.shape
    output = x.new_empty(T, B, D, h_0.shape[2])
    cells = c_0.new_empty(T, B, D, H) if need_cells else None
    h_n, c_n = torch.empty_like(h_0), torch.empty_like(c_0)
    kept = c_0.new_empty(D, room(T, call.checkpoint_every), B, h_0.shape[2] + H)
    for d, (fields, own) in enumerate(_directions(call, flat)):
        direction = Direction(call.lengths, call.reset, call.noise, d)
        h, c = h_0[d], c_0[d]  # (B, P), (B, H)
        for piece in pieces(T, call.checkpoint_every, d == 1):
            first, stop = piece
            h, c = direction.cut(piece, h), direction.cut(piece, c)
            kept[d, first // call.checkpoint_every] = torch.cat([h.to(c.dtype), c], -1)
            part = native.forward(
                native.Call(*direction.inputs(piece), fields, None, d),
                x[first:stop], h[None], c[None], own, save=False, need_cells=need_cells,
            )  # fmt: skip
            output[first:stop, :, d : d + 1] = part[0]
            if cells is not None and part[1] is not None:
                cells[first:stop, :, d : d + 1] = part[1]
            h, c = part[2][0], part[3][0]
        h_n[d], c_n[d] = h, c
    return output, cells, h_n, c_n, kept


def _directions(call: Any, flat: Sequence[Tensor]) -> list[tuple[Any, list[Tensor]]]:
    """Each direction's fields and weights."""
    given = iter(flat)
    return [((fields,), [next(given) for there in fields if there]) for fields in call.fields]


def native_backward(
    call: Any,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    flat: Sequence[Tensor],
    kept: Tensor,  # (D, N, B, P + H)
    grads: Sequence[Tensor | None],
    need_x: bool = True,
) -> tuple[Tensor | None, ...]:
    """As ``native.backward``, with each piece run forward again from the memories kept."""
    from tidegate.ops import native

    T, every = x.shape[0], call.checkpoint_every
    d_output, d_cells, d_h_n, d_c_n = grads
    d_x = torch.empty_like(x) if need_x else None
    d_h_0, d_c_0 = torch.empty_like(h_0), torch.empty_like(c_0)
    d_weights: list[Tensor] = []
    for d, (fields, own) in enumerate(_directions(call, flat)):
        direction = Direction(call.lengths, call.reset, call.noise, d)
        d_h = torch.zeros_like(h_0[d]) if d_h_n is None else d_h_n[d]
        d_c = torch.zeros_like(c_0[d]) if d_c_n is None else d_c_n[d]
        # Sums over pieces are kept in the accumulators' type.
        sums = [torch.zeros_like(p, dtype=c_0.dtype) for p in own]
        for piece in reversed(pieces(T, every, d == 1)):
            first, stop = piece
            part = native.Call(*direction.inputs(piece), fields, None, d)
            h, c = kept[d, first // every].split((h_0.shape[2], c_0.shape[2]), -1)
            inputs = x[first:stop], h.to(x.dtype)[None], c.contiguous()[None], own
            output, cells, _, _, gates = native.forward(part, *inputs, save=True)
            assert gates is not None
            above = [None if g is None else g[first:stop, :, d : d + 1] for g in (d_output, d_cells)]
            found: Any = native.backward(
                part, *inputs, (output, cells, gates), (*above, d_h[None], d_c[None]), (need_x, True, True)
            )
            if d_x is not None:
                d_x[first:stop] = found[0] if d == 0 else d_x[first:stop] + found[0]
            d_h, d_c = direction.cut(piece, found[1][0]), direction.cut(piece, found[2][0])
            for total, g in zip(sums, found[3:], strict=True):
                total += g
        d_h_0[d], d_c_0[d] = d_h, d_c
        d_weights += [s.to(x.dtype) for s in sums]
    return (d_x, d_h_0, d_c_0, *d_weights)


def reference_sequence(
    every: int,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[LSTMWeights],
    lengths: Tensor | None,
    reset: Tensor | None,
    noise: Noise | None,
) -> SequenceResult:
    """As ``reference.lstm_sequence``, with each piece computed again in the backward pass."""
    if x.dtype in (torch.float16, torch.bfloat16):
        c_0 = c_0.float()
    run: Callable[..., SequenceResult] = reference.lstm_sequence
    results = []
    for d, w in enumerate(weights):
        direction = Direction(lengths, reset, noise, d)
        h, c = h_0[d], c_0[d]  # (B, P), (B, H)
        parts: list[SequenceResult] = []
        for piece in pieces(x.shape[0], every, d == 1):
            h, c = direction.cut(piece, h), direction.cut(piece, c)
            part = checkpoint(
                run, x[slice(*piece)], h[None], c[None], [w], *direction.inputs(piece), d,
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
            parts.append(part)
            h, c = part.h_n[0], part.c_n[0]
        if direction.backward:
            parts.reverse()
        cells: list[Any] = [part.cells for part in parts]
        results.append((torch.cat([part.output for part in parts]), torch.cat(cells), h, c))
    outputs, all_cells, h_n, c_n = zip(*results, strict=True)
    return SequenceResult(torch.cat(outputs, 2), torch.cat(all_cells, 2), torch.stack(h_n), torch.stack(c_n))


def room(steps: Any, every: int) -> Any:
    """N: room for all pieces, for whole numbers and symbolic ones; never one, which graphs specialise on."""
    return steps // every + 2
