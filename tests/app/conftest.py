"""A trained run, and the command line as a function."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tables import SMALL, Result, hourly
from task_cases import verses

import tidegate as tg
from tidegate.cli import main


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """The same arithmetic here and in a process of its own; and no colours or line breaks to match."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(capfd):
    """The command line inside this process."""

    def call(*argv: object) -> Result:
        capfd.readouterr()
        code = 0
        try:
            main([str(a) for a in argv])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        seen = capfd.readouterr()
        return Result(code, seen.out, seen.err)

    return call


@pytest.fixture
def command():
    """The command line as a process of its own."""

    def call(*argv: object, **options) -> Result:
        words = [sys.executable, "-m", "tidegate", *map(str, argv)]
        env = {**os.environ, "PYTHONWARNINGS": "error::UserWarning:tidegate"}
        done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=120, check=False, **options)
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def kept(tmp_path_factory) -> Path:
    """A folder with ``good.csv`` and the run ``base`` trained on it; copy what you change."""
    folder = tmp_path_factory.mktemp("kept")
    hourly().write_csv(folder / "good.csv")
    out = ["--out", str(folder / "base")]
    main(["train", "forecast", str(folder / "good.csv"), "--target", "y", "--time", "t", *SMALL, *out])
    return folder


@pytest.fixture(scope="session")
def fitted(tmp_path_factory) -> tg.TextModel:
    """A small text model and its run, both to be read only."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_bytes(verses(300))
    options = {"hidden_size": 8, "embedding_size": 4, "window": 20, "batch_size": 8, "epochs": 2, "cpu": True}
    return tg.TextModel(**options).fit(folder / "a.txt", folder=folder / "run")
