"""Bad input, and nothing lost: one clear sentence, a non-zero exit code, no traceback, no half-written file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from tables import OF_TABLE, SMALL, files, hourly, refused
from task_cases import waves

from tidegate import console
from tidegate.tasks import backtest
from tidegate.training import progress
from tidegate.training.checkpoint import load_tensors, save_tensors

FEW = [word for pair in zip(SMALL[::2], SMALL[1::2], strict=True) if pair[0] != "--horizon" for word in pair]


def text(changes: dict[int, object], column: str = "y") -> pl.DataFrame:
    """The table with some values of a column replaced, as text."""
    table = hourly()
    values = table[column].cast(pl.String).to_list()
    for row, value in changes.items():
        values[row] = value
    return table.with_columns(pl.Series(column, values))


def twice() -> pl.DataFrame:
    return pl.concat([hourly(), hourly()[7:8]])


# what the table is, the sentence; what is wrong for every task is in test_every_task.py
BAD_TABLES = {
    "cut off": (b"t,y\n2020-01-01 00:00,1\n2020-01-01 01:00", "line 3 has 1 field, the header has 2"),
    "twice": (twice(), "--time t: the table has 2 rows at 2020-01-01 07:00 (rows 8, 241); did you forget --series?"),
    "no times": (text({3: ""}, "t"), "--time t: row 4 (line 5 of a CSV file) has no time"),
    "time zones": (
        text({5: "2020-01-01 05:00Z"}, "t"),
        "holds '2020-01-01 05:00Z' with a UTC offset, row 1 holds '2020-01-01 00:00' without one; "
        "give all times an offset, or none",
    ),
    "too short": (hourly(20), "no series has a whole window of 16 steps (history 12 + horizon 4)"),
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_bad_tables(run, tmp_path, what):
    table, sentence = BAD_TABLES[what]
    path = tmp_path / "a.csv"
    if isinstance(table, pl.DataFrame):
        table.write_csv(path)
    elif table is not None:
        path.write_bytes(table)
    before = files(tmp_path)
    refused(run("train", "forecast", path, *OF_TABLE, *SMALL, "--out", tmp_path / "run"), sentence)
    assert files(tmp_path) == before
    assert not (tmp_path / "run").exists()


BAD_OPTIONS = {
    "missing column": (
        ["--target", "yy", "--time", "t"],
        "has no column 'yy'; did you mean 'y'? Its columns are: t, y",
    ),
    "no target": (["--time", "t"], "--target is needed: the column to forecast"),
    "horizon beyond the data": ([*OF_TABLE, *FEW, "--horizon", "300"], "the longest series has 240; lower --horizon"),
    "horizon beyond a part": (
        [*OF_TABLE, *FEW, "--horizon", "100"],
        "lower --horizon to 36 or less, raise --validation",
    ),
    "a test part of few steps": (
        [*OF_TABLE, *SMALL, "--test", "0.01"],
        "the test part is the 2 steps from 2020-01-10 22:00, and no forecast of 4 steps with known targets and 12 "
        "steps of history before it fits there; lower --horizon to 2 or less, raise --test, or bring more data",
    ),
    "own form": (
        [*OF_TABLE, "--compare", "lstm"],
        "--compare lstm: the model is of this form already; put 'rnn' beside it",
    ),
    "unknown form": ([*OF_TABLE, "--compare", "gru"], "--compare knows 'rnn', 'lstm'; given 'gru'"),
    "typo": ([*OF_TABLE, "--horizn", "3"], "Unknown option: --horizn. Did you mean --horizon?"),
    "no epochs": ([*OF_TABLE, "--epochs", "0"], "--epochs: it must be greater than or equal to 1; given '0'"),
    "words": ([*OF_TABLE, "--epochs", "many"], "--epochs: a whole number is needed; given 'many'"),
    "infinite rate": ([*OF_TABLE, "--learning-rate", "inf"], "--learning-rate: a finite number is needed; given 'inf'"),
    "no median": ([*OF_TABLE, "--quantiles", "0.1", "--quantiles", "0.9"], "have 0.5 and one on each side of it among"),
    "one-sided": ([*OF_TABLE, "--quantiles", ".5", "--quantiles", ".8", "--quantiles", ".9"], "given 0.5, 0.8, 0.9"),
    "no such precision": ([*OF_TABLE, "--precision", "fp8"], "--precision: it must be 'no', 'bf16' or 'fp16'"),
    "half on the CPU": ([*OF_TABLE, *SMALL, "--precision", "fp16", "--cpu"], "precision fp16 needs a GPU"),
    "nothing to train on": ([*OF_TABLE, "--test", "0.5", "--validation", "0.4"], "leave at least a tenth of the time"),
    "frequency": ([*OF_TABLE, "--frequency", "soon"], "--frequency soon: not a step of time"),
    "one column, two roles": ([*OF_TABLE, "--past", "y"], "column 'y' is given as --target and as --past"),
    "config": ([*OF_TABLE, "--config", "no.toml"], "there is no configuration file no.toml"),
    "resume what": ([*OF_TABLE, "--resume"], "--resume needs the run folder to go on with: give it as --out"),
}


@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_bad_options(run, kept, tmp_path, monkeypatch, what):
    options, sentence = BAD_OPTIONS[what]
    monkeypatch.chdir(tmp_path)
    refused(run("train", "forecast", kept / "good.csv", *options), sentence)
    left = {Path(name).name for name in files(tmp_path)}
    assert left <= {"config.toml", "data.json"}  # such a folder may be trained in again


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("horizn = 3\n", "unknown option 'horizn'; did you mean 'horizon'?"),
        ("horizon = \n", "c.toml is not valid TOML"),
        ("epochs = 0\n", "error: epochs: it must be greater than or equal to 1; given 0"),
        ("target = 3\n", "error: target: a list is needed; given 3"),
    ],
)
def test_bad_config(run, kept, tmp_path, toml, sentence):
    (tmp_path / "c.toml").write_text(toml)
    words = ["--time", "t", "--config", tmp_path / "c.toml", "--out", tmp_path / "run"]
    refused(run("train", "forecast", kept / "good.csv", *words), sentence)
    assert list(files(tmp_path)) == ["c.toml"]


def test_what_is_wrong_is_said_by_the_real_command(command, kept, tmp_path):
    """True processes: an option, a table, a run folder."""
    refused(command("train", "forecast", "x.csv", "--targt", "y"), "Unknown option: --targt. Did you mean --target?")
    refused(
        command("predict", kept / "good.csv", kept / "good.csv", "-o", tmp_path / "a.csv"), "there is no run folder"
    )
    refused(command("evaluate", tmp_path), "has no model.safetensors: it is not a finished run of tidegate")
    missing = kept / "god.csv"
    refused(command("train", "forecast", missing, *OF_TABLE, cwd=tmp_path), f"did you mean {kept / 'good.csv'}?")
    assert files(tmp_path) == {}


def test_untidy_tables_are_used_and_it_is_said(run, tmp_path):
    """Unsorted rows, gaps, missing values, a series too short and a constant one, in one table."""
    rng = np.random.default_rng(3)
    level = hourly().with_columns(y=1000 + pl.Series(rng.normal(size=240)), s=pl.lit("level"))
    level = level.with_columns(y=pl.when(pl.int_range(240) % 3 != 1).then(pl.col("y")))  # 80 values missing
    level = level.filter(~pl.int_range(240).is_in([50, 51, 100]))  # three more steps, in two gaps
    flat = hourly().with_columns(y=pl.lit(7.0), s=pl.lit("flat"))
    tiny = hourly(10).with_columns(s=pl.lit("tiny"))
    table = pl.concat([level, flat, tiny]).sample(fraction=1, shuffle=True, seed=1)
    table.write_csv(tmp_path / "a.csv")
    words = [*OF_TABLE, "--series", "s", *SMALL, "--out", tmp_path / "run"]
    result = run("train", "forecast", tmp_path / "a.csv", *words)
    assert result.code == 0, result.err
    assert "sorted the rows by time: they went back in" in result.err
    assert "filled 2 gaps (3 missing steps) on the 1 hour grid" in result.err
    gone = 80 + sum(k % 3 != 1 for k in (50, 51, 100))
    assert f"y: {gone} of 490 steps are missing ({100 * gone / 490:.2g}%)" in result.err
    assert "skipped 1 series shorter than one window of 16 steps: tiny" in result.err
    assert "1 series never changes, which leaves nothing to learn there: flat" in result.err

    # A missing value taken for zero would put a third of the level series 1000 off.
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name, model in metrics["models"].items():
        assert model["overall"]["rmse"] < 5, name
    assert f"went back in {np.sum(np.diff(_codes(table)) < 0)} place" in result.err

    done = run("predict", tmp_path / "run", tmp_path / "a.csv", "-o", tmp_path / "f.csv")
    assert done.code == 0, done.err
    assert "filled 2 gaps (3 missing steps) on the 1 hour grid" in done.out
    forecast = pl.read_csv(tmp_path / "f.csv")
    assert forecast.filter(s="level")["y"].is_between(990, 1010).all()
    assert forecast.filter(s="flat")["y"].is_between(3, 11).all()
    assert forecast.group_by("s").len()["len"].to_list() == [4, 4, 4]


def _codes(table: pl.DataFrame) -> np.ndarray:
    """Rows of each series on end, in the order of the table; between series time goes on."""
    parts = [table.filter(s=s)["t"].str.to_datetime().dt.epoch("s").to_numpy() for s in table["s"].unique()]
    return np.concatenate([part + k * 10**9 for k, part in enumerate(parts)])


def test_a_loss_that_is_not_finite_stops(run, kept, tmp_path):
    words = [*OF_TABLE, *SMALL, "--learning-rate", "1e30", "--clip", "1e30", "--batch-size", "8"]
    result = run("train", "forecast", kept / "good.csv", *words, "--out", tmp_path / "run")
    refused(result, "training stopped: the loss is", notes="240 steps of 1 hour from 2020-01-01 to 2020-01-10 23:00\n")
    assert "Lower --learning-rate or --clip" in result.err
    assert set(files(tmp_path / "run")) == {"config.toml", "data.json"}
    # What is left is no run: the same folder may be used again, and it is not taken for a trained one.
    refused(run("evaluate", tmp_path / "run"), "has no model.safetensors: it is not a finished run of tidegate")
    again = run("train", "forecast", kept / "good.csv", *OF_TABLE, *SMALL, "--out", tmp_path / "run")
    assert again.code == 0


def test_folders_that_hold_something_are_left_alone(run, kept, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    words = ["train", "forecast", kept / "good.csv", *OF_TABLE, *SMALL, "--out"]
    refused(run(*words, tmp_path), "is not empty, and a run needs a folder of its own; give another --out")
    refused(run(*words, kept / "base"), "holds a run already; give another --out, or --resume to go on with it")
    again = f"or tidegate train forecast --resume --out {kept / 'base'} to go on with it"
    assert again in run("demo", "--out", kept / "base").err
    refused(run(*words, tmp_path / "README.md"), "cannot make the folder")
    refused(run(*words[:3], "--resume", "--out", tmp_path), "holds no run to go on with (it has no config.toml)")
    changed = ["--resume", "--out", kept / "base", "--horizon", "5"]
    refused(run("train", "forecast", *changed), "it cannot change --horizon")
    assert files(tmp_path) == {"README.md": b"mine"}


def test_ctrl_c_beside_the_model_says_how_to_go_on(run, kept, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tidegate.cli_train.report", interrupted)
    found = run("train", "forecast", kept / "good.csv", *OF_TABLE, *SMALL, "--out", tmp_path / "run")
    assert f"interrupted; go on with: tidegate train forecast --resume --out {tmp_path / 'run'}" in found.err


def test_marks_of_missing_values_are_noted(run, tmp_path):
    table = hourly(240)
    table = table.with_columns(y=pl.when(pl.int_range(240) % 60 == 7).then(-999.0).otherwise(pl.col("y")))
    table.write_csv(tmp_path / "t.csv")
    found = run("train", "forecast", tmp_path / "t.csv", *OF_TABLE, *SMALL, "--out", tmp_path / "run")
    said = "y is -999 in 4 rows, far below all others; if that stands for a missing value, leave those cells empty"
    assert said in found.err.replace("\n", " ")
    assert said in run("predict", tmp_path / "run", tmp_path / "t.csv", "-o", tmp_path / "p.csv").out


# --- run folders ---------------------------------------------------------------------------------------------


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


DAMAGE = {
    "edited horizon": (_edit("horizon = 4", "horizon = 5"), "it says horizon = 5, and the model was trained with 4"),
    "no history": (_edit("history = 12\n", ""), "it says history = None, and the model was trained with 12"),
    "other series": (_facts(series=["a", "b"]), "is damaged: model and configuration do not fit together"),
    "no grid": (_facts(panel={}), "is damaged: model and configuration do not fit together"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_run_folders(run, kept, tmp_path, what):
    damage, sentence = DAMAGE[what]
    shutil.copytree(kept / "base", tmp_path / "run")
    damage(tmp_path / "run")
    before = files(tmp_path)
    refused(run("predict", tmp_path / "run", kept / "good.csv", "-o", tmp_path / "f.csv"), sentence)
    refused(run("evaluate", tmp_path / "run"), sentence)
    assert files(tmp_path) == before


def test_training_fields_may_be_edited(run, kept, tmp_path):
    """What only training reads does not make another model."""
    shutil.copytree(kept / "base", tmp_path / "run")
    _edit("batch_size = 64", "batch_size = 8")(tmp_path / "run")
    assert run("predict", tmp_path / "run", kept / "good.csv", "-o", tmp_path / "f.csv").code == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("f.xls", "a table's file name ends in .csv or .parquet"),
        ("no/f.csv", "the folder {}/no does not exist"),
    ],
)
def test_bad_outputs(run, kept, tmp_path, name, sentence):
    result = run("predict", kept / "base", kept / "good.csv", "-o", tmp_path / name)
    refused(result, sentence.format(tmp_path))
    assert files(tmp_path) == {}


def test_other_tables_for_a_run(run, kept, tmp_path):
    hourly(100).write_csv(tmp_path / "old.csv")
    refused(run("evaluate", kept / "base", tmp_path / "old.csv"), "the test part has no whole window")
    hourly().rename({"y": "z"}).write_csv(tmp_path / "z.csv")
    words = ["-o", tmp_path / "f.csv"]
    refused(run("predict", kept / "base", tmp_path / "z.csv", *words), "has no column 'y'")
    hourly().with_columns(y=None).write_csv(tmp_path / "none.csv")
    refused(
        run("predict", kept / "base", tmp_path / "none.csv", *words), "--target y: the column holds no value at all"
    )
    refused(run("predict", kept / "base", kept / "good.csv", *words, "--samples", "-1"), "given -1")
    sampled = run("predict", kept / "base", kept / "good.csv", *words, "--samples", "2", "--seed", "-1")
    refused(sampled, "--seed is a number of at least 0; given -1")
    refused(run("predict", kept / "base", kept / "good.csv", *words, "--seed", "1"), "--seed is for sample paths")
    assert not (tmp_path / "f.csv").exists()


# --- what people forget -----------------------------------------------------------------------------------------


def test_forgotten_options_and_seeds_out_of_range(run, kept):
    table = kept / "good.csv"
    refused(run("train", "forecast", table), "--target is needed: the column to forecast")
    refused(run("train", "forecast", table, *OF_TABLE, "--seed", 2**32), "--seed: it must be less than 4294967296")


def test_one_spoilt_cell_is_no_column_of_text(run, tmp_path):
    table = waves()
    spoilt = table["w"].cast(pl.String).to_list()
    spoilt[7] = "hey"
    table.with_columns(w=pl.Series(spoilt)).write_csv(tmp_path / "a.csv")
    words = ["train", "classify", tmp_path / "a.csv", "--sequence", "s", "--label", "kind", "--time", "t"]
    refused(
        run(*words, "--group", "p"), "column 'w': row 8 (line 9 of a CSV file) holds 'hey', no number as most others"
    )


def test_one_sequence_is_too_few(run, tmp_path):
    (tmp_path / "a.conll").write_text("".join(f"w{k % 5} {'XO'[k % 2]}\n" for k in range(40)))  # no blank line
    refused(
        run("train", "tag", tmp_path / "a.conll"), "too few sequences (1) to keep some untouched; give more (in two-"
    )


def test_few_sequences_train_without_a_validation_part(run, tmp_path):
    waves(4).write_csv(tmp_path / "a.csv")
    words = ["--sequence", "s", "--label", "kind", "--feature", "v", "--epochs", "1", "--hidden-size", "2"]
    assert run("train", "classify", tmp_path / "a.csv", *words, "--out", tmp_path / "run").code == 0


def test_covariates_that_are_not_known_ahead_are_named(run, tmp_path):
    table = hourly().with_columns(k=pl.col("y") * 0 + 1.0, j=pl.col("y") * 0 + 2.0)
    table.write_csv(tmp_path / "a.csv")
    words = ["train", "forecast", tmp_path / "a.csv", *OF_TABLE, *SMALL, "--known", "k", "--known", "j"]
    assert run(*words, "--out", tmp_path / "run").code == 0
    later = pl.col("t").str.to_datetime() + pl.duration(hours=table.height)
    ahead = table[:4].with_columns(later.dt.strftime("%Y-%m-%d %H:%M").alias("t"), y=None, j=None)
    pl.concat([table, ahead], how="vertical_relaxed").write_csv(tmp_path / "b.csv")
    for name, said in (("a.csv", "so masked: k, j"), ("b.csv", "so masked: j")):
        found = run("predict", tmp_path / "run", tmp_path / name, "-o", tmp_path / "f.csv")
        assert f"known ahead, but without values there, and {said}\n" in found.out


def test_what_can_hardly_be_meant(run, tmp_path):
    words = ["train", "forecast", tmp_path / "a.csv", *OF_TABLE, *SMALL, "--out", tmp_path / "run"]
    hourly().with_columns(k=pl.lit(None, pl.Float64)).write_csv(tmp_path / "a.csv")
    for option in ("--known", "--past"):
        refused(run(*words, option, "k"), f"{option} k: the column holds no value at all")
    text({100: "1e30"}).write_csv(tmp_path / "a.csv")
    found = run(*words)
    assert found.code == 0, found
    assert "y: the largest value, 1e+30, is over a million times as large as nearly all others; if it is" in found.err
    assert "Warning" not in found.err


@pytest.mark.parametrize(
    ("value", "least", "shown"),
    [
        (12.3456, 3.0, "12.346"),
        (7.5e7, 7.4e7, "75000000"),
        (0.000123, 0.0001, "0.000123"),
        (3e12, 2e12, "3e+12"),
        (2e27, 3.0, "2e+27"),
    ],
)
def test_scores_of_any_size_are_shown(value, least, shown):
    assert backtest._shown(value, least) == shown
    assert progress._shown(value) in (f"{value:.4f}", f"{value:.4g}")
    assert len(progress._shown(value)) < 12


def test_what_is_needed_and_what_is_wrong_in_a_file(kept, run, tmp_path):
    refused(run("predict", kept / "base", kept / "good.csv"), "predict needs --output or -o")
    refused(run("evaluate"), "evaluate needs RUN")
    config = tmp_path / "a.toml"
    config.write_text("hiden_size = 3\nepohcs = 4\n")
    said = "unknown option 'hiden_size'; did you mean 'hidden_size'? unknown option 'epohcs'; did you mean 'epochs'?"
    words = ["train", "forecast", kept / "good.csv", *OF_TABLE, "--config", config]
    refused(run(*words), f"{said} (with the options in {config})")
    config.write_text("self = 3\ncls = 4\n")
    refused(run(*words), "unknown option 'self'; there are recipe, epochs, ")
    config.write_text("validation = 0.5\n")
    refused(run(*words, "--test", "0.4"), f"; given 0.5 and 0.4 (with the options in {config})")
    shutil.copytree(kept / "base", tmp_path / "run")
    _edit("epochs = 1", "epochs = 0")(tmp_path / "run")
    resumed = run("train", "forecast", "--resume", "--out", tmp_path / "run")
    refused(resumed, f"given 0 (with the options in {tmp_path / 'run' / 'config.toml'})")
    (tmp_path / "run" / "config.toml").write_text("history = 'x")
    refused(run("evaluate", tmp_path / "run"), f"error: {tmp_path / 'run' / 'config.toml'} is not valid TOML")


def test_a_narrow_terminal_cuts_no_score_off(kept, run, monkeypatch):
    monkeypatch.setattr(console, "out", Console(width=30))
    monkeypatch.setattr(backtest, "_shown", lambda value, least: "1234567.890")
    found = run("evaluate", kept / "base").out
    rows = [line.split() for line in found.splitlines() if "1234567.890" in line]
    assert len(rows) >= 3
    assert all(row.count("1234567.890") + row.count("1234567.890*") == 5 for row in rows)


def test_covariates_that_are_partly_known_ahead_and_short_histories_are_noted(run, tmp_path):
    table = hourly().with_columns(k=pl.col("y") * 0 + 1.0)
    table.write_csv(tmp_path / "a.csv")
    words = ["train", "forecast", tmp_path / "a.csv", *OF_TABLE, *SMALL, "--known", "k"]
    assert run(*words, "--out", tmp_path / "run").code == 0
    later = pl.col("t").str.to_datetime() + pl.duration(hours=table.height)
    ahead = table[:1].with_columns(later.dt.strftime("%Y-%m-%d %H:%M").alias("t"), y=None)
    pl.concat([table[-5:], ahead], how="vertical_relaxed").write_csv(tmp_path / "b.csv")
    found = run("predict", tmp_path / "run", tmp_path / "b.csv", "-o", tmp_path / "f.csv")
    assert "so masked: k (3 of 4 values)\n" in found.out
    assert "1 series have fewer than the 12 steps that the model reads, and the others are masked:  (5)\n" in found.out


def test_a_score_is_called_validation_only_where_data_are_held_out(kept, run, tmp_path):
    words = ["train", "forecast", kept / "good.csv", *OF_TABLE, *SMALL, "--pretrain", "1", "--out", tmp_path / "run"]
    trained = run(*words).err
    assert trained.count("  validation ") == 2
    assert "training score" not in trained
    refitted = run("predict", tmp_path / "run", kept / "good.csv", "-o", tmp_path / "f.csv", "--refit").err
    assert refitted.count("  training score ") == 2
    assert "validation" not in refitted
    assert "best so far" not in refitted.splitlines()[-1]


def test_targets_that_32_bits_do_not_tell_apart(run, tmp_path):
    words = ["train", "forecast", tmp_path / "a.csv", *OF_TABLE, *SMALL, "--out", tmp_path / "run"]
    hourly().with_columns(y=pl.col("y") + 1e9).write_csv(tmp_path / "a.csv")
    refused(run(*words), "--target y: values between 1000000004")
    hourly().with_columns(y=pl.lit(1e9)).write_csv(tmp_path / "a.csv")
    assert "never changes" in run(*words).err


def test_very_small_targets_are_scaled(run, tmp_path):
    hourly().with_columns(y=pl.col("y") * 1e-30).write_csv(tmp_path / "a.csv")
    words = ["train", "forecast", tmp_path / "a.csv", *OF_TABLE, *SMALL, "--out", tmp_path / "run"]
    assert run(*words).code == 0
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["models"]["LSTM"]["overall"]
    assert 0 < found["mae"] < 1e-28


def test_predictions_do_not_replace_their_data(kept, run, tmp_path):
    shutil.copyfile(kept / "good.csv", tmp_path / "a.csv")
    before = (tmp_path / "a.csv").read_bytes()
    refused(run("predict", kept / "base", tmp_path / "a.csv", "-o", tmp_path / "." / "a.csv"), "is DATA itself")
    assert (tmp_path / "a.csv").read_bytes() == before


def test_a_file_that_ends_its_lines_with_cr(run, tmp_path):
    (tmp_path / "a.csv").write_bytes(hourly().write_csv().replace("\n", "\r").encode())
    refused(run("train", "forecast", tmp_path / "a.csv", *OF_TABLE, *SMALL), "ends its lines with CR alone")


def test_options_in_a_file_with_a_byte_order_mark(run, tmp_path):
    hourly().write_csv(tmp_path / "a.csv")
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfhidden_size = 3\n")
    words = ["train", "forecast", tmp_path / "a.csv", *OF_TABLE, *SMALL[:-2], "--config", tmp_path / "c.toml"]
    assert run(*words, "--out", tmp_path / "run").code == 0
    assert "hidden_size = 3" in (tmp_path / "run" / "config.toml").read_text()
    refused(run(*words, "--known", "k", "m"), "An option with several values is given once for each")


def test_times_without_a_regular_step(run, tmp_path):
    seconds = np.random.default_rng(0).integers(0, 86_400, 240)
    days = pl.datetime(2020, 1, 1) + pl.duration(days=pl.int_range(240), seconds=pl.Series(seconds))
    hourly().with_columns(t=days).write_csv(tmp_path / "a.csv")
    refused(run("train", "forecast", tmp_path / "a.csv", *OF_TABLE, *SMALL), "--time t: there is no regular step")
