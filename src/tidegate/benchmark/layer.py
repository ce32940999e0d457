"""tidegate's LSTM layer beside its peers, alternately in one run.

For each shape, at inference and in training: the median of the times, their spread (the middle half,
as a share of the median), the ratio to tidegate (median of the ratios of neighbouring runs), the share
of the processor's FMA peak, measured before and after the shape as clocks change, and the memory that a
first run takes.
"""

from __future__ import annotations

import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import tidegate as tg
from tidegate.benchmark.peers import INFERENCE, TRAINING, Run, Shape
from tidegate.ops.library import library

PAUSE, SETTLE, PEAK = 0.01, 0.03, 0.1  # seconds
PEAKS = {"float32 peak, GF/s": 0, "bfloat16 peak, GF/s": 2}  # and the kernels' numbers of the types


def peaks(seconds: float) -> dict[str, float]:
    """The processor's FMA peaks in GF/s, float32 and bfloat16, from so many seconds each."""
    lib, threads = library(), torch.get_num_threads()
    return {
        name: lib.measure_peak(dtype, threads, seconds) / 1e9 if lib else float("nan") for name, dtype in PEAKS.items()
    }


def machine(seconds: float = 1.0) -> dict[str, Any]:
    """The processor, its FMA peaks (from so many seconds each), and what is measured."""
    lib = library()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = (row.partition(":") for row in reversed(info.read_text().splitlines()))
        found = {key.strip(): value.strip() for key, _, value in pairs}  # of the first processor
        name = found.get("model name", name)
        if {"cpu family", "model"} <= found.keys():  # generations share names
            name += f" (family {found['cpu family']}, model {found['model']})"
    return {
        "processor": name,
        "threads": torch.get_num_threads(),
        "instruction set": lib.isa if lib else "none",
        **peaks(seconds),
        "torch": torch.__version__,
        "tidegate": tg.__version__,
    }


