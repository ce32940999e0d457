"""Parts of ``docs/small_data.md`` and its picture, from the results alone."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from experiments.learning_curves import classify, forecast, text, watch
from experiments.learning_curves.results import read
from experiments.pages import DOCS, replace_part
from tidegate.data.atomic import atomic_write
from tidegate.tasks.report import markdown_table
from tidegate.training.recipes import SMALL_DATA

HEADING = "Little data"
JOBS: dict[str, tuple[ModuleType, str]] = {
    "classify": (classify, "Measured: the stress of words"),
    "watch": (watch, "Measured: exercises by a watch"),
    "forecast": (forecast, "Measured: tomorrow's temperature"),
    "text": (text, "Measured: plays"),
}
COLOURS = {"plain": "#6b6b6b", "defaults": "#c0392b", "recipe": "#1f5fa8", "logistic regression": "#2e8b57"}
Scores = dict[int, float]  # by seed


def write() -> None:
    """The parts whose results are there, and the picture."""
    for job, (of, title) in JOBS.items():
        if read(job):
            replace_part("small_data.md", HEADING, title, section(job, of))
    with atomic_write(DOCS / "small_data.png") as file:
        file.write(_png())


def pick(job: str, study: str, arm: str, size: float, score: str) -> Scores:
    """A score of every seed of an arm at a size."""
    return {
        one["seed"]: one[score]
        for one in read(job)
        if (one["study"], one["arm"], one["size"]) == (study, arm, size) and score in one
    }


def paired(a: Scores, b: Scores) -> tuple[float, float, float]:
    """Mean of a - b over the seeds of both, and its 95% interval (Student's t)."""
    seeds = sorted(set(a) & set(b))
    difference = np.array([a[s] - b[s] for s in seeds])
    if len(seeds) < 2:
        return float(difference.mean()) if len(seeds) else float("nan"), float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(seeds) - 1) * difference.std(ddof=1) / np.sqrt(len(seeds)))
    return float(difference.mean()), float(difference.mean() - half), float(difference.mean() + half)


def section(job: str, of: ModuleType) -> str:
    """Everything on one job."""
    curve = [_curve(job, of), _half(job, of)] if any(one["study"] == "curve" for one in read(job)) else []
    return "\n\n".join(part for part in [of.ABOUT, *curve, _cost(job, of), _chosen(job, of)] if part)


def _cost(job: str, of: ModuleType) -> str:
    """What a training of each arm costs."""
    found = {arm: pick(job, "cost", arm, of.ABLATED, "cpu_seconds").values() for arm in of.ARMS}
    listed = ", ".join(f"*{arm}* {np.mean(list(values)):.0f}" for arm, values in found.items() if values)
    said = f"Seconds of one processor that a training with {of.shown(of.ABLATED)} takes: {listed}"
    return f"{said} (`python -m experiments.learning_curves {job} --study cost --seeds 1`)." if listed else ""


def _missing(job: str, of: ModuleType) -> str:
    """What of the curve has not been run."""
    first = next(iter(of.SCORES))
    counts = {(arm, size): len(pick(job, "curve", arm, size, first)) for arm in of.ARMS for size in of.SIZES}
    listed = [f"*{arm}* with {of.shown(size)} {of.SEEDS - n}" for (arm, size), n in counts.items() if n < of.SEEDS]
    return f"Not run yet, of {of.SEEDS} seeds each: {', '.join(listed)}." if listed else ""


def _curve(job: str, of: ModuleType) -> str:
    """Scores by size, and what the arms differ from plain training by."""
    first = next(iter(of.SCORES))
    counts = [len(pick(job, "curve", arm, size, first)) for arm in of.ARMS for size in of.SIZES]
    counts = [count for count in counts if count]
    low, high = min(counts), max(counts)
    seeds = f"{high} seeds" if low == high else f"{low} to {high} seeds, as many as have been run"
    parts = [
        f"`python -m experiments.learning_curves {job} --study curve`: mean and standard deviation over {seeds}; "
        "below, the paired difference from plain training over the seeds of both, with its 95% interval."
    ]
    for score, name in of.SCORES.items():
        rows, differences = [], []
        for arm in of.ARMS:
            found = [pick(job, "curve", arm, size, score) for size in of.SIZES]
            if not any(found):
                continue
            rows.append([arm, *(_mean(values) for values in found)])
            if arm != "plain":
                plain = [pick(job, "curve", "plain", size, score) for size in of.SIZES]
                pairs = (paired(a, b) for a, b in zip(found, plain, strict=True))
                differences.append([f"{arm} − plain", *(_interval(*pair) for pair in pairs)])
        header = [name, *(of.shown(size) for size in of.SIZES)]
        parts.append(markdown_table(header, rows + differences))
    if missing := _missing(job, of):
        parts.insert(1, missing)
    return "\n\n".join(parts)


