"""Runs are reproducible, stop and go on, and are never run twice; the page says what the results say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.long_lag import __main__ as command
from experiments.long_lag import report, results, run, train
from experiments.long_lag.lags import NoiseFree, VeryLong
from experiments.long_lag.network import Network, Setting
from experiments.long_lag.order import order_6a
from experiments.long_lag.table import PAPER

CHRONO = PAPER["6a"].rows()[0].setting


def without_time(record: dict) -> dict:
    return {key: value for key, value in record.items() if key != "cpu_seconds"}


class Growing(NoiseFree):
    grow_after = 200


@pytest.mark.parametrize(
    ("kind", "words", "stops"),
    [(VeryLong, (5, 600), 20), (Growing, (5,), 10), (Growing, (5,), 30)],
    ids=["2c", "2a before it grows", "2a after"],
)
def test_a_stopped_run_ends_as_an_uninterrupted_one(tmp_path, kind, words, stops):
    setting, file = Setting(batch=8, units=4), tmp_path / "unfinished.pt"
    whole = train.train(kind(*words), setting, 3, cap=600)
    assert stops * 8 < whole["sequences"] <= 600

    seen = []

    class Stopping(kind):
        def solved(self, *words):
            seen.append(1)
            if len(seen) == stops:
                os.kill(os.getpid(), signal.SIGINT)
            return super().solved(*words)

    with pytest.raises(KeyboardInterrupt):
        train.train(Stopping(*words), setting, 3, cap=600, unfinished=file)
    assert len(seen) == stops
    assert file.exists()
    again = train.train(kind(*words), setting, 3, cap=600, unfinished=file)
    assert without_time(again) == without_time(whole)
    assert not file.exists()


def test_chrono_is_set_by_the_mean_length():
    layer = Network(order_6a(), Setting(units=500)).layer
    bias = layer.bias_ih_l0[500:1000]  # the forget gate's
    assert 100 < bias.exp().max() <= 104


def test_a_finished_seed_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "UNFINISHED", tmp_path / "unfinished")
    trained = []

    def quick(task, setting, seed, unfinished):
        trained.append((task.key, setting.init, seed))
        if len(trained) == 3:
            raise KeyboardInterrupt
        solved = setting.init == "chrono"
        return made(task.key, setting, seed, solved, 1000, task.published)

    monkeypatch.setattr(run, "train", quick)
    before = signal.getsignal(signal.SIGTERM)
    threads = threading.active_count()  # a test before may have left some
    words = ["6a", "--model", "lstm", "--seeds", "2", "--out", str(tmp_path)]
    try:
        with pytest.raises(SystemExit, match="stopped; the same command goes on from here"):
            command.main(words)
        assert len(results.read("6a", tmp_path)) == 2
        command.main(words)
        command.main(words)
    finally:
        signal.signal(signal.SIGTERM, before)
    # the third one was stopped, and so begins again
    order = [("chrono", 0), ("chrono", 1), ("forget bias 1", 0), ("forget bias 1", 0), ("forget bias 1", 1)]
    assert [t[1:] for t in trained] == order
    assert threading.active_count() == threads


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to catch")
def test_several_at_once_stop_together(tmp_path):
    # Seeds of a kind that no few seconds solve.
    asked = ["adding", "--length", "1000", "--model", "rnn", "--jobs", "2", "--out", "found"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.long_lag", *asked],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"9 seeds to run\n"
        time.sleep(8)  # by now both are likely to be under way
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=100)
    finally:
        process.kill()
    assert said.decode().strip() == "stopped; the same command goes on from here"
    assert process.returncode == 1
    assert not list(tmp_path.glob("found/*"))
    assert len(list(tmp_path.glob("runs/long_lag/*.pt"))) <= 2


def test_an_unsolved_seed_counts_up_to_its_cap_alone(tmp_path):
    results.add(made("6a", CHRONO, 0, False, 500, 500), tmp_path)
    assert not results.is_there("6a", CHRONO.name, 0, 600, tmp_path)
    assert results.is_there("6a", CHRONO.name, 0, 500, tmp_path)
    results.add(made("6a", CHRONO, 0, True, 550, 600), tmp_path)
    assert results.is_there("6a", CHRONO.name, 0, 700, tmp_path)
    assert len((tmp_path / "6a.jsonl").read_text().splitlines()) == 1


def test_the_page_says_what_the_results_say(tmp_path):
    chrono, one, *rnns = (row.setting for row in PAPER["6a"].rows())
    for seed, (solved, sequences) in enumerate([(True, 3000), (True, 5000), (True, 4000), (False, 31_390)]):
        results.add(made("6a", chrono, seed, solved, sequences, 31_390, wrong=seed), tmp_path)
    results.add(made("6a", one, 0, False, 31_390, 31_390), tmp_path)
    for seed in range(2):
        results.add(made("6a", rnns[0], seed, False, 31_390, 31_390), tmp_path)
        results.add(made("6a", rnns[1], seed, seed == 1, 20_000, 31_390), tmp_path)
    page = report.page(tmp_path)
    [row] = [line for line in page.splitlines() if line.startswith("| 6a: ")]
    assert row == (
        "| 6a: temporal order, 2 marks | 31,390 | **3 of 4**, 4,000 (3,000 to 5,000); 7 s | **0 of 1**; 7 s "
        "| **1 of 2**, 20,000; 7 s | 1 (at most 2) | `6a` |"
    )
    [other] = [line for line in page.splitlines() if line.startswith("| 6b: ")]
    assert other.count("not run") == 3
    assert "seeds of the table have not been run yet" in page


def made(key: str, setting: Setting, seed: int, solved: bool, sequences: int, cap: int, wrong: int = 0) -> dict:
    record = {"task": key, "setting": setting.name, **vars(setting), "seed": seed, "solved": solved}
    record |= {"sequences": sequences, "cap": cap, "cpu_seconds": 7.0, "recent_mean_error": 0.05, "recent_wrong": 9}
    record["test"] = {"wrong": wrong, "of": 2560}
    return json.loads(json.dumps(record))
