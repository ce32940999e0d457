"""``torch.nn.LSTM`` in and out: names, shapes and gate order are the same, so weights go over unchanged."""

from __future__ import annotations

from typing import Any

from torch import nn

from tidegate.errors import InterchangeError
from tidegate.layer import LSTM

_SHARED = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")


def from_torch(lstm: nn.LSTM, **options: Any) -> LSTM:
    """A ``tg.LSTM`` with a copy of the weights of a ``torch.nn.LSTM``.

    Parameters
    ----------
    lstm : torch.nn.LSTM
    **options
        Further arguments of ``tg.LSTM``, such as ``merge`` or ``recurrent_dropout``.

    Returns
    -------
    LSTM
        On the same device, in the same dtype and mode. Without options it computes the same.

    Raises
    ------
    InterchangeError
        If it is another kind of module.
    """
    if not isinstance(lstm, nn.LSTM):
        raise InterchangeError(f"from_torch takes a torch.nn.LSTM; given {type(lstm).__name__}")
    weight: Any = lstm.weight_ih_l0
    made = LSTM(**_arguments(lstm), device=weight.device, dtype=weight.dtype, **options)
    _copy(lstm, made)
    return made.train(lstm.training)


def to_torch(lstm: LSTM) -> nn.LSTM:
    """A ``torch.nn.LSTM`` with a copy of the weights, which computes the same at evaluation.

    ``recurrent_dropout``, ``weight_dropout`` and ``variational`` act in training only and are left behind.

    Raises
    ------
    InterchangeError
        For an option that ``torch.nn.LSTM`` cannot say: merge, zoneout, layer_norm, peephole.
    """
    refuse(lstm, "torch.nn.LSTM", merges=("concat",), projection=True)
    weight = lstm.weight_ih_l0
    made = nn.LSTM(**_arguments(lstm), device=weight.device, dtype=weight.dtype)
    _copy(lstm, made)
    return made.train(lstm.training)


def _copy(lstm: nn.Module, made: nn.Module) -> None:
    """All weights and whether they learn; those that only the copy has stay as they start."""
    missing = set(dict(lstm.named_parameters())) ^ set(lstm.state_dict())
    left = made.load_state_dict(lstm.state_dict(), strict=False)
    if missing or left.unexpected_keys:
        raise InterchangeError(
            f"weights that are computed from others ({', '.join(sorted(missing) or left.unexpected_keys)}) cannot be "
            "copied; remove the parametrisation or pruning first"
        )
    for name, parameter in lstm.named_parameters():
        made.get_parameter(name).requires_grad_(parameter.requires_grad)


def refuse(
    lstm: Any,
    by: str,
    merges: tuple[str | None, ...] | None = None,
    projection: bool = False,
    peephole: bool = False,
    apart: bool = False,
) -> None:
    """Raise where evaluation needs what another LSTM cannot say, with the reason.

    ``merges`` are those of two directions; ``apart``: may one direction have a dimension of its own in the output?
    """
    if not isinstance(lstm, LSTM):
        raise InterchangeError(f"a tg.LSTM is expected; given {type(lstm).__name__}")
    reasons = []
    if lstm.layer_norm:
        reasons.append("layer_norm (it has no normalisation inside the step)")
    if lstm.zoneout != (0.0, 0.0):
        reasons.append(f"zoneout={lstm.zoneout} (at evaluation a unit keeps that share of its old memories)")
    if lstm.peephole and not peephole:
        reasons.append("peephole (its gates do not see the long-term memory)")
    if lstm.proj_size and not projection:
        reasons.append(f"proj_size={lstm.proj_size} (its short-term memory has the size of the long-term one)")
    if merges is not None and lstm.bidirectional and lstm.merge not in merges:
        reasons.append(f"merge={lstm.merge!r} (expected one of {', '.join(map(repr, merges))})")
    if lstm.merge is None and not lstm.bidirectional and not apart:
        reasons.append("merge=None of one direction (its output has no dimension of directions)")
    if reasons:
        raise InterchangeError(f"{by} cannot say {'; nor '.join(reasons)}")


def _arguments(lstm: Any) -> dict[str, Any]:
    return {name: getattr(lstm, name) for name in _SHARED}
