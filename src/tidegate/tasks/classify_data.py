"""A classifier's data: scaling, parts, batches.

N sequences, R steps in all, C columns, I inputs, K classes.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from tidegate.data.sequences import Sequences
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.classify_config import ClassifyConfig
from tidegate.tasks.classify_network import SequenceBatch

LIMIT = 10.0  # a value further than this many standard deviations off is cut there
SORTED = 16  # batches among which sequences are sorted by length, so that little is padded


class SequenceScaling(NamedTuple):
    """Mean and spread of each column over the training part, and which columns have values missing there."""

    mean: np.ndarray  # (C,)
    spread: np.ndarray  # (C,)
    gaps: np.ndarray  # (C,) bool: these have a flag "known" among the inputs

    @classmethod
    def fit(cls, sequences: Sequences) -> SequenceScaling:
        """Fit to sequences of numbers."""
        values = sequences.values.astype(np.float64)  # (R, C)
        seen = np.isfinite(values)
        count = np.maximum(seen.sum(0), 1)
        mean = np.where(seen, values, 0.0).sum(0) / count
        spread = np.sqrt(np.where(seen, (values - mean) ** 2, 0.0).sum(0) / count)
        spread = np.where(spread > 1e-6 * np.maximum(np.abs(mean), 1e-6), spread, 1.0)  # a constant stays as it is
        return cls(mean.astype(np.float32), spread.astype(np.float32), np.any(~seen, axis=0))

    @property
    def inputs(self) -> int:
        """I."""
        return len(self.mean) + int(self.gaps.sum())

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Inputs (..., I) of values (..., C): scaled, the mean where missing, and flags."""
        scaled = np.clip((values - self.mean) / self.spread, -LIMIT, LIMIT)
        known = np.isfinite(values)
        flags = known[..., self.gaps].astype(np.float32)
        return np.concatenate([np.where(known, scaled, 0.0).astype(np.float32), flags], -1)

    def tensors(self) -> dict[str, Tensor]:
        """For a run folder."""
        return {f"scaling.{name}": torch.from_numpy(value) for name, value in self._asdict().items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SequenceScaling:
        """Undo ``tensors``."""
        return cls(*(tensors[f"scaling.{name}"].numpy() for name in cls._fields))


def make_batch(sequences: Sequences, index: np.ndarray, scaling: SequenceScaling | None) -> SequenceBatch:
    """Gather and pad some sequences; ``scaling`` is None for text."""
    lengths = sequences.lengths[index]  # (B,)
    steps = np.arange(max(1, int(lengths.max(initial=0))))[:, None]  # (T, 1)
    inside = steps < lengths  # (T, B)
    rows = np.where(inside, sequences.offsets[index] + steps, 0)
    if scaling is None:
        inputs = np.where(inside, sequences.values[rows], 0).astype(np.int64)  # (T, B)
    else:
        inputs = scaling.apply(sequences.values[rows]) * inside[..., None]  # (T, B, I)
    return SequenceBatch(torch.from_numpy(inputs), torch.from_numpy(lengths))


def batches(lengths: np.ndarray, size: int, generator: torch.Generator) -> list[Tensor]:
    """All sequences once, in random order, in batches of similar lengths."""
    drawn = torch.randperm(len(lengths), generator=generator)
    found: list[Tensor] = []
    for pool in drawn.split(SORTED * size):
        found += pool[torch.from_numpy(np.argsort(lengths[pool.numpy()], kind="stable"))].split(size)
    return [found[k] for k in torch.randperm(len(found), generator=generator).tolist()]


def split(
    codes: np.ndarray, groups: np.ndarray | None, validation: float, test: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the sequences that train, stop and test.

    Stratified by class, each of which keeps a sequence in the training part; with ``groups`` no group is
    parted, and shares are as near as that lets them be.

    Raises
    ------
    DataError
        If there are too few groups, or a class is in groups that train nothing.
    """
    rng = np.random.default_rng(seed)
    part = np.zeros(len(codes), np.int64)  # 0 trains, 1 stops, 2 tests
    if groups is None:
        for k in np.unique(codes):
            members = rng.permutation(np.flatnonzero(codes == k))
            n = len(members)
            tested = _count(test, n, 1)
            stopped = _count(validation, n, tested + 1)
            part[members[:tested]], part[members[tested : tested + stopped]] = 2, 1
    else:
        left = np.arange(len(codes))
        for number, share in ((2, test), (1, validation / (1 - test))):
            if share > 0:
                left = _part_groups(codes, groups, left, part, number, share, seed)
        if len(lost := np.setdiff1d(codes, codes[part == 0])):
            raise DataError(
                f"{len(lost)} of {len(np.unique(codes))} labels occur only in groups that are not trained on; "
                "take another --seed, lower --test and --validation, or leave --group out"
            )
    return tuple(np.flatnonzero(part == k) for k in range(3))  # type: ignore[return-value]


def _count(share: float, n: int, reserved: int) -> int:
    """So many of n, one at least where the share is not zero, but leave so many."""
    return min(max(round(share * n), int(share > 0)), max(0, n - reserved))


def _part_groups(
    codes: np.ndarray, groups: np.ndarray, left: np.ndarray, part: np.ndarray, number: int, share: float, seed: int
) -> np.ndarray:
    """Give a share of the groups that are left a number; what is left then."""
    there = len(np.unique(groups[left]))
    if there < 2:
        raise DataError("--group leaves too few groups for training, validation and test; three at least are needed")
    folds = max(2, min(round(1 / share), there, np.bincount(codes[left]).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare class cannot be in every fold
        parted = StratifiedGroupKFold(folds, shuffle=True, random_state=seed // folds)
        _, taken = list(parted.split(left, codes[left], groups[left]))[seed % folds]  # each seed tests on other groups
    part[left[taken]] = number
    return np.delete(left, taken)


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
    return pl.DataFrame(
        {
            config.sequence or ("file" if sequences.named else "row"): sequences.names,
            config.label or "label": classes[p.argmax(1)],
            "probability": p.max(1),
            **{f"p_{label}": p[:, k] for k, label in enumerate(classes.tolist())},
        }
    )


def with_labels(data: Sequences) -> tuple[Sequences, list[str]]:
    """Without the sequences that have no label, and a note on them."""
    if data.labels is None:
        raise ConfigError("labels are needed: --label, or fit(arrays, y)")
    labels = data.labels
    none = np.array([label is None or label == "" or label != label for label in labels.tolist()])
    if not none.any():
        return data, []
    if none.all():
        raise DataError("no sequence has a label")
    return data.take(np.flatnonzero(~none)), [f"left out {int(none.sum()):,} sequences without a label"]


def check_classes(classes: np.ndarray, codes: np.ndarray, config: ClassifyConfig) -> None:
    what = f"--label {config.label}: the column holds" if config.label else "there is"
    if len(classes) == 1:
        raise DataError(f"{what} one label only, '{classes[0]}'; two at least are needed")
    if np.bincount(codes).max() == 1:
        raise DataError(
            f"{what} a label of its own for each of {len(codes)} sequences; labels are few, and each "
            "occurs several times"
        )


def about_sequences(data: Sequences, classes: np.ndarray) -> str:
    lengths = data.lengths
    unit = "bytes" if data.text else "steps"
    columns = "" if data.text else f", {len(data.columns)} column{'s' * (len(data.columns) > 1)}"
    span = f"{lengths.min():,}" if lengths.min() == lengths.max() else f"{lengths.min():,} to {lengths.max():,}"
    return f"{len(data):,} sequences of {span} {unit}{columns}, {len(classes)} labels"


def about_values(data: Sequences) -> list[str]:
    """Notes on what is missing."""
    notes = []
    if empty := int((data.lengths == 0).sum()):
        notes.append(f"{empty:,} sequences are empty: no step tells anything of them")
    if not data.text:
        missing = np.isnan(data.values).sum(0)
        if len(data.values) and (missing == len(data.values)).any():
            column = data.columns[int(np.argmax(missing == len(data.values)))]
            raise DataError(f"--feature {column}: the column holds no value at all")
        for column, count in zip(data.columns, missing.tolist(), strict=True):
            if count:
                share = 100 * count / len(data.values)
                notes.append(
                    f"{column}: {count:,} of {len(data.values):,} values are missing ({share:.2g}%), and masked"
                )
    return notes
