"""Keras's arrays in and out, against Keras's documented equations in numpy; and files."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from functools import partial

import h5py
import numpy as np
import pytest
import torch
from helpers import assert_close
from torch.nn.utils import prune

import tidegate as tg
from tidegate.errors import InterchangeError, MissingExtra
from tidegate.interchange import Reversed, from_keras, keras_files, to_keras

I, H = 3, 4


def arrays(inputs: int = I, units: int = H, bias: bool = True, seed: int = 0) -> list[np.ndarray]:
    """What ``keras.layers.LSTM(units).get_weights()`` gives."""
    rng = np.random.default_rng(seed)
    shapes = [(inputs, 4 * units), (units, 4 * units), *([(4 * units,)] if bias else [])]
    return [0.5 * rng.normal(size=shape) for shape in shapes]


def keras_lstm(x: np.ndarray, weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keras's step, x (B, T, I): z = x kernel + h recurrent_kernel + bias; i, f, c, o."""
    kernel, recurrent, *bias = weights
    h = c = np.zeros((len(x), len(recurrent)))
    outputs = []
    for t in range(x.shape[1]):
        z = x[:, t] @ kernel + h @ recurrent + (bias[0] if bias else 0)
        z_i, z_f, z_c, z_o = np.split(z, 4, 1)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (z_i, z_f, z_o))
        c = f * c + i * np.tanh(z_c)
        h = o * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, 1), h, c


def keras_bidirectional(x: np.ndarray, weights: list[np.ndarray], mode: str | None) -> np.ndarray:
    """Bidirectional: the backward layer reads from the end, and its output is turned round again."""
    half = len(weights) // 2
    y = keras_lstm(x, weights[:half])[0]
    z = keras_lstm(x[:, ::-1], weights[half:])[0][:, ::-1]
    return {
        "concat": np.concatenate([y, z], 2), "sum": y + z, "ave": (y + z) / 2, "mul": y * z, None: np.stack([y, z], 2),
    }[mode]  # fmt: skip


X = np.random.default_rng(9).normal(size=(2, 6, I))


def check(lstm: tg.LSTM, expected: np.ndarray) -> None:
    assert not lstm.training
    with torch.no_grad():
        assert_close(lstm(torch.from_numpy(X))[0], torch.from_numpy(np.ascontiguousarray(expected)))


# --- in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_one_layer(bias):
    weights = arrays(bias=bias)
    lstm = from_keras(weights)
    expected, h, c = keras_lstm(X, weights)
    check(lstm, expected)
    _, state = lstm(torch.from_numpy(X))
    np.testing.assert_allclose(state.h[0].detach(), h)
    np.testing.assert_allclose(state.c[0].detach(), c)
    assert lstm.bias == bias
    if bias:
        np.testing.assert_array_equal(lstm.bias_ih_l0.detach(), weights[2])
        assert not lstm.bias_hh_l0.any()


@pytest.mark.parametrize("bias", [True, False])
def test_stacked_layers(bias):
    low, high = arrays(bias=bias), arrays(H, bias=bias, seed=1)
    expected = keras_lstm(keras_lstm(X, low)[0], high)[0]
    check(from_keras(low + high), expected)
    check(from_keras([low, high]), expected)


@pytest.mark.parametrize("mode", ["concat", "sum", "ave", "mul", None])
def test_bidirectional_layers(mode):
    low = arrays(seed=1) + arrays(seed=2)
    high = arrays(2 * H, seed=3) + arrays(2 * H, seed=4)
    expected = keras_bidirectional(keras_bidirectional(X, low, "concat"), high, mode)
    configs = [bidirectional_config("concat"), bidirectional_config(mode)]
    check(from_keras([low, high], config=configs), expected)
    merge = {"ave": "mean", "mul": "product"}.get(mode, mode)
    check(from_keras(low + high, bidirectional=True, merge=merge), expected)


