"""The long-lag tasks, one command.

    python -m experiments.long_lag adding --length 500 --seeds 10
    python -m experiments.long_lag all --jobs 2       the whole table; stop it and start it again at will
    python -m experiments.long_lag quick              one seed of four tasks
    python -m experiments.long_lag report             the page and its pictures, from the results

A finished seed is never run again; one that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from experiments.long_lag import results
from experiments.long_lag.run import Job, run
from experiments.long_lag.table import QUICK, TABLE


def main(words: list[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.long_lag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({entry.command.split()[0] for entry in TABLE.values()})
    parser.add_argument("what", choices=[*names, "all", "quick", "report"])
    parser.add_argument("--length", type=int, help="T, or q of 2c")
    parser.add_argument("--wrong", type=int, choices=(140, 13), help="of multiplication")
    parser.add_argument("--seeds", type=int, help="instead of the row's own number")
    parser.add_argument("--model", choices=("lstm", "rnn"), help="one of the two alone")
    parser.add_argument("--init", help="one way of starting alone, such as 'chrono'")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once, one core each")
    parser.add_argument("--out", type=Path, default=results.FOLDER)
    asked = parser.parse_args(words)
    if asked.what == "report":
        from experiments.long_lag.report import write_page

        write_page(asked.out)
        return
    keys = list(TABLE) if asked.what == "all" else list(QUICK) if asked.what == "quick" else _chosen(asked, parser)
    if asked.what == "quick":
        asked.seeds, asked.model, asked.init = 1, "lstm", "chrono"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        run(_jobs(keys, asked), asked.jobs, asked.out)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from here")


def _chosen(asked: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    found = []
    for key, entry in TABLE.items():
        name, *rest = entry.command.split()
        value = asked.length if "--length" in rest else asked.wrong if "--wrong" in rest else None
        if name == asked.what and (value is None or str(value) == rest[1]):
            found.append(key)
    if not found:
        there = [" ".join(e.command.split()[1:]) for e in TABLE.values() if e.command.split()[0] == asked.what]
        parser.error(f"{asked.what} is in the table with {', '.join(there)}")
    return found


def _jobs(keys: list[str], asked: argparse.Namespace) -> list[Job]:
    jobs = []
    for key in keys:
        for number, row in enumerate(TABLE[key].rows()):
            setting = row.setting
            if asked.model and setting.cell.lower() != asked.model:
                continue
            if asked.init and setting.init != asked.init:
                continue
            jobs += [(key, number, seed) for seed in range(asked.seeds or row.seeds)]
    return [job for job in jobs if not _finished(job, asked.out)]


def _finished(job: Job, folder: Path) -> bool:
    key, number, seed = job
    row = TABLE[key].rows()[number]
    return results.is_there(key, row.setting.name, seed, row.task().published, folder)


if __name__ == "__main__":
    main()
