"""What the lens shows of a forecaster.

T = history + horizon steps, I inputs, Q quantiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tidegate.insight.charts import Chart, Line, Mark
from tidegate.insight.figures import CONTROL, TRAINED
from tidegate.insight.live import Live
from tidegate.insight.order import thin
from tidegate.insight.page import time_text
from tidegate.insight.study import moment, window_values
from tidegate.insight.window_figures import output_chart


class LiveForecast(Live):
    """The windows of a :class:`Study`, one at a time."""

    def names(self) -> list[str]:
        one = self.opened
        starts = [time.replace("T", " ") for time in time_text(one.times()[one.history])]
        return [f"{name} from {start}" if name else start for name, start in zip(one.series(), starts, strict=True)]

    def inputs(self) -> list[str]:
        return self.opened.names

    def targets(self) -> list[str]:
        return self.opened.targets

    def hints(self) -> dict[str, str]:
        return {
            "shown": "",
            "asked": "of the forecast where the moment is one",
            "read": "One input of the chosen moment, as the network reads it: in standard deviations, targets and past "
            "columns as differences from their last known value.",
        }

    def start(self) -> int:
        return self.opened.history

    def times(self, row: int) -> np.ndarray:
        return self._row(row).times()[:, 0]

    def _series(self, row: int) -> str:
        return self.opened.series()[row]

    def _baseline(self, one: Any) -> Tensor:
        return one.baseline

    def _lines(self, row: int) -> list[Line]:
        return [Line(self.times(row)[self.opened.history], "forecast starts")]

    def _outputs(self, row: int, at: int, target: int) -> list[Chart]:
        history = self.opened.history
        if at < history:
            return []
        times, name = self.times(row), self.opened.targets[target]
        return [
            output_chart(moment(model.take([row]), target, at - history), side, times, name, history)
            for model, side in ((self.opened, TRAINED), (self.control, CONTROL))
        ]

    def _sequence(self, row: int, target: int, edited: Any = None) -> Chart:
        one = self._row(row)
        levels, middle = self.study.levels, self.study.levels.index(0.5)
        times, values = one.times()[:, 0], window_values(one, target)
        ahead = times[one.history :]
        q = one.forecast()[0, :, target]  # (horizon, Q)
        x, y = thin(times, values)
        around = f"{levels[0]:g} to {levels[-1]:g} quantile"
        marks = [
            Mark("band", ahead, q[:, -1], around, "trained", low=q[:, 0], strong=0.2),
            Mark("line", x, y, "what happened", "ink"),
            Mark("line", ahead, q[:, middle], "forecast, median", "trained"),
        ]
        facts = []
        if edited is not None:
            with torch.no_grad():
                scaled = one.model(one.batch._replace(inputs=edited)).double().numpy()
            new = one.windows.unscale(scaled, one.origins.series)[0, :, target, middle]
            marks.append(Mark("line", ahead, new, "with the edited input", "rnn"))
            change = new - q[:, middle]
            most = int(np.abs(change).argmax())
            facts.append(
                f"The edit changes the median by up to {change[most]:+.4g} ({one.targets[target]}), "
                f"{most + 1} step{'s' if most else ''} ahead; in the mean by {change.mean():+.4g}."
            )
        name, series = one.targets[target], one.series()[0]
        label = f"{name}, {series}" if series else name
        return Chart("", "", label, marks, facts, lines=[Line(times[one.history], "forecast starts")])
