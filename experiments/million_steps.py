"""A million steps in training, inside one gigabyte: ``python -m experiments.million_steps``.

Prints by how much the process grows and how long it takes, forward alone and forward with
backward under ``checkpoint_every`` of a read-out at every step.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time

import torch

import tidegate as tg


def grown(start: int) -> float:
    """Peak resident memory of the process above ``start``, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - start) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--every", type=int, default=1000)
    asked = parser.parse_args()
    torch.manual_seed(0)
    lstm = tg.LSTM(asked.inputs, asked.hidden, checkpoint_every=asked.every)
    head = torch.nn.Linear(asked.hidden, 1)
    head(lstm(torch.randn(10, 1, asked.inputs))[0]).sum().backward()
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    x = torch.randn(asked.steps, 1, asked.inputs)
    print(f"{asked.steps:,} steps, {asked.inputs} inputs, {asked.hidden} units, {os.cpu_count()} cores")
    begun = time.perf_counter()
    with torch.no_grad():
        lstm(x)
    print(f"forward: {time.perf_counter() - begun:.1f} s, the process grew by {grown(start):.2f} GB")
    begun = time.perf_counter()
    output, _ = lstm(x)
    head(output).square().mean().backward()
    print(
        f"forward and backward, memories kept every {asked.every} steps: {time.perf_counter() - begun:.1f} s, "
        f"the process grew by {grown(start):.2f} GB"
    )


if __name__ == "__main__":
    main()
