"""The training loop: Accelerate underneath, checkpoints that resume bit for bit."""

from __future__ import annotations

import csv
import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from tidegate.data.atomic import atomic_write
from tidegate.errors import ConfigError, RunError, TidegateError
from tidegate.training.checkpoint import CHECKPOINT, flatten_optimizer, load_tensors, restore_optimizer, save_tensors
from tidegate.training.config import TrainingConfig
from tidegate.training.progress import Progress

HISTORY = "history.csv"
NON_MONOTONE = 5  # epochs that NT-ASGD waits for a better score (Merity et al. 2017)


class TrainingStopped(TidegateError):
    """Training ended before its time; the message says why and how to go on."""


class Job(Protocol):
    """What a task hands to the loop."""

    @property
    def model(self) -> nn.Module:
        """What is trained, in place."""

    def epoch(self, generator: torch.Generator) -> list[Tensor]:
        """Indices of one epoch's examples, a tensor a batch; the same for the same generator."""

    def loss(self, model: nn.Module, indices: Tensor, device: torch.device) -> tuple[Tensor, float]:
        """Mean loss over a batch, and how much it weighs."""

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """The score that decides when to stop; lower is better."""


@runtime_checkable
class CarryingJob(Job, Protocol):
    """A job that carries something from batch to batch, which the checkpoint keeps too."""

    def state_dict(self) -> dict[str, Tensor]:
        """What is carried now."""

    def load_state_dict(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Undo ``state_dict``."""


@dataclass
class Place:
    """Where training stands; all of it is in the checkpoint."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    best: float = math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    since: int = 0  # the optimiser's step from which NT-ASGD averages; 0 before
    history: list[dict[str, float]] = field(default_factory=list)


def check_precision(config: TrainingConfig) -> None:
    """Refuse a precision that the machine has not, before any work."""
    if config.precision == "fp16" and (config.cpu or not torch.cuda.is_available()):
        raise ConfigError("precision fp16 needs a GPU; on a CPU take bf16 or no")


def train(
    job: Job,
    config: TrainingConfig,
    folder: Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    fixed_epochs: int | None = None,
    held_out: bool = True,
) -> Place:
    """Train ``job.model`` in place; at the end it holds the weights of the best epoch.

    Parameters
    ----------
    job : Job
    config : TrainingConfig
    folder : Path, optional
        Where checkpoints and ``history.csv`` go; without it nothing is written.
    resume : bool
        Go on from the folder's checkpoint, if there is one, to the very weights that an
        uninterrupted run would have had (same machine, threads and number of processes).
    progress : bool
        Show a progress bar on a terminal, or a line an epoch elsewhere.
    fixed_epochs : int, optional
        Stop after so many epochs and keep the last weights (refitting on all data).
    held_out : bool
        Is ``job.validate`` of data that are not learnt from? Only for what is shown.

    Raises
    ------
    TrainingStopped
        If the loss is not finite.
    KeyboardInterrupt
        After Ctrl-C, once a checkpoint is written.
    """
    check_precision(config)
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier fit may have had another precision
    accelerator = Accelerator(cpu=config.cpu, mixed_precision=config.precision)
    device = accelerator.device
    torch.manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        job.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
    )
    per_epoch = len(_batches(job, config, 0))
    shape = _warm_constant if config.averaging == "nt-asgd" else _warm_cosine
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape(config.epochs * per_epoch))
    model, optimizer = accelerator.prepare(job.model, optimizer)
    plain = accelerator.unwrap_model(model)

    place = Place()
    best, average = _snapshot(plain), _snapshot(plain)
    path = None if folder is None else folder / CHECKPOINT
    if resume and path is not None and path.exists():
        try:
            place, best, average, carried = _restore(path, plain, optimizer.optimizer, schedule)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise RunError(
                f"{path} is of a run with other options, or damaged ({' '.join(str(error).split())}); undo what was "
                "changed in config.toml, or train in another folder"
            ) from None
        if isinstance(job, CarryingJob):
            job.load_state_dict(carried, device)
        if place.history and accelerator.is_main_process:
            _write_history(path.with_name(HISTORY), place.history)  # it may have stopped just before it wrote this

    def checkpoint() -> None:
        if path is not None and accelerator.is_main_process:
            carried = job.state_dict() if isinstance(job, CarryingJob) else {}
            _save(path, plain, best, average, carried, optimizer.optimizer, schedule, place)

    last = fixed_epochs or config.epochs
    saved = time.monotonic()
    shown = progress and accelerator.is_main_process
    bar = Progress(last, per_epoch, held_out=held_out and fixed_epochs is None, enabled=shown)
    with bar, _held_interrupt() as interrupted:
        while place.epoch < last and not _stale(place, config, fixed_epochs):
            started = time.monotonic()
            batches = _batches(job, config, place.epoch)
            for indices in _share(batches[place.batch :], accelerator):
                loss, weight = _step(job, model, optimizer, schedule, accelerator, indices, device, config)
                if not math.isfinite(loss):
                    raise TrainingStopped(_not_finite(loss, place, path))
                _blend(average, plain, _decay(config, place, schedule.last_epoch))
                place.loss_sum += loss * weight
                place.weight_sum += weight
                place.batch += 1
                bar.batch(place)
                if time.monotonic() - saved > config.checkpoint_seconds:
                    checkpoint()
                    saved = time.monotonic()
                if interrupted():
                    checkpoint()
                    raise KeyboardInterrupt
            with _wearing(plain, average):
                score = _validate(job, plain, device)
            place.seconds += time.monotonic() - started
            if not math.isfinite(score):
                raise TrainingStopped(_not_finite(score, place, path))
            if score < place.best or fixed_epochs is not None:
                place.best, place.best_epoch = score, place.epoch + 1
                best = {name: value.clone() for name, value in average.items()}
            if config.averaging == "nt-asgd" and not place.since and _worsened(place, score):
                place.since = schedule.last_epoch
            place.history.append(_row(place, score, schedule))
            bar.epoch(place, score)
            place.epoch, place.batch, place.loss_sum, place.weight_sum = place.epoch + 1, 0, 0.0, 0.0
            checkpoint()
            if folder is not None and accelerator.is_main_process:
                _write_history(folder / HISTORY, place.history)
            if interrupted():
                raise KeyboardInterrupt
    plain = accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # from here on in full precision
    plain.load_state_dict(best)
    plain.to("cpu")
    accelerator.free_memory()
    return place


