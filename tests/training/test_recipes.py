"""The options for little data do what they say, and a recipe sets only what the user has not."""

from __future__ import annotations

import os
import signal

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.base import clone
from tables import hourly
from task_cases import waves
from torch import nn

import tidegate as tg
from tidegate.data.sequences import from_table
from tidegate.errors import ConfigError, RunError
from tidegate.recurrent import variational_dropout
from tidegate.tasks.classify_config import ClassifyConfig
from tidegate.tasks.classify_data import make_batch
from tidegate.tasks.classify_network import SequenceBatch
from tidegate.training import loop, recipes
from tidegate.training.augment import resample, scale
from tidegate.training.config import TrainingConfig
from tidegate.training.pretrain import NextStep

WAVES = {"sequence": "s", "label": "kind", "time": "t", "feature": ["v", "w"]}
SMALL = {"hidden_size": 4, "batch_size": 8, "epochs": 2}


@pytest.fixture
def recipe(monkeypatch) -> dict:
    """A recipe of our own, so that the tests do not change with the measured one."""
    options = {"weight_dropout": 0.4, "epochs": 3}
    monkeypatch.setitem(recipes.SMALL_DATA, "classify", options)
    return options


# --- recipes ---------------------------------------------------------------------------------------------------


def test_a_recipe_sets_what_was_not_given(recipe):
    made = tg.Classifier(recipe="small-data", epochs=5).config
    assert (made.weight_dropout, made.epochs) == (0.4, 5)
    assert tg.Classifier(recipe="small-data", weight_dropout=0.0).config.weight_dropout == 0.0
    assert tg.Classifier().config.weight_dropout == 0.0


def test_what_a_recipe_set_is_in_the_configuration_and_not_given(recipe):
    made = tg.Classifier(recipe="small-data")
    assert made.config.model_dump()["epochs"] == 3
    assert "epochs = 3" in made.config.to_toml()
    again = ClassifyConfig.make(**made.config.model_dump())
    assert again == made.config
    assert clone(made).set_params(recipe="none").config.epochs == 40
    assert clone(tg.Classifier(epochs=7)).set_params(recipe="small-data").config.epochs == 7


def test_a_recipe_that_is_not_there():
    with pytest.raises(ConfigError, match="recipe: it must be 'none' or 'small-data'; given 'large-data'"):
        tg.Classifier(recipe="large-data")


def test_a_task_without_a_recipe_says_so():
    with pytest.raises(ConfigError, match="the recipe is measured for .* alone; for this task give"):
        tg.Tagger(recipe="small-data")


@pytest.mark.parametrize("name", recipes.SMALL_DATA)
def test_the_recipes_are_valid_options(name):
    from tidegate.tasks import task_class

    task, _, kind = name.partition(" ")
    config = task_class(task).Config
    assert config.task == task
    made = config.make(recipe="small-data", **({"text": "words"} if kind == "text" else {}))
    assert made.model_dump().items() >= recipes.SMALL_DATA[name].items()


def test_a_recipe_by_the_kind_of_data(recipe, monkeypatch):
    monkeypatch.setitem(recipes.SMALL_DATA, "classify text", {"weight_dropout": 0.1})
    assert tg.Classifier(recipe="small-data", text="words").config.weight_dropout == 0.1
    assert tg.Classifier(recipe="small-data").config.weight_dropout == 0.4
    assert clone(tg.Classifier(recipe="small-data")).set_params(text="words").config.weight_dropout == 0.1


# --- dropout ---------------------------------------------------------------------------------------------------


def test_weight_dropout_reaches_the_layer():
    net = tg.Classifier(**WAVES, **SMALL, weight_dropout=0.5).fit(waves()).model_
    assert net.recurrent.weight_dropout == 0.5
    batch = SequenceBatch(torch.ones(6, 1, 2), torch.tensor([6]))
    net.dropout.p = 0.0
    assert not torch.equal(net.train()(batch), net(batch))
    assert torch.equal(net.eval()(batch), net(batch))
    forecaster = tg.Forecaster(target="y", time="t", horizon=4, history=12, windows=32, **SMALL, weight_dropout=0.5)
    assert forecaster.fit(hourly()).model_.recurrent.weight_dropout == 0.5
    assert forecaster.twin("rnn").resolved_.cell == "rnn"  # made of the same options, this one left aside
    for made, table in ((forecaster, hourly()), (tg.Classifier(**WAVES, **SMALL, weight_dropout=0.5), waves())):
        with pytest.raises(ConfigError, match="weight_dropout is an option of the LSTM; the vanilla RNN has none"):
            made.set_params(cell="rnn").fit(table)


