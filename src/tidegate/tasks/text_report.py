"""How a text model does on text it has not seen, beside baselines; and what is left for a person.

N bytes.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tidegate
from tidegate.data.plain import Text, characters, read_text
from tidegate.errors import DataError
from tidegate.tasks.bootstrap import ratio_interval
from tidegate.tasks.learner import Report
from tidegate.tasks.report import markdown_table
from tidegate.tasks.run import CARD, CONFIG, METRICS, MODEL, write_metrics, write_text
from tidegate.tasks.text_ngrams import KneserNey
from tidegate.training.loop import HISTORY
from tidegate.training.progress import say

if TYPE_CHECKING:
    from tidegate.tasks.text import TextModel

ORDERS = range(3, 10)
MOST = 32 << 20  # bytes just before the scored text that the baselines learn from
BLOCK = 500  # bytes drawn together for an interval
FEWEST = 100  # bytes that a comparison needs
COLUMNS = {
    "bits_per_byte": "bits per byte",
    "bits_per_character": "bits per character",
    "perplexity": "perplexity per byte",
}


def evaluate(
    model: TextModel,
    data: np.ndarray,
    before: np.ndarray | None,
    *,
    compare: Sequence[str] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """Scores of the model, of other forms of it, and of baselines.

    Parameters
    ----------
    data : (N,) uint8
    before : uint8, optional
        The text just before.

    Returns
    -------
    dict
        ``models`` by name with ``bits_per_byte``, ``bits_per_character`` (of UTF-8) and
        ``perplexity`` (2 to the bits per byte); ``ahead``: by how many bits per byte the model is
        ahead of each other that predicts byte by byte, with its 95% interval (bootstrap over blocks
        of 500 bytes, paired); ``ngrams``: bits per byte of each order on the part that chose it;
        ``test``.
    """
    name = model.form
    found: dict[str, np.ndarray | float] = {name: model.byte_bits(data, _tail(before))}
    model.check_comparisons(compare)
    for form in compare:
        twin = model.twin(form, progress=progress)
        found.setdefault(twin.form, twin.byte_bits(data, _tail(before)))
    orders: dict[int, float] = {}
    text = _learnt_from(model, progress)
    if text is not None:
        if progress:
            say(["Kneser-Ney n-grams and xz on the same text"])
        known = text.data[: model.ends_[1]]
        orders, title, bits = ngrams(known, model.ends_[0], data, before)
        found[title] = bits
        found["xz, given the training text"] = conditioned_xz(known[-MOST:], data)
    size, letters = len(data), max(1, characters(data))
    totals = {one: float(np.sum(bits)) for one, bits in found.items()}
    own = found[name]
    return {
        "test": {"bytes": size, "characters": letters},
        "models": {
            one: {
                "bits_per_byte": bits / size,
                "bits_per_character": bits / letters,
                "perplexity": float(2.0 ** (bits / size)),
            }
            for one, bits in totals.items()
        },
        "ahead": {
            one: dict(zip(("bits_per_byte", "low", "high"), _interval(bits - own, model.config.seed), strict=True))
            for one, bits in found.items()
            if one != name and isinstance(bits, np.ndarray)
        },
        "ngrams": {str(n): bits for n, bits in orders.items()},
    }


def _learnt_from(model: TextModel, progress: bool) -> Text | None:
    """The text of ``fit``; None where it cannot be read any more, or is another one now."""
    if model.text_ is None and not model.source_is_there:
        return None
    try:
        return model.training_text()
    except DataError:
        if progress:
            say([f"without n-grams and xz: {model.data_}, which they learn from, is not as it was in training"])
        return None


def _tail(before: np.ndarray | None) -> np.ndarray | None:
    return None if before is None else before[-4096:]


def ngrams(
    known: np.ndarray, end: int, data: np.ndarray, before: np.ndarray | None
) -> tuple[dict[int, float], str, np.ndarray]:
    """The order of 3 to 9 that does best on the part that stops training; it then learns from that part too.

    Returns
    -------
    dict, str, (N,) array
        Bits per byte of each order on that part, the name of the best, and its bits on ``data``.
    """
    train, valid = known[max(0, end - MOST) : end], known[end:]
    if not len(valid):  # nothing to choose by: the last twentieth of what it learns from
        train, valid = np.split(train, [max(1, len(train) - max(1, len(train) // 20))])
    tried = KneserNey(train, ORDERS[-1])
    orders = {n: float(bits.mean()) for n, bits in tried.bits(valid, train).items() if n in ORDERS}
    best = min(orders, key=lambda n: orders[n]) if orders else tried.order
    bits = KneserNey(known[-MOST:], best).bits(data, np.zeros(0, np.uint8) if before is None else before)[best]
    return orders, f"Kneser-Ney, {best}-grams", bits


def conditioned_xz(known: np.ndarray, data: np.ndarray) -> float:
    """Bits by which a packed text grows when ``data`` are put at its end."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    before, after = (
        len(lzma.compress(one.tobytes(), lzma.FORMAT_XZ, filters=filters))
        for one in (known, np.concatenate([known, data]))
    )
    return 8.0 * (after - before)


