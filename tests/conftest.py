"""Fixed seeds and few threads: a test says the same on every run."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20)
