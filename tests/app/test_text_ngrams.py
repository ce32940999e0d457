"""The n-gram model that a text model is compared with: sums to one, by hand, worth of context."""

from __future__ import annotations

import numpy as np
import pytest
from task_cases import codes, verses

from tidegate.tasks.text_ngrams import KneserNey, _discounted
from tidegate.tasks.text_report import conditioned_xz

TEXT = verses(300)


def test_ngrams_sum_to_one():
    """After contexts seen and unseen, short and long, at every order."""
    known = KneserNey(codes(TEXT[:3000]), 6)
    contexts = [b"", b"t", b"tide ", b"zzzzzz", TEXT[:9], TEXT[2990:3000], b"gate\x00mo", "é".encode()]
    for context in contexts:
        for order in range(1, 7):
            p = known.distribution(codes(context), order)
            assert p.min() > 0
            assert p.sum() == pytest.approx(1, abs=1e-12), (context, order)


def test_bigrams_by_hand():
    """The text a b a c, where every discount is the fallback's: 0.5, 1, 1.5."""
    known = KneserNey(codes(b"abac"), 2)
    # Three kinds of pairs, ab, ba and ac: each letter has one before it, though a stands twice.
    single = (1 - 0.5) / 3 + (3 * 0.5) / 3 / 256
    after_a = {"a": 0.5 * single, "b": (1 - 0.5) / 2 + (0.5 + 0.5) / 2 * single, "c": 0.25 + 0.5 * single}
    after_b = {"a": (1 - 0.5) / 1 + 0.5 * single, "b": 0.5 * single}
    for context, wanted in ((b"a", after_a), (b"b", after_b), (b"xb", after_b)):
        p = known.distribution(codes(context), 2)
        for letter, value in wanted.items():
            assert p[ord(letter)] == pytest.approx(value, rel=1e-12)


def test_discounts_from_counts_of_counts():
    """Chen & Goodman 1999, equation 26: 8, 4, 2 and 1 grams seen once to four times; Y = 8 / 16."""
    count = np.repeat([1, 2, 3, 4], [8, 4, 2, 1])
    found = _discounted(count, np.zeros(15, np.int64), 1)
    np.testing.assert_allclose(found.discount, [0, 1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 * 1 / 2])
    assert found.total[0] == count.sum()
    assert found.left[0] == pytest.approx(8 * 0.5 + 4 * 1.25 + 3 * 2.0)


def test_a_longer_context_pays():
    """Bytes that only the one three before tells."""
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 101, 3000).astype(np.uint8)
    letters[3::4] = letters[0::4]
    known = KneserNey(letters[:2800], 6)
    bits = {n: one.mean() for n, one in known.bits(letters[2800:], letters[:2800]).items()}
    assert bits[4] < bits[3] - 0.1
    assert conditioned_xz(letters[:2800], letters[2800:]) > 0