def test_variational_dropout_is_one_mask_a_sequence():
    torch.manual_seed(0)
    found = variational_dropout(torch.ones(7, 50, 4), 0.25)
    assert torch.equal(found, found[:1].expand_as(found))
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.75]))
    assert abs(float((found[0] == 0).float().mean()) - 0.25) < 0.1
    assert len(found[0].unique(dim=0)) > 1  # another one for each sequence


def test_variational_dropout_between_layers():
    """With the second layer's weights at 0 but for the input, its gates show what it reads."""
    torch.manual_seed(0)
    for variational in (False, True):
        layer = tg.LSTM(1, 8, 2, dropout=0.5, variational=variational)
        seen: list[torch.Tensor] = []
        between = layer._between
        layer._between = lambda *given, between=between, seen=seen: seen.append(between(*given)) or seen[-1]
        layer(torch.ones(20, 3, 1))
        dropped = seen[0] == 0  # (T, B, H)
        assert 0.3 < dropped.float().mean() < 0.7
        assert bool((dropped == dropped[:1]).all()) is variational
        layer.eval().trace(torch.ones(20, 3, 1))  # as a call, but always layer by layer
        assert not (seen[1] == 0).any()
        calm = layer(torch.ones(20, 3, 1))[0]
        layer.train().dropout = 0.0
        assert torch.equal(layer(torch.ones(20, 3, 1))[0], calm)


# --- steps, averages -------------------------------------------------------------------------------------------


class Counting:
    """A job that counts: one weight, pulled to 1, with scores of our own."""

    def __init__(self, batches: int, scores: list[float] | None = None) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        self.batches, self.scores, self.steps = batches, scores, 0
        self.weights: list[float] = []  # before each step
        self.averaged: list[float] = []  # at each validation

    def epoch(self, generator):
        return list(torch.randperm(self.batches, generator=generator)[:, None].unbind())

    def loss(self, model, indices, device):
        self.steps += 1
        self.weights.append(float(model.weight.detach()))
        return (model.weight - 1).square().sum(), 1.0

    def validate(self, model, device):
        self.averaged.append(float(model.weight))
        return self.scores.pop(0) if self.scores else 1.0 / (1 + self.steps)


@pytest.mark.parametrize(("batches", "least", "steps"), [(3, 0, 30), (3, 29, 30), (3, 100, 120), (30, 100, 300)])
def test_few_data_are_read_several_times_an_epoch(batches, least, steps):
    job = Counting(batches)
    loop.train(job, TrainingConfig(epochs=10, least_steps=least, cpu=True), progress=False)
    assert job.steps == steps


def test_nt_asgd_averages_once_the_score_stops_getting_better():
    scores = [5.0, 4.0, 3.0, 2.0, 0.5, 0.55, 0.55, 0.55, 0.55, 0.55, 0.6, 0.4, 0.4]
    job = Counting(2, list(scores))
    config = TrainingConfig(epochs=13, averaging="nt-asgd", patience=13, weight_decay=0, cpu=True)
    place = loop.train(job, config, progress=False)
    # The 11th score, 0.6, is the first above the best of all but the five before it.
    assert place.since == 22
    assert {row["learning_rate"] for row in place.history} == {config.learning_rate}
    assert job.averaged[9] == job.weights[20]
    assert job.averaged[11] == pytest.approx(np.mean(job.weights[22:25]), rel=1e-6)


# --- augmentation ----------------------------------------------------------------------------------------------


def test_scaling_is_one_factor_an_input_and_sequence():
    torch.manual_seed(0)
    x = torch.rand(9, 200, 3) + 1
    factor = scale(x, 0.2) / x
    torch.testing.assert_close(factor, factor[:1].expand_as(factor))
    assert abs(float(factor[0].log().std()) - 0.2) < 0.02


