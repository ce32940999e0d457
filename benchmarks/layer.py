"""tidegate's LSTM layer beside its peers: the front of ``tidegate.benchmark`` for developers.

python -m benchmarks.layer [--quick] [--loops] [--peer torch,onnxruntime,openvino] [--json PATH] [--docs PATH]

As on a processor without AVX-512 (with --peer torch, as others have no such switch):

export TIDEGATE_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

import torch

from benchmarks import loops
from tidegate.benchmark.layer import alternate, document, machine, run, to_json
from tidegate.benchmark.peers import PEERS, QUICK, SHAPES

__all__ = ["alternate", "machine"]

# What limits the instructions of tidegate, oneDNN, MKL and torch.
LIMITS = ["TIDEGATE_ISA", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four shapes, a second each")
    parser.add_argument("--loops", action="store_true", help="also the loops over the steps that users write")
    parser.add_argument("--peer", default="torch", help=f"comma-separated, of {', '.join(PEERS)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads for every peer")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    parser.add_argument("--docs", type=Path, help="write the page of the documentation here")
    arguments = parser.parse_args()
    peers = [p for p in arguments.peer.split(",") if p]
    if unknown := set(peers) - set(PEERS):
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    torch.set_num_threads(arguments.threads)
    found = run(QUICK if arguments.quick else SHAPES, peers, 1.0 if arguments.quick else 8.0)
    measured = ["--quick"] * arguments.quick + ["--loops"] * arguments.loops  # where it is written does not matter
    limits = "".join(f"{name}={shlex.quote(os.environ[name])} " for name in LIMITS if name in os.environ)
    found["command"] = limits + shlex.join(["python", "-m", "benchmarks.layer", "--peer", arguments.peer, *measured])
    if arguments.loops:
        found["loops"] = loops.run()
    if arguments.json:
        arguments.json.write_text(to_json(found))
    if arguments.docs:
        arguments.docs.write_text(document(found) + (loops.document(found["loops"]) if arguments.loops else ""))


if __name__ == "__main__":
    main()
