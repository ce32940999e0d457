"""Arrays with named axes as long tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl


def long_frame(
    axes: Mapping[str, Sequence[Any] | np.ndarray], columns: Mapping[str, Any], keep: np.ndarray | None = None
) -> pl.DataFrame:
    """One row for each cell of arrays that share their axes.

    Parameters
    ----------
    axes : dict of name to labels
        In the order of the arrays' dimensions.
    columns : dict of name to array
        Each has one dimension an axis, or broadcasts to that.
    keep : bool array, optional
        Broadcasts likewise; cells where it is false are left out.

    Returns
    -------
    polars.DataFrame
        The axes' columns, then the arrays'.

    Raises
    ------
    ImportError
        Without polars, which is in the extra ``app``.
    """
    pl = polars()
    shape = tuple(len(labels) for labels in axes.values())
    chosen = np.arange(math.prod(shape))
    if keep is not None:
        chosen = chosen[np.broadcast_to(keep, shape).reshape(-1)]
    places = np.unravel_index(chosen, shape)
    made = {name: np.asarray(labels)[place] for (name, labels), place in zip(axes.items(), places, strict=True)}
    made |= {name: np.broadcast_to(array(values), shape).reshape(-1)[chosen] for name, values in columns.items()}
    return pl.DataFrame(made)


def polars() -> Any:
    """The module, or a sentence on how to get it."""
    try:
        import polars
    except ImportError:
        raise ImportError("to_frame needs polars: install tidegate[app]; the arrays are there without it") from None
    return polars


def array(values: Any) -> np.ndarray:
    """A tensor or anything numpy takes, as an array; half precision becomes float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values
        return np.asarray(values.numpy())
    return np.asarray(values)
