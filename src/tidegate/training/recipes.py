"""Recipes: options that go together. How they were chosen and what they are worth: ``docs/small_data.md``."""

from __future__ import annotations

from typing import Any, Literal

Recipe = Literal["none", "small-data"]

# By task: the options that "small-data" sets where the user gives none.
SMALL_DATA: dict[str, dict[str, Any]] = {
    "classify": {
        "least_steps": 600,
        "input_dropout": 0.3,
        "weight_dropout": 0.3,
        "noise": 0.6,
        "pretrain": 20,
        "refit": True,
    },
}


def recipe_options(recipe: Recipe, task: str) -> dict[str, Any]:
    """What a recipe sets for a task.

    Raises
    ------
    ValueError
        If none was measured for it.
    """
    if recipe == "none":
        return {}
    if task not in SMALL_DATA:
        raise ValueError(
            f"the recipe is measured for {' and '.join(SMALL_DATA)} alone; for this task give options one by one; "
            f"given {recipe!r}"
        )
    return SMALL_DATA[task]
