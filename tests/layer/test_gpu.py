"""On a GPU the reference computes what the kernels compute on the CPU; skipped where there is none."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import tidegate as tg
from tidegate.ops import SlowPathWarning

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

T, B, I, H = 20, 5, 7, 19
OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"peephole": True, "layer_norm": True},
    {"batch_first": True, "bidirectional": True, "merge": "sum", "zoneout": 0.1},
]


@pytest.fixture(autouse=True)
def slow_path_is_known():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        yield


def pair(**options):
    torch.manual_seed(0)
    lstm = tg.LSTM(I, H, **options).eval()
    return lstm, copy.deepcopy(lstm).cuda()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "lengths and resets"])
def test_outputs_states_and_gradients(options, masked):
    results = []
    for lstm in pair(**options, dtype=torch.float64):
        torch.manual_seed(1)
        words = {"lengths": torch.tensor([20, 0, 1, 13, 20]), "reset": torch.rand(T, B) < 0.2} if masked else {}
        x = torch.randn(T, B, I, dtype=torch.float64)
        if lstm.batch_first:
            x = x.transpose(0, 1)
            words = {name: w.t() if w.dim() == 2 else w for name, w in words.items()}
        device = lstm.weight_ih_l0.device
        x = x.to(device).requires_grad_()
        output, state = lstm(x, **{name: w.to(device) for name, w in words.items()})
        assert output.device == state.c.device == device
        weights = torch.randn(output.shape, dtype=torch.float64).to(device)
        found = torch.autograd.grad((output * weights).sum() + state.c.sum(), [x, *lstm.parameters()])
        results.append([r.cpu() for r in (output, *state, *found)])
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=1e-9, atol=1e-11)


def test_gates_and_steps():
    cpu, gpu = pair(num_layers=2)
    x = torch.randn(T, B, I)
    with torch.no_grad():
        torch.testing.assert_close(gpu.trace(x.cuda()).layers[1].forget.cpu(), cpu.trace(x).layers[1].forget)
        state, whole = None, cpu(x)[0]
        for x_t, want in zip(x.cuda(), whole, strict=True):
            output, state = gpu.step(x_t, state)
            torch.testing.assert_close(output.cpu(), want, rtol=1e-4, atol=1e-5)


def test_half_precision():
    cpu, gpu = pair()
    x = torch.randn(T, B, I)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        output, state = gpu(x.cuda())
    assert output.dtype is torch.bfloat16
    assert state.c.dtype is torch.float32
    torch.testing.assert_close(output.float().cpu(), cpu(x)[0], rtol=0.05, atol=0.02)
