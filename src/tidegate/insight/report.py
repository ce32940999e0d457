"""The page of a trained model, and its PNGs: figures from the results of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.data.atomic import atomic_write
from tidegate.errors import ConfigError
from tidegate.insight.charts import quoted, step_name
from tidegate.insight.figures import page_figures
from tidegate.insight.model import OpenForecast, open_forecast
from tidegate.insight.page import Section, render
from tidegate.insight.pngs import png
from tidegate.insight.sequence_figures import sequence_case_figures, sequence_page_figures
from tidegate.insight.sequence_study import SequenceStudy, sequence_study
from tidegate.insight.sequences import OpenSequences, open_sequences
from tidegate.insight.study import Study, study
from tidegate.insight.window_figures import case_figures
from tidegate.tasks import load_run
from tidegate.tasks.forecast import Forecaster
from tidegate.tasks.learner import Learner
from tidegate.tasks.run import make_folder

PAGE = "index.html"
LEDGER = (
    "It is exact with all gates held fixed. How far it is from what really changes is measured and stands beside each: "
    "slope and correlation (1 is perfect), and the gap, sum|change - entry| / sum|change| (0 is perfect; 1 is as far "
    "off as saying nothing)."
)


def explain(
    model: Any,
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
    model : Forecaster, Classifier, Tagger or TextModel, or the path of a run folder
    data : path or data frame, optional
        By default what it was trained on: the windows of its untouched last part, or the untouched
        sequences.
    folder : path, optional
        By default ``explain/`` in the run folder.
    windows : int
        At most so many windows or sequences, drawn at random.
    worst : int
        So many of the worst forecasts or decisions are shown.
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
            raise ConfigError(f"{name} is a number of windows or sequences, at least 1; given {value}")
    if not isinstance(model, Learner):
        model = load_run(model)
    if folder is None:
        if model.folder_ is None:
            raise ConfigError("explain needs a folder to write to: this model has no run folder")
        folder = model.folder_ / "explain"
    opened = open_model(model, data, windows)
    path = make_folder(folder)
    heading, sentences, sections = page_of(study_of(opened, worst=worst, progress=progress))
    if progress is not None:
        progress("page and pictures")
    written = [path / PAGE]
    with atomic_write(path / PAGE) as file:
        file.write(render(heading, sentences, sections).encode())
    for section in sections:
        for figure in section.figures:
            written.append(path / f"{figure.key}.png")
            with atomic_write(written[-1]) as file:
                file.write(png(figure))
    return written


def open_model(model: Any, data: Any, most: int) -> OpenForecast | OpenSequences:
    """A model or a run folder of any task, opened over what training has not seen."""
    if not isinstance(model, Learner):
        model = load_run(model)
    opened = open_forecast if isinstance(model, Forecaster) else open_sequences
    return opened(model, data, most=most)


def study_of(opened: OpenForecast | OpenSequences, *, worst: int, progress: Any = None) -> Study | SequenceStudy:
    """All results of the page."""
    if isinstance(opened, OpenForecast):
        return study(opened, worst=worst, progress=progress)
    return sequence_study(opened, worst=worst, progress=progress)


def page_of(found: Study | SequenceStudy) -> tuple[str, list[str], list[Section]]:
    """The page's title, what it says of model and data, and its figures."""
    if isinstance(found, Study):
        return title(found.trained.opened), about(found.trained.opened), page_sections(found)
    one = found.trained.opened
    return sequence_title(one), about_sequences(one), sequence_sections(found)


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
        whose = f" of {quoted(case.series)}" if case.series else ""
        text = f"The forecast{whose} from {when} on is off by {case.error:.3g} ({case.target}) on average."
        sections.append(Section(f"case{k + 1}", _place("The worst forecast", k), text, case_figures(found, k)))
    return sections


def sequence_sections(found: SequenceStudy) -> list[Section]:
    """The figures in their order: all sequences first, then the most surely wrong decisions."""
    one = found.trained.opened
    what = f"windows of {len(one.x)} bytes" if one.text else "sequences"
    text = (
        f"{len(one.rows)} {what} that training has not seen. The untrained model has the same shape and new "
        "weights: what it shows as well was not learnt."
    )
    heading = "All test windows" if one.text else "All test sequences"
    sections = [Section("all", heading, text, sequence_page_figures(found))]
    for k, case in enumerate(found.cases):
        where = "" if case.step is None else f", step {step_name(case.steps[case.step])}"
        given = case.trained.label
        verdict = "is given the right label" if given == case.truth else f"is taken for {quoted(one.labels[given])}"
        place = f"Sequence {quoted(case.name)}{where}"
        if one.text:
            verdict = "comes next, "
            verdict += "as foretold" if given == case.truth else f"{quoted(one.labels[given])} is foretold"
            place = f"The text {case.name}{where}"
        p = case.trained.probabilities
        text = (
            f"{place}: {quoted(one.labels[case.truth])} {verdict}, with a probability of {p[given]:.2f}; "
            f"log loss {case.loss:.3g} nats."
        )
        name = _place("The most surely wrong decision", k)
        sections.append(Section(f"case{k + 1}", name, text, sequence_case_figures(found, k)))
    return sections


def _place(first: str, k: int) -> str:
    return (first, "The second", "The third")[k] if k < 3 else f"The {k + 1}th"


def sequence_title(one: OpenSequences) -> str:
    """Of the page."""
    if one.text:
        return "Looking inside the text model"
    return "Looking inside the tags" if one.tagged else "Looking inside the labels"


def about_sequences(one: OpenSequences) -> list[str]:
    """What model and data these are."""
    lstm = one.lstm
    ways = "reads each sequence in both directions" if lstm.directions == 2 else "reads each sequence once, forwards"
    what = f"gives {'each step' if one.tagged else 'it'} one of {len(one.labels)} labels"
    if one.text:
        ways, what = "reads text byte by byte", f"foretells the next byte of {len(one.labels)}"
    scores = "Probabilities and log loss are those before calibration: `evaluate` and `predict` give calibrated ones."
    return [
        f"LSTM, {_layers(lstm.num_layers, lstm.hidden_size)}. It {ways}, {lstm.input_size} inputs a step, and {what}.",
        "A ledger takes a decision apart into what each step wrote. " + LEDGER,
        *([] if one.text else [scores]),
        *(f"{note[:1].upper()}{note[1:]}." for note in one.notes),
    ]


def _layers(count: int, units: int) -> str:
    return f"{count} layer{'s' if count > 1 else ''} of {units} units"


def title(opened: OpenForecast) -> str:
    """Of the page."""
    return f"Looking inside the forecasts of {', '.join(opened.targets)}"


def about(opened: OpenForecast) -> list[str]:
    """What model and data these are."""
    c = opened.forecaster.resolved_
    step = f"{opened.time:g} {opened.unit}{'s' if opened.time != 1 else ''}"
    return [
        f"LSTM, {_layers(opened.lstm.num_layers, opened.lstm.hidden_size)}. It reads {c.history} "
        f"steps of {step} with {len(opened.names)} inputs, and runs on through the {opened.windows.horizon} steps "
        "that it forecasts.",
        "A ledger takes the long-term memory, or a forecast, apart into what each past step wrote. " + LEDGER,
    ]
