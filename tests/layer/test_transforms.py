"""The layer inside what torch does to modules: compilers, transforms, wrappers, parametrisations."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

import tidegate as tg
from tidegate.ops.library import library

T, B, I, H = 6, 3, 4, 5


class Model(nn.Module):
    """A small model with the layer inside; tensors in, tensors out."""

    def __init__(self, **options):
        super().__init__()
        self.lstm = tg.LSTM(I, H, **options)
        self.head = nn.Linear(self.lstm.output_size, 2)

    def forward(self, x, lengths=None):
        output, (h, c) = self.lstm(x, lengths=lengths)
        return self.head(output), h, c


def loss(result):
    return sum(part.square().sum() for part in result)


def gradients(model, run, *inputs):
    return torch.autograd.grad(loss(run(*inputs)), [inputs[0], *model.parameters()])


def assert_same(found, expected):
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"zoneout": 0.2, "recurrent_dropout": 0.3, "weight_dropout": 0.1},
    {"checkpoint_every": 2},
]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inside inductor
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled_once_for_every_batch_and_time(options, compiler):
    if compiler == "inductor" and shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    if compiler == "inductor" and options not in OPTIONS[:2]:
        pytest.skip("the graph is the same as under aot_eager")
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model(**options).eval()
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    for k, (steps, rows) in enumerate([(6, 3), (9, 2), (2, 7), (30, 4)]):
        x = torch.randn(steps, rows, I, requires_grad=True)
        lengths = torch.randint(0, steps + 1, (rows,))
        torch._dynamo.mark_dynamic(x, (0, 1))
        torch._dynamo.mark_dynamic(lengths, 0)
        expected = [*model(x, lengths), *gradients(model, model, x, lengths)]
        with torch.compiler.set_stance("default" if k == 0 else "fail_on_recompile"):
            assert_same([*compiled(x, lengths), *gradients(model, compiled, x, lengths)], expected)


def test_exported_with_free_batch_and_time():
    model = Model(num_layers=2, bidirectional=True).eval()
    batch, time = torch.export.Dim("batch", min=2, max=100), torch.export.Dim("time", min=2, max=1000)
    x = torch.randn(T, B, I)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: time, 1: batch},))
    assert any("tidegate.lstm_sequence" in str(node.target) for node in program.graph.nodes)
    for steps, rows in [(6, 3), (2, 9), (50, 2)]:
        x = torch.randn(steps, rows, I)
        assert_same(program.module()(x), model(x))


def test_gradients_of_each_sample():
    model = Model(bidirectional=True, merge="sum")
    weights = {name: p.detach() for name, p in model.named_parameters()}
    x = torch.randn(4, T, 1, I)

    def one(weights, x):
        return loss(functional_call(model, weights, (x,)))

    found = vmap(grad(one), in_dims=(None, 0))(weights, x)
    for k, part in enumerate(x):
        expected = torch.autograd.grad(loss(model(part)), list(model.parameters()))
        assert_same([g[k] for g in found.values()], expected)


def test_functional_call_with_other_weights():
    model, other = Model(), Model()
    x = torch.randn(T, B, I)
    assert_same(functional_call(model, dict(other.named_parameters()), (x,)), other(x))


def test_vmap_of_models_stacked():
    models = [Model() for _ in range(3)]
    weights, buffers = torch.func.stack_module_state(models)
    base, x = copy.deepcopy(models[0]).to("meta"), torch.randn(T, B, I)
    found = vmap(lambda w, b: functional_call(base, (w, b), (x,)))(weights, buffers)
    for k, model in enumerate(models):
        assert_same([part[k] for part in found], model(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's older spectral norm
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_looking_at_a_layer_in_training_iterates_no_spectral_norm(norm):
    lstm, x = norm(tg.LSTM(I, H), "weight_hh_l0"), torch.randn(T, B, I)

    def iterated():
        return [b.clone() for b in lstm.buffers()]

    before = iterated()
    lstm.backend(x)
    if library() is not None:
        tg.Streamer(lstm).refresh()
    assert all(torch.equal(a, b) for a, b in zip(before, iterated(), strict=True))
    assert all(m.training for m in lstm.modules())
    lstm(x)
    assert not all(torch.equal(a, b) for a, b in zip(before, iterated(), strict=True))


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_weights(norm):
    torch.manual_seed(0)
    model, x = Model(), torch.randn(T, B, I, requires_grad=True)
    getattr(nn.utils.parametrizations, norm)(model.lstm, "weight_hh_l0")
    model.eval()  # spectral norm moves its estimate in training mode
    plain = Model()
    values = [model.lstm.weight_ih_l0, model.lstm.weight_hh_l0, model.lstm.bias_ih_l0, model.lstm.bias_hh_l0]
    with torch.no_grad():
        for p, q in zip(plain.parameters(), [*values, *model.head.parameters()], strict=True):
            p.copy_(q)
    assert_same(model(x), plain(x))
    before = model(x)[0].detach()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    loss(model(x)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.lstm.parameters())
    optimiser.step()
    assert (model(x)[0] - before).abs().max() > 1e-3


def test_hooks_run_and_may_change_what_passes():
    model, seen = Model(), []
    model.lstm.register_forward_pre_hook(lambda m, a, k: seen.append("before") or (a, k), with_kwargs=True)
    model.lstm.register_forward_hook(lambda m, a, out: (out[0] * 0, out[1]))
    model.lstm.register_full_backward_hook(lambda m, into, out: seen.append("backward"))
    model.lstm.weight_hh_l0.register_hook(lambda g: seen.append("gradient"))
    x = torch.randn(T, B, I, requires_grad=True)
    output, h, _ = model(x)
    assert torch.equal(output, model.head.bias.expand_as(output))
    (output.sum() + h.sum()).backward()
    assert seen == ["before", "gradient", "backward"]


def test_data_parallel(tmp_path):
    # In a process that ends at once: freeing its group, torch may wait for ever for a thread that waits for Python.
    code = f"import os, test_transforms; test_transforms.data_parallel({str(tmp_path / 'store')!r}); os._exit(0)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


def data_parallel(store: str) -> None:
    group = torch.distributed.FileStore(store, 1)
    torch.distributed.init_process_group("gloo", store=group, rank=0, world_size=1)
    torch.manual_seed(0)
    model = Model(num_layers=2)
    plain, x = copy.deepcopy(model), torch.randn(T, B, I)
    wrapped = nn.parallel.DistributedDataParallel(model)
    for m in (wrapped, plain):
        loss(m(x)).backward()
    assert_same([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_gradients(dtype):
    torch.manual_seed(0)
    model, x = Model(), torch.randn(T, B, I, requires_grad=True)
    want = gradients(model, model, x)

    def mixed(x):
        with torch.autocast("cpu", dtype):
            output, h, c = model(x)
        assert output.dtype == h.dtype == dtype
        assert c.dtype == torch.float32
        return output.float(), h.float(), c

    found = gradients(model, mixed, x)
    for got, expected in zip(found, want, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.03 * float(expected.abs().max()))


def test_weight_dropout_is_one_mask_on_the_recurrent_weights():
    torch.manual_seed(0)
    lstm = tg.LSTM(I, H, bidirectional=True, weight_dropout=0.4)
    plain, x = tg.LSTM(I, H, bidirectional=True), torch.randn(T, B, I)
    plain.load_state_dict(lstm.state_dict())
    assert torch.equal(lstm.eval()(x)[0], plain(x)[0])
    torch.manual_seed(5)
    got = lstm.train()(x)[0]
    torch.manual_seed(5)
    dropped = {n: F.dropout(p, 0.4) for n, p in lstm.named_parameters() if "weight_hh" in n}
    want = functional_call(plain, dropped, (x,))[0]
    torch.testing.assert_close(got, want)
    parameters = list(lstm.parameters())
    found = torch.autograd.grad(got.square().sum(), parameters)
    kept = functional_call(plain, dict(lstm.named_parameters()) | dropped, (x,))[0]
    assert_same(found, torch.autograd.grad(kept.square().sum(), parameters))
