"""One seed of one row: train until the criterion or the cap; stop and go on at any moment."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import torch

from experiments.long_lag.network import Network, Setting
from experiments.long_lag.task import Recent, Task
from tidegate.data.atomic import atomic_write

SAVE_EVERY = 20.0  # seconds


def train(task: Task, setting: Setting, seed: int, cap: int | None = None, unfinished: Path | None = None) -> dict:
    """Train one network.

    Parameters
    ----------
    task, setting : Task, Setting
    seed : int
        Of the weights and of the sequences.
    cap : int, optional
        Training sequences at most; the published number by default.
    unfinished : Path, optional
        A file that keeps the run while it is under way. One that is there is taken up again, to the
        same result as an uninterrupted run; it is removed at the end.

    Returns
    -------
    dict
        The JSON line of this seed: ``solved``, ``sequences`` seen, the ``test`` on fresh ones where solved.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _Run(task, setting, seed, task.published if cap is None else cap, unfinished).finish()
    finally:
        torch.set_num_threads(threads)


class _Run:
    def __init__(self, task: Task, setting: Setting, seed: int, cap: int, unfinished: Path | None) -> None:
        self.task, self.setting, self.seed, self.cap, self.file = task, setting, seed, cap, unfinished
        torch.manual_seed(seed)
        self.network = Network(task, setting)
        self.parameters = list(self.network.parameters())
        self.network.grown = task.grow_after == 0
        self.optimiser = self._adam()
        self.data = torch.Generator().manual_seed(seed)  # sequences to train on
        self.fresh = torch.Generator().manual_seed(seed + 1_000_003)  # sequences to test on
        self.recent = Recent()
        self.sequences, self.seconds, self.solved = 0, 0.0, False
        task.start(self.data)
        if unfinished is not None and unfinished.exists():
            self._load(torch.load(unfinished, weights_only=True))

    def finish(self) -> dict[str, Any]:
        begun = self.begun = time.process_time()
        stop = _Stop()
        with stop:
            while self.sequences < self.cap and not self.solved:
                if stop.asked or (self.file and time.process_time() - begun > SAVE_EVERY):
                    self._save()
                    begun = time.process_time()
                    if stop.asked:
                        raise KeyboardInterrupt
                self._step()
                self.solved = self.task.solved(self.recent, self._predict, self.fresh)
            record = self._record()
        if self.file is not None:
            self.file.unlink(missing_ok=True)
        return record

    def _adam(self) -> torch.optim.Optimizer:
        lr = self.setting.lr if self.network.grown else self.task.grow_lr
        return torch.optim.Adam(self.parameters, lr=lr, fused=True)

    def _step(self) -> None:
        batch = self.task.draw(min(self.setting.batch, self.cap - self.sequences), self.data)
        if not self.network.grown and self.sequences >= self.task.grow_after:
            self.network.grown = True
            self.optimiser = self._adam()  # steps are small again, as at a start
        outputs = self.network(batch)
        loss = self.task.loss(outputs, batch)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.setting.clip, foreach=True)
        self.optimiser.step()
        with torch.no_grad():
            self.recent.add(self.task.errors(outputs.detach(), batch))
        self.sequences += len(batch.lengths)

    @torch.no_grad()
    def _predict(self, batch: Any) -> torch.Tensor:
        return self.network(batch)

    def _record(self) -> dict[str, Any]:
        seconds = self.seconds + time.process_time() - self.begun
        record = {
            "task": self.task.key,
            "setting": self.setting.name,
            **vars(self.setting),
            "seed": self.seed,
            "solved": self.solved,
            "sequences": self.sequences,
            "cap": self.cap,
            "cpu_seconds": round(seconds, 1),
            "recent_mean_error": self.recent.average() if self.recent.mean else None,
            "recent_wrong": self.recent.wrong(self.task.tolerance),
        }
        record["test"] = self.task.score(self._predict, self.fresh)
        return record

    def _save(self) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        now = time.process_time()
        self.seconds, self.begun = self.seconds + now - self.begun, now
        kept = {
            "network": self.network.state_dict(),
            "grown": self.network.grown,
            "optimiser": self.optimiser.state_dict(),
            "data": self.data.get_state(),
            "fresh": self.fresh.get_state(),
            "worst": list(self.recent.worst),
            "mean": list(self.recent.mean),
            "sequences": self.sequences,
            "seconds": self.seconds,
        }
        with atomic_write(self.file) as file:
            torch.save(kept, file)

    def _load(self, kept: dict[str, Any]) -> None:
        self.network.load_state_dict(kept["network"])
        self.network.grown = kept["grown"]
        self.optimiser.load_state_dict(kept["optimiser"])
        self.data.set_state(kept["data"])
        self.fresh.set_state(kept["fresh"])
        self.recent.worst.extend(kept["worst"])
        self.recent.mean.extend(kept["mean"])
        self.sequences, self.seconds = kept["sequences"], kept["seconds"]


class _Stop:
    """Ctrl-C and SIGTERM wait for the end of a step, so that what is saved is whole."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Stop:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked = True
