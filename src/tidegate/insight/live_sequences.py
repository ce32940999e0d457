"""What the lens shows of a model of labels, of sequences or of steps, or of text.

T steps, I inputs, K labels, N prefixes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tidegate.insight.charts import Chart, Colour, Line, Mark, quoted, step_name
from tidegate.insight.figures import CONTROL, TRAINED
from tidegate.insight.live import Live
from tidegate.insight.order import thin
from tidegate.insight.sequence_figures import MARGIN
from tidegate.insight.sequence_study import decision, margin_moment, mean_input
from tidegate.insight.sequences import NONE, OpenSequences
from tidegate.insight.window_figures import share_chart

PREFIXES = 48  # of a sequence, whose labels are shown
MOST = 5  # changed labels that are named


class LiveSequences(Live):
    """The sequences of a :class:`SequenceStudy`, one at a time."""

    def __init__(self, study: Any) -> None:
        super().__init__(study)
        self.words = self.opened.token is not None

    def names(self) -> list[str]:
        return self.opened.rows

    def inputs(self) -> list[str]:
        return ["what is read there"] if self.words else self.opened.names

    def targets(self) -> list[str]:
        return ["the label"]

    def hints(self) -> dict[str, str]:
        read = "One input of the chosen moment, as the network reads it: in standard deviations."
        if self.words:
            read = "Another word, letter or byte in place of the chosen one; \\n and the like for what is not seen."
        shown, asked = "the most likely labels if the sequence ended there", "the sequence's label, whatever the moment"
        if self.opened.tagged:
            shown, asked = "each step's right label, and of the one it is given", "this step's label"
        if self.opened.text:
            read = "Another byte in place of the chosen one; \\n and the like for what is not seen."
            shown, asked = (
                "the byte that comes after each, and of the one foretold",
                "the byte that comes after this one",
            )
        return {"shown": f"The probability, not calibrated, of {shown}.", "asked": f"of {asked}", "read": read}

    def start(self) -> int:
        case = self.study.cases[0] if self.study.cases else None
        if case is not None and case.step is not None:
            return case.step
        return len(self.times(case.row if case is not None else 0)) // 2

    def times(self, row: int) -> np.ndarray:
        return self.opened.steps[row] if len(self.opened.steps[row]) else np.zeros(1, int)

    def _values(self, row: int) -> list[list[Any]]:
        if not self.words:
            return super()._values(row)
        return [[str(name).split(" ", 1)[-1]] for name in self.times(row)]

    def _replaced(self, row: int, at: int, place: int, value: str) -> Tensor:
        if self.opened.token is None:
            return super()._replaced(row, at, place, value)
        found = self.opened.token(value)
        x = self._row(row).x.clone()
        x[at, 0, -len(found) :] = found
        return x

    def _baseline(self, one: Any) -> Tensor:
        return mean_input(one)

    def _outputs(self, row: int, at: int, target: int) -> list[Chart]:
        one, step = self._row(row), at if self.opened.tagged else None
        times, labels = self.times(row), self.opened.labels
        pair = decision(one, step)
        lines = [] if step is None else [Line(times[step], "this step")]
        title = f"{quoted(labels[pair[0]])} over {quoted(labels[pair[1]])}"
        return [
            share_chart(
                margin_moment(model.take([row]), pair, step), f"{side}: ledger of the margin, {title}", "Margin",
                "biases, the head", times, MARGIN, lines, "byte" if one.text else "step",
            )
            for model, side in ((self.opened, TRAINED), (self.control, CONTROL))
        ]  # fmt: skip

    def _sequence(self, row: int, target: int, edited: Any = None) -> Chart:
        one = self._row(row)
        return (self._by_step if one.tagged else self._by_prefix)(one, self.times(row), edited)

    def _by_step(self, one: OpenSequences, times: np.ndarray, edited: Tensor | None) -> Chart:
        """The probability of each step's right label, and of the one that it is given."""
        truth = one.truth[: len(times), 0].numpy()
        before = _probabilities(one, one.x)[:, 0]  # (T, K)
        given, right = ("byte foretold", "byte that comes") if one.text else ("label given", "right label")
        marks = [_line(times, before.max(1), given, "control"), _line(times, _of(before, truth), right, "trained")]
        facts = []
        if edited is not None:
            after = _probabilities(one, edited)[:, 0]
            marks.append(_line(times, _of(after, truth), f"{right}, edited", "rnn"))
            old, new = before.argmax(1), after.argmax(1)
            changed = np.flatnonzero(old != new)
            named = [
                f"{step_name(times[t])}: {quoted(one.labels[new[t]])} instead of {quoted(one.labels[old[t]])}"
                for t in changed[:MOST]
            ]
            what = "foretold bytes" if one.text else "labels"
            facts.append(
                f"The edit changes {len(changed)} of {len(times)} {what}" + "".join(f"; {n}" for n in named) + "."
            )
            size = np.abs(after - before).max(1)
            most = step_name(times[int(size.argmax())])
            facts.append(f"The largest change of a probability: {size.max():.3g}, at {most}.")
        return Chart("", "", "probability", marks, facts)

    def _by_prefix(self, one: OpenSequences, times: np.ndarray, edited: Tensor | None) -> Chart:
        """The probabilities of the likeliest labels if the sequence ended at each of some steps."""
        ends = np.unique(np.linspace(1, len(times), min(len(times), PREFIXES)).round().astype(int))
        before = _prefixes(one, one.x, ends)  # (N, K)
        given = int(before[-1].argmax())
        truth = int(one.truth[0])
        shown = [k for k in np.argsort(-before[-1], kind="stable")[:3].tolist() if k != truth]
        shown = ([truth] if truth != NONE else []) + shown[: 2 if truth != NONE else 3]
        colours: tuple[Colour, ...] = ("trained", "control", "path")
        at = times[ends - 1]
        marks = [
            Mark("line", at, before[:, k], one.labels[k] + (" (right)" if k == truth else ""), colour)
            for k, colour in zip(shown, colours, strict=False)
        ]
        name = quoted(one.labels[given])
        facts = [f"All of it read, it is taken for {name}, with a probability of {before[-1, given]:.3g}."]
        if edited is not None:
            after = _prefixes(one, edited, ends)
            marks.append(Mark("line", at, after[:, given], f"{one.labels[given]}, edited", "rnn"))
            new = int(after[-1].argmax())
            facts.append(
                f"The edit changes the probability of {name} from {before[-1, given]:.3g} to "
                f"{after[-1, given]:.3g}; "
                + ("the label stays." if new == given else f"it is now taken for {quoted(one.labels[new])}.")
            )
        return Chart("", "", "probability", marks, facts)


@torch.no_grad()
def _probabilities(one: OpenSequences, x: Tensor) -> np.ndarray:
    return torch.softmax(one.scores(x).double(), -1).numpy()


@torch.no_grad()
def _prefixes(one: OpenSequences, x: Tensor, ends: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) with so many steps read of a single sequence."""
    lengths = torch.from_numpy(ends)
    return torch.softmax(one.read(one.model, x.expand(-1, len(ends), -1), lengths).double(), -1).numpy()


def _of(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each step's label; nan where there is none."""
    found = probabilities[np.arange(len(labels)), np.maximum(labels, 0)]
    return np.where(labels == NONE, np.nan, found)


def _line(times: np.ndarray, values: np.ndarray, name: str, colour: Colour) -> Mark:
    return Mark("line", *thin(times, values), name, colour)
