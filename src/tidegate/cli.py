"""The command line: names, help and printing. What the commands do is in ``tasks``."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from cyclopts import App, CycloptsError, Group, Parameter
from pydantic import ValidationError, create_model
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import tidegate
from tidegate.config import explain as explain_error
from tidegate.config import read_toml
from tidegate.data.atomic import why
from tidegate.errors import ConfigError, TidegateError
from tidegate.tasks import TASKS, load_run, task_class
from tidegate.tasks.demos import DEMOS
from tidegate.tasks.forecast import Forecaster
from tidegate.tasks.run import check_free, data_of
from tidegate.training.config import TrainingConfig

if TYPE_CHECKING:
    from tidegate.tasks.learner import Learner

INTERRUPTED = 130

app = App(
    name="tidegate",
    version=tidegate.__version__,
    help="The LSTM, finished: train, evaluate and use sequence models.",
    result_action="return_value",
)
train = App(name="train", help="Train a model on a table; choose the job.")
app.command(train)

out = Console()
err = Console(stderr=True)

TABLE, RUN = Group("Table", sort_key=1), Group("Run", sort_key=2)
MODEL, TRAINING = Group("Model", sort_key=3), Group("Training", sort_key=4)


def _grouped(kind: type[Learner]) -> Any:
    """A task's options under the headings of the help."""
    options: dict[str, Any] = {}
    for name, field in kind.Config.model_fields.items():
        group = TABLE if name in kind.table_fields else TRAINING if name in TrainingConfig.model_fields else MODEL
        options[name] = (Annotated[field.annotation, Parameter(group=group, negative_iterable=())], field)
    return create_model("Options", __base__=kind.Config, **options)


def _add_training(task: str) -> None:
    """``tidegate train TASK``, with the task's own options."""
    kind = task_class(task)
    fields = _grouped(kind)

    def run(
        data: Path | None = None,
        /,
        *,
        options: Any,
        config: Annotated[Path | None, Parameter(group=RUN)] = None,
        out: Annotated[Path | None, Parameter(group=RUN)] = None,
        resume: Annotated[bool, Parameter(group=RUN, negative=())] = False,
        compare: Annotated[list[str] | None, Parameter(group=RUN, negative=())] = None,
    ) -> None:
        given = {name: getattr(options, name) for name in options.model_fields_set}
        _train_command(task, kind, data, given, config, out, resume, compare or ())

    run.__annotations__["options"] = Annotated[fields, Parameter(name="*")]
    run.__kwdefaults__ = (run.__kwdefaults__ or {}) | {"options": fields()}  # cyclopts reads the defaults from it
    run.__doc__ = f"""{textwrap.dedent(kind.help).strip()}

Parameters
----------
data
    {kind.data_help} May be left out with --resume.
config
    A TOML file with any of the options; those given here win over it.
out
    Run folder to write; a new one under runs/ by default.
resume
    Go on with the run folder given as --out, where it stopped.
compare
    Train this form of the model too, and put it beside: {" or ".join(kind.comparisons)}.
"""
    train.command(run, name=task)


def _train_command(
    task: str,
    kind: type[Learner],
    data: Path | None,
    given: dict[str, Any],
    config: Path | None,
    out: Path | None,
    resume: bool,
    compare: Sequence[str],
) -> None:
    """Collect options from the command line, a file or a run to go on with; then train."""
    if resume:
        if out is None:
            raise ConfigError("--resume needs the run folder to go on with: give it as --out")
        if not (out / "config.toml").is_file():
            raise ConfigError(f"--resume: {out} holds no run to go on with (it has no config.toml)")
        kept = read_toml(out / "config.toml")
        changed = [name for name, value in given.items() if kept.get(name) != value]
        if changed or config is not None:
            what = ", ".join("--" + name.replace("_", "-") for name in changed) or "--config"
            raise ConfigError(f"--resume goes on with the options of {out}; it cannot change {what}")
        fields, data = kept, data or data_of(out)
    else:
        fields = (read_toml(config) if config else {}) | given
    if data is None:
        raise ConfigError(f"DATA is needed: {kind.data_help[:1].lower()}{kind.data_help[1:].rstrip('.')}")
    folder = out or Path("runs") / f"{task}-{datetime.now():%Y%m%d-%H%M%S}"
    _train(kind(**fields), data, folder, resume=resume, compare=compare)


for _task in TASKS:
    _add_training(_task)


@app.command
def evaluate(
    run: Path,
    data: Path | None = None,
    /,
    *,
    compare: Annotated[list[str] | None, Parameter(negative=())] = None,
) -> None:
    """Score a run on its untouched part, beside baselines.

    Parameters
    ----------
    run
        A run folder.
    data
        The table; the one that the run was trained on by default. Rows after it are scored too.
    compare
        Train another form of the model too, and put it beside; for forecasts, rnn or lstm.
    """
    _report(load_run(run), run, data, compare or ())


