"""The README's figures are those of the pages that it names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text().split())


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_speed():
    inference, training = re.findall(r"^Geometric mean of the ratios: .*?torch (\d\.\d\d)", page("benchmarks.md"), re.M)
    assert f"torch takes {inference} times the time at inference and {training} in training" in README


def test_gradients():
    first = re.search(r"^\| LSTM, chrono, .*$", page("gradients.md"), re.M)
    assert first is not None
    left = first.group().split("|")[5].strip()  # dL/dC at lag 1,000
    assert f"keeps {left} of its norm over 1,000 steps" in README


def test_tags_and_text():
    for what, unit in (("accuracy", "points more labels of unseen plays right"), ("span F1", "points more span F1")):
        row = re.search(rf"^\| LSTM, one-way \| {what} \| \+([\d.]+) points", page("tag.md"), re.M)
        assert row is not None
        assert f"{row.group(1)} {unit}" in README
    whole = page("text.md").partition("## All plays")[2]
    lstm, grams = (re.findall(rf"^\| {name}.*? \| ([\d.]+)", whole, re.M)[0] for name in ("LSTM", "Kneser-Ney"))
    assert f"{lstm} bits per byte" in README
    assert f"n-grams need {grams} " in README
