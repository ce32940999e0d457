"""The page of ``explain``: its content, its figures as data, and what it does with hostile text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import warnings

import numpy as np
import pytest
from insight_names import PAST, TARGET
from matplotlib.figure import Figure as Canvas

from tidegate.cli import main
from tidegate.errors import ConfigError
from tidegate.insight import open_forecast
from tidegate.insight.charts import Chart, Figure, Heat, Mark, Panel
from tidegate.insight.figures import half_life_chart
from tidegate.insight.gap import Agreement
from tidegate.insight.order import block, blocks, order_units, thin
from tidegate.insight.page import Section, chart_json, plain, render, safe_json
from tidegate.insight.pngs import _times, png
from tidegate.insight.report import explain
from tidegate.insight.study import Moment, gap_steps, kept_steps, moments_of, study
from tidegate.insight.window_figures import ledger_figure, output_chart, sequence_chart

ALL = ["history", "lags", "half-lives", "gradients", "ablation"]
OF_A_CASE = ["forecast", "ledger", "gates", "inputs"]
KEYS = [*ALL, *(f"case1-{what}" for what in OF_A_CASE)]


@pytest.fixture(scope="module")
def found(hostile):
    return study(open_forecast(hostile / "run", most=6), worst=1)


def charts(page) -> dict:
    text = (page / "index.html").read_text()
    [data] = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text, re.S)
    return json.loads(data)


def test_every_figure_is_there(page):
    assert list(charts(page)) == KEYS
    text = (page / "index.html").read_text()
    assert re.findall(r'<figure id="([^"]+)"', text) == KEYS
    assert {p.name for p in page.iterdir()} == {"index.html", *(f"{key}.png" for key in KEYS)}
    for key in KEYS:
        assert (page / f"{key}.png").read_bytes().startswith(b"\x89PNG")
    for figure in text.split("<figure ")[1:]:  # one sentence or more under each title
        assert re.search(r'</h3><p class="hint">[A-Z][^<]{40,}\.</p>', figure)


def test_every_ledger_has_its_gap_beside_it(page):
    for key, figure in charts(page).items():
        if key == "lags" or key.endswith("-ledger"):
            for both in figure["charts"].values():
                for chart in both:
                    said = [fact for fact in chart["facts"] if fact.startswith("Ledger against truth")]
                    assert {"erased", "replaced"} <= set(re.findall("erased|replaced", " ".join(said)))
                    assert all(re.search(r"slope \S+, correlation \S+, gap \S+\.", s) for s in said)


def test_untrained_control_stands_beside(page):
    for key in ("history", "lags", "half-lives"):
        names = {trace["name"].split(",")[0] for trace in charts(page)[key]["charts"][""][0]["data"]}
        assert {"trained", "untrained"} <= names
    for key in ("gradients", "ablation", "case1-ledger", "case1-gates", "case1-inputs"):
        titles = [chart["title"] for both in charts(page)[key]["charts"].values() for chart in both]
        assert [t.startswith("untrained") for t in titles].count(True) * 2 == len(titles)


def test_hostile_names_are_text_only(page):
    text = (page / "index.html").read_text()
    for name in (TARGET, PAST):
        assert name not in text
    assert "&lt;img src=x onerror=hacked(1)&gt;" in text
    for figure in charts(page).values():
        for both in figure["charts"].values():
            for chart in both:
                shown = json.dumps([chart["data"], chart["layout"]])
                shown = shown.replace("%{y}, %{x}: %{z:.3f}<extra></extra>", "")  # the page's own
                assert "<" not in shown
                assert "%{" not in shown
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert set(re.findall(r"sha256-([^&]+)&#x27;", policy)) == hashes
    assert "connect-src &#x27;none&#x27;" in policy


def test_escapes():
    assert plain("a<b>&%{x}") == "a&lt;b&gt;&amp;%&#123;x}"
    assert json.loads(safe_json({"a": "</script>&"})) == {"a": "</script>&"}
    assert "<" not in safe_json("</script>")


def test_ledger_of_each_moment(found):
    """The bars of a moment are its output ledger; what the facts say adds up to the forecast."""
    case = found.cases[0]
    figure = ledger_figure(found, case, "case1")
    assert [int(choice) for choice in figure.charts] == [0, 1, 2, 3]
    for m, trained in zip(case.trained.moments, figure.charts.values(), strict=True):
        up, down = trained[0].marks[:2]
        np.testing.assert_allclose(up.y + down.y, m.shares)
        assert (up.y >= 0).all()
        assert (down.y <= 0).all()
        assert m.shares.sum() + m.initial + m.rest == pytest.approx(m.value, rel=1e-9)
        assert m.value == pytest.approx(case.trained.quantiles[m.step, found.levels.index(0.5)], rel=1e-5)
        assert (m.shares[found.trained.opened.history + m.step + 1 :] == 0).all()
    wrong = np.abs(case.trained.quantiles[:, found.levels.index(0.5)] - case.values[-4:])
    assert case.trained.moments[case.chosen].step == np.nanargmax(wrong)
    assert case.error == pytest.approx(np.nanmean(wrong), rel=1e-5)
    chart = sequence_chart(case, found.levels, found.trained.opened.history)
    np.testing.assert_array_equal(chart.marks[1].y, case.values)
    assert chart.marks[-1].keys == ["0", "1", "2", "3"]


def test_means_over_windows(found):
    """Scores are in the target's unit, and all history is all of it."""
    side = found.trained
    one = side.opened
    missed = np.abs(one.forecast()[:, :, 0, found.levels.index(0.5)] - one.truth()[:, :, 0])
    np.testing.assert_allclose(side.history.whole, missed.mean(1), rtol=1e-5)
    np.testing.assert_allclose(side.history.scores[-1], side.history.whole, rtol=1e-5)
    assert side.history.kept.tolist() == kept_steps(24) == [0, 1, 2, 4, 8, 16, 24]
    assert len(side.sizes) == 24
    assert side.flow.rnn[-1] < side.flow.rnn[0]
    assert sorted(side.orders[0].tolist()) == list(range(6))


