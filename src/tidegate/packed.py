"""Packed sequences: where their entries lie in padded ones, and pieces of them that need little padding.

T steps, B batch rows, N entries (the steps of all rows), F features, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

# A packed sequence is read in pieces where it has more padded steps than these: per entry, and in all. Fewer take
# microseconds, as much as the calls of a second piece.
PADDING = 4
SMALL = 1 << 15

Memories = tuple[Tensor, ...]  # (L*D, B, F) each


class Places(NamedTuple):
    """Where the entries of a packed sequence lie in the padded one, rows in the caller's order."""

    packed: PackedSequence
    rows: int
    at: Tensor  # (N,) step * B + row
    lengths: Tensor  # (B,)

    def pad(self, data: Tensor) -> Tensor:
        """Entries (N, ...) as (T, B, ...), zero past each row's end."""
        steps = self.packed.batch_sizes.shape[0]
        padded = data.new_zeros((steps * self.rows, *data.shape[1:])).index_copy_(0, self.at, data)
        return padded.unflatten(0, (steps, self.rows))

    def unpad(self, padded: Tensor) -> Tensor:
        """The entries (N, ...) of (T, B, ...)."""
        return padded.flatten(0, 1).index_select(0, self.at)

    def repack(self, padded: Tensor) -> PackedSequence:
        """The entries of (T, B, ...), packed as they were."""
        return PackedSequence(self.unpad(padded), *self.packed[1:])


def places(packed: PackedSequence) -> Places:
    """Where the entries of ``packed`` lie.

    Raises
    ------
    ValueError
        If its parts do not fit together, as ``pack_padded_sequence`` and ``pack_sequence`` make them.
    """
    check(packed)
    data, sizes, order, _ = packed
    rows = _rows(packed)
    step, row = _steps_and_rows(sizes, data.shape[0])
    lengths = _lengths(sizes, rows)
    step, row, lengths = step.to(data.device), row.to(data.device), lengths.to(data.device)
    if order is not None:
        row, lengths = order.index_select(0, row), torch.empty_like(lengths).index_copy_(0, order, lengths)
    return Places(packed, rows, step * rows + row, lengths)


def is_wasteful(input: object) -> TypeGuard[PackedSequence]:
    """Would padding be most of it? One row of 8,000 steps beside a thousand of 5 takes 600 steps an entry."""
    if not isinstance(input, PackedSequence) or torch.compiler.is_compiling():
        return False
    steps = input.batch_sizes.shape[0]
    return steps > 0 and steps * _rows(input) > max(PADDING * input.data.shape[0], SMALL)


def in_pieces(
    packed: PackedSequence,
    memories: Memories,
    read: Callable[[PackedSequence, Memories], tuple[PackedSequence, Memories]],
) -> tuple[PackedSequence, Memories]:
    """Have ``read`` read rows of similar lengths together.

    Parameters
    ----------
    memories : Tensors (L*D, B, F)
        Before the first step, rows in the caller's order; what ``read`` returns are those after the last one.
    """
    data, sizes, order, back = packed
    if order is not None:
        memories = tuple(m.index_select(1, order) for m in memories)
    found, after, at = [], [], []
    for piece, chosen, first in _pieces(sizes, _rows(packed)):
        here = PackedSequence(data.index_select(0, chosen.to(data.device)), piece)
        part, final = read(here, tuple(m[:, first : first + int(piece[0])] for m in memories))
        found.append(part.data)
        after.append(final)
        at.append(chosen)
    output = torch.cat(found)  # (N, ...) piece by piece
    output = torch.empty_like(output).index_copy_(0, torch.cat(at).to(data.device), output)
    final = tuple(torch.cat(parts, 1) for parts in zip(*after, strict=True))
    if back is not None:
        final = tuple(m.index_select(1, back) for m in final)
    return PackedSequence(output, sizes, order, back), final


def _pieces(sizes: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Rows of similar lengths, the longest first: their batch_sizes, their entries, and the first of the rows."""
    lengths, before = _lengths(sizes, rows).tolist(), sizes.cumsum(0) - sizes
    first = 0
    while first < rows:
        steps = lengths[first]
        last = next((r for r in range(first, rows) if PADDING * lengths[r] < steps), rows)
        piece = (sizes[:steps] - first).clamp(max=last - first)  # (steps,)
        step, row = _steps_and_rows(piece, int(piece.sum()))
        yield piece, before[step] + first + row, first
        first = last


def _steps_and_rows(sizes: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """The step and the row, by length, of each of N entries."""
    before = sizes.cumsum(0) - sizes  # (T,)
    step = torch.arange(sizes.shape[0]).repeat_interleave(sizes, output_size=entries)
    return step, torch.arange(entries) - before.index_select(0, step)


def _lengths(sizes: Tensor, rows: int) -> Tensor:
    """Steps of each of B rows, the longest first: row r is there while a step has more than r rows."""
    return sizes.shape[0] - torch.searchsorted(sizes.flip(0), torch.arange(rows), right=True)


def _rows(packed: PackedSequence) -> int:
    """B, without a look at values where that can be: a compiled graph would break there."""
    order = packed.sorted_indices
    return int(packed.batch_sizes[0]) if order is None else order.shape[0]


def check(packed: PackedSequence) -> None:
    """Refuse parts that do not fit together."""
    data, sizes, order, back = packed
    if data.dim() != 2:
        raise ValueError(f"data of a packed sequence is (entries, features); given shape {tuple(data.shape)}")
    if torch.compiler.is_compiling():
        return
    counts = sizes.tolist()
    if not counts or counts[-1] < 1 or counts != sorted(counts, reverse=True) or sum(counts) != data.shape[0]:
        shown = ", ".join(map(str, counts[:8])) + (", ..." if len(counts) > 8 else "")
        raise ValueError(
            "batch_sizes of a packed sequence are positive, never grow and add up to its entries; "
            f"given [{shown}] for {data.shape[0]} entries"
        )
    for name, indices in (("sorted_indices", order), ("unsorted_indices", back)):
        if indices is not None and indices.shape != (counts[0],):
            raise ValueError(
                f"{name} of a packed sequence has one number a row; "
                f"given shape {tuple(indices.shape)}, expected {(counts[0],)}"
            )
    if not _undo_each_other(order, back):
        raise ValueError(
            "sorted_indices and unsorted_indices of a packed sequence undo each other; given two that do not"
        )


def _undo_each_other(order: Tensor | None, back: Tensor | None) -> bool:
    if order is None or back is None:
        return order is back
    if not order.is_cpu or not back.is_cpu:  # a look would wait for the device
        return True
    rows = torch.arange(order.shape[0])
    return torch.equal(order.sort().values, rows) and torch.equal(back.index_select(0, order), rows)
