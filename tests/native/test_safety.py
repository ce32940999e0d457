"""The library beside the rest of a process: one OpenMP runtime, forks, threads, bad calls, memory."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

import tidegate as tg
from tidegate import ops
from tidegate.cell import LSTMWeights
from tidegate.ops.library import missing

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run_python(code, **environment):
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


@linux
def test_one_openmp_runtime_is_loaded():
    code = """
import torch, tidegate as tg
from tidegate.ops.library import library
torch.set_num_threads(2)
tg.LSTM(8, 64)(torch.randn(50, 40, 8))
maps = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
found = [path for path in maps if any(n in path.rsplit("/", 1)[-1] for n in ("libgomp", "libomp", "libiomp"))]
assert found == [library().openmp], (found, library().openmp)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@linux
@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("rows", [40, 400])  # torch fills more than 32,768 zeros on all threads
def test_a_fork_runs_on_one_thread_and_does_not_hang(threads, rows):
    torch.set_num_threads(2)
    layer, x = tg.LSTM(8, 64, 2), torch.randn(50, rows, 8)
    unused = copy.deepcopy(layer)
    with torch.no_grad():
        expected, first = layer(x)[0], layer.step(x[0])[0]
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(40)  # ends a child that hangs
        with torch.no_grad():
            found = [layer(x)[0], unused(x)[0], unused.step(x[0])[0], layer.step(x[0])[0]]
        same = [bool((a.numpy() == b.numpy()).all()) for a, b in zip(found, [expected] * 2 + [first] * 2, strict=True)]
        os._exit(0 if all(same) else 1)  # compared by numpy, as torch's own loops would hang
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@linux
def test_a_call_after_a_pause_leaves_all_threads_their_processors(threads):
    """A thread that wakes where the caller runs moves away from it, and may come back."""
    torch.set_num_threads(2)
    layer, x = tg.LSTM(64, 128), torch.randn(100, 32, 64)
    with torch.no_grad():
        expected = layer(x)[0]

        def processors():
            return {task: os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")}

        before = processors()
        for _ in range(8):
            time.sleep(0.05)
            assert torch.equal(layer(x)[0], expected)
        assert processors() == before


def test_several_python_threads_at_once(threads, request):
    """Which take turns as often as they can, with calls of other sizes each."""
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)
    torch.set_num_threads(2)
    layer = tg.LSTM(6, 30, num_layers=2)
    inputs = [torch.randn(20 + n % 2, 1 + n % 5, 6) for n in range(24)]
    step = lambda x: layer.step(x[0])[0]  # noqa: E731

    def both(x):
        gradient = torch.autograd.grad(layer(x)[0].sum(), layer.weight_hh_l0)[0]
        with torch.no_grad():
            return gradient, layer(x)[0], step(x)

    expected = [both(x) for x in inputs]
    with ThreadPoolExecutor(6) as pool:
        for found, want in zip(pool.map(both, inputs * 12), expected * 12, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_the_instruction_set_can_be_forced(lib):
    for name in lib.isas:
        code = "from tidegate.ops.library import library; print(library().isa)"
        assert run_python(code, TIDEGATE_ISA=name).stdout.strip() == name
    assert (
        "TIDEGATE_ISA is one of"
        in run_python("from tidegate.ops.library import library; library()", TIDEGATE_ISA="x").stderr
    )


def test_without_the_library_the_reference_runs_and_says_so(tmp_path):
    source = Path(tg.__file__).parent
    copy = tmp_path / "tidegate"
    copy.mkdir()
    for entry in source.iterdir():
        if entry.name != "ops":
            (copy / entry.name).symlink_to(entry)
    (copy / "ops").mkdir()
    for entry in (source / "ops").glob("*.py"):
        (copy / "ops" / entry.name).write_text(entry.read_text())
    reason = copy / "ops" / "no_kernels.txt"
    reason.write_text("no C++ compiler was found")  # as native/CMakeLists.txt leaves it
    code = f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
sys.meta_path = [f for f in sys.meta_path if "tidegate" not in repr(f) and "editable" not in type(f).__module__]
import torch, tidegate as tg
assert tg.__file__.startswith({str(tmp_path)!r}), tg.__file__
layer = tg.LSTM(2, 3)
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    layer(torch.randn(4, 1, 2)), layer(torch.randn(4, 1, 2))
print(len(found), found[0].message)
print(layer.backend(torch.randn(4, 1, 2)).name)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 this LSTM runs on the reference backend"), done.stdout
    assert "no C++ compiler was found" in done.stdout
    assert done.stdout.rstrip().endswith("reference")
    assert missing() == ""
    reason.unlink()  # a library that was built and is gone
    assert "are missing from this installation" in run_python(code).stdout


def test_lengths_out_of_range_are_refused():
    layer = tg.LSTM(2, 3)
    for lengths in ([5, 1], [-1, 2]):
        with pytest.raises(ValueError, match="lengths are from 0 to the number of steps, 4"):
            layer(torch.randn(4, 2, 2), lengths=lengths)


def test_mixed_dtypes_are_left_to_the_reference():
    x = torch.randn(3, 2, 4)
    weights = [LSTMWeights(torch.randn(20, 4).double(), torch.randn(20, 5).double())]
    assert "differ in dtype" in str(ops.choose(x, weights))
    norms = {"norm_ih": torch.ones(20), "norm_hh": torch.ones(20), "norm_c": torch.ones(2, 5).double()}
    assert "differ in dtype" in str(ops.choose(x, [LSTMWeights(torch.randn(20, 4), torch.randn(20, 5), **norms)]))


def test_some_of_the_norms_are_left_to_the_reference():
    x, plain = torch.randn(3, 2, 4), LSTMWeights(torch.randn(20, 4), torch.randn(20, 5))
    norms = {"norm_ih": torch.ones(20), "norm_hh": torch.ones(20), "norm_c": torch.ones(2, 5)}
    whole = plain._replace(**norms)
    assert ops.choose(x, [whole, whole]).name == "native"
    for weights in ([plain, whole], *([whole._replace(**{name: None})] for name in norms)):
        assert "for all three norms of every direction" in str(ops.choose(x, weights))


def test_memory_of_a_large_call_is_not_kept_for_ever(lib):
    lib.trim()
    before = lib.pool_bytes()
    tg.LSTM(8, 64)(torch.randn(2000, 64, 8))[0].sum().backward()
    assert lib.pool_bytes() > before + (100 << 20)
    layer, x = tg.LSTM(2, 3), torch.randn(1, 1, 2)
    with torch.no_grad():
        for _ in range(4000):
            layer(x)
    assert lib.pool_bytes() < before + (33 << 20)


def test_large_results_return_their_memory(lib):
    lib.trim()
    layer, x = tg.LSTM(8, 64), torch.randn(100, 64, 8)
    for _ in range(3):
        layer(x)[0].sum().backward()
    before = lib.pool_bytes()
    for _ in range(20):
        layer(x)[0].sum().backward()
    assert lib.pool_bytes() == before
    kept = layer(x)[0].detach().clone()
    with torch.no_grad():
        outputs = [layer(x)[0] for _ in range(5)]
    assert len({o.data_ptr() for o in outputs}) == 5
    assert all(torch.equal(o, kept) for o in outputs)


@pytest.mark.parametrize(("norm", "stated"), [(False, 20 * 64), (True, 36 * 64 + 128)], ids=["plain", "norm"])
def test_memory_of_a_training_step_is_as_stated(lib, norm, stated):
    """Beside x, the output and their gradients: so many bytes a step and row, and a bounded workspace."""

    def kept(T, B=16, H=64):
        lib.trim()
        before = lib.pool_bytes()
        layer, x = tg.LSTM(8, H, layer_norm=norm), torch.randn(T, B, 8, requires_grad=True)
        output = layer(x)[0]
        held = lib.pool_bytes() - before  # output, cells, gates and the forward workspace
        del output
        return held

    rows = 16 * 1000
    assert (kept(3000) - kept(2000)) / rows <= (stated + 4 * 64) * 1.01 + 300  # + the output itself; pages round up


# --- what has no memory here, or another than it had --------------------------------------------------------------


def test_another_default_device():
    lstm, x = tg.LSTM(3, 4), torch.randn(5, 2, 3)
    both = tg.LSTM(3, 4, bidirectional=True, merge="sum")
    with torch.no_grad():
        expected = [lstm(x)[0], lstm.step(x[0])[0], both(x)[0]]
        lstm.train().eval()
        with torch.device("meta"):
            found = [lstm(x)[0], lstm.step(x[0])[0], both(x)[0]]
            assert tg.Streamer(lstm).step(x[:1, 0]).device.type == "cpu"
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    with torch.device("meta"):
        lstm(x)[0].sum().backward()
    assert lstm.weight_hh_l0.grad.device.type == "cpu"


@pytest.mark.parametrize("zoneout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("weight_hh_l0", (4, 4)),
        ("weight_ih_l1", (16, 3)),
        ("bias_ih_l0", (1,)),
        ("weight_ch_l0", (3, 3)),
        ("weight_hh_l1", (16,)),
    ],
)
def test_weights_of_other_shapes(name, shape, zoneout):
    lstm, x = tg.LSTM(3, 4, 2, peephole=True, zoneout=zoneout).eval(), torch.randn(5, 2, 3)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            lstm(x)
            lstm.step(x[0])
    setattr(lstm, name, torch.nn.Parameter(torch.randn(shape)))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for call in (lambda: lstm(x), lambda: lstm.step(x[0]), lambda: lstm.trace(x)):
                with pytest.raises(ValueError, match="the weights do not fit together"):
                    call()
    with pytest.raises(ValueError, match="weights of the shapes that the layer was made with"):
        tg.Streamer(lstm)


