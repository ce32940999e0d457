"""Learning curves: plain training beside the small-data recipe, on more and more data.

    python -m experiments.learning_curves JOB --study rates|parts|without|cost|curve [--seeds 5] [--arm ARM]
    python -m experiments.learning_curves report

Goes on where it stopped. ``rates``, ``parts`` and ``without`` choose (learning rate; each part alone; the recipe
without each of its parts) and never see the test; ``cost`` counts the seconds of a processor; ``curve`` scores on it.
``report`` writes ``docs/small_data.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from experiments.learning_curves import classify, forecast, text, watch
from experiments.learning_curves.results import add, key, read
from tidegate.tasks import task_class
from tidegate.training.recipes import SMALL_DATA

JOBS: dict[str, ModuleType] = {"classify": classify, "watch": watch, "forecast": forecast, "text": text}
STUDIES = ("rates", "parts", "without", "cost", "curve")
Arm = tuple[str, dict[str, Any], float, str]  # name, options, size, scored on


def arms(job: str, study: str) -> Iterator[Arm]:
    """The trainings of a study, a seed each."""
    of = JOBS[job]
    if study == "rates":
        for rate in of.RATES:
            yield f"learning rate {rate:g}", of.PLAIN | {"learning_rate": rate}, of.ABLATED, "choosing"
    elif study == "parts":
        yield "plain", of.PLAIN, of.ABLATED, "choosing"
        for name, options in of.PARTS.items():
            yield name, of.PLAIN | options, of.ABLATED, "choosing"
    elif study == "without":
        recipe = of.BASE | {"recipe": "small-data"}
        yield "recipe", recipe, of.ABLATED, "choosing"
        yield "defaults", of.BASE, of.ABLATED, "choosing"
        for name in SMALL_DATA.get(of.RECIPE, {}):
            default = task_class(of.TASK).Config.model_fields[name].default
            yield f"without {name}", recipe | {name: default}, of.ABLATED, "choosing"
    elif study == "cost":
        for name, (base, more) in of.ARMS.items():
            yield name, base | more, of.ABLATED, "choosing"
    else:
        for size in of.SIZES:
            for name, (base, more) in of.ARMS.items():
                yield name, base | more, size, "test"


def main() -> None:
    """Train what is missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=[*JOBS, "report"])
    parser.add_argument("--study", choices=STUDIES, default="curve")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arm", action="append", help="Only this one; may be given several times.")
    parser.add_argument("--size", type=float, action="append", help="Only this one; may be given several times.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Start no training after so many.")
    arguments = parser.parse_args()
    if arguments.job == "report":
        from experiments.learning_curves.report import write

        write()
        return
    began = time.monotonic()
    there = {key(record) for record in read(arguments.job)}
    for seed in range(arguments.seeds):
        for name, options, size, scored in arms(arguments.job, arguments.study):
            place = {"study": arguments.study, "arm": name, "size": size, "seed": seed}
            wanted = name in (arguments.arm or [name]) and size in (arguments.size or [size])
            if key(place) in there or not wanted:
                continue
            if time.monotonic() - began > 60 * arguments.minutes:
                raise SystemExit("more to do: run the same command again")
            start, busy = time.monotonic(), time.process_time()
            found = JOBS[arguments.job].run(options, size, seed, scored)
            took = {"seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - busy}
            record = place | found | {name: round(value, 1) for name, value in took.items()}
            add(arguments.job, record)
            print(record, flush=True)


if __name__ == "__main__":
    main()
