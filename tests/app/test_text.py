"""Text models: bits by hand, n-grams that sum to one, streams read side by side, what is written, what is refused."""

from __future__ import annotations

import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import needs_native
from task_cases import verses

import tidegate as tg
from tidegate.data.plain import characters, read_text
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.text_config import TextConfig
from tidegate.tasks.text_generate import choices, sample_bytes
from tidegate.tasks.text_job import TextJob, byte_bits
from tidegate.tasks.text_network import TextNet
from tidegate.tasks.text_ngrams import KneserNey, _discounted
from tidegate.tasks.text_report import conditioned_xz, evaluate
from tidegate.training.checkpoint import load_tensors
from tidegate.training.loop import train

SMALL = {"hidden_size": 8, "embedding_size": 4, "window": 20, "batch_size": 8, "epochs": 2, "cpu": True}
TEXT = verses(300)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tg.TextModel:
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_bytes(TEXT)
    return tg.TextModel(**SMALL).fit(folder / "a.txt", folder=folder / "run")


# --- the network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hidden", "embedding"), [(6, 6), (6, 4)])
def test_one_matrix_at_both_ends(hidden, embedding):
    """Scores are W P h + b with the embedding's own W, and its gradient comes from both ends."""
    net = TextNet(hidden, 1, embedding).double()
    read = torch.tensor([[1], [2]])
    scores, _ = net(read)
    weight = net.embedding.weight
    output, _ = net.recurrent(weight[read] * embedding**0.5)
    project = torch.eye(6).double() if hidden == embedding else net.head.project.weight
    torch.testing.assert_close(scores, output @ project.T @ weight.T + net.head.bias)
    torch.testing.assert_close(net.head.matrix(weight), weight @ project)
    assert sum(p.shape == (256, embedding) for p in net.parameters()) == 1
    scores[0, 0, 77].backward()
    assert weight.grad[1].abs().sum() > 0  # read
    assert weight.grad[77].abs().sum() > 0  # scored
    assert weight.grad[2].abs().sum() == 0  # read later, not scored


def test_step_by_step_is_the_whole():
    net = TextNet(6, 2, 4).eval()
    read = torch.randint(256, (9, 3))
    whole, _ = net(read)
    state, parts = None, []
    with torch.no_grad():
        for byte in read:
            scores, state = net.step(byte, state)
            parts.append(scores)
    torch.testing.assert_close(torch.stack(parts), whole)


# --- bits ------------------------------------------------------------------------------------------------------


def by_hand(net: TextNet, data: bytes) -> np.ndarray:
    """-log2 of the probability of each byte, one after the other, after a line break."""
    found, state = [], None
    with torch.no_grad():
        for before, byte in zip(b"\n" + data, data, strict=False):
            scores, state = net.step(torch.tensor([before]), state)
            p = np.exp(scores[0].double().numpy())
            found.append(-math.log2(p[byte] / p.sum()))
    return np.array(found)


def test_bits_by_hand():
    net = TextNet(6, 1, 4).eval()
    data = TEXT[:700]
    wanted = by_hand(net, data)
    np.testing.assert_allclose(byte_bits(net, array(data), parallel=1), wanted, rtol=1e-5)
    after = byte_bits(net, array(data[300:]), array(data[:300]), parallel=1)
    with torch.no_grad():
        scores, _ = net(torch.tensor(list(data))[:, None])
    nats = torch.nn.functional.cross_entropy(scores[299:-1, 0], torch.tensor(list(data[300:])), reduction="none")
    np.testing.assert_allclose(after, nats.numpy() / math.log(2), rtol=1e-5)


def test_scored_side_by_side_as_in_one_go():
    """With as much to read before each part as there is, the same; with little, nearly."""
    net = TextNet(6, 1, 4).eval()
    data = array(TEXT[:4000])
    whole = byte_bits(net, data, parallel=1)
    np.testing.assert_allclose(byte_bits(net, data, parallel=7, warm=250), whole, atol=1e-4)
    short = byte_bits(net, data, parallel=999, warm=2)
    assert np.abs(short - whole).max() > 1e-4
    assert abs(short.mean() - whole.mean()) < 0.1


