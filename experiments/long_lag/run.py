"""Run seeds, one after the other or several at once, and keep each result when it is there."""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

from experiments.long_lag import results
from experiments.long_lag.network import Setting
from experiments.long_lag.table import TABLE
from experiments.long_lag.train import train

Job = tuple[str, int, int]  # key of the task, number of the row, seed


def run(jobs: list[Job], at_once: int, folder: Path) -> None:
    """Run the jobs and write each result when it is there."""
    print(f"{len(jobs)} seeds to run", flush=True)
    if at_once == 1:
        for number, job in enumerate(jobs):
            _keep(one(job), folder, number + 1, len(jobs))
        return
    # Spawned, because threads of a forked process do not start in a well-defined state.
    with ProcessPoolExecutor(at_once, get_context("spawn"), _ignore_interrupt) as pool:
        try:
            under_way = [pool.submit(_one_unless_stopped, job) for job in jobs]
            for number, done in enumerate(as_completed(under_way)):
                _keep(done.result(), folder, number + 1, len(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()  # on which a seed under way is saved
            raise


def _ignore_interrupt() -> None:
    """Ctrl-C reaches every process of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_stopped = False


def _one_unless_stopped(job: Job) -> dict:
    global _stopped
    if _stopped:  # one more job may lie in this process's queue
        raise KeyboardInterrupt
    try:
        return one(job)
    except KeyboardInterrupt:
        _stopped = True
        raise


def one(job: Job) -> dict:
    """One seed."""
    key, number, seed = job
    row = TABLE[key].rows()[number]
    return train(row.task(), row.setting, seed, unfinished=_unfinished(key, row.setting, seed))


def _unfinished(key: str, setting: Setting, seed: int) -> Path:
    name = f"{key} {setting.name} {seed}".replace(" ", "_")
    return results.UNFINISHED / f"{name}.pt"


def _keep(record: dict, folder: Path, number: int, of: int) -> None:
    results.add(record, folder)
    verdict = "solved" if record["solved"] else "not solved"
    print(
        f"[{number}/{of}] {record['task']} {record['setting']} seed {record['seed']}: {verdict} after "
        f"{record['sequences']:,} sequences, {record['cpu_seconds']} s",
        flush=True,
    )