@app.command
def predict(
    run: Path,
    data: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    samples: int = 0,
    seed: int = 0,
    refit: bool = False,
) -> None:
    """Use a trained model on new data: forecasts of the next steps, labels of sequences or of steps.

    Parameters
    ----------
    run
        A run folder.
    data
        What the run was trained on, without labels; for forecasts the history, and after it rows
        with the covariates known in the future, if any.
    output
        Where to write, a .csv or .parquet file.
    samples
        Forecasts: write this many sample paths instead of quantiles (sums over steps need paths).
    seed
        Forecasts: for the sample paths.
    refit
        Forecasts: first train the chosen setting anew on all of the data.
    """
    from tidegate.data.table import check_output, write_table

    if samples < 0:
        raise ConfigError(f"--samples is a number of paths; given {samples}")
    check_output(output)
    model = load_run(run)
    kind = model.what
    if isinstance(model, Forecaster):
        if refit:
            model.refit(data, progress=True)
        frame = model.predict(data, samples=samples, seed=seed)
        kind = f"{samples} sample paths" if samples else "quantiles"
    elif samples or refit:
        raise ConfigError(f"--samples and --refit are for forecasts; {run} is a run of {model.task}")
    else:
        frame = model.predict(data)
    for note in model.predict_notes_:
        _console(note)
    write_table(frame, output)
    out.print(f"wrote {frame.height:,} rows of {kind} to {escape(str(output))}", highlight=False)


