"""What the training loop asks of a text model, and the bits that a trained one needs for each byte.

T steps, B streams, N bytes, V = 256.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tidegate.state import State
from tidegate.tasks.text_config import TextConfig

START = ord("\n")  # stands before the first byte of a text
RESTART = 1 / 32  # share of windows that start with an empty memory, so that the model knows that too
STREAMS, WARM, CHUNK = 64, 1024, 256


class TextJob:
    """Cross entropy of the next byte, windows in order, the memory carried from each to the next.

    The text is cut into B streams that are read side by side. Where they start is drawn for each
    epoch, within a window; now and then a stream's memory is emptied.
    """

    def __init__(self, model: nn.Module, train: np.ndarray, valid: np.ndarray, config: TextConfig) -> None:
        self.model, self.config = model, config
        self.train = torch.from_numpy(train.astype(np.int64))  # (N,)
        self.before, self.valid = train[-WARM:], valid
        self.streams = streams(len(train), config)
        self._carried: Any = None
        self._reached = torch.zeros(0, dtype=torch.int64)  # (B,) where the carried memory stands

    def epoch(self, generator: torch.Generator) -> list[Tensor]:
        """Where each window starts in each stream: (B,) a window."""
        window = self.config.window
        first = int(torch.randint(window, (), generator=generator))
        length = (len(self.train) - window) // self.streams
        starts = first + length * torch.arange(self.streams)
        return [starts + k for k in range(0, (length - 1) // window * window, window)]

    def loss(self, model: nn.Module, indices: Tensor, device: torch.device) -> tuple[Tensor, float]:
        """Mean cross entropy of the next bytes in nats, and how many there are."""
        window = self.config.window
        steps = indices + torch.arange(window + 1)[:, None]  # (T + 1, B)
        data = self.train[steps].to(device)
        state = self._carried if torch.equal(indices, self._reached) else None
        if state is not None:
            keep = (torch.rand(len(indices)) >= RESTART).to(device)[:, None]  # (B, 1)
            state = _map(state, lambda memory: memory * keep)
        scores, state = model(data[:-1], state)
        self._carried = _map(state, torch.Tensor.detach)
        self._reached = indices + window
        loss = F.cross_entropy(scores.float().flatten(0, 1), data[1:].flatten())
        return loss, float(data[1:].numel())

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """Mean cross entropy in nats."""
        if not len(self.valid):  # without a validation part: only to be shown
            bits = byte_bits(model, self.train[: 4 * WARM].numpy().astype(np.uint8), device=device)
        else:
            bits = byte_bits(model, self.valid, self.before, device=device)
        return float(bits.mean()) * math.log(2)

    def state_dict(self) -> dict[str, Tensor]:
        """The carried memory and where it stands, for a checkpoint."""
        if self._carried is None:
            return {}
        memory = self._carried if isinstance(self._carried, tuple) else (self._carried,)
        return {"reached": self._reached} | dict(zip("hc", memory, strict=False))

    def load_state_dict(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Undo ``state_dict``."""
        if tensors:
            memory = [tensors[name].to(device) for name in "hc" if name in tensors]
            self._carried = State(*memory) if len(memory) == 2 else memory[0]
            self._reached = tensors["reached"]


def _map(state: Any, change: Any) -> Any:
    return State(*map(change, state)) if isinstance(state, tuple) else change(state)


def streams(size: int, config: TextConfig) -> int:
    """How many streams a training text gives, each of a few windows at least; 0 if it is too short."""
    return max(min(config.batch_size, size // (4 * config.window)), int(size > 3 * config.window))


@torch.no_grad()
def byte_bits(
    model: Any, data: np.ndarray, before: np.ndarray | None = None, *, device: torch.device | None = None,
    parallel: int = STREAMS, warm: int = WARM,
) -> np.ndarray:  # fmt: skip
    """What each byte costs, given those before it.

    Parameters
    ----------
    model : TextNet
        In evaluation mode.
    data : (N,) uint8
    before : uint8, optional
        The text just before; by default a line break, as if the text began there.
    parallel, warm : int
        The text is scored in at most so many parts side by side, each after the ``warm`` bytes before
        it; 1 scores all in one go.

    Returns
    -------
    (N,) float64
        Bits.
    """
    size = len(data)
    before = np.array([START], np.uint8) if before is None or not len(before) else before[-warm:]
    whole = np.concatenate([before, data]).astype(np.int64)  # a byte's place is its index plus len(before)
    rows = max(1, min(parallel, size // (2 * warm)))
    length = -(-size // rows)
    first = len(before) + length * np.arange(rows)  # (B,) where each part starts
    lead = np.minimum(first, warm) if rows > 1 else first  # bytes before it that are read
    steps = int(lead.max()) + length - 1
    # Each row ends with its part: what has no bytes so far back starts with a line break again and again.
    places = first + length - 1 - steps + np.arange(steps + 1)[:, None]  # (T + 1, B)
    shown = (places >= (first - lead)) & (places < len(whole))
    tokens = torch.from_numpy(np.where(shown, whole[np.clip(places, 0, len(whole) - 1)], START)).to(device)
    begins = torch.from_numpy(places == first - lead).to(device)
    bits = np.zeros(size)
    state = None
    for k in range(0, steps, CHUNK):
        here = slice(k, min(k + CHUNK, steps))
        scores, state = _chunk(model, tokens[here], state, begins[here])
        after = slice(here.start + 1, here.stop + 1)
        nats = F.cross_entropy(scores.float().flatten(0, 1), tokens[after].flatten(), reduction="none")
        loss = nats.view(scores.shape[:2]).double().cpu().numpy()  # (T, B)
        own = (places[after] >= first) & (places[after] < np.minimum(first + length, len(whole)))
        bits[places[after][own] - len(before)] = loss[own] / math.log(2)
    return bits


def _chunk(model: Any, tokens: Tensor, state: Any, begins: Tensor) -> tuple[Tensor, Any]:
    """Scores of a chunk of steps; a row's memory is empty where it begins."""
    x = model.embed(tokens)
    output, state = model.recurrent(x, state, reset=begins if begins.any() else None)
    return model.head(output, model.embedding.weight), state
