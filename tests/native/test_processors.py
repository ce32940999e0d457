"""How many threads a call takes: no more than there are processors for this process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tidegate.ops.library import quota


def group(root, path, *quotas):
    """A process in a control group, with the quota of each group from the outermost on."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::/{path}\n")
    folder = root / "sys/fs/cgroup"
    for name, given in zip(("", *path.split("/")), quotas, strict=True):
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        if given:
            (folder / "cpu.max").write_text(given)
    return root


@pytest.mark.parametrize(
    ("path", "quotas", "expected"),
    [
        ("a/b", ("", "max 100000\n", "100000 100000\n"), 1),
        ("a/b", ("", "150000 100000\n", "max 100000\n"), 1),
        ("a/b", ("", "", ""), sys.maxsize),
        ("a", ("", "6400000 100000\n"), 64),
        ("a", ("", "5000 100000\n"), 1),
        ("", ("100000 100000", ""), 1),
        ("a", ("", "gibberish"), sys.maxsize),
    ],
)
def test_quotas_of_control_groups(tmp_path, path, quotas, expected):
    assert quota(group(tmp_path, path, *quotas)) == expected


def test_a_machine_without_control_groups(tmp_path):
    assert quota(tmp_path) == sys.maxsize


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are bound to processors on Linux")
def test_threads_that_are_bound_to_processors_are_all_taken():
    """Each may use one processor then, but together they have more."""
    code = "import torch; from tidegate.ops.library import library; print(library().processors)"
    counts = set()
    for bound in ("false", "true"):
        environment = {**os.environ, "OMP_PROC_BIND": bound}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        counts.add(found.stdout)
    assert len(counts) == 1, counts


def test_threads_are_those_of_torch_and_no_more_than_processors(lib, threads, monkeypatch):
    for processors_, asked, expected in ((2, 7, 2), (4, 3, 3), (64, 7, 7)):
        monkeypatch.setattr(lib, "processors", processors_)
        torch.set_num_threads(asked)
        assert lib.threads() == expected
