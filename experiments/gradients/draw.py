"""The picture and the table of ``docs/gradients.md``, from the results alone."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.gradients.measure import CASES, INPUTS, LAG, ROWS, TRAINED_ON, UNITS, Case
from experiments.gradients.results import read
from tidegate.data.atomic import atomic_write
from tidegate.tasks.report import markdown_table

matplotlib.use("Agg")
DOCS = Path(__file__).parents[2] / "docs"
FLOOR = 1e-300  # below it float64 keeps nothing
BLUE, PALE, RED, GREY = "#1f5fa8", "#7aa5d3", "#c0392b", "#6b6b6b"


def write() -> None:
    """``docs/gradients.png`` and ``docs/gradients.md``."""
    found = curves(read())
    _write(_story(found), "gradients.png")
    _write(_more(found), "gradients_more.png")
    with atomic_write(DOCS / "gradients.md") as file:
        file.write(page(found).encode())


Curves = dict[tuple[str, str], np.ndarray]  # (case, "hidden" or "cell" or "memory_path") -> (seeds, lags)


def curves(lines: list[dict]) -> Curves:
    """Norms by case and kind, one row a seed; seeds that are not complete are left out."""
    names = {case.name for case in CASES}
    there = {(line["seed"], line["name"]) for line in lines}
    whole = {seed for seed, _ in there if all((seed, name) in there for name in names)}
    kept: dict[tuple[str, str], list[list[float]]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        if line["seed"] not in whole or line["name"] not in names:
            continue
        for what in ("hidden", "cell", "memory_path"):
            if what in line:
                kept.setdefault((line["name"], what), []).append(line[what])
    return {key: np.array(values) for key, values in kept.items()}


def _story(found: Curves) -> Figure:
    """The idea in one look: what goes on in an RNN, and what in an LSTM."""
    figure, axis = plt.subplots(figsize=(9.0, 4.8), layout="constrained")
    lines = [  # where the label stands: lag, norm
        ("RNN, recurrent weights doubled", "hidden", RED, "-", "RNN, large weights:\nexplodes", (330, 1e14)),
        ("LSTM, chrono, T_max = 1,000", "cell", BLUE, "-", "LSTM (chrono), long-term memory C: stays", (480, 3e1)),
        ("LSTM, chrono, T_max = 1,000", "hidden", BLUE, "--", "LSTM (chrono), short-term memory h", (480, 1e-6)),
        ("LSTM, forget bias 1", "cell", PALE, "-", "LSTM (forget bias 1), C:\nvanishes too", (335, 1e-17)),
        ("RNN, torch's weights", "hidden", RED, "-", "RNN: vanishes", (78, 1e-19)),
    ]
    _panel(
        axis, found, "How much gradient is left, so many steps before the loss?", [l[:5] for l in lines], (1e-20, 1e20)
    )
    axis.get_legend().remove()
    for _, _, colour, _, text, place in lines:
        axis.annotate(text, place, color=colour, fontsize=10, va="center")
    axis.set_ylabel("norm of the gradient\n(1 = at the last step)")
    return figure


def _more(found: Curves) -> Figure:
    """After training, and where the simple story ends."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.0, 4.6), layout="constrained")
    _panel(
        left,
        found,
        "After training on a lag of 1,000",
        [
            ("LSTM, chrono, trained", "cell", BLUE, "-", "LSTM, chrono: C"),
            ("LSTM, chrono, trained", "hidden", BLUE, "--", "LSTM, chrono: h"),
            ("LSTM, forget bias 1, trained", "cell", PALE, "-", "LSTM, forget bias 1: C"),
            ("RNN, torch's weights, trained", "hidden", RED, "-", "RNN: h"),
        ],
        (1e-20, 1e20),
    )
    _panel(
        right,
        found,
        "The other side",
        [
            ("LSTM, forget bias 1, recurrent weights x 6", "cell", BLUE, ":", "LSTM, recurrent weights × 6: C"),
            ("LSTM, chrono, recurrent weights x 8", "cell", BLUE, "--", "LSTM, chrono, recurrent weights × 8: C"),
            ("LSTM, forget bias -2", "cell", BLUE, "-", "LSTM, forget bias −2: C"),
            ("RNN, orthogonal, inputs of size 0.01", "hidden", RED, "-", "RNN, orthogonal, inputs of size 0.01: h"),
            ("RNN, orthogonal, inputs of size 0.1", "hidden", RED, "--", "RNN, orthogonal, inputs of size 0.1: h"),
            ("RNN, orthogonal, inputs of size 1", "hidden", RED, ":", "RNN, orthogonal, inputs of size 1: h"),
        ],
        (1e-20, 1e20),
    )
    left.set_ylabel("norm of the gradient (1 = at the last step)")
    return figure


def _write(figure: Figure, name: str) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    plt.close(figure)
    with atomic_write(DOCS / name) as file:
        file.write(data.getvalue())


