"""The settings of the demonstrations on the embedded samples."""

from __future__ import annotations

from typing import Any

SAMPLE = "nyc_weather"
FORECAST: dict[str, Any] = {
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
}
QUICK: dict[str, Any] = {"epochs": 1, "windows": 512, "history": 48, "hidden_size": 16}
