"""The demonstration's forecast over several seeds, beside the baselines.

    python -m experiments.forecast_seeds --seeds 3

Prints the scores on the untouched last part as mean and range, writes JSON, and writes the page
``docs/forecast.md`` from it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import tidegate as tg
from tidegate.data import samples
from tidegate.data.atomic import atomic_write
from tidegate.tasks.demos import DEMOS
from tidegate.tasks.report import markdown_table

COLUMNS = {
    "mae": ("MAE °F", 1, 2),
    "rmse": ("RMSE °F", 1, 2),
    "mase": ("MASE", 1, 3),
    "pinball": ("pinball °F", 1, 3),
    "coverage_80": ("in the 80% interval", 100, 1),
}
PAGE = Path(__file__).parents[1] / "docs" / "forecast.md"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/forecast-seeds"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(arguments.seeds):
        model = tg.Forecaster(**DEMOS["forecast"].fields, seed=seed)
        model.fit(samples.path("nyc_weather"), folder=arguments.out / f"seed-{seed}", progress=True)
        found.append(model.evaluate(compare=["rnn"], progress=True))
    (arguments.out / "scores.json").write_text(json.dumps(found, indent=1))
    page = _page(found)
    print(page)
    with atomic_write(PAGE) as file:
        file.write(page.encode())


def _page(found: list[dict]) -> str:
    rows = []
    for name in found[0]["models"]:
        cells = [name]
        for key, (_, times, digits) in COLUMNS.items():
            values = times * np.array([one["models"][name]["overall"][key] for one in found])
            spread = f" ({values.min():.{digits}f} to {values.max():.{digits}f})" if np.ptp(values) else ""
            cells.append(f"{values.mean():.{digits}f}{spread}")
        rows.append(cells)
    header = ["", *(title for title, _, _ in COLUMNS.values())]
    about = found[0]["test"]
    span = f"from {about['first_origin']} to {about['last_origin']} UTC"
    intervals = ", ".join(
        f"{100 * low:.1f}% to {100 * high:.1f}%"
        for low, high in (one["coverage_interval"]["LSTM"]["coverage_80"] for one in found)
    )
    return f"""# The forecaster, measured

Made by `python -m experiments.forecast_seeds --seeds {len(found)}`; nothing on this page is typed by hand.

Hourly weather of the three New York airports in 2013 (see `data/README.md`). The past week in, the temperature of the
next 24 hours out: {about["forecasts"]} forecasts, six hours apart, {span}, none of it seen in
training. The mean over {len(found)} seeds, and the range where the seed matters. Lower is better in all but the last
column, which should be 80%.

{markdown_table(header, rows)}

*uncorrected*: the network's quantiles as they come, before the rolling conformal correction. The baselines have the
quantiles of their training errors. 95% block-bootstrap intervals of the LSTM's coverage, a seed each:
{intervals}.

Ridge sees the same window: every step and input that the LSTM reads, with the penalty chosen on the validation part.
"""


if __name__ == "__main__":
    main()
