"""A classifier's data: batches, tables of labels, and what cannot be classified.

N sequences, C columns, I inputs, K classes.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from tidegate.data.sequences import Sequences, is_none
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.classify_config import ClassifyConfig
from tidegate.tasks.classify_network import SequenceBatch
from tidegate.tasks.sequence_data import SequenceScaling


def make_batch(sequences: Sequences, index: np.ndarray, scaling: SequenceScaling | None) -> SequenceBatch:
    """Gather and pad some sequences; ``scaling`` is None for text."""
    lengths = sequences.lengths[index]  # (B,)
    steps = np.arange(max(1, int(lengths.max(initial=0))))[:, None]  # (T, 1)
    inside = steps < lengths  # (T, B)
    rows = np.where(inside, sequences.offsets[index] + steps, 0)
    values = sequences.values
    if not len(values):  # padding reads a row too
        values = np.zeros((1, *values.shape[1:]), values.dtype)
    if scaling is None:
        inputs = np.where(inside, values[rows], 0).astype(np.int64)  # (T, B)
    else:
        inputs = scaling.apply(values[rows]) * inside[..., None]  # (T, B, I)
    return SequenceBatch(torch.from_numpy(inputs), torch.from_numpy(lengths))


def check_kind(sequences: Sequences, scaling: SequenceScaling | None) -> None:
    """Refuse text where training had numbers, and other columns."""
    if sequences.text != (scaling is None):
        kinds = ("numbers", "text")
        was, given = kinds[scaling is None], kinds[sequences.text]
        raise DataError(f"the model was trained on {was}; given {given}")
    if scaling is not None and len(sequences.columns) != len(scaling.mean):
        raise DataError(
            f"the model was trained on arrays (T, {len(scaling.mean)}); given (T, {len(sequences.columns)})"
        )


def label_frame(sequences: Sequences, p: np.ndarray, classes: np.ndarray, config: ClassifyConfig) -> pl.DataFrame:
    """A row a sequence: the most probable label, its probability, and those (N, K) of all labels."""
    columns = [sequences.names, classes[p.argmax(1)], p.max(1), *p.T]
    return pl.DataFrame(dict(zip(label_columns(sequences, classes, config), columns, strict=True)))


def label_columns(sequences: Sequences, classes: np.ndarray, config: ClassifyConfig) -> list[str]:
    """The names of a prediction's columns."""
    which = config.sequence or ("file" if sequences.named else "row")
    return [which, config.label or "label", "probability", *(f"p_{label}" for label in classes.tolist())]


def with_labels(data: Sequences) -> tuple[Sequences, list[str]]:
    """Without the sequences that have no label, and a note on them."""
    if data.labels is None:
        raise ConfigError("labels are needed: --label, or fit(arrays, y)")
    none = _unlabelled(data)
    if not none.any():
        return data, []
    if none.all():
        raise DataError("no sequence has a label")
    return data.take(np.flatnonzero(~none)), [f"left out {int(none.sum()):,} sequences without a label"]


def without_labels(data: Sequences) -> Sequences | None:
    """The others, if there are any."""
    none = _unlabelled(data)
    return data.take(np.flatnonzero(none)) if none.any() else None


def _unlabelled(data: Sequences) -> np.ndarray:
    """Which sequences have no label, (N,)."""
    assert data.labels is not None
    return np.array([is_none(label) for label in data.labels.tolist()])


def check_classes(classes: np.ndarray, codes: np.ndarray, config: ClassifyConfig) -> None:
    what = f"--label {config.label}: the column holds" if config.label else "there is"
    if len(classes) == 1:
        raise DataError(f"{what} one label only, '{classes[0]}'; two at least are needed")
    if np.bincount(codes).max() == 1:
        raise DataError(
            f"{what} a label of its own for each of {len(codes)} sequences; labels are few, and each "
            "occurs several times"
        )


def unused(config: ClassifyConfig) -> list[str]:
    """A note on the options that text leaves without effect."""
    given = [name for name in ("scale", "warp", "crop") if getattr(config, name)]
    changes = "changes" if len(given) == 1 else "change"
    return [f"text is read as it is: {', '.join(given)} {changes} numbers only"] if given else []


def about_sequences(data: Sequences, classes: np.ndarray) -> str:
    lengths = data.lengths
    unit = "bytes" if data.text else "steps"
    columns = "" if data.text else f", {len(data.columns)} column{'s' * (len(data.columns) > 1)}"
    span = f"{lengths.min():,}" if lengths.min() == lengths.max() else f"{lengths.min():,} to {lengths.max():,}"
    return f"{len(data):,} sequences of {span} {unit}{columns}, {len(classes)} labels"
