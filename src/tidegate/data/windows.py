"""Windows cut from a panel: history and future as one sequence, scaled, with masks.

Nothing is copied ahead: a batch of windows is gathered from the panel's flat arrays when asked
for, so memory does not grow with the number of windows.

B windows, T = history + horizon steps, C targets, K known and P past covariates, Q static ones,
F calendar features, S series, I inputs of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tidegate.data.calendar import calendar_features
from tidegate.data.panel import Panel

EVER = int(np.iinfo(np.int64).max)  # a grid index after all
LEAST = 8  # values that tell how a series is scaled, where later ones could
FEW = 3  # values that tell a spread at all
COVARIATE_LIMIT = 10.0  # scaled covariates beyond this are cut: a broken sensor must not drown the rest


@dataclass(frozen=True)
class Scaling:
    """Mean and spread that values are scaled with: targets and past covariates by series."""

    names: list[str]  # S
    target: np.ndarray  # (S, C, 2) mean and standard deviation
    past: np.ndarray  # (S, P, 2)
    known: np.ndarray  # (K, 2)
    static: np.ndarray  # (Q, 2)

    @staticmethod
    def fit(panel: Panel, end: int, *later: int) -> Scaling:
        """From the steps before grid index ``end`` alone.

        A series with too few values there, or none that differ, is scaled by its steps before the next of ``later``.
        Covariates without a value before ``end`` get the mean NaN, which masks them: no weight has learnt of them.
        """
        target, past = (_by_series(panel, values, end, *later) for values in (panel.targets, panel.past))
        early = [slice(a, a + max(0, min(b - a, end - first))) for a, b, first in _spans(panel)]
        known, seen = (np.concatenate([values[span] for span in early]) for values in (panel.known, panel.past))
        return Scaling(
            list(panel.names),
            _lend(target, target),
            _mask(_lend(past, past), np.isnan(seen).all(0)),
            _mask(moments(known), np.isnan(known).all(0)),
            moments(panel.static),
        )

    def for_panel(self, panel: Panel, end: int) -> Scaling:
        """The same scaling in the order of another panel.

        A series not seen before gets its own, from its steps before grid index ``end`` if those are enough.
        """
        place = {name: k for k, name in enumerate(self.names)}
        at = [place.get(name) for name in panel.names]
        new = [s for s, k in enumerate(at) if k is None]
        target, past = (of[[k or 0 for k in at]] for of in (self.target, self.past))
        if new:
            some = panel.select(new)
            target[new] = _lend(_by_series(some, some.targets, end, EVER), self.target)
            past[new] = _lend(_by_series(some, some.past, end, EVER), self.past)
            past = _mask(past, np.isnan(self.past[..., 0]).all(0))
        return Scaling(list(panel.names), target, past, self.known, self.static)

    def unseen(self, panel: Panel) -> list[str]:
        """Names in the panel that this scaling was not fitted on."""
        seen = set(self.names)
        return [name for name in panel.names if name not in seen]

    def tensors(self) -> dict[str, Tensor]:
        """As tensors by name, to be stored beside the weights."""
        return {f"scaling.{k}": torch.from_numpy(getattr(self, k)) for k in ("target", "past", "known", "static")}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], names: list[str]) -> Scaling:
        """Undo ``tensors``."""
        return Scaling(names, *(tensors[f"scaling.{k}"].numpy() for k in ("target", "past", "known", "static")))


def _spans(panel: Panel) -> list[tuple[int, int, int]]:
    """First row, end row and first grid index of each series."""
    bounds = panel.offsets.tolist()
    return list(zip(bounds[:-1], bounds[1:], panel.first.tolist(), strict=True))


def learnt_late(panel: Panel, end: int) -> list[str]:
    """Series with a target that has too few values before grid index ``end``, or none that differ though later do."""
    found = []
    for name, (a, b, first) in zip(panel.names, _spans(panel), strict=True):
        values = panel.targets[a:b]
        low, high = _range(values)
        if (_untold(values[: max(0, end - first)]) & (low != high)).any():
            found.append(name)
    return found


def _by_series(panel: Panel, values: np.ndarray, *ends: int) -> np.ndarray:
    """Moments of each series' columns before the first of some grid indices that tells them: (N, C) to (S, C, 2).

    The spread is NaN where even the last leaves too few values.
    """
    found = []
    for a, b, first in _spans(panel):
        told, untold = np.zeros((values.shape[1], 2)), np.ones(values.shape[1], bool)
        for end in ends:
            part = values[a : a + max(0, min(b - a, end - first))]
            told[untold] = moments(part[:, untold])
            told[np.isfinite(part).sum(0) < FEW, 1] = np.nan
            untold &= _untold(part)
            if not untold.any():
                break
        found.append(told)
    return np.stack(found)


def _untold(values: np.ndarray) -> np.ndarray:
    """Columns with too few values to scale by, or none that differ: (t, C) to (C,)."""
    low, high = _range(values)
    return (np.isfinite(values).sum(0) < LEAST) | (low >= high)


def _range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest of each column, missing values left out: inf and -inf where all are."""
    seen = np.isfinite(values)
    return values.min(0, where=seen, initial=np.inf), values.max(0, where=seen, initial=-np.inf)


