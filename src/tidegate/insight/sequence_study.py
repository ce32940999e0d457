"""All results that the page shows of a trained classifier, and the same of an untrained one beside it.

T steps, B sequences, I inputs, H hidden units, D directions, K labels, S shares of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tidegate.insight.ablate import Ablation, ablate_each
from tidegate.insight.attribution import Attribution, attribute
from tidegate.insight.gap import Agreement, agreement, ledger_gap
from tidegate.insight.gradients import GradientFlow, gradient_flow
from tidegate.insight.order import order_units
from tidegate.insight.output import OutputLedger, output_ledger
from tidegate.insight.sequences import NONE, OpenSequences
from tidegate.insight.spans import MemorySpans, memory_spans
from tidegate.insight.study import GAP_STEPS, Moment
from tidegate.insight.trace import trace
from tidegate.layer import LSTM
from tidegate.trace import Trace

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PLACES = 21  # of a sequence, from its start to its end: seven a third
LAGS = 20  # to either side of a step that has a label, in the page


@dataclass(frozen=True)
class Needed:
    """Log loss (nats, before calibration) and accuracy when a part of each sequence is all that is read."""

    shares: np.ndarray  # (S,) of a sequence; steps to either side, where each step has a label
    first: np.ndarray  # (S, 2) log loss and accuracy with the first part, or with steps before and none after
    last: np.ndarray  # (S, 2) with the last part, or with steps after and none before; (0, 2) where none is read back
    whole: tuple[float, float]  # with all


@dataclass(frozen=True)
class SequenceSide:
    """Results over all sequences, of the trained or the untrained model."""

    opened: OpenSequences
    needed: Needed
    places: np.ndarray  # of a sequence in [0, 1], or lags from the step whose label it is
    sizes: np.ndarray  # (places, D) mean |share| of the margin: of each part of a sequence, or at each lag
    gap: dict[str, Agreement]
    spans: MemorySpans
    flow: GradientFlow | None
    ablation: Ablation
    orders: list[np.ndarray]  # of each layer's units, (D * H,) within each direction


@dataclass(frozen=True)
class SequenceView:
    """One decision seen through one model: the margin of a label over another."""

    label: int
    other: int
    probabilities: np.ndarray  # (K,)
    trace: Trace
    moment: Moment
    attribution: Attribution


@dataclass(frozen=True)
class SequenceCase:
    """One of the decisions that are most surely wrong."""

    row: int
    name: str
    step: int | None  # whose label it is
    steps: np.ndarray  # (T,) what they are called
    truth: int
    loss: float
    trained: SequenceView
    untrained: SequenceView


@dataclass(frozen=True)
class SequenceStudy:
    """What the page is made of."""

    trained: SequenceSide
    untrained: SequenceSide
    cases: list[SequenceCase]


def sequence_study(opened: OpenSequences, *, worst: int = 3, progress: Any = None) -> SequenceStudy:
    """Look at a model in every way that the page shows.

    Parameters
    ----------
    opened : OpenSequences
    worst : int
        So many of the decisions with the largest log loss, one a sequence.
    progress : callable, optional
        Told in a few words what is being done.
    """
    tell = progress or (lambda what: None)
    for note in opened.notes:
        tell(note)
    other = opened.untrained()
    sides = []
    for what, one in (("the trained model", opened), ("an untrained one, as a control", other)):
        tell(f"{what}: parts of the sequence, ledgers, half-lives, gradients")
        sides.append(_side(one))
    rows = _worst(opened, worst)
    tell(f"the {len(rows)} most surely wrong of {len(opened.rows)} sequences: gates, ledgers and gaps, attributions")
    return SequenceStudy(sides[0], sides[1], [_case(opened, other, row, step) for row, step in rows])


def _side(one: OpenSequences) -> SequenceSide:
    lstm = one.lstm
    few, some = one.take(range(min(64, len(one.rows)))), one.take(range(min(8, len(one.rows))))
    with torch.no_grad():
        traced = trace(lstm, few.x, lengths=few.lengths)
    orders = [_order(layer.cell) for layer in traced.layers]
    places, sizes = _places(one)
    return SequenceSide(
        one,
        _needed_around(one) if one.tagged else _needed(one),
        places,
        sizes,
        _gap(some),
        memory_spans(lstm, few.x, lengths=few.lengths, starts=64),
        _flow(one),
        ablate_each(lstm, few.x, few.loss()),
        orders,
    )


def _order(cell: Tensor) -> np.ndarray:
    """Units of each direction so that those which move alike are neighbours, (D, H)."""
    return np.stack([order_units(cell[:, :, d].flatten(0, 1).numpy()) for d in range(cell.shape[2])])


# -- how much of a sequence is needed ---------------------------------------------------------------


def _needed(one: OpenSequences) -> Needed:
    found = [[_scored(one, *kept(one.x, one.lengths, share, last)) for share in SHARES] for last in (False, True)]
    return Needed(np.array(SHARES), np.array(found[0]), np.array(found[1]), found[0][-1])


def kept(x: Tensor, lengths: Tensor, share: float, last: bool) -> tuple[Tensor, Tensor]:
    """The first or the last share of each sequence of x (T, B, I), at least a step; and its lengths (B,)."""
    part = Fraction(share).limit_denominator(1000)  # exactly, as rounding would take a step more
    short = torch.minimum((-(-lengths * part.numerator // part.denominator)).clamp(min=1), lengths)
    start = lengths - short if last else torch.zeros_like(short)
    at = start + torch.arange(max(1, int(short.max())))[:, None]  # (T', B)
    inside = at < start + short
    found = torch.gather(x, 0, torch.where(inside, at, 0)[..., None].expand(-1, -1, x.shape[-1]))
    return found * inside[..., None], short


@torch.no_grad()
def _scored(one: OpenSequences, x: Tensor, lengths: Tensor) -> tuple[float, float]:
    scores = one.scores(x, lengths)  # (B, K)
    known = one.truth != NONE
    right = scores.argmax(-1)[known] == one.truth[known]
    return float(one.losses(scores)[known].mean()), float(right.double().mean())


def _needed_around(one: OpenSequences) -> Needed:
    """The label of chosen steps, with so many steps before and none after, and the reverse."""
    rng = np.random.default_rng(0)
    known = torch.nonzero(one.truth != NONE).numpy()  # (n, 2) step and row
    chosen = known[np.sort(rng.permutation(len(known))[:512])]
    widths = [w for w in (0, 1, 2, 3, 5, 8, 13, 20, 50, 100) if w == 0 or w < int(one.lengths.max())]
    first = [_around(one, chosen, w, 0) for w in widths]
    last = [_around(one, chosen, 0, w) for w in widths if one.lstm.directions > 1]
    whole = _around(one, chosen, None, None)
    return Needed(np.array(widths), np.array(first), np.array(last).reshape(-1, 2), whole)


@torch.no_grad()
def _around(one: OpenSequences, chosen: np.ndarray, before: int | None, after: int | None) -> tuple[float, float]:
    """Log loss and accuracy at (step, row) with so many steps before and after; all of them where None."""
    T = len(one.x)
    step, row = (torch.from_numpy(chosen[:, k]) for k in (0, 1))
    start = torch.zeros_like(step) if before is None else (step - before).clamp(min=0)
    end = one.lengths[row] if after is None else torch.minimum(step + after + 1, one.lengths[row])
    length = end - start
    at = (start + torch.arange(int(length.max()))[:, None]).clamp(max=T - 1)
    scores = one.scores(one.x[at, row], length)[step - start, torch.arange(len(step))]  # (n, K)
    truth = one.truth[step, row]
    loss = torch.nn.functional.cross_entropy(scores, truth)
    return float(loss), float((scores.argmax(-1) == truth).double().mean())


# -- ledgers ----------------------------------------------------------------------------------------


def decision(one: OpenSequences, step: int | None = None) -> tuple[int, int]:
    """The label that a single sequence (or step) is given, and the one it is weighed against.

    That is the right label where another is given, and else the runner-up.
    """
    with torch.no_grad():
        scores = one.scores(one.x)[0] if step is None else one.scores(one.x)[step, 0]  # (K,)
    truth = int(one.truth[0] if step is None else one.truth[step, 0])
    best = scores.argsort(descending=True).tolist()
    return best[0], truth if truth not in (NONE, best[0]) else best[1]


def _asked(one: OpenSequences, row: int) -> tuple[OpenSequences, int | None]:
    """A single sequence, and for tags the labelled step nearest its middle."""
    single = one.take([row])
    if not one.tagged:
        return single, None
    known = torch.nonzero(single.truth[:, 0] != NONE).flatten()
    return single, int(known[(known - len(single.x) // 2).abs().argmin()])


def _rows(one: OpenSequences, most: int) -> list[int]:
    """Sequences of two steps at least that have a label."""
    known = (one.truth != NONE).any(0) if one.tagged else one.truth != NONE
    return torch.nonzero(known & (one.lengths > 1)).flatten().tolist()[:most]


def _margin(one: OpenSequences, row: int) -> tuple[OpenSequences, int | None, Any]:
    single, step = _asked(one, row)
    return single, step, single.margin(*decision(single, step), step)


def _places(one: OpenSequences, most: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Mean |share| of the margin by place, in each direction: (n,) and (n, D)."""
    D = one.lstm.directions
    places = np.arange(-LAGS, LAGS + 1) if one.tagged else (np.arange(PLACES) + 0.5) / PLACES
    total, count = np.zeros((len(places), D)), np.zeros((len(places), 1))
    for row in _rows(one, most):
        single, step, score = _margin(one, row)
        shares = output_ledger(one.lstm, single.x, score).shares[: int(single.lengths[0]), 0]
        sizes = np.abs(shares.sum(-1))  # (T, D)
        if step is None:
            total += spread(sizes)
            count += 1.0
            continue
        at = np.arange(len(sizes)) - step + LAGS
        inside = (at >= 0) & (at < len(places))
        total[at[inside]] += sizes[inside]
        count[at[inside]] += 1.0
    return places, total / np.maximum(count, 1.0)


