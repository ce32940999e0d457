"""How exact tidegate's LSTM layer is beside torch's: the errors of both against float64, in one run.

    python -m benchmarks.accuracy [--quick] [--draws N] [--docs PATH]

Weights as torch draws them, inputs and initial states at random, rounded to the layer's type before they go to all
three. An error is the norm of the difference to float64 over the norm in float64. Gradients are those of the inputs,
both initial states, and all weights and biases. Ratios are tidegate's error over torch's, geometric means over the
draws.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

import tidegate as tg
from tidegate.benchmark.layer import machine
from tidegate.benchmark.peers import QUICK, SHAPES, Shape, layer

MANY = [  # terms of one sum: inputs, units, steps and rows
    Shape(20, 16, 5000, 64),
    Shape(10, 16, 64, 2048),
    Shape(1000, 256, 16, 32),
    Shape(20000, 1, 16, 32),
]


def results(lstm: torch.nn.Module, inputs: list[torch.Tensor], weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output and all gradients of its sum, weighted, by name, in float64."""
    own = next(lstm.parameters()).dtype
    x, *state = leaves = [p.to(own).clone().requires_grad_() for p in inputs]
    output = lstm(x, tuple(state))[0]
    names = ["x", "h_0", "c_0", *(name for name, _ in lstm.named_parameters())]
    gradients = torch.autograd.grad(output, [*leaves, *lstm.parameters()], weight.to(own))
    return {name: p.detach().double() for name, p in zip(["output", *names], [output, *gradients], strict=True)}


def draw(shape: Shape, dtype: torch.dtype, seed: int) -> dict[str, tuple[float, float]]:
    """Errors of tidegate and of torch, by name."""
    torch.manual_seed(seed)
    source = torch.nn.LSTM(shape.I, shape.H, shape.L, bidirectional=shape.D == 2).to(dtype)
    state = shape.L * shape.D, shape.B, shape.H
    inputs = [torch.randn(shape.T, shape.B, shape.I), 0.5 * torch.randn(state), 0.5 * torch.randn(state)]
    inputs = [p.to(dtype) for p in inputs]
    weight = torch.randn(shape.T, shape.B, shape.D * shape.H).to(dtype)
    exact = results(layer(torch.nn.LSTM, shape, source, torch.float64), inputs, weight)
    errors = []
    for lstm in (layer(tg.LSTM, shape, source, dtype), source):
        found = results(lstm, inputs, weight)
        errors.append([((found[name] - p).norm() / p.norm()).item() for name, p in exact.items()])
    return dict(zip(exact, zip(*errors, strict=True), strict=True))


def measure(shapes: list[Shape], draws: int) -> list[dict[str, Any]]:
    """One row for each type and shape."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for shape in shapes:
            drawn = [draw(shape, dtype, seed) for seed in range(draws)]
            ratios = {n: statistics.geometric_mean([d[n][0] / d[n][1] for d in drawn]) for n in drawn[0]}
            own, theirs = (statistics.geometric_mean([d["output"][k] for d in drawn]) for k in (0, 1))
            output = ratios.pop("output")
            worst = max(ratios, key=ratios.__getitem__)
            row = {"type": str(dtype).removeprefix("torch."), "shape": str(shape), "own": own, "torch": theirs}
            row |= {"output": output, "gradients": statistics.geometric_mean(ratios.values())}
            row |= {"worst": ratios[worst], "of": worst}
            rows.append(row)
            print(
                "{type:8}  {shape:40} {own:.2e} {torch:.2e} {output:.2f} {gradients:.2f} {worst:.2f} {of}".format(**row)
            )
    return rows


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each type."""
    lines = []
    for kind in dict.fromkeys(r["type"] for r in rows):
        own = [r for r in rows if r["type"] == kind]
        mean = {k: statistics.geometric_mean([r[k] for r in own]) for k in ("output", "gradients")}
        most = {k: max(r[k] for r in own) for k in ("output", "worst")}
        lines.append(
            f"{kind}: outputs err {mean['output']:.2f} times as much as torch's (geometric mean; at most "
            f"{most['output']:.2f}), gradients {mean['gradients']:.2f} times (at most {most['worst']:.2f})."
        )
    return lines


def document(command: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The page of docs/."""
    return "\n".join(
        [
            "# How exact the layer is",
            "",
            f"Made by `{command}`, which says what is measured: the errors of tidegate and of torch against float64.",
            "",
            *(f"- {k}: {v}" for k, v in about.items()),
            "",
            *summary(rows),
            "",
            "| type | T, B, I, H | outputs, tidegate | outputs, torch | ratio | gradients, ratio | the largest |",
            "|---|---|---:|---:|---:|---:|---|",
            *(
                "| {type} | {shape} | {own:.1e} | {torch:.1e} | {output:.2f} | {gradients:.2f} "
                "| {worst:.2f}, `{of}` |".format(**r)
                for r in rows
            ),
            "",
            "What keeps the errors small is in `native/README.md`, beside the drawing of a tile.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four shapes")
    parser.add_argument("--draws", type=int, default=3, help="of weights and inputs")
    parser.add_argument("--docs", type=Path, help="write the page of the documentation here")
    arguments = parser.parse_args()
    rows = measure(QUICK if arguments.quick else SHAPES + MANY, arguments.draws)
    print(*summary(rows), sep="\n")
    if arguments.docs:
        about = {k: v for k, v in machine().items() if "peak" not in k}
        arguments.docs.write_text(document("python -m benchmarks.accuracy --docs docs/accuracy.md", about, rows))


if __name__ == "__main__":
    main()