def test_weights_elsewhere():
    lstm, x = tg.LSTM(3, 4), torch.randn(5, 2, 3)
    lstm.weight_hh_l0 = torch.nn.Parameter(torch.empty(16, 4, device="meta"))
    with pytest.raises(ValueError, match="on one device; given cpu and meta"):
        lstm(x)
    with pytest.raises(ValueError, match="a Streamer needs the native kernels: the weights .* on meta"):
        tg.Streamer(lstm)
    stream = tg.Streamer(tg.LSTM(3, 4))
    with pytest.raises(ValueError, match="on the CPU; given torch.float32 on meta"):
        stream.step(torch.empty(1, 3, device="meta"))
    with pytest.raises(TypeError, match="step reads a torch.Tensor; given list"):
        stream.step([[0.0, 0.0, 0.0]])
    with pytest.raises(TypeError, match="rows is a bool tensor"):
        stream.reset(torch.tensor([0]))
    with pytest.raises(TypeError, match="a Streamer reads a tg.LSTM"):
        tg.Streamer(torch.nn.LSTM(3, 4))


def test_tensors_made_of_others():
    lstm, x = tg.LSTM(3, 4), torch.randn(5, 2, 3)
    h, c = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    output, _ = lstm(x, (TwoTensor(h, c), TwoTensor(c, h)))
    assert torch.equal(output.a, lstm(x, (h, c))[0])
    assert torch.equal(output.b, lstm(x, (c, h))[0])


