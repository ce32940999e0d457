"""What a person sees while a model trains."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from tidegate.training.loop import Place


def say(notes: list[str]) -> None:
    """What a person should know before a training starts, a line each on standard error."""
    console = Console(stderr=True)
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


class Progress:
    """A bar with loss, score, speed and time left; a line an epoch where no terminal is.

    The score is named "validation" only where it is of data held out.
    """

    def __init__(self, epochs: int, batches: int, *, held_out: bool = True, enabled: bool = True) -> None:
        self._console = Console(stderr=True)
        self._enabled = enabled
        self._epochs, self._batches = epochs, batches
        self._held_out, self._scored = held_out, "validation" if held_out else "training score"
        self._live = enabled and self._console.is_terminal
        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn(f"loss {{task.fields[loss]:.4f}}  {self._scored} {{task.fields[score]:.4f}}"),
            TextColumn("{task.fields[speed]:.1f} batches/s"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._live,
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=epochs * batches, epoch=1, epochs=epochs, loss=math.nan, score=math.nan, speed=0.0
        )
        self._since: float | None = None
        self._done = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def batch(self, place: Place) -> None:
        """After each batch."""
        self._since = self._since or time.monotonic()
        self._done += 1
        speed = self._done / max(time.monotonic() - self._since, 1e-3)
        self._bar.update(
            self._task,
            completed=place.epoch * self._batches + place.batch,
            epoch=place.epoch + 1,
            loss=place.loss_sum / max(place.weight_sum, 1e-12),
            speed=speed,
        )

    def epoch(self, place: Place, score: float) -> None:
        """After each epoch."""
        self._bar.update(self._task, score=score)
        if self._enabled:
            row = place.history[-1]
            mark = "  best so far" if self._held_out and place.best_epoch == place.epoch + 1 else ""
            self._console.print(
                f"epoch {place.epoch + 1:3d}/{self._epochs}  loss {_shown(row['loss'])}  {self._scored} "
                f"{_shown(score)}  {place.seconds:.0f} s{mark}",
                highlight=False,
            )


def _shown(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"