@app.command
def generate(
    run: Path,
    /,
    *,
    prompt: str = "",
    length: int = 500,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> None:
    """Write text with a text model, as it comes.

    Parameters
    ----------
    run
        A run folder of `tidegate train text`.
    prompt
        What the text begins with; a fresh line by default.
    length
        Characters to write after it.
    temperature
        Below 1 for what is probable, above 1 for what is daring; 0 for the most probable byte each time.
    top_p
        Draw only from the fewest bytes that together reach this probability.
    seed
        The same one writes the same text.
    """
    from tidegate.tasks.text import TextModel

    model = load_run(run)
    if not isinstance(model, TextModel):
        raise ConfigError(f"generate writes with text models; {run} is a run of {model.task}")
    pieces = model.generate(prompt, length, temperature, top_p, seed)
    shown = sys.stdout.isatty()
    for piece in itertools.chain([prompt], pieces):
        # On a terminal nothing but text: a model may have learnt from a file with control sequences in it.
        text = "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in piece)
        sys.stdout.buffer.write((text if shown else piece).encode(errors="replace"))
        if shown:
            sys.stdout.flush()
    sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()


@app.command
def export(
    run: Path,
    data: Path | None = None,
    /,
    *,
    out: Path,
    format: Literal["onnx"] = "onnx",
) -> None:
    """Write a run's whole model in another format, checked on data before it is written.

    Parameters
    ----------
    run
        A run folder.
    data
        The table to check it on; the one that the run was trained on by default.
    out
        The file to write.
    format
        onnx: values in and forecasts out in the table's units; the file's metadata describe them.
    """
    model = load_run(run)
    if not isinstance(model, Forecaster):
        raise ConfigError(f"export writes forecasters; {run} is a run of {model.task}")
    done = model.export_onnx(out, data)
    _console(
        f"wrote {done.path} (opset {done.opset}): {done.checks} forecasts in onnxruntime differ from tidegate's by at "
        f"most {done.error:.1e} of their size"
    )


@app.command(name="explain")
def explain_run(
    run: Path,
    data: Path | None = None,
    /,
    *,
    out: Path | None = None,
    windows: int = 256,
    worst: int = 3,
) -> None:
    """Look inside a model: one page that works offline, and its figures as PNGs.

    Parameters
    ----------
    run
        A run folder.
    data
        The table; the one that the run was trained on by default.
    out
        The folder to write to; explain/ in the run folder by default.
    windows
        At most so many windows or sequences of the untouched part are looked at.
    worst
        So many of the worst forecasts or decisions are shown.
    """
    from tidegate.insight.report import explain

    paths = explain(run, data, out, windows=windows, worst=worst, progress=_tell)
    _console(f"Written: {paths[0]} (open it in any browser, offline) and {len(paths) - 1} pictures beside it")


@app.command
def lens(
    run: Path,
    data: Path | None = None,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8431,
    windows: int = 64,
    worst: int = 1,
) -> None:
    """The page of `explain`, live in a browser: pick a moment, mark a span, edit an input. Changes nothing.

    Parameters
    ----------
    run
        A run folder.
    data
        The table or text; what the run was trained on by default.
    host
        The address to listen on; by default this machine alone can open the page.
    port
        0 for any that is free.
    windows
        At most so many windows or sequences of the untouched part can be picked.
    worst
        So many of the worst predictions are shown below the live part.
    """
    from tidegate.insight.lens import lens

    lens(run, data, host=host, port=port, windows=windows, worst=worst, progress=_tell)


@app.command
def demo(
    job: Literal["forecast", "classify", "tag", "text"] = "forecast", /, *, quick: bool = False, out: Path | None = None
) -> None:
    """Learn from an embedded sample: train, compare, evaluate and predict.

    Parameters
    ----------
    job
        forecast: the temperature at New York's airports. classify: which syllable of a word is stressed, by its
        letters. tag: case and punctuation of plays, by their words. text: what comes next in a play.
    quick
        A small model and few examples, to see that all works.
    out
        Run folder to write; a new one under runs/ by default.
    """
    chosen = DEMOS[job]
    folder = out or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    _console(chosen.about)
    model = task_class(job)(**chosen.fields | (chosen.quick if quick else {}))
    data = chosen.data()
    command = "tidegate demo" + f" {job}" * (job != "forecast") + " --quick" * quick
    _train(model, data, folder, compare=chosen.compare, command=command)
    _console(chosen.after(model, data, folder))


@app.command
def bench(
    *,
    peer: Annotated[list[Literal["torch", "onnxruntime", "openvino"]] | None, Parameter(negative=())] = None,
    threads: int | None = None,
    seconds: float = 1.0,
    json: Path | None = None,
) -> None:
    """Measure the layer on this machine beside torch, and beside onnxruntime or OpenVINO if asked to.

    Parameters
    ----------
    peer
        What to measure beside; torch by default. The others come with: pip install 'tidegate[bench]'
    threads
        Threads for every peer; as many as the machine has processors by default.
    seconds
        For each shape, at inference and in training.
    json
        Write everything measured here.
    """
    from tidegate.benchmark import layer, peers
    from tidegate.data.atomic import atomic_write

    threads = os.cpu_count() or 1 if threads is None else threads
    if threads < 1:
        raise ConfigError(f"--threads is a number of at least 1; given {threads}")
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--seconds is a number above 0; given {seconds:g}")
    names = list(dict.fromkeys(peer or ["torch"]))
    peers.check_installed(names)
    if json is not None and not json.parent.is_dir():
        raise ConfigError(f"--json: the folder {json.parent} does not exist")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = layer.run(peers.QUICK, names, seconds, report=_console)
    finally:
        torch.set_num_threads(before)
    if json is not None:
        with atomic_write(json) as file:
            file.write(layer.to_json(found | {"command": shlex.join(["tidegate", *sys.argv[1:]])}).encode())
        _console(f"Written to {json}")


def _train(
    model: Learner,
    data: Path,
    folder: Path,
    *,
    resume: bool = False,
    compare: Sequence[str] = (),
    command: str | None = None,
) -> None:
    model.check_comparisons(compare)
    if not resume:
        check_free(folder)
    try:
        model.fit(data, folder=folder, resume=resume, progress=True)
    except KeyboardInterrupt:
        if (folder / "config.toml").is_file():
            said = f"interrupted; go on with: tidegate train {model.task} --resume --out {shlex.quote(str(folder))}"
            err.print(escape(said), highlight=False, soft_wrap=True)
        raise
    _report(model, folder, None, compare, command)
    if command is None:
        _console(f"Next: tidegate predict {shlex.quote(str(folder))} {shlex.quote(str(data))} -o {model.what}.csv")


def _report(
    model: Learner, folder: Path, data: Path | None, compare: Sequence[str], command: str | None = None
) -> None:
    command = command or shlex.join(["tidegate", *sys.argv[1:]])
    report = model.report(folder, data, compare=compare, command=command, progress=True)
    for note in report.notes:
        _console(note)
    shown = Table(
        title=report.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name in report.header:
        shown.add_column(name, justify="right" if name else "left", no_wrap=not name)
    for row in report.rows:
        shown.add_row(*map(escape, row))
    out.print(shown)
    for sentence in report.sentences:
        _console(sentence)
    _console(f"Written to {folder}: " + ", ".join(str(path.relative_to(folder)) for path in report.paths))


def _tell(text: str) -> None:
    """Progress, on standard error."""
    err.print(escape(text), highlight=False, soft_wrap=True)


def _console(text: str) -> None:
    out.print(escape(text), highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line: one sentence and a non-zero exit code when something is wrong."""
    try:
        app(argv, exit_on_error=False, print_error=False, console=out)
    except (CycloptsError, ValidationError, TidegateError) as error:
        _fail(_sentence(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename}: {why(error)}" if error.filename else why(error))
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not full:
            raise
        _fail("there is not enough memory for this; lower --batch-size, --history or --hidden-size")


def _sentence(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(error, CycloptsError) and isinstance(cause, ValidationError):
        error = cause
    if isinstance(error, ValidationError):
        fields = [name for task in TASKS for name in task_class(task).Config.model_fields]
        text = explain_error(error, fields)
        name = text.partition(":")[0]
        return text.replace(name, "--" + name.replace("_", "-"), 1) if name in fields else text
    return str(error).strip()


def _fail(sentence: str) -> None:
    err.print(f"[bold red]error:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    sys.exit(2)
