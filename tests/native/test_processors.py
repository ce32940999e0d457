"""How many threads a call takes: no more than there are processors for this process."""

from __future__ import annotations

import os

import pytest
import torch

from tidegate.ops.library import processors

affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def group(root, path, *quotas):
    """A process in a control group, with the quota of each group from the outermost on."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::/{path}\n")
    folder = root / "sys/fs/cgroup"
    for name, quota in zip(("", *path.split("/")), quotas, strict=True):
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        if quota:
            (folder / "cpu.max").write_text(quota)
    return root


@pytest.mark.parametrize(
    ("path", "quotas", "expected"),
    [
        ("a/b", ("", "max 100000\n", "100000 100000\n"), 1),
        ("a/b", ("", "150000 100000\n", "max 100000\n"), 1),
        ("a/b", ("", "", ""), affinity),
        ("a", ("", "6400000 100000\n"), affinity),
        ("a", ("", "5000 100000\n"), 1),
        ("", ("100000 100000", ""), 1),
        ("a", ("", "gibberish"), affinity),
    ],
)
def test_quotas_of_control_groups(tmp_path, path, quotas, expected):
    assert processors(group(tmp_path, path, *quotas)) == min(expected, affinity)


def test_a_machine_without_control_groups(tmp_path):
    assert processors(tmp_path) == affinity


def test_threads_are_those_of_torch_and_no_more_than_processors(lib, threads, monkeypatch):
    for processors_, asked, expected in ((2, 7, 2), (4, 3, 3), (64, 7, 7)):
        monkeypatch.setattr(lib, "processors", processors_)
        torch.set_num_threads(asked)
        assert lib.threads() == expected
