"""A small run whose table has hostile names, its page, and a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from insight_names import PAST, SERIES, TARGET
from tables import hourly

import tidegate as tg
from tidegate.cli import main

FLAGS = """--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update \
--disable-sync"""


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """A folder with the run ``run`` and its table ``table.csv``: two layers, two series."""
    folder = tmp_path_factory.mktemp("hostile")
    parts = [hourly(seed=k).with_columns(s=pl.lit(name)) for k, name in enumerate((SERIES, "b"))]
    table = pl.concat(parts).with_columns((pl.col("y") * 0.5).shift(1).alias(PAST)).rename({"y": TARGET})
    table.write_csv(folder / "table.csv")
    options = {"horizon": 4, "history": 24, "epochs": 1, "windows": 64, "hidden_size": 6, "num_layers": 2}
    model = tg.Forecaster(**options, time="t", series="s", past=[PAST])
    model.fit(folder / "table.csv", target=TARGET, folder=folder / "run")
    return folder


@pytest.fixture(scope="session")
def page(hostile) -> Path:
    """The folder that the command wrote for it."""
    main(["explain", str(hostile / "run"), "--windows", "8", "--worst", "1"])
    return hostile / "run" / "explain"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no browser: install Debian's chromium, or name one by CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found, headless=True, args=FLAGS.split())
        yield chromium
        chromium.close()


class Seen:
    """What a page did while it was open."""

    def __init__(self, tab: Any) -> None:
        self.tab, self.errors, self.requests = tab, [], []
        tab.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: self.errors.append(str(e)))
        tab.on("request", lambda r: self.requests.append(r.url))
        tab.on("dialog", lambda d: (self.errors.append("dialog"), d.dismiss()))

    def hosts(self) -> set[str]:
        """Of all requests but those inside the page."""
        return {r.split("/")[2] for r in self.requests if not r.startswith(("data:", "blob:"))}


@pytest.fixture
def visit(browser) -> Iterator[Any]:
    """Open an address at a width and in a scheme."""
    contexts = []

    def call(url: str, width: int = 1280, scheme: str = "light") -> Seen:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        seen = Seen(contexts[-1].new_page())
        seen.tab.goto(url)
        return seen

    yield call
    for context in contexts:
        context.close()
