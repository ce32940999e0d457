"""``docs/long_lag.md`` and its picture, from the results alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from experiments.long_lag import results
from experiments.long_lag.table import CHRONO, PAPER, RNN_RATES, Entry, Row
from experiments.long_lag.text import DEPARTURES, PAGE
from tidegate.data.atomic import atomic_write
from tidegate.tasks.report import markdown_table

matplotlib.use("Agg")
DOCS = Path(__file__).parents[2] / "docs"
BLUE, PALE, RED, GREY = "#1f5fa8", "#7aa5d3", "#c0392b", "#6b6b6b"
Lines = list[dict[str, Any]]


def write_page(folder: Path = results.FOLDER, docs: Path = DOCS) -> None:
    """The page and ``long_lag.png``."""
    with atomic_write(docs / "long_lag.md") as file:
        file.write(page(folder).encode())
    with atomic_write(docs / "long_lag.png") as file:
        file.write(_png(folder))


def page(folder: Path) -> str:
    """The whole page."""
    return PAGE.format(
        table=paper_table(folder),
        solved=_count(folder, solved=True),
        chrono=chrono_table(folder),
        settings=settings_table(),
        rates=", ".join(f"{rate:g}" for rate in RNN_RATES),
        hours=f"{_hours(folder):.1f}",
        missing=_missing(folder),
        departures=DEPARTURES,
    )


def lines(row: Row, folder: Path) -> Lines:
    """The seeds of a row that are finished."""
    key, name = row.task().key, row.setting.name
    return [r for r in results.read(key, folder) if r["setting"] == name and r["seed"] < row.seeds]


def paper_table(folder: Path) -> str:
    """Published figure, ours, and the RNN's, a task a line."""
    header = ["task", "published", "LSTM, chrono", "LSTM, forget bias 1", "RNN, best rate", "wrong of 2,560", "command"]
    made = []
    for key, entry in PAPER.items():
        task = entry.task()
        chrono, one, *rnns = [lines(row, folder) for row in entry.rows()]
        published = "" if task.departs else f"{task.published:,}"
        made.append(
            [
                f"{key}: {task.title}",
                published,
                _verdict(chrono),
                _verdict(one),
                _verdict(best(rnns)),
                _wrong(chrono),
                f"`{entry.command}`",
            ]
        )
    return markdown_table(header, made)


def best(rnns: list[Lines]) -> Lines:
    """Of the learning rates the one that solved most, then the one with the smallest error in the end."""
    return max(rnns, key=lambda found: (_share(found), -_mean_error(found), len(found)), default=[])


def _share(found: Lines) -> float:
    return sum(r["solved"] for r in found) / len(found) if found else -1.0


def _mean_error(found: Lines) -> float:
    errors = [r["recent_mean_error"] for r in found if r["recent_mean_error"] is not None]
    return float(np.mean(errors)) if errors else float("inf")


def _verdict(found: Lines) -> str:
    """Share solved, sequences to solve (median and range), time."""
    if not found:
        return "not run"
    solved = [r["sequences"] for r in found if r["solved"]]
    seconds = float(np.median([r["cpu_seconds"] for r in found]))
    text = f"**{len(solved)} of {len(found)}**"
    if solved:
        text += f", {np.median(solved):,.0f}"
        text += f" ({min(solved):,} to {max(solved):,})" if len(solved) > 1 else ""
    return f"{text}; {_time(seconds)}"


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _wrong(found: Lines) -> str:
    """Median and largest number of fresh sequences wrong after success."""
    wrong = [r["test"]["wrong"] for r in found if r["solved"]]
    if not wrong:
        return ""
    of = {r["test"]["of"] for r in found if r["solved"]}
    note = "" if of == {2560} else f" of {max(of)}"
    return f"{np.median(wrong):g} (at most {max(wrong)}){note}"