@contextmanager
def _held_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until weights and place agree; a second one comes through, and saves nothing."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed << 20) + epoch)


def _batches(job: Job, config: TrainingConfig, epoch: int) -> list[Tensor]:
    """An epoch's batches; with few data several passes, so that all epochs make ``least_steps``."""
    generator = _generator(config.seed, epoch)
    found = job.epoch(generator)
    passes = math.ceil(config.least_steps / (config.epochs * max(1, len(found))))
    for _ in range(passes - 1):
        found = found + job.epoch(generator)
    return found


def _warm_cosine(steps: int) -> Callable[[int], float]:
    """Warm up over the first 5% of the steps, then fall as half a cosine to 2%."""
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return factor


def _warm_constant(steps: int) -> Callable[[int], float]:
    """Warm up over the first 5% of the steps, then stay."""
    warm = max(1, steps // 20)
    return lambda step: min(1.0, (step + 1) / warm)


def _share(batches: list[Tensor], accelerator: Accelerator) -> Iterator[Tensor]:
    """This process's part of every batch."""
    for indices in batches:
        part = indices[accelerator.process_index :: accelerator.num_processes]
        yield part if len(part) else indices[:1]


def _step(
    job: Job,
    model: nn.Module,
    optimizer: Any,
    schedule: Any,
    accelerator: Accelerator,
    indices: Tensor,
    device: torch.device,
    config: TrainingConfig,
) -> tuple[float, float]:
    model.train()
    optimizer.zero_grad()
    with accelerator.autocast():
        loss, weight = job.loss(model, indices, device)
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    schedule.step()
    return float(loss.detach()), weight


@torch.no_grad()
def _validate(job: Job, model: nn.Module, device: torch.device) -> float:
    model.eval()
    return job.validate(model, device)


def _stale(place: Place, config: TrainingConfig, fixed_epochs: int | None) -> bool:
    return fixed_epochs is None and place.best_epoch > 0 and place.epoch - place.best_epoch >= config.patience


def _row(place: Place, score: float, schedule: Any) -> dict[str, float]:
    return {
        "epoch": place.epoch + 1,
        "loss": place.loss_sum / max(place.weight_sum, 1e-12),
        "validation": score,
        "learning_rate": schedule.get_last_lr()[0],
        "seconds": round(place.seconds, 3),
    }


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _decay(config: TrainingConfig, place: Place, step: int) -> float:
    """What the average keeps of itself at a step.

    The running average forgets faster at first, so that the start is soon gone. NT-ASGD (Merity et
    al. 2017, algorithm 1) takes the weights as they are until it is triggered, and their mean since.
    """
    if config.averaging == "ema":
        return min(config.average, step / (step + 10))
    return (step - place.since) / (step - place.since + 1) if place.since else 0.0


def _worsened(place: Place, score: float) -> bool:
    """Is this score no better than all but the last few?"""
    earlier = [row["validation"] for row in place.history[:-NON_MONOTONE]]
    return bool(earlier) and score > min(earlier)


@torch.no_grad()
def _blend(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move the average towards the weights."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


@contextmanager
def _wearing(model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """The model with other weights for a while."""
    own = _snapshot(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


def _save(
    path: Path,
    model: nn.Module,
    best: dict[str, Tensor],
    average: dict[str, Tensor],
    carried: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    place: Place,
) -> None:
    kept = {"model": model.state_dict(), "best": best, "average": average, "carried": carried}
    tensors = {f"{kind}.{name}": value for kind, values in kept.items() for name, value in values.items()}
    state, facts = flatten_optimizer(optimizer)
    tensors |= state | {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    steps = {"last_epoch": schedule.last_epoch, "last_lr": schedule.get_last_lr()}
    save_tensors(path, tensors, {"place": vars(place), "optimizer": facts, "schedule": steps})


def _restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any
) -> tuple[Place, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    tensors, facts = load_tensors(path)

    def part(kind: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{kind}."): v for k, v in tensors.items() if k.startswith(f"{kind}.")}

    model.load_state_dict(part("model"))
    restore_optimizer(optimizer, tensors, facts["optimizer"])
    schedule.last_epoch = facts["schedule"]["last_epoch"]
    schedule._last_lr = facts["schedule"]["last_lr"]
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return Place(**facts["place"]), part("best"), part("average"), part("carried")


def _not_finite(loss: float, place: Place, path: Path | None) -> str:
    kept = f"; the last good checkpoint is {path}" if path is not None and path.exists() else ""
    return (
        f"training stopped: the loss is {loss} at epoch {place.epoch + 1}, batch {place.batch + 1}{kept}. "
        "Lower --learning-rate or --clip, or look for extreme values in the data"
    )
