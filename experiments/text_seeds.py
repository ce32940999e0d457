"""The demonstration's text model over several seeds, beside Kneser-Ney n-grams and xz.

    python -m experiments.text_seeds --seeds 3

Goes on where it stopped. Writes a part of ``docs/text.md``.
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
from tidegate.tasks.run import METRICS, MODEL
from tidegate.tasks.text_report import COLUMNS


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/text-seeds"))
    arguments = parser.parse_args()
    demo, found, seconds = DEMOS["text"], [], []
    for seed in range(arguments.seeds):
        folder = arguments.out / f"seed-{seed}"
        if not (folder / MODEL).exists():
            model = tg.TextModel(**demo.fields, seed=seed)
            model.fit(demo.data(), folder=folder, resume=True, progress=True)
        model = tg.TextModel.load(folder)
        if not (folder / METRICS).exists():
            model.report(folder, command="python -m experiments.text_seeds", progress=True)
        found.append(json.loads((folder / METRICS).read_text()))
        seconds.append(model.training_.seconds)
    page = _page(found, seconds, model)
    print(page)
    replace_part("text.md", "The text model, measured", "The demonstration", page)


def _page(found: list[dict], seconds: list[float], model: tg.TextModel) -> str:
    rows = []
    for name in found[0]["models"]:
        cells = [name]
        for key in COLUMNS:
            values = np.array([one["models"][name][key] for one in found if name in one["models"]])
            spread = f" ({values.min():.3f} to {values.max():.3f})" if np.ptp(values) else ""
            cells.append(f"{values.mean():.3f}{spread}")
        rows.append(cells)
    c, test = model.resolved_, found[0]["test"]
    ahead = [min(one["ahead"].values(), key=lambda other: other["bits_per_byte"]) for one in found]
    said = ", ".join(f"{one['bits_per_byte']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})" for one in ahead)
    return f"""Made by `python -m experiments.text_seeds --seeds {len(found)}`.

The settings of `tidegate demo text`: ten tragedies of Shakespeare, of which {model.ends_[0]:,} bytes train,
{model.ends_[1] - model.ends_[0]:,} say when to stop, and the last {test["bytes"]:,} ({test["characters"]:,}
characters) are untouched; one layer of {c.hidden_size} units, {c.epochs} epochs at most,
{", ".join(f"{s:.0f}" for s in seconds)} s of training.
Seeds: {len(found)}; the mean, and the range.

{markdown_table(["", *COLUMNS.values()], rows)}

By how many bits per byte the LSTM is ahead of the n-grams, by seed, with 95% block bootstrap: {said}.
"""


if __name__ == "__main__":
    main()
