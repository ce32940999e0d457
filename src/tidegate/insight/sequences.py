"""A trained model of labels, of sequences or of steps, or of text, opened up: its layer, sequences and scores.

T steps, B sequences, I inputs, K labels, D directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tidegate.errors import DataError, RunError
from tidegate.insight.calls import Score
from tidegate.layer import LSTM

if TYPE_CHECKING:
    from tidegate.tasks.classify import Classifier
    from tidegate.tasks.tag import Tagger
    from tidegate.tasks.text import TextModel

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
    token : callable, optional
        From a word, letter or byte to the last inputs of a step (at most I,), where it is such that are read.
    text : bool
        Whether labels are the bytes that come next.
    notes : list of str
        What was left out, for a person.
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
    token: Callable[[str], Tensor] | None = None
    text: bool = False
    notes: list[str] = field(default_factory=list)

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
        """Some of the sequences, by their indices, no longer than the longest of them.

        Raises
        ------
        ValueError
            If there is no such sequence, or none is asked for.
        """
        index = torch.as_tensor(rows)
        B = len(self.rows)
        whole = index.dim() == 1 and not index.is_floating_point() and index.dtype != torch.bool
        if not (whole and len(index) and bool(((index >= 0) & (index < B)).all())):
            raise ValueError(f"take one sequence or more, by whole numbers from 0 to {B - 1}; given {shown(rows)}")
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
        """From x to how far one label's score is above another's (B,), at a step where each has a label.

        Raises
        ------
        ValueError
            If there is no such label.
        """
        for given in (label, other):
            if not 0 <= given < len(self.labels):
                raise ValueError(f"a label is a whole number from 0 to {len(self.labels) - 1}; given {given}")

        def run(x: Tensor) -> Tensor:
            found = self.scores(x) if step is None else self.scores(x)[step]  # (B, K)
            return found[:, label] - found[:, other]

        return run


def open_sequences(model: Any, data: Any = None, *, most: int = 256, seed: int = 0) -> OpenSequences:
    """Open a trained model of labels or of text.

    Parameters
    ----------
    model : Classifier, Tagger or TextModel, or the path of a run folder
    data : what the model reads, optional
        By default what training kept untouched.
    most : int
        At most so many sequences (of text: windows of 200 bytes, whose labels are the bytes that come
        next), drawn without replacement.
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
    from tidegate.tasks.tag import Tagger
    from tidegate.tasks.text import TextModel

    where = model
    if not isinstance(model, Learner):
        model = load_run(model)
    ways: tuple[tuple[type, Any], ...] = (
        (Classifier, _open_classifier),
        (Tagger, _open_tagger),
        (TextModel, _open_text),
    )
    way = next((way for kind, way in ways if isinstance(model, kind)), None)
    if way is None:
        raise RunError(f"this looks into models of labels and of text; {where} is a run of {model.task}")
    if not isinstance(model.model_.recurrent, LSTM):
        raise RunError("this model is a vanilla RNN, which has neither gates nor a long-term memory to look at")
    return way(model, data, most, seed)


def _open_classifier(model: Classifier, data: Any, most: int, seed: int) -> OpenSequences:
    from tidegate.tasks.classify_data import check_kind, make_batch, with_labels

    sequences, notes = with_labels(model._in_order(model.untouched(data)))
    check_kind(sequences, model.scaling_)
    assert sequences.labels is not None
    codes = {name: k for k, name in enumerate(model.classes_.tolist())}
    known, left = _known(sequences.labels.tolist(), list(codes), "sequence")
    sequences = sequences.take(np.flatnonzero(known))
    index = drawn(len(sequences), most, seed)
    batch = make_batch(sequences, index, model.scaling_)
    network = model.model_.eval()
    with torch.no_grad():
        x = network.embed(batch.inputs)  # (T, B, I)
    scaling, I = model.scaling_, x.shape[-1]
    if scaling is None:
        assert network.embedding is not None
        baseline = network.embedding.weight.detach().mean(0)
        names, steps = [], [_placed([_letter(b) for b in sequences.one(n)]) for n in index]
    else:
        baseline = torch.zeros(I)  # of the scaled columns
        flags = [f"{c} is known" for c, gap in zip(sequences.columns, scaling.gaps, strict=True) if gap]
        names, steps = [*sequences.columns, *flags], [np.arange(n) for n in sequences.lengths[index]]
    assert sequences.labels is not None
    truth = [codes[sequences.labels[n]] for n in index]
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
        None if names else _byte_reader(network.embed),
        notes=[*notes, *left],
    )