def test_a_line_a_row(fitted, tmp_path):
    data = "one\ntwo é\n\nthree".encode()
    frame = fitted.predict(data)
    assert frame["text"].to_list() == ["one", "two é", "", "three"]
    assert frame["line"].to_list() == [1, 2, 3, 4]
    assert frame["bytes"].to_list() == [4, 7, 1, 5]
    bits = by_hand(fitted.model_, data)
    np.testing.assert_allclose(frame["bits"], [bits[:4].sum(), bits[4:11].sum(), bits[11], bits[12:].sum()], rtol=1e-5)
    np.testing.assert_allclose(frame["perplexity"], 2 ** (frame["bits"] / frame["bytes"]).to_numpy())
    for name, part in (("b", b"two\nlines"), ("a", b"one"), (".hidden", b"no")):
        (tmp_path / name).write_bytes(part)
    frame = fitted.predict(tmp_path)
    assert frame.select("file", "line", "text").rows() == [("a", 1, "one"), ("b", 1, "two"), ("b", 2, "lines")]


def test_scores(fitted):
    """Bits per byte and per character, perplexity, and the part that they are of."""
    found = fitted.evaluate()
    last = array(TEXT)[round(len(TEXT) * 0.95) :]
    bits = byte_bits(fitted.model_, last, array(TEXT)[: -len(last)][-1024:]).sum()
    own = found["models"]["LSTM"]
    assert found["test"] == {"bytes": len(last), "characters": characters(last)}
    assert characters(last) < len(last)
    assert own["bits_per_byte"] == pytest.approx(bits / len(last))
    assert own["bits_per_character"] == pytest.approx(bits / characters(last))
    assert own["perplexity"] == pytest.approx(2 ** (bits / len(last)))
    best = min(found["ngrams"], key=found["ngrams"].get)
    assert f"Kneser-Ney, {best}-grams" in found["models"]
    packed = [len(lzma.compress(part, preset=9 | lzma.PRESET_EXTREME)) for part in (TEXT, TEXT[: -len(last)])]
    xz = found["models"]["xz, given the training text"]["bits_per_byte"]
    assert xz == pytest.approx(8 * (packed[0] - packed[1]) / len(last))
    ahead = found["ahead"][f"Kneser-Ney, {best}-grams"]
    theirs = found["models"][f"Kneser-Ney, {best}-grams"]["bits_per_byte"]
    assert ahead["bits_per_byte"] == pytest.approx(theirs - own["bits_per_byte"])
    assert ahead["low"] < ahead["bits_per_byte"] < ahead["high"]


def test_another_text_is_scored_from_its_beginning(fitted):
    other = verses(40, seed=5)
    assert fitted.evaluate(other)["models"]["LSTM"]["bits_per_byte"] == pytest.approx(
        by_hand(fitted.model_, other).mean(), rel=1e-5
    )


# --- n-grams ---------------------------------------------------------------------------------------------------


def test_ngrams_sum_to_one():
    """After contexts seen and unseen, short and long, at every order."""
    known = KneserNey(array(TEXT[:3000]), 6)
    contexts = [b"", b"t", b"tide ", b"zzzzzz", TEXT[:9], TEXT[2990:3000], b"gate\x00mo", "é".encode()]
    for context in contexts:
        for order in range(1, 7):
            p = known.distribution(array(context), order)
            assert p.min() > 0
            assert p.sum() == pytest.approx(1, abs=1e-12), (context, order)


def test_bigrams_by_hand():
    """The text a b a c, where every discount is the fallback's: 0.5, 1, 1.5."""
    known = KneserNey(array(b"abac"), 2)
    # Three kinds of pairs, ab, ba and ac: each letter has one before it, though a stands twice.
    single = (1 - 0.5) / 3 + (3 * 0.5) / 3 / 256
    after_a = {"a": 0.5 * single, "b": (1 - 0.5) / 2 + (0.5 + 0.5) / 2 * single, "c": 0.25 + 0.5 * single}
    after_b = {"a": (1 - 0.5) / 1 + 0.5 * single, "b": 0.5 * single}
    for context, wanted in ((b"a", after_a), (b"b", after_b), (b"xb", after_b)):
        p = known.distribution(array(context), 2)
        for letter, value in wanted.items():
            assert p[ord(letter)] == pytest.approx(value, rel=1e-12)


