"""The page in a real Chromium: all figures drawn, clicks, widths, schemes, and nothing asked of any host."""

from __future__ import annotations

import tidegate as tg
from tidegate.tasks.pictures import draw_forecasts

DRAW_ALL = "dispatchEvent(new Event('beforeprint'))"
UNDRAWN = "[...document.querySelectorAll('figure .plot')].filter(e => !e.querySelector('.main-svg')).length"
RIGHT = "Math.max(...[...document.querySelectorAll('.main-svg')].map(e => e.getBoundingClientRect().right))"


def facts(seen, key: str) -> list[str]:
    return seen.tab.locator(f"#{key} .facts").all_inner_texts()


def test_readable(page, visit):
    """Every figure is drawn and nothing runs off the page, in both widths and schemes."""
    seen = visit(f"file://{page}/index.html")
    tab = seen.tab
    tab.wait_for_selector("#history .main-svg")
    tab.evaluate(DRAW_ALL)
    assert tab.evaluate(UNDRAWN) == 0
    assert tab.locator("figure").count() == 9
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "dark"), (400, "light")):
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_function(f"width => {RIGHT} <= width", arg=width, timeout=10_000)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        ink, paper = tab.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
            ".map(c => c.match(/\\d+/g).map(Number).reduce((a, b) => a + b))"
        )
        assert (ink > paper) == (scheme == "dark")
        letters = "rgb(228, 232, 236)" if scheme == "dark" else "rgb(29, 35, 41)"
        drawn = "document.querySelector('#history .xtitle').style.fill"
        tab.wait_for_function(f"letters => {drawn} == letters", arg=letters, timeout=10_000)
        assert tab.evaluate(drawn) == letters
    assert seen.errors == []
    assert seen.requests == [f"file://{page}/index.html"]


def test_click_on_a_moment_changes_the_ledger(page, visit):
    seen = visit(f"file://{page}/index.html")
    tab = seen.tab
    tab.evaluate(DRAW_ALL)
    before, chosen = facts(seen, "case1-ledger"), tab.locator("#case1-ledger select").input_value()
    plot = tab.locator("#case1-forecast .plot")
    plot.scroll_into_view_if_needed()
    other = "3" if chosen != "3" else "0"
    # Where that forecast step lies: the layout knows.
    at = tab.evaluate(
        """other => { const e = document.querySelector('#case1-forecast .plot'), l = e._fullLayout;
        const t = e.data.at(-1), k = t.customdata.indexOf(other);
        return [l._size.l + l.xaxis.d2p(t.x[k]), l._size.t + l.yaxis.d2p(t.y[k])]; }""",
        other,
    )
    plot.click(position={"x": at[0], "y": at[1]})
    tab.wait_for_function("o => document.querySelector('#case1-ledger select').value === o", arg=other, timeout=5_000)
    after = facts(seen, "case1-ledger")
    assert len(after) == 2
    assert after[0] != before[0]
    assert "Ledger against truth" in after[0]
    assert f"{int(other) + 1} step" in tab.locator("#case1-ledger h4").first.inner_text()
    tab.select_option("#case1-ledger select", chosen)
    assert facts(seen, "case1-ledger") == before
    tab.select_option("#case1-gates select", "layer 0")
    assert seen.errors == []


def test_hostile_names_are_shown_not_run(page, visit):
    seen = visit(f"file://{page}/index.html")
    tab = seen.tab
    tab.evaluate(DRAW_ALL)
    assert "<img src=x onerror=hacked(1)>" in tab.locator("h1").inner_text()
    assert tab.locator("img").count() == 0
    assert tab.locator("script").count() == 3
    labels = tab.locator("#case1-inputs .ytick text").all_text_contents()
    assert any("</script><script>hacked(2)</script>" in label for label in labels)
    assert seen.errors == []


def test_the_page_of_forecasts(hostile, tmp_path, visit):
    """Its title fits, its lines are in the reader's scheme, and names are text."""
    draw_forecasts(tg.Forecaster.load(hostile / "run").backtest(), tmp_path, "LSTM")
    for width, scheme, ink in ((400, "light", "rgb(27, 27, 27)"), (400, "dark", "rgb(228, 232, 236)")):
        seen = visit(f"file://{tmp_path}/forecasts.html", width, scheme)
        tab = seen.tab
        tab.wait_for_function(
            "ink => [...document.querySelectorAll('.js-line')].some(e => e.style.stroke === ink)", arg=ink
        )
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        heading, legend = tab.locator("h1").bounding_box(), tab.locator(".legend").bounding_box()
        assert heading["y"] + heading["height"] <= legend["y"]
        assert legend["x"] + legend["width"] <= width
        assert tab.locator("img").count() == 0
        assert seen.errors == []
