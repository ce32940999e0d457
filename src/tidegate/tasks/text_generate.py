"""Text out of a trained model, a byte at a time.

V = 256 bytes.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from tidegate.errors import ConfigError
from tidegate.tasks.text_job import START


def check_sampling(length: int, temperature: float, top_p: float, seed: int) -> None:
    """Refuse what cannot be sampled by."""
    for name, value, kind in (
        ("length", length, Integral),
        ("temperature", temperature, Real),
        ("top_p", top_p, Real),
        ("seed", seed, Integral),
    ):
        if isinstance(value, bool) or not isinstance(value, kind):
            what = "a whole number" if kind is Integral else "a number"
            raise ConfigError(f"{name} is {what}; given {value!r} of type {type(value).__name__}")
    if length < 0:
        raise ConfigError(f"length is a number of characters, 0 at least; given {length}")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature is a number from 0, which takes the most probable byte; given {temperature:g}")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p is a share of the probability, above 0 and at most 1; given {top_p:g}")
    if seed < 0:
        raise ConfigError(f"seed is a whole number from 0; given {seed}")


def prompt_bytes(prompt: str | bytes) -> bytes:
    """A prompt as the model reads it."""
    if isinstance(prompt, bytes):
        return prompt
    if not isinstance(prompt, str):
        raise ConfigError(f"prompt is a str, or bytes; given {prompt!r} of type {type(prompt).__name__}")
    try:
        return prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigError(f"prompt is text that UTF-8 can write, or bytes; given {prompt!r}") from None


def choices(scores: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Probabilities (V,) to sample the next byte by.

    Parameters
    ----------
    scores : (V,) float64
        Before softmax.
    temperature : float
        Scores are divided by it; at 0 the most probable byte is certain.
    top_p : float
        Only the fewest bytes that together reach this probability are kept (Holtzman et al. 2020).
    """
    if temperature == 0:
        return (np.arange(len(scores)) == scores.argmax()).astype(float)
    p = np.exp((scores - scores.max()) / temperature)
    p /= p.sum()
    if top_p < 1:
        order = np.argsort(-p, kind="stable")
        reached = np.cumsum(p[order])
        p[order[int(np.searchsorted(reached, top_p)) + 1 :]] = 0
        p /= p.sum()
    return p


def sample_bytes(model: Any, prompt: bytes, temperature: float, top_p: float, seed: int) -> Iterator[int]:
    """Bytes without end, after a prompt; ``model`` is a TextNet in evaluation mode."""
    rng = np.random.default_rng(seed)
    read = torch.tensor(list(prompt or bytes([START])))
    with torch.no_grad():
        scores, state = model(read[:, None])  # (T, 1, V)
    while True:
        p = choices(scores[-1].reshape(-1).double().numpy(), temperature, top_p)
        byte = min(int(np.searchsorted(np.cumsum(p), rng.random(), side="right")), int(np.flatnonzero(p)[-1]))
        yield byte
        with torch.no_grad():
            scores, state = model.step(torch.tensor([byte]), state)


def generate(model: Any, prompt: bytes, length: int, temperature: float, top_p: float, seed: int) -> Iterator[str]:
    """Characters as they come; a character of several bytes is held back until it is whole."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    made = 0
    stream = sample_bytes(model, prompt, temperature, top_p, seed)
    while made < length:
        piece = decoder.decode(bytes([next(stream)]))[: length - made]
        if piece:
            made += len(piece)
            yield piece