def _interval(difference: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean of (N,) bits, and its 95% interval by drawing whole blocks."""
    starts = np.arange(0, len(difference), max(1, min(BLOCK, len(difference) // 20)))
    sums, sizes = np.add.reduceat(difference, starts), np.diff([*starts, len(difference)])
    return float(difference.mean()), *ratio_interval(sums, sizes, seed)


def table(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the scores, for people; the best of each column is marked."""
    models = metrics["models"]
    best = {key: min(one[key] for one in models.values()) for key in COLUMNS}
    rows = [
        [name, *(f"{one[key]:.3f}" + ("*" if one[key] == best[key] else " ") for key in COLUMNS)]
        for name, one in models.items()
    ]
    return ["", *COLUMNS.values()], rows


def sentences(metrics: dict[str, Any], form: str) -> list[str]:
    """How far ahead or behind."""
    found, size = [], metrics["test"]["bytes"]
    for name, one in metrics["ahead"].items():
        ahead, low, high = one["bits_per_byte"], one["low"], one["high"]
        if size < FEWEST:
            few = f"on {size} bytes, too few to tell them apart"
            where = "behind" if ahead < 0 else "ahead of"
            found.append(f"{form} is {abs(ahead):.3f} bits per byte {where} {name} {few}.")
            continue
        verdict = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
        found.append(
            f"{form} is {verdict} {name}: {ahead:+.3f} bits per byte (95% block bootstrap {low:+.3f} to {high:+.3f})."
        )
    return found


def write_report(
    model: TextModel, folder: Path, data: Any, *, compare: Sequence[str], command: str, progress: bool
) -> Report:
    """Score, write ``metrics.json`` and the card."""
    files = [MODEL, CONFIG, METRICS, HISTORY, CARD]
    notes = read_text(data).notes if data is not None else []
    if data is None and model.resolved_.test == 0:
        write_text(folder / CARD, _card(model, None, command))
        kept = [folder / name for name in files if (folder / name).exists()]
        return Report("", [], [], ["Nothing was kept untouched (--test 0), so there is no score."], [], kept)
    metrics = evaluate(model, *model.untouched(data), compare=compare, progress=progress)
    write_metrics(folder, metrics)
    if data is None:
        write_text(folder / CARD, _card(model, metrics, command))
    return Report(
        f"{metrics['test']['bytes']:,} bytes {'kept untouched' if data is None else 'given'}; * is best",
        *table(metrics),
        sentences(metrics, model.form),
        notes,
        [folder / name for name in files if (folder / name).exists()],
    )


def _card(model: TextModel, metrics: dict[str, Any] | None, command: str) -> str:
    c, training = model.resolved_, model.training_
    notes = "\n".join(f"- {note}" for note in model.notes_)
    if metrics is None:
        scored = "Nothing was kept untouched, so there is no score."
    else:
        test, said = metrics["test"], "\n".join(sentences(metrics, model.form))
        scored = (
            f"{test['bytes']:,} bytes, {test['characters']:,} characters. The best of each column is marked.\n\n"
            f"{markdown_table(*table(metrics))}\n\n{said}"
        )
    size = f"{c.num_layers} layer{'s' * (c.num_layers > 1)} of {c.hidden_size} units"
    sample = "".join(model.generate(length=400, temperature=0.8)).splitlines()
    shown = "\n".join("    " + "".join(map(_shown, line)) for line in sample)
    return f"""# A text model

{c.cell.upper()}, {size}, which reads bytes and says what comes next.
Written by tidegate {tidegate.__version__}.

    {command}

## Data

{notes}

## Scores on text kept untouched

{scored}

Trained for {len(training.history)} epochs in {training.seconds:.0f} s; the best was epoch {training.best_epoch}.

## What it writes

At temperature 0.8, seed 0:

{shown}

Use it: `tidegate generate RUN --prompt TEXT`, or `tidegate predict RUN FILE -o lines.csv`, where RUN is this folder.
"""


def _shown(character: str) -> str:
    return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
