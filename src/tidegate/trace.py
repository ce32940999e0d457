"""Every gate and memory of a stack of layers, as ``lstm.trace`` returns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tidegate.frames import array, long_frame, polars
from tidegate.ops.trace import LayerTrace
from tidegate.state import State

if TYPE_CHECKING:
    import polars as pl

DIRECTIONS = ("forward", "backward")


class Trace(NamedTuple):
    """All gates and both memories at every step, and what the call returned."""

    layers: tuple[LayerTrace, ...]  # L
    output: Any  # as ``forward`` gives it
    state: State

    def to_frame(self) -> pl.DataFrame:
        """One row a layer, step, row, direction and unit, padding left out; values without unit.

        ``hidden`` is missing where a projection gives h another size than c.
        """
        pl = polars()
        frames = []
        for number, layer in enumerate(self.layers):
            T, B, D, H = layer.cell.shape
            axes = {"step": range(T), "row": range(B), "direction": DIRECTIONS[:D], "unit": range(H)}
            names = ["input", "forget", "candidate", "output", "cell", "hidden"][
                : 6 if layer.hidden.shape[3] == H else 5
            ]
            keep = None if layer.valid is None else array(layer.valid)
            frame = long_frame(axes, {name: array(getattr(layer, name)) for name in names}, keep)
            frames.append(frame.select(pl.lit(number).alias("layer"), pl.all()))
        return pl.concat(frames)