def chrono_table(folder: Path) -> str:
    """Loss of the last 2,000 sequences beside the memoryless one."""
    header = ["task", "memoryless", "torch's weights", "forget bias 1", "chrono", "sequences at most", "command"]
    made = []
    for entry in CHRONO.values():
        task: Any = entry.task()
        cells = [_losses(lines(row, folder)) for row in entry.rows()]
        cap = f"{task.published:,}"
        made.append([task.title, f"{task.memoryless:.3g}", *cells, cap, f"`{entry.command}`"])
    return markdown_table(header, made)


def _losses(found: Lines) -> str:
    if not found:
        return "not run"
    losses = [r["recent_mean_error"] for r in found]
    solved = [r["sequences"] for r in found if r["solved"]]
    text = f"{np.median(losses):.2g}"
    return f"{text}; {len(solved)} of {len(found)}" + (f" after {np.median(solved):,.0f}" if solved else "")


def settings_table() -> str:
    """What was set for each task."""
    header = ["task", "criterion", "T_max", "LSTM: rate, batch, seeds", "RNN: batch, seeds", "sequences at most"]
    made = []
    for key, entry in PAPER.items():
        task, rows = entry.task(), entry.rows()
        lstm, rnn = rows[0], rows[-1]
        made.append(
            [
                key,
                task.criterion,
                str(round(task.mean_length)),
                f"{lstm.setting.lr:g}, {lstm.setting.batch}, {lstm.seeds}",
                f"{rnn.setting.batch}, {rnn.seeds}",
                f"{task.published:,}",
            ]
        )
    return markdown_table(header, made)


def _all(folder: Path) -> list[tuple[Row, Lines]]:
    return [(row, lines(row, folder)) for entry in (*PAPER.values(), *CHRONO.values()) for row in entry.rows()]


def _count(folder: Path, solved: bool) -> str:
    return f"{sum(r['solved'] is solved for _, found in _all(folder) for r in found):,}"


def _hours(folder: Path) -> float:
    return sum(r["cpu_seconds"] for _, found in _all(folder) for r in found) / 3600


def _missing(folder: Path) -> str:
    left = sum(row.seeds - len(found) for row, found in _all(folder))
    return "" if not left else f" {left:,} seeds of the table have not been run yet."


def _png(folder: Path) -> bytes:
    """Sequences to solve against the published number, a task a line, a dot a seed."""
    shown = [(key, entry) for key, entry in PAPER.items() if lines(entry.rows()[0], folder)]
    figure, axis = plt.subplots(figsize=(9.5, 0.42 * len(shown) + 1.6), layout="constrained")
    for y, (_, entry) in enumerate(shown):
        task = entry.task()
        if not task.departs:
            axis.plot(task.published, y, "D", color=GREY, ms=7, label="LSTM of 1997 (mean)" if y == 0 else None)
        _dots(axis, entry, folder, y)
    axis.set_yticks(range(len(shown)), [f"{key}  {entry.task().title}" for key, entry in shown])
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("training sequences until the criterion is met")
    axis.set_title("Sequences to solve, every seed; the share solved beside it", loc="left", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#e6e6e6", lw=0.6)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=4)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
    return data.getvalue()


def _dots(axis: Any, entry: Entry, folder: Path, y: int) -> None:
    chrono, one, *rnns = [lines(row, folder) for row in entry.rows()]
    told = []
    kinds = [
        ("LSTM, chrono", chrono, BLUE, -0.18),
        ("LSTM, forget bias 1", one, PALE, 0.0),
        ("RNN", best(rnns), RED, 0.18),
    ]
    for name, found, colour, shift in kinds:
        solved = [r["sequences"] for r in found if r["solved"]]
        axis.plot(
            solved, [y + shift] * len(solved), "o", color=colour, ms=4.5, alpha=0.7, label=name if y == 0 else None
        )
        told.append((f"{len(solved)}/{len(found)}" if found else "–", colour))
    for place, (text, colour) in zip((1.01, 1.11, 1.21), told, strict=True):
        axis.text(place, y, text, color=colour, fontsize=9, va="center", transform=axis.get_yaxis_transform())
