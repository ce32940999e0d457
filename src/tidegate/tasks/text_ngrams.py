"""Interpolated modified Kneser-Ney n-grams over bytes (Chen & Goodman 1999, equations 27 to 30).

A text of N bytes; V = 256. The probability of a byte w after the bytes h, of which h' lack the first::

    p(w | h) = max(c(h w) - D(c(h w)), 0) / c(h) + (sum of the discounts of h) / c(h) * p(w | h')

c counts occurrences in the highest order; in lower ones it counts the different bytes seen before h w.
Below the lowest order stands 1/V.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray
V = 256
FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])  # discounts where too few n-grams are seen to estimate them


class _Counts(NamedTuple):
    """Counts of one order; grams are numbered in the order of their keys."""

    seen: Array  # how often each gram, (G,)
    total: Array  # of each context, that is of each gram one shorter
    left: Array  # of each context, the sum of the discounts

    discount: Array  # (4,) of the counts 0, 1, 2, and 3 or more

    def level(self, context: Array, gram: Array, below: Array) -> Array:
        """One step of the equation; -1 where the context or the gram was never seen."""
        count = np.where(gram >= 0, self.seen[gram], 0)
        total = np.where(context >= 0, self.total[context], 0)
        kept = count - self.discount[np.minimum(count, 3)]
        found = (kept + self.left[context] * below) / np.maximum(total, 1)
        return np.where(total > 0, found, below)  # what was not seen before anything says nothing


class KneserNey:
    """The orders 1 to ``order`` over one training text.

    Parameters
    ----------
    data : (N,) uint8
    order : int
        The highest n.
    """

    def __init__(self, data: Array, order: int) -> None:
        self.order = min(order, len(data))
        self._keys: list[Array] = []  # of each order, sorted: V times the gram without its last byte, plus that
        self._raw: list[_Counts] = []  # occurrences
        self._new: list[_Counts] = []  # different bytes before
        last = data.astype(np.int64)
        sizes: list[int] = []  # contexts of each order
        ids = np.zeros(len(data) + 1, np.int64)  # the gram of 0 bytes, at each place
        contexts = 1
        for n in range(1, self.order + 1):
            keys, first, inverse, count = np.unique(
                V * ids[: len(data) - n + 1] + last[n - 1 :], return_index=True, return_inverse=True, return_counts=True
            )
            if n > 1:
                # Every gram is one new byte before its own ending: the gram one shorter at the next place.
                before = np.bincount(ids[first + 1], minlength=contexts)
                self._new.append(_discounted(before, self._keys[-1] // V, sizes[-1]))
            self._keys.append(keys)
            self._raw.append(_discounted(count, keys // V, contexts))
            sizes.append(contexts)
            ids, contexts = inverse.astype(np.int64), len(keys)

    def places(self, data: Array) -> list[Array]:
        """For each order, the number of the gram that ends at each of (N,) bytes; -1 if it was never seen."""
        last = data.astype(np.int64)
        found = np.zeros(len(data) + 1, np.int64)  # grams that start at each place
        ends = []
        for n, keys in enumerate(self._keys, 1):
            starts = len(data) - n + 1
            if starts <= 0:
                ends.append(np.full(len(data), -1))
                continue
            wanted = np.where(found[:starts] >= 0, V * found[:starts] + last[n - 1 :], -1)
            found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found = np.where(keys[found] == wanted, found, -1)
            ends.append(np.concatenate([np.full(n - 1, -1), found]))
        return ends

    def bits(self, data: Array, before: Array) -> dict[int, Array]:
        """What each of (N,) bytes costs after those before it, by order.

        Parameters
        ----------
        data : (N,) uint8
        before : uint8
            The text just before; at least ``order`` bytes of it are read.
        """
        before = before[len(before) - min(len(before), self.order) :]
        ends, size = self.places(np.concatenate([before, data])), len(data)
        grams = [one[len(before) :] for one in ends]  # that end at each byte
        earlier = [np.concatenate([[-1], one[:-1]])[len(before) :] for one in ends]  # that end just before it
        contexts = [np.zeros(size, np.int64), *earlier]
        below = np.full(size, 1 / V)
        found = {}
        for n in range(1, self.order + 1):
            found[n] = -np.log2(self._raw[n - 1].level(contexts[n - 1], grams[n - 1], below))
            if n < self.order:
                below = self._new[n - 1].level(contexts[n - 1], grams[n - 1], below)
        return found

    def distribution(self, context: Array, order: int) -> Array:
        """The probability of each byte (V,) after a context, by one order."""
        rows = [self.bits(np.array([w], np.uint8), context)[order][0] for w in range(V)]
        return 2.0 ** -np.array(rows)


def _discounted(count: Array, context: Array, contexts: int) -> _Counts:
    """Totals and discounts of the grams of one order, each in its context."""
    seen = np.bincount(np.minimum(count, 5), minlength=5)[:5].astype(float)  # how many grams have each count
    discount = FALLBACK
    if (seen[1:] > 0).all():
        y = seen[1] / (seen[1] + 2 * seen[2])
        estimate = np.array([0.0, *(j - (j + 1) * y * seen[j + 1] / seen[j] for j in (1, 2, 3))])
        if ((estimate[1:] > 0) & (estimate[1:] < [1, 2, 3])).all():
            discount = estimate
    total = np.bincount(context, count, minlength=contexts).astype(np.int64)
    left = np.bincount(context, discount[np.minimum(count, 3)], minlength=contexts)
    return _Counts(count, total, left, discount)
