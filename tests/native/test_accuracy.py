"""How exact the kernels are: activation functions in ulp, whole layers beside torch's own error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tidegate as tg

# Maximal errors that native/src/activations.h states, in units of the last place.
BOUNDS = {("sigmoid", 0): 2.5, ("tanh", 0): 3.5, ("sigmoid", 1): 3.0, ("tanh", 1): 4.0}


def ulps(found, exact):
    """Distance in steps of the result's own precision."""
    spacing = np.spacing(np.abs(exact).astype(found.dtype))
    return np.abs((found.astype(np.longdouble) - exact) / spacing.astype(np.longdouble))


def values(dtype):
    """Every 1000th float and every exponent's neighbours; for doubles a dense sample of all exponents."""
    if dtype == np.float32:
        bits = np.arange(0, 2**31 - 2**23, 997, dtype=np.uint32)
        x = np.concatenate([bits.view(np.float32), np.linspace(-110, 110, 400_001, dtype=np.float32)])
    else:
        generator = np.random.default_rng(0)
        x = np.ldexp(generator.uniform(1, 2, 200_000), generator.integers(-1000, 11, 200_000))
        x = np.concatenate([x, np.linspace(-750, 750, 200_001)])
    return np.concatenate([x, -x])


@pytest.mark.parametrize(("name", "dtype"), BOUNDS, ids=str)
def test_activations_keep_their_stated_error(lib, isa, name, dtype):
    kind = np.float64 if dtype else np.float32
    x = values(kind)
    y = np.empty_like(x)
    lib.activation(int(name == "tanh"), dtype, x.ctypes.data, y.ctypes.data, x.size)
    wide = x.astype(np.longdouble)
    with np.errstate(over="ignore", under="ignore"):
        exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    normal = np.abs(exact) >= np.finfo(kind).tiny
    error = ulps(y[normal], exact[normal])
    assert error.max() <= BOUNDS[name, dtype], (error.max(), x[normal][error.argmax()])
    assert np.abs(y[~normal] - exact[~normal]).max(initial=0) <= np.finfo(kind).tiny


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", [0, 1])
def test_activations_have_exact_limits(lib, isa, name, dtype):
    x = np.array([np.inf, -np.inf, np.nan, 0.0], np.float64 if dtype else np.float32)
    y = np.empty_like(x)
    lib.activation(int(name == "tanh"), dtype, x.ctypes.data, y.ctypes.data, x.size)
    expected = [1, -1, np.nan, 0] if name == "tanh" else [1, 0, np.nan, 0.5]
    np.testing.assert_array_equal(y, np.array(expected, x.dtype))


def errors(layer, precise, *inputs):
    """Relative error of the output and of every gradient against float64, for inputs x, h_0, c_0."""
    found = []
    weight = torch.randn(1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for module, kind in ((layer, torch.Tensor.clone), (precise, torch.Tensor.double)):
        x, *state = leaves = [kind(p).requires_grad_() for p in inputs]
        output = module(x, tuple(state))[0]
        scale = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output).sin() * weight
        gradients = torch.autograd.grad(output, [*leaves, *module.parameters()], scale.to(output.dtype))
        found.append([output, *gradients])
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(*found, strict=True)]


EXACT = [(50, 8, 16, 32), (120, 3, 30, 70), (20, 16, 64, 128), (3, 4, 16, 1024), (20, 16, 5000, 64), (300, 64, 5, 21)]


@pytest.mark.parametrize("sizes", EXACT, ids=str)  # T, B, I, H
@pytest.mark.parametrize(("dtype", "outputs", "gradients"), [(torch.float32, 1.5, 2.0), (torch.bfloat16, 2.0, 2.0)])
def test_as_exact_as_torch(isa, sizes, dtype, outputs, gradients):
    assert_as_exact(sizes, dtype, outputs, gradients)


# Sums of many terms, with the most that output and gradients may err: T, B, I, H and options.
SUMS = {
    "units": ((2, 8, 16, 2048), {}, 1.5, 2.0),
    "outputs of a projection": ((3, 16, 40, 1100), {"proj_size": 130}, 1.2, 2.0),
    "biases": ((100, 32, 64, 257), {"proj_size": 64}, 1.5, 2.0),
    "gradient of a single input": ((2, 64, 1, 600), {}, 1.5, 1.6),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("sizes", "options", "outputs", "gradients"), SUMS.values(), ids=SUMS)
def test_long_sums_are_as_exact_as_torchs(isa, sizes, options, outputs, gradients):
    assert_as_exact(sizes, torch.float32, outputs, gradients, **options)


def assert_as_exact(sizes, dtype, outputs, gradients, **options):
    T, B, I, H = sizes
    theirs = torch.nn.LSTM(I, H, **options).to(dtype)
    ours, precise = tg.LSTM(I, H, dtype=dtype, **options), torch.nn.LSTM(I, H, **options).double()
    ours.load_state_dict(theirs.state_dict())
    precise.load_state_dict(theirs.state_dict())
    inputs = [
        (scale * torch.randn(shape)).to(dtype)
        for shape, scale in (((T, B, I), 1), ((1, B, options.get("proj_size", H)), 0.5), ((1, B, H), 0.5))
    ]
    our, their = errors(ours, precise, *inputs), errors(theirs, precise, *inputs)
    assert our[0] <= outputs * their[0], (our[0], their[0])
    for found, allowed in zip(our[1:], their[1:], strict=True):
        assert found <= gradients * allowed, (our, their)
