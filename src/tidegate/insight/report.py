"""The page of a trained forecaster, and its PNGs: figures from the results of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.data.atomic import atomic_write
from tidegate.errors import ConfigError, RunError
from tidegate.insight.figures import page_figures
from tidegate.insight.model import OpenForecast, open_forecast
from tidegate.insight.page import Section, render
from tidegate.insight.pngs import png
from tidegate.insight.study import Study, study
from tidegate.insight.window_figures import case_figures
from tidegate.tasks.forecast import Forecaster
from tidegate.tasks.run import make_folder

PAGE = "index.html"


def explain(
    forecaster: Any,
    data: Any = None,
    folder: str | Path | None = None,
    *,
    windows: int = 256,
    worst: int = 3,
    progress: Any = None,
) -> list[Path]:
    """Write the page ``index.html``, and each of its figures as a PNG.

    Parameters
    ----------
    forecaster : Forecaster, or the path of a run folder
    data : path or data frame, optional
        By default what it was trained on. The windows are those of its untouched last part.
    folder : path, optional
        By default ``explain/`` in the run folder.
    windows : int
        At most so many windows, drawn at random.
    worst : int
        So many of the worst forecasts are shown.
    progress : callable, optional
        Told in a few words what is being done.

    Returns
    -------
    list of Path
        The page first.

    Raises
    ------
    ConfigError, DataError, RunError
        With one sentence that says what is wrong.
    """
    for name, value in (("--windows", windows), ("--worst", worst)):
        if value < 1:
            raise ConfigError(f"{name} is a number of windows, at least 1; given {value}")
    opened = opened_forecast(forecaster, data, windows)
    if folder is None:
        if opened.forecaster.folder_ is None:
            raise ConfigError("explain needs a folder to write to: this model has no run folder")
        folder = opened.forecaster.folder_ / "explain"
    path = make_folder(folder)
    found = study(opened, worst=worst, progress=progress)
    if progress is not None:
        progress("page and pictures")
    sections = page_sections(found)
    written = [path / PAGE]
    with atomic_write(path / PAGE) as file:
        file.write(render(title(opened), about(opened), sections).encode())
    for section in sections:
        for figure in section.figures:
            written.append(path / f"{figure.key}.png")
            with atomic_write(written[-1]) as file:
                file.write(png(figure))
    return written


def opened_forecast(forecaster: Any, data: Any, windows: int) -> OpenForecast:
    """A run folder or a forecaster, opened over the last part of its data."""
    if not isinstance(forecaster, Forecaster):
        from tidegate.tasks import load_run

        where, forecaster = forecaster, load_run(forecaster)
        if not isinstance(forecaster, Forecaster):
            raise RunError(f"explain and lens look into forecasters; {where} is a run of {forecaster.task}")
    return open_forecast(forecaster, data, most=windows)


def page_sections(found: Study) -> list[Section]:
    """The figures in their order: all windows first, then the worst ones."""
    first = found.trained.opened
    every = Section(
        "all",
        "All test windows",
        f"{len(first.origins)} windows of the untouched last part. The untrained model has the same shape and new "
        "weights: what it shows as well was not learnt.",
        page_figures(found),
    )
    sections = [every]
    for k, case in enumerate(found.cases):
        when = str(case.times[first.history]).replace("T", " ")[:16]
        whose = f" of {case.series}" if case.series else ""
        text = f"The forecast{whose} from {when} on is off by {case.error:.3g} ({case.target}) on average."
        name = ("The worst forecast", "The second worst", "The third worst")[k] if k < 3 else f"The {k + 1}th worst"
        sections.append(Section(f"case{k + 1}", name, text, case_figures(found, k)))
    return sections


def title(opened: OpenForecast) -> str:
    """Of the page."""
    return f"Looking inside the forecasts of {', '.join(opened.targets)}"


def about(opened: OpenForecast) -> list[str]:
    """What model and data these are."""
    c, layers = opened.forecaster.resolved_, opened.lstm.num_layers
    step = f"{opened.time:g} {opened.unit}{'s' if opened.time != 1 else ''}"
    return [
        f"LSTM, {layers} layer{'s' if layers > 1 else ''} of {opened.lstm.hidden_size} units. It reads {c.history} "
        f"steps of {step} with {len(opened.names)} inputs, and runs on through the {opened.windows.horizon} steps "
        "that it forecasts.",
        "A ledger takes the long-term memory, or a forecast, apart into what each past step wrote. It is exact with "
        "all gates held fixed. How far it is from what really changes is measured and stands beside each: slope and "
        "correlation (1 is perfect), and the gap, sum|change - entry| / sum|change| (0 is perfect; 1 is as far off as "
        "saying nothing).",
    ]
