"""The lens as a process of its own: what it answers, what it refuses, and a real browser on it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch

from tidegate import insight
from tidegate.cli import main
from tidegate.insight.lens import own_host

WINDOWS = 8


@pytest.fixture(scope="module")
def server(hostile) -> Iterator[tuple[subprocess.Popen, int]]:
    """The command, and the port it says."""
    words = ["lens", str(hostile / "run"), "--port", "0", "--windows", str(WINDOWS), "--worst", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "tidegate", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        watch = threading.Timer(120, process.kill)
        watch.start()
        said = []
        while line := process.stderr.readline():
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                yield process, int(found[1])
                break
        else:
            pytest.fail("".join(said))
        watch.cancel()
        process.kill()


@pytest.fixture(scope="module")
def opened(hostile) -> insight.OpenForecast:
    return insight.open_forecast(hostile / "run", most=WINDOWS)


def ask(server: Any, path: str, method: str = "GET", host: str | None = None, **query: Any) -> tuple[int, Any, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", server[1], timeout=30)) as connection:
        headers = {} if host is None else {"Host": host}
        connection.request(method, path + ("?" + urlencode(query) if query else ""), headers=headers)
        response = connection.getresponse()
        body = response.read()
    kind = response.headers.get_content_type()
    return response.status, response.headers, json.loads(body) if kind == "application/json" else body.decode()


def test_only_this_machine_is_answered(server):
    port = server[1]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "[::1]:80", "LOCALHOST"):
        status, headers, body = ask(server, "/window?row=0&layer=0&target=0", host=host)
        assert (status, "sequence" in body) == (200, True)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert "Access-Control-Allow-Origin" not in headers
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
    ):
        assert ask(server, "/", host=host)[0] == 421
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert ask(server, "/", method)[0] == 405


def test_hosts():
    assert own_host("10.1.2.3:80", "0.0.0.0")
    assert own_host("box.lan", "box.lan")
    assert not own_host("other.lan", "0.0.0.0")
    assert not own_host("10.1.2.3", "127.0.0.1")


@pytest.mark.parametrize(
    ("path", "query", "sentence"),
    [
        ("/window", {"row": 99, "layer": 0, "target": 0}, "row is from 0 to 7; given 99"),
        ("/window", {"row": 0, "layer": -1, "target": 0}, "layer is from 0 to 1; given -1"),
        ("/window", {"row": "x", "layer": 0, "target": 0}, "row is a whole number"),
        ("/window", {"row": 0}, "expected the parameters row, layer, target"),
        ("/ledger", {"row": 0, "layer": 0, "unit": 6, "at": 3, "target": 0}, "unit is from 0 to 5; given 6"),
        ("/ledger", {"row": 0, "layer": 0, "unit": 0, "at": 28, "target": 0}, "step is from 0 to 27; given 28"),
        ("/matches", {"row": 0, "layer": 0, "start": 5, "end": 5, "threshold": 0.5}, "0 <= start < end"),
        ("/matches", {"row": 0, "layer": 0, "start": 5, "end": 9, "threshold": "nan"}, "threshold is"),
        ("/edit", {"row": 0, "at": 3, "place": 999, "value": 1, "target": 0}, "input is from 0 to"),
        ("/edit", {"row": 0, "at": 3, "place": 0, "value": "nan", "target": 0}, "value is a number"),
    ],
)
def test_bad_questions_are_answered_with_a_sentence(server, path, query, sentence):
    status, _, body = ask(server, path, **query)
    assert status == 400
    assert sentence in body["problem"]


def bars(chart: dict) -> np.ndarray:
    """Positive and negative ones together."""
    return np.array(chart["data"][0]["y"], float) + np.array(chart["data"][1]["y"], float)


def test_ledgers_are_those_of_the_library(server, opened):
    one = opened.take([3])
    _, _, charts = ask(server, "/ledger", row=3, layer=0, unit=2, at=10, target=0)
    assert len(charts) == 1
    found = insight.ledger(one.lstm, one.x, [10], layer=0).entries[0, :, 0, 0, 2]
    np.testing.assert_allclose(bars(charts[0]), found, rtol=1e-4, atol=1e-6)
    assert any("write erased" in fact for fact in charts[0]["facts"])
    _, _, charts = ask(server, "/ledger", row=3, layer=1, unit=2, at=26, target=0)
    assert len(charts) == 3
    shares = insight.output_ledger(one.lstm, one.x, one.score(2)).by_step()[:, 0]
    np.testing.assert_allclose(bars(charts[1]), shares, rtol=1e-4, atol=1e-5)


def marking(opened) -> tuple[int, int, float, int]:
    """A span of the first window, and a threshold, with spans found elsewhere; and how many."""
    cell = insight.trace(opened.lstm, opened.x).layers[-1].cell[:, 0, 0].abs()  # (T, H)
    for start in range(1, len(cell)):
        low, high = cell[start:].min(0).values, cell[start - 1]
        for unit in (low > high + 1e-3).nonzero().flatten().tolist():
            threshold = round(float(low[unit] + high[unit]) / 2, 4)
            found = insight.match(opened.lstm, opened.x, (0, start, len(cell)), threshold=threshold)
            if found.spans:
                return start, len(cell), threshold, len(found.spans)
    raise AssertionError("no span of the first window is marked elsewhere too")


def test_matches_are_those_of_the_library(server, opened):
    start, end, threshold, _ = marking(opened)
    status, _, body = ask(server, "/matches", row=0, layer=1, start=start, end=end, threshold=threshold)
    found = insight.match(opened.lstm, opened.x, (0, start, end), threshold=threshold)
    assert status == 200
    assert [(s["row"], s["start"], s["end"]) for s in body["spans"]] == [tuple(s) for s in found.spans[:30]]
    assert len(body["units"]) == len(found.units) > 0


def test_an_edit_changes_the_forecast(server, opened):
    one, place = opened.take([1]), 0
    x = one.x.clone()
    x[20, 0, place] = 2.5
    _, _, chart = ask(server, "/edit", row=1, at=20, place=place, value=2.5, target=0)
    with torch.no_grad():
        scaled = one.model(one.batch._replace(inputs=x)).double().numpy()
    middle = one.model.median
    expected = one.windows.unscale(scaled, one.origins.series)[0, :, 0, middle]
    np.testing.assert_allclose(chart["data"][-1]["y"], expected, rtol=1e-4)
    np.testing.assert_allclose(chart["data"][-2]["y"], one.forecast()[0, :, 0, middle], rtol=1e-4)
    again = ask(server, "/window", row=1, layer=0, target=0)[2]
    np.testing.assert_allclose(again["x"][20][place], one.x[20, 0, place], rtol=1e-4)  # nothing stays edited


def idle(tab: Any) -> None:
    tab.wait_for_function("() => !document.body.dataset.busy")


def test_in_a_browser(server, opened, visit):
    """A click on a moment changes the ledger, marking a span lists matches, an edit changes the forecast."""
    seen = visit(f"http://localhost:{server[1]}/")
    tab = seen.tab
    tab.wait_for_selector("#lens-ledger .main-svg")
    idle(tab)
    plot = tab.locator("#lens-sequence .plot")
    plot.scroll_into_view_if_needed()
    before, when = tab.locator("#lens-ledger .facts").all_inner_texts(), tab.locator("#lens-when").inner_text()
    assert all("Ledger against truth" in facts for facts in before)
    box = plot.bounding_box()
    tab.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
    tab.wait_for_function("when => document.querySelector('#lens-when').textContent !== when", arg=when)
    idle(tab)
    assert tab.locator("#lens-ledger .facts").all_inner_texts() != before

    tab.fill("#lens-threshold", "0.05")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"], steps=8)
    tab.mouse.up()
    tab.wait_for_function("() => document.querySelector('#lens-end').value !== ''")
    idle(tab)
    start, end = int(tab.input_value("#lens-start")), int(tab.input_value("#lens-end"))
    assert 0 < start < end < 20
    said = tab.locator("#lens-units").inner_text()
    assert "No span is marked" not in said

    start, end, threshold, spans = marking(opened)
    tab.select_option("#lens-row", "0")
    tab.fill("#lens-start", str(start))
    tab.fill("#lens-end", str(end))
    tab.fill("#lens-threshold", str(threshold))
    tab.click("#lens-find")
    tab.wait_for_function("() => document.querySelectorAll('#lens-spans tr').length > 1")
    assert tab.locator("#lens-spans tr").count() == 1 + min(30, spans)
    assert "Units that mark it" in tab.locator("#lens-units").inner_text()
    idle(tab)

    tab.fill("#lens-value", "3")
    tab.click("#lens-predict")
    idle(tab)
    assert "The edit changes the median" in tab.locator("#lens-edit .facts").inner_text()
    tab.select_option("#lens-layer", "0")
    tab.select_option("#lens-row", "1")
    idle(tab)
    tab.set_viewport_size({"width": 400, "height": 800})
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function("() => document.documentElement.scrollWidth <= 400")
    assert tab.locator("#lens-problem").inner_text() == ""
    assert tab.locator("img").count() == 0
    assert seen.errors == []
    assert seen.hosts() == {f"localhost:{server[1]}"}


def test_taken_port_and_bad_ones(hostile, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, sentence in (
            (["--port", port], f"--port: {port} is in use; give another one"),
            (["--port", 70_000], "--port is from 0 to 65535; given 70000"),
            (["--host", "203.0.113.7", "--port", 0], "--host: cannot listen on 203.0.113.7"),
            (["--windows", 0], "--windows is a number of windows or sequences, at least 1; given 0"),
        ):
            with pytest.raises(SystemExit) as stop:
                main(["lens", str(hostile / "run"), *map(str, words)])
            assert stop.value.code == 2
            assert sentence in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_ends_it(server):
    """Last, as it ends the server of the tests above."""
    process = server[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    said = process.stderr.read()
    assert "closed" in said
    assert "Traceback" not in said
