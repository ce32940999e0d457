"""What a call takes that comes after a pause, as those of sensors, of sound and of services do, beside torch's layer.

    python -m benchmarks.pauses [--threads N] [--seconds S] [--busy P] [--pauses MS,MS]

float32, no gradients, both layers in turn, each after a pause of its own: medians, and the time that one call in twenty
exceeds, in microseconds. Threads sleep in a long pause, and caches are not what they were. With ``--busy``, so many
processes compute beside it all the time, as on a machine that others use too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import torch

import tidegate as tg
from benchmarks.layer import machine
from benchmarks.peers import Shape

PAUSES = "0,1,5,30,100"
SHAPES = (Shape(1, 1, 256, 256), Shape(1, 1, 512, 512), Shape(100, 1, 64, 64), Shape(100, 32, 64, 128))
LEAST = 20  # calls of each


def calls(shape: Shape) -> dict[str, Callable[[], object]]:
    """One call of each layer; of a single step, a stream's."""
    torch.manual_seed(0)
    lstm, peer = tg.LSTM(shape.I, shape.H).eval(), torch.nn.LSTM(shape.I, shape.H).eval()
    x = torch.randn(shape.T, shape.B, shape.I)
    state = lstm.initial_state(shape.B)
    pair = (state.h, state.c)
    own = (lambda: lstm.step(x[0], state)) if shape.T == 1 else (lambda: lstm(x))
    return {"tidegate": own, "torch": lambda: peer(x, pair)}


def measure(shape: Shape, pause: float, seconds: float) -> dict[str, list[float]]:
    """Microseconds of each call, sorted."""
    runs = calls(shape)
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times["torch"]) < LEAST:
        for name, run in runs.items():
            if pause:
                time.sleep(pause)
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e6)
    return {name: sorted(spent) for name, spent in times.items()}


def compute() -> None:
    """Until it is stopped."""
    while True:
        sum(range(1000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each shape and pause")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--busy", type=int, default=0, help="processes beside it")
    parser.add_argument("--pauses", default=PAUSES, help="in milliseconds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in machine().items()))
    start = multiprocessing.get_context("spawn").Process
    others = [start(target=compute, daemon=True) for _ in range(arguments.busy)]
    for other in others:
        other.start()
    print(f"\nbeside {arguments.busy} busy processes" if others else "")
    print("\n| T, B, I, H | pause, ms | tidegate | one in 20 | torch | one in 20 | ratio of medians |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with torch.no_grad():
        for shape in SHAPES:
            for pause in (float(given) / 1e3 for given in arguments.pauses.split(",")):
                found = measure(shape, pause, arguments.seconds)
                medians = [statistics.median(spent) for spent in found.values()]
                rare = [spent[int(0.95 * len(spent))] for spent in found.values()]
                cells = [medians[0], rare[0], medians[1], rare[1]]
                print(
                    f"| {shape} | {pause * 1e3:g} | "
                    + " | ".join(f"{value:.0f}" for value in cells)
                    + f" | {medians[1] / medians[0]:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
