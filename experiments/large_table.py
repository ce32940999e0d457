"""Peak memory of training on a table of 2 million rows in 200 series, by the command line.

Makes the Parquet file, trains one epoch on a sample of its windows in a process of its own, and
prints that process's largest resident memory; fails beyond ``--limit``.

    python experiments/large_table.py
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl


def make_table(path: Path, rows: int, series: int) -> None:
    """Hourly waves with noise and one covariate, series after series."""
    rng = np.random.default_rng(0)
    steps = rows // series
    hour = np.tile(np.arange(steps), series)
    start = pl.datetime(2000, 1, 1)
    table = pl.DataFrame({"hour": hour, "known": rng.normal(size=rows), "noise": rng.normal(size=rows)})
    table = table.select(
        name=pl.Series(np.repeat([f"series {k:03d}" for k in range(series)], steps)),
        time=start + pl.duration(hours=pl.col("hour")),
        y=(pl.col("hour") * (2 * np.pi / 24)).sin() * 3 + pl.col("known") + 0.5 * pl.col("noise") + 20,
        known="known",
    )
    table.write_parquet(path)


def main() -> None:
    """Make, train, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--limit", type=float, default=2.0, help="GB of resident memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = f"{folder}/large.parquet"
        make_table(Path(table), args.rows, args.series)
        words = ["train", "forecast", table, "--target", "y", "--time", "time", "--series", "name", "--known", "known"]
        words += ["--epochs", "1", "--windows", "2048", "--hidden-size", "32", "--out", f"{folder}/run"]
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "tidegate", *words], check=True)
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"{args.rows:,} rows in {args.series} series: {seconds:.0f} s, {peak:.2f} GB of memory at most")
    if peak > args.limit:
        sys.exit(f"more than {args.limit} GB")


if __name__ == "__main__":
    main()
