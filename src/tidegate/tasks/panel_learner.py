"""A learner from a table of series: read into a panel, parted in time, scaled, cut into windows."""

from __future__ import annotations

from typing import Any, Self

from tidegate.data.build import make_panel
from tidegate.data.calendar import calendar_names
from tidegate.data.grid import Grid
from tidegate.data.panel import Panel
from tidegate.data.table import read_table
from tidegate.data.windows import EVER, Origins, Scaling, Windows, learnt_late
from tidegate.errors import DataError
from tidegate.tasks.forecast_config import ForecastConfig
from tidegate.tasks.forecast_data import Parts, about_scaling, about_series, about_values, forecast_columns, split
from tidegate.tasks.learner import Learner
from tidegate.tasks.sequence_data import check_distinct


class PanelLearner(Learner):
    """What a forecaster makes of its table, before and without its model."""

    config: ForecastConfig
    resolved_: ForecastConfig
    windows_: Windows
    scaling_: Scaling
    panel_facts_: dict[str, Any]
    parts_: Parts
    calendar_: list[str]
    _origins: list[Origins]  # to train on and to stop by
    _given: Self | None = None  # whose parts and scaling another form of the model takes

    @property
    def horizon(self) -> int:
        """Steps forecast."""
        assert self.resolved_.horizon is not None
        return self.resolved_.horizon

    @property
    def stride(self) -> int:
        """Steps between the origins of a backtest: a quarter of the horizon, so that each time of day is met."""
        return max(1, self.horizon // 4)

    def windows_for(self, data: Any = None) -> Windows:
        """Windows over a table, or over the data of ``fit`` (read again after ``load``)."""
        if data is None and getattr(self, "windows_", None) is not None:
            return self.windows_
        windows = self._windows(self._read(self._source(data), like=self.panel_facts_))
        if data is None:
            self.windows_ = windows
        return windows

    def _unseen(self, panel: Panel) -> list[str]:
        """Series of a table that training had not; without --series there is only one."""
        return self.scaling_.unseen(panel) if self.config.series else []

    def _read(self, data: Any, like: dict[str, Any] | None = None) -> Panel:
        """The panel of a table; ``like`` is the training panel's facts."""
        c = self.config
        named = [name for name in (c.time, c.series) if name]
        columns = [*c.target, *c.known, *c.past, *c.static, *named]
        text = [c.series] if c.series else []
        table = read_table(data, columns, text=[*text, *(like["categories"] if like else [])])
        options: dict[str, Any] = {"frequency": c.frequency}
        if like is not None:
            options = {"grid": Grid.from_dict(like["grid"]), "categories": like["categories"]}
        return make_panel(
            table,
            target=c.target,
            time=c.time,
            series=c.series,
            known=c.known,
            past=c.past,
            static=c.static,
            **options,
        )

    def _prepare(self, panel: Panel) -> None:
        """Choose season, horizon and history, part the time, fit the scaling; or take all this from another form."""
        check_distinct(forecast_columns(panel, self.config.quantiles))
        if self._given is None:
            self._choose(panel)
            self._scale(panel)
        else:
            self.resolved_, self.notes_ = self.config, [*panel.notes]
            for name in ("parts_", "panel_facts_", "calendar_", "scaling_"):
                setattr(self, name, getattr(self._given, name))
        self.windows_ = self._windows(panel)
        *self._origins, notes = split(self.windows_, self.parts_)
        self.notes_ += notes

    def _choose(self, panel: Panel) -> None:
        """Sets ``resolved_``, ``parts_``, ``calendar_`` and what is kept of the panel."""
        c = self.config
        longest = int(panel.history_ends.max())
        season = c.season or panel.grid.default_season()
        horizon = c.horizon or max(1, min(season, round(0.9 * min(c.test, c.validation) * longest)))
        history = c.history or max(1, min(max(7 * season if season > 1 else 0, 3 * horizon, 8), longest // 3))
        self.resolved_ = c.model_copy(update={"season": season, "horizon": horizon, "history": history})
        low, end = int(panel.first.min()), int((panel.first + panel.history_ends).max())
        span = end - low
        if history + horizon > longest:
            raise DataError(
                f"the horizon of {horizon} and the history of {history} steps need {history + horizon} steps in a "
                f"row, and the longest series has {longest}; lower --horizon or --history, or bring more data"
            )
        self.parts_ = Parts(low + round(span * (1 - c.test - c.validation)), low + round(span * (1 - c.test)), end)
        self.panel_facts_ = {"grid": panel.grid.to_dict(), "categories": panel.categories}
        names = calendar_names(panel.grid) if c.calendar else []
        steps = self.parts_.train_end - low
        # A cycle seen less than twice says nothing about its return.
        periods = {name: _period(panel.grid, name) for name in names}
        self.calendar_ = [name for name in names if 2 * periods[name] <= steps]

    def _scale(self, panel: Panel) -> None:
        """Sets ``scaling_`` and ``notes_``."""
        train_end, test_start, _ = self.parts_
        self.scaling_ = Scaling.fit(panel, train_end, test_start, EVER)
        late = [name or self.config.target[0] for name in learnt_late(panel, train_end)]
        self.notes_ = [
            *panel.notes,
            *about_values(panel),
            *about_scaling(self.scaling_, panel),
            *about_series("{} began or changed too late to be learnt from; each is scaled by itself", late),
        ]

    def _windows(self, panel: Panel) -> Windows:
        c = self.resolved_
        assert c.history is not None
        assert c.season is not None
        scaling = self.scaling_.for_panel(panel, self.parts_.test_start)
        return Windows(panel, scaling, c.history, self.horizon, c.season, self.calendar_)


def _period(grid: Grid, name: str) -> float:
    for period in ("day", "week", "year"):
        if name.startswith({"day": "hour", "week": "week", "year": "year"}[period]):
            return grid.steps_per(period)
    raise KeyError(name)
