"""The command line: names, help and printing. What the commands do is in ``tasks``."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError
from pydantic import ValidationError
from rich.markup import escape

import tidegate
from tidegate.cli_train import train, train_model
from tidegate.config import explain as explain_error
from tidegate.console import err, out, report, say, tell
from tidegate.data.atomic import why
from tidegate.errors import ConfigError, TidegateError
from tidegate.tasks import TASKS, load_run, task_class
from tidegate.tasks.demos import DEMOS
from tidegate.tasks.forecast import Forecaster

INTERRUPTED = 130

app = App(
    name="tidegate",
    version=tidegate.__version__,
    help="The LSTM, finished: train, evaluate and use sequence models.",
    result_action="return_value",
)
app.command(train)


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
        The table; the one that the run was trained on by default. Rows after it are scored too. Scores on another
        one are kept apart, in evaluations/ in the run folder.
    compare
        Train another form of the model too, and put it beside; for forecasts, rnn or lstm. Those that the run has
        trained already stand beside its own scores in any case.
    """
    model = load_run(run)
    beside = model.compared if model.is_own(data) else []
    report(model, run, data, list(dict.fromkeys([*(compare or ()), *beside])))


@app.command
def predict(
    run: Path,
    data: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    samples: int = 0,
    seed: int | None = None,
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
        Forecasts: for the sample paths; 0 by default.
    refit
        Forecasts: first train the chosen setting anew on all of the data.
    """
    from tidegate.data.table import check_output, write_table

    if samples < 0:
        raise ConfigError(f"--samples is a number of paths; given {samples}")
    if seed is not None and seed < 0:
        raise ConfigError(f"--seed is a number of at least 0; given {seed}")
    check_output(output)
    if output.resolve() == data.expanduser().resolve():
        raise ConfigError(f"--output {output} is DATA itself, which would be lost; give it another name")
    model = load_run(run)
    kind = model.what
    if isinstance(model, Forecaster):
        if seed is not None and not samples:
            raise ConfigError("--seed is for sample paths; give --samples too, or leave it out")
        if refit:
            model.refit(data, progress=True)
        frame = model.predict(data, samples=samples, seed=seed or 0)
        kind = f"{samples} sample paths" if samples else "quantiles"
    elif samples or refit or seed is not None:
        which = "--samples and --refit are" if samples or refit else "--seed is"
        raise ConfigError(f"{which} for forecasts; {run} is a run of {model.task}")
    else:
        frame = model.predict(data)
    for note in model.predict_notes_:
        say(note)
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
    """Write a run's whole forecaster in another format, checked on data before it is written.

    Parameters
    ----------
    run
        A run folder.
    data
        The table to check it on; the one that the run was trained on by default.
    out
        The .onnx file to write.
    format
        onnx: values in and forecasts out in the table's units; the file's metadata describe them.
    """
    if out.suffix.lower() != ".onnx":
        raise ConfigError(f"--out {out}: what is written is ONNX, and the file's name ends in .onnx")
    model = load_run(run)
    if not isinstance(model, Forecaster):
        raise ConfigError(f"export writes forecasters; {run} is a run of {model.task}")
    done = model.export_onnx(out, data)
    say(
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

    paths = explain(run, data, out, windows=windows, worst=worst, progress=tell)
    say(f"Written: {paths[0]} (open it in any browser, offline) and {len(paths) - 1} pictures beside it")


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

    lens(run, data, host=host, port=port, windows=windows, worst=worst, progress=tell)


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
    say(chosen.about)
    model = task_class(job)(**chosen.fields | (chosen.quick if quick else {}))
    data = chosen.data()
    command = "tidegate demo" + f" {job}" * (job != "forecast") + " --quick" * quick
    train_model(model, data, folder, compare=chosen.compare, command=command)
    say(chosen.after(model, data, folder))


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
        found = layer.run(peers.QUICK, names, seconds, report=say)
    finally:
        torch.set_num_threads(before)
    if json is not None:
        with atomic_write(json) as file:
            file.write(layer.to_json(found | {"command": shlex.join(["tidegate", *sys.argv[1:]])}).encode())
        say(f"Written to {json}")


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
    text = str(error).strip()
    if isinstance(error, UnusedCliTokensError):
        return f"{text} An option with several values is given once for each, such as --quantiles 0.1 --quantiles 0.9"
    if isinstance(error, MissingArgumentError) and error.keyword is None and "Did you mean" not in text:
        names = error.argument.names if error.argument else ()
        return f"{' '.join(error.command_chain or ['tidegate'])} needs {' or '.join(names)}"
    return text


def _fail(sentence: str) -> None:
    err.print(f"[bold red]error:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    sys.exit(2)
