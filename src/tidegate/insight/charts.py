"""Figures as plain data, which the page (Plotly) and the PNGs (matplotlib) both draw.

Colours are roles, so that each scheme of light and dark has its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

Colour = Literal["trained", "control", "rnn", "path", "ink", "gain", "loss", "erased", "replaced"]


def quoted(name: object) -> str:
    """A name that comes from the data, as a sentence holds it."""
    return f"“{name}”"


def step_name(step: object) -> str:
    """A step as a sentence holds it: its number, and what is read there if it is a word or a letter."""
    place, _, word = str(step).partition(" ")
    return f"{place} {quoted(word)}" if word else place


@dataclass(frozen=True)
class Mark:
    """One set of points: a line, bars, dots, or a band from ``low`` to ``y``."""

    kind: Literal["line", "bars", "dots", "band"]
    x: np.ndarray
    y: np.ndarray
    name: str
    colour: Colour
    low: np.ndarray | None = None
    dash: bool = False
    strong: float = 1.0  # opacity
    keys: list[str] | None = None  # what a click on each point asks for

    def shape(self) -> Literal["dot", "ring", "diamond"]:
        """Of dots: rings are the larger, and are seen around a dot that covers them."""
        if self.colour == "replaced":
            return "diamond"
        return "ring" if self.colour in ("erased", "control") else "dot"


class Line(NamedTuple):
    """A vertical line at x, with a word beside it."""

    x: object
    text: str


@dataclass(frozen=True)
class Chart:
    """Marks over one pair of axes. Bars of two colours show a sign."""

    title: str
    x: str
    y: str
    marks: list[Mark]
    facts: list[str] = field(default_factory=list)  # sentences below it
    log_y: bool = False
    sideways: bool = False  # bars lie, x holds their names
    lines: list[Line] = field(default_factory=list)
    height: int = 300


class Panel(NamedTuple):
    """One heatmap."""

    name: str
    values: np.ndarray  # (H, n)
    signed: bool
    limit: float

    def ticks(self) -> tuple[list[float], list[str]]:
        """Of the colour bar: both limits and the middle, and how they are written."""
        low = -self.limit if self.signed else 0.0
        values = [low, (low + self.limit) / 2, self.limit]
        return values, [f"{value:.2g}" for value in values]


@dataclass(frozen=True)
class Heat:
    """Heatmaps of the same units over the same time, one above the other."""

    title: str
    x: str
    y: str
    columns: np.ndarray  # (n,) moments
    rows: list[str]  # H
    panels: list[Panel]
    facts: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """One question of the page: title, what to look for, and charts of the trained and the untrained model.

    ``charts`` holds, for each choice of the reader (such as the moment whose ledger is shown), one or two
    charts side by side.
    """

    key: str
    title: str
    hint: str
    charts: dict[str, list[Chart | Heat]]
    chosen: str = ""
    choice: str = ""  # what the reader chooses, such as "forecast of"
    follows: str = ""  # the key of a figure whose clicks choose here

    def shown(self) -> list[Chart | Heat]:
        """The charts of the choice made at first."""
        return self.charts[self.chosen]
