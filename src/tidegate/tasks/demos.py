"""The demonstrations on the embedded samples: their settings, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Demo(NamedTuple):
    """One demonstration of one task."""

    about: str
    data: Callable[[], Path]
    fields: dict[str, Any]
    quick: dict[str, Any]  # instead of these fields, to see that all works
    compare: tuple[str, ...]
    after: Callable[[Any, Path, Path], str]  # uses the trained model; from it, the data and the run folder


def _weather() -> Path:
    from tidegate.data import samples

    return samples.path("nyc_weather")


def _next_day(model: Any, data: Path, folder: Path) -> str:
    from tidegate.data.table import write_table

    path = folder / "next_24_hours.csv"
    write_table(model.predict(data), path)
    return f"The next 24 hours of each airport: {path}"


def _watch() -> Path:
    from tidegate.data import samples

    return samples.path("shoulder_exercises")


def _labels(model: Any, data: Path, folder: Path) -> str:
    from tidegate.data.table import write_table

    path = folder / "labels.csv"
    write_table(model.predict(data), path)
    return f"The label of every sequence, with the probability of each exercise: {path}"


DEMOS = {
    "forecast": Demo(
        "The last week of hourly weather at three airports in, the temperature of the next 24 hours out.",
        _weather,
        {
            "target": ["temp"],
            "time": "time_hour",
            "series": "origin",
            "horizon": 24,
            "history": 168,
            "past": ["dewp", "humid", "wind_speed", "pressure", "precip"],
            "validation": 1 / 6,
            "test": 1 / 6,
            "epochs": 10,
            "windows": 4_096,
        },
        {"epochs": 1, "windows": 512, "history": 48, "hidden_size": 16},
        ("rnn",),
        _next_day,
    ),
    "classify": Demo(
        "Two to four seconds of a watch's motion sensors in, which of seven shoulder exercises it is out; tested on "
        "people that training has not seen.",
        _watch,
        {
            "sequence": "sequence",
            "label": "exercise",
            "time": "step",
            "feature": ["ax", "ay", "az", "wx", "wy", "wz"],
            "group": "subject",
            "validation": 0.2,
            "test": 0.3,
            "hidden_size": 32,
            "dropout": 0.5,
            "noise": 0.6,
            "epochs": 30,
        },
        {"epochs": 10},
        ("shuffled",),
        _labels,
    ),
}
