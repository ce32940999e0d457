"""Gradients by lag up to 1,000 steps.

python -m experiments.gradients            measure what is missing, then draw
python -m experiments.gradients --draw     the page and the picture from the results alone
"""

from __future__ import annotations

import argparse
import json

import torch

from experiments.gradients.draw import write
from experiments.gradients.measure import CASES, measure
from experiments.gradients.results import RESULTS, read
from tidegate.data.atomic import atomic_write


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.draw:
        for seed in range(asked.seeds):
            for case in CASES:
                found = read()
                if any((r["name"], r["seed"]) == (case.name, seed) for r in found):
                    continue
                found.append(measure(case, seed))
                with atomic_write(RESULTS) as file:
                    file.write("".join(json.dumps(r) + "\n" for r in found).encode())
                print(f"{case.name}, seed {seed}", flush=True)
    write()


if __name__ == "__main__":
    main()