def spread(sizes: np.ndarray, parts: int = PLACES) -> np.ndarray:
    """Sizes of steps (T, D) as those of equal parts of the sequence (parts, D), each step's over all that it covers."""
    upto = np.concatenate([np.zeros_like(sizes[:1]), sizes.cumsum(0)])  # (T + 1, D)
    ends, steps = np.linspace(0.0, 1.0, parts + 1), np.linspace(0.0, 1.0, len(upto))
    return np.diff(np.stack([np.interp(ends, steps, each) for each in upto.T], 1), axis=0)


def probed(T: int, step: int | None) -> list[int]:
    """Steps to hold a ledger against: all of a short sequence; else half of them about ``step``, half spread."""
    if T <= GAP_STEPS:
        return list(range(T))
    near = [] if step is None else range(max(0, step - GAP_STEPS // 4), min(T, step + GAP_STEPS // 4))
    spread = np.linspace(0, T - 1, GAP_STEPS - len(near)).round().astype(int).tolist()
    return sorted({*near, *spread})


def _gap(one: OpenSequences) -> dict[str, Agreement]:
    """Of the margins' ledgers of a few sequences."""
    entries: dict[str, list[np.ndarray]] = {"entry": [], "erased": [], "replaced": []}
    for row in _rows(one, len(one.rows)):
        single, step, score = _margin(one, row)
        found = _held_against(single, score, step)
        for name, values in entries.items():
            values.append(getattr(found, f"output_{name}")[:, 0])
    if not entries["entry"]:
        return {how: agreement(np.zeros(0), np.zeros(0)) for how in ("erased", "replaced")}
    entry, erased, replaced = (np.concatenate(values) for values in entries.values())
    return {"erased": agreement(entry, erased), "replaced": agreement(entry, replaced)}


def _held_against(single: OpenSequences, score: Any, step: int | None) -> Any:
    T = int(single.lengths[0])
    return ledger_gap(single.lstm, single.x, probed(T, step), score=score, baseline=mean_input(single))


def mean_input(single: OpenSequences) -> Tensor:
    """The training mean at each step, flags as they are: (T, B, I)."""
    return torch.where(single.fixed, single.x, single.baseline)


def _flow(one: OpenSequences) -> GradientFlow | None:
    """Back from the last step of the longest sequences, in the first layer read forwards."""
    lstm = one.lstm
    if lstm.proj_size or lstm.layer_norm or lstm.peephole:
        return None
    with torch.random.fork_rng(devices=[]):  # what it draws is written over
        forward = LSTM(lstm.input_size, lstm.hidden_size, zoneout=lstm.zoneout)
    forward.load_state_dict({name: p for name, p in lstm.state_dict().items() if name.endswith("_l0")})
    longest = one.lengths.argsort(descending=True)[:16]
    T = max(1, int(one.lengths[longest].min()))
    return gradient_flow(forward, one.x[:T, longest])


# -- decisions that are wrong -----------------------------------------------------------------------


def _worst(one: OpenSequences, most: int) -> list[tuple[int, int | None]]:
    """Rows, and steps of tags, with the largest log loss."""
    with torch.no_grad():
        scores = one.scores(one.x)
    loss = torch.nn.functional.cross_entropy(
        scores.flatten(0, -2), one.truth.flatten(), ignore_index=NONE, reduction="none"
    ).reshape(one.truth.shape)
    by_row = loss.max(0) if one.tagged else None
    each = loss if by_row is None else by_row.values  # (B,)
    each = torch.where(one.lengths > 0, each, -1.0)
    rows = each.argsort(descending=True, stable=True)[:most].tolist()
    return [(row, None if by_row is None else int(by_row.indices[row])) for row in rows if each[row] > 0]


def _case(one: OpenSequences, other: OpenSequences, row: int, step: int | None) -> SequenceCase:
    single = one.take([row])
    truth = int(single.truth[0] if step is None else single.truth[step, 0])
    pair = decision(single, step)
    views = [_view(model.take([row]), pair, step) for model in (one, other)]
    p = views[0].probabilities[truth]
    loss = float(-np.log(max(p, 1e-300)))
    return SequenceCase(row, single.rows[0], step, single.steps[0], truth, loss, views[0], views[1])


def margin_moment(single: OpenSequences, pair: tuple[int, int], step: int | None) -> Moment:
    """The ledger of the margin of one label over another, with its gap figure."""
    score = single.margin(*pair, step)
    found: OutputLedger = output_ledger(single.lstm, single.x, score)
    gap = _held_against(single, score, step)
    entry, erased, replaced = (getattr(gap, f"output_{name}")[:, 0] for name in ("entry", "erased", "replaced"))
    return Moment(
        0 if step is None else step, found.by_step()[:, 0], float(found.initial.sum()), float(found.rest[0]),
        float(found.value[0]), np.asarray(gap.steps), erased, replaced,
        {"erased": agreement(entry, erased), "replaced": agreement(entry, replaced)},
    )  # fmt: skip


def _view(single: OpenSequences, pair: tuple[int, int], step: int | None) -> SequenceView:
    with torch.no_grad():
        scores = single.scores(single.x)[0] if step is None else single.scores(single.x)[step, 0]
    score = single.margin(*pair, step)
    moment = margin_moment(single, pair, step)
    names = single.names or [f"dimension {k}" for k in range(single.x.shape[-1])]
    for points in (64, 256, 1024):
        shares = attribute(
            score, single.x, baseline=mean_input(single), fixed=single.fixed, names=names, points=points,
            lengths=single.lengths,
        )  # fmt: skip
        if abs(shares.error[0]) <= 0.01 * abs(shares.value[0] - shares.baseline_value[0]):
            break
    traced = trace(single.lstm, single.x, lengths=single.lengths)
    p = torch.softmax(scores.double(), 0).numpy()
    return SequenceView(*pair, p, traced, moment, shares)
