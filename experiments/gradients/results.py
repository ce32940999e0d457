"""The measured norms: one JSON line a case and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.jsonl"


def read() -> list[dict[str, Any]]:
    """All lines, none where nothing was measured."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
