"""What the two jobs of classification share: a training, scored on sequences kept from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

import tidegate as tg
from tidegate.data.sequences import Sequences
from tidegate.tasks.classify_baselines import fit_baselines
from tidegate.tasks.classify_metrics import scores

# The curve's arms: what they start from ("plain" training, or what a user gives), and what they change.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain", {}),
    "defaults": ("base", {}),
    "recipe": ("base", {"recipe": "small-data"}),
    "logistic regression": ("plain", {"baseline": True}),
}


def train_and_score(
    options: dict[str, Any], table: pl.DataFrame, held: Sequences, seed: int, roles: dict[str, Any]
) -> dict[str, float]:
    """Train on a table, in which some sequences may have no label; score on the sequences held back.

    Two options are no fields of the configuration: ``unlabelled`` keeps the sequences without a label,
    ``baseline`` scores logistic regression on summary statistics instead.
    """
    options = dict(options)
    unlabelled, baseline = options.pop("unlabelled", False), options.pop("baseline", False)
    if not unlabelled:
        table = table.filter(pl.col(roles["label"]).is_not_null())
    if baseline:
        options["epochs"] = 1
    model = tg.Classifier(**roles, test=0, seed=seed, **options).fit(table)
    assert held.labels is not None
    codes = np.searchsorted(model.classes_, held.labels.astype(str))
    if not baseline:
        return scores(model.probabilities(held), codes) | {"epochs": len(model.training_.history)}
    parts = []
    for part in ("train", "valid"):
        data = model.kept_part(part)
        parts += [data, np.searchsorted(model.classes_, data.labels.astype(str))]
    return scores(fit_baselines(*parts, len(model.classes_))["logistic regression"](held), codes)
