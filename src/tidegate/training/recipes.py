"""Recipes: options that go together. How they were chosen and what they are worth: ``docs/small_data.md``."""

from __future__ import annotations

from typing import Any, Literal

Recipe = Literal["none", "small-data"]

# By task, and kind of data where it matters: the options that "small-data" sets where the user gives none.
SMALL_DATA: dict[str, dict[str, Any]] = {
    "classify": {
        "input_dropout": 0.3,
        "epochs": 80,
        "patience": 15,
        "refit": True,
    },
    "classify text": {
        "input_dropout": 0.6,
        "epochs": 80,
        "patience": 15,
        "refit": True,
    },
    "forecast": {
        "learning_rate": 0.01,
        "dropout": 0.0,
        "input_dropout": 0.5,
    },
    "text": {
        "learning_rate": 0.016,
        "output_dropout": 0.3,
    },
}


def recipe_options(recipe: Recipe, task: str, kind: str = "") -> dict[str, Any]:
    """What a recipe sets for a task, on data of a kind.

    Raises
    ------
    ValueError
        If none was measured for it.
    """
    if recipe == "none":
        return {}
    if task not in SMALL_DATA:
        raise ValueError(
            f"the recipe is measured for {', '.join(SMALL_DATA)} alone; for this task give options one by one; "
            f"given {recipe!r}"
        )
    return SMALL_DATA.get(f"{task} {kind}", SMALL_DATA[task])
