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
}
