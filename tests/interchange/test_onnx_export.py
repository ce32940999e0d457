"""A layer as ONNX: onnxruntime gives what the layer gives, for every shape, length and option that is written."""

from __future__ import annotations

import itertools
import sys
from functools import partial

import numpy as np
import onnx
import onnx_models as om
import pytest
import torch
from torch.nn.utils import prune

import tidegate as tg
from tidegate.errors import InterchangeError, MissingExtra, TidegateError
from tidegate.interchange import Reversed, export_onnx, from_torch, load_onnx, onnx_export, onnx_graph, to_torch

OPTIONS = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "bidirectional": {"num_layers": 3, "bidirectional": True},
    "sum": {"num_layers": 2, "bidirectional": True, "merge": "sum"},
    "mean": {"bidirectional": True, "merge": "mean"},
    "product": {"bidirectional": True, "merge": "product", "batch_first": True},
    "apart": {"num_layers": 2, "bidirectional": True, "merge": None, "batch_first": True},
    "apart, one direction": {"merge": None},
    "no bias": {"num_layers": 2, "bias": False},
    "peephole": {"num_layers": 2, "bidirectional": True, "peephole": True},
    "training only": {"num_layers": 2, "dropout": 0.5, "recurrent_dropout": 0.5, "weight_dropout": 0.5},
}


def feeds_of(lstm: tg.LSTM, steps: int, rows: int, lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps, rows, lstm.input_size))
    for row, length in enumerate(lengths):
        x[length:, row] = np.nan  # what lies past a row's end is nobody's business
    if lstm.batch_first:
        x = x.swapaxes(0, 1)
    size = (lstm.num_layers * lstm.directions, rows, lstm.hidden_size)
    feeds = {"input": x, "h_0": rng.normal(size=size), "c_0": rng.normal(size=size)}
    return {k: v.astype(np.float32) for k, v in feeds.items()} | {"sequence_lens": np.array(lengths, np.int32)}


