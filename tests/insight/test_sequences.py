"""A classifier opened up: parts of sequences, decisions and their ledgers, and the page of its run."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.figure import Figure
from task_cases import waves

import tidegate as tg
from tidegate.cli import main
from tidegate.errors import DataError, RunError
from tidegate.insight.charts import Heat
from tidegate.insight.figures import ablation_chart
from tidegate.insight.gap import ledger_gap
from tidegate.insight.output import output_ledger
from tidegate.insight.page import chart_json
from tidegate.insight.pngs import _draw_heat
from tidegate.insight.report import explain, page_of
from tidegate.insight.sequence_figures import needed_figure, sequence_case_figures
from tidegate.insight.sequence_study import PLACES, SHARES, decision, kept, probed, sequence_study, spread
from tidegate.insight.sequences import NONE, open_sequences

OPTIONS = {"sequence": "s", "label": "kind", "time": "t", "feature": ["v", "w"], "hidden_size": 6, "seed": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classified")
    waves(60).write_csv(folder / "waves.csv")
    tg.Classifier(**OPTIONS, epochs=15, batch_size=8).fit(folder / "waves.csv", folder=folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def opened(run):
    return open_sequences(run)


@pytest.fixture(scope="module")
def found(opened):
    return sequence_study(opened, worst=2)


def test_opened_is_what_the_classifier_scores(run, opened):
    model = tg.Classifier.load(run)
    sequences = model.untouched()
    assert opened.rows == sequences.names
    np.testing.assert_allclose(opened.scores(opened.x).detach(), model.logits(sequences), atol=1e-6)
    truth = [opened.labels[k] for k in opened.truth]
    assert truth == sequences.labels.tolist()
    loss = -torch.log_softmax(opened.scores(opened.x), -1)[range(len(truth)), opened.truth]
    torch.testing.assert_close(opened.loss()(opened.x), loss)
    part = opened.take([3, 1])
    torch.testing.assert_close(part.scores(part.x), opened.scores(opened.x)[[3, 1]], atol=1e-6, rtol=1e-5)


def test_kept_is_the_first_or_the_last_part():
    lengths = torch.tensor([4, 10, 1])
    x = torch.arange(1.0, 11.0)[:, None, None] * torch.tensor([1.0, 10.0, 100.0])[:, None]  # (10, 3, 1)
    x = torch.where(torch.arange(10)[:, None] < lengths, x[..., 0], 0.0)[..., None]
    first, short = kept(x, lengths, 0.3, last=False)
    assert short.tolist() == [2, 3, 1]
    assert first[..., 0].T.tolist() == [[1, 2, 0], [10, 20, 30], [100, 0, 0]]
    last, _ = kept(x, lengths, 0.3, last=True)
    assert last[..., 0].T.tolist() == [[3, 4, 0], [80, 90, 100], [100, 0, 0]]
    whole, short = kept(x, lengths, 1.0, last=True)
    assert short.tolist() == lengths.tolist()
    assert torch.equal(whole, x)


def test_shares_are_exact():
    """Of 25 steps six tenths are 15, which rounding must not make 16."""
    lengths = torch.arange(1, 2001)
    for tenths, share in enumerate(SHARES, 1):
        short = kept(torch.zeros(2000, 2000, 1), lengths, share, last=False)[1]
        assert short.tolist() == [-(-n * tenths // 10) for n in lengths.tolist()]


def test_a_step_is_spread_over_all_that_it_covers():
    np.testing.assert_allclose(spread(np.ones((5, 2))), np.full((PLACES, 2), 5 / PLACES))
    long = np.random.default_rng(0).random((3 * PLACES, 1))
    np.testing.assert_allclose(spread(long), long.reshape(PLACES, 3, 1).sum(1))
    thirds = [part.sum() for part in np.array_split(spread(np.array([[1.0], [2.0], [4.0]])), 3)]
    np.testing.assert_allclose(thirds, [1, 2, 4])


@pytest.mark.parametrize("rows", [[], [0, 999], [-1], [0.5], [True], 3])
def test_sequences_that_are_not_there(opened, rows):
    with pytest.raises(ValueError, match=re.escape(f"from 0 to {len(opened.rows) - 1}; given {rows}")):
        opened.take(rows)


def test_labels_that_are_not_there(opened):
    for label, other, given in ((0, 2, 2), (-1, 0, -1)):
        with pytest.raises(ValueError, match=f"a label is a whole number from 0 to 1; given {given}"):
            opened.margin(label, other)


def said(study) -> str:
    """All that the page says beside its plots."""
    title, about, sections = page_of(study)
    words = [title, *about]
    for section in sections:
        words += [section.title, section.text]
        for figure in section.figures:
            words += [figure.title, figure.hint, figure.choice, *figure.charts]
            for charts in figure.charts.values():
                for chart in charts:
                    words += [chart.title, chart.x, *chart.facts, *(m.name for m in getattr(chart, "marks", []))]
    return "\n".join(words)


def test_needed_ends_at_the_score_of_the_whole(opened, found):
    needed = found.trained.needed
    scores = opened.scores(opened.x).detach()
    whole = [float(opened.losses(scores).mean()), float((scores.argmax(-1) == opened.truth).double().mean())]
    np.testing.assert_allclose(needed.first[-1], whole, rtol=1e-5)
    np.testing.assert_allclose(needed.last[-1], whole, rtol=1e-5)
    assert len(needed.first) == len(SHARES)
    assert whole[1] == 1.0  # up or down is easy; an untrained network cannot tell
    assert found.untrained.needed.first[-1, 1] < 0.9
    assert needed.first[0, 0] > needed.first[-1, 0]  # the first step alone says less


def test_the_margin_is_its_ledger_and_the_rest(opened, found):
    for case in found.cases:
        for view in (case.trained, case.untrained):
            m = view.moment
            assert m.shares.sum() + m.initial + m.rest == pytest.approx(m.value, abs=1e-6)
            p = view.probabilities
            assert np.log(p[view.label] / p[view.other]) == pytest.approx(m.value, abs=1e-5)
            a = view.attribution
            assert abs(a.error[0]) <= 0.011 * abs(a.value[0] - a.baseline_value[0])
        single = opened.take([case.row])
        assert (case.trained.label, case.trained.other) == decision(single)
        score = single.margin(case.trained.label, case.trained.other)
        np.testing.assert_allclose(
            case.trained.moment.shares, output_ledger(opened.lstm, single.x, score).shares[:, 0].sum((1, 2))
        )


def test_a_direction_is_no_unit(opened, found):
    chart = ablation_chart(found.trained.ablation, "trained", "trained", "log loss", "nats")
    units = 2 * opened.lstm.hidden_size
    assert f"of {units} units" in chart.facts[0]
    assert sum("all units" in name for name in chart.marks[0].x) == 2
    change = np.nanmean(found.trained.ablation.change, 1)[-units:]
    assert f"without {(change <= 0).sum()} of" in chart.facts[0]


def test_the_worst_come_first(opened, found):
    losses = opened.loss()(opened.x).detach().numpy()
    assert [case.row for case in found.cases] == np.argsort(-losses, kind="stable")[:2].tolist()
    assert found.cases[0].loss == pytest.approx(losses.max(), rel=1e-5)


def test_the_gap_replaces_inputs_by_the_training_mean(opened, found):
    case = found.cases[0]
    single = opened.take([case.row])
    score = single.margin(case.trained.label, case.trained.other)
    other = single.x.clone()
    other[2] = 0.0  # scaled columns are 0 at their mean
    changed = (score(single.x) - score(other)).item()
    gap = ledger_gap(opened.lstm, single.x, [2], score=score, baseline=opened.baseline)
    assert gap.output_replaced[0, 0] == pytest.approx(changed, abs=1e-6)
    assert case.trained.moment.replaced[case.trained.moment.probed.tolist().index(2)] == pytest.approx(
        changed, abs=1e-6
    )


def test_probed_steps():
    assert probed(10, None) == list(range(10))
    assert len(probed(400, None)) <= 24
    assert {0, 100, 399} <= set(probed(400, 100))


def test_text_has_letters_for_steps_and_no_named_inputs():
    words = ["abc", "xyz"] * 20
    model = tg.Classifier(hidden_size=4, epochs=1, test=0.3).fit(words, ["first", "last"] * 20)
    one = open_sequences(model, most=4)
    assert one.names == []
    assert one.steps[0].tolist() in (["0 a", "1 b", "2 c"], ["0 x", "1 y", "2 z"])
    assert not one.fixed.any()
    study = sequence_study(one, worst=1)
    assert study.cases[0].trained.attribution.shares.shape == (3, 1, 32)


def test_a_tagger_opened():
    """The label is the next token: what lies after a step is needed, what lies before is not."""
    rng = np.random.default_rng(0)
    tokens = [rng.choice(["a", "b"], size=n).tolist() for n in rng.integers(5, 12, 60)]
    tags = [[None if k == 0 else f"next {t}" for k, t in enumerate([*one[1:], "a"])] for one in tokens]
    model = tg.Tagger(hidden_size=8, epochs=25, batch_size=8, test=0.2, learning_rate=0.02).fit(tokens, tags)
    one = open_sequences(model)
    sequences = model.untouched()
    assert one.tagged
    assert one.rows == sequences.names
    scores = one.scores(one.x).detach()  # (T, B, K)
    found = torch.cat([scores[:n, row] for row, n in enumerate(one.lengths.tolist())])
    np.testing.assert_allclose(found, model.logits(sequences), atol=1e-5)
    assert (one.truth[0] == NONE).all()
    assert one.steps[0].tolist()[1].split() == ["1", sequences.words[sequences.tokens[1]]]
    study = sequence_study(one, worst=1)
    needed = study.trained.needed  # first: steps before and none after; last: steps after and none before
    assert needed.first[-1, 1] < 0.75
    assert needed.last[list(needed.shares).index(1), 1] > 0.95
    after = study.trained.sizes[study.trained.places > 0].sum()
    assert after > 0.5 * study.trained.sizes[study.trained.places != 0].sum()
    assert study.cases[0].step is not None
    assert "backward" in said(study)


def test_a_direction_that_is_not_there_is_not_told_of():
    tokens = [["a", "b", "a"], ["b", "b", "a", "a"]] * 10
    options = {"hidden_size": 4, "epochs": 1, "test": 0.3, "bidirectional": False}
    model = tg.Tagger(**options).fit(tokens, [["X" if t == "a" else "Y" for t in one] for one in tokens])
    study = sequence_study(open_sequences(model, most=4), worst=1)
    assert study.trained.needed.last.shape == (0, 2)
    text = said(study)
    assert "steps before it" in text
    assert not re.search(
        "backward|direction|which side|after|other side|read forwards,", text.replace("all after it live", "")
    )


def test_a_text_opened(tmp_path):
    (tmp_path / "text.txt").write_text("abcd efgh " * 600)
    options = {"hidden_size": 8, "embedding_size": 8, "epochs": 1, "window": 20, "batch_size": 4, "test": 0.2}
    model = tg.TextModel(**options).fit(tmp_path / "text.txt")
    one = open_sequences(model, most=3)
    assert one.x.shape[:2] == (200, 3)
    text, _ = model.untouched()
    start = int(one.rows[0].split()[-1].replace(",", ""))
    given = torch.from_numpy(text[start : start + 201].astype(np.int64))
    scores, _ = model.model_(given[:-1, None])
    expected = torch.nn.functional.cross_entropy(scores[:, 0], given[1:])
    torch.testing.assert_close(one.loss()(one.x)[0], expected)
    assert one.labels[ord(" ")] == "space"
    study = sequence_study(one, worst=1)
    assert study.cases[0].trained.trace.layers[0].cell.shape[0] == 200
    text = said(study)
    assert "foretells the next byte of 256" in text
    assert not re.search("label|tag|sequences that|direction|backward|Flags|none before", text)


def test_unknown_labels_are_not_scored(opened):
    part = opened.take(range(4))
    torch.testing.assert_close(part.losses(part.scores(part.x), torch.full((4,), NONE)), torch.zeros(4))


def test_labels_that_training_has_not_seen_are_counted(run, tmp_path):
    table = waves(20, seed=5).with_columns(s=pl.format("new {}", "s"))
    odd = pl.col("s").is_in(["new n0", "new n1"])
    some = open_sequences(run, table.with_columns(kind=pl.when(odd).then(pl.lit("level")).otherwise("kind")))
    assert len(some.rows) == 18
    assert (some.truth != NONE).all()
    told = []
    text = said(sequence_study(some, worst=1, progress=told.append))
    note = "eft out 2 sequences whose label did not occur in training"
    assert f"L{note}." in text
    assert f"l{note}" in told
    with pytest.raises(DataError, match="no sequence has a label that occurred in training, where there were 'down', "):
        open_sequences(run, table.with_columns(kind=pl.lit("level")))

    tokens = [["a", "b", "a"], ["b", "b", "a", "a"]] * 10
    model = tg.Tagger(hidden_size=4, epochs=1, test=0.3).fit(tokens, [["X"] * (len(t) - 1) + ["Y"] for t in tokens])
    (tmp_path / "new.txt").write_text("a X\nb Z\n\nb Y\n")
    tagged = open_sequences(model, tmp_path / "new.txt")
    assert tagged.truth.tolist() == [[0, 1], [NONE, NONE]]
    assert tagged.notes == ["left out 1 step whose label did not occur in training"]


def test_figures_before_calibration_are_called_so(run, opened, found):
    model = tg.Classifier.load(run)
    assert abs(model.temperature_ - 1) > 0.01
    assert found.trained.needed.whole[0] != pytest.approx(model.evaluate()["models"]["LSTM"]["overall"]["log_loss"])
    assert "Probabilities and log loss are those before calibration" in said(found)
    [chart] = needed_figure(found).shown()
    assert chart.y == "log loss (nats), not calibrated"


def test_every_axis_of_steps_has_its_name(found):
    canvas = Figure()
    for figure in sequence_case_figures(found, 0):
        for chart in figure.shown():
            if isinstance(chart, Heat):
                assert chart_json(chart)["layout"]["xaxis"]["title"] == {"text": "step"}
                part = canvas.subfigures()
                _draw_heat(part, chart)
                assert [axis.get_xlabel() for axis in part.axes if axis.get_xlabel()] == ["step"]
            else:
                assert chart.x == ("" if chart.sideways else "step")


def test_the_page_of_a_classifier(run, tmp_path, capsys):
    main(["explain", str(run), "--out", str(tmp_path / "page"), "--worst", "1"])
    assert "open it in any browser" in capsys.readouterr().out
    text = (tmp_path / "page" / "index.html").read_text()
    keys = ["needed", "places", "half-lives", "gradients", "ablation"]
    keys += [f"case1-{what}" for what in ("decision", "ledger", "gates", "inputs")]
    assert re.findall(r'<figure id="([^"]+)"', text) == keys
    [data] = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text, re.S)
    charts = json.loads(data)
    assert list(charts["case1-gates"]["charts"]) == ["layer 0, forward", "layer 0, backward"]
    for key in ("places", "case1-ledger"):  # no ledger without its honesty figure
        for chart in charts[key]["charts"][""]:
            assert sum(fact.startswith("Ledger against truth") for fact in chart["facts"]) == 2
    assert re.search("The label that is given is “(up|down)”; the right one is “(up|down)”", text)
    for chart in charts["gradients"]["charts"][""]:
        assert [fact.partition(":")[0] for fact in chart["facts"]][1] == "vanilla RNN, untrained"
    for key in keys:
        assert (tmp_path / "page" / f"{key}.png").read_bytes().startswith(b"\x89PNG")


def test_a_vanilla_rnn_is_refused(tmp_path):
    rnn = tg.Classifier(**OPTIONS, epochs=1, cell="rnn").fit(waves(20), folder=tmp_path / "rnn")
    with pytest.raises(RunError, match="vanilla RNN"):
        explain(rnn)
