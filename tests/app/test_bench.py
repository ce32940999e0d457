"""``tidegate bench``: what it prints and writes, at tiny size, and what it refuses. No time is judged here."""

from __future__ import annotations

import json
import re

import pytest
import torch

from tidegate.benchmark import layer, peers

COLUMNS = re.compile(
    r"  (?P<peer>tidegate|tidegate bf16|torch) +[\d.]+ ms  spread +[\d.]+%  ratio +(?P<ratio>[\d.]+)"
    r"  +(\d+|nan)% of peak +(-?[\d.]+|nan) MB"
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(peers, "QUICK", [peers.Shape(3, 2, 4, 5), peers.Shape(4, 1, 3, 2, L=2, D=2)])


def test_prints_columns_and_writes_json(run, tmp_path):
    path = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    done = run("bench", "--seconds", 0.01, "--threads", 1, "--json", path)
    assert done.code == 0, done
    assert torch.get_num_threads() == threads

    measured = [m for row in done.out.splitlines() if (m := COLUMNS.fullmatch(row.rstrip()))]
    assert [m["peer"] for m in measured] == ["tidegate", "tidegate bf16", "torch"] * 4  # 2 shapes, 2 modes
    assert all(float(m["ratio"]) == 1 for m in measured if m["peer"] == "tidegate")
    assert "T, B, I, H = 4, 1, 3, 2 x2 layers both directions: training" in done.out
    assert "torch takes " in done.out
    assert f"Written to {path}" in done.out

    found = json.loads(path.read_text())
    assert set(found) == {"machine", "rows", "command"}
    assert found["machine"]["threads"] == 1
    assert found["machine"]["torch"] == torch.__version__
    assert len(found["rows"]) == 12
    for row in found["rows"]:
        assert set(row) == {"shape", "label", "mode", "peer", "ms", "spread", "ratio", "share", "memory"}
        assert row["ms"] > 0
    # The ratio's direction: a peer's time over tidegate's.
    own, _, torch_row = found["rows"][:3]
    assert own["ratio"] == 1
    assert torch_row["mode"] == "inference"


def test_a_ratio_is_the_peers_time_over_tidegates(monkeypatch):
    monkeypatch.setattr(
        layer, "alternate", lambda runs, _: {name: [2.0 if name == "torch" else 1.0] * 5 for name in runs}
    )
    around = iter([0.5e-9, 1.5e-9])  # in the mean one operation a second
    monkeypatch.setattr(layer, "peaks", lambda _: dict.fromkeys(layer.PEAKS, next(around)))
    shape = peers.Shape(3, 2, 4, 5)
    rows = {row["peer"]: row for row in layer.measure(shape, "training", ["torch"], 0.01)}
    assert rows["torch"]["ratio"] == 2
    assert rows["tidegate"]["share"] == pytest.approx(3 * 8 * 5 * (4 + 5) * 3 * 2)
    assert layer.summary(list(rows.values()))["torch", "training"] == 2
    assert '"share": null' in layer.to_json({"share": float("nan")})


REFUSED = {
    "threads": (["--threads", "0"], "--threads is a number of at least 1; given 0"),
    "seconds": (["--seconds", "nan"], "--seconds is a number above 0; given nan"),
    "peer": (["--peer", "keras"], "keras"),
    "folder": (["--json", "nowhere/bench.json"], "the folder nowhere does not exist"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(run, what):
    words, sentence = REFUSED[what]
    done = run("bench", *words)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert sentence in done.err
    assert done.out == ""


def test_a_missing_peer_is_named(run, monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    done = run("bench", "--peer", "openvino")
    assert done.code == 2
    assert "the peer openvino needs openvino; install it with: pip install 'tidegate[bench]'" in done.err
