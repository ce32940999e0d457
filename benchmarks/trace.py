"""What ``lstm.trace`` costs beside a forward pass of the same layer, alternately in one run.

    python -m benchmarks.trace [--threads N] [--json PATH]

For each shape and way: the median of the times, and the median of the ratios of neighbouring runs. The
forward pass is the one that a user would run in the same place: without gradients for
inference, with them for training. "product" is the way without saved gates (one matrix product for
all steps), on the kernels' forward pass; "reference" is the loop in plain torch and that product.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

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
SECONDS = 1.0
LIMITS = {"inference": 1.3, "training": 1.3, "product": 3.0, "reference": 3.0}


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


def ways(shape: Shape) -> list[str]:
    """How a shape is run; the loop of the reference only where it does not take minutes."""
    return ["inference", "training", "product", *(["reference"] if shape in SLOW else [])]


def row(shape: Shape, way: str) -> dict[str, Any]:
    """One line of the table."""
    torch.manual_seed(0)
    lstm = tg.LSTM(shape.I, shape.H, shape.L, bidirectional=shape.D == 2)
    x = torch.randn(shape.T, shape.B, shape.I)
    off = mock.patch("tidegate.ops.trace._kernel_hands_over", return_value=way not in ("product", "reference"))
    backend = ops.use_backend("reference" if way == "reference" else "native")
    with torch.set_grad_enabled(way == "training"), backend, off:
        forward, trace, ratio = measure(lambda: lstm(x), lambda: lstm.trace(x))
    return {"shape": str(shape), "way": way, "forward": forward, "trace": trace, "ratio": ratio, "limit": LIMITS[way]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write everything measured here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = machine()
    print(", ".join(f"{k}: {v if isinstance(v, str) else round(v)}" for k, v in about.items()))
    print(f"{'T, B, I, H':28} {'way':10} {'forward, ms':>12} {'trace, ms':>10} {'ratio':>6} {'limit':>6}")
    rows = []
    for shape in SHAPES:
        for way in ways(shape):
            found = row(shape, way)
            rows.append(found)
            over = "  above" if found["ratio"] > found["limit"] else ""
            print(
                f"{found['shape']:28} {way:10} {found['forward']:12.2f} {found['trace']:10.2f} "
                f"{found['ratio']:6.2f} {found['limit']:6.1f}{over}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
