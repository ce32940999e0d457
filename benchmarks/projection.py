"""tidegate's LSTM layer beside torch's where h is projected to a smaller output (``proj_size``; Sak et al. 2014).

    python -m benchmarks.projection [--seconds S] [--docs PATH]

As ``benchmarks.layer`` measures it, with torch as the only peer: onnxruntime and OpenVINO have no projection.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import torch

from tidegate.benchmark.layer import run, summary
from tidegate.benchmark.peers import Shape

SHAPES = [
    Shape(100, 1, 64, 128, P=64),
    Shape(100, 1, 128, 1024, P=256),
    Shape(100, 32, 64, 128, P=64),
    Shape(100, 32, 256, 512, P=256),
    Shape(365, 256, 32, 256, P=64),
    Shape(128, 16, 512, 1024, P=512),
    Shape(100, 32, 256, 512, D=2, P=128),
]


def document(found: dict) -> str:
    """The page of docs/."""
    rows = {(r["label"], r["mode"], r["peer"]): r for r in found["rows"]}
    lines = [
        "# With a projection",
        "",
        f"Made by `{found['command']}`: `proj_size` P beside torch's, measured as the layer is (`docs/benchmarks.md`). "
        "Operations are 8 H (I + P) + 2 H P a step, row and direction.",
        "",
        *(f"- {k}: {v:.1f}" if isinstance(v, float) else f"- {k}: {v}" for k, v in found["machine"].items()),
        "",
        "| T, B, I, H to P | mode | tidegate, ms | of peak | bfloat16, ms | torch, ms | ratio |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for label, mode, _ in (k for k in rows if k[2] == "tidegate"):
        own, half, torchs = (rows[label, mode, peer] for peer in ("tidegate", "tidegate bf16", "torch"))
        lines.append(
            f"| {label} | {mode} | {own['ms']:.3f} | {own['share']:.0%} | {half['ms']:.3f} | {torchs['ms']:.3f} "
            f"| {torchs['ratio']:.2f} |"
        )
    means = summary(found["rows"])
    at, training = (means["torch", mode] for mode in ("inference", "training"))
    lines += ["", f"Geometric means of the ratios to torch: {at:.2f} at inference, {training:.2f} in training.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring for each shape and mode")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--docs", type=Path, help="write the page of the documentation here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
    found = run(SHAPES, ["torch"], arguments.seconds)
    found["command"] = "python -m benchmarks.projection"
    if arguments.docs:
        arguments.docs.write_text(document(found))


if __name__ == "__main__":
    main()