def _lend(moments: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Series with too few values (S, C, 2) borrow the spread that is usual among others (n, C, 2)."""
    told = others[~np.isnan(others[..., 1]).any(1), :, 1]  # (n, C)
    usual = np.median(told, 0) if len(told) else 1.0
    spread = np.where(np.isnan(moments[..., 1]), usual, moments[..., 1])
    return np.stack([moments[..., 0], spread], -1)


def _mask(moments: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A mean of NaN for some columns (C,), whose values then count as missing."""
    return np.stack([np.where(columns, np.nan, moments[..., 0]), moments[..., 1]], -1)


def moments(values: np.ndarray, most: float = 10.0) -> np.ndarray:
    """Mean and standard deviation of each column, missing values left out: (n, C) to (C, 2).

    What lies more than ``most`` standard deviations off is left out of a second reckoning.
    """
    seen = np.isfinite(values)
    filled = np.where(seen, values, 0.0).astype(np.float64)
    for _ in range(2):
        count = np.maximum(seen.sum(0), 1)
        mean = np.where(seen, filled, 0.0).sum(0) / count
        spread = np.sqrt((np.where(seen, filled - mean, 0.0) ** 2).sum(0) / count)
        seen &= np.abs(filled - mean) <= most * spread
    spread = np.where(spread > 1e-6 * np.maximum(np.abs(mean), 1e-30), spread, 1.0)  # a constant stays as it is
    return np.stack([mean, spread], -1)


@dataclass(frozen=True)
class Origins:
    """Where forecasts start: the series, and the step in it that is forecast first."""

    series: np.ndarray  # (n,) int64
    step: np.ndarray  # (n,) int64

    def __len__(self) -> int:
        return len(self.series)

    def take(self, rows: Any) -> Origins:
        """Some of them: a slice, indices or a mask."""
        return Origins(self.series[rows], self.step[rows])

    def then(self, other: Origins) -> Origins:
        """These, and others after them."""
        return Origins(np.concatenate([self.series, other.series]), np.concatenate([self.step, other.step]))

    def sample(self, most: int, seed: int) -> Origins:
        """At most so many, drawn without replacement, in order."""
        if len(self) <= most:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False)))

    def parts(self, size: int = 2_048) -> list[Origins]:
        """Parts whose windows fit in memory; one at least."""
        return [self.take(slice(k, k + size)) for k in range(0, max(len(self), 1), size)]


class Batch(NamedTuple):
    """Windows of several origins."""

    inputs: Tensor  # (T, B, I) targets and past covariates as differences from their last known values
    last: Tensor  # (B, C) last observed target of the history, scaled; 0 where there is none
    level: Tensor  # (B, P) the same of the past covariates
    target: Tensor  # (B, horizon, C) what is to be forecast, scaled; 0 where missing
    observed: Tensor  # (B, horizon, C) 1 where the target is known


