"""Sequences made ready for any task that reads them: scaling, parts, batches of similar lengths.

N sequences, R steps in all, C columns, I inputs, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tidegate.data.columns import percent
from tidegate.data.sequences import Sequences
from tidegate.data.windows import moments
from tidegate.errors import ConfigError, DataError

ABSURD = 30.0  # what lies so many standard deviations off, as 1e9 among small numbers does, scales no others
LIMIT = 10.0  # a value further than this many standard deviations off is cut there
SORTED = 16  # batches among which sequences are sorted by length, so that little is padded


class SequenceScaling(NamedTuple):
    """Mean and spread of each column over the training part, and which columns have values missing there."""

    mean: np.ndarray  # (C,)
    spread: np.ndarray  # (C,)
    gaps: np.ndarray  # (C,) bool: these have a flag "known" among the inputs

    @classmethod
    def fit(cls, sequences: Sequences) -> SequenceScaling:
        """Fit to sequences of numbers; a column without a value gets the mean NaN, which masks it later too."""
        seen = np.isfinite(sequences.values)  # (R, C)
        mean, spread = moments(sequences.values, ABSURD).T
        mean[~seen.any(0)] = np.nan  # no weight has learnt of it
        return cls(mean.astype(np.float32), spread.astype(np.float32), np.any(~seen, axis=0))

    @property
    def inputs(self) -> int:
        """I."""
        return len(self.mean) + int(self.gaps.sum())

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Inputs (..., I) of values (..., C): scaled, the mean where missing, and flags."""
        scaled = np.clip((values - self.mean) / self.spread, -LIMIT, LIMIT)
        known = np.isfinite(values) & np.isfinite(self.mean)
        flags = known[..., self.gaps].astype(np.float32)
        return np.concatenate([np.where(known, scaled, 0.0).astype(np.float32), flags], -1)

    def notes(self, columns: Sequence[str]) -> list[str]:
        """On columns that are masked because nothing can be learnt of them."""
        lost = [name for name, mean in zip(columns, self.mean, strict=True) if np.isnan(mean)]
        return [f"{name}: no value in what trains, and so masked" for name in lost]

    def tensors(self) -> dict[str, Tensor]:
        """For a run folder."""
        return {f"scaling.{name}": torch.from_numpy(value) for name, value in self._asdict().items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SequenceScaling:
        """Undo ``tensors``."""
        return cls(*(tensors[f"scaling.{name}"].numpy() for name in cls._fields))


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
    from sklearn.model_selection import StratifiedGroupKFold  # here, as other commands need not wait for it

    there = len(np.unique(groups[left]))
    if there < 2:
        raise DataError("--group leaves too few groups for training, validation and test; three at least are needed")
    if np.bincount(codes[left]).max() < 2:
        raise DataError("--group: no label occurs twice in what is left to part by groups; give more sequences")
    folds = max(2, min(round(1 / share), there, np.bincount(codes[left]).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare class cannot be in every fold
        parted = StratifiedGroupKFold(folds, shuffle=True, random_state=seed // folds)
        _, taken = list(parted.split(left, codes[left], groups[left]))[seed % folds]  # each seed tests on other groups
    part[left[taken]] = number
    return np.delete(left, taken)


def about_values(data: Sequences, *, learnt: bool = True) -> list[str]:
    """Notes on what is missing; to learn from, each column needs values, and for anything else, one of them."""
    notes = []
    if empty := int((data.lengths == 0).sum()):
        notes.append(f"{empty:,} sequences are empty: no step tells anything of them")
    if not data.text:
        missing = np.isnan(data.values).sum(0)
        lost = missing == len(data.values)
        if data.values.size and (lost.any() if learnt else lost.all()):
            column = data.columns[int(np.argmax(lost))]
            raise DataError(f"--feature {column}: the column holds no value at all")
        for column, count in zip(data.columns, missing.tolist(), strict=True):
            if count:
                share = percent(count, len(data.values))
                notes.append(f"{column}: {count:,} of {len(data.values):,} values are missing ({share}), and masked")
    return notes


def check_distinct(columns: Sequence[str]) -> None:
    """Refuse names that would be taken twice in a table of predictions."""
    for name in columns:
        if columns.count(name) > 1:
            raise ConfigError(f"predictions would have two columns named '{name}'; rename that of the data")
