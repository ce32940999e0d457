"""What ``lstm.trace`` costs beside a forward pass of the same layer, alternately in one run.

    python -m benchmarks.trace [--threads N] [--json PATH] [--page docs/trace.md]

For each shape and way: the median of the times, and the median of the ratios of neighbouring runs. The
forward pass is the one that a user would run in the same place: without gradients for inference, with them for
training, in the same dtype, under the same autocast. In "training", "inference", "lengths" (rows of 1 to T
steps) and "projection" (to H / 2 outputs, at inference) the kernels hand over the gates that they save; with layer
normalisation or in bfloat16 they do so at inference, and in training run once more; a compiled graph takes a copy of
them from one operator. The reference has only the loop in plain torch, and one matrix product for the gates of all
steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import tidegate as tg
from benchmarks.layer import machine
from benchmarks.peers import Shape
from tidegate import ops

SHAPES = [
    Shape(100, 1, 128, 256),
    Shape(100, 32, 64, 128),
    Shape(100, 32, 256, 256),
    Shape(365, 256, 32, 64),
    Shape(365, 64, 32, 256),
    Shape(1000, 1, 128, 512),
    Shape(20000, 1, 16, 128),
    Shape(100, 32, 256, 256, D=2),
    Shape(365, 64, 32, 128, L=2),
]
SLOW = [Shape(100, 32, 64, 128), Shape(365, 64, 32, 256)]
SECONDS = 0.4
HANDED = ("inference", "training", "lengths", "projection")  # the bound is that of the kernels' gates
WAYS = (*HANDED, "bfloat16", "bfloat16 training", "autocast", "layer norm", "layer norm training")
SLOW_WAYS = ("compiled", "reference")


def measure(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float, float]:
    """Median milliseconds of each, run alternately, and the median ratio of the second to the first."""
    for run in (first, second) * 2:
        run()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times[0]) < 5:
        for run, into in zip((first, second), times, strict=True):
            start = time.perf_counter()
            result = run()
            into.append(time.perf_counter() - start)
            del result
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    return 1e3 * statistics.median(times[0]), 1e3 * statistics.median(times[1]), ratio


def ways(shape: Shape) -> tuple[str, ...]:
    """How a shape is run; the loop in plain torch only where it does not take minutes."""
    return WAYS + SLOW_WAYS if shape in SLOW else WAYS


def row(shape: Shape, way: str) -> dict[str, Any]:
    """One line of the table."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"layer_norm": way.startswith("layer norm")}
    if way == "projection":
        options["proj_size"] = shape.H // 2
    dtype = torch.bfloat16 if way.startswith("bfloat16") else torch.float32
    lstm = tg.LSTM(shape.I, shape.H, shape.L, bidirectional=shape.D == 2, dtype=dtype, **options)
    x = torch.randn(shape.T, shape.B, shape.I, dtype=dtype)
    given = {"lengths": torch.linspace(shape.T, 1, shape.B).long()} if way == "lengths" else {}
    forward, trace = lstm.forward, lstm.trace
    if way == "compiled":
        forward, trace = torch.compile(forward), torch.compile(trace)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(way.endswith("training")))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"))
        stack.enter_context(ops.use_backend("reference" if way == "reference" else "native"))
        times = measure(lambda: forward(x, **given), lambda: trace(x, **given))
    limit = 1.3 if way in HANDED else 3.0
    return {
        "shape": str(shape),
        "way": way,
        **dict(zip(("forward", "trace", "ratio"), times, strict=True)),
        "limit": limit,
    }


def page(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    above = [row for row in rows if row["ratio"] > row["limit"]]
    lines = [
        "# What a trace costs",
        "",
        "Written by `python -m benchmarks.trace --page docs/trace.md`, which says what is measured. Machine: "
        + ", ".join(f"{k} {v if isinstance(v, str) else round(v)}" for k, v in about.items())
        + ".",
        "",
        f"{len(above)} of {len(rows)} rows are above their bound: 1.3 where the kernels hand over the gates that they "
        "save, 3 elsewhere.",
        "",
        "| T, B, I, H | way | forward, ms | trace, ms | ratio | bound |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for r in rows:
        ratio = f"**{r['ratio']:.2f}**" if r in above else f"{r['ratio']:.2f}"
        lines.append(
            f"| {r['shape']} | {r['way']} | {r['forward']:.2f} | {r['trace']:.2f} | {ratio} | {r['limit']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--page", type=Path, help="write the table as Markdown here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = machine()
    print(", ".join(f"{k}: {v if isinstance(v, str) else round(v)}" for k, v in about.items()))
    print(f"{'T, B, I, H':28} {'way':20} {'forward, ms':>12} {'trace, ms':>10} {'ratio':>6} {'limit':>6}")
    rows = []
    for shape in SHAPES:
        for way in ways(shape):
            found = row(shape, way)
            rows.append(found)
            over = "  above" if found["ratio"] > found["limit"] else ""
            print(
                f"{found['shape']:28} {way:20} {found['forward']:12.2f} {found['trace']:10.2f} "
                f"{found['ratio']:6.2f} {found['limit']:6.1f}{over}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1))
    if arguments.page:
        arguments.page.write_text(page(about, rows))


if __name__ == "__main__":
    main()
