"""The layer measured beside its peers on the machine at hand; ``tidegate bench`` and ``benchmarks/`` run it."""
