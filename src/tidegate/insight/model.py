"""A trained forecaster opened up: its layer, windows, head and units, ready for the views of this package.

T = history + horizon steps, B windows, I inputs, C targets, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tidegate.checks import check_choice
from tidegate.errors import DataError, RunError
from tidegate.insight.calls import Score
from tidegate.layer import LSTM

if TYPE_CHECKING:
    from tidegate.data.grid import Grid
    from tidegate.data.windows import Batch, Origins, Windows
    from tidegate.tasks.forecast import Forecaster
    from tidegate.tasks.network import ForecastNet

_UNITS = (("day", 86_400_000_000), ("hour", 3_600_000_000), ("minute", 60_000_000), ("second", 1_000_000))


@dataclass(frozen=True)
class OpenForecast:
    """Windows of a table, and the network that forecasts them. Made by :func:`open_forecast`.

    Attributes
    ----------
    forecaster : Forecaster
    model : ForecastNet
        In evaluation mode.
    windows : Windows
    origins : Origins
        Where the B windows' forecasts start.
    batch : Batch
        ``batch.inputs`` is the layer's input (T, B, I), scaled.
    fixed : bool (I,)
        Flags, categories and calendar features, which a baseline leaves as they are.
    mean : Tensor (I,)
        Of each input over the known steps of the training windows.
    time, unit : float, str
        Length of a step, such as 15 minutes.
    """

    forecaster: Forecaster
    model: ForecastNet
    windows: Windows
    origins: Origins
    batch: Batch
    fixed: Tensor
    mean: Tensor
    time: float
    unit: str

    @property
    def lstm(self) -> LSTM:
        """The recurrent layers."""
        assert isinstance(self.model.recurrent, LSTM)
        return self.model.recurrent

    @property
    def head(self) -> nn.Linear:
        """From h of a future step to C times Q numbers."""
        return self.model.head

    @property
    def x(self) -> Tensor:
        """The layer's input (T, B, I)."""
        return self.batch.inputs

    @property
    def names(self) -> list[str]:
        """Of the I inputs."""
        return self.windows.names

    @property
    def targets(self) -> list[str]:
        """Of the C targets, in whose units scores are."""
        return self.windows.panel.target_names

    @property
    def history(self) -> int:
        """The step of a window that is forecast first."""
        return self.windows.history

    @property
    def baseline(self) -> Tensor:
        """The training mean at each step (T, B, I); flags, calendar and what is unknown there as they are."""
        keep = self.fixed | ~_known(self.windows, self.x)
        return torch.where(keep, self.x, self.mean)

    def series(self) -> list[str]:
        """The series of each window, B."""
        return [self.windows.panel.names[s] for s in self.origins.series]

    def times(self) -> np.ndarray:
        """The time of each step of each window, (T, B): datetime64, or whole numbers."""
        panel = self.windows.panel
        offsets = np.arange(-self.windows.history, self.windows.horizon)[:, None]
        index = (panel.first[self.origins.series] + self.origins.step)[None] + offsets  # (T, B)
        return panel.grid.timestamps(index.reshape(-1)).reshape(index.shape)

    def take(self, rows: Any) -> OpenForecast:
        """Some of the windows: indices, a slice or a mask."""
        origins = self.origins.take(rows)
        return replace(self, origins=origins, batch=self.windows.batch(origins))

    def untrained(self, seed: int = 0) -> OpenForecast:
        """The same windows with a network that has learnt nothing, as a control."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.forecaster._build()
        return replace(self, model=model.eval())

    def forecast(self) -> np.ndarray:
        """Quantiles (B, horizon, C, Q) in the data's units, without the correction of intervals."""
        with torch.no_grad():
            return self.windows.unscale(self.model(self.batch).double().numpy(), self.origins.series)

    def truth(self) -> np.ndarray:
        """What happened (B, horizon, C) in the data's units; nan where missing."""
        return self.windows.truth(self.origins)

    def score(self, step: int = 0, target: int = 0, quantile: float = 0.5) -> Score:
        """From x (T, B, I) to one forecast of each window (B,), in the target's unit.

        Parameters
        ----------
        step : int
            Of the horizon; 0 is the first step forecast.
        target : int
        quantile : float
            One of the forecaster's.
        """
        levels = list(self.forecaster.resolved_.quantiles)
        check_choice("quantile", quantile, tuple(levels))
        check_choice("step", step, tuple(range(self.windows.horizon)))
        check_choice("target", target, tuple(range(len(self.targets))))
        scale = torch.from_numpy(self.windows.scaling.target[self.origins.series, target])  # (B, 2)
        place = levels.index(quantile)

        def run(x: Tensor) -> Tensor:
            value = self.model(self.batch._replace(inputs=x))[:, step, target, place]
            return value.double() * scale[:, 1] + scale[:, 0]

        return run

    def error(self) -> Score:
        """From x to each window's mean absolute error of the median (B,), in scaled units; nan without truth."""

        def run(x: Tensor) -> Tensor:
            median = self.model(self.batch._replace(inputs=x))[..., self.model.median]  # (B, horizon, C)
            size = (median - self.batch.target).abs() * self.batch.observed
            return size.sum((1, 2)) / self.batch.observed.sum((1, 2))

        return run


