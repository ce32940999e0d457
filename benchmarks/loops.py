"""The layer beside the loops over the steps that users write, training step included.

    python -m benchmarks.loops [--seconds S]

T steps, B rows, I inputs, H units. Both loops empty the memories where a sequence starts anew: one
calls ``torch.nn.LSTMCell``, the other computes the gates itself and collects them, as ``lstm.trace``
does without a loop. Each has a forward pass and the gradients of x and all weights for a loss on the
output; the collected gates are there to look at.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import tidegate as tg
from tidegate.benchmark.layer import alternate_beside_peaks
from tidegate.benchmark.peers import Run, Shape

SHAPES = [Shape(128, 8, 64, 128), Shape(128, 32, 128, 128), Shape(32, 8, 16, 64)]


def cell_loop(cell: torch.nn.LSTMCell, x: Tensor, reset: Tensor) -> list[Tensor]:
    """Output (T, B, H) of a loop over the cell."""
    h = c = x.new_zeros(x.shape[1], cell.hidden_size)
    keep, outputs = (~reset).to(x.dtype).unsqueeze(2), []
    for x_t, keep_t in zip(x, keep, strict=True):
        h, c = cell(x_t, (h * keep_t, c * keep_t))
        outputs.append(h)
    return [torch.stack(outputs)]


def gate_loop(cell: torch.nn.LSTMCell, x: Tensor, reset: Tensor) -> list[Tensor]:
    """Output and all gates, (T, B, H) each, of a loop that computes them."""
    h = c = x.new_zeros(x.shape[1], cell.hidden_size)
    keep = (~reset).to(x.dtype).unsqueeze(2)
    outputs, collected = [], []
    for x_t, keep_t in zip(x, keep, strict=True):
        sums = F.linear(x_t, cell.weight_ih, cell.bias_ih) + F.linear(h * keep_t, cell.weight_hh, cell.bias_hh)
        i, f, g, o = sums.chunk(4, 1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * (c * keep_t) + i * g
        h = o * c.tanh()
        outputs.append(h)
        collected.append((i, f, g, o))
    return [torch.stack(outputs), *(torch.stack(gate) for gate in zip(*collected, strict=True))]


def traced(lstm: tg.LSTM, x: Tensor, reset: Tensor) -> list[Tensor]:
    """What ``gate_loop`` returns, by ``lstm.trace``."""
    trace = lstm.trace(x, reset=reset)
    layer = trace.layers[0]
    gates = (layer.input, layer.forget, layer.candidate, layer.output)
    return [trace.output, *(gate.squeeze(2) for gate in gates)]


def pair(shape: Shape, gates: bool) -> dict[str, Run]:
    """The loop and tidegate on the same weights, input, resets and output gradients."""
    torch.manual_seed(0)
    cell, lstm = torch.nn.LSTMCell(shape.I, shape.H), tg.LSTM(shape.I, shape.H)
    lstm.load_state_dict({f"{name}_l0": p for name, p in cell.state_dict().items()})
    x = torch.randn(shape.T, shape.B, shape.I, requires_grad=True)
    reset = torch.rand(shape.T, shape.B) < 1 / 20
    grad = torch.randn(shape.T, shape.B, shape.H)

    def step(module: torch.nn.Module, forward: Callable[..., list[Tensor]]) -> Run:
        inputs = [x, *module.parameters()]

        def run() -> list[Tensor]:
            output, *gates = forward(module, x, reset)
            return [*torch.autograd.grad(output, inputs, grad), *gates]

        return run

    plain = lambda lstm, x, reset: [lstm(x, reset=reset)[0]]  # noqa: E731
    ours, theirs = (traced, gate_loop) if gates else (plain, cell_loop)
    return {"tidegate": step(lstm, ours), "loop": step(cell, theirs)}


def run(seconds: float = 4.0, report: Callable[[str], Any] = print) -> list[dict[str, Any]]:
    """Measure every shape and loop; the ratio is the loop's time over tidegate's."""
    rows = []
    for shape in SHAPES:
        for name, gates in (("LSTMCell", False), ("collecting gates", True)):
            runs = pair(shape, gates)
            for own, other in zip(*(call() for call in runs.values()), strict=True):  # type: ignore[call-overload]
                torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)
            times, peak = alternate_beside_peaks(runs, seconds)
            ratio = statistics.median([b / a for a, b in zip(*times.values(), strict=True)])
            own, loop = (statistics.median(t) for t in times.values())
            share = 3 * shape.operations / own / peak["float32 peak, GF/s"] / 1e9
            rows.append({"label": str(shape), "loop": name, "ms": own * 1e3, "loop ms": loop * 1e3, "ratio": ratio})
            rows[-1]["share"] = share
            report(
                f"loop {name:16} {shape!s:18} tidegate {own * 1e3:8.3f} ms ({share:.0%} of peak), "
                f"loop {loop * 1e3:8.3f} ms, ratio {ratio:.1f}"
            )
    return rows


def document(rows: list[dict[str, Any]]) -> str:
    """The part of the page in docs/ on loops."""
    lines = [
        "",
        "## Loops over the steps",
        "",
        "With resets, a training step in all. The loop calls `torch.nn.LSTMCell`, or computes the gates itself and "
        "collects them, as `lstm.trace` does.",
        "",
        "| T, B, I, H | loop | tidegate, ms | of peak | loop, ms | ratio |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['label']} | {r['loop']} | {r['ms']:.3f} | {r['share']:.0%} | {r['loop ms']:.3f} | {r['ratio']:.1f} |"
        for r in rows
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each shape and loop")
    run(parser.parse_args().seconds)


if __name__ == "__main__":
    main()
