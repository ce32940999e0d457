"""What a text model writes: seeds, choices, whole characters, the command, closed pipes, Ctrl-C."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import needs_native
from task_cases import verses

from tidegate.errors import ConfigError
from tidegate.tasks.text_generate import choices, sample_bytes
from tidegate.tasks.text_network import TextNet


def test_choices():
    scores = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    np.testing.assert_allclose(choices(scores, 1.0, 1.0), [0.5, 0.3, 0.15, 0.05])
    np.testing.assert_allclose(choices(scores, 0.5, 1.0), np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365)
    np.testing.assert_allclose(choices(scores, 1.0, 0.6), [0.625, 0.375, 0, 0])
    np.testing.assert_allclose(choices(scores, 1.0, 0.4), [1, 0, 0, 0])
    np.testing.assert_allclose(choices(scores, 0.0, 1.0), [1, 0, 0, 0])


def test_the_same_seed_writes_the_same(fitted):
    def written(**options) -> str:
        return "".join(fitted.generate("tide", 200, **options))

    assert written(seed=1) == written(seed=1)
    assert written(seed=1) != written(seed=2)
    assert len(written()) == 200
    assert written(temperature=0, seed=1) == written(temperature=0, seed=2)
    assert len(set(written(temperature=0.5))) < len(set(written(temperature=2.0)))
    assert "".join(fitted.generate("tide", 0)) == ""
    assert "".join(fitted.generate(b"tide", np.int64(200))) == written()
    assert len(written(seed=10**20)) == 200


def test_each_byte_is_drawn_given_all_before_it():
    """The most probable byte each time, by reading the whole text anew each time."""
    net = TextNet(12, 1, 6).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)
    text = list(b"tide")
    stream = sample_bytes(net, b"tide", 0.0, 1.0, 0)
    for _ in range(30):
        with torch.no_grad():
            scores, _ = net(torch.tensor(text)[:, None])
        text.append(int(scores[-1, 0].argmax()))
        assert next(stream) == text[-1]
    assert len(set(text[4:])) > 3


def test_what_is_drawn_follows_the_probabilities(fitted):
    """The first byte, over many seeds, against the model's own distribution."""
    with torch.no_grad():
        scores, _ = fitted.model_(torch.tensor([[10]]))
    p = choices(scores[0, 0].double().numpy(), 1.0, 0.9)
    drawn = np.zeros(256)
    for seed in range(600):
        drawn[next(sample_bytes(fitted.model_, b"", 1.0, 0.9, seed))] += 1
    assert not drawn[p == 0].any()
    assert np.abs(drawn / 600 - p).max() < 0.08


def test_characters_are_held_back_until_they_are_whole(fitted, monkeypatch):
    data = "aé€😀".encode() + b"\xff" + b"b\xc3"
    monkeypatch.setattr("tidegate.tasks.text_generate.sample_bytes", lambda *args: iter(data + b"zz"))
    assert list(fitted.generate(length=7)) == ["a", "é", "€", "😀", "\ufffd", "b", "\ufffd"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": None}, "prompt is a str, or bytes; given None of type NoneType"),
        ({"prompt": 5}, "prompt is a str, or bytes; given 5 of type int"),
        ({"prompt": "\ud800"}, "prompt is text that UTF-8 can write"),
        ({"length": -1}, "length is a number of characters"),
        ({"length": 2.5}, "length is a whole number; given 2.5 of type float"),
        ({"length": None}, "length is a whole number; given None"),
        ({"temperature": "x"}, "temperature is a number; given 'x' of type str"),
        ({"top_p": None}, "top_p is a number; given None"),
        ({"seed": 1.0}, "seed is a whole number; given 1.0"),
        ({"seed": True}, "seed is a whole number; given True"),
        ({"temperature": -0.1}, "temperature is a number from 0"),
        ({"temperature": math.nan}, "temperature is a number from 0"),
        ({"top_p": 0}, "top_p is a share of the probability"),
        ({"top_p": 1.1}, "top_p is a share of the probability"),
        ({"seed": -1}, "seed is a whole number"),
    ],
)
def test_what_cannot_be_sampled_by(fitted, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        fitted.generate(**options)


def test_generate_command(fitted, run, command):
    folder = fitted.folder_
    shown = run("generate", folder, "--prompt", "tide é", "--length", "30", "--seed", "3")
    assert shown.code == 0, shown
    assert shown.out == "tide é" + "".join(fitted.generate("tide é", 30, seed=3)) + "\n"
    assert run("generate", folder, "--top-p", "0").err.startswith("error: top_p is a share")
    assert "--lenght" in run("generate", folder, "--lenght", "3").err


@needs_native  # without them a line says so
def test_a_closed_pipe_is_quiet(fitted):
    import subprocess
    import sys

    words = [sys.executable, "-m", "tidegate", "generate", str(fitted.folder_), "--length", "1000000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(30) != 0
    assert said == b""


@needs_native  # without them a line says so
def test_ctrl_c_while_it_writes(fitted):
    import signal
    import subprocess
    import sys

    words = [sys.executable, "-m", "tidegate", "generate", str(fitted.folder_), "--length", "100000000"]
    # Tests that run in the background of a shell ignore the signal, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stdout is not None
        process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        try:
            said = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert said == b""


def test_the_rnn_writes_too(run, tmp_path):
    (tmp_path / "t.txt").write_bytes(verses())
    small = ["--epochs", "1", "--hidden-size", "8", "--embedding-size", "8", "--num-layers", "1"]
    result = run("train", "text", tmp_path / "t.txt", "--cell", "rnn", *small, "--out", tmp_path / "run")
    assert result.code == 0, result
    assert (tmp_path / "run" / "README.md").is_file()
    result = run("generate", tmp_path / "run", "--length", "20")
    assert result.code == 0, result
    assert len(result.out) >= 20