def test_order_puts_alike_units_together():
    time = np.arange(200)
    waves = np.stack([np.sin(time / 7), np.sin(time / 3), np.zeros(200), np.sin(time / 7) * 2 + 1, np.sin(time / 3)], 1)
    order = order_units(waves + 1e-3 * np.random.default_rng(0).normal(size=waves.shape) * (waves != 0)).tolist()
    assert order[-1] == 2  # never moves
    assert abs(order.index(0) - order.index(3)) == 1
    assert abs(order.index(1) - order.index(4)) == 1


def test_aggregation():
    assert (block(480), block(481), block(20_000)) == (1, 2, 42)
    values = np.arange(7.0)
    np.testing.assert_array_equal(blocks(values, 3), [1, 4, 6])
    np.testing.assert_array_equal(blocks(values, 3, "sum"), [3, 12, 6])
    spike = np.zeros(20_000)
    spike[12_345] = 1.0
    x, y = thin(np.arange(20_000), spike)
    assert len(x) <= 2_002
    assert x[y == 1.0].tolist() == [12_345]
    assert gap_steps(5) == [0, 1, 2, 3, 4]
    assert len(gap_steps(1000)) == 24
    assert moments_of(24, 5) == (5, sorted({*moments_of(24, 5)[1], 5}))
    assert len(moments_of(24, 5)[1]) == 8


@pytest.mark.parametrize(
    ("values", "shown"),
    [([0.4, 2.5], {"0.2", "0.5", "1", "2", "5"}), ([0.7, 1.2], {"0.7", "0.8", "0.9", "1"}), ([1e-9, 1.0], None)],
)
def test_logarithmic_ticks_are_whole_numbers(values, shown):
    chart = Chart("", "", "", [Mark("line", np.arange(2), np.array(values), "", "ink")], log_y=True)
    axis = chart_json(chart)["layout"]["yaxis"]
    if shown is None:
        assert axis["dtick"] == 2
    else:
        assert shown <= set(axis["ticktext"])
        assert [float(text) for text in axis["ticktext"]] == axis["tickvals"]


def test_a_long_ledger_keeps_its_sum():
    shares = np.random.default_rng(0).normal(size=20_000)
    gap = {how: Agreement(1.0, 1.0, 0.0) for how in ("erased", "replaced")}
    m = Moment(0, shares, 0.0, 1.0, float(shares.sum()) + 1.0, np.arange(3), np.zeros(3), np.zeros(3), gap)
    chart = output_chart(m, "trained", np.arange(20_000), "y", 19_999)
    up, down = chart.marks
    assert len(up.y) <= 480
    assert (up.y + down.y).sum() == pytest.approx(shares.sum())
    assert "Each bar is the sum of 42 steps." in chart.facts