def test_options_and_dtype():
    weights = [a.astype(np.float32) for a in arrays()]
    lstm = from_keras(weights, batch_first=False, recurrent_dropout=0.2)
    assert (lstm.batch_first, lstm.recurrent_dropout) == (False, 0.2)
    assert lstm.weight_ih_l0.dtype == torch.float32
    assert from_keras(weights, dtype=torch.float64).weight_ih_l0.dtype == torch.float64


def test_go_backwards_by_hand():
    """As the message of the refusal says; Keras leaves the output in reading order."""
    weights = arrays()
    output, _ = Reversed(from_keras(weights))(torch.from_numpy(X))
    np.testing.assert_allclose(output.detach().flip(1), keras_lstm(X[:, ::-1], weights)[0])


# --- names and files ------------------------------------------------------------------------------------------


def named(prefix: str, weights: list[np.ndarray], form: str = "{}") -> dict[str, np.ndarray]:
    parts = ["kernel", "recurrent_kernel", "bias"] if form == "{}" else ["0", "1", "2"]
    return {f"{prefix}/{p}": a for p, a in zip(parts, weights, strict=False)}


DENSE = {"model/dense/kernel": np.zeros((H, 2)), "model/dense/bias": np.zeros(2)}


def test_names_of_a_model():
    low, high = arrays(), arrays(H, seed=1)
    weights = named("model/lstm/lstm_cell", low) | DENSE | named("model/lstm_1/lstm_cell", high)
    expected = keras_lstm(keras_lstm(X, low)[0], high)[0]
    check(from_keras(weights), expected)
    check(from_keras({k + ":0": v for k, v in weights.items()}), expected)
    check(from_keras(weights, layers="lstm"), keras_lstm(X, low)[0])
    check(from_keras(weights, layers=["lstm", "lstm_1"]), expected)
    with pytest.raises(InterchangeError, match="no LSTM layer 'lstm_2'; there are: lstm, lstm_1"):
        from_keras(weights, layers="lstm_2")
    with pytest.raises(InterchangeError, match="names are those of one direction; given bidirectional=True"):
        from_keras(weights, bidirectional=True)


def test_names_of_both_directions_in_any_order():
    forward, backward = arrays(seed=1), arrays(seed=2)
    weights = named("b/backward_lstm/lstm_cell", backward) | named("b/forward_lstm/lstm_cell", forward)
    check(from_keras(weights), keras_bidirectional(X, forward + backward, "concat"))
    with pytest.raises(InterchangeError, match="each layer has a forward and a backward part"):
        from_keras(named("b/backward_lstm/lstm_cell", backward))


def test_npz(tmp_path):
    weights = arrays()
    np.savez(tmp_path / "a.npz", *weights)
    np.savez(tmp_path / "b.npz", **named("lstm/lstm_cell", weights))
    for name in ("a.npz", "b.npz"):
        check(from_keras(tmp_path / name), keras_lstm(X, weights)[0])


def write_h5(target, groups: dict[str, tuple[str, list[np.ndarray]]], attrs: dict | None = None) -> None:
    """The layout of a .weights.h5 file: path of the layer's group to its own name and its weights."""
    with h5py.File(target, "w") as file:
        file.attrs.update(attrs or {})
        for path, (name, weights) in groups.items():
            for key, array in named(f"{path}/cell/vars", weights, "0").items():
                file[key] = array
            file.create_group(f"{path}/vars").attrs["name"] = name
        file["optimizer/vars/0"], file["optimizer/vars/1"] = arrays()[:2]


def bidirectional_config(mode: str | None = "concat", **inner) -> dict:
    def layer(**config) -> dict:
        return {"class_name": "LSTM", "config": {"activation": "tanh", **config}}

    both = {"layer": layer(**inner), "backward_layer": layer(go_backwards=True)}
    return {"class_name": "Bidirectional", "config": {"name": "both", "merge_mode": mode, **both}}


