"""A walk through the demonstration's text model: figures and numbers of ``docs/reading_text.md``.

    python -m experiments.text_seeds --seeds 3    # trains it, among others
    python -m experiments.read_text

Every number of the page is measured here.
"""

from __future__ import annotations

import argparse
import io
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import tidegate as tg
from experiments.pages import DOCS
from tidegate.data.atomic import atomic_write
from tidegate.tasks.report import markdown_table
from tidegate.tasks.text_network import TextNet

ROWS, STEPS, WARM = 24, 300, 400  # windows of the untouched part; steps looked at, after as many more that are read
KEPT = [1, 2, 4, 8, 16, 32, 64, 128, 256]
SHOWN = 70  # bytes of the ledger's figure
PLACES = 400  # bytes that are scored against the history kept
RUN = Path("runs/text-seeds/seed-0")


class Windows(NamedTuple):
    """Pieces of the untouched part, T bytes each."""

    bytes_: Tensor  # (T, B)
    after: Tensor  # (B,) the byte that follows


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=RUN)
    arguments = parser.parse_args()
    model = tg.TextModel.load(arguments.run)
    net = model.model_.eval()
    torch.manual_seed(0)
    fresh = model._build().eval()
    data, before = model.untouched()
    whole = np.concatenate([before[-WARM:], data]) if before is not None else data
    windows = cut(whole, ROWS, WARM + STEPS)
    numbers: dict[str, Any] = {"rows": ROWS, "steps": STEPS, "hidden": model.resolved_.hidden_size}
    figures: dict[str, bytes] = {}
    numbers |= history(net, fresh, whole, figures)
    numbers |= spans(net, fresh, windows, figures)
    numbers |= line_position(net, windows)
    numbers |= speaker(net, windows, figures)
    numbers |= one_ledger(net, whole, figures)
    folder = DOCS / "reading"
    for name, picture in figures.items():
        with atomic_write(folder / f"text-{name}.png") as file:
            file.write(picture)
    with atomic_write(DOCS / "reading_text.md") as file:
        file.write(filled(page(numbers)).encode())
    print(filled(page(numbers)))


def cut(data: np.ndarray, rows: int, steps: int) -> Windows:
    """Evenly spread over the data."""
    starts = np.linspace(0, len(data) - steps - 1, rows).astype(int)
    pieces = np.stack([data[a : a + steps + 1] for a in starts], 1).astype(np.int64)  # (T + 1, B)
    return Windows(torch.from_numpy(pieces[:-1]), torch.from_numpy(pieces[-1]))


def surprise(net: TextNet, after: Tensor) -> Any:
    """From embedded bytes (T, B, E) to the bits of the byte that follows (B,)."""

    def score(x: Tensor) -> Tensor:
        output, _ = net.recurrent(x)
        return F.cross_entropy(net.head(output[-1], net.embedding.weight), after, reduction="none") / np.log(2)

    return score


# --- how much history ------------------------------------------------------------------------------------------


def history(net: TextNet, fresh: TextNet, data: np.ndarray, figures: dict[str, bytes]) -> dict[str, Any]:
    """Bits of one byte against the bytes that the memory holds."""
    windows = cut(data, PLACES, max(KEPT) + 1)
    found = {}
    for name, one in (("trained", net), ("untrained", fresh)):
        with torch.no_grad():
            x = one.embed(windows.bytes_)
        found[name] = tg.insight.history_kept(one.recurrent, x, surprise(one, windows.after), KEPT)
    figure, axis = picture(6.4, 3.4)
    axis.plot(KEPT, found["trained"].scores.mean(1), "o-", label="trained")
    axis.plot(KEPT, found["untrained"].scores.mean(1), "o--", color="0.6", label="untrained")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("bytes that the memory holds")
    axis.set_ylabel("bits of the next byte")
    axis.set_ylim(0)
    axis.legend(frameon=False)
    figures["history"] = png(figure)
    bits = found["trained"].scores.mean(1)
    own = found["trained"].scores - found["trained"].whole  # (K, B) what is lost, byte by byte
    error = own.std(1, ddof=1) / np.sqrt(own.shape[1])
    near = next(k for k, lost in zip(KEPT, own.mean(1), strict=True) if lost < 0.02 * bits[-1])
    return {
        "history": dict(zip(KEPT, bits.tolist(), strict=True)),
        "history_error": dict(zip(KEPT, error.tolist(), strict=True)),
        "near": near,
        "untrained_bits": float(found["untrained"].whole.mean()),
    }


# --- how long --------------------------------------------------------------------------------------------------


