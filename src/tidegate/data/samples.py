"""Real data that comes with the package, for the demo, the docs and the tests."""

from __future__ import annotations

from pathlib import Path

from tidegate.errors import DataError

_FOLDER = Path(__file__).parent / "embedded"


def names() -> list[str]:
    """The samples there are. ``data/embedded/README.md`` in the package states source and licence of each."""
    return sorted(_paths())


def _paths() -> dict[str, Path]:
    """Tables, and texts packed with xz."""
    return {p.name.partition(".")[0]: p for p in (*_FOLDER.glob("*.parquet"), *_FOLDER.glob("*.txt.xz"))}


def path(name: str) -> Path:
    """The file of a sample: Parquet, or a text packed with xz.

    ``nyc_weather``: 26,115 rows of hourly weather at three New York airports in 2013 (columns ``origin``,
    ``time_hour`` in UTC, ``temp`` in °F, and eight more).

    ``shoulder_exercises``: 1,546 sequences of 25 to 50 steps, from a watch on the wrist of ten people at seven
    exercises (columns ``sequence``, ``subject``, ``side``, ``exercise``, ``step`` at 12.5 Hz, ``ax`` to ``az`` in g,
    ``wx`` to ``wz`` in rad/s).

    ``word_stress``: 20,000 English words of three syllables or more, and which of them is stressed (columns ``word``,
    ``stem``: its first five letters, ``stress``: "first", "second" or "third or later").

    ``unpunctuated_plays``: 245,529 words of thirteen plays without case and punctuation, in passages of a hundred
    (columns ``play``, ``passage``, ``word``, ``label``: ``lower`` or ``Capital`` and the mark that follows).

    ``tragedies``: ten plays of Shakespeare in Markdown, 1,480,596 bytes.

    Raises
    ------
    DataError
        For a name that is not a sample.
    """
    if name not in names():
        raise DataError(f"there is no sample '{name}'; there are: {', '.join(names())}")
    return _paths()[name]
