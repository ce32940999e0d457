"""Pages of results that several experiments write, a part each."""

from __future__ import annotations

import re
from pathlib import Path

from tidegate.data.atomic import atomic_write

DOCS = Path(__file__).parents[1] / "docs"


def replace_part(page: str, heading: str, title: str, text: str) -> None:
    """Put text under ``## title`` of a page in ``docs``; a new page starts with a heading."""
    path = DOCS / page
    old = path.read_text() if path.exists() else f"# {heading}\n"
    part = f"## {title}\n\n{text.strip()}\n"
    found = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    new = found.sub(lambda _: part + "\n", old) if found.search(old) else old.rstrip() + "\n\n" + part
    with atomic_write(path) as file:
        file.write((new.rstrip() + "\n").encode())