def test_weights_h5(tmp_path):
    path = tmp_path / "m.weights.h5"
    low, high = arrays(), arrays(H, seed=1)
    write_h5(path, {"layers/lstm": ("first", low)})
    check(from_keras(path), keras_lstm(X, low)[0])
    write_h5(path, {"layers/lstm": ("second", high), "layers/lstm_1": ("first", low)})
    with pytest.raises(InterchangeError, match="several LSTM layers, in no order: second, first; say with layers"):
        from_keras(path)
    check(from_keras(str(path), layers=["first", "second"]), keras_lstm(keras_lstm(X, low)[0], high)[0])


def test_keras_archive(tmp_path):
    path = tmp_path / "m.keras"
    forward, backward = arrays(seed=1), arrays(seed=2)
    data = io.BytesIO()
    layers = {"layers/bidirectional/backward_layer": backward, "layers/bidirectional/forward_layer": forward}
    write_h5(data, {k: (k.rsplit("/", 1)[1], v) for k, v in layers.items()})
    with h5py.File(data, "a") as file:
        file.create_group("layers/bidirectional/vars").attrs["name"] = "both"
    for config, expected in (({}, "sum"), ({"activation": "relu"}, "activation='relu'")):
        with zipfile.ZipFile(path, "w") as archive:
            model = {"class_name": "Sequential", "config": {"layers": [bidirectional_config("sum", **config)]}}
            archive.writestr("config.json", json.dumps(model))
            archive.writestr("model.weights.h5", data.getvalue())
        if not config:
            check(from_keras(path), keras_bidirectional(X, forward + backward, expected))
        else:
            with pytest.raises(InterchangeError, match=expected):
                from_keras(path)


def test_h5_with_a_configuration(tmp_path):
    model = {
        "config": {"layers": [{"class_name": "LSTM", "config": {"name": "first", "recurrent_activation": "relu"}}]}
    }
    write_h5(tmp_path / "m.h5", {"layers/lstm": ("first", arrays())}, {"model_config": json.dumps(model)})
    with pytest.raises(InterchangeError, match="recurrent_activation='relu'"):
        from_keras(tmp_path / "m.h5")


# --- out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_out(bias):
    lstm = tg.LSTM(I, H, 2, bias, batch_first=True, dtype=torch.float64).eval()
    low, high = to_keras(lstm)
    assert low.class_name == "LSTM"
    assert low.config == {"units": H, "use_bias": bias, "return_sequences": True}
    assert low.names == ["kernel", "recurrent_kernel", "bias"][: 3 if bias else 2]
    check(lstm, keras_lstm(keras_lstm(X, low.weights)[0], high.weights)[0])


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "product", None])
def test_out_bidirectional(merge):
    lstm = tg.LSTM(I, H, 2, batch_first=True, bidirectional=True, merge=merge, dtype=torch.float64).eval()
    low, high = to_keras(lstm)
    assert (low.class_name, low.merge_mode) == ("Bidirectional", "concat")
    assert low.names[0] == "forward_lstm/kernel"
    assert low.names[5] == "backward_lstm/bias"
    between = keras_bidirectional(X, low.weights, low.merge_mode)
    check(lstm, keras_bidirectional(between, high.weights, high.merge_mode))
    check(
        from_keras([low.weights, high.weights], bidirectional=True, merge=merge), lstm(torch.from_numpy(X))[0].detach()
    )


@pytest.mark.parametrize("inputs", [1, I])
def test_out_is_a_copy(inputs):
    lstm = tg.LSTM(inputs, H, bias=False)
    for weight in to_keras(lstm)[0].weights:
        weight[:] = 0
    assert lstm.weight_ih_l0.abs().sum() > 0
    assert lstm.weight_hh_l0.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("hook", [torch.nn.utils.weight_norm, partial(prune.l1_unstructured, amount=0.5)])
