"""Figures of a trained classifier: over all sequences, and of single decisions.

T steps, I inputs, H hidden units, D directions, K labels.
"""

from __future__ import annotations

import numpy as np

from tidegate.insight.charts import Chart, Colour, Figure, Heat, Line, Mark, Panel, quoted
from tidegate.insight.figures import (
    CONTROL,
    TRAINED,
    ablation_chart,
    ablations,
    flow_chart,
    flows,
    gap_facts,
    half_life_chart,
    half_lives,
    one_chart,
)
from tidegate.insight.order import block, blocks
from tidegate.insight.sequence_study import SequenceCase, SequenceStudy, SequenceView
from tidegate.insight.sequences import OpenSequences
from tidegate.insight.window_figures import (
    GAP_HINT,
    attribution_inputs,
    attribution_steps,
    gates_heat,
    share_chart,
)
from tidegate.trace import DIRECTIONS

MARGIN = "score"  # the unit of margins: differences of scores before softmax, in nats
MOST_LABELS = 8


def sequence_page_figures(study: SequenceStudy) -> list[Figure]:
    """Those over all sequences, in the order of the page."""
    found = [needed_figure(study), places_figure(study), _half_lives(study)]
    trained, untrained = study.trained, study.untrained
    if trained.flow is not None and untrained.flow is not None:
        sides = ((trained.flow, TRAINED), (untrained.flow, CONTROL))
        charts = [flow_chart(flow, 1.0, "step", name, "vanilla RNN, untrained") for flow, name in sides]
        way = ", read forwards" if _both(study) else ""
        found.append(flows(charts, f"This is the first layer{way}, over the longest sequences."))
    both = ((trained, TRAINED, "trained"), (untrained, CONTROL, "control"))
    found.append(ablations([ablation_chart(s.ablation, name, c, "log loss", "nats") for s, name, c in both]))  # type: ignore[arg-type]
    return found


def needed_figure(study: SequenceStudy) -> Figure:
    """Log loss against the part of a sequence that is read."""
    one, both = study.trained.opened, _both(study)
    tagged, step = one.tagged, _step(one)
    marks, facts = [], []
    words = ["the first part", "the last part"]
    if tagged:
        words = ["steps before, none after", "steps after, none before"] if both else [f"{step}s before it"]
    for side, name in ((study.trained, TRAINED), (study.untrained, CONTROL)):
        x = side.needed.shares if tagged else side.needed.shares * 100
        colours: tuple[Colour, Colour] = ("trained", "path") if name == TRAINED else ("control", "control")
        found = list(zip((side.needed.first, side.needed.last), words, strict=False))  # a direction may not be there
        for (values, what), colour in zip(found, colours, strict=False):
            strong = 1.0 if name == TRAINED else 0.6
            dash = what != words[0]
            marks.append(Mark("line", x, values[:, 0], f"{name}, {what}", colour, dash=dash, strong=strong))
        loss, right = side.needed.whole
        facts.append(f"{name}: {loss:.3g} nats and {100 * right:.0f}% right with all.")
        for values, what in found:
            half = len(x) // 2
            amount = f"{x[half]:g}" if tagged else f"{x[half]:g}% of each sequence"
            if name == TRAINED:
                facts.append(f"{what}: {values[half, 0]:.3g} nats and {100 * values[half, 1]:.0f}% with {amount}.")
    title = "How much of a sequence is needed?"
    hint = (
        "Only a part is read: look for how early the label can be told, and whether the end says what the start does. "
    )
    if tagged and both:
        title = "How many steps does a label need, and on which side?"
        hint = "The steps on the other side are all taken away: where one line stays above the other, the label needs "
        hint += "what lies there. "
    elif tagged:
        title = f"How far back does {'the next byte' if one.text else 'a label'} need to look?"
        hint = f"The {step} itself is read, and so many before it: where the line becomes flat, what lies further back "
        hint += "is not used. "
    return one_chart(
        "needed",
        title,
        f"{hint}The model was trained on {'long text' if one.text else 'whole sequences'}; one trained on parts might "
        "need less.",
        Chart(
            "Log loss by what is read",
            f"{step}s read" if tagged else "part of the sequence (%)",
            "log loss (nats)" if one.text else "log loss (nats), not calibrated",
            marks,
            facts,
        ),
    )


