"""What the lens answers of any model: one sequence at a time, computed when it is asked for.

T steps, B sequences, I inputs, H hidden units, D directions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Lock
from typing import Any

import numpy as np
from torch import Tensor

from tidegate.insight.charts import Chart, Line
from tidegate.insight.gap import agreement, ledger_gap
from tidegate.insight.ledger import ledger
from tidegate.insight.match import match
from tidegate.insight.page import as_json, chart_json, time_text
from tidegate.insight.study import gap_steps
from tidegate.insight.trace import trace
from tidegate.insight.window_figures import gates_heat, memory_chart
from tidegate.trace import DIRECTIONS


class Live(ABC):
    """A study's sequences, asked one question at a time. Answers are JSON's own types.

    A task says in a subclass what its sequences are called and what is predicted from them. Layers are
    counted with their directions: the number of a layer is ``layer * D + direction``.

    Parameters
    ----------
    study : Study or SequenceStudy

    Raises
    ------
    ValueError
        By every method, with a sentence, for a row, layer, unit, step or input that is not there.
    """

    words = False  # whether an input that can be edited is a word and no number

    def __init__(self, study: Any) -> None:
        self.study, self.opened, self.control = study, study.trained.opened, study.untrained.opened
        self._one_at_a_time = Lock()  # hooks and modes belong to the one model

    # -- what a task says -------------------------------------------------------------------------

    @abstractmethod
    def names(self) -> list[str]:
        """Of the B sequences, to pick from."""

    @abstractmethod
    def inputs(self) -> list[str]:
        """Of what can be edited at a step."""

    @abstractmethod
    def targets(self) -> list[str]:
        """Of what is predicted."""

    @abstractmethod
    def hints(self) -> dict[str, str]:
        """Of the panel: what is ``shown``, what else is ``asked`` of a moment, how an input is ``read``."""

    @abstractmethod
    def start(self) -> int:
        """The moment that is chosen first."""

    @abstractmethod
    def times(self, row: int) -> np.ndarray:
        """What the T steps of a sequence are called."""

    @abstractmethod
    def _sequence(self, row: int, target: int, edited: Any = None) -> Chart:
        """The sequence with what is predicted; and what is predicted of an edited input (T, 1, I), if any."""

    @abstractmethod
    def _outputs(self, row: int, at: int, target: int) -> list[Chart]:
        """Ledgers of what is predicted at a moment."""

    def _values(self, row: int) -> list[list[Any]]:
        """The inputs at each step, as they can be edited."""
        return [[float(f"{v:.5g}") for v in step] for step in self._row(row).x[:, 0].tolist()]

    def _replaced(self, row: int, at: int, place: int, value: str) -> Tensor:
        """The layer's input (T, 1, I) with one input of one step replaced."""
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not abs(number) <= 1e6:  # nan too
            raise ValueError(f"value is a number, at most a million in size; given {value[:40]!r}")
        x = self._row(row).x.clone()
        x[at, 0, place] = number
        return x

    @abstractmethod
    def _baseline(self, one: Any) -> Tensor:
        """What stands for nothing at each step of one sequence (T, 1, I)."""

    def _lines(self, row: int) -> list[Line]:
        """Marks in the gates' heatmaps."""
        return []

    # -- the questions ----------------------------------------------------------------------------

    def choices(self) -> dict[str, Any]:
        """What can be picked: sequences, layers, units, inputs; and the panel's own words."""
        lstm = self.opened.lstm
        layers = [
            f"{k}, {DIRECTIONS[d]}" if lstm.directions > 1 else str(k)
            for k in range(lstm.num_layers)
            for d in range(lstm.directions)
        ]
        first = self.study.cases[0].row if self.study.cases else 0
        return {
            "rows": self.names(), "first": first, "layers": layers, "layer": len(layers) - lstm.directions,
            "units": lstm.hidden_size, "inputs": self.inputs(), "targets": self.targets(), "start": self.start(),
            "steps": len(self.times(first)), "words": self.words, "hints": self.hints(),
        }  # fmt: skip

    def window(self, row: int, layer: int, target: int = 0) -> dict[str, Any]:
        """A sequence with its prediction, its gates, and its inputs' values."""
        one = self._row(row)
        layer, d = self._layer(layer)
        self._check("target", target, len(self.targets()))
        with self._one_at_a_time:
            traced = trace(one.lstm, one.x).layers[layer]
            chart = self._sequence(row, target)
        times = self.times(row)
        memory = traced.cell[:, 0, d].abs().mean(0)  # (H,)
        order = np.atleast_2d(self.study.trained.orders[layer])[d]
        heat = gates_heat(traced, order, times, "", self._lines(row), direction=d)
        return {
            "times": as_json(times), "names": [t.replace("T", " ") if times.dtype.kind == "M" else t for t in
            time_text(times)], "sequence": chart_json(chart), "gates": chart_json(heat),
            "unit": int(memory.argmax()), "x": self._values(row),
        }  # fmt: skip

    def ledger(self, row: int, layer: int, unit: int, at: int, target: int = 0) -> list[dict[str, Any]]:
        """The ledger of a unit's memory after a step; with that of what is predicted there."""
        one = self._row(row)
        layer, d = self._layer(layer)
        times, T = self.times(row), len(one.x)
        self._check("unit", unit, one.lstm.hidden_size)
        self._check("step", at, T)
        self._check("target", target, len(self.targets()))
        with self._one_at_a_time:
            found = ledger(one.lstm, one.x, [at], layer=layer)
            # As if the sequence ended here, or began here where it is read from the end.
            part = slice(0, at + 1) if d == 0 else slice(at, T)
            read = one.x[part]
            steps = gap_steps(len(read)) if d == 0 else [len(read) - 1 - t for t in gap_steps(len(read))]
            gap = ledger_gap(one.lstm, read, steps, baseline=self._baseline(one)[part], layer=layer)
            entry, erased, replaced = (v[:, 0, d, unit] for v in (gap.entry, gap.erased, gap.replaced))
            agreed = {"erased": agreement(entry, erased), "replaced": agreement(entry, replaced)}
            memory = float(found.memory[0, 0, d, unit])
            charts = [memory_chart(found.entries[0, :, 0, d, unit], times, at, unit, memory, agreed)]
            charts += self._outputs(row, at, target)
        return [chart_json(chart) for chart in charts]

    def matches(self, row: int, layer: int, start: int, end: int, threshold: float = 0.5) -> dict[str, Any]:
        """Units that mark the span from start to end (not included), and where else they are on."""
        self._row(row)
        layer, d = self._layer(layer)
        if not 0.0 < threshold < 100.0:
            raise ValueError(f"threshold is a size of the memory above 0; given {threshold:g}")
        with self._one_at_a_time:
            found = match(
                self.opened.lstm, self.opened.x, (row, start, end), threshold=threshold, layer=layer, direction=d,
                lengths=getattr(self.opened, "lengths", None),
            )  # fmt: skip
        spans = []
        for span, score in list(zip(found.spans, found.scores.tolist(), strict=True))[:30]:
            first, last = time_text(self.times(span.row)[[span.start, span.end - 1]])
            spans.append(
                {"row": span.row, "start": span.start, "end": span.end, "series": self._series(span.row), "from": first,
                 "to": last, "score": round(score, 3)}
            )  # fmt: skip
        units = [
            f"{unit} ({'high' if sign > 0 else 'low'})" for unit, sign in zip(found.units, found.signs, strict=True)
        ]
        return {"units": units, "spans": spans}

    def edit(self, row: int, at: int, place: int, value: str, target: int = 0) -> dict[str, Any]:
        """The prediction with one input of one step replaced, as the network reads it."""
        one = self._row(row)
        self._check("step", at, len(one.x))
        self._check("input", place, len(self.inputs()))
        self._check("target", target, len(self.targets()))
        with self._one_at_a_time:
            chart = self._sequence(row, target, self._replaced(row, at, place, value))
        return chart_json(chart)

    def _series(self, row: int) -> str:
        return self.names()[row]

    def _row(self, row: int) -> Any:
        self._check("row", row, len(self.names()))
        return self.opened.take([row])

    def _layer(self, number: int) -> tuple[int, int]:
        """The layer and the direction that a number stands for."""
        D = self.opened.lstm.directions
        self._check("layer", number, self.opened.lstm.num_layers * D)
        return divmod(number, D)

    @staticmethod
    def _check(name: str, value: int, count: int) -> None:
        if not 0 <= value < count:
            raise ValueError(f"{name} is from 0 to {count - 1}; given {value}")
