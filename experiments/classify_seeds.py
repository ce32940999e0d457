"""The demonstration's classifier over several seeds, each tested on other people, beside the baselines.

    python -m experiments.classify_seeds --seeds 3

Goes on where it stopped. Writes a part of ``docs/classify.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import tidegate as tg
from experiments.pages import replace_part
from tidegate.tasks.demos import DEMOS
from tidegate.tasks.report import markdown_table
from tidegate.tasks.run import METRICS

COLUMNS = {"accuracy": ("accuracy", 100, 1), "macro_f1": ("macro F1", 100, 1), "log_loss": ("log loss", 1, 3)}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/classify-seeds"))
    arguments = parser.parse_args()
    demo, found = DEMOS["classify"], []
    for seed in range(arguments.seeds):
        folder = arguments.out / f"seed-{seed}"
        if not (folder / METRICS).exists():
            model = tg.Classifier(**demo.fields, seed=seed).fit(demo.data(), folder=folder, progress=True)
            model.report(folder, compare=demo.compare, command="python -m experiments.classify_seeds", progress=True)
        found.append(json.loads((folder / METRICS).read_text()))
    page = _page(found)
    print(page)
    replace_part("classify.md", "The classifier, measured", "Exercises by a watch", page)


def _page(found: list[dict]) -> str:
    rows = []
    for name in found[0]["models"]:
        cells = [name]
        for key, (_, times, digits) in COLUMNS.items():
            values = times * np.array([one["models"][name]["overall"][key] for one in found])
            cells.append(f"{values.mean():.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})")
        rows.append(cells)
    tested = ", ".join(f"{one['test']['sequences']} sequences of {one['test']['groups']} people" for one in found)
    wins = sum(
        one["models"]["LSTM"]["overall"]["log_loss"] < one["models"]["logistic regression"]["overall"]["log_loss"]
        for one in found
    )
    return f"""Made by `python -m experiments.classify_seeds --seeds {len(found)}`.

Two to four seconds of a watch's sensors in (see `data/README.md`), which of seven exercises it is out. Each seed tests
on other people, none of whose sequences were seen in training: {tested}.
The mean over {len(found)} seeds, and the range.

{markdown_table(["", "accuracy %", "macro F1 %", "log loss"], rows)}

Seeds on which the LSTM's log loss is below that of logistic regression on summary statistics: {wins} of {len(found)}.
*Steps shuffled*: the same model on the same sequences, their steps in random order in training and in testing.
"""


if __name__ == "__main__":
    main()
