"""tidegate's LSTM layer beside torch's on shapes drawn at random, alternately in one run.

    python -m benchmarks.shapes [--count N] [--seed S] [--seconds S] [--docs PATH]

The shapes of ``benchmarks.layer`` were chosen; these were not. Sizes are drawn from those that people use and from
odd and extreme ones, in float32 and, for each fourth shape, bfloat16, with 10^4 to 10^10 operations a call.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from pathlib import Path
from typing import Any

import torch

import tidegate as tg
from benchmarks.layer import alternate, machine
from tidegate.benchmark.peers import Shape, infer, train

STEPS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 100, 128, 256, 512, 1024)
INPUTS = (1, 2, 4, 8, 16, 24, 32, 40, 64, 80, 100, 128, 200, 256, 512, 768, 1024)
UNITS = (1, 2, 4, 8, 10, 16, 20, 24, 32, 40, 48, 50, 64, 80, 96, 100, 128, 150, 200, 256, 300, 384, 512, 650, 768, 1024)
MODES = {"inference": infer, "training": train}
GROUPS = {
    "all": lambda s: True,
    "one row": lambda s: s.B == 1,
    "2 to 15 rows": lambda s: 1 < s.B < 16,
    "16 rows and more": lambda s: s.B >= 16,
    "H up to 4": lambda s: s.H <= 4,
    "H from 8 to 50": lambda s: 8 <= s.H <= 50,
    "H from 64 to 200": lambda s: 64 <= s.H <= 200,
    "H from 256": lambda s: s.H >= 256,
}


def drawn(count: int, seed: int) -> list[tuple[Shape, torch.dtype]]:
    """So many shapes and dtypes, always the same for a seed."""
    choose = random.Random(seed).choice
    found: list[tuple[Shape, torch.dtype]] = []
    while len(found) < count:
        sizes = [choose(sizes) for sizes in (STEPS, ROWS, INPUTS, UNITS)]
        shape = Shape(*sizes, L=choose((1, 1, 1, 2, 3)), D=choose((1, 1, 2)))
        if 1e4 < shape.operations < 1e10:
            found.append((shape, torch.bfloat16 if len(found) % 4 == 3 else torch.float32))
    return found


def measure(shape: Shape, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    """torch's time over tidegate's in both modes, and the median milliseconds."""
    torch.manual_seed(0)
    source = torch.nn.LSTM(shape.I, shape.H, shape.L, bidirectional=shape.D == 2)
    x = torch.randn(shape.T, shape.B, shape.I)
    found: dict[str, Any] = {"shape": shape, "dtype": str(dtype).removeprefix("torch.")}
    for mode, build in MODES.items():
        runs = {
            kind.__module__.split(".")[0]: build(kind, dtype)(shape, source, x) for kind in (tg.LSTM, torch.nn.LSTM)
        }
        times = alternate(runs, seconds)
        found[mode] = statistics.median(b / a for a, b in zip(times["tidegate"], times["torch"], strict=True))
        found[f"{mode} ms"] = {name: statistics.median(spent) * 1e3 for name, spent in times.items()}
    return found


def line(found: dict[str, Any]) -> str:
    """One shape for the screen and for the page."""
    times = [f"{found[mode]:.2f} | {found[f'{mode} ms']['tidegate']:.3f}" for mode in MODES]
    return f"| {found['shape']} | {found['dtype']} | {' | '.join(times)} |"


def groups(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the ratios by kinds of shapes."""
    lines = ["| shapes | number | inference | least | training | least |", "|---|---:|---:|---:|---:|---:|"]
    for name, holds in GROUPS.items():
        inside = [r for r in rows if holds(r["shape"])]
        if not inside:
            continue
        cells = []
        for mode in MODES:
            ratios = [r[mode] for r in inside]
            cells.append(f"{statistics.geometric_mean(ratios):.2f} | {min(ratios):.2f}")
        lines.append(f"| {name} | {len(inside)} | {' | '.join(cells)} |")
    return lines


def document(facts: dict[str, Any], rows: list[dict[str, Any]], command: str) -> str:
    """The page of docs/."""
    slower = [r for r in rows if min(r[mode] for mode in MODES) < 1]
    header = ["| T, B, I, H | dtype | inference | ms | training | ms |", "|---|---|---:|---:|---:|---:|"]
    return "\n".join(
        [
            "# Shapes drawn at random",
            "",
            f"Made by `{command}`. A ratio is torch's time over tidegate's in the same run: above 1, tidegate is "
            "faster. Means are geometric; times are tidegate's. The shapes chosen by hand are on the page of the layer "
            "(`docs/benchmarks.md`).",
            "",
            *(f"- {k}: {v:.1f}" if isinstance(v, float) else f"- {k}: {v}" for k, v in facts.items()),
            "",
            *groups(rows),
            "",
            "## Where torch is faster",
            "",
            *([*header, *map(line, slower)] if slower else ["Nowhere."]),
            "",
            "## All",
            "",
            *header,
            *map(line, rows),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring for each shape and mode, at least")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--docs", type=Path, help="write the page of the documentation here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts, rows = machine(), []
    for shape, dtype in drawn(arguments.count, arguments.seed):
        rows.append(measure(shape, dtype, arguments.seconds))
        print(line(rows[-1]), flush=True)
    print("\n".join(groups(rows)))
    if arguments.docs:
        command = "python -m benchmarks.shapes"
        for name in ("count", "seed", "seconds", "threads"):
            if getattr(arguments, name) != parser.get_default(name):
                command += f" --{name} {getattr(arguments, name)}"
        arguments.docs.write_text(document(facts, rows, command))


if __name__ == "__main__":
    main()