def test_flags_of_what_is_known_are_neither_scaled_nor_noisy():
    table = waves().with_columns(w=pl.when(pl.int_range(pl.len()) % 3 > 0).then("w"))
    made = tg.Classifier(**WAVES, **SMALL, scale=0.5, noise=0.5).fit(table)
    job, net = made._job(), made.model_.train()
    batch = make_batch(made.sequences_, np.arange(8), made.scaling_)
    inputs = job._augmented(batch).inputs
    assert inputs.shape[-1] == 3
    assert torch.equal(inputs[..., 2], batch.inputs[..., 2])
    assert not torch.equal(inputs[..., :2], batch.inputs[..., :2])
    seen = []
    net.read = lambda x, lengths: seen.append(x)
    net(batch)
    assert torch.equal(seen[0][..., 2], batch.inputs[..., 2])
    assert (seen[0][..., :2] != batch.inputs[..., :2]).all()


def test_a_line_read_at_another_speed_stays_a_line():
    torch.manual_seed(0)
    lengths = torch.tensor([20, 7, 1, 0] * 50)
    steps = torch.arange(20.0)[:, None]
    x = torch.where(steps < lengths, steps, 0.0)[..., None]  # (T, B, 1)
    found, count = resample(x, lengths, 0.3, 0.5)
    assert torch.equal(count == 0, lengths == 0)
    assert len(found) == int(count.max())
    speeds = []
    for b in range(len(lengths)):
        line = found[: count[b], b, 0]
        assert (found[count[b] :, b] == 0).all()
        if len(line) > 2:
            torch.testing.assert_close(line.diff(), line.diff()[:1].expand(len(line) - 1), atol=1e-5, rtol=1e-4)
            assert 0 <= line[0] <= line[-1] <= lengths[b] - 1
            assert line[-1] - line[0] >= 0.5 * (lengths[b] - 1) - 1e-4
            speeds.append(float(line.diff()[0]))
    assert 0.4 < min(speeds) < 0.9
    assert 1.1 < max(speeds) < 2.5


def test_without_warp_and_crop_nothing_changes():
    x, lengths = torch.randn(6, 3, 2), torch.tensor([6, 3, 1])
    x[3:, 1], x[1:, 2] = 0, 0
    found, count = resample(x, lengths, 0.0, 0.0)
    assert torch.equal(count, lengths)
    torch.testing.assert_close(found, x)


def test_label_smoothing_gives_every_class_a_share():
    made = tg.Classifier(**WAVES, **SMALL, dropout=0.0, label_smoothing=0.3).fit(waves())
    job, first = made._job(), torch.arange(5)
    found, weight = job.loss(made.model_.eval(), first, torch.device("cpu"))
    trained = made._parts[0][:5]
    p = torch.from_numpy(made.logits(made.sequences_)[trained]).log_softmax(-1)  # (5, K)
    truth = nn.functional.one_hot(torch.from_numpy(made._codes[trained]), 2)
    assert float(found.detach()) == pytest.approx(float(-(p * (0.7 * truth + 0.15)).sum(-1).mean()), rel=1e-5)
    assert weight == 5


# --- pretraining -----------------------------------------------------------------------------------------------


def test_pretraining_lowers_the_next_step_loss_and_stays_in_the_weights(tmp_path):
    table = waves()
    options = WAVES | {"hidden_size": 8, "epochs": 1, "learning_rate": 3e-2}
    made = tg.Classifier(**options, pretrain=30).fit(table, folder=tmp_path / "run")
    losses = pl.read_csv(tmp_path / "run" / "pretraining" / "history.csv")["validation"]
    assert losses.min() < 0.8 * losses[0]  # v is a line; w is noise, of which nothing can be learnt
    made._taught = {}
    made._start(made.config, None, resume=False, progress=False)
    taught = made.model_.state_dict()
    torch.manual_seed(made.config.seed)
    fresh = made._build().state_dict()
    assert taught.keys() == fresh.keys()  # nothing of the pretraining stays but the weights
    changed = {name for name in fresh if not torch.equal(taught[name], fresh[name])}
    assert changed == {name for name in fresh if name.startswith("recurrent.")}


def test_what_was_pretrained_is_taken_again_for_the_refit(monkeypatch):
    counts, pretraining = [], tg.Classifier._pretraining
    monkeypatch.setattr(tg.Classifier, "_pretraining", lambda self: counts.append(1) or pretraining(self))
    made = tg.Classifier(**WAVES, **SMALL, pretrain=1, refit=True).fit(waves())
    kept = made.model_.state_dict()
    assert len(counts) == 1
    made._taught = {}
    made._train(lambda: made._job(both=True), epochs=made.training_.best_epoch)
    assert len(counts) == 2
    assert not [name for name, value in made.model_.state_dict().items() if not torch.equal(value, kept[name])]