def spans(net: TextNet, fresh: TextNet, windows: Windows, figures: dict[str, bytes]) -> dict[str, Any]:
    """Half-lives of the units."""
    found = {}
    for name, one in (("trained", net), ("untrained", fresh)):
        with torch.no_grad():
            found[name] = tg.insight.memory_spans(
                one.recurrent, one.embed(windows.bytes_[:, :8]), unit="byte", longest=300, starts=64
            )
    half = {name: np.sort(one.half_life[0])[::-1] for name, one in found.items()}
    figure, axis = picture(6.4, 3.4)
    top = found["trained"].longest_lag
    axis.plot(np.minimum(half["trained"], top), label="trained")
    axis.plot(np.minimum(half["untrained"], top), "--", color="0.6", label="untrained")
    axis.set_yscale("log")
    axis.set_xlabel("units, the longest first")
    axis.set_ylabel("half-life, bytes")
    axis.legend(frameon=False)
    figures["half-lives"] = png(figure)
    own = found["trained"]
    return {
        "half_median": float(np.median(half["trained"])),
        "half_untrained": float(np.median(half["untrained"])),
        "long": int((half["trained"] >= 20).sum()),
        "longer": int((half["trained"] >= 100).sum()),
        "untrained_long": int((half["untrained"] >= 20).sum()),
        "latched": int(own.latched.sum()),
        "dead": int(own.dead.sum()),
    }


# --- what is in it ---------------------------------------------------------------------------------------------


def line_position(net: TextNet, windows: Windows) -> dict[str, Any]:
    """How well the place in the line, and being inside a speaker's name, are read from the memory."""
    place, inside = labels(windows.bytes_.numpy())
    late = np.arange(len(place)) >= WARM
    with torch.no_grad():
        x = net.embed(windows.bytes_)
    found = {}
    for name, values in (
        ("place", np.where(late[:, None], place, np.nan)),
        ("name", np.where(late[:, None], inside.astype(np.int64), -1)),
    ):
        found[name] = tg.insight.probe(net.recurrent, x, values)
    return found