def test_out_of_weights_that_hooks_compute(hook):
    lstm = tg.LSTM(I, H, batch_first=True, dtype=torch.float64).eval()
    hook(lstm, "weight_hh_l0")
    with torch.no_grad():
        for p in lstm.parameters():
            p.add_(0.1)
    check(lstm, keras_lstm(X, to_keras(lstm)[0].weights)[0])


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [{"zoneout": 0.1}, {"layer_norm": True}, {"peephole": True}, {"proj_size": 2}])
def test_layers_that_keras_cannot_say(option):
    with pytest.raises(InterchangeError, match=f"Keras's LSTM cannot say {next(iter(option))}"):
        to_keras(tg.LSTM(I, H, **option))


def test_dtypes_and_shapes_that_keras_has_not():
    with pytest.raises(InterchangeError, match=r"no bfloat16: convert a copy with \.float\(\)"):
        to_keras(tg.LSTM(I, H, dtype=torch.bfloat16))
    with pytest.raises(InterchangeError, match="Keras's LSTM cannot say merge=None of one direction"):
        to_keras(tg.LSTM(I, H, merge=None))


CONFIGS = {
    "activation='relu'": {"activation": "relu"},
    "recurrent_activation='hard_sigmoid'": {
        "recurrent_activation": {"class_name": "function", "config": "hard_sigmoid"}
    },
    "go_backwards=True: .*tg.interchange.Reversed": {"go_backwards": True},
    "a keras.layers.GRU; an LSTM is expected": {"class_name": "GRU", "config": {}},
    "merge_mode is one of": bidirectional_config("dot"),
    "activation='elu'": bidirectional_config("sum", activation="elu"),
}


@pytest.mark.parametrize("message", CONFIGS)
def test_configurations_that_are_refused(message):
    config = CONFIGS[message]
    weights = arrays() if "layer" not in config.get("config", {}) else arrays() + arrays()
    with pytest.raises(InterchangeError, match=message):
        from_keras(weights, config=config)


def test_rates_are_not_taken_over_in_silence():
    with pytest.warns(UserWarning, match="dropout=0.1, recurrent_dropout=0.2 acts in training only"):
        lstm = from_keras(arrays(), config={"dropout": 0.1, "recurrent_dropout": 0.2})
    assert not lstm.random


def test_directions_summed_below_the_top():
    weights = [arrays() + arrays(), arrays(H) + arrays(H)]
    with pytest.raises(InterchangeError, match="below the top layer.*given merge_mode='sum'"):
        from_keras(weights, config=[bidirectional_config("sum"), bidirectional_config()])


ARRAYS = {
    "an LSTM has kernel .*given .3, 12., .4, 12.": [np.zeros((3, 12)), np.zeros((4, 12))],  # a GRU
    "an LSTM has kernel .*given .3, 16.": [np.zeros((3, 16))],
    "bias has shape .16,., .*given .15,.": [*arrays(bias=False), np.zeros(15)],
    "there are no weights": [],
    "have one size; given 4, 5 units": arrays() + arrays(H, 5),
    "layer 1 reads 4 values.*3 rows .*bidirectional=True": arrays() + arrays(),
    "all have a bias, or none has": arrays() + arrays(H, bias=False),
    "one floating dtype; given float32, float64": [arrays()[0].astype(np.float32), *arrays()[1:]],
    "one floating dtype; given int64": [a.astype(np.int64) for a in arrays()],
}


@pytest.mark.parametrize("message", ARRAYS)
def test_arrays_that_are_refused(message):
    with pytest.raises(InterchangeError, match=message):
        from_keras(ARRAYS[message])


def test_other_things_that_are_refused(tmp_path):
    with pytest.raises(InterchangeError, match="two sets of weights each; given 1"):
        from_keras(arrays(), bidirectional=True)
    with pytest.raises(InterchangeError, match="a list of arrays, a mapping of names to arrays, or a path; given int"):
        from_keras(3)
    with pytest.raises(InterchangeError, match="layers chooses by name"):
        from_keras(arrays(), layers="lstm")
    with pytest.raises(InterchangeError, match="no name here ends in kernel"):
        from_keras(DENSE)


