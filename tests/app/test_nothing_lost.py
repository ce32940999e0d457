"""Nothing is lost: a full disk, a folder that may not be written, Ctrl-C; no traceback, no half-written file."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from tables import OF_TABLE, SMALL, files, refused

from tidegate.training import loop

# --- a disk that fills ---------------------------------------------------------------------------------------


def little_disk(size: int):
    """No file may grow beyond ``size``: the system fails in the middle of a write, as a full disk does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def full_disk():
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: little_disk(size)()
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def whole(folder: Path) -> None:
    """Nothing hidden is left, and every file can be read to its end."""
    for name in files(folder):
        path = folder / name
        assert not path.name.startswith("."), name
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert all(file.get_tensor(key) is not None for key in file.keys())  # noqa: SIM118
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".png":
            assert path.read_bytes()[-12:-4] == b"\0\0\0\0IEND"


def test_a_disk_that_fills_in_training(command, kept, tmp_path):
    words = ["train", "forecast", kept / "good.csv", *OF_TABLE, *SMALL, "--out", tmp_path / "run"]
    result = command(*words, preexec_fn=little_disk(6_000))
    assert result.code == 2
    assert "Traceback" not in result.err
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("error: cannot write ")
    assert last.endswith("the file would exceed the size allowed; nothing was changed")
    assert set(files(tmp_path / "run")) == {"config.toml", "data.json"}
    whole(tmp_path)


@pytest.mark.parametrize("room", [700, 3_000, 20_000])
def test_a_disk_that_fills_in_evaluation_keeps_the_old_files(run, kept, tmp_path, full_disk, room):
    shutil.copytree(kept / "base", tmp_path / "run")
    sizes = {name: len(data) for name, data in files(tmp_path).items()}
    assert max(sizes.values()) > room
    full_disk(room)
    refused(run("evaluate", tmp_path / "run"), "nothing was changed")
    full_disk(resource.RLIM_INFINITY)
    assert set(files(tmp_path)) == set(sizes)
    whole(tmp_path)


def test_a_disk_that_fills_in_prediction(run, kept, tmp_path, full_disk):
    (tmp_path / "f.csv").write_text("old")
    full_disk(1_000)
    words = ["predict", kept / "base", kept / "good.csv", "--samples", "50", "-o", tmp_path / "f.csv"]
    result = run(*words)
    full_disk(resource.RLIM_INFINITY)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert result.err.startswith(f"error: cannot write {tmp_path}/f.csv: ")
    assert result.err.endswith("nothing was changed\n")
    assert files(tmp_path) == {"f.csv": b"old"}


def test_a_folder_that_may_not_be_written(run, kept, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    refused(run("predict", kept / "base", kept / "good.csv", "-o", tmp_path / "f.csv"), "permission is denied")
    refused(
        run("train", "forecast", kept / "good.csv", *OF_TABLE, *SMALL, "--out", tmp_path / "r"), "permission is denied"
    )


# --- Ctrl-C --------------------------------------------------------------------------------------------------


def test_a_run_that_was_interrupted_keeps_its_comparisons(kept, run, tmp_path, monkeypatch):
    step = loop._step
    monkeypatch.setattr(loop, "_step", lambda *words: (os.kill(os.getpid(), signal.SIGINT), step(*words))[1])
    words = [*OF_TABLE, *SMALL, "--compare", "rnn", "--out", tmp_path / "run"]
    result = run("train", "forecast", kept / "good.csv", *words)
    assert result.code == 130
    monkeypatch.undo()
    told = result.err.strip().splitlines()[-1].removeprefix("interrupted; go on with: tidegate ")
    assert run(*shlex.split(told)).code == 0
    assert (tmp_path / "run" / "compare-rnn" / "model.safetensors").is_file()
    assert "RNN" in json.loads((tmp_path / "run" / "metrics.json").read_text())["models"]


def test_interrupted_while_libraries_are_loaded(tmp_path):
    """Ctrl-C as it comes in the middle of an import: no traceback."""
    (tmp_path / "rich.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "tidegate"], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