def assert_equal_to(path, module: torch.nn.Module, feeds: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    found = om.run(path.read_bytes(), feeds)
    values = {k: torch.from_numpy(v) for k, v in feeds.items()}
    hx = (values["h_0"], values["c_0"]) if "h_0" in values else None
    with torch.no_grad():
        output, state = module(values["input"], hx, lengths=values.get("sequence_lens"))
    for name, a, e in zip(("output", "h_n", "c_n"), found, (output, *state), strict=True):
        np.testing.assert_allclose(a, e.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TIMES", (1, 7))
    lstm = tg.LSTM(3, 5, **OPTIONS[name])
    done = export_onnx(lstm, tmp_path / "m.onnx")
    assert (done.path, done.opset, done.checks) == (tmp_path / "m.onnx", 22, 6)
    assert done.error < 1e-5
    assert lstm.training
    nodes = onnx.load(done.path).graph.node
    assert sum(node.op_type == "LSTM" for node in nodes) == lstm.num_layers
    lstm.eval()
    assert_equal_to(done.path, lstm, feeds_of(lstm, 8, 4, [8, 0, 3, 1]))


def test_batches_and_times(tmp_path):
    lstm = tg.LSTM(3, 5, 2, bidirectional=True).eval()
    done = export_onnx(lstm, tmp_path / "m.onnx")
    assert done.checks == 9
    rng = np.random.default_rng(5)
    for steps, rows in itertools.product((1, 7, 500), (1, 3, 64)):
        lengths = [steps, *rng.integers(0, steps + 1, rows - 1).tolist()]
        assert_equal_to(done.path, lstm, feeds_of(lstm, steps, rows, lengths, seed=steps))


def test_names_and_free_axes(tmp_path):
    export_onnx(tg.LSTM(3, 5, 2, bidirectional=True, batch_first=True, merge="sum"), tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph

    def shapes(values) -> dict:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    state = [4, "batch", 5]
    assert shapes(graph.input) == {
        "input": ["batch", "time", 3], "sequence_lens": ["batch"], "h_0": state, "c_0": state,
    }  # fmt: skip
    assert shapes(graph.output) == {"output": ["batch", "time", 5], "h_n": state, "c_n": state}


@pytest.mark.parametrize("inputs", [(), ("state",), ("sequence_lens",)])
def test_fewer_inputs(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TIMES", (1, 7))
    lstm = tg.LSTM(3, 5, 2, bidirectional=True).eval()
    export_onnx(lstm, tmp_path / "m.onnx", inputs=inputs)
    feeds = feeds_of(lstm, 6, 2, [6, 6])
    names = {"input", *({"h_0", "c_0"} if "state" in inputs else set()), *({"sequence_lens"} & set(inputs))}
    feeds = {k: v for k, v in feeds.items() if k in names}
    assert {i.name for i in onnx.load(tmp_path / "m.onnx").graph.input} == names
    assert_equal_to(tmp_path / "m.onnx", lstm, feeds)


@pytest.mark.parametrize("batch_first", [False, True])
def test_reversed_out_and_in(batch_first, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TIMES", (1, 7))
    module = Reversed(tg.LSTM(3, 5, 2, batch_first=batch_first)).eval()
    export_onnx(module, tmp_path / "m.onnx")
    assert_equal_to(tmp_path / "m.onnx", module, feeds_of(module.lstm, 6, 3, [6, 0, 2]))
    [found] = load_onnx(tmp_path / "m.onnx")
    assert isinstance(found.lstm, Reversed)
    for name, value in module.lstm.state_dict().items():
        assert torch.equal(found.lstm.lstm.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["bidirectional", "peephole", "no bias"])
def test_out_and_in_gives_the_same_weights(name, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TIMES", (1,))
    lstm = tg.LSTM(3, 5, **OPTIONS[name])
    export_onnx(lstm, tmp_path / "m.onnx")
    [found] = load_onnx(str(tmp_path / "m.onnx"))
    assert found.lstm.state_dict().keys() == lstm.state_dict().keys()
    for key, value in lstm.state_dict().items():
        assert torch.equal(found.lstm.state_dict()[key], value), key


def test_a_layer_of_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TIMES", (7,))
    lstm = torch.nn.LSTM(3, 5, 2, bidirectional=True, batch_first=True)
    export_onnx(lstm, tmp_path / "m.onnx", inputs=["state"])
    feeds = feeds_of(from_torch(lstm), 6, 2, [6, 6])
    del feeds["sequence_lens"]
    found = om.run((tmp_path / "m.onnx").read_bytes(), feeds)
    x, h, c = (torch.from_numpy(feeds[name]) for name in ("input", "h_0", "c_0"))
    expected, _ = lstm(x, (h, c))
    np.testing.assert_allclose(found[0], expected.detach().numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("hook", [torch.nn.utils.weight_norm, partial(prune.l1_unstructured, amount=0.5)])
@pytest.mark.parametrize("turned", [False, True])
def test_weights_that_hooks_compute(hook, turned, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TIMES", (7,))
    lstm = tg.LSTM(3, 5)
    hook(lstm, "weight_hh_l0")
    lstm(torch.randn(4, 2, 3))[0].sum().backward()
    with torch.no_grad():
        for p in lstm.parameters():
            p.add_(0.1)
    module = Reversed(lstm).eval() if turned else lstm.eval()
    export_onnx(module, tmp_path / "m.onnx")
    assert_equal_to(tmp_path / "m.onnx", module, feeds_of(lstm, 6, 3, [6, 0, 2]))
    assert lstm(torch.randn(4, 2, 3))[0].requires_grad


def test_opsets(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TIMES", (1,))
    lstm = tg.LSTM(3, 4, 2, bidirectional=True, merge="mean")
    assert export_onnx(lstm, tmp_path / "m.onnx", opset=14).opset == 14
    model = onnx.load(tmp_path / "m.onnx")
    assert [o.version for o in model.opset_import] == [14]
    with pytest.raises(InterchangeError, match="opset is from 14 to .*; given 7"):
        export_onnx(lstm, tmp_path / "m.onnx", opset=7)

    original = onnx_graph.session

    def old_runtime(data: bytes):
        if onnx.load_model_from_string(data).opset_import[0].version > 17:
            raise RuntimeError("opset 18 is under development")
        return original(data)

    monkeypatch.setattr(onnx_graph, "session", old_runtime)
    assert export_onnx(lstm, tmp_path / "m.onnx").opset == 17


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED = {
    "layer_norm": ({"layer_norm": True}, "cannot say layer_norm .it has no normalisation inside the step"),
    "zoneout": ({"zoneout": (0.0, 0.1)}, "cannot say zoneout=.0.0, 0.1. .at evaluation"),
    "proj_size": ({"proj_size": 2}, "cannot say proj_size=2"),
    "two reasons": ({"layer_norm": True, "proj_size": 2}, "layer_norm .*; nor proj_size"),
    "float64": ({"dtype": torch.float64}, "in float32 on the CPU; given torch.float64: convert a copy with .float"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_are_refused(name, tmp_path):
    options, message = REFUSED[name]
    with pytest.raises(InterchangeError, match=message):
        export_onnx(tg.LSTM(3, 5, **options), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_resets_and_other_inputs_are_refused(tmp_path):
    with pytest.raises(InterchangeError, match="cannot say reset: its memories run on"):
        export_onnx(tg.LSTM(3, 5), tmp_path / "m.onnx", inputs=["state", "reset"])
    with pytest.raises(InterchangeError, match="'sequence_lens', 'state'; given 'lengths'"):
        export_onnx(tg.LSTM(3, 5), tmp_path / "m.onnx", inputs=["lengths"])
    with pytest.raises(TypeError, match="given also data"):
        export_onnx(tg.LSTM(3, 5), tmp_path / "m.onnx", data="a.csv")
    for model in (tg.RNN(3, 5), torch.nn.Sequential(tg.LSTM(3, 5))):
        with pytest.raises(InterchangeError, match=f"given {type(model).__name__}"):
            export_onnx(model, tmp_path / "m.onnx")


def test_nothing_is_written_where_values_differ(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"as it was")
    swapped = onnx_graph._iofc
    monkeypatch.setattr(onnx_graph, "_iofc", lambda w: swapped(w.roll(1, 0)))
    with pytest.raises(InterchangeError, match="onnxruntime differs from tidegate by .*; nothing was written"):
        export_onnx(tg.LSTM(3, 5), path)
    assert path.read_bytes() == b"as it was"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_chaos_is_judged_by_rounding(tmp_path, monkeypatch):
    """Weights so large that rounding decides: both are right, and 1e-5 apart is too much to ask."""
    monkeypatch.setattr(onnx_export, "BATCHES", (1,))
    lstm = tg.LSTM(3, 64)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.mul_(30)
    done = export_onnx(lstm, tmp_path / "m.onnx")
    assert done.error > 1e-5


def test_files_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TIMES", (1,))
    with pytest.raises(TidegateError, match="does not exist"):
        export_onnx(tg.LSTM(3, 5), tmp_path / "no" / "m.onnx")
    monkeypatch.setattr(onnx_graph, "LARGEST", 100)
    with pytest.raises(InterchangeError, match="at most 100 bytes; this model takes"):
        export_onnx(tg.LSTM(3, 5), tmp_path / "m.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf'{package} is not installed .*pip install "tidegate\[onnx\]"'):
        export_onnx(tg.LSTM(3, 5), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


# --- torch -----------------------------------------------------------------------------------------------------------


def test_torch_in_and_out():
    source = torch.nn.LSTM(3, 6, 2, bidirectional=True, batch_first=True, proj_size=4, dropout=0.2, dtype=torch.float64)
    source.eval()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    ours = from_torch(source)
    assert not ours.training
    assert ours.dropout == 0.2
    torch.testing.assert_close(ours(x)[0], source(x)[0])
    back = to_torch(ours)
    assert torch.equal(back(x)[0], source(x)[0])
    back.weight_ih_l0.data.zero_()
    assert source.weight_ih_l0.abs().sum() > 0  # copies, not views
    assert from_torch(source, merge="sum").merge == "sum"
    for options, message in (
        ({"merge": "sum", "bidirectional": True}, "merge='sum' .expected one of 'concat'"),
        ({"merge": None}, "merge=None of one direction"),
        ({"peephole": True}, "peephole"),
        ({"zoneout": 0.1}, "zoneout"),
    ):
        with pytest.raises(InterchangeError, match=f"torch.nn.LSTM cannot say {message}"):
            to_torch(tg.LSTM(3, 5, **options))
    with pytest.raises(InterchangeError, match="given GRU"):
        from_torch(torch.nn.GRU(3, 5))


def test_torch_in_and_out_of_what_learns_and_what_is_computed():
    assert not any(p.requires_grad for p in to_torch(tg.LSTM(3, 5).requires_grad_(False)).parameters())
    assert from_torch(torch.nn.LSTM(3, 5), peephole=True).weight_ch_l0.shape == (3, 5)
    computed = torch.nn.utils.parametrizations.weight_norm
    with pytest.raises(InterchangeError, match="weights that are computed from others .*weight_hh_l0"):
        to_torch(computed(tg.LSTM(3, 5), "weight_hh_l0"))
    with pytest.raises(InterchangeError, match="weights that are computed from others .*weight_hh_l0"):
        from_torch(computed(torch.nn.LSTM(3, 5), "weight_hh_l0"))
