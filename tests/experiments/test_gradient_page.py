"""The measured gradients against a closed form, and the table against the results."""

from __future__ import annotations

import pytest
import torch

import tidegate as tg
from experiments.gradients import draw, measure


def constant_gates(layer: tg.LSTM) -> None:
    """No weights: the forget gate is sigmoid(b) at every step."""
    for name, parameter in layer.named_parameters():
        torch.nn.init.constant_(parameter, 0.9 if name == "bias_ih_l0" else 0.0)


def test_with_constant_gates_the_memory_keeps_a_power_of_the_forget_gate():
    case = measure.Case("constant", "start", measure._lstm(constant_gates))
    found = measure.measure(case, 0)
    forget = torch.tensor(0.9, dtype=torch.float64).sigmoid().item()
    assert found["cell"][0] == 1.0
    for place, lag in ((1, 10), (10, 100), (100, 1000)):
        assert found["cell"][place] == pytest.approx(forget**lag, rel=1e-3)
        assert found["memory_path"][place] == pytest.approx(forget**lag, rel=1e-3)
        assert found["hidden"][place] == 0.0


def test_the_page_gives_medians_of_the_results():
    lines = []
    for case in measure.CASES:
        for seed, last in enumerate((1e-3, 5e-3, 0.0)):
            values = {"hidden": [1.0] * 100 + [last]}
            if case.name.startswith("LSTM"):
                values |= {"cell": [1.0] * 100 + [0.25], "memory_path": [1.0] * 100 + [0.0]}
            lines.append({"name": case.name, "seed": seed, **values})
    lines.append(lines[0] | {"seed": 3})  # the other cases of this seed are missing
    page = draw.page(draw.curves(lines))
    assert "| LSTM, forget bias 1 | 1 | 0.001 | 1 | 0.25 | < 1e-300 |" in page
    assert "| RNN, torch's weights | 1 | 0.001 |  |  |  |" in page
    assert "medians over 3 seeds" in page