def _half(job: str, of: ModuleType) -> str:
    """Does the recipe with half of the data reach plain training's score with all of them?"""
    score, name = next(iter(of.SCORES.items()))
    half, whole = of.SIZES[-2:]
    sentences = []
    for arm in of.ARMS:
        found = pick(job, "curve", arm, half, score)
        if arm in ("plain", "logistic regression") or not found:
            continue
        mean, low, high = paired(found, pick(job, "curve", "plain", whole, score))
        verdict = "reached" if mean <= 0 else "not reached"
        if np.isnan(mean):
            continue
        sure = "; the interval holds 0" if low <= 0 <= high else ""
        sentences.append(
            f"- *{arm}* with {of.shown(half)} − plain with {of.shown(whole)}: {_interval(mean, low, high)} "
            f"({verdict}{sure})."
        )
    sentences = sentences or ["- Not run yet."]
    return f"**Plain training's full-data score with half of the data** ({name}; below 0 is better):\n\n" + "\n".join(
        sentences
    )


def _chosen(job: str, of: ModuleType) -> str:
    """The studies that chose, none of which saw the test."""
    score, name = next(iter(of.SCORES.items()))
    size, parts = of.ABLATED, []
    recipe = ", ".join(f"`{key}={value}`" for key, value in SMALL_DATA.get(of.RECIPE, {}).items())
    parts.append(
        f"**How the recipe was chosen** ({recipe or 'nothing'}), with {of.shown(size)}, scored on {of.CHOSEN_ON}."
    )
    studies = {
        "rates": ("learning rate of plain training", f"learning rate {of.RATES[0]:g}"),
        "parts": ("each part alone, beside plain training", "plain"),
        "without": ("the recipe without one of its parts", "recipe"),
    }
    for study, (what, base) in studies.items():
        lines = [one for one in read(job) if one["study"] == study]
        if not lines:
            continue
        reference = pick(job, study, base, size, score)
        rows = []
        for arm in dict.fromkeys(one["arm"] for one in lines):
            found = pick(job, study, arm, size, score)
            difference = "" if arm == base else _interval(*paired(found, reference))
            rows.append([arm, _mean(found), difference])
        seeds = len(reference)
        header = [f"{what}", name, "difference"]
        parts.append(
            f"`python -m experiments.learning_curves {job} --study {study} --seeds {seeds}`\n\n"
            + markdown_table(header, rows)
        )
    return "\n\n".join(parts)


def _mean(values: Scores) -> str:
    found = np.array(list(values.values()))
    if not len(found):
        return "–"
    return f"{found.mean():.3f} ± {found.std(ddof=1):.3f}" if len(found) > 1 else f"{found.mean():.3f}"


def _interval(mean: float, low: float, high: float) -> str:
    if np.isnan(mean):
        return "–"
    return f"{mean:+.3f}" + ("" if np.isnan(low) else f" ({low:+.3f} to {high:+.3f})")


def _png() -> bytes:
    """Score against size, a panel a job: means, and the range of the seeds."""
    jobs = {job: of for job, (of, _) in JOBS.items() if any(one["study"] == "curve" for one in read(job))}
    rows = -(-len(jobs) // 2) or 1
    figure = Figure(figsize=(10, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for k, (job, of) in enumerate(jobs.items()):
        axes: Any = figure.add_subplot(rows, 2, k + 1)
        score, name = next(iter(of.SCORES.items()))
        for arm in of.ARMS:
            found = {size: list(pick(job, "curve", arm, size, score).values()) for size in of.SIZES}
            if not (sizes := [size for size in of.SIZES if found[size]]):
                continue
            mean = [np.mean(found[size]) for size in sizes]
            axes.plot(sizes, mean, "o-", color=COLOURS[arm], label=arm)
            low, high = ([of_(found[size]) for size in sizes] for of_ in (min, max))
            axes.fill_between(sizes, low, high, color=COLOURS[arm], alpha=0.12, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(of.SIZES, [f"{size:g}" for size in of.SIZES])
        axes.minorticks_off()
        axes.set_xlabel(of.UNIT)
        axes.set_ylabel(f"{name} (lower is better)")
        axes.set_title(JOBS[job][1].removeprefix("Measured: "), fontsize=10)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, dpi=110)
    return out.getvalue()
