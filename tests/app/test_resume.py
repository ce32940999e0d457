"""A training that was stopped goes on to the very weights of one that was not."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tables import hourly

from tidegate.cli import main
from tidegate.errors import RunError
from tidegate.tasks import load_run
from tidegate.training import loop
from tidegate.training.checkpoint import load_tensors

EPOCHS, BATCHES = 3, 30
OPTIONS = ["--target", "y", "--time", "t", "--horizon", "4", "--history", "12", "--hidden-size", "8"]
OPTIONS += ["--epochs", str(EPOCHS), "--batch-size", "4", "--windows", str(4 * BATCHES), "--checkpoint-seconds", "0"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The table, and the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("resume")
    hourly().write_csv(folder / "a.csv")
    main(["train", "forecast", str(folder / "a.csv"), *OPTIONS, "--out", str(folder / "run")])
    return folder


def place(run: Path) -> dict:
    """Where the checkpoint stands, read while another process replaces it; nowhere without one."""
    try:
        with open(run / "checkpoint.safetensors", "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except FileNotFoundError:
        return {"epoch": 0, "batch": 0}
    return json.loads(header["__metadata__"]["facts"])["place"]


def stopped(table: Path, run: Path, how: signal.Signals) -> tuple[int, str]:
    """Train in another process, and stop it in the middle of the second epoch; exit code and stderr."""
    words = [sys.executable, "-m", "tidegate", "train", "forecast", str(table), *OPTIONS, "--out", str(run)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end and process.poll() is None:
                now = place(run)
                if now["epoch"] == 1 and now["batch"] >= 3:
                    break
                time.sleep(0.005)
            os.kill(process.pid, how)
            said = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    kept = place(run)
    assert kept["epoch"] in (1, 2), said
    assert 0 < kept["batch"] < BATCHES  # in the middle of an epoch
    assert not (run / "model.safetensors").exists()
    return process.returncode, said


def assert_same(run: Path, other: Path) -> None:
    """Bit for bit: weights, scaling, calibration; and the history but for the seconds."""
    a, facts = load_tensors(run / "model.safetensors")
    b, expected = load_tensors(other / "model.safetensors")
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8))]
    assert not different
    assert len(facts["training"]["history"]) == EPOCHS
    for name in ("best", "best_epoch"):
        assert facts["training"][name] == expected["training"][name]
    rows = [list(csv.DictReader((folder / "history.csv").read_text().splitlines())) for folder in (run, other)]
    for row, wanted in zip(*rows, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in wanted.items() if k != "seconds"}


def test_kill_and_resume(uninterrupted, tmp_path):
    run = tmp_path / "run"
    code, _ = stopped(uninterrupted / "a.csv", run, signal.SIGKILL)
    assert code == -signal.SIGKILL
    with pytest.raises(RunError, match="is not a finished run of tidegate; go on with it by: tidegate") as refusal:
        load_run(run)
    main(shlex.split(str(refusal.value).rpartition("by: tidegate ")[2]))
    assert_same(run, uninterrupted / "run")


def test_ctrl_c_and_resume_as_told(uninterrupted, tmp_path):
    run = tmp_path / "a run"
    code, said = stopped(uninterrupted / "a.csv", run, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    told = last.removeprefix("interrupted; go on with: ")
    assert told != last
    program, *words = shlex.split(told)
    assert program == "tidegate"
    main(words)
    assert_same(run, uninterrupted / "run")


def test_stopped_between_the_two_files_of_the_last_epoch(uninterrupted, tmp_path, monkeypatch):
    """Nothing is trained after the last checkpoint, so that the history must be written without it."""
    run = tmp_path / "run"

    def once(write, ended):
        def stops(*words):
            write(*words)
            if ended(words):
                raise KeyboardInterrupt

        return stops

    monkeypatch.setattr(loop, "_save", once(loop._save, lambda words: words[-1].epoch == EPOCHS))
    monkeypatch.setattr(loop, "_write_history", once(loop._write_history, lambda words: len(words[1]) == EPOCHS))
    with pytest.raises(SystemExit, match="130"):
        main(["train", "forecast", str(uninterrupted / "a.csv"), *OPTIONS, "--out", str(run)])
    monkeypatch.undo()
    main(["train", "forecast", "--resume", "--out", str(run)])
    assert_same(run, uninterrupted / "run")


def test_another_table_is_refused(uninterrupted, tmp_path, capsys):
    run, table = tmp_path / "run", tmp_path / "a.csv"
    table.write_bytes((uninterrupted / "a.csv").read_bytes())
    stopped(table, run, signal.SIGKILL)
    moved = tmp_path / "moved.csv"
    table.rename(moved)
    text = moved.read_text()
    table.write_text(text[: text.rstrip().rindex("\n") + 1])  # without its last row
    with pytest.raises(SystemExit) as end:
        main(["train", "forecast", "--resume", "--out", str(run)])
    assert end.value.code == 2
    assert "a run goes on with the same data only" in capsys.readouterr().err
    main(["train", "forecast", str(moved), "--resume", "--out", str(run)])  # the same table in another place
    assert_same(run, uninterrupted / "run")


def test_another_seed_is_another_model(uninterrupted, tmp_path):
    """The comparison above can fail."""
    words = ["train", "forecast", str(uninterrupted / "a.csv"), *OPTIONS, "--seed", "1", "--out", str(tmp_path / "run")]
    main(words)
    with pytest.raises(AssertionError, match=r"model\.head\.weight"):
        assert_same(tmp_path / "run", uninterrupted / "run")