def test_discounts_from_counts_of_counts():
    """Chen & Goodman 1999, equation 26: 8, 4, 2 and 1 grams seen once to four times; Y = 8 / 16."""
    count = np.repeat([1, 2, 3, 4], [8, 4, 2, 1])
    found = _discounted(count, np.zeros(15, np.int64), 1)
    np.testing.assert_allclose(found.discount, [0, 1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 * 1 / 2])
    assert found.total[0] == count.sum()
    assert found.left[0] == pytest.approx(8 * 0.5 + 4 * 1.25 + 3 * 2.0)


def test_a_longer_context_pays():
    """Bytes that only the one three before tells."""
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 101, 3000).astype(np.uint8)
    letters[3::4] = letters[0::4]
    known = KneserNey(letters[:2800], 6)
    bits = {n: one.mean() for n, one in known.bits(letters[2800:], letters[:2800]).items()}
    assert bits[4] < bits[3] - 0.1
    assert conditioned_xz(letters[:2800], letters[2800:]) > 0


# --- streams ---------------------------------------------------------------------------------------------------


def test_windows_in_order_carry_their_memory(monkeypatch):
    """The loss of a window is that of reading its stream from the beginning."""
    monkeypatch.setattr("tidegate.tasks.text_job.RESTART", 0.0)
    config = TextConfig.make(**SMALL)
    net = TextNet(6, 1, 4)
    job = TextJob(net, array(TEXT[:3000]), array(TEXT[3000:3200]), config)
    batches = job.epoch(torch.Generator().manual_seed(1))
    text = torch.tensor(list(TEXT))
    for k, starts in enumerate(batches[:4]):
        assert starts.tolist() == [int(first) + 20 * k for first in batches[0]]
        loss, weight = job.loss(net, starts, torch.device("cpu"))
        assert weight == 20 * 8
        wanted = []
        for first, start in zip(batches[0].tolist(), starts.tolist(), strict=True):
            scores, _ = net(text[first : start + 20][:, None])
            wanted.append(torch.nn.functional.cross_entropy(scores[-20:, 0], text[start + 1 : start + 21]))
        torch.testing.assert_close(loss, torch.stack(wanted).mean())
    first = torch.cat([one[None] for one in batches])
    assert len(set(first.flatten().tolist())) == first.numel()  # no byte twice
    assert first.max() + 20 < 3000
    other = job.epoch(torch.Generator().manual_seed(2))
    assert len(other) == len(batches)
    assert other[0].tolist() != batches[0].tolist()


