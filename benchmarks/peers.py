"""The shapes and peers of ``tidegate.benchmark``, for the other benchmarks of this folder."""

from tidegate.benchmark.peers import Run, Shape

__all__ = ["Run", "Shape"]