def _panel(axis: Axes, found: Curves, title: str, lines: list[tuple[str, ...]], limits: tuple[float, float]) -> None:
    """Median over the seeds, and their range."""
    for name, what, colour, style, label in lines:
        values = np.maximum(found[name, what], FLOOR)
        lags = np.linspace(0, LAG, values.shape[1])
        axis.plot(lags, _median(values), style, color=colour, label=label, lw=2)
        axis.fill_between(lags, values.min(0), values.max(0), color=colour, alpha=0.12, lw=0)
    axis.set_yscale("log")
    axis.set_ylim(*limits)
    axis.set_xlim(0, LAG)
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.legend(frameon=False, fontsize=8.5, loc="upper right")
    axis.grid(color="#e6e6e6", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("steps back from the loss")


def page(found: Curves) -> str:
    """The table, with what it says in words."""
    titles = {
        "start": "At the start",
        "trained": "After training",
        "RNN": "Vanilla RNN, orthogonal weights, no bias",
        "gates": "LSTMs whose gradient vanishes or explodes",
    }
    parts = []
    for group, title in titles.items():
        rows = [_row(case, found) for case in CASES if case.group == group]
        parts.append(f"## {title}\n\n{markdown_table(HEADER, rows)}")
    seeds = min(len(values) for values in found.values())
    return TEXT.format(
        seeds=seeds,
        lag=f"{LAG:,}",
        steps=f"{LAG + 1:,}",
        inputs=INPUTS,
        units=UNITS,
        rows=ROWS,
        trained=f"{TRAINED_ON:,}",
        tables="\n\n".join(parts),
        cell=_at(found["LSTM, chrono, T_max = 1,000", "cell"]),
        hidden=_at(found["LSTM, chrono, T_max = 1,000", "hidden"]),
        tiny=_at(found["RNN, orthogonal, inputs of size 0.01", "hidden"]),
        unit=_at(found["RNN, orthogonal, inputs of size 1", "hidden"]),
        closed=_at(found["LSTM, forget bias 1", "cell"]),
        growth=_at(found["LSTM, chrono, recurrent weights x 8", "cell"]),
    )


HEADER = [
    "",
    "dL/dh, lag 100",
    "dL/dh, lag 1,000",
    "dL/dC, lag 100",
    "dL/dC, lag 1,000",
    "by the memory alone, lag 1,000",
]


def _row(case: Case, found: Curves) -> list[str]:
    cells = [case.name if case.group == "RNN" or case.scale == 1.0 else f"{case.name}, inputs of size {case.scale:g}"]
    for what, lag in (("hidden", 100), ("hidden", LAG), ("cell", 100), ("cell", LAG), ("memory_path", LAG)):
        values = found.get((case.name, what))
        cells.append("" if values is None else _at(values, lag))
    return cells


def _median(values: np.ndarray) -> np.ndarray:
    """Over the seeds, of the logarithms: between 1e-60 and 1e-80 lies 1e-70."""
    return np.exp(np.median(np.log(np.maximum(values, FLOOR / 10)), 0))


def _at(values: np.ndarray, lag: int = LAG) -> str:
    """Median over the seeds."""
    value = float(_median(values[:, lag * (values.shape[1] - 1) // LAG]))
    return "< 1e-300" if value < FLOOR else f"{value:.2g}"


TEXT = """# Where the gradient goes

Made by `python -m experiments.gradients --seeds {seeds}`; nothing on this page is typed by hand.

![Gradient by lag](gradients.png)

The loss is the sum of the last h; the norm of its gradient by an earlier h or C is divided by the one at the last
step. {units} units, {inputs} inputs, float64, {rows} sequences of {steps} steps, medians over {seeds} seeds (the
pictures shade their range). Inputs are Gaussian of size 1 where nothing else is said.

In a vanilla RNN the gradient passes the same weights and a tanh at every step, so it shrinks or grows geometrically.
On the memory of an LSTM it passes the forget gates alone, and where these start near one (`tg.init.chrono`) a share of
{cell} is left after {lag} steps. The output h has no such path: what reaches an h that far back ({hidden}) came by way
of C and entered through the gates once, which costs its factor once and not at every step.

![After training, and the other side](gradients_more.png)

{tables}

*After training*: {trained} sequences of task 2c with a lag of {lag} steps and 50 distractors (`docs/long_lag.md`); the
gradient is that of the end of such sequences.

## What the simple story leaves out

- **An RNN need not forget.** With orthogonal weights and no bias only the tanh shrinks the gradient, by the size of h:
  inputs of 0.01 leave {tiny} after {lag} steps, inputs of 1 leave {unit}. It is the signal that has to be tiny.
- **An LSTM need not remember.** The path along C is as good as the forget gates are. With a bias of 0 or 1 they
  stand between a half and three quarters, and a product of {lag} of them is nothing ({closed} with bias 1); training
  opens them only where some gradient arrives.
- **An LSTM can explode.** C passes on by the memory alone (last column), and also by way of h and the gates of the
  next step. With large recurrent weights that second way grows geometrically whatever the forget gates do: to
  {growth} with chrono and recurrent weights of size 8. Clipping the gradient is for this.
"""