@torch.no_grad()
def _open_tagger(model: Tagger, data: Any, most: int, seed: int) -> OpenSequences:
    sequences = model.untouched(data)
    index = drawn(len(sequences), most, seed)
    sequences = sequences.take(index)
    batch, rows, inside = model._steps(sequences).batch(np.arange(len(index)))
    network = model.model_.eval()
    x = network.embed(batch)  # (T, B, I)
    assert sequences.tags is not None
    classes = model.classes_.tolist()
    known, notes = _known(sequences.tags.tolist(), classes, "step")
    codes = replace(sequences, tags=np.where(known, sequences.tags, None)).codes(classes)
    truth = np.where(inside, codes[np.where(inside, rows, 0)], NONE)  # (T, B)
    I, flags, baseline = x.shape[-1], np.zeros(x.shape[-1], bool), x[torch.from_numpy(inside)].mean(0)
    names: list[str] = []
    if model.scaling_ is not None:
        baseline[: len(model.scaling_.mean)] = 0.0  # of the scaled columns
        flags[len(model.scaling_.mean) : model.scaling_.inputs] = True
        if model.scaling_.inputs == I:
            gaps = [c for c, gap in zip(sequences.columns, model.scaling_.gaps, strict=True) if gap]
            names = [*sequences.columns, *(f"{c} is known" for c in gaps)]
    words = [
        np.arange(n) if sequences.tokens is None else _placed([sequences.words[w] for w in sequences.tokens[a : a + n]])
        for a, n in zip(sequences.offsets[:-1], sequences.lengths, strict=True)
    ]
    return OpenSequences(
        network,
        lambda net, x, lengths: net.read(x, lengths),
        model._build,
        x,
        batch.lengths,
        torch.from_numpy(truth),
        [str(name) for name in model.classes_],
        sequences.names,
        words,
        names,
        torch.from_numpy(flags),
        baseline,
        None if model.vocabulary_ is None else _word_reader(model),
        notes=notes,
    )


def _known(labels: list[Any], classes: list[Any], what: str) -> tuple[np.ndarray, list[str]]:
    """Which labels occurred in training, and a note on those that did not; None is no label."""
    seen = set(classes)
    known = np.array([label in seen for label in labels], bool)
    if not known.any():
        listed = ", ".join(map(repr, classes[:20]))
        raise DataError(f"no {what} has a label that occurred in training, where there were {listed}")
    new = sum(label is not None for label in labels) - int(known.sum())
    return known, [f"left out {new:,} {what}{'s' * (new > 1)} whose label did not occur in training"] if new else []


WINDOW = 200  # bytes of a text that are looked at together


@torch.no_grad()
def _open_text(model: TextModel, data: Any, most: int, seed: int) -> OpenSequences:
    text, _ = model.untouched(data)
    count = (len(text) - 1) // WINDOW
    if not count:
        raise DataError(f"more than {WINDOW} bytes of text are needed to look at; given {len(text)}")
    starts = drawn(count, most, seed) * WINDOW
    windows = text[starts + np.arange(WINDOW + 1)[:, None]].astype(np.int64)  # (T + 1, B)
    network = model.model_.eval()
    x = network.embed(torch.from_numpy(windows[:-1]))  # (T, B, E)
    return OpenSequences(
        network,
        lambda net, x, lengths: net.head(net.recurrent(x, lengths=lengths)[0], net.embedding.weight),
        model._build,
        x,
        torch.full((len(starts),), WINDOW),
        torch.from_numpy(windows[1:]),
        [_letter(b) for b in range(256)],
        [f"from byte {start:,}" for start in starts],
        [_placed([_letter(b) for b in window]) for window in windows[:-1].T.tolist()],
        [],
        torch.zeros(x.shape[-1], dtype=torch.bool),
        x.mean((0, 1)),
        _byte_reader(network.embed),
        text=True,
    )


def _byte_reader(embed: Callable[[Tensor], Tensor]) -> Callable[[str], Tensor]:
    """From one byte, as it is written in names of steps or as itself, to its embedding (E,)."""
    written = {_letter(b): b for b in range(256)} | {" ": 32}

    @torch.no_grad()
    def read(text: str) -> Tensor:
        given = text.encode("utf-8", errors="replace")
        if text not in written and len(given) != 1:
            raise ValueError(f"one byte is read at a step, such as a, space or \\n; given {text[:40]!r}")
        return embed(torch.tensor([written.get(text, given[0] if given else 0)]))[0]

    return read


def _word_reader(model: Tagger) -> Callable[[str], Tensor]:
    """From a word to its embedding and its spelling's (E + C,)."""
    from tidegate.tasks.tag_data import _spell
    from tidegate.tasks.tag_network import TagBatch

    assert model.vocabulary_ is not None
    vocabulary, values = model.vocabulary_, 0 if model.scaling_ is None else model.scaling_.inputs

    @torch.no_grad()
    def read(text: str) -> Tensor:
        if not text:
            raise ValueError("a word has at least one letter; given none")
        letters, counts = _spell([text])
        one = torch.ones(1, dtype=torch.int64)
        batch = TagBatch(
            torch.from_numpy(vocabulary.numbers([text]))[None], torch.from_numpy(letters.T.astype(np.int64)),
            torch.from_numpy(counts), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, values), one,
        )  # fmt: skip
        return model.model_.embed(batch)[0, 0, values:]

    return read


def shown(value: Any, most: int = 80) -> str:
    """A value as a message names it."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def drawn(count: int, most: int, seed: int) -> np.ndarray:
    """Indices of at most so many, in order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _placed(names: Sequence[str]) -> np.ndarray:
    """Each with its place, which tells equal ones apart."""
    return np.array([f"{n} {name}" for n, name in enumerate(names)])


def _letter(byte: int) -> str:
    return chr(byte) if 32 < byte < 127 else "space" if byte == 32 else repr(chr(byte))[1:-1]
