"""What every task promises: kept whole, gone on with bit for bit, damaged or wrong things refused in one sentence."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import polars as pl
import pytest
import torch
from filelock import FileLock
from polars.testing import assert_frame_equal
from safetensors.torch import save_file
from tables import files, refused
from task_cases import CASES, write

from tidegate.cli import main
from tidegate.errors import RunError
from tidegate.tasks import load_run, task_class
from tidegate.tasks.demos import DEMOS
from tidegate.tasks.estimator import NotFitted
from tidegate.tasks.run import LOCK
from tidegate.training import loop
from tidegate.training.checkpoint import load_tensors, save_tensors

pytestmark = pytest.mark.parametrize("task", CASES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a table ``TASK.csv`` and the run ``TASK`` of each task; copy what you change."""
    folder = tmp_path_factory.mktemp("tasks")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for task, case in CASES.items():
        table = folder / f"{task}.csv"
        write(case.table(), table)
        main(["train", task, str(table), *case.options, *case.small, "--out", str(folder / task)])
    torch.set_num_threads(threads)
    return folder


def train(task: str, table: Path, out: Path) -> list[str]:
    case = CASES[task]
    return ["train", task, str(table), *case.options, *case.small, "--out", str(out)]


# --- kept ------------------------------------------------------------------------------------------------------


def test_a_loaded_run_predicts_the_same(trained, task):
    case = CASES[task]
    made, other = load_run(trained / task), load_run(trained / task)
    assert type(made) is task_class(task)
    first = made.predict(trained / f"{task}.csv")
    assert first.height > 0
    assert_frame_equal(other.predict(case.table()), first, check_exact=True)


def test_save_and_load_keep_everything(trained, task, tmp_path):
    made = load_run(trained / task)
    made.save(tmp_path / "again")
    other = load_run(tmp_path / "again")
    table = trained / f"{task}.csv"
    assert_frame_equal(other.predict(table), made.predict(table), check_exact=True)
    assert other.evaluate() == made.evaluate()
    assert other.notes_ == made.notes_
    assert other.training_ == made.training_


def test_the_same_seed_is_the_same_model(trained, run, task, tmp_path):
    assert run(*train(task, trained / f"{task}.csv", tmp_path / "run")).code == 0
    assert_same(tmp_path / "run", trained / task)
    assert run(*train(task, trained / f"{task}.csv", tmp_path / "other"), "--seed", "1").code == 0
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "other", trained / task)


def assert_same(run: Path, other: Path) -> None:
    """Bit for bit, and the history but for the seconds."""
    a, b = (load_tensors(folder / "model.safetensors")[0] for folder in (run, other))
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8))]
    rows = [list(csv.DictReader((folder / "history.csv").read_text().splitlines())) for folder in (run, other)]
    for row, wanted in zip(*rows, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in wanted.items() if k != "seconds"}


def test_interrupted_and_resumed_as_told(trained, run, task, tmp_path, monkeypatch):
    """Ctrl-C in the middle of the second epoch; what is said then goes on to the very same weights."""
    step = loop._step

    def interrupted(job, *args):
        nonlocal batches
        if (batches := batches - 1) == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return step(job, *args)

    batches = CASES[task].batches + 2
    monkeypatch.setattr(loop, "_step", interrupted)
    result = run(*train(task, trained / f"{task}.csv", tmp_path / "a run"))
    monkeypatch.undo()
    assert result.code == 130
    assert "Traceback" not in result.err
    assert not (tmp_path / "a run" / "model.safetensors").exists()
    place = load_tensors(tmp_path / "a run" / "checkpoint.safetensors")[1]["place"]
    assert (place["epoch"], place["batch"]) == (1, 2)
    told = result.err.strip().splitlines()[-1].removeprefix("interrupted; go on with: tidegate ")
    assert run(*shlex.split(told)).code == 0
    assert_same(tmp_path / "a run", trained / task)


# --- refused ---------------------------------------------------------------------------------------------------

