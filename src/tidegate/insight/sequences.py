"""A trained classifier of sequences or of steps opened up: its layer, sequences, labels and scores.

T steps, B sequences, I inputs, K labels, D directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tidegate.errors import RunError
from tidegate.insight.calls import Score
from tidegate.layer import LSTM

if TYPE_CHECKING:
    from tidegate.tasks.classify import Classifier

NONE = -1  # as a label: there is none


@dataclass(frozen=True)
class OpenSequences:
    """Sequences, and the network that gives them labels: one each, or one a step. Made by :func:`open_sequences`.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode.
    read : callable
        ``read(model, x, lengths)`` gives scores before softmax, (B, K), or (T, B, K) for a label a step.
    build : callable
        A new model with weights that have learnt nothing.
    x : Tensor (T, B, I)
        The layer's input: scaled numbers, or embeddings.
    lengths : Tensor (B,)
    truth : Tensor (B,) or (T, B)
        Codes of the right labels; -1 where none is known.
    labels : list of str, K
    rows : list of str, B
        Names of the sequences.
    steps : list of (T,) arrays
        For each sequence what its steps are called: numbers, or words.
    names : list of str
        Of the I inputs; none for embeddings.
    fixed : bool (I,)
        Flags, which a baseline leaves as they are.
    baseline : Tensor (I,)
        The mean of training.
    """

    model: nn.Module
    read: Callable[[Any, Tensor, Tensor], Tensor]
    build: Callable[[], nn.Module]
    x: Tensor
    lengths: Tensor
    truth: Tensor
    labels: list[str]
    rows: list[str]
    steps: list[np.ndarray]
    names: list[str]
    fixed: Tensor
    baseline: Tensor

    @property
    def lstm(self) -> LSTM:
        """The recurrent layers."""
        found = self.model.recurrent
        assert isinstance(found, LSTM)
        return found

    @property
    def tagged(self) -> bool:
        """A label for each step, instead of one for each sequence."""
        return self.truth.dim() == 2

    def take(self, rows: Any) -> OpenSequences:
        """Some of the sequences, by their indices, no longer than the longest of them."""
        index = torch.as_tensor(rows)
        lengths = self.lengths[index]
        T = max(1, int(lengths.max()))
        chosen = index.tolist()
        return replace(
            self,
            x=self.x[:T, index],
            lengths=lengths,
            truth=self.truth[:T, index] if self.tagged else self.truth[index],
            rows=[self.rows[n] for n in chosen],
            steps=[self.steps[n] for n in chosen],
        )

    def untrained(self, seed: int = 0) -> OpenSequences:
        """The same sequences with a network that has learnt nothing, as a control."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.build()
        return replace(self, model=model.eval())

    def scores(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores before softmax of other inputs of the same sequences."""
        return self.read(self.model, x, self.lengths if lengths is None else lengths)

    def losses(self, scores: Tensor, truth: Tensor | None = None) -> Tensor:
        """Log loss (B,) in nats of scores, the mean over a sequence's steps where each has a label."""
        truth = self.truth if truth is None else truth
        loss = F.cross_entropy(scores.flatten(0, -2), truth.flatten(), ignore_index=NONE, reduction="none")
        if not self.tagged:
            return loss
        known = (truth != NONE).sum(0).clamp(min=1)
        return loss.reshape(truth.shape).sum(0) / known

    def loss(self) -> Score:
        """From x to each sequence's log loss."""
        return lambda x: self.losses(self.scores(x))

    def margin(self, label: int, other: int, step: int | None = None) -> Score:
        """From x to how far one label's score is above another's (B,), at a step where each has a label."""

        def run(x: Tensor) -> Tensor:
            found = self.scores(x) if step is None else self.scores(x)[step]  # (B, K)
            return found[:, label] - found[:, other]

        return run


def open_sequences(model: Any, data: Any = None, *, most: int = 256, seed: int = 0) -> OpenSequences:
    """Open a trained classifier over sequences.

    Parameters
    ----------
    model : Classifier, or the path of a run folder
    data : path, data frame or Sequences, optional
        By default those that training kept untouched.
    most : int
        At most so many sequences, drawn without replacement.
    seed : int

    Returns
    -------
    OpenSequences

    Raises
    ------
    RunError
        If the model is a vanilla RNN, which has no gates.
    DataError
        If there are no labelled sequences to look at.
    """
    from tidegate.tasks import load_run
    from tidegate.tasks.classify import Classifier
    from tidegate.tasks.learner import Learner

    where = model
    if not isinstance(model, Learner):
        model = load_run(model)
    if not isinstance(model, Classifier):
        raise RunError(f"this looks into classifiers; {where} is a run of {model.task}")
    if not isinstance(model.model_.recurrent, LSTM):
        raise RunError("this model is a vanilla RNN, which has neither gates nor a long-term memory to look at")
    return _open_classifier(model, data, most, seed)


def _open_classifier(model: Classifier, data: Any, most: int, seed: int) -> OpenSequences:
    from tidegate.tasks.classify_data import check_kind, make_batch, with_labels

    sequences, _ = with_labels(model._in_order(model.untouched(data)))
    check_kind(sequences, model.scaling_)
    codes = {name: k for k, name in enumerate(model.classes_.tolist())}
    index = drawn(len(sequences), most, seed)
    batch = make_batch(sequences, index, model.scaling_)
    network = model.model_.eval()
    with torch.no_grad():
        x = network.embed(batch.inputs)  # (T, B, I)
    scaling, I = model.scaling_, x.shape[-1]
    if scaling is None:
        assert network.embedding is not None
        baseline = network.embedding.weight.detach().mean(0)
        names, steps = [], [_letters(sequences.one(n)) for n in index]
    else:
        baseline = torch.zeros(I)  # of the scaled columns
        flags = [f"{c} is known" for c, gap in zip(sequences.columns, scaling.gaps, strict=True) if gap]
        names, steps = [*sequences.columns, *flags], [np.arange(n) for n in sequences.lengths[index]]
    assert sequences.labels is not None
    truth = [codes.get(sequences.labels[n], NONE) for n in index]
    return OpenSequences(
        network,
        lambda net, x, lengths: net.read(x, lengths),
        model._build,
        x,
        batch.lengths,
        torch.tensor(truth),
        [str(name) for name in model.classes_],
        [sequences.names[n] for n in index],
        steps,
        names,
        torch.arange(I) >= len(sequences.columns) if names else torch.zeros(I, dtype=torch.bool),
        baseline,
    )


def drawn(count: int, most: int, seed: int) -> np.ndarray:
    """Indices of at most so many, in order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _letters(values: np.ndarray) -> np.ndarray:
    """Bytes as they read, each with its place, which tells equal ones apart."""
    return np.array([f"{n} {chr(b) if 32 < b < 127 else repr(chr(b))[1:-1]}" for n, b in enumerate(values.tolist())])