def peak_memory(run: Run) -> float:
    """Bytes by which a run raises the process's resident memory at its highest (Linux; else NaN)."""
    status = Path("/proc/self/status")
    gc.collect()
    if lib := library():
        lib.trim()
    try:
        before = _resident(status, "VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts from here
    except OSError:
        return float("nan")
    run()
    return _resident(status, "VmHWM") - before


def _resident(status: Path, field: str) -> float:
    row = next(row for row in status.read_text().splitlines() if row.startswith(field))
    return float(row.split()[1]) * 1024


def alternate(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Times of each, in turn, for about so many seconds in all and at least five rounds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    first = times[next(iter(runs))]
    stop = time.perf_counter() + seconds
    while len(first) < 5 or (time.perf_counter() < stop and len(first) < 400):
        for name, run in runs.items():
            times[name].append(turn(run))
    return times


def alternate_beside_peaks(runs: dict[str, Run], seconds: float) -> tuple[dict[str, list[float]], dict[str, float]]:
    """``alternate``, and the mean of the ``peaks`` before and after."""
    before = peaks(PEAK)
    times = alternate(runs, seconds)
    after = peaks(PEAK)
    return times, {name: (peak + after[name]) / 2 for name, peak in before.items()}


def turn(run: Run) -> float:
    """The median of up to five runs, once its threads are at work and those of the peer before are not.

    Threads spin for a while after their last work, and of two that have just been woken the system may
    leave both on one processor: for that long a short run takes up to twice its time.
    """
    time.sleep(PAUSE)
    stop = time.perf_counter() + SETTLE
    while time.perf_counter() < stop:
        run()
    spent: list[float] = []
    while not spent or (len(spent) < 5 and sum(spent) < SETTLE):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def measure(shape: Shape, mode: str, peers: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """One row for each peer that can run this shape."""
    torch.manual_seed(0)
    source = torch.nn.LSTM(shape.I, shape.H, shape.L, bidirectional=shape.D == 2, proj_size=shape.P)
    x = torch.randn(shape.T, shape.B, shape.I)
    builds = INFERENCE if mode == "inference" else TRAINING
    runs = {name: builds[name](shape, source, x) for name in ["tidegate", "tidegate bf16", *peers] if name in builds}
    memory = {name: peak_memory(run) for name, run in runs.items()}
    times, peak = alternate_beside_peaks(runs, seconds)
    operations = shape.operations * (1 if mode == "inference" else 3)
    rows = []
    for name, spent in times.items():
        median = statistics.median(spent)
        low, _, high = statistics.quantiles(spent, n=4)
        operations_a_second = peak[f"{'bfloat16' if 'bf16' in name else 'float32'} peak, GF/s"] * 1e9
        rows.append(
            {
                "shape": shape._asdict(),
                "label": str(shape),
                "mode": mode,
                "peer": name,
                "ms": median * 1e3,
                "spread": (high - low) / median,
                "ratio": statistics.median([t / own for t, own in zip(spent, times["tidegate"], strict=True)]),
                "share": operations / median / operations_a_second,
                "memory": memory[name] / 1e6,
            }
        )
    return rows


def run(
    shapes: Sequence[Shape], peers: Sequence[str], seconds: float, report: Callable[[str], Any] = print
) -> dict[str, Any]:
    """Measure shapes for about so many seconds each and report as they come; returns everything measured."""
    facts = machine(min(1.0, seconds))
    report(", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()))
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        for mode in ("inference", "training"):
            report(f"\nT, B, I, H = {shape}: {mode}")
            for row in measure(shape, mode, peers, seconds):
                rows.append(row)
                report(line(row))
    report("")
    for (peer, mode), ratio in summary(rows).items():
        report(f"{peer} takes {ratio:.2f} times tidegate's time at {mode} (geometric mean)")
    return {"machine": facts, "rows": rows}


def line(row: dict[str, Any]) -> str:
    """One measurement for the screen."""
    return (
        f"  {row['peer']:14} {row['ms']:9.3f} ms  spread {row['spread']:4.0%}  ratio {row['ratio']:5.2f}"
        f"  {row['share']:4.0%} of peak  {row['memory']:7.1f} MB"
    )


def to_json(found: dict[str, Any]) -> str:
    """What ``run`` returned; what could not be measured is null."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: known(v) for k, v in value.items()}
        if isinstance(value, list):
            return [known(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(known(found), indent=1, allow_nan=False)


def summary(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Geometric mean of the ratios of each peer and mode."""
    keys = dict.fromkeys((r["peer"], r["mode"]) for r in rows if r["peer"] != "tidegate")
    return {k: statistics.geometric_mean([r["ratio"] for r in rows if (r["peer"], r["mode"]) == k]) for k in keys}


def document(found: dict[str, Any]) -> str:
    """The page of docs/ from what ``run`` returned."""
    facts, rows = found["machine"], found["rows"]
    lines = [
        "# How fast the layer is",
        "",
        f"Made by `{found['command']}`. A ratio is a peer's time over tidegate's float32 time in the same run: "
        "above 1, tidegate is faster. The peak of the FMA units is measured beside each shape too, as clocks change.",
        "",
        *(f"- {k}: {v:.1f}" if isinstance(v, float) else f"- {k}: {v}" for k, v in facts.items()),
        "",
    ]
    for mode in ("inference", "training"):
        lines += [f"## {mode.capitalize()}", "", "| T, B, I, H | peer | ms | spread | ratio | of peak | memory, MB |"]
        lines += ["|---|---|---:|---:|---:|---:|---:|"]
        lines += [
            f"| {r['label']} | {r['peer']} | {r['ms']:.3f} | {r['spread']:.0%} | {r['ratio']:.2f} "
            f"| {r['share']:.0%} | {r['memory']:.1f} |"
            for r in rows
            if r["mode"] == mode
        ]
        means = [f"{p} {ratio:.2f}" for (p, m), ratio in summary(rows).items() if m == mode]
        lines += ["", f"Geometric mean of the ratios: {', '.join(means)}.", ""]
        batched = [r for r in rows if r["mode"] == mode and r["shape"]["B"] >= 16]
        share = {p: [r["share"] for r in batched if r["peer"] == p] for p in ("tidegate", "torch")}
        if share["torch"]:
            own, theirs = (statistics.geometric_mean(s) for s in share.values())
            lines += [
                f"With 16 rows or more the FMA units are the bound: of their peak tidegate reaches {own:.0%} and torch "
                f"{theirs:.0%} (geometric means), so that the mean ratio to torch could not exceed {1 / theirs:.2f} "
                "there. A single row is bound by how fast the caches give the weights (`native/README.md`).",
                "",
            ]
    return "\n".join(lines)