def test_each_direction_foretells_what_it_has_not_read():
    """The loss at a step does not change with what its direction reads only later."""
    torch.manual_seed(0)
    net = NextStep(tg.LSTM(2, 4, bidirectional=True)).double()
    x = torch.randn(5, 1, 2, dtype=torch.float64)
    lengths = torch.tensor([5])
    hidden, _ = net.recurrent(x)
    forward, backward = hidden.chunk(2, -1)
    loss = torch.nn.functional.smooth_l1_loss
    wanted = (loss(net.heads[0](forward[:-1]), x[1:]) + loss(net.heads[1](backward[1:]), x[:-1])) / 2
    torch.testing.assert_close(net(x, lengths), wanted)
    padded = torch.cat([x, torch.full_like(x[:2], 9.0)])
    torch.testing.assert_close(net(padded, lengths), wanted)


def test_of_two_bidirectional_layers_the_first_learns_in_place():
    layer = tg.LSTM(2, 4, 2, bidirectional=True)
    net = NextStep(layer)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    net(torch.randn(6, 3, 2), torch.tensor([6, 6, 6])).backward()
    optimizer.step()
    changed = {k for k, v in layer.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if "_l0" in k}


def test_bytes_are_foretold_too():
    table = pl.DataFrame({"words": ["abababab", "cdcdcdcd"] * 10, "kind": ["ab", "cd"] * 10})
    made = tg.Classifier(text="words", label="kind", **SMALL, pretrain=3).fit(table)
    assert made.predict(table)["kind"].to_list() == made.predict(table)["kind"].to_list()
    net = NextStep(made.model_.recurrent, made.model_.embedding)
    assert [head.out_features for head in net.heads] == [256, 256]


def test_sequences_without_a_label_are_pretrained_on():
    table = waves().with_columns(kind=pl.when(pl.col("s").is_in([f"n{n}" for n in range(30)])).then("kind"))
    made = tg.Classifier(**WAVES, **SMALL, pretrain=1)
    made.fit(table)
    trained = len(made.kept_["train"])
    assert len(made._pretraining().train) == trained + 10
    inputs, lengths = made._pretraining().gather(np.array([30]))  # the first of them, after those with a label
    first = from_table(table.filter(pl.col("kind").is_null()), **WAVES).one(0)
    assert int(lengths[0]) == len(first)
    np.testing.assert_allclose(inputs[:, 0].numpy(), made.scaling_.apply(first), rtol=1e-6)


@pytest.mark.parametrize("after", [3, 11])
def test_interrupted_in_or_after_pretraining_and_resumed(tmp_path, monkeypatch, after):
    """Four batches an epoch, two epochs of pretraining."""
    options = WAVES | SMALL | {"pretrain": 2, "warp": 0.1, "weight_dropout": 0.2, "noise": 0.1}
    table = tmp_path / "waves.csv"
    waves().write_csv(table)
    whole = tg.Classifier(**options).fit(table, folder=tmp_path / "whole").model_.state_dict()
    step, count = loop._step, 0

    def interrupted(*args):
        nonlocal count
        if (count := count + 1) == after:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tg.Classifier(**options).fit(table, folder=tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / "checkpoint.safetensors").exists() is (after > 8)
    again = tg.Classifier(**options).fit(table, folder=tmp_path / "run", resume=True).model_.state_dict()
    assert not [name for name in whole if not torch.equal(whole[name], again[name])]


def test_a_forecaster_pretrains_on_its_histories(tmp_path):
    options = {"target": "y", "time": "t", "horizon": 4, "history": 12, "windows": 64, "hidden_size": 8}
    made = tg.Forecaster(**options, epochs=1, pretrain=6).fit(hourly(), folder=tmp_path / "run")
    rows = pl.read_csv(tmp_path / "run" / "pretraining" / "history.csv")
    assert rows["validation"][-1] < rows["validation"][0]
    inputs, lengths = made._pretraining().gather(np.array([0]))
    assert inputs.shape[0] == 12 == int(lengths[0])
    batch = made.windows_.batch(made._origins[0].take(np.array([0])))
    assert torch.equal(inputs, batch.inputs[:12])


