"""``tidegate train TASK``: a command a task, whose options are the fields of its configuration."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter
from pydantic import create_model
from rich.markup import escape

from tidegate.config import read_toml
from tidegate.console import check_scored, err, report, say
from tidegate.errors import ConfigError
from tidegate.tasks import TASKS, task_class
from tidegate.tasks.run import check_free, check_task, source_of
from tidegate.training.config import TrainingConfig

if TYPE_CHECKING:
    from tidegate.tasks.learner import Learner

train = App(name="train", help="Train a model on a table; choose the job.")

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
    Train this form of the model too, and put it beside: {" or ".join(kind.forms)}.
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
    source = config
    if resume:
        if out is None:
            raise ConfigError("--resume needs the run folder to go on with: give it as --out")
        if not (out / "config.toml").is_file():
            raise ConfigError(f"--resume: {out} holds no run to go on with (it has no config.toml)")
        check_task(out, task)
        kept = read_toml(out / "config.toml")
        changed = [name for name, value in given.items() if kept.get(name) != value]
        if changed or config is not None:
            what = ", ".join("--" + name.replace("_", "-") for name in changed) or "--config"
            raise ConfigError(f"--resume goes on with the options of {out}; it cannot change {what}")
        fields, data = kept, data or (Path(known) if (known := source_of(out).data) else None)
        source = out / "config.toml"
    else:
        fields = (read_toml(config) if config else {}) | given
    if data is None:
        raise ConfigError(f"DATA is needed: {kind.data_help[:1].lower()}{kind.data_help[1:].rstrip('.')}")
    folder = out or Path("runs") / f"{task}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        model = kind(**fields)
    except ConfigError as error:  # those given on the command line are checked before
        raise ConfigError(f"{error} (with the options in {source})") from None
    train_model(model, data, folder, resume=resume, compare=compare)


def train_model(
    model: Learner,
    data: Path,
    folder: Path,
    *,
    resume: bool = False,
    compare: Sequence[str] = (),
    command: str | None = None,
) -> None:
    """Train into a run folder, then score on the untouched part."""
    model.check_comparisons(compare)
    check_scored(model, compare)
    again = f"tidegate train {model.task} --resume --out {shlex.quote(str(folder))}"
    if not resume:
        check_free(folder, "--resume" if command is None else again)
        model.command_ = command or shlex.join(["tidegate", *sys.argv[1:]])
    model.compare_ = ",".join(compare) or None
    try:
        model.fit(data, folder=folder, resume=resume, progress=True)
        report(model, folder, None, model.compare_.split(",") if model.compare_ else ())
    except KeyboardInterrupt:
        if (folder / "config.toml").is_file():
            err.print(escape(f"interrupted; go on with: {again}"), highlight=False, soft_wrap=True)
        raise
    if command is None:
        say(f"Next: tidegate predict {shlex.quote(str(folder))} {shlex.quote(str(data))} -o {model.what}.csv")


for _task in TASKS:
    _add_training(_task)