def open_forecast(
    forecaster: Any, data: Any = None, *, part: str = "test", most: int = 256, seed: int = 0
) -> OpenForecast:
    """Open a trained forecaster over a table.

    Parameters
    ----------
    forecaster : Forecaster, or the path of a run folder
    data : path or data frame, optional
        By default what it was trained on.
    part : "train", "validation" or "test"
        Which part of the time the windows' futures lie in, a quarter of the horizon apart.
    most : int
        At most so many windows, drawn without replacement.
    seed : int

    Returns
    -------
    OpenForecast

    Raises
    ------
    RunError
        If the model is a vanilla RNN, which has no gates.
    DataError
        If the part holds no whole window.
    """
    from tidegate.tasks.forecast import Forecaster

    if not isinstance(forecaster, Forecaster):
        forecaster = Forecaster.load(forecaster)
    check_choice("part", part, ("train", "validation", "test"))
    if not isinstance(forecaster.model_.recurrent, LSTM):
        raise RunError("this forecaster is a vanilla RNN, which has neither gates nor a long-term memory to look at")
    windows, parts = forecaster.windows_for(data), forecaster.parts_
    spans = {
        "train": (windows.start, parts.train_end),
        "validation": (parts.train_end, parts.test_start),
        "test": (parts.test_start, windows.end),
    }
    origins = windows.origins(*spans[part], forecaster.stride)
    if len(origins) == 0:
        raise DataError(f"the {part} part of this table holds no whole window; bring the data of the training")
    training = windows.origins(*spans["train"], forecaster.stride)
    known = windows.batch((training if len(training) else origins).sample(512, seed)).inputs
    chosen = origins.sample(most, seed)
    time, unit = time_unit(windows.panel.grid)
    return OpenForecast(
        forecaster,
        forecaster.model_.eval(),
        windows,
        chosen,
        windows.batch(chosen),
        _fixed(windows),
        _mean_of_known(windows, known),
        time,
        unit,
    )


def time_unit(grid: Grid) -> tuple[float, str]:
    """The length of a step and its unit, such as (15.0, "minute")."""
    if grid.kind == "months":
        return float(grid.step), "month"
    if grid.kind == "steps":
        return float(grid.step), "step"
    name, size = next(((n, s) for n, s in _UNITS if grid.step % s == 0), _UNITS[-1])
    return grid.step / size, name


def _pairs(windows: Windows) -> list[int]:
    """How many values, and then as many flags, each group of inputs has, in their order."""
    panel = windows.panel
    return [len(names) for names in (panel.target_names, panel.target_names, panel.known_names, panel.past_names)]


def _fixed(windows: Windows) -> Tensor:
    """True for flags, categories, calendar features and the mark of the future."""
    found = [flag for n in _pairs(windows) for flag in (False, True) for _ in range(n)]
    static = len(windows.panel.static_names)
    calendar = len(windows.names) - len(found) - static - 1
    categories = {f"{name}={one}" for name, values in windows.panel.categories.items() for one in values}
    found += [True] * calendar + [name in categories for name in windows.panel.static_names] + [True]
    return torch.tensor(found)


def _known(windows: Windows, x: Tensor) -> Tensor:
    """True where a value's flag is set, and for inputs without one: as x (T, B, I)."""
    known, at = torch.ones_like(x, dtype=torch.bool), 0
    for n in _pairs(windows):
        known[..., at : at + n] = x[..., at + n : at + 2 * n] > 0
        at += 2 * n
    return known


def _mean_of_known(windows: Windows, x: Tensor) -> Tensor:
    """The mean of each input (I,) over the steps at which it is known."""
    known = _known(windows, x)
    total = torch.where(known, x, 0.0).double().sum((0, 1))
    return (total / known.sum((0, 1)).clamp(min=1)).to(x.dtype)
