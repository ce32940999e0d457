"""The lens of models of labels and of text: what it answers, and a real browser on each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from task_cases import waves

import tidegate as tg
from tidegate import insight
from tidegate.insight.figures import gap_facts
from tidegate.insight.gap import agreement
from tidegate.insight.lens import make_app
from tidegate.insight.live_sequences import LiveSequences
from tidegate.insight.sequence_study import mean_input, sequence_study
from tidegate.insight.study import gap_steps

HOSTILE = "<img src=x onerror=hacked(3)>"
SMALL: dict[str, Any] = {"hidden_size": 6, "epochs": 2, "seed": 1}


def classifier(folder: Path) -> None:
    table = waves(40).with_columns(pl.col("kind").replace("up", HOSTILE)).rename({"v": HOSTILE + "v"})
    options = {"sequence": "s", "label": "kind", "time": "t", "feature": [HOSTILE + "v", "w"], "batch_size": 8}
    table.write_csv(folder.parent / "waves.csv")
    tg.Classifier(**options, **SMALL).fit(folder.parent / "waves.csv", folder=folder)


def tagger(folder: Path) -> None:
    rng = np.random.default_rng(0)
    words = [["a", "b", HOSTILE, "the", "cat"][k] for k in range(5)]
    tokens = [[words[k] for k in rng.integers(0, 5, rng.integers(4, 12))] for _ in range(60)]
    labels = [["X" if w == HOSTILE or (n and s[n - 1] == "a") else "O" for n, w in enumerate(s)] for s in tokens]
    rows = [
        (n, w, t) for n, (s, tags) in enumerate(zip(tokens, labels, strict=True)) for w, t in zip(s, tags, strict=True)
    ]
    pl.DataFrame(rows, ["s", "word", "tag"], orient="row").write_csv(folder.parent / "words.csv")
    options = {"sequence": "s", "token": "word", "label": "tag"}
    tg.Tagger(**options, **SMALL).fit(folder.parent / "words.csv", folder=folder)


def text(folder: Path) -> None:
    lines = "".join(f"<script>hacked({k % 7})</script> and so on\n" for k in range(1500))
    (folder.parent / "lines.txt").write_text(lines)
    tg.TextModel(**SMALL | {"epochs": 1}).fit(folder.parent / "lines.txt", folder=folder)


KINDS = {"classifier": classifier, "tagger": tagger, "text": text}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for name, make in KINDS.items():
        make(folder / name)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def live(runs, request) -> LiveSequences:
    return LiveSequences(sequence_study(insight.open_sequences(runs / request.param, most=6), worst=1))


def bars(chart: dict) -> np.ndarray:
    return np.array(chart["data"][0]["y"], float) + np.array(chart["data"][1]["y"], float)


def test_ledgers_are_those_of_the_library(live):
    """Of the memory in each direction, and of the margin."""
    one = live.opened.take([2])
    D, at = one.lstm.directions, len(one.x) // 2
    for d in range(D):
        charts = live.ledger(2, d, 3, at)
        found = insight.ledger(one.lstm, one.x, [at], layer=0).entries[0, :, 0, d, 3]
        np.testing.assert_allclose(bars(charts[0]), found, rtol=1e-4, atol=1e-6)
        assert (found[at + 1 :] == 0).all() if d == 0 else (found[:at] == 0).all()
        T = len(one.x)  # the gap is that of the part which the direction has read by then
        part = slice(0, at + 1) if d == 0 else slice(at, T)
        count = part.stop - part.start
        probed = [t if d == 0 else count - 1 - t for t in gap_steps(count)]
        gap = insight.ledger_gap(one.lstm, one.x[part], probed, baseline=mean_input(one)[part], layer=0)
        entry, erased, replaced = (getattr(gap, name)[:, 0, d, 3] for name in ("entry", "erased", "replaced"))
        assert charts[0]["facts"][:2] == gap_facts(
            {"erased": agreement(entry, erased), "replaced": agreement(entry, replaced)}, ""
        )
    step = at if one.tagged else None
    scores = one.scores(one.x).detach()[0] if step is None else one.scores(one.x).detach()[step, 0]
    best = scores.argsort(descending=True).tolist()
    truth = int(one.truth[0] if step is None else one.truth[step, 0])
    score = one.margin(best[0], truth if truth != best[0] else best[1], step)
    shares = insight.output_ledger(one.lstm, one.x, score).by_step()[:, 0]
    assert len(charts) == 3
    np.testing.assert_allclose(bars(charts[1]), shares, rtol=1e-4, atol=1e-5)


def test_windows(live):
    one = live.opened.take([1])
    for layer in range(one.lstm.num_layers * one.lstm.directions):
        found = live.window(1, layer)
        assert len(found["times"]) == len(found["names"]) == len(found["x"]) == int(one.lengths[0])
    last = found["sequence"]["data"][-1]["y"][-1]
    p = torch.softmax(one.scores(one.x).detach().double(), -1)
    if one.tagged:
        assert last == pytest.approx(float(p[-1, 0, one.truth[-1, 0]]), rel=1e-4)
    else:
        assert max(d["y"][-1] for d in found["sequence"]["data"]) == pytest.approx(float(p.max()), rel=1e-4)
    with pytest.raises(ValueError, match="layer is from 0 to"):
        live.window(1, layer + 1)


def test_matches_are_searched_within_lengths(live):
    cell = insight.trace(live.opened.lstm, live.opened.x, lengths=live.opened.lengths).layers[0].cell[:, 0, 0]
    threshold = round(float(cell[1:4].abs().min(0).values.max()) * 0.9, 4)
    found = live.matches(0, 0, 1, 4, threshold)
    expected = insight.match(
        live.opened.lstm, live.opened.x, (0, 1, 4), threshold=threshold, layer=0, lengths=live.opened.lengths
    )
    assert [(s["row"], s["start"], s["end"]) for s in found["spans"]] == [tuple(s) for s in expected.spans[:30]]
    assert all(s["end"] <= live.opened.lengths[s["row"]] for s in found["spans"])


def test_an_edit_changes_the_prediction(live):
    one = live.opened.take([0])
    x, at = one.x.clone(), 2
    if live.words:
        value = "a"
        other = next(t for t in range(len(one.x)) if live.times(0)[t].split(" ", 1)[1] == value)
        x[at, 0] = one.x[other, 0]  # what it reads where the word stands anyway
    else:
        value = "2.5"
        x[at, 0, 1] = 2.5
    place = 0 if live.words else 1
    chart = live.edit(0, at, place, value)
    p = torch.softmax(one.scores(x).detach().double(), -1)
    old = torch.softmax(one.scores(one.x).detach().double(), -1)
    drawn = np.array(chart["data"][-1]["y"], float)
    if one.tagged:
        np.testing.assert_allclose(drawn, p[torch.arange(len(x)), 0, one.truth[:, 0]], rtol=1e-4, atol=1e-6)
    else:
        assert drawn[-1] == pytest.approx(float(p[0, old[0].argmax()]), rel=1e-4)
        assert np.array(chart["data"][-1]["y"])[0] == pytest.approx(
            live.window(0, 0)["sequence"]["data"][0]["y"][0], abs=1
        )
    assert any("The edit changes" in fact for fact in chart["facts"])
    assert torch.equal(live.opened.take([0]).x, one.x)
    with pytest.raises(ValueError, match=r"one byte is read|a word has at least|value is a number"):
        live.edit(0, at, place, "")


def test_a_page_shows_hostile_names_as_text(live):
    from starlette.testclient import TestClient

    body = TestClient(make_app(live), base_url="http://localhost").get("/").text
    assert "<img src=x" not in body
    assert body.count("<script") == 5


@pytest.fixture(params=KINDS)
def server(runs, request) -> Iterator[tuple[str, int]]:
    """The command on each run, and the port it says."""
    words = ["lens", str(runs / request.param), "--port", "0", "--windows", "6", "--worst", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-m", "tidegate", *words], stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        watch = threading.Timer(120, process.kill)
        watch.start()
        said = []
        while line := process.stderr.readline():
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                yield request.param, int(found[1])
                break
        else:
            pytest.fail("".join(said))
        watch.cancel()
        process.kill()


def test_in_a_browser(server, visit):
    """A click on a moment changes the ledgers, marking a span asks for matches, an edit changes the prediction."""
    kind, port = server
    seen = visit(f"http://localhost:{port}/")
    tab = seen.tab

    def idle() -> None:
        tab.wait_for_function("() => !document.body.dataset.busy")

    tab.wait_for_selector("#lens-ledger .main-svg")
    idle()
    assert tab.locator("#lens-ledger h4").count() == 3
    assert not tab.locator("#lens-target").is_visible()
    plot = tab.locator("#lens-sequence .plot")
    plot.scroll_into_view_if_needed()
    before, when = tab.locator("#lens-ledger .facts").all_inner_texts(), tab.locator("#lens-when").inner_text()
    box = plot.bounding_box()
    tab.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    tab.wait_for_function("when => document.querySelector('#lens-when').textContent !== when", arg=when)
    idle()
    assert tab.locator("#lens-ledger .facts").all_inner_texts() != before

    tab.fill("#lens-threshold", "0.05")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=8)
    tab.mouse.up()
    tab.wait_for_function("() => document.querySelector('#lens-end').value !== ''")
    idle()
    start, end, last = (int(tab.input_value(f"#lens-{what}")) for what in ("start", "end", "at"))
    steps = int(tab.get_attribute("#lens-end", "max"))
    assert 0 < start < end < steps
    assert last < steps
    assert "No span is marked" not in tab.locator("#lens-units").inner_text()

    tab.fill("#lens-value", "3" if kind == "classifier" else "a")
    tab.click("#lens-predict")
    idle()
    assert "The edit changes" in tab.locator("#lens-edit .facts").inner_text()
    tab.fill("#lens-value", "")
    tab.click("#lens-predict")
    tab.wait_for_function("() => document.querySelector('#lens-problem').textContent !== ''")
    idle()
    assert "The edit changes" not in tab.locator("#lens-edit .facts").inner_text()
    box = tab.locator("#lens-problem").bounding_box()
    assert 0 < box["y"] < box["y"] + box["height"] < 900  # in the window, wherever it is
    tab.fill("#lens-end", "9999")
    tab.click("#lens-find")
    idle()
    assert "9999" in tab.locator("#lens-problem").inner_text()
    assert tab.locator("#lens-units").inner_text() == ""
    assert tab.locator("#lens-spans tr").count() == 0
    assert tab.locator("nav a").first.inner_text() == "Live"
    tab.select_option("#lens-row", "1")
    idle()
    for width, scheme in ((1280, "dark"), (400, "dark"), (400, "light")):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme=scheme)
        tab.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
    assert tab.locator("#lens-problem").inner_text() == ""
    assert tab.locator("img").count() == 0
    refused = [e for e in seen.errors if "400 (Bad Request)" not in e]  # the empty edit
    assert refused == []
    assert seen.hosts() == {f"localhost:{port}"}