BAD = {
    "text.npz": b"not a zip",
    "text.h5": b"not hdf5",
    "text.keras": b"not a zip",
    "empty.npz": b"",
    "half.npz": b"PKtext",
    "objects.npz": pickle.dumps([1, 2]),
    "array.npz": b"\x93NUMPY\x01\x00",
    "empty.h5": b"",
    "cut.npz": None,
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_files(name, tmp_path):
    path = tmp_path / name
    data = BAD[name]
    if data is None:
        buffer = io.BytesIO()
        np.savez(buffer, *arrays())
        data = buffer.getvalue()[:300]
    path.write_bytes(data)
    with pytest.raises(InterchangeError, match="is damaged or no|cannot read") as raised:
        from_keras(path)
    assert "pickle" not in str(raised.value)


def test_files_of_other_kinds_and_attacks(tmp_path, monkeypatch):
    with pytest.raises(InterchangeError, match="cannot read .*no such file"):
        from_keras(tmp_path / "missing.npz")
    with pytest.raises(InterchangeError, match="come from a .npz, .h5"):
        from_keras(tmp_path / "w.pkl")
    np.savez(tmp_path / "p.npz", a=np.array([{}], object))  # a pickle inside
    with pytest.raises(InterchangeError, match="p.npz holds Python objects, where arrays of numbers are read$"):
        from_keras(tmp_path / "p.npz")
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("kernel", "text")
    with pytest.raises(InterchangeError, match="kernel in it is no array"):
        from_keras(tmp_path / "t.npz")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("lstm/kernel", (3, 16), "f4", external=[(str(tmp_path / "p.npz"), 0, 192)])
    with pytest.raises(InterchangeError, match="lies in another file, which is not read"):
        from_keras(tmp_path / "x.h5")
    layout = h5py.VirtualLayout((3, 16), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3, 16))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("lstm/kernel", layout)
    with pytest.raises(InterchangeError, match="lies in another file, which is not read"):
        from_keras(tmp_path / "v.h5")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_dataset("lstm/kernel", (2**20, 2**20), "f4", chunks=True)  # nothing on the disk
    with pytest.raises(InterchangeError, match="lstm/kernel has more than 4,294,967,296 bytes"):
        from_keras(tmp_path / "y.h5")
    with h5py.File(tmp_path / "many.h5", "w") as file:  # packed, and none of it on the disk
        for k in range(10):
            file.create_dataset(f"lstm_{k}/kernel", (2**11, 2**11), "f4", chunks=True, compression="gzip")
    with pytest.raises(InterchangeError, match="unpack to far more than the file holds"):
        from_keras(tmp_path / "many.h5")
    monkeypatch.setattr(keras_files, "LARGEST", 100)
    np.savez_compressed(tmp_path / "z.npz", np.zeros(1000))
    with pytest.raises(InterchangeError, match="unpacks to more than 100 bytes"):
        from_keras(tmp_path / "z.npz")


def test_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "m.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtra, match=r'pip install "tidegate\[keras\]"; or save the weights with numpy.savez'):
        from_keras(tmp_path / "m.h5")


@pytest.mark.parametrize(
    "config",
    [
        {"class_name": "Bidirectional", "config": {"layer": 5}},
        {"class_name": "Bidirectional", "config": {"layer": {"config": 5, "class_name": "LSTM"}}},
        {"class_name": "Bidirectional", "config": {"layer": {}, "merge_mode": []}},
    ],
)
def test_configurations_that_are_none(config):
    with pytest.raises(InterchangeError, match="configuration"):
        from_keras([np.zeros((3, 16), np.float32), np.zeros((4, 16), np.float32)] * 2, config=config)
