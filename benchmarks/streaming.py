"""What one step costs beside its kernel and beside torch's layer, alternately in one run.

    python -m benchmarks.streaming [--threads N] [--seconds S] [--compiled]

One row, as many inputs as units, float32, no gradients: medians in microseconds. The kernel's own time is that of
many steps in one call into the library. With ``--compiled`` instead: what small calls cost under ``torch.compile``,
whose guards and dispatch are more than their kernels.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

import tidegate as tg
from benchmarks.layer import machine
from tidegate.ops.interface import STEPS
from tidegate.ops.library import library

UNITS = (64, 128, 256)
STEPS_A_TURN = 200


def kernel(lstm: tg.LSTM) -> Callable[[], object]:
    """As many steps as a turn has, in one call."""
    lib, H = library(), lstm.hidden_size
    if lib is None:
        raise SystemExit("the native kernels are missing, and nothing else streams")
    lstm.step(torch.zeros(1, H))
    call = lstm._plan.joined.raw  # type: ignore[attr-defined]
    calls = ctypes.create_string_buffer(call * STEPS_A_TURN, len(call) * STEPS_A_TURN)
    x, output = torch.randn(1, H), torch.empty(1, H)
    memories = [torch.zeros(STEPS_A_TURN, 1, H) for _ in range(4)]  # h_0, c_0, h_n, c_n of each step
    h_0, c_0, h_n, c_n = (memory.data_ptr() for memory in memories)
    steps = STEPS.pack(
        ctypes.addressof(calls), STEPS_A_TURN, x.data_ptr(), h_0, c_0, 0, output.data_ptr(), h_n, c_n
    )  # fmt: skip
    alive = (calls, x, output, memories)
    return lambda: (lib.step(steps), alive)


def stepped(step: Callable[[], object]) -> Callable[[], object]:
    """A turn of single steps."""

    def run() -> None:
        for _ in range(STEPS_A_TURN):
            step()

    return run


def measure(units: int, seconds: float) -> dict[str, float]:
    """Median microseconds of a step in each way."""
    torch.manual_seed(0)
    lstm, peer = tg.LSTM(units, units).eval(), torch.nn.LSTM(units, units).eval()
    x, row = torch.randn(1, units), torch.randn(1, 1, units)
    state, stream = lstm.initial_state(1), tg.Streamer(lstm)
    pair = (state.h, state.c)
    return medians(
        {
            "kernel": kernel(lstm),
            "Streamer": stepped(lambda: stream.step(x)),
            "step": stepped(lambda: lstm.step(x, state)),
            "torch": stepped(lambda: peer(row, pair)),
        },
        seconds,
    )


def compiled(steps: int, seconds: float) -> dict[str, float]:
    """Median microseconds of a call of so many steps, four rows and 64 units, without and with ``torch.compile``."""
    torch.manual_seed(0)
    x = torch.randn(steps, 4, 64)
    layers = {"tidegate": tg.LSTM(64, 64).eval(), "torch": torch.nn.LSTM(64, 64).eval()}
    runs = {}
    for name, layer in layers.items():
        runs[name] = stepped(partial(layer, x))
        runs[f"{name} compiled"] = stepped(partial(torch.compile(layer), x))
        runs[f"{name} compiled"]()
    return medians(runs, seconds)


def medians(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Microseconds a step of each, in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times[next(iter(runs))]) < 5:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / STEPS_A_TURN * 1e6)
    return {name: statistics.median(spent) for name, spent in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each number of units")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compiled", action="store_true", help="small calls under torch.compile instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in machine().items()))
    if arguments.compiled:
        print("\n| steps | tidegate, us | compiled | torch.nn.LSTM | compiled |\n|---:|---:|---:|---:|---:|")
        with torch.no_grad():
            for steps in (1, 20):
                found = compiled(steps, arguments.seconds)
                print(f"| {steps} | " + " | ".join(f"{value:.0f}" for value in found.values()) + " |", flush=True)
        return
    print("\n| inputs = units | kernel, us | Streamer | step | torch.nn.LSTM | Streamer - kernel | step - kernel |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with torch.no_grad():
        for units in UNITS:
            found = measure(units, arguments.seconds)
            over = [found[name] - found["kernel"] for name in ("Streamer", "step")]
            cells = [*found.values(), *over]
            print(f"| {units} | " + " | ".join(f"{value:.1f}" for value in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
