"""What a finished run leaves for a person: scores, pictures, and a card that explains them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tidegate
from tidegate.tasks.backtest import Backtest, evaluate, table
from tidegate.tasks.forecast_data import missing_covariates
from tidegate.tasks.learner import Report
from tidegate.tasks.pictures import draw_forecasts
from tidegate.tasks.run import CARD, CONFIG, METRICS, MODEL, write_metrics, write_text
from tidegate.training.loop import HISTORY

if TYPE_CHECKING:
    from tidegate.tasks.forecast import Forecaster


def write_report(forecaster: Forecaster, test: Backtest, folder: Path, data: Any, command: str) -> Report:
    """Score the backtest, write ``metrics.json``, pictures and the card."""
    metrics = evaluate(test, forecaster.config.seed)
    write_metrics(folder, metrics)
    pictures = draw_forecasts(test, folder, forecaster.config.cell.upper())
    if data is None:
        write_text(folder / CARD, _card(forecaster, metrics, command))
    panel = test.windows.panel
    names = (MODEL, CONFIG, METRICS, HISTORY, CARD)
    about = metrics["test"]
    sentence = coverage_sentence(metrics, forecaster.config.cell.upper())
    return Report(
        f"{about['forecasts']} forecasts of {about['horizon']} steps on the untouched last part; * is best",
        *table(metrics),
        [sentence] if sentence else [],
        [*panel.notes, *missing_covariates(panel)] if data is not None else [],
        [*(folder / name for name in names if (folder / name).exists()), *pictures],
    )


def coverage_sentence(metrics: dict[str, Any], model: str, interval: str = "coverage_80") -> str | None:
    """How often the stated interval held, with what chance makes of it."""
    share = metrics["models"][model]["overall"].get(interval)
    if share is None:
        return None
    low, high = metrics["coverage_interval"][model][interval]
    percent = interval.split("_")[1]
    verdict = "contains" if low <= int(percent) / 100 <= high else "does not contain"
    return (
        f"{model}: the {percent}% interval held {100 * share:.1f}% of the true values "
        f"(95% block bootstrap {100 * low:.1f}% to {100 * high:.1f}%, which {verdict} {percent}%)."
    )


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Rows of text as a Markdown table."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.strip().replace("|", "\\|") for cell in line) + " |" for line in lines)


def _card(forecaster: Forecaster, metrics: dict[str, Any], command: str) -> str:
    c, test, training = forecaster.resolved_, metrics["test"], forecaster.training_
    covariates = [
        f"{what}: {', '.join(names)}"
        for what, names in (("known ahead", c.known), ("past only", c.past), ("static", c.static))
        if names
    ]
    notes = "\n".join(f"- {note}" for note in forecaster.notes_)
    return f"""# Forecasts of {", ".join(c.target)}

{c.cell.upper()}, {c.num_layers} layer{"s" * (c.num_layers > 1)} of {c.hidden_size} units: reads {c.history} steps of
{test["step"]} and forecasts the next {c.horizon}. Written by tidegate {tidegate.__version__}.

    {command}

## Data

{notes}
- inputs besides the target: {"; ".join([*covariates, "calendar" if forecaster.calendar_ else "no calendar"])}

## Scores on the untouched last part

{test["forecasts"]} forecasts of {test["horizon"]} steps for {test["series"]} series, started from
{test["first_origin"]} to {test["last_origin"]}. The best of each loss is marked. MASE is relative to
the in-sample seasonal naive error (season {test["season"]} steps).

{markdown_table(*table(metrics))}

{coverage_sentence(metrics, c.cell.upper()) or ""}

Trained for {len(training.history)} epochs in {training.seconds:.0f} s; the best was epoch {training.best_epoch}.

Use it: `tidegate predict RUN DATA -o forecasts.csv`, where RUN is this folder.
"""
