"""How well a label of each step can be read from the long-term memory, linearly.

Ridge regression (for classes: of one column a class, the largest taken), trained on some sequences and
scored on others (linear probes: Alain & Bengio 2017). A probe alone proves little, so three controls
are measured in the same way (Hewitt & Liang 2019): labels permuted, the raw input, an untrained layer.

N steps of all sequences, T steps, B batch rows, I inputs, H hidden units, D directions, C classes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tidegate.frames import array, polars
from tidegate.insight.calls import evaluation
from tidegate.insight.ledger import pick_layer
from tidegate.layer import LSTM

if TYPE_CHECKING:
    import polars as pl

_RIDGE = 1e-3  # penalty, relative to the mean square of the standardised features


@dataclass(frozen=True)
class Probe:
    """How well a label is read, beside what else could read it.

    Attributes
    ----------
    measure : str
        "R2" for numbers (1 is perfect, 0 no better than the mean), "balanced accuracy" for classes.
    chance : float
        What knows nothing scores: 0, or 1 / C.
    memory : float
        From c of the layer, all units and directions together.
    permuted, input, untrained : float
        From c with the labels permuted over the steps; from the layer's input at the step; from c of
        a layer with weights as they start.
    units : (D, H)
        From c of each unit alone.
    """

    measure: str
    chance: float
    memory: float
    permuted: float
    input: float
    untrained: float
    units: np.ndarray

    @property
    def ranking(self) -> np.ndarray:
        """Units as (direction, unit), the best first: (D * H, 2)."""
        order = np.argsort(-self.units.reshape(-1), kind="stable")
        return np.stack(np.unravel_index(order, self.units.shape), -1)

    def to_frame(self) -> pl.DataFrame:
        """One row for the memory and each control."""
        names = ("memory", "permuted", "input", "untrained")
        scores = [getattr(self, name) for name in names]
        return polars().DataFrame({"read_from": names, self.measure.replace(" ", "_"): scores, "chance": self.chance})


def probe(
    lstm: LSTM,
    x: Any,
    labels: Any,
    *,
    layer: int = -1,
    hx: Any = None,
    lengths: Any = None,
    reset: Any = None,
    test: float = 0.3,
    seed: int = 0,
) -> Probe:
    """Read a label of each step linearly from c.

    Parameters
    ----------
    lstm : LSTM
        Read in evaluation mode.
    x, hx, lengths, reset
        As :meth:`LSTM.forward` takes them; the split is by sequence, so B is at least 2.
    labels : (T, B), or (B, T) with ``batch_first``
        Numbers (floating point, nan where there is none), or classes (whole numbers or bool; negative
        where there is none).
    layer : int
    test : float
        Share of the sequences that the probe is scored on.
    seed : int
        For the split, the permutation and the untrained layer.

    Returns
    -------
    Probe

    Raises
    ------
    ValueError
        Where labels do not fit x, or a side of the split holds too little to say anything.
    """
    with evaluation(lstm), torch.no_grad():
        traced = pick_layer(lstm.trace(x, hx, lengths, reset).layers, layer)
        first = lstm.trace(x, hx, lengths, reset).layers[0] if layer not in (0, -lstm.num_layers) else traced
        fresh = _fresh(lstm, seed)
        start = pick_layer(fresh.trace(x, hx, lengths, reset).layers, layer)
    T, B, D, H = traced.cell.shape
    y = array(labels)
    y = y.T if lstm.batch_first and y.ndim == 2 else y
    if y.ndim == 1 and B == 1:
        y = y[:, None]
    if y.shape != (T, B):
        raise ValueError(f"labels are one a step and row, {(T, B)} (or turned with batch_first); given {y.shape}")
    if not 0.0 < test < 1.0:
        raise ValueError(f"test is a share between 0 and 1; given {test}")
    classes = not np.issubdtype(y.dtype, np.floating)
    known = (y.astype(np.int64) >= 0) if classes else np.isfinite(y)
    known &= np.arange(T)[:, None] < array(traced.steps)
    random = np.random.default_rng(seed)
    held_out = np.zeros(B, dtype=bool)
    held_out[random.permutation(B)[: max(1, round(test * B))]] = True
    tested = np.broadcast_to(held_out, (T, B))[known]
    target = y[known]
    if tested.all() or not tested.any():
        raise ValueError(f"a probe needs labelled sequences to learn from and others to be scored on; given {B} rows")
    design = _one_hot(target) if classes else target.astype(np.float64)[:, None]  # (N, C or 1)

    def read(features: np.ndarray, goal: np.ndarray = design) -> float:
        return _score(features[known].astype(np.float64), goal, tested, classes)

    cells = array(traced.cell)  # (T, B, D, H)
    return Probe(
        "balanced accuracy" if classes else "R2",
        1.0 / design.shape[1] if classes else 0.0,
        read(cells.reshape(T, B, -1)),
        read(cells.reshape(T, B, -1), design[random.permutation(len(design))]),
        read(array(first.x)),
        read(array(start.cell).reshape(T, B, -1)),
        np.array([[read(cells[:, :, d, u, None]) for u in range(H)] for d in range(D)]),
    )


def _fresh(lstm: LSTM, seed: int) -> LSTM:
    """The same layer with weights as they start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = copy.deepcopy(lstm)
        fresh.reset_parameters()
    return fresh.eval()


def _one_hot(labels: np.ndarray) -> np.ndarray:
    values = np.unique(labels)
    if len(values) < 2:
        raise ValueError(f"labels need at least two classes; given only {values.tolist()}")
    return (labels[:, None] == values).astype(np.float64)


def _score(features: np.ndarray, goal: np.ndarray, tested: np.ndarray, classes: bool) -> float:
    """Ridge regression on the rows not tested, scored on those that are."""
    train = ~tested
    mean, spread = features[train].mean(0), features[train].std(0)
    z = (features - mean) / np.where(spread > 1e-12, spread, 1.0)  # (N, features)
    level = goal[train].mean(0)
    gram = z[train].T @ z[train]
    gram[np.diag_indices_from(gram)] += _RIDGE * train.sum()
    weights = np.linalg.solve(gram, z[train].T @ (goal[train] - level))
    guess, truth = z[tested] @ weights + level, goal[tested]
    if classes:
        hit = guess.argmax(1) == truth.argmax(1)
        there = truth.sum(0) > 0
        return float(((hit[:, None] * truth).sum(0)[there] / truth.sum(0)[there]).mean())
    rest, whole = ((truth - guess) ** 2).sum(), ((truth - truth.mean(0)) ** 2).sum()
    return float(1.0 - rest / whole) if whole else float("nan")