def places_figure(study: SequenceStudy) -> Figure:
    """Mean |share| of the margin by place and direction."""
    one, both = study.trained.opened, _both(study)
    tagged, step = one.tagged, _step(one)
    charts: list[Chart | Heat] = []
    for side, name in ((study.trained, TRAINED), (study.untrained, CONTROL)):
        x = side.places if tagged else 100 * side.places
        seen = (x <= 0) | both | (not tagged)  # what comes after is not read
        marks = [
            Mark("line", x[seen], side.sizes[seen, d], _direction(d), "trained" if d == 0 else "path", dash=d > 0)
            for d in range(side.sizes.shape[1])
        ]
        total = side.sizes.sum(1)
        share = total / max(total.sum(), 1e-300)
        if tagged:
            parts = (share[x < 0].sum(), share[x == 0].sum(), share[x > 0].sum())
            fact = f"{{}}: {{:.0f}}% of it lies before the {step}, {{:.0f}}% in it" + (
                ", {:.0f}% after." if both else "."
            )
        else:
            parts = tuple(p.sum() for p in np.array_split(share, 3))
            fact = "{}: {:.0f}% of it lies in the first third, {:.0f}% in the second, {:.0f}% in the last."
        facts = [fact.format(name, *(100 * p for p in parts)), *gap_facts(side.gap, f"{name}, margin")]
        axis, size = "place in the sequence (%)", "mean |share| of each part"
        if tagged:
            axis = "bytes from the last one read" if one.text else "steps from the one whose label it is"
            size = "mean |share|"
        charts.append(Chart(name, axis, f"{size} ({MARGIN})", marks, facts))
    return Figure(
        "places",
        "Which steps wrote the decision?",
        f"The margin of the {'byte that is foretold' if one.text else 'label that is given'} over its rival, taken "
        "apart into what each step wrote by way of the memory, in size. Gates are held fixed, so read the gap below "
        "first: where it is large, the lines say little.",
        {"": charts},
    )


def _half_lives(study: SequenceStudy) -> Figure:
    sides = ((study.trained.spans, TRAINED, "trained"), (study.untrained.spans, CONTROL, "control"))
    count = study.trained.spans.half_life.shape[0]
    charts = {_direction(d): half_life_chart(sides, "step", d) for d in range(count)}  # type: ignore[arg-type]
    return half_lives(charts, _direction(0), "direction" if count > 1 else "")  # type: ignore[arg-type]


# -- of one decision --------------------------------------------------------------------------------


def sequence_case_figures(study: SequenceStudy, number: int) -> list[Figure]:
    """Those of one of the decisions that are most surely wrong."""
    case, key = study.cases[number], f"case{number + 1}"
    return [
        decision_figure(study, case, key),
        margin_figure(study, case, key),
        sequence_gates_figure(study, case, key),
        inputs_figure(study, case, key),
    ]


def decision_figure(study: SequenceStudy, case: SequenceCase, key: str) -> Figure:
    """The probabilities, and the inputs where they are numbers."""
    one = study.trained.opened
    charts: list[Chart | Heat] = []
    top = np.argsort(-case.trained.probabilities, kind="stable")[:MOST_LABELS].tolist()
    if case.truth not in top:
        top[-1] = case.truth
    for view, name, colour in ((case.trained, TRAINED, "trained"), (case.untrained, CONTROL, "control")):
        names = np.array([one.labels[k] + (" (right)" if k == case.truth else "") for k in top])
        bars = [Mark("bars", names, view.probabilities[top], "", colour)]  # type: ignore[arg-type]
        charts.append(Chart(name, "", "probability, not calibrated", bars, sideways=True))
    if one.names:
        x = one.take([case.row]).x[: len(case.steps), 0].numpy()  # (T, I)
        size = block(len(x))
        read = [f"From the top: {', '.join(one.names[:12])}{' and others' * (len(one.names) > 12)}."]
        panel = Panel("inputs, scaled", blocks(x, size).T.astype(np.float32), True, 3.0)
        charts.append(Heat("What was read", "step", "inputs", case.steps[::size], one.names, [panel], read, _at(case)))
    given, right = quoted(one.labels[case.trained.label]), quoted(one.labels[case.truth])
    hint = f"The label that is given is {given}; the right one is {right}. "
    hint += "Some labels in the data are wrong: look first whether this one is."
    if one.text:
        hint = f"The byte that is foretold is {given}; the one that comes is {right}."
    return Figure(
        f"{key}-decision",
        "What was read, and what was decided?" if one.names else "What was decided?",
        hint,
        {"": charts},
    )


