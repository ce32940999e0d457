"""A tagger's data: the vocabulary, batches, tables of tags, and what cannot be tagged.

N sequences, R steps in all, W distinct words, V words of the vocabulary, M characters, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from tidegate.data.tagged import TaggedSequences
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.sequence_data import SequenceScaling
from tidegate.tasks.tag_config import TagConfig
from tidegate.tasks.tag_network import TagBatch

LETTERS = 40  # bytes of a word that are read


class Vocabulary:
    """Words that have an embedding. Number 0 stands for every other."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self._known = {word: n for n, word in enumerate(words, 1)}

    def __len__(self) -> int:
        return 1 + len(self.words)

    @classmethod
    def fit(cls, data: TaggedSequences, least: int) -> tuple[Vocabulary, np.ndarray]:
        """The words that occur so often at least, and how often each number does, (V,)."""
        assert data.tokens is not None
        count = np.bincount(data.tokens, minlength=len(data.words))
        kept = [n for n in np.argsort(-count, kind="stable").tolist() if count[n] >= least]
        return cls([data.words[n] for n in kept]), np.array([0, *count[kept]])

    def numbers(self, words: list[str]) -> np.ndarray:
        """Of words, (W,)."""
        return np.array([self._known.get(word, 0) for word in words], np.int64)


class Steps(NamedTuple):
    """Sequences as the network reads them, before they are put in batches."""

    offsets: np.ndarray  # (N + 1,)
    tokens: np.ndarray | None  # (R,) which of the distinct words
    numbers: np.ndarray  # (W,) of the vocabulary
    letters: np.ndarray | None  # (W, M) bytes of the distinct words
    letter_counts: np.ndarray  # (W,)
    values: np.ndarray  # (R, I) scaled

    @classmethod
    def of(
        cls,
        data: TaggedSequences,
        vocabulary: Vocabulary | None,
        scaling: SequenceScaling | None,
        characters: bool,
    ) -> Steps:
        """Look up words, spell them, scale numbers."""
        letters, counts = _spell(data.words) if characters else (None, np.zeros(0, np.int64))
        return cls(
            data.offsets,
            None if vocabulary is None else data.tokens,
            np.zeros(0, np.int64) if vocabulary is None else vocabulary.numbers(data.words),
            letters,
            counts,
            data.values if scaling is None else scaling.apply(data.values),
        )

    def batch(self, index: np.ndarray) -> tuple[TagBatch, np.ndarray, np.ndarray]:
        """Gather and pad some sequences; with the row of each step (T, B), and whether it is one."""
        lengths = np.diff(self.offsets)[index]  # (B,)
        steps = np.arange(max(1, int(lengths.max(initial=0))))[:, None]  # (T, 1)
        inside = steps < lengths  # (T, B)
        rows = np.where(inside, self.offsets[index] + steps, 0)
        values = np.zeros((*rows.shape, self.values.shape[1]), np.float32)
        values[inside] = self.values[rows[inside]]
        words = places = np.zeros(rows.shape, np.int64)
        letters, counts = np.zeros((1, 1), np.int64), np.zeros(1, np.int64)
        if self.tokens is not None:
            used, where = np.unique(self.tokens[rows[inside]], return_inverse=True)
            words, places = np.zeros(rows.shape, np.int64), np.zeros(rows.shape, np.int64)
            words[inside], places[inside] = self.numbers[used][where], where
            if self.letters is not None and len(used):
                counts = self.letter_counts[used]  # (U,)
                letters = self.letters[used, : max(1, counts.max())].T.astype(np.int64)  # (M, U)
        arrays = (words, letters, counts, places, values, lengths)
        return TagBatch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)), rows, inside


def _spell(words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The first bytes of each word (W, M), and how many (W,)."""
    spelt = [word.encode("utf-8", errors="replace")[:LETTERS] for word in words]
    counts = np.array([len(word) for word in spelt], np.int64)
    letters = np.zeros((len(words), max(1, int(counts.max(initial=0)))), np.uint8)
    for row, word in zip(letters, spelt, strict=True):
        row[: len(word)] = np.frombuffer(word, np.uint8)
    return letters, counts


def with_tags(data: TaggedSequences) -> tuple[TaggedSequences, list[str]]:
    """Without the sequences that have no label at all, and notes on what has none."""
    if data.tags is None:
        raise ConfigError("labels are needed: --label, or fit(tokens, tags)")
    missing = np.array([tag is None for tag in data.tags.tolist()], bool)
    if missing.all():
        raise DataError("no step has a label")
    notes = []
    known = np.add.reduceat(np.append(~missing, False), data.offsets[:-1]) * (data.lengths > 0)  # (N,)
    if missing.any():
        notes.append(f"{int(missing.sum()):,} of {len(missing):,} steps have no label: read, not learnt, not scored")
    if (known == 0).any():
        notes.append(f"left out {int((known == 0).sum()):,} sequences without a label")
        data = data.take(np.flatnonzero(known))
    return data, notes


def check_tags(classes: list[object], codes: np.ndarray, config: TagConfig) -> None:
    """Refuse one label only, and a label of its own for each step."""
    what = f"--label {config.label}: the column holds" if config.label else "there is"
    if len(classes) == 1:
        raise DataError(f"{what} one label only, '{classes[0]}'; two at least are needed")
    if np.bincount(codes[codes >= 0]).max() == 1:
        raise DataError(
            f"{what} a label of its own for each of {len(classes)} steps; labels are few, and each occurs several times"
        )


def check_alike(data: TaggedSequences, vocabulary: Vocabulary | None, scaling: SequenceScaling | None) -> None:
    """Refuse tokens where training had numbers, and other columns."""
    wanted = 0 if scaling is None else len(scaling.mean)
    if (data.tokens is None) != (vocabulary is None) or len(data.columns) != wanted:
        raise DataError(
            f"the model was trained on {_kind(vocabulary is not None, wanted)}; given "
            f"{_kind(data.tokens is not None, len(data.columns))}"
        )


def _kind(tokens: bool, columns: int) -> str:
    parts = ["tokens"] * tokens + [f"{columns} column{'s' * (columns > 1)} of numbers"] * (columns > 0)
    return " and ".join(parts) or "nothing"


def about_steps(data: TaggedSequences, classes: list[object], vocabulary: Vocabulary | None) -> str:
    """What there is, in a sentence."""
    lengths = data.lengths
    span = f"{lengths.min():,}" if lengths.min() == lengths.max() else f"{lengths.min():,} to {lengths.max():,}"
    parts = [f"{len(data):,} sequences of {span} steps ({len(data.values):,} in all)"]
    if vocabulary is not None:
        parts.append(f"{len(data.words):,} distinct tokens, {len(vocabulary) - 1:,} of them known")
    if data.columns:
        parts.append(f"{len(data.columns)} column{'s' * (len(data.columns) > 1)} of numbers")
    return ", ".join([*parts, f"{len(classes)} labels"])


def tag_frame(data: TaggedSequences, p: np.ndarray, classes: np.ndarray, config: TagConfig) -> pl.DataFrame:
    """The input's rows in their order: what names them, the most probable label and its probability."""
    assert data.given is not None
    place = np.empty(len(data.rows), np.int64)
    place[data.rows] = np.arange(len(data.rows))
    p = p[place]
    label, probability = tag_columns(config)
    return data.given.with_columns(pl.Series(label, classes[p.argmax(1)]), pl.Series(probability, p.max(1)))


def tag_columns(config: TagConfig) -> list[str]:
    """The names of the columns that a prediction adds."""
    return [config.label or "tag", "probability"]
