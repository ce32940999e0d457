"""Forecasting: a table in, quantiles of the next steps of every series out.

n forecasts, h = horizon steps, C targets, Q quantiles, S series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tidegate.data.calendar import calendar_names
from tidegate.data.grid import Grid
from tidegate.data.table import as_given
from tidegate.data.windows import EVER, Origins, Scaling, Windows
from tidegate.errors import ConfigError
from tidegate.tasks import calibration
from tidegate.tasks.backtest import Backtest, evaluate, run_backtest
from tidegate.tasks.estimator import as_names
from tidegate.tasks.forecast_config import ForecastConfig
from tidegate.tasks.forecast_data import (
    Parts,
    about_series,
    forecast_columns,
    forecast_frame,
    marks_of_missing,
    missing_covariates,
    steps_behind,
    unknown_ahead,
)
from tidegate.tasks.forecast_job import ForecastJob, pretraining
from tidegate.tasks.learner import Report
from tidegate.tasks.metrics import intervals
from tidegate.tasks.network import ForecastNet
from tidegate.tasks.panel_learner import PanelLearner
from tidegate.tasks.sequence_data import check_distinct
from tidegate.training.ensemble import mean_of_quantiles
from tidegate.training.pretrain import NextStepJob

if TYPE_CHECKING:
    from tidegate.interchange.onnx_graph import Exported


class Rolled(NamedTuple):
    """Forecasts one after another, in scaled units."""

    origins: Origins  # n
    start: np.ndarray  # (n,) grid index of the first step
    quantiles: np.ndarray  # (n, h, C, Q) as the network gives them
    corrected: np.ndarray  # (n, h, C, Q) with the errors known at each origin
    margins: np.ndarray  # (h, C, K) for the next forecast


class Forecaster(PanelLearner):
    """Forecasts with one LSTM that reads history and future as one sequence.

    Parameters
    ----------
    **options
        Fields of :class:`ForecastConfig`: the same as the command line's options and the lines of
        a ``config.toml``.

    Attributes
    ----------
    model_ : ForecastNet
    notes_, predict_notes_, training_
        As in :class:`~tidegate.tasks.learner.Learner`.

    Examples
    --------
    >>> model = tg.Forecaster(horizon=24, time="time_hour", series="origin")
    >>> model.fit("weather.parquet", target="temp").predict("weather.parquet")
    """

    task: ClassVar[str] = "forecast"
    Config = ForecastConfig
    what: ClassVar[str] = "forecasts"
    help: ClassVar[str] = """Train a forecaster on a CSV or Parquet file and score it on the untouched last part.

    Such as: tidegate train forecast sales.csv --target sold --time day --series shop --horizon 14
    """
    data_help: ClassVar[str] = "The CSV or Parquet file to learn from: one row a time, or one row a series and time."
    table_fields: ClassVar[tuple[str, ...]] = (
        "target", "time", "series", "horizon", "known", "past", "static", "frequency", "validation", "test",
    )  # fmt: skip
    model_: ForecastNet
    calibration_: dict[str, np.ndarray]
    _rolled: Rolled | None = None

    def fit(
        self,
        data: Any,
        target: str | list[str] | None = None,
        *,
        folder: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> Self:
        """Train on the first part of the time, stop by the second, leave the last untouched.

        Parameters
        ----------
        data : path of a CSV or Parquet file, or data frame of polars or pandas
        target : str or list of str, optional
            Instead of the field of the same name.
        folder : path, optional
            A run folder for checkpoints and the trained model.
        resume : bool
            Go on from the folder's checkpoint.
        progress : bool
            Show how training goes, on standard error.

        Raises
        ------
        DataError, ConfigError, TrainingStopped
            With one sentence that says what is wrong, where, and what to do.
        """
        if target is not None:
            self.set_params(target=as_names("target", target))
        self._given = None
        return self._fit(data, folder, resume=resume, progress=progress)

    def twin(self, cell: str, *, progress: bool = False) -> Forecaster:
        """The same model with another cell, trained on the data of ``fit``; kept in the run folder."""
        return self._beside(cell, self._form(cell), lambda: self.windows_for().panel, progress=progress)

    def _like(self, options: dict[str, Any]) -> Self:
        other = super()._like(options)
        other._given = self
        return other

    def refit(self, data: Any, *, progress: bool = False) -> Self:
        """Train the chosen setting anew on all data, for as many epochs as were best.

        Intervals keep the calibration of the model trained before, whose errors were out of sample.
        """
        self._check_fitted("refit")
        panel = self._read(data, like=self.panel_facts_)
        self.scaling_ = Scaling.fit(panel, EVER)
        self.windows_ = self._windows(panel)
        end = self.windows_.end
        every = self.windows_.origins(self.windows_.start, end)
        self._origins, self._taught = [every, every], {}
        self._train(self._job, progress=progress, epochs=max(1, self.training_.best_epoch))
        self.parts_ = Parts(end, end, end)
        return self

    def predict(self, data: Any, *, samples: int = 0, seed: int = 0) -> Any:
        """Forecast the steps after the last known target of every series.

        Parameters
        ----------
        data : path or data frame
            History, and after it rows with the covariates known in the future, if there are any.
        samples : int
            Instead of quantiles, this many sample paths (for sums over the horizon and other
            questions about several steps at once).
        seed : int
            For the paths.

        Returns
        -------
        data frame of the kind given (polars for a file)
            One row a series and step: ``<target>`` (the median) and ``<target>_q0.1`` and so on; with
            ``samples`` one row a series, path and step.
        """
        self._check_fitted("predict")
        if samples < 0:
            raise ValueError(f"samples is a number of paths, 0 for quantiles; given {samples}")
        if seed < 0:
            raise ConfigError(f"seed is a number of at least 0; given {seed}")
        given = self._read(data, like=self.panel_facts_)
        panel = given.extend(self.horizon)
        check_distinct(forecast_columns(panel, self.config.quantiles, samples))
        windows = self._windows(panel)
        ends = panel.history_ends.astype(np.int64)
        origins = Origins(np.flatnonzero(ends), ends[ends > 0])  # a series without any target has no past
        empty = [name for name, end in zip(panel.names, ends, strict=True) if end == 0]
        self.predict_notes_ = [*panel.notes, *missing_covariates(given), *marks_of_missing(panel)]
        self.predict_notes_ += about_series("{} have no known target and are skipped", empty)
        self.predict_notes_ += about_series(
            "{} did not occur in training; each is scaled by itself", self._unseen(panel)
        )
        short = [f"{n} ({end})" for n, end in zip(panel.names, ends.tolist(), strict=True) if 0 < end < windows.history]
        fewer = f"have fewer than the {windows.history} steps that the model reads, and the others are masked"
        self.predict_notes_ += about_series(f"{{}} {fewer}", short)
        stops = panel.first[origins.series] + origins.step  # grid index after each history
        long_ago = stops.max(initial=0) - stops > self.horizon
        early = [panel.names[s] for s in origins.series[long_ago]]
        self.predict_notes_ += about_series("{} end long before the others, and are forecast from their own end", early)
        behind = steps_behind(given).tolist()
        lately = [
            f"{panel.names[s] or panel.target_names[0]} (last value {behind[s]} step{'s' * (behind[s] > 1)} ago)"
            for s in origins.series[~long_ago]
            if behind[s]
        ]
        self.predict_notes_ += about_series(
            "{} {have} no value in the latest steps, and {are} forecast from an earlier one on", lately
        )
        if unknown := unknown_ahead(panel, self.horizon):
            self.predict_notes_.append(f"known ahead, but without values there, and so masked: {', '.join(unknown)}")
        quantiles = calibration.widen(
            self.quantiles(windows, origins), self.calibration_["margins"], self.config.quantiles
        )
        if samples:
            scores = self.calibration_["scores"]
            values = calibration.sample_paths(quantiles, scores, self.config.quantiles, samples, seed)
            values = windows.unscale(values.swapaxes(1, 2).swapaxes(2, 3), origins.series)  # (S, h, C, samples)
        else:
            values = windows.unscale(quantiles, origins.series)  # (S, h, C, Q)
        frame = forecast_frame(panel, origins, values, self.config.quantiles, samples)
        return as_given(frame, data)

    def evaluate(self, data: Any = None, *, compare: Sequence[str] = (), progress: bool = False) -> dict[str, Any]:
        """Rolling-origin backtest on the untouched last part, beside baselines.

        Parameters
        ----------
        data : path or data frame, optional
            Instead of the data of ``fit``; what lies after the start of the test part is scored.
        compare : sequence of "rnn" or "lstm"
            Cells to train the same model with, and to put beside it.
        progress : bool

        Returns
        -------
        dict
            As :func:`tidegate.tasks.backtest.evaluate`.
        """
        return evaluate(self.backtest(data, compare=compare, progress=progress), self.config.seed)

    def backtest(self, data: Any = None, *, compare: Sequence[str] = (), progress: bool = False) -> Backtest:
        """The forecasts that ``evaluate`` scores."""
        self._check_fitted("evaluate")
        return run_backtest(self, data, compare=compare, progress=progress)

    def report(
        self, folder: Path, data: Any = None, *, compare: Sequence[str] = (), command: str = "", progress: bool = False
    ) -> Report:
        """As :meth:`evaluate`, with ``metrics.json``, pictures and the card in a run folder."""
        from tidegate.tasks.report import write_report

        return write_report(self, self.backtest(data, compare=compare, progress=progress), folder, data, command)

    def export_onnx(self, path: str | Path, data: Any = None, *, opset: int | None = None) -> Exported:
        """Write the whole forecaster as ONNX, scaling and calibration included (``tidegate[onnx]``).

        Values go in and quantiles come out in the table's units. The inputs, the grid of time and the
        calendar's features, which stay outside, are described in the metadata ``tidegate.forecaster``.

        Parameters
        ----------
        path : str or Path
        data : path or data frame, optional
            What onnxruntime's forecasts are compared with Python's on, before the file is written; the
            data of ``fit`` by default.
        opset : int, optional
            The newest up to 22 that onnxruntime runs by default.

        Raises
        ------
        InterchangeError
            For the cell "rnn", and where the forecasts differ by more than 1e-5 of their size.
        DataError
            Without data, or without a series of the training in it.
        """
        from tidegate.interchange.onnx_forecast import export_forecaster

        self._check_fitted("export_onnx")
        return export_forecaster(self, path, data, opset)

    def _tensors(self) -> dict[str, Tensor]:
        return self.scaling_.tensors() | {f"calibration.{k}": torch.from_numpy(v) for k, v in self.calibration_.items()}

    def _facts(self) -> dict[str, Any]:
        return {
            "series": self.scaling_.names,
            "panel": self.panel_facts_,
            "parts": self.parts_,
            "calendar": self.calendar_,
        }

    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.panel_facts_, self.calendar_ = facts["panel"], facts["calendar"]
        self.parts_ = Parts(*facts["parts"])
        self.scaling_ = Scaling.from_tensors(tensors, facts["series"])
        self.calibration_ = {k: tensors[f"calibration.{k}"].numpy() for k in ("margins", "scores")}
        self._check_facts()

    def _check_facts(self) -> None:
        """Refuse facts of a run folder that do not belong to one another."""
        c, scaling = self.resolved_, self.scaling_
        series, targets = len(scaling.names), len(c.target)
        shapes = [
            ("scaling of targets", scaling.target, (series, targets, 2)),
            ("scaling of past covariates", scaling.past, (series, *scaling.past.shape[1:2], 2)),
            ("scaling of known covariates", scaling.known, (*scaling.known.shape[:1], 2)),
            ("scaling of static columns", scaling.static, (*scaling.static.shape[:1], 2)),
            ("margins", self.calibration_["margins"], (self.horizon, targets, len(intervals(c.quantiles)))),
            ("scores", self.calibration_["scores"], (len(self.calibration_["scores"]), self.horizon, targets)),
        ]
        for name, found, expected in shapes:
            if found.shape != expected:
                raise ValueError(f"{name} of shape {found.shape} for {expected}")
        unknown = set(self.calendar_) - set(calendar_names(Grid.from_dict(self.panel_facts_["grid"])))
        if unknown or not isinstance(self.panel_facts_["categories"], dict):
            raise ValueError("calendar or categories")

    # -- the model --------------------------------------------------------------------------------

    def _build(self) -> ForecastNet:
        c = self.resolved_
        static = self.scaling_.static.shape[0]
        inputs = 4 * len(c.target) + 2 * (len(c.known) + len(c.past)) + len(self.calendar_) + static + 1
        return ForecastNet(
            inputs,
            len(c.target),
            c.quantiles,
            self.horizon,
            c.hidden_size,
            c.num_layers,
            c.dropout,
            c.input_dropout,
            c.cell,
            c.weight_dropout,
            c.variational,
            c.noise,
        )

    def _job(self) -> ForecastJob:
        return ForecastJob(self.model_, self.windows_, self._origins[0], self._origins[1], self.config)

    combine = staticmethod(mean_of_quantiles)

    def _pretraining(self) -> NextStepJob:
        """The history of each window foretold step by step."""
        trained, valid = self._origins
        return pretraining(self.model_, self.windows_, trained, valid, self.config)

    @torch.no_grad()
    def quantiles(self, windows: Windows, origins: Origins) -> np.ndarray:
        """Uncorrected quantiles (n, h, C, Q) in scaled units."""
        self.model_.eval()
        parts = [self.model_(windows.batch(part)).numpy() for part in origins.parts(512)]
        return np.concatenate(parts).astype(np.float64)

    def _finish(self) -> None:
        """Margins and the shape of errors, from forecasts of the parts not trained on."""
        self._rolled = None
        rolled = self.rolled(self.windows_)
        truth = self.windows_.scaled_truth(rolled.origins)
        scores = calibration.normal_scores(rolled.corrected, truth, self.config.quantiles)
        self.calibration_ = {"margins": rolled.margins, "scores": scores}

    def rolled(self, windows: Windows) -> Rolled:
        """Forecasts from origins a stride apart over all that was not trained on, corrected as time goes."""
        if self._rolled is not None and windows.panel is self.windows_.panel:
            return self._rolled
        origins = windows.origins(self.parts_.train_end, windows.end, self.stride)
        start = windows.panel.first[origins.series] + origins.step
        quantiles = self.quantiles(windows, origins)
        corrected, margins = calibration.rolling(quantiles, windows.scaled_truth(origins), start, self.config.quantiles)
        found = Rolled(origins, start, quantiles, corrected, margins)
        if getattr(self, "windows_", None) is windows:
            self._rolled = found
        return found
