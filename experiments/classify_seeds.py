"""Two classifiers over several seeds, each tested on other words or other people, beside the baselines.

    python -m experiments.classify_seeds words --seeds 3    # the demonstration
    python -m experiments.classify_seeds watch --seeds 3

Goes on where it stopped. Each writes its part of ``docs/classify.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tidegate as tg
from experiments.pages import replace_part
from tidegate.data import samples
from tidegate.tasks.demos import DEMOS
from tidegate.tasks.report import markdown_table
from tidegate.tasks.run import METRICS, MODEL

COLUMNS = {"accuracy": ("accuracy", 100, 1), "macro_f1": ("macro F1", 100, 1), "log_loss": ("log loss", 1, 3)}


class Sample(NamedTuple):
    """A set, and what is said of it."""

    data: Path
    fields: dict[str, Any]
    title: str
    about: str
    groups: str


SAMPLES = {
    "words": Sample(
        DEMOS["classify"].data(),
        DEMOS["classify"].fields,
        "The stress of words",
        "The settings of `tidegate demo classify`: the letters of an English word in, which of its three syllables or\n"
        "more is stressed out (see `data/README.md`). Each seed tests on other words, whose first five letters no\n"
        "word in training has",
        "beginnings",
    ),
    "watch": Sample(
        samples.path("shoulder_exercises"),
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
        "Exercises by a watch",
        "Two to four seconds of a watch's sensors in (see `data/README.md`), which of seven exercises it is out. Each\n"
        "seed tests on other people, none of whose sequences were seen in training",
        "people",
    ),
}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sample", choices=SAMPLES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/classify-seeds"))
    arguments = parser.parse_args()
    sample = SAMPLES[arguments.sample]
    found = []
    for seed in range(arguments.seeds):
        folder = arguments.out / f"{arguments.sample}-{seed}"
        if not (folder / MODEL).exists():
            tg.Classifier(**sample.fields, seed=seed).fit(sample.data, folder=folder, resume=True, progress=True)
        if not (folder / METRICS).exists():
            command = f"python -m experiments.classify_seeds {arguments.sample}"
            tg.Classifier.load(folder).report(folder, compare=["shuffled"], command=command, progress=True)
        found.append(json.loads((folder / METRICS).read_text()))
    page = _page(arguments.sample, found)
    print(page)
    replace_part("classify.md", "The classifier, measured", sample.title, page)


def _page(name: str, found: list[dict[str, Any]]) -> str:
    sample, rows = SAMPLES[name], []
    for model in found[0]["models"]:
        cells = [model]
        for key, (_, times, digits) in COLUMNS.items():
            values = times * np.array([one["models"][model]["overall"][key] for one in found])
            cells.append(f"{values.mean():.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})")
        rows.append(cells)
    tested = ", ".join(
        f"{one['test']['sequences']:,} sequences of {one['test']['groups']:,} {sample.groups}" for one in found
    )
    losses = [{model: scores["overall"]["log_loss"] for model, scores in one["models"].items()} for one in found]
    wins = sum(one["LSTM"] < min(loss for model, loss in one.items() if not model.startswith("LSTM")) for one in losses)
    grams = "logistic regression, n-grams" in losses[0]
    return f"""Made by `python -m experiments.classify_seeds {name} --seeds {len(found)}`.

{sample.about}: {tested}.
The mean over {len(found)} seeds, and the range.

{markdown_table(["", "accuracy %", "macro F1 %", "log loss"], rows)}

Seeds on which the LSTM's log loss is below that of every baseline: {wins} of {len(found)}.
*Steps shuffled*: the same model on the same sequences, their steps in random order in training and in testing.
*Logistic regression* reads summary statistics of each sequence{
        ", those of its letters, as one column a letter" if grams else ""
    }{"; *n-grams*: up to four letters on end" if grams else ""}.
"""


if __name__ == "__main__":
    main()