def test_a_scaled_window_keeps_its_last_value_and_multiplies_its_moves():
    options = {"target": "y", "time": "t", "horizon": 4, "history": 12, "windows": 64, "hidden_size": 4, "epochs": 1}
    made = tg.Forecaster(**options, scale=0.5).fit(hourly())
    job, batch = made._job(), made.windows_.batch(made._origins[0].take(np.arange(20)))
    found = job._scaled(batch)
    moved = (batch.target - batch.last[:, None]).abs() > 0.05  # (B, h, C)
    ratio = ((found.target - batch.last[:, None]) / (batch.target - batch.last[:, None]))[:, :, 0]
    factor = torch.tensor([float(r[m].mean()) for r, m in zip(ratio, moved[:, :, 0], strict=True)])
    assert factor.log().std() > 0.2
    names = made.windows_.names
    for name, values, new in zip(names, batch.inputs.unbind(-1), found.inputs.unbind(-1), strict=True):
        wanted = values * factor if name in ("y", "y a season ago") else values
        torch.testing.assert_close(new, wanted, atol=2e-4, rtol=2e-3)
    assert torch.equal(found.last, batch.last)


# --- ensembles -------------------------------------------------------------------------------------------------


def test_an_ensemble_of_classifiers_is_the_mean_of_its_members_probabilities(tmp_path):
    table = waves()
    sequences = from_table(table, **WAVES)
    made = tg.Classifier(**WAVES, **SMALL, members=3).fit(table, folder=tmp_path / "run")
    alone = []
    for member in made.model_.members:
        other = tg.Classifier.load(tmp_path / "run")
        other.model_ = member
        alone.append(torch.from_numpy(other.logits(sequences)).softmax(-1).numpy())
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    np.testing.assert_allclose(np.exp(made.logits(sequences)), np.mean(alone, 0), rtol=1e-5)
    loaded = tg.Classifier.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.logits(sequences), made.logits(sequences))
    # The first member is the model that one training gives.
    one = tg.Classifier(**WAVES, **SMALL).fit(table).model_.state_dict()
    first = made.model_.members[0].state_dict()
    assert not [name for name in one if not torch.equal(one[name], first[name])]


def test_an_ensemble_of_forecasters_is_the_mean_of_its_members_quantiles(tmp_path):
    options = {"target": "y", "time": "t", "horizon": 4, "history": 12, "windows": 32, **SMALL}
    made = tg.Forecaster(**options, members=2).fit(hourly(), folder=tmp_path / "run")
    origins = made._origins[1]
    batch = made.windows_.batch(origins)
    with torch.no_grad():
        wanted = (made.model_.members[0](batch) + made.model_.members[1](batch)) / 2
    np.testing.assert_allclose(made.quantiles(made.windows_, origins), wanted.double().numpy(), rtol=1e-6)
    again = tg.Forecaster.load(tmp_path / "run").predict(hourly())
    assert again.equals(made.predict(hourly()))
    made.refit(hourly())
    assert len(made.model_.members) == 2


def test_an_interrupted_ensemble_goes_on_with_the_member_it_was_at(tmp_path, monkeypatch):
    options = WAVES | SMALL | {"members": 2, "pretrain": 1}
    table = tmp_path / "waves.csv"
    waves().write_csv(table)
    whole = tg.Classifier(**options).fit(table, folder=tmp_path / "whole").model_.state_dict()
    step, count = loop._step, 0

    def interrupted(*args):
        nonlocal count
        if (count := count + 1) == 18:  # 12 for the first member, 4 to pretrain the second
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tg.Classifier(**options).fit(table, folder=tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / "member-2" / "checkpoint.safetensors").exists()
    again = tg.Classifier(**options).fit(table, folder=tmp_path / "run", resume=True).model_.state_dict()
    assert not [name for name in whole if not torch.equal(whole[name], again[name])]


def test_an_ensemble_is_not_explained(tmp_path):
    options = {"target": "y", "time": "t", "horizon": 4, "history": 12, "windows": 32, **SMALL}
    hourly().write_csv(tmp_path / "y.csv")
    made = tg.Forecaster(**options, members=2).fit(tmp_path / "y.csv", folder=tmp_path / "run")
    from tidegate.insight.model import open_forecast

    with pytest.raises(RunError, match="an ensemble of 2, which has no one LSTM to look at or to export"):
        open_forecast(made)
