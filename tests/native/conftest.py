"""Tests of the native CPU kernels; skipped, with the reason, where they were not built."""

from __future__ import annotations

import pytest
import torch

from tidegate.ops.library import library, missing


def pytest_collection_modifyitems(items):
    if library() is None:
        for item in items:
            if "native" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=missing()))


@pytest.fixture
def lib():
    return library()


@pytest.fixture(params=library().isas if library() else ["none"])
def isa(request):
    """Each instruction set that this machine can run, one after another."""
    lib = library()
    before = lib.isa
    lib.set_isa(request.param)
    yield request.param
    lib.set_isa(before)


@pytest.fixture
def threads(monkeypatch):
    """As many as torch is told, also beyond the processors; restores torch's number."""
    before = torch.get_num_threads()
    if library() is not None:
        monkeypatch.setattr(library(), "processors", 64)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def all_threads(threads, lib):
    """The same also for calls that would be faster on fewer."""
    if lib is not None:
        lib.take_all_threads(True)
    yield
    if lib is not None:
        lib.take_all_threads(False)


@pytest.fixture(params=[torch.float32, torch.float64, torch.bfloat16], ids=str)
def dtype(request):
    return request.param