def margin_figure(study: SequenceStudy, case: SequenceCase, key: str) -> Figure:
    """The margin's ledger."""
    labels = study.trained.opened.labels
    pair = f"{quoted(labels[case.trained.label])} over {quoted(labels[case.trained.other])}"
    charts: list[Chart | Heat] = [
        share_chart(
            view.moment, f"{name}: ledger of the margin", "Margin", "biases, the head", case.steps, MARGIN, _at(case),
            _step(study.trained.opened),
        )
        for view, name in _views(case)
    ]  # fmt: skip
    return Figure(
        f"{key}-ledger",
        "Which steps wrote this decision?",
        f"The margin of {pair}: bars above zero spoke for it, bars below against it. " + GAP_HINT,
        {"": charts},
    )


def sequence_gates_figure(study: SequenceStudy, case: SequenceCase, key: str) -> Figure:
    """Heatmaps of every gate and memory, of each layer and direction."""
    charts: dict[str, list[Chart | Heat]] = {}
    layers, D = len(case.trained.trace.layers), study.trained.opened.lstm.directions
    for layer in range(layers):
        for d in range(D):
            chosen = f"layer {layer}, {_direction(d)}" if D > 1 else f"layer {layer}"
            charts[chosen] = [
                gates_heat(
                    view.trace.layers[layer], side.orders[layer][d], case.steps, name, _at(case), direction=d,
                    x=_step(study.trained.opened),
                )
                for view, side, name in (
                    (case.trained, study.trained, TRAINED),
                    (case.untrained, study.untrained, CONTROL),
                )
            ]  # fmt: skip
    return Figure(
        f"{key}-gates",
        "What do the gates and memories do?",
        "One row a unit, ordered so that units which move alike are neighbours; steps run to the right"
        f"{', and the backward direction reads from the right' if D > 1 else ''}. Look for edges (an event) and rows "
        "that never change. A pattern is no proof of a use.",
        charts,
        list(charts)[(layers - 1) * D],
        "gates of" if layers * D > 1 else "",
    )


def inputs_figure(study: SequenceStudy, case: SequenceCase, key: str) -> Figure:
    """Integrated gradients by step, and by input where inputs have names."""
    one = study.trained.opened
    whose = "each step's and each input's" if one.names else "each step's"
    flags = "Flags are held fixed and get no share. " if one.fixed.any() else ""
    charts: list[Chart | Heat] = []
    for view, name in _views(case):
        charts.append(attribution_steps(view.attribution, name, "margin", case.steps, MARGIN, _step(one)))
        if one.names:
            charts.append(attribution_inputs(view.attribution, name, MARGIN))
    return Figure(
        f"{key}-inputs",
        "Which inputs mattered?",
        f"Integrated gradients of the margin, against the mean of the training: how much {whose} departure from it "
        f"moved the decision. {flags}Another baseline would give other shares.",
        {"": charts},
    )


def _views(case: SequenceCase) -> tuple[tuple[SequenceView, str], tuple[SequenceView, str]]:
    return (case.trained, TRAINED), (case.untrained, CONTROL)


def _at(case: SequenceCase) -> list[Line]:
    return [] if case.step is None else [Line(case.steps[case.step], "this step")]


def _both(study: SequenceStudy) -> bool:
    """Whether sequences are read in both directions."""
    return study.trained.opened.lstm.directions > 1


def _step(one: OpenSequences) -> str:
    return "byte" if one.text else "step"


def _direction(d: int) -> str:
    return DIRECTIONS[d]