BAD_FILES = {
    "missing": (None, "no such file: "),
    "no bytes": (b"", "is empty: it has zero bytes"),
    "no rows": (b"s,t,y,v,w,kind\n", "is an empty table: it has columns but no rows"),
    "binary": (bytes(range(256)), "is not a table: it holds binary data, neither CSV nor Parquet"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_files(run, task, tmp_path, what):
    data, sentence = BAD_FILES[what]
    sentence = CASES[task].bad_files.get(what, sentence)
    if data is not None:
        (tmp_path / "a.csv").write_bytes(data)
    result = run(*train(task, tmp_path / "a.csv", tmp_path / "run"))
    if sentence is None:
        assert result.code == 0, result
        return
    refused(result, sentence)
    assert not (tmp_path / "run").exists()


def test_bad_tables(run, task, tmp_path):
    case = CASES[task]
    good = case.table()
    wrong = dict(case.refused) | (bad_columns(good, case.value) if case.value else {})
    for what, (change, sentence) in wrong.items():
        write(change(good), tmp_path / "a.csv")
        result = run(*train(task, tmp_path / "a.csv", tmp_path / "run"))
        refused(result, sentence)
        assert not (tmp_path / "run").exists(), what


def bad_columns(good: pl.DataFrame, name: str) -> dict:
    """What is wrong in any table: a column of numbers that is none, or is not there."""
    column = good[name].cast(pl.String)
    wrong = {}
    wrong["text among numbers"] = (
        lambda table: table.with_columns(column.scatter(5, "oops").alias(name)),
        f"{name}: row 6 (line 7 of a CSV file) holds 'oops' where a number belongs",
    )
    wrong["infinite"] = (
        lambda table: table.with_columns(column.scatter(5, "inf").alias(name)),
        f"{name}: row 6 (line 7 of a CSV file) holds inf, which is infinite",
    )
    wrong["a column that is not there"] = (lambda table: table.drop(name), f"has no column '{name}'")
    return wrong


def test_options_that_are_not_there_name_the_closest(trained, run, task, tmp_path):
    words = ["train", task, trained / f"{task}.csv", *CASES[task].options, "--out", tmp_path / "run"]
    typo, meant = CASES[task].typo
    refused(run(*words, typo, "3"), f"Unknown option: {typo}. Did you mean {meant}?")
    (tmp_path / "c.toml").write_text("hiden_size = 3\n")
    refused(run(*words, "--config", tmp_path / "c.toml"), "unknown option 'hiden_size'; did you mean 'hidden_size'?")
    refused(run(*words, "--epochs", "0"), "--epochs: it must be greater than or equal to 1; given '0'")
    refused(run(*words, "--validation", "0.5", "--test", "0.4"), "leave at least a tenth")
    assert set(files(tmp_path)) == {"c.toml"}


def _cut(run: Path) -> None:
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _edit(old: str, new: str):
    def edit(run: Path) -> None:
        kept = (run / "config.toml").read_text()
        assert old in kept
        (run / "config.toml").write_text(kept.replace(old, new))

    return edit


def _facts(**facts: object):
    def change(run: Path) -> None:
        tensors, kept = load_tensors(run / "model.safetensors")
        save_tensors(run / "model.safetensors", tensors, kept | facts)

    return change


def _larger(run: Path) -> None:
    """A network of 400 MB and more, in the configuration and in what the model says of it."""
    _edit("hidden_size = 4", "hidden_size = 9000")(run)
    tensors, facts = load_tensors(run / "model.safetensors")
    save_tensors(run / "model.safetensors", tensors, facts | {"config": facts["config"] | {"hidden_size": 9000}})


def _flip(run: Path) -> None:
    """In the last byte but one of the last tensor, which stays finite."""
    whole = bytearray((run / "model.safetensors").read_bytes())
    whole[-2] ^= 0x10
    (run / "model.safetensors").write_bytes(whole)


def _nested(run: Path) -> None:
    tensors, _ = load_tensors(run / "model.safetensors")
    save_file(tensors, run / "model.safetensors", {"facts": "[" * 100_000})


def _drop(name: str):
    def drop(run: Path) -> None:
        tensors, kept = load_tensors(run / "model.safetensors")
        assert name in tensors
        save_tensors(run / "model.safetensors", {k: v for k, v in tensors.items() if k != name}, kept)

    return drop


DAMAGE = {
    "cut off": (_cut, "model.safetensors is damaged and cannot be read"),
    "no model": (lambda run: (run / "model.safetensors").unlink(), "it is not a finished run of tidegate"),
    "a flipped bit": (_flip, "is damaged and cannot be read (its numbers are not those that were written)"),
    "nested facts": (_nested, "model.safetensors is damaged and cannot be read"),
    "nested config": (_edit("hidden_size = 4", "hidden_size = " + "[" * 100_000), "config.toml is not valid TOML"),
    "a larger network": (_larger, "do not fit together (weights of other sizes)"),
    "no config": (lambda run: (run / "config.toml").unlink(), "it is not a run folder of tidegate"),
    "unknown key": (_edit("hidden_size", "hiden_size"), "unknown option 'hiden_size'; did you mean 'hidden_size'?"),
    "not TOML": (_edit("=", ":"), "config.toml is not valid TOML"),
    "edited size": (_edit("hidden_size = 4", "hidden_size = 5"), "it says hidden_size = 5, and the model was trained"),
    "another kind": (_facts(task="music"), "is a run of another kind: it holds 'music'"),
    "a later format": (_facts(format=99, version="9.1"), "was written by tidegate 9.1, whose run folders this version"),
    "lost weights": (_drop("model.head.bias"), "is damaged: model and configuration do not fit together"),
}


@pytest.mark.parametrize("what", [*DAMAGE, "lost tensor"])
def test_damaged_run_folders(trained, run, task, tmp_path, what):
    lost = (_drop(CASES[task].lost), "is damaged: model and configuration do not fit together")
    damage, sentence = (DAMAGE | {"lost tensor": lost})[what]
    shutil.copytree(trained / task, tmp_path / "run")
    damage(tmp_path / "run")
    before = files(tmp_path)
    refused(run("predict", tmp_path / "run", trained / f"{task}.csv", "-o", tmp_path / "f.csv"), sentence)
    refused(run("evaluate", tmp_path / "run"), sentence)
    assert files(tmp_path) == before


def test_a_run_of_another_task_is_refused(trained, task):
    other = next(name for name in CASES if name != task)
    with pytest.raises(RunError, match=f"it holds '{other}', and '{task}' was asked for"):
        task_class(task).load(trained / other)


def test_going_on_with_a_run_of_another_task_is_refused(trained, run, task):
    other = next(name for name in CASES if name != task)
    refused(
        run("train", task, "--resume", "--out", trained / other),
        f"is a run of {other}; go on with it by: tidegate train {other} --resume --out {trained / other}",
    )


def test_one_process_at_a_time(run, task, tmp_path):
    table, folder = tmp_path / "a.csv", tmp_path / "run"
    write(CASES[task].table(), table)
    folder.mkdir()
    with FileLock(folder / LOCK):
        refused(run(*train(task, table, folder)), f"another process is training in {folder}; wait for it")
    assert files(folder).keys() <= {LOCK}
    assert run(*train(task, table, folder)).code == 0
    assert LOCK not in files(folder)


def test_weights_that_are_not_finite_are_refused(trained, run, task, tmp_path):
    shutil.copytree(trained / task, tmp_path / "run")
    tensors, facts = load_tensors(tmp_path / "run" / "model.safetensors")
    tensors["model.head.bias"].fill_(float("nan"))
    save_tensors(tmp_path / "run" / "model.safetensors", tensors, facts)
    refused(
        run("predict", tmp_path / "run", trained / f"{task}.csv", "-o", tmp_path / "f.csv"),
        "do not fit together (weights that are not finite)",
    )


def test_scores_on_other_data_are_kept_apart(trained, run, task, tmp_path):
    shutil.copytree(trained / task, tmp_path / "run")
    own = {name: (tmp_path / "run" / name).read_bytes() for name in ("metrics.json", "README.md")}
    new_data(task, tmp_path / "other.csv")
    assert run("evaluate", tmp_path / "run", tmp_path / "other.csv").code == 0
    apart = tmp_path / "run" / "evaluations" / "other"
    assert (apart / "metrics.json").is_file()
    assert not (apart / "README.md").exists()
    assert {name: (tmp_path / "run" / name).read_bytes() for name in own} == own
    assert run("evaluate", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "README.md").read_bytes() == own["README.md"]


def new_data(task: str, path: Path) -> None:
    """Data that a model of this task has not seen."""
    table = CASES[task].table()
    if task in ("classify", "tag"):  # what trained is known again by its name
        table = table.with_columns(s=pl.lit("new ") + pl.col("s"))
    write(table, path)


def test_what_is_not_scored_leaves_no_folder(trained, run, task, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained / task, folder)
    before = files(folder)
    refused(run("evaluate", folder, tmp_path / "nothing.csv"), "nothing.csv")
    if task in ("classify", "tag"):
        CASES[task].table().with_columns(s=pl.lit("new ") + pl.col("s"), kind=pl.lit("odd")).write_csv(
            tmp_path / "odd.csv"
        )
        refused(run("evaluate", folder, tmp_path / "odd.csv"), "label 'odd' did not occur in training")
    assert files(folder) == before
    assert not (folder / "evaluations").exists()
    new_data(task, tmp_path / "new.csv")
    assert run("evaluate", folder, tmp_path / "new.csv").code == 0
    kept = files(folder)
    (tmp_path / "new.csv").write_text("")
    refused(run("evaluate", folder, tmp_path / "new.csv"), "new.csv is empty")
    assert files(folder) == kept


def test_scores_on_tables_of_the_same_name_are_kept_apart(trained, run, task, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained / task, folder)
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        new_data(task, tmp_path / place / "new.csv")
        result = run("evaluate", folder, tmp_path / place / "new.csv")
        assert result.code == 0, result
    first = files(folder / "evaluations" / "new")
    assert {p.name for p in (folder / "evaluations").iterdir()} == {"new", "new-2"}
    assert json.loads(first["data.json"])["data"] == str(tmp_path / "a" / "new.csv")
    assert run("evaluate", folder, tmp_path / "b" / "new.csv").code == 0
    assert {p.name for p in (folder / "evaluations").iterdir()} == {"new", "new-2"}
    assert files(folder / "evaluations" / "new") == first


def test_other_data_are_scored_where_its_own_are_gone(trained, run, task, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained / task, folder)
    source = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(source | {"data": str(tmp_path / "moved.csv")}))
    new_data(task, tmp_path / "new.csv")
    result = run("evaluate", folder, tmp_path / "new.csv")
    assert result.code == 0, result
    found = json.loads((folder / "evaluations" / "new" / "metrics.json").read_text())["models"]
    assert len(found) == 1 if task != "forecast" else "ridge" in found


def test_going_on_with_other_sizes_is_refused(trained, run, task, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained / task, folder)
    (folder / "model.safetensors").unlink()
    _edit("hidden_size = 4", "hidden_size = 5")(folder)
    result = run("train", task, "--resume", "--out", folder)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "checkpoint.safetensors is of a run with other options, or damaged" in result.err


def test_a_path_from_home(trained, run, task, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(trained))
    assert run(*train(task, Path("~") / f"{task}.csv", tmp_path / "run")).code == 0
    assert load_run(tmp_path / "run").data_ == str(trained / f"{task}.csv")
    assert load_run(tmp_path / "run").is_own(f"~/{task}.csv")
    sources = [json.loads((folder / "data.json").read_text()) for folder in (tmp_path / "run", trained / task)]
    assert sources[0]["sha256"] == sources[1]["sha256"]


def test_what_it_was_trained_on_is_lost(trained, run, task, tmp_path):
    folder, moved = tmp_path / "run", tmp_path / "moved.csv"
    shutil.copytree(trained / task, folder)
    source = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(source | {"data": str(moved)}))
    for command in ("evaluate", "explain"):
        refused(run(command, folder), f"{moved}, which this model was trained on, is not there any more; give the data")
    (folder / "data.json").write_text('{"dat')
    for command in ("evaluate", "explain"):
        refused(run(command, folder), f"evaluate needs data: {folder / 'data.json'} is lost or damaged")


def test_used_before_it_is_trained(task):
    made = task_class(task)()
    for call in (lambda: made.predict(CASES[task].table()), made.evaluate, lambda: made.save("nowhere")):
        with pytest.raises(NotFitted, match="needs a trained model: call fit first, or load a run folder"):
            call()


def test_the_demonstration_fits_its_task(task):
    demo, kind = DEMOS[task], task_class(task)
    assert demo.data().is_file()
    assert set(demo.compare) <= set(kind.forms)
    for fields in (demo.fields, demo.fields | demo.quick):
        made = kind(**fields)
        assert made.get_params().items() >= fields.items()
