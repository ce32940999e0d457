"""The demonstration's tagger over several seeds, each tested on other plays, beside its one-way form and the baseline.

    python -m experiments.tag_seeds --seeds 3           # half an hour on one core
    python -m experiments.tag_seeds --seeds 3 --wide    # also the one-way form with twice the units

Goes on where it stopped. Writes a part of ``docs/tag.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tidegate as tg
from experiments.pages import replace_part
from tidegate.tasks.demos import DEMOS, Demo
from tidegate.tasks.report import markdown_table
from tidegate.tasks.run import METRICS, MODEL

COLUMNS = {
    "accuracy": ("accuracy", 100, 2),
    "macro_f1": ("macro F1", 100, 1),
    "span_f1": ("span F1", 100, 1),
    "log_loss": ("log loss", 1, 4),
}
ONE_WAY, WIDE, BASELINE = "LSTM, one-way", "LSTM, one-way, twice the units", "most frequent of each token"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/tag-seeds"))
    parser.add_argument("--wide", action="store_true", help="also train the one-way form with twice the units")
    arguments = parser.parse_args()
    demo, found = DEMOS["tag"], []
    width = tg.Tagger(**demo.fields).config.hidden_size
    folders = [arguments.out / f"seed-{seed}" for seed in range(arguments.seeds)]
    for seed, folder in enumerate(folders):
        found.append(_scored(demo, folder, demo.compare, seed=seed))
    for seed, folder in enumerate(folders if arguments.wide else []):
        wide = folder.with_name(f"seed-{seed}-wide")
        other = _scored(demo, wide, (), seed=seed, bidirectional=False, hidden_size=2 * width)
        models = found[seed]["models"]
        found[seed]["models"] = {"LSTM": models["LSTM"], WIDE: other["models"][ONE_WAY], **models}
    page = _page(found, arguments.wide)
    print(page)
    replace_part("tag.md", "The tagger, measured", "Case and punctuation of plays", page)


def _scored(demo: Demo, folder: Path, compare: Sequence[str], **fields: Any) -> dict[str, Any]:
    """The scores of one run, trained first where that was not done."""
    if not (folder / METRICS).exists():
        if (folder / MODEL).exists():
            model = tg.Tagger.load(folder)
        else:
            made = tg.Tagger(**demo.fields | fields)
            model = made.fit(demo.data(), folder=folder, resume=True, progress=True)
        model.report(folder, compare=compare, command="python -m experiments.tag_seeds", progress=True)
    return json.loads((folder / METRICS).read_text())


def _page(found: list[dict], wide: bool) -> str:
    rows = []
    for name in found[0]["models"]:
        cells = [name]
        for key, (_, times, digits) in COLUMNS.items():
            values = times * np.array([one["models"][name]["overall"][key] for one in found])
            cells.append(f"{values.mean():.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})")
        rows.append(cells)
    tested = ", ".join(f"{one['test']['steps']:,} words of {one['test']['groups']} plays" for one in found)
    margins = [
        _margin(found, other, key)
        for other in (*[WIDE] * wide, ONE_WAY, BASELINE)
        for key in ("accuracy", "span_f1", "log_loss")
    ]
    control = " *Twice the units* has as many outputs at each step as the bidirectional one." * wide
    marks = _marks(found)
    return f"""Made by `python -m experiments.tag_seeds --seeds {len(found)}{" --wide" * wide}`.

The words of plays in, a hundred at a time, without case and punctuation (see `data/README.md`); which case each has and
which mark follows it out, {len(found[0]["classes"])} labels. Each seed tests on other plays, none of which were seen in
training: {tested}. The mean over {len(found)} seeds, and the range.

{markdown_table(["", *(f"{title} %" if times == 100 else title for title, times, _ in COLUMNS.values())], rows)}

Span F1: each word whose label is not `lower` (small letters, no mark after it) is a span of its own, right if its label
is. *One-way* is the same model reading forwards only.{control}
By how much the bidirectional LSTM is ahead, on the same plays:

{markdown_table(["ahead of", "in", "mean", "each seed"], margins)}

Label by label (F1 %, and how many words have it; the mean over the seeds):

{marks}
"""


def _margin(found: list[dict], other: str, key: str) -> list[str]:
    title, times, digits = COLUMNS[key]
    sign = -1 if key == "log_loss" else 1
    pairs = [[one["models"][name]["overall"][key] for name in ("LSTM", other)] for one in found]
    gaps = [sign * times * (own - theirs) for own, theirs in pairs]
    unit = " points" * (times == 100)
    return [other, title, f"{np.mean(gaps):+.{digits}f}{unit}", ", ".join(f"{gap:+.{digits}f}" for gap in gaps)]


def _marks(found: list[dict]) -> str:
    names = [name for name in found[0]["models"] if name != WIDE]
    labels = [label for label in found[0]["classes"] if label != "lower"]
    rows = []
    for label in labels:
        f1 = [[100 * one["models"][name]["by_class"][label]["f1"] for one in found] for name in names]
        count = np.mean([one["models"]["LSTM"]["by_class"][label]["count"] for one in found])
        rows.append([f"`{label}`", f"{count:,.0f}", *(f"{np.mean(values):.1f}" for values in f1)])
    rows.sort(key=lambda row: -int(row[1].replace(",", "")))
    return markdown_table(["label", "words", *names], rows)


if __name__ == "__main__":
    main()
