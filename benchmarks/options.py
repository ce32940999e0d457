"""What each option of the layer costs beside the plain call, alternately in one run.

    python -m benchmarks.options [--shape T,B,I,H] [--seconds S] [--json PATH]

Forward (without gradients, random masks drawn) and forward with backward: the median of the times,
their spread (the middle half, as a share of the median), and the ratio to the plain call (median of
the ratios of neighbouring runs) beside the most that it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tidegate as tg
from benchmarks.layer import alternate, machine
from benchmarks.peers import Run, Shape
from tidegate import ops

SHAPE = Shape(128, 32, 128, 128)
MOST = {"lengths, uniform": 0.6, "peephole": 1.6, "layer_norm": 1.6}  # all others 1.2

CONSTRUCTED: dict[str, dict[str, Any]] = {
    "recurrent_dropout": {"recurrent_dropout": 0.3},
    "weight_dropout": {"weight_dropout": 0.3},
    "zoneout": {"zoneout": 0.1},
    "peephole": {"peephole": True},
    "layer_norm": {"layer_norm": True},
}


def calls(shape: Shape) -> dict[str, tuple[tg.LSTM, Callable[[tg.LSTM, torch.Tensor], list[torch.Tensor]]]]:
    """Each option's layer, and the call that yields what is differentiated; the plain call first."""
    generator = torch.Generator().manual_seed(0)
    # Evenly spread over 1 to T, so that half of all steps run: a few rows drawn at random may run far more.
    lengths = torch.linspace(1, shape.T, shape.B).round().long()[torch.randperm(shape.B, generator=generator)]
    full = torch.full((shape.B,), shape.T)
    reset = torch.rand(shape.T, shape.B, generator=generator) < 1 / 20
    h_0 = torch.zeros(1, shape.B, shape.H)

    def cells(lstm: tg.LSTM, x: torch.Tensor) -> list[torch.Tensor]:
        found = ops.lstm_sequence(x, h_0, h_0, lstm.weights(0))
        assert found.cells is not None
        return [found.output, found.cells]

    plain = tg.LSTM(shape.I, shape.H)
    found: dict[str, Any] = {
        "plain": (plain, lambda lstm, x: [lstm(x)[0]]),
        "lengths, uniform": (plain, lambda lstm, x: [lstm(x, lengths=lengths)[0]]),
        "lengths, all T": (plain, lambda lstm, x: [lstm(x, lengths=full)[0]]),
        "reset": (plain, lambda lstm, x: [lstm(x, reset=reset)[0]]),
        "all cells": (plain, cells),
    }
    for name, options in CONSTRUCTED.items():
        found[name] = (tg.LSTM(shape.I, shape.H, **options), lambda lstm, x: [lstm(x)[0]])
    return found


def builds(shape: Shape, backward: bool) -> dict[str, Run]:
    """One run for each option."""
    x = torch.randn(shape.T, shape.B, shape.I).requires_grad_(backward)
    grads = [torch.randn(shape.T, shape.B, shape.H), torch.randn(shape.T, shape.B, 1, shape.H)]

    def build(lstm: tg.LSTM, call: Callable[[tg.LSTM, torch.Tensor], list[torch.Tensor]]) -> Run:
        inputs = [x, *lstm.parameters()]

        def run() -> object:
            with torch.set_grad_enabled(backward):
                found = call(lstm, x)
            if not backward:
                return found
            return torch.autograd.grad(found, inputs, [g.view_as(y) for g, y in zip(grads, found, strict=False)])

        return run

    return {name: build(*entry) for name, entry in calls(shape).items()}


def measure(shape: Shape, seconds: float) -> list[dict[str, Any]]:
    """One row for each option and mode."""
    torch.manual_seed(0)
    rows = []
    for mode in ("forward", "forward and backward"):
        times = alternate(builds(shape, mode != "forward"), seconds)
        for name, spent in times.items():
            median = statistics.median(spent)
            low, _, high = statistics.quantiles(spent, n=4)
            rows.append(
                {
                    "option": name,
                    "mode": mode,
                    "ms": median * 1e3,
                    "spread": (high - low) / median,
                    "ratio": statistics.median([t / own for t, own in zip(spent, times["plain"], strict=True)]),
                    "most": MOST.get(name, 1.0 if name == "plain" else 1.2),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default=",".join(map(str, SHAPE[:4])), help="T,B,I,H")
    parser.add_argument("--seconds", type=float, default=15.0, help="of measuring for each mode")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write everything measured here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = Shape(*map(int, arguments.shape.split(",")))
    facts = machine()
    print(", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()))
    rows = measure(shape, arguments.seconds)
    for mode in dict.fromkeys(row["mode"] for row in rows):
        print(f"\nT, B, I, H = {shape}: {mode}")
        for row in (row for row in rows if row["mode"] == mode):
            verdict = "" if row["option"] == "plain" else f"  of at most {row['most']}"
            verdict += "  ABOVE" if row["ratio"] > row["most"] else ""
            took = f"{row['ms']:9.3f} ms  spread {row['spread']:4.0%}  ratio {row['ratio']:5.2f}"
            print(f"  {row['option']:18} {took}{verdict}")
    if arguments.json:
        command = shlex.join(["python", "-m", "benchmarks.options", *sys.argv[1:]])
        found = {"machine": facts, "shape": shape._asdict(), "rows": rows, "command": command}
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