def labels(bytes_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each byte (T, B): its place in its line; is it in a speaker's name, **LIKE THIS**?"""
    place, inside = np.zeros(bytes_.shape), np.zeros(bytes_.shape, bool)
    for row in range(bytes_.shape[1]):
        text = bytes_[:, row].astype(np.uint8).tobytes()
        for line in re.finditer(rb"[^\n]*\n?", text):
            place[line.start() : line.end(), row] = np.arange(line.end() - line.start())
        for name in re.finditer(rb"(?m)^\*\*[^*\n]+\*\*", text):
            inside[name.start() + 2 : name.end() - 2, row] = True
    return place, inside


def speaker(net: TextNet, windows: Windows, figures: dict[str, bytes]) -> dict[str, Any]:
    """Units that are on throughout one speaker's name and off at its edges; where else they are."""
    _, inside = labels(windows.bytes_.numpy())
    late = inside.copy()
    late[:WARM] = False
    edges = np.diff(late.astype(int), axis=0, prepend=0, append=0)
    names = [
        (row, int(a), int(b))
        for row in range(late.shape[1])
        for a, b in zip(np.flatnonzero(edges[:, row] == 1), np.flatnonzero(edges[:, row] == -1), strict=True)
        if a > WARM and b < len(late) and b - a >= 6
    ]
    marked = names[0]
    with torch.no_grad():
        x = net.embed(windows.bytes_)
    found = tg.insight.match(net.recurrent, x, marked, of="hidden", threshold=0.2)
    text = windows.bytes_[marked[1] : marked[2], marked[0]].numpy().astype(np.uint8).tobytes().decode()
    best = [one for one in found.spans if inside[WARM:].any() and one.start >= WARM][:50]
    hits = [one for one in best if inside[one.start : one.end, one.row].mean() > 0.5]
    chance = float(inside[WARM:].mean())
    if len(found.units):
        unit, sign = int(found.units[0]), int(found.signs[0])
        with torch.no_grad():
            hidden = net.recurrent.trace(x).layers[-1].hidden[:, :, 0]  # (T, B, H)
        a = max(0, marked[1] - 30)
        shown = windows.bytes_[a : a + SHOWN, marked[0]].numpy()
        strip(figures, "speaker", shown, (sign * hidden[a : a + SHOWN, marked[0], unit]).numpy(), f"h of unit {unit}")
    return {
        "marked": text,
        "units": len(found.units),
        "best_unit": int(found.units[0]) if len(found.units) else None,
        "matched": len(best),
        "matched_names": len(hits),
        "chance_names": chance,
    }


# --- one decision ----------------------------------------------------------------------------------------------


def one_ledger(net: TextNet, data: np.ndarray, figures: dict[str, bytes]) -> dict[str, Any]:
    """The output ledger of the byte that closes a speaker's name, with the figures of how far to trust it."""
    text = data.tobytes()
    ends = [found for found in re.finditer(rb"\n\*\*[A-Z ]{6,}(?=\*\*)", text) if found.end() > 300]
    chosen = ends[len(ends) // 2]
    end, size = chosen.end(), 120
    window = torch.from_numpy(data[end - size : end].astype(np.int64))[:, None]  # (T, 1)
    star = ord("*")
    with torch.no_grad():
        x = net.embed(window)
        scores, _ = net(window)
        p = scores[-1, 0].softmax(-1)
        mean = net.embed(torch.from_numpy(data[:20_000].astype(np.int64))).mean(0)

    def score(x: Tensor) -> Tensor:
        output, _ = net.recurrent(x)
        return net.head(output[-1], net.embedding.weight)[:, star]

    shares = tg.insight.output_ledger(net.recurrent, x, score, unit="nats")
    steps = list(range(size - 50, size))
    gap = tg.insight.ledger_gap(net.recurrent, x, steps, score=score, baseline=mean)
    by_step = shares.by_step()[:, 0]
    shown = window[-SHOWN:, 0].numpy()
    assert gap.output_erased is not None
    assert gap.output_replaced is not None
    marks = np.full((2, SHOWN), np.nan)
    marks[0, -50:], marks[1, -50:] = gap.output_erased[:, 0], gap.output_replaced[:, 0]
    strip(figures, "ledger", shown, by_step[-SHOWN:], "share of the logit of *", marks)
    inside = np.zeros(size, bool)
    inside[size - (chosen.end() - chosen.start() - 1) :] = True  # from ** on
    order = np.argsort(-np.abs(by_step))[:5]
    return {
        "ledger_name": text[chosen.start() + 3 : end].decode(),
        "star_probability": float(p[star]),
        "logit": float(shares.value[0]),
        "rest": float(shares.rest[0]),
        "inside_share": float(by_step[inside].sum()),
        "outside_share": float(by_step[~inside].sum()),
        "top": [(size - int(k), chr(int(window[k, 0])), float(by_step[k])) for k in order],
        "erased": gap.output["erased"],
        "replaced": gap.output["replaced"],
    }


# --- pictures --------------------------------------------------------------------------------------------------


def picture(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def strip(
    figures: dict[str, bytes], name: str, bytes_: np.ndarray, values: np.ndarray, label: str, marks: Any = None
) -> None:
    """A bar a byte, over the bytes themselves."""
    figure, axis = picture(11, 2.8)
    axis.bar(range(len(values)), values, color="#4878a8", label="ledger" if marks is not None else None)
    if marks is not None:
        axis.plot(marks[0], "o", color="#1b1b1b", markersize=3.5, fillstyle="none", label="write erased, live")
        axis.plot(marks[1], "D", color="#c05020", markersize=3, fillstyle="none", label="input replaced, live")
        axis.legend(frameon=False, loc="upper left", fontsize=8)
    axis.axhline(0, color="0.6", linewidth=0.6)
    shown = [{10: "¶", 32: "·"}.get(int(b), chr(int(b))) for b in bytes_]
    axis.set_xticks(range(len(shown)), shown, family="monospace", fontsize=9)
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.7, len(shown) - 0.3)
    axis.set_ylabel(label)
    figures[name] = png(figure)


# --- the page --------------------------------------------------------------------------------------------------


def filled(text: str) -> str:
    """Paragraphs of prose in lines of 120."""
    parts = text.split("\n\n")
    prose = [not part.startswith(("#", "|", "!", "    ")) for part in parts]
    return (
        "\n\n".join(
            textwrap.fill(part, 120, break_on_hyphens=False) if plain else part
            for part, plain in zip(parts, prose, strict=True)
        ).rstrip()
        + "\n"
    )


def page(n: dict[str, Any]) -> str:
    history, kept = n["history"], max(n["history"])
    lost = [[f"{bits:.2f} ± {n['history_error'][k]:.2f}" for k, bits in history.items()]]
    place, name, erased, replaced = n["place"], n["name"], n["erased"], n["replaced"]
    top = "; ".join(f"{steps} back (`{shown!r}`) {value:+.2f}" for steps, shown, value in n["top"])
    read = [
        [title, f"{getattr(place, key):.2f}", f"{getattr(name, key):.2f}"]
        for title, key in (
            ("the memory", "memory"),
            ("the memory, labels permuted", "permuted"),
            ("the byte itself", "input"),
            ("an untrained memory", "untrained"),
            ("chance", "chance"),
        )
    ]
    read.append(["the best single unit", f"{np.nanmax(place.units):.2f}", f"{np.nanmax(name.units):.2f}"])
    found, drawn = "No unit is on (above 0.2) at every byte of it and off at both edges.", ""
    if n["units"]:
        found = (
            f"Units on (above 0.2) at every byte of it and off at both edges: {n['units']}; the clearest is "
            f"unit {n['best_unit']}.\nOf the {n['matched']} best matches elsewhere {n['matched_names']} are names; of "
            f"all bytes {100 * n['chance_names']:.1f}% stand in one."
        )
        drawn = "\n![the clearest unit](reading/text-speaker.png)\n"
    return f"""# Reading a text model

A walk through one real text model, from question to figure to answer, and what each figure cannot
tell. The
model is that of `tidegate demo text` ({n["hidden"]} units, ten tragedies of Shakespeare, [measured
here](text.md)),
looked at on the part it has not seen. Every number and figure was made by

    python -m experiments.text_seeds --seeds 3
    python -m experiments.read_text

with the functions of `tg.insight` on `model.model_.recurrent`. [Looking inside](insight.md) has the
equations,
[Reading an LSTM](reading.md) the walk through a forecast.

## How far back does it read?

![bits by bytes kept](reading/text-history.png)

`history_kept` empties the memory so many bytes before the one that is scored, at {PLACES} places (bits
of that byte,
mean and standard error of what is lost against {kept + 1} bytes):

{markdown_table([str(k) for k in history], lost)}

With the byte just read alone {history[1]:.2f} bits are left open, with eight {history[8]:.2f}, with
all that was kept here
{history[kept]:.2f}. From {n["near"]} bytes on the loss is within 2% of that. The untrained model
needs {n["untrained_bits"]:.2f}
bits, whatever it keeps.

**Cannot tell** what a model *trained* on short pieces would reach, nor what a few bytes (a name
that comes back
after a page) owe to a long memory: this is a mean, and most bytes are told by their word.

## How long does each unit keep?

![half-lives](reading/text-half-lives.png)

`memory_spans`: the median half-life of a unit is {n["half_median"]:.0f} bytes
({n["half_untrained"]:.0f} before training). Units
that keep half for 20 bytes or more: {n["long"]} of {n["hidden"]}; for 100 or more: {n["longer"]};
untrained ones for 20 or
more: {n["untrained_long"]}. Latched: {n["latched"]}. Dead: {n["dead"]}.

**Cannot tell** whether what is kept is read. A half-life is a reading of the forget gate alone.

## Does it know where in the line it is, and when a speaker is named?

In these plays a speaker stands as `**NAME**` on a line of its own. `probe` reads both things
linearly from the
memory, trained on some windows and scored on others:

{markdown_table(["read from", f"place in the line ({place.measure})", f"inside a name ({name.measure})"], read)}

Only what is above the untrained memory was learnt: an LSTM with random weights counts and remembers
somewhat too.

**Cannot tell** whether the model uses what can be read.

## Which units mark a name?

One name, {n["marked"]}, is marked; `match` finds the units and ranks where else they are on.
{found}
{drawn}
**Cannot tell** what a unit is for: with many units some fit any short span by chance. The count of
matches that
are names, beside the share of names, is the check.

## Why does it close this name?

![ledger of a logit](reading/text-ledger.png)

After `**{n["ledger_name"]}` the model gives `*` {100 * n["star_probability"]:.1f}%. Its logit is
{n["logit"]:.2f}. Of that
{n["rest"]:+.2f} is no memory (the bias), {n["inside_share"]:+.2f} was written by the bytes of the
name and the stars before it,
and {n["outside_share"]:+.2f} by the other bytes of the 120 that were read. The largest shares: {top}.

The circles say what the logit gains by a write: it is erased, and all after it runs live.
Correlation with the bars
{erased.correlation:.2f}, slope {erased.slope:.2f}, gap {erased.gap:.2f}. The diamonds say what it
gains by the byte's input,
which is replaced by the mean of all bytes: correlation {replaced.correlation:.2f}, slope
{replaced.slope:.2f},
gap {replaced.gap:.2f}. A gap of 1 is what a ledger of zeros would get. Where it is near that or
above, the bars tell when
the memory was written, and not what the bytes did.

**Cannot tell** what a byte did by opening or shutting gates: the ledger gives that nothing, and
only the diamonds
show it.
"""


if __name__ == "__main__":
    main()
