"""tidegate's LSTM layer beside torch's on sequences of many lengths, packed, alternately in one run.

    python -m benchmarks.packed [--seconds S] [--threads N] [--docs PATH]

The same packed sequences in no order of lengths, for both; and, beside them, the same padded with ``lengths``, which
only tidegate takes. Training is forward and all gradients, those of the input included. Ratios are medians of the
ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import tidegate as tg
from benchmarks.layer import alternate, machine
from benchmarks.peers import Run


class Case(NamedTuple):
    """Sequences of these lengths."""

    what: str
    lengths: list[int]
    I: int
    H: int
    L: int = 1
    D: int = 1

    def __str__(self) -> str:
        more = f", {self.L} layers" * (self.L > 1) + ", both directions" * (self.D > 1)
        return f"{len(self.lengths)} of {self.what}, {self.I} to {self.H}{more}"


def evenly(first: int, last: int, rows: int) -> list[int]:
    """Lengths spread evenly."""
    return torch.linspace(first, last, rows).round().long().tolist()


def log_normal(median: float, spread: float, rows: int) -> list[int]:
    """Lengths as those of sentences: the quantiles of a log-normal distribution."""
    at = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    return (median * torch.exp(spread * torch.special.ndtri(at))).ceil().long().tolist()


CASES = [
    Case("50", [50] * 32, 100, 100, 2, 2),
    Case("1 to 100", evenly(1, 100, 32), 64, 128),
    Case("1 to 100", evenly(1, 100, 128), 64, 128),
    Case("1 to 60", evenly(1, 60, 64), 300, 256, 1, 2),
    Case("3 to 150, mostly 20", log_normal(20, 0.8, 64), 100, 100, 2, 2),
    Case("5 to 40", evenly(5, 40, 4), 300, 256),
    Case("20, but one of 2,000", [2000] + [20] * 127, 32, 64),
    Case("5, but one of 8,000", [8000] + [5] * 1000, 16, 32),
]


def runs(case: Case, training: bool) -> dict[str, Run]:
    """What is measured."""
    torch.manual_seed(0)
    order = torch.randperm(len(case.lengths)).tolist()
    packed = pack_sequence([torch.randn(case.lengths[k], case.I) for k in order], enforce_sorted=False)
    packed.data.requires_grad_(training)
    padded, lengths = pad_packed_sequence(packed)
    padded = padded.detach().requires_grad_(training)
    own = tg.LSTM(case.I, case.H, case.L, bidirectional=case.D == 2)
    theirs = torch.nn.LSTM(case.I, case.H, case.L, bidirectional=case.D == 2)
    theirs.load_state_dict(own.state_dict())
    own.train(training), theirs.train(training)

    def build(layer: torch.nn.Module, x: PackedSequence | torch.Tensor, **given: Any) -> Run:
        leaf = x.data if isinstance(x, PackedSequence) else x

        def run() -> object:
            with torch.set_grad_enabled(training):
                output = layer(x, **given)[0]
            if not training:
                return output
            output = output.data if isinstance(output, PackedSequence) else output
            return torch.autograd.grad(output.sum(), [leaf, *layer.parameters()])

        return run

    return {
        "tidegate": build(own, packed),
        "tidegate, padded": build(own, padded, lengths=lengths),
        "torch": build(theirs, packed),
    }


def measure(seconds: float) -> list[dict[str, Any]]:
    """One row for each case and mode."""
    rows = []
    for case in CASES:
        for mode in ("inference", "training"):
            times = alternate(runs(case, mode == "training"), seconds)
            ratio = statistics.median([t / own for t, own in zip(times["torch"], times["tidegate"], strict=True)])
            ms = {name: 1e3 * statistics.median(spent) for name, spent in times.items()}
            rows.append({"case": str(case), "mode": mode, **ms, "ratio": ratio})
            print(
                f"{rows[-1]['case']:60} {mode:10}", "  ".join(f"{k} {v:.3f} ms" for k, v in ms.items()), f"{ratio:.2f}"
            )
    return rows


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means of the ratios to torch, without the cases of one very long sequence."""
    usual = [r for r in rows if "but one" not in r["case"]]
    modes = {mode: [math.log(r["ratio"]) for r in usual if r["mode"] == mode] for mode in ("inference", "training")}
    return {mode: math.exp(statistics.mean(logs)) for mode, logs in modes.items()}


def document(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The page of docs/."""
    mean = means(rows)
    return "\n".join(
        [
            "# Sequences of many lengths",
            "",
            "Made by `python -m benchmarks.packed --docs docs/packed.md`, which says what is measured: a "
            "`PackedSequence` in both layers, and the same sequences padded, with `lengths`.",
            "",
            *(f"- {k}: {v:.1f}" if isinstance(v, float) else f"- {k}: {v}" for k, v in about.items()),
            "",
            "| sequences, I to H | mode | tidegate, ms | padded with `lengths`, ms | torch, ms | torch to tidegate |",
            "|---|---|---:|---:|---:|---:|",
            *(
                f"| {r['case']} | {r['mode']} | {r['tidegate']:.3f} | {r['tidegate, padded']:.3f} | {r['torch']:.3f} "
                f"| {r['ratio']:.2f} |"
                for r in rows
            ),
            "",
            f"Geometric means of the ratios to torch, without the last two (one very long sequence): "
            f"{mean['inference']:.2f} at inference, {mean['training']:.2f} in training.",
            "",
            "Padding costs memory, and the time to fill it, but no arithmetic. A packed sequence that padding would "
            "make more than four times as long, and large, is read in pieces of similar lengths; the kernels give it "
            "the same bits.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring for each case and mode")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--docs", type=Path, help="write the page of the documentation here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = machine()
    print(", ".join(f"{k}: {v if isinstance(v, str) else round(v)}" for k, v in about.items()))
    rows = measure(arguments.seconds)
    print("geometric means:", ", ".join(f"{mode} {value:.2f}" for mode, value in means(rows).items()))
    if arguments.docs:
        arguments.docs.write_text(document(about, rows))


if __name__ == "__main__":
    main()
