"""Random layers with every option that the views must get right."""

from __future__ import annotations

import torch

import tidegate as tg

OPTIONS = {
    "plain": {},
    "both directions, two layers": {"bidirectional": True, "num_layers": 2},
    "projection": {"proj_size": 5, "bidirectional": True},
    "peephole": {"peephole": True, "bidirectional": True},
    "zoneout": {"zoneout": (0.3, 0.2), "bidirectional": True},
    "layer norm": {"layer_norm": True},
    "batch first": {"batch_first": True},
}


def layer(inputs: int, units: int, dtype=torch.float64, scale: float = 1.0, **options) -> tg.LSTM:
    """An evaluation-mode layer, its weights scaled."""
    lstm = tg.LSTM(inputs, units, dtype=dtype, **options).eval()
    for parameter in lstm.parameters():
        parameter.data.mul_(scale)
    return lstm


def state(lstm: tg.LSTM, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """h_0 of zeros and a random c_0."""
    h, c = lstm.initial_state(rows)
    return h, torch.randn_like(c)