class Windows:
    """Cuts windows from a panel.

    Parameters
    ----------
    panel : Panel
    scaling : Scaling
        In the panel's order.
    history, horizon : int
        Steps read and steps forecast.
    season : int
        Steps of one season; the value one season (or as many as needed) before each step is an
        input, since at that distance it is known in the future part as well.
    calendar : sequence of str
        The calendar features to take, some of ``calendar_names``.
    """

    def __init__(
        self, panel: Panel, scaling: Scaling, history: int, horizon: int, season: int, calendar: Sequence[str] = ()
    ) -> None:
        self.panel, self.scaling = panel, scaling
        self.history, self.horizon, self.season = history, horizon, season
        self._targets = torch.from_numpy(panel.targets)
        self._known = torch.from_numpy(panel.known)
        self._past = torch.from_numpy(panel.past)
        static = (panel.static - scaling.static[:, 0]) / scaling.static[:, 1]
        self._static = torch.from_numpy(np.nan_to_num(static).astype(np.float32))  # (S, Q)
        self._offsets = torch.from_numpy(panel.offsets)
        self._lengths = self._offsets.diff()
        self._first = torch.from_numpy(panel.first)
        self._low = int(panel.first.min())
        high = int((panel.first + np.diff(panel.offsets)).max()) + horizon
        index = np.arange(self._low - history, high)
        self._calendar = torch.from_numpy(calendar_features(panel.grid, index, list(calendar)))  # (grid steps, F)
        self.names = _input_names(panel, list(calendar))
        target = scaling.target.astype(np.float32)
        past = scaling.past.astype(np.float32)
        known = scaling.known.astype(np.float32)
        self._target_scale, self._past_scale = torch.from_numpy(target), torch.from_numpy(past)
        self._known_scale = torch.from_numpy(known)

    @property
    def start(self) -> int:
        """The first grid index of any series."""
        return int(self.panel.first.min())

    @property
    def end(self) -> int:
        """One past the last grid index with a known target."""
        return int((self.panel.first + self.panel.history_ends).max())

    def origins(self, start: int, end: int, stride: int = 1, *, observed: bool = True) -> Origins:
        """All origins whose future lies in the grid indices from ``start`` to ``end``.

        With ``observed``, only those with a whole window inside the series and with at least one
        target known in the history and one in the future.
        """
        series, steps = [], []
        for s, (a, b, first) in enumerate(_spans(self.panel)):
            low = max(start - first, self.history if observed else 0)
            high = min(end - first, b - a) - self.horizon
            # Every series' origins fall on the same grid steps, whatever its first one.
            low += -(low + first - start) % stride
            step = np.arange(low, high + 1, stride)
            if observed and len(step):
                seen = np.concatenate([[0], np.cumsum(np.isfinite(self.panel.targets[a:b]).any(1))])
                past = seen[step] > seen[step - self.history]
                step = step[past & (seen[step + self.horizon] > seen[step])]
            series.append(np.full(len(step), s))
            steps.append(step)
        return Origins(np.concatenate(series).astype(np.int64), np.concatenate(steps).astype(np.int64))

    def batch(self, origins: Origins) -> Batch:
        """Gather the windows of some origins."""
        series = torch.from_numpy(origins.series)  # (B,)
        origin = torch.from_numpy(origins.step)[:, None]  # (B, 1)
        steps = origin + torch.arange(-self.history, self.horizon)  # (B, T)
        known_now = steps < origin  # (B, T)
        scale = self._target_scale[series][:, None]  # (B, 1, C, 2)

        value, seen = self._gather(self._targets, series, steps, scale, math.inf)
        ahead = (torch.arange(-self.history, self.horizon)).clamp(min=0)
        lag_steps = steps - self.season * (1 + ahead // self.season)
        lag, lag_seen = self._gather(self._targets, series, lag_steps, scale, math.inf)
        visible = seen * known_now[..., None]
        known, known_seen = self._gather(self._known, series, steps, self._known_scale)
        past, past_seen = self._gather(self._past, series, steps, self._past_scale[series][:, None])
        past_seen = past_seen * known_now[..., None]

        h = self.history
        last = _latest(value[:, :h], visible[:, :h])  # (B, C)
        level = _latest(past[:, :h], past_seen[:, :h])  # (B, P)
        grid = self._first[series][:, None] + steps - self._low + self.history
        calendar = self._calendar[grid.clamp(0, len(self._calendar) - 1)]  # (B, T, F)
        static = self._static[series][:, None].expand(-1, steps.shape[1], -1)  # (B, T, Q)
        future = (~known_now).float()[..., None]
        inputs = [
            *((value - last[:, None]) * visible, visible),
            *((lag - last[:, None]) * lag_seen, lag_seen),
            *(known, known_seen),
            *((past - level[:, None]) * past_seen, past_seen),
        ]
        joined = torch.cat([*inputs, calendar, static, future], -1)  # (B, T, I)

        return Batch(joined.transpose(0, 1).contiguous(), last, level, value[:, h:], seen[:, h:])

    def unscale(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Forecasts (B, horizon, C, ...) in the data's units."""
        scale = self.scaling.target[series][:, None]  # (B, 1, C, 2)
        scale = scale.reshape(*scale.shape[:3], *(1,) * (values.ndim - 3), 2)
        return values * scale[..., 1] + scale[..., 0]

    def truth(self, origins: Origins) -> np.ndarray:
        """What happened (n, horizon, C) in the data's units; NaN where missing."""
        steps = origins.step[:, None] + np.arange(self.horizon)
        rows = self.panel.offsets[origins.series][:, None] + steps
        inside = (steps >= 0) & (steps < np.diff(self.panel.offsets)[origins.series][:, None])
        values = self.panel.targets[np.clip(rows, 0, len(self.panel.targets) - 1)].astype(np.float64)
        values[~inside] = np.nan
        return values

    def scaled_truth(self, origins: Origins) -> np.ndarray:
        """What happened (n, horizon, C) in scaled units; NaN where missing."""
        scale = self.scaling.target[origins.series][:, None]
        return (self.truth(origins) - scale[..., 0]) / scale[..., 1]

    def _gather(
        self, flat: Tensor, series: Tensor, steps: Tensor, scale: Tensor, limit: float = COVARIATE_LIMIT
    ) -> tuple[Tensor, Tensor]:
        """Scaled values and whether they are known, (B, T, n) each; 0 where unknown or outside."""
        inside = (steps >= 0) & (steps < self._lengths[series][:, None])
        rows = (self._offsets[series][:, None] + steps).clamp(0, max(0, len(flat) - 1))
        value = (flat[rows] - scale[..., 0]) / scale[..., 1]  # (B, T, n)
        value = value.clamp(-limit, limit)
        seen = inside[..., None] & value.isfinite()
        return torch.where(seen, value, 0.0), seen.float()


def _latest(values: Tensor, seen: Tensor) -> Tensor:
    """The last known value of each column, (B, T, n) to (B, n); 0 where there is none."""
    order = torch.arange(1, values.shape[1] + 1)[None, :, None] * seen  # (B, T, n)
    return values.gather(1, order.argmax(1, keepdim=True)).squeeze(1) * (order.amax(1) > 0)


def _input_names(panel: Panel, calendar: list[str]) -> list[str]:
    """What each of the network's inputs is, in order."""
    c, k, p = panel.target_names, panel.known_names, panel.past_names
    pairs = [(c, "{}", "{} known"), (c, "{} a season ago", "{} a season ago known"), (k, "{}", "{} known")]
    pairs.append((p, "{}", "{} known"))
    names = [form.format(name) for of, *forms in pairs for form in forms for name in of]
    return [*names, *calendar, *panel.static_names, "future"]