def test_the_meta_device():
    for kind in (tg.LSTM, tg.RNN):
        layer = kind(3, 4, device="meta")
        assert layer(torch.empty(5, 2, 3, device="meta"))[0].shape == (5, 2, 4)
        with torch.no_grad():
            assert layer.step(torch.empty(2, 3, device="meta"))[0].device.type == "meta"


def test_views_that_are_read_with_another_sign():
    lstm = tg.LSTM(1, 4)
    x = torch.randn(5, 1, dtype=torch.complex64).conj().imag
    for zoneout in ((0.0, 0.0), (0.1, 0.1)):
        lstm.zoneout = zoneout
        assert torch.equal(lstm.eval()(x)[0], lstm(x.resolve_neg().clone())[0])
    one = tg.LSTM(2, 1)
    x, grad = torch.randn(5, 1, 2), torch.randn(5, 1, 1, dtype=torch.complex64).conj().imag
    found = [torch.autograd.grad(one(x)[0], one.weight_hh_l0, g) for g in (grad, grad.resolve_neg().clone())]
    torch.testing.assert_close(*found)


def test_saved_tensors_that_come_back_with_other_strides():
    lstm, x = tg.LSTM(3, 40).double(), torch.randn(9, 4, 3).double()
    [expected] = torch.autograd.grad(lstm(x)[0].sum(), lstm.weight_hh_l0)

    def turned(t):
        return t.detach().mT.contiguous() if t.dim() > 1 else t

    with torch.autograd.graph.saved_tensors_hooks(turned, lambda t: t.mT if t.dim() > 1 else t):
        output, _ = lstm(x)
    [found] = torch.autograd.grad(output.sum(), lstm.weight_hh_l0)
    assert torch.equal(found, expected)


def test_a_patched_forward_is_what_steps_run():
    lstm, x = tg.LSTM(3, 4).eval(), torch.ones(2, 3)
    with torch.no_grad():
        before, _ = lstm.step(x)
        own = lstm.forward
        lstm.forward = lambda *given, **named: (own(*given, **named)[0] * 100, None)
        assert torch.equal(lstm.step(x)[0], before * 100)
