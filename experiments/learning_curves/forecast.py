"""Tomorrow's temperature from some weeks of data, drawn from the year; always scored on the same last weeks.

The year is cut in three: weeks to draw training data from, eight weeks to choose by, eight weeks to test on.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl

import tidegate as tg
from tidegate.data import samples
from tidegate.tasks.metrics import scores

SEEDS = 5
SIZES = [4, 8, 16, 32]
ABLATED = 8
SCORES = {"pinball": "mean quantile loss, °F", "mae": "mean absolute error, °F"}
UNIT = "weeks of training data"
CHOSEN_ON = "the eight weeks before the test"
ABOUT = """\
Hourly temperature at three airports: two days in, the next 24 hours out, 32 units, 15 epochs of 2,048 windows at
most. The last eight weeks of the year are the test, whatever the size; the training weeks are one stretch before
the eight weeks that were chosen by, elsewhere in the year each seed, and its last fifth stops the training.
*Plain*: Adam with a learning rate of 0.01 and early stopping, at least 450 steps. *Defaults*: `tg.Forecaster()`
with these settings. The network's own quantiles are scored, without the correction by past errors."""
TASK, RECIPE = "forecast", "forecast"
WEEK = 7 * 24
CHOOSING, TEST = 8, 8  # weeks at the end, one after the other; training data are drawn from those before
LATER = 30  # hours after the training data that no one uses: the estimator wants a last part to leave untouched
HISTORY, HORIZON = 48, 24
ROLES: dict[str, Any] = {
    "target": ["temp"], "time": "time_hour", "series": "origin", "horizon": HORIZON, "history": HISTORY,
    "past": ["dewp", "humid", "wind_speed", "pressure", "precip"],
}  # fmt: skip

STEPS = 450
PLAIN: dict[str, Any] = {
    "hidden_size": 32, "dropout": 0.0, "input_dropout": 0.0, "average": 0.0, "weight_decay": 0.0,
    "learning_rate": 1e-2, "epochs": 15, "patience": 4, "windows": 2_048, "least_steps": STEPS,
}  # fmt: skip
# What a user gives; everything else is the task's default, or the recipe's.
BASE: dict[str, Any] = {"hidden_size": 32, "windows": 2_048, "epochs": 15, "patience": 4}
RATES = [1e-3, 3e-3, 1e-2, 3e-2]
PARTS: dict[str, dict[str, Any]] = {
    "dropout 0.4": {"dropout": 0.4},
    "dropout 0.4, one mask a window": {"dropout": 0.4, "variational": True},
    "input dropout 0.1": {"input_dropout": 0.1},
    "input dropout 0.3": {"input_dropout": 0.3},
    "noise 0.2": {"noise": 0.2},
    "average 0.99": {"average": 0.99},
    "NT-ASGD": {"averaging": "nt-asgd", "patience": 10},
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight dropout 0.3": {"weight_dropout": 0.3},
    "weight dropout 0.5": {"weight_dropout": 0.5},
    "scale 0.3": {"scale": 0.3},
    "pretraining": {"pretrain": 10},
    "steps as they come": {"least_steps": 0},
}


# The curve's arms: what they start from, and what they change.
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (PLAIN, {}),
    "defaults": (BASE, {}),
    "recipe": (BASE, {"recipe": "small-data"}),
}


def shown(size: float) -> str:
    """A size, for people."""
    return f"{size:g} weeks"


@cache
def _table() -> pl.DataFrame:
    return pl.read_parquet(samples.path("nyc_weather"))


def _parts(size: int, seed: int, scored: str) -> tuple[pl.DataFrame, float, pl.DataFrame]:
    """The training data, the share of it that nobody uses, and the table to score on."""
    table = _table()
    hours = table["time_hour"].unique().sort()
    weeks = len(hours) // WEEK
    room = weeks - CHOOSING - TEST - size  # the first week may be any from 0 to this
    first = round(room * ((seed + 0.5) / 5 % 1)) * WEEK
    end = first + size * WEEK + LATER
    mine = table.filter(pl.col("time_hour").is_between(hours[first], hours[min(end, len(hours)) - 1]))
    start = weeks - TEST - (CHOOSING if scored == "choosing" else 0)
    stop = start + (CHOOSING if scored == "choosing" else TEST)
    theirs = table.filter(
        pl.col("time_hour").is_between(hours[start * WEEK - HISTORY - 24], hours[min(stop * WEEK, len(hours)) - 1])
    )
    return mine, LATER / (size * WEEK + LATER), theirs


def run(options: dict[str, Any], size: int, seed: int, scored: str) -> dict[str, float]:
    """Train on some weeks, score every six hours over weeks that were not in them."""
    mine, unused, theirs = _parts(size, seed, scored)
    options = {"validation": 0.2, "test": unused, "seed": seed} | options
    model = tg.Forecaster(**ROLES, **options).fit(mine)
    windows = model.windows_for(theirs)
    start = windows.start + HISTORY + 24  # the table to score on begins so many hours earlier
    origins = windows.origins(start, windows.end, 6)
    quantiles = windows.unscale(model.quantiles(windows, origins), origins.series)
    levels = model.config.quantiles
    found = scores(quantiles, windows.truth(origins), levels, np.ones((len(origins), 1)))
    return {name: found[name] for name in ("mae", "rmse", "pinball", "coverage_80")} | {
        "epochs": len(model.training_.history)
    }
