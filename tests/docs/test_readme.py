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


def test_packed():
    found = re.search(r"^Geometric means .*: (\d\.\d\d) at inference, (\d\.\d\d) in training", page("packed.md"), re.M)
    assert found is not None
    inference, training = map(float, found.groups())
    assert f"{inference:.1f} and {training:.1f} on packed sequences" in README


def test_accuracy():
    found = re.search(r"^float32: outputs err (0\.\d\d) .*, gradients (0\.\d\d) times", page("accuracy.md"), re.M)
    assert found is not None
    outputs, gradients = (value.removeprefix("0") for value in found.groups())
    assert f"{outputs} of torch's error at the output and {gradients} in the gradients" in README


def test_gradients():
    first = re.search(r"^\| LSTM, chrono, .*$", page("gradients.md"), re.M)
    assert first is not None
    left = first.group().split("|")[5].strip()  # dL/dC at lag 1,000
    assert f"keeps {left} of its norm over 1,000 steps" in README


def test_stress():
    words = page("classify.md").partition("## The stress of words")[2]
    names = ("LSTM", "logistic regression", "LSTM, steps shuffled")
    lstm, regression, shuffled = (re.findall(rf"^\| {name} \| ([\d.]+)", words, re.M)[0] for name in names)
    assert f"classifier tells {lstm}% of the stressed syllables" in README
    assert (
        f"logistic regression on summary statistics {regression}%, the same LSTM on shuffled letters {shuffled}%"
        in README
    )


def test_little_data():
    words = page("small_data.md").partition("## Measured: the stress of words")[2]
    rows = {name: re.search(rf"^\| {name} \| (.*) \|$", words, re.M) for name in ("plain", "recipe")}
    half, whole = (
        row.group(1).split(" | ")[k].split()[0] for row, k in ((rows["recipe"], 2), (rows["plain"], 3)) if row
    )
    assert half < whole
    assert f"(log loss {half} and {whole}, five seeds)" in README
    text = re.search(r"^\| recipe − plain \| (.*) \|$", page("small_data.md").partition("## Measured: plays")[2], re.M)
    assert text is not None
    quarter, _, _, two = (cell.split()[0] for cell in text.group(1).split(" | "))
    assert f"texts: {quarter[1:]} bits per byte ahead with a quarter of a megabyte, {two[1:]} behind" in README
    weeks = page("small_data.md").partition("## Measured: tomorrow's temperature")[2]
    row = re.search(r"^\| recipe − plain \| (.*) \|$", weeks, re.M)
    assert row is not None
    four, eight, _, all_ = (cell.split()[0] for cell in row.group(1).split(" | "))
    assert four[0] == eight[0] == "-"
    assert all_[0] == "+"
    assert (
        f"by {four[1:]} °F with 4 weeks and {eight[1:]} with 8, five seeds) and not with many ({all_[1:]} behind"
        in README
    )


def test_tags_and_text():
    for what, unit in (("accuracy", "points more labels of unseen plays right"), ("span F1", "points more span F1")):
        row = re.search(rf"^\| LSTM, one-way \| {what} \| \+([\d.]+) points", page("tag.md"), re.M)
        assert row is not None
        assert f"{row.group(1)} {unit}" in README
    whole = page("text.md").partition("## All plays")[2]
    lstm, grams = (re.findall(rf"^\| {name}.*? \| ([\d.]+)", whole, re.M)[0] for name in ("LSTM", "Kneser-Ney"))
    assert f"{lstm} bits per byte" in README
    assert f"n-grams need {grams} " in README
