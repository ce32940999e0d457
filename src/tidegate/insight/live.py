"""What the lens answers: one window at a time, computed when it is asked for.

T = history + horizon steps, B windows, I inputs, H hidden units, K steps of a gap figure.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
import torch

from tidegate.insight.charts import Chart, Line, Mark
from tidegate.insight.figures import CONTROL, TRAINED
from tidegate.insight.gap import agreement, ledger_gap
from tidegate.insight.ledger import ledger
from tidegate.insight.match import match
from tidegate.insight.model import OpenForecast
from tidegate.insight.order import thin
from tidegate.insight.page import as_json, chart_json, time_text
from tidegate.insight.study import Study, gap_steps, moment, window_values
from tidegate.insight.trace import trace
from tidegate.insight.window_figures import gates_heat, memory_chart, output_chart


class Live:
    """A study's windows, asked one question at a time. Answers are JSON's own types.

    Parameters
    ----------
    study : Study

    Raises
    ------
    ValueError
        By every method, with a sentence, for a row, layer, unit, step or input that is not there.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.opened, self.control = study, study.trained.opened, study.untrained.opened
        self._one_at_a_time = Lock()  # hooks and modes belong to the one model

    def choices(self) -> dict[str, Any]:
        """What can be picked: windows, layers, units, inputs."""
        one = self.opened
        starts = [time.replace("T", " ") for time in time_text(one.times()[one.history])]
        rows = [f"{name} from {start}" if name else start for name, start in zip(one.series(), starts, strict=True)]
        first = self.study.cases[0].row if self.study.cases else 0
        return {
            "rows": rows, "first": first, "layers": one.lstm.num_layers, "units": one.lstm.hidden_size,
            "inputs": one.names, "targets": one.targets, "history": one.history, "steps": len(one.x),
        }  # fmt: skip

    def window(self, row: int, layer: int, target: int = 0) -> dict[str, Any]:
        """A window's sequence with its forecast, its gates, and its inputs' values."""
        one = self._row(row)
        self._check("layer", layer, one.lstm.num_layers)
        self._check("target", target, len(one.targets))
        with self._one_at_a_time:
            traced = trace(one.lstm, one.x).layers[layer]
            chart = self._sequence(row, target)
        times = one.times()[:, 0]
        memory = traced.cell[:, 0, 0].abs().mean(0)  # (H,)
        heat = gates_heat(
            traced, self.study.trained.orders[layer], times, "", [Line(times[one.history], "forecast starts")]
        )
        return {
            "times": as_json(times), "sequence": chart_json(chart), "gates": chart_json(heat),
            "unit": int(memory.argmax()), "x": [[float(f"{v:.5g}") for v in step] for step in one.x[:, 0].tolist()],
        }  # fmt: skip

    def ledger(self, row: int, layer: int, unit: int, at: int, target: int = 0) -> list[dict[str, Any]]:
        """The ledger of a unit's memory after a step; with that of the forecast, where the step is one."""
        one = self._row(row)
        self._check("layer", layer, one.lstm.num_layers)
        self._check("unit", unit, one.lstm.hidden_size)
        self._check("step", at, len(one.x))
        self._check("target", target, len(one.targets))
        times = one.times()[:, 0]
        with self._one_at_a_time:
            read = one.x[: at + 1]
            found = ledger(one.lstm, read, layer=layer)
            gap = ledger_gap(one.lstm, read, gap_steps(at + 1), baseline=one.baseline[: at + 1], layer=layer)
            entry, erased, replaced = (v[:, 0, 0, unit] for v in (gap.entry, gap.erased, gap.replaced))
            agreed = {"erased": agreement(entry, erased), "replaced": agreement(entry, replaced)}
            entries = np.zeros(len(one.x))
            entries[: at + 1] = found.entries[0, :, 0, 0, unit]
            charts = [memory_chart(entries, times, at, unit, float(found.memory[0, 0, 0, unit]), agreed)]
            if at >= one.history:
                for model, name in ((one, TRAINED), (self.control.take([row]), CONTROL)):
                    m = moment(model, target, at - one.history)
                    charts.append(output_chart(m, name, times, one.targets[target], one.history))
        return [chart_json(chart) for chart in charts]

    def matches(self, row: int, layer: int, start: int, end: int, threshold: float = 0.5) -> dict[str, Any]:
        """Units that mark the span from start to end (not included), and where else they are on."""
        self._row(row)
        self._check("layer", layer, self.opened.lstm.num_layers)
        if not 0.0 < threshold < 100.0:
            raise ValueError(f"threshold is a size of the memory above 0; given {threshold:g}")
        with self._one_at_a_time:
            found = match(self.opened.lstm, self.opened.x, (row, start, end), threshold=threshold, layer=layer)
        times, series = self.opened.times(), self.opened.series()
        spans = []
        for span, score in list(zip(found.spans, found.scores.tolist(), strict=True))[:30]:
            first, last = time_text(times[[span.start, span.end - 1], span.row])
            spans.append(
                {"row": span.row, "start": span.start, "end": span.end, "series": series[span.row], "from": first,
                 "to": last, "score": round(score, 3)}
            )  # fmt: skip
        units = [
            f"{unit} ({'high' if sign > 0 else 'low'})" for unit, sign in zip(found.units, found.signs, strict=True)
        ]
        return {"units": units, "spans": spans}

    def edit(self, row: int, at: int, place: int, value: float, target: int = 0) -> dict[str, Any]:
        """The forecast with one input of one step replaced, as the network reads it."""
        one = self._row(row)
        self._check("step", at, len(one.x))
        self._check("input", place, len(one.names))
        self._check("target", target, len(one.targets))
        if not abs(value) <= 1e6:  # nan too
            raise ValueError(f"value is a number, at most a million in size; given {value:g}")
        x = one.x.clone()
        x[at, 0, place] = value
        with self._one_at_a_time:
            chart = self._sequence(row, target, x)
        return chart_json(chart)

    def _sequence(self, row: int, target: int, edited: Any = None) -> Chart:
        """What happened and was forecast; with an edited input, that forecast too."""
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

    def _row(self, row: int) -> OpenForecast:
        self._check("row", row, len(self.opened.origins))
        return self.opened.take([row])

    @staticmethod
    def _check(name: str, value: int, count: int) -> None:
        if not 0 <= value < count:
            raise ValueError(f"{name} is from 0 to {count - 1}; given {value}")
