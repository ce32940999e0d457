"""What the command line prints, and where."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.segment import Segments
from rich.table import Table

from tidegate.errors import ConfigError
from tidegate.tasks.run import evaluation

if TYPE_CHECKING:
    from tidegate.tasks.learner import Learner

TABLE_WIDTH = 1000  # at most, whatever the terminal's: that breaks lines, and cuts no number off

out = Console()
err = Console(stderr=True)


def say(text: str) -> None:
    """A sentence, on standard output."""
    out.print(escape(text), highlight=False, soft_wrap=True)


def tell(text: str) -> None:
    """Progress, on standard error."""
    err.print(escape(text), highlight=False, soft_wrap=True)


def check_scored(model: Learner, compare: Sequence[str]) -> None:
    """Refuse other forms of a model where nothing is kept untouched that they could be scored on."""
    if compare and model.config.test == 0:
        raise ConfigError(f"--compare {compare[0]}: nothing is kept untouched to score it on; give a --test above 0")


def report(model: Learner, folder: Path, data: Path | None, compare: Sequence[str]) -> None:
    """Score a model, and print the table of it and what stands beside it.

    Scores on other data than the run's own are kept apart from its own.
    """
    if model.is_own(data):
        data = None
    if data is None:
        check_scored(model, compare)
    command = model.command_ or shlex.join(["tidegate", *sys.argv[1:]])
    with nullcontext(folder) if data is None else evaluation(folder, data) as folder:
        found = model.report(folder, data, compare=compare, command=command, progress=True)
    for note in found.notes:
        say(note)
    shown = Table(
        title=found.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for name in found.header:
        shown.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in found.rows:
        shown.add_row(*map(escape, row))
    out.print(Segments(out.render(shown, out.options.update(max_width=TABLE_WIDTH))), crop=False, end="")
    for sentence in found.sentences:
        say(sentence)
    say(f"Written to {folder}: " + ", ".join(str(path.relative_to(folder)) for path in found.paths))
