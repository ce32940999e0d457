"""The demonstrations on the embedded samples: their settings, and what is said of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SHOWN = 10  # words


class Demo(NamedTuple):
    """One demonstration of one task."""

    about: str
    data: Callable[[], Path]
    fields: dict[str, Any]
    quick: dict[str, Any]  # instead of these fields, to see that all works
    compare: tuple[str, ...]
    after: Callable[[Any, Path, Path], str]  # uses the trained model; from it, the data and the run folder


def _weather() -> Path:
    from tidegate.data import samples

    return samples.path("nyc_weather")


def _next_day(model: Any, data: Path, folder: Path) -> str:
    from tidegate.data.table import write_table

    path = folder / "next_24_hours.csv"
    write_table(model.predict(data), path)
    return f"The next 24 hours of each airport: {path}"


def _words() -> Path:
    from tidegate.data import samples

    return samples.path("word_stress")


def _stresses(model: Any, data: Path, folder: Path) -> str:
    from tidegate.data.table import read_table, write_table

    words, path = read_table(data)["word"], folder / "stress.csv"
    write_table(model.predict(data).insert_column(1, words), path)
    part = model.untouched()
    part = part.take(np.random.default_rng(0).permutation(len(part))[:SHOWN])
    p = model.probabilities(part)  # (SHOWN, K)
    lines = [
        f"  {part.one(n).tobytes().decode():<16} {model.classes_[k]} ({100 * p[n, k]:.0f}%)"
        + f", by the dictionary {part.labels[n]}" * (part.labels[n] != model.classes_[k])
        for n, k in enumerate(p.argmax(1))
    ]
    listed = "\n".join(lines)
    return f"""The stress of every word, with the probability of each: {path}

{SHOWN} of the words kept untouched, drawn at random, and the syllable that the model stresses:
{listed}"""


def _plays() -> Path:
    from tidegate.data import samples

    return samples.path("unpunctuated_plays")


def _restored(model: Any, data: Path, folder: Path) -> str:
    from tidegate.data.table import write_table

    path = folder / "tags.csv"
    write_table(model.predict(data), path)
    part = model.untouched().take(np.array([0]))
    words = [part.words[n] for n in part.tokens]
    p = model.probabilities(part)
    read, true = written(words, model.classes_[p.argmax(1)]), written(words, part.tags)
    return f"""The case and the mark of every word, with its probability: {path}

Passage {part.names[0]} ({part.groups[0]}), kept untouched, as the model writes it:
{textwrap.fill(read, 100)}

As the edition has it:
{textwrap.fill(true, 100)}"""


def written(words: Sequence[str], labels: Sequence[str]) -> str:
    """Words with the case and the marks that their labels name ("Capital," and the like)."""
    found = []
    for word, label in zip(words, labels, strict=True):
        case = label.rstrip(",.?!;:-")
        found.append((word.capitalize() if case == "Capital" else word) + label[len(case) :])
    return " ".join(found)


def _tragedies() -> Path:
    from tidegate.data import samples

    return samples.path("tragedies")


def _written(model: Any, data: Path, folder: Path) -> str:
    text = "".join(model.generate("**HAMLET**  \n", 500, temperature=0.7))
    return f"""What it writes after **HAMLET** (tidegate generate {folder} --prompt ... for more):

{text}"""


DEMOS = {
    "forecast": Demo(
        "The last week of hourly weather at three airports in, the temperature of the next 24 hours out.",
        _weather,
        {
            "target": ["temp"],
            "time": "time_hour",
            "series": "origin",
            "horizon": 24,
            "history": 168,
            "past": ["dewp", "humid", "wind_speed", "pressure", "precip"],
            "validation": 1 / 6,
            "test": 1 / 6,
            "epochs": 10,
            "windows": 4_096,
        },
        {"epochs": 1, "windows": 512, "history": 48, "hidden_size": 16},
        ("rnn",),
        _next_day,
    ),
    "classify": Demo(
        "The letters of an English word in, which of its syllables is stressed out; tested on words whose first five "
        "letters training has not seen.",
        _words,
        {
            "text": "word",
            "label": "stress",
            "group": "stem",
            "input_dropout": 0.5,
            "epochs": 20,
        },
        {"epochs": 2, "hidden_size": 16, "batch_size": 128, "learning_rate": 0.01},
        ("shuffled",),
        _stresses,
    ),
    "tag": Demo(
        "The words of a play in, without case and punctuation; whether each has a capital, and which mark follows it, "
        "out; tested on plays that training has not seen.",
        _plays,
        {
            "sequence": "passage",
            "label": "label",
            "token": "word",
            "group": "play",
            "validation": 0.1,
            "test": 0.2,
            "batch_size": 8,
            "epochs": 8,
        },
        {"epochs": 2, "learning_rate": 0.01, "hidden_size": 32, "embedding_size": 32, "characters": False},
        ("one-way",),
        _restored,
    ),
    "text": Demo(
        "Ten tragedies of Shakespeare in, byte by byte, what comes next out; tested on the last part, beside n-grams "
        "and xz.",
        _tragedies,
        {"validation": 0.01, "hidden_size": 384, "batch_size": 16, "window": 64, "epochs": 4, "precision": "bf16"},
        {"epochs": 1, "hidden_size": 64, "embedding_size": 32, "batch_size": 64},
        (),
        _written,
    ),
}
