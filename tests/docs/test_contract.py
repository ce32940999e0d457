"""docs/contract.md: each cell has a source, and each test it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "contract.md"
NOTE = r"\[\^([\w-]+)\]"
WORDS = ("yes", "no", "in part", "not documented", "—")


def notes(text: str) -> dict[str, str]:
    """Each footnote's text, its further lines included."""
    found = re.findall(rf"^{NOTE}: (.*(?:\n    .*)*)", text, re.MULTILINE)
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), "a footnote is defined twice"
    return dict(found)


def used(text: str) -> set[str]:
    return set(re.findall(NOTE + r"(?!:)", text))


def tables(text: str) -> list[list[list[str]]]:
    """Cells by table and line, without the line under the header."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks]


def named_tests(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text("utf-8")


def test_every_test_named_exists(page):
    named = named_tests(page)
    assert len(named) > 40
    assert page.count("::test_") == len(named), (
        "a test is named in another form than `tests/folder/test_file.py::test_name`"
    )
    missing = [
        f"{file}::{name}" for file, name in named if not (ROOT / file).is_file() or name not in functions(ROOT / file)
    ]
    assert missing == []


def test_every_footnote_is_used_and_defined(page):
    assert used(page) == set(notes(page))


def test_every_cell_has_a_word_and_a_source(page):
    defined, columns = notes(page), None
    for header, _, *rows in tables(page):
        columns = columns or header[1:]
        assert header[1:] == columns
        for feature, *cells in rows:
            assert len(cells) == len(columns), feature
            for column, cell in zip(columns, cells, strict=True):
                where = f"{feature}, {column}: {cell}"
                assert header[0] != "feature" or cell.startswith(WORDS), where
                assert cell.startswith(("not documented", "—")) or used(cell), where
            if header[0] == "feature":
                assert any(named_tests(defined[name]) for name in used(cells[0])), f"{feature}: no test shows it"


def test_files_of_this_project_exist(page):
    defined = notes(page)
    ours = [
        path for name, text in defined.items() if name.startswith("t-") for path in re.findall(r"`([\w./]+)`", text)
    ]
    assert ours
    assert [path for path in ours if "/" in path and not (ROOT / path).exists()] == []