def test_an_epoch_begins_with_an_empty_memory():
    net = TextNet(6, 1, 4)
    job = TextJob(net, array(TEXT[:3000]), array(TEXT[3000:3200]), TextConfig.make(**SMALL))
    batches = job.epoch(torch.Generator().manual_seed(1))
    first = job.loss(net, batches[0], torch.device("cpu"))[0]
    for starts in batches[1:]:
        job.loss(net, starts, torch.device("cpu"))
    torch.testing.assert_close(job.loss(net, batches[0], torch.device("cpu"))[0], first, rtol=0, atol=0)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_the_carried_memory_is_in_the_checkpoint(tmp_path, cell):
    """Stopped in mid-epoch as by kill -9; without the memory the weights would be other ones."""
    config = TextConfig.make(**SMALL, cell=cell, checkpoint_seconds=0, output_dropout=0.1)

    def job() -> TextJob:
        torch.manual_seed(0)
        net = TextNet(8, 1, 4, output_dropout=0.1, cell=cell)
        return TextJob(net, array(TEXT[:3000]), array(TEXT[3000:3200]), config)

    whole = job()
    train(whole, config, tmp_path / "whole" if (tmp_path / "whole").mkdir() else tmp_path, progress=False)
    cut, calls = job(), 0
    plain = cut.loss

    def loss(*args):
        nonlocal calls
        if (calls := calls + 1) == 8:
            raise Stopped
        return plain(*args)

    cut.loss = loss  # type: ignore[method-assign]
    (tmp_path / "run").mkdir()
    with pytest.raises(Stopped):
        train(cut, config, tmp_path / "run", progress=False)
    tensors, facts = load_tensors(tmp_path / "run" / "checkpoint.safetensors")
    assert facts["place"]["batch"] == 7
    assert {"carried.h", "carried.reached"} <= tensors.keys()
    again = job()
    train(again, config, tmp_path / "run", resume=True, progress=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


# --- writing ---------------------------------------------------------------------------------------------------


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


# --- what is read ----------------------------------------------------------------------------------------------


def test_files_are_joined_in_the_order_of_their_paths(tmp_path):
    import bz2
    import gzip

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt.xz").write_bytes(lzma.compress(b"second"))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"first"))
    (tmp_path / "c.bz2").write_bytes(bz2.compress(b"third"))
    (tmp_path / "empty").write_bytes(b"")
    text = read_text(tmp_path)
    assert text.data.tobytes() == b"firstsecondthird"
    assert (text.files, text.starts.tolist()) == (["a.gz", "b/1.txt.xz", "c.bz2"], [0, 5, 11])


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero").write_bytes(b"")
    (tmp_path / "broken.xz").write_bytes(b"this is not packed")
    for source, sentence in (
        (tmp_path / "nothing", "no such file: "),
        (tmp_path / "empty", "holds no file to read"),
        (tmp_path / "zero", "is empty: it has zero bytes"),
        (tmp_path / "broken.xz", "cannot be unpacked"),
        (b"", "the text is empty: it has zero bytes"),
        (7, "a text is the path of a file or of a folder, or bytes; given int"),
    ):
        with pytest.raises(DataError, match=sentence):
            tg.TextModel(**SMALL).fit(source)


@pytest.mark.parametrize("text", ["hello world " * 100, "hello\nworld", "hello\0", "x" * 230, Path("a\nb")], ids=repr)
def test_a_text_in_place_of_its_path(fitted, text, tmp_path):
    use = (tg.TextModel(**SMALL).fit, fitted.predict, fitted.byte_bits, fitted.evaluate)
    for call in (*use, lambda data: fitted.report(tmp_path, data)):
        with pytest.raises(DataError, match=r"given a \w+ of [\d,]+ characters that names no file.*text.encode\(\)"):
            call(text)


def test_a_path_with_a_line_break_is_read(tmp_path):
    (tmp_path / "a\nb.txt").write_bytes(TEXT)
    assert tg.TextModel(**SMALL | {"epochs": 1}).fit(str(tmp_path / "a\nb.txt")).text_.data.tobytes() == TEXT


def test_binary_is_fine():
    data = np.random.default_rng(0).integers(256, size=2000).astype(np.uint8).tobytes()
    model = tg.TextModel(**SMALL).fit(data)
    assert model.evaluate()["models"]["LSTM"]["bits_per_byte"] > 7
    assert model.predict(data)["bytes"].sum() == 2000


def test_a_text_that_has_changed_is_not_scored(fitted, tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT)
    tg.TextModel(**SMALL).fit(tmp_path / "a.txt", folder=tmp_path / "run")
    (tmp_path / "a.txt").write_bytes(TEXT + b"and more\n")
    grown = tg.TextModel.load(tmp_path / "run").evaluate()
    assert grown["test"]["bytes"] == len(TEXT) - round(len(TEXT) * 0.95) + 9
    (tmp_path / "a.txt").write_bytes(b"x" + TEXT)
    with pytest.raises(DataError, match="has changed since the model was trained on it"):
        tg.TextModel.load(tmp_path / "run").evaluate()


def test_nothing_kept_untouched(tmp_path):
    model = tg.TextModel(**SMALL, test=0, validation=0).fit(TEXT, folder=tmp_path / "run")
    assert len(model.training_.history) == 2
    assert "there is no score" in model.report(tmp_path / "run").sentences[0]
    with pytest.raises(DataError, match="none was kept untouched"):
        model.evaluate()


def test_the_rnn_beside_it(fitted):
    found = evaluate(fitted, *fitted.untouched(), compare=["rnn"])
    assert {"LSTM", "RNN"} <= found["models"].keys()
    assert Path(fitted.folder_ / "compare-rnn" / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="--compare knows 'rnn', 'lstm'; given 'gru'"):
        fitted.evaluate(compare=["gru"])
    with pytest.raises(ConfigError, match="weight_dropout is an option of the LSTM"):
        tg.TextModel(cell="rnn", weight_dropout=0.1)


def test_full_precision_after_mixed(tmp_path):
    """What a model trained in bfloat16 says in memory is what it says when it is loaded."""
    model = tg.TextModel(**SMALL, precision="bf16").fit(TEXT, folder=tmp_path / "run")
    again = tg.TextModel.load(tmp_path / "run")
    assert model.predict(TEXT[:300]).equals(again.predict(TEXT[:300]))
    scores, _ = model.model_(torch.tensor([[1]]))
    assert torch.equal(scores, again.model_(torch.tensor([[1]]))[0])