def long_page() -> str:
    """20,000 steps of 128 units."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20_000, 128)).astype(np.float32)
    size = block(len(values))
    panels = [Panel(f"gate {k}", blocks(values, size).T, True, 0.5) for k in range(6)]
    heat = Heat("long", "", "units", np.arange(0, 20_000, size), [f"unit {u}" for u in range(128)], panels)
    x, y = thin(np.arange(20_000), values[:, 0])
    line = Chart("long", "step", "value", [Mark("line", x, y, "one", "trained")])
    figures = [Figure(key, "A long one", "Look.", {"": [c]}) for key, c in (("heat", heat), ("line", line))]
    return render("long", ["A long trace."], [Section("all", "All", "", figures)])


def test_a_long_trace_is_aggregated(tmp_path, visit):
    """20,000 steps of 128 units: a page no larger than Plotly and 3 MB, which draws."""
    text = long_page()
    assert len(text) < 8_500_000
    (tmp_path / "long.html").write_text(text)
    seen = visit(f"file://{tmp_path}/long.html")
    seen.tab.wait_for_selector("#heat .main-svg", timeout=10_000)
    assert seen.errors == []


def test_numbers_are_json():
    mark = Mark("line", np.array([0.0, 1.0]), np.array([np.nan, np.inf]), "", "trained")
    data = chart_json(Chart("", "", "", [mark]))["data"][0]
    assert data["y"] == [None, None]
    times = np.array(["2020-01-01T05:00", "2020-01-01T06:00"], dtype="datetime64[us]")
    data = chart_json(Chart("", "", "", [Mark("line", times, np.zeros(2), "", "trained")]))["data"][0]
    assert data["x"] == ["2020-01-01T05:00:00", "2020-01-01T06:00:00"]
    heat = Heat("", "", "", np.arange(3), ["a", "b"], [Panel("p", np.arange(6.0).reshape(2, 3), False, 1.0)])
    z = chart_json(heat)["data"][0]["z"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(z["bdata"]), "<f4"), np.arange(6))
    assert z["shape"] == "2, 3"


def test_pictures_take_any_name():
    mark = Mark("bars", np.array(["$x^", "_y", "<b>"]), np.ones(3), "_z$", "gain")
    assert png(Figure("k", "$t", "", {"": [Chart("a_$", "$", "_", [mark], sideways=True)]})).startswith(b"\x89PNG")


def test_of_many_named_steps_some_are_named(monkeypatch):
    from matplotlib.figure import Figure as Canvas

    seen = []
    monkeypatch.setattr(Canvas, "savefig", lambda canvas, *a, _save=Canvas.savefig, **k: (
        _save(canvas, *a, **k), seen.append([len(f.axes[0].get_xticks()) for f in canvas.subfigs]),
    ))  # fmt: skip
    for steps in (15, 200):
        mark = Mark("bars", np.array([f"{n} 'a'" for n in range(steps)]), np.ones(steps), "", "gain")
        png(Figure("k", "", "", {"": [Chart("", "", "", [mark])]}))
    assert seen == [[15], [10]]


def test_dates_of_any_span_have_ticks():
    """Matplotlib warns where no step of time gives few enough ticks."""
    for unit, most in (("s", 130), ("m", 130), ("h", 130), ("D", 100), ("M", 60), ("Y", 30)):
        for count in {2, 3, 5, 7, 11, 23, 47, 71, 95, most} - set(range(most + 1, 96)):
            start = np.datetime64("2013-11-26T00", unit)
            times = (start + np.arange(count + 1)).astype("datetime64[us]")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                axis = Canvas().subplots()
                axis.plot(times, np.zeros(count + 1))
                _times(axis, times)
                assert 1 <= len(axis.get_xticks()) <= 9


def test_marks_that_meet_are_both_seen(found):
    """Rings lie under dots, and the legend has the plot's symbols."""
    spans = [(found.trained.spans, "trained", "trained"), (found.untrained.spans, "untrained", "control")]
    drawn = chart_json(half_life_chart(spans, "hour"))
    assert [entry["kind"] for entry in drawn["legend"]] == ["ring", "dash", "dot", "dash"]
    ring, dot = (trace["marker"] for trace in drawn["data"] if trace["mode"] == "markers")
    assert ring["size"] > dot["size"]
    assert (ring["color"], ring["line"]["color"], dot["color"]) == ("@sheet", "@control", "@trained")


def test_a_colour_bar_tells_its_limits():
    assert Panel("c", np.zeros((2, 2)), True, 0.12345).ticks() == ([-0.12345, 0.0, 0.12345], ["-0.12", "0", "0.12"])
    assert Panel("i", np.zeros((2, 2)), False, 1.0).ticks() == ([0.0, 0.5, 1.0], ["0", "0.5", "1"])


def test_refusals(hostile, tmp_path, capsys):
    for words, sentence in (
        ([tmp_path / "none"], "there is no run folder"),
        ([hostile / "run", tmp_path / "none.csv"], "no such file"),
        ([hostile / "run", "--worst", "0"], "--worst is a number of windows or sequences, at least 1; given 0"),
        ([hostile / "run", "--out", hostile / "table.csv"], "table.csv"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["explain", *map(str, words)])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert sentence in " ".join(said.split())
        assert said.count("error:") == 1
    with pytest.raises(ConfigError, match="has no run folder"):
        forecaster = open_forecast(hostile / "run").forecaster
        forecaster.folder_ = None
        explain(forecaster, hostile / "table.csv", windows=2)
