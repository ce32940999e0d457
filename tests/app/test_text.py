"""Text models: bits by hand, streams read side by side, what is read and what is refused."""

from __future__ import annotations

import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from task_cases import codes, verses

import tidegate as tg
from tidegate.data.plain import characters, read_text
from tidegate.errors import ConfigError, DataError
from tidegate.tasks.run import digest, source_of
from tidegate.tasks.text_config import TextConfig
from tidegate.tasks.text_job import TextJob, byte_bits
from tidegate.tasks.text_network import TextNet
from tidegate.tasks.text_report import evaluate, sentences
from tidegate.training.checkpoint import load_tensors
from tidegate.training.loop import train

SMALL = {"hidden_size": 8, "embedding_size": 4, "window": 20, "batch_size": 8, "epochs": 2, "cpu": True}
TEXT = verses(300)


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
    np.testing.assert_allclose(byte_bits(net, codes(data), parallel=1), wanted, rtol=1e-5)
    after = byte_bits(net, codes(data[300:]), codes(data[:300]), parallel=1)
    with torch.no_grad():
        scores, _ = net(torch.tensor(list(data))[:, None])
    nats = torch.nn.functional.cross_entropy(scores[299:-1, 0], torch.tensor(list(data[300:])), reduction="none")
    np.testing.assert_allclose(after, nats.numpy() / math.log(2), rtol=1e-5)


def test_scored_side_by_side_as_in_one_go():
    """With as much to read before each part as there is, the same; with little, nearly."""
    net = TextNet(6, 1, 4).eval()
    data = codes(TEXT[:4000])
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
    last = codes(TEXT)[round(len(TEXT) * 0.95) :]
    bits = byte_bits(fitted.model_, last, codes(TEXT)[: -len(last)][-1024:]).sum()
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


# --- streams ---------------------------------------------------------------------------------------------------


def test_windows_in_order_carry_their_memory(monkeypatch):
    """The loss of a window is that of reading its stream from the beginning."""
    monkeypatch.setattr("tidegate.tasks.text_job.RESTART", 0.0)
    config = TextConfig.make(**SMALL)
    net = TextNet(6, 1, 4)
    job = TextJob(net, codes(TEXT[:3000]), codes(TEXT[3000:3200]), config)
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
    job = TextJob(net, codes(TEXT[:3000]), codes(TEXT[3000:3200]), TextConfig.make(**SMALL))
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
        return TextJob(net, codes(TEXT[:3000]), codes(TEXT[3000:3200]), config)

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


def test_a_text_that_has_changed_is_not_scored(tmp_path, capfd):
    (tmp_path / "a.txt").write_bytes(TEXT)
    tg.TextModel(**SMALL).fit(tmp_path / "a.txt", folder=tmp_path / "run")
    (tmp_path / "a.txt").write_bytes(TEXT + b"and more\n")
    grown = tg.TextModel.load(tmp_path / "run").evaluate()
    assert grown["test"]["bytes"] == len(TEXT) - round(len(TEXT) * 0.95) + 9
    (tmp_path / "a.txt").write_bytes(b"x" + TEXT)
    with pytest.raises(DataError, match="has changed since the model was trained on it"):
        tg.TextModel.load(tmp_path / "run").evaluate()
    other = tg.TextModel.load(tmp_path / "run")
    assert list(other.evaluate(TEXT[:2000], progress=True)["models"]) == ["LSTM"]  # as where its own text is gone
    assert "without n-grams and xz: " in capfd.readouterr().err
    with pytest.raises(DataError, match="--compare rnn: .*a.txt has changed since the model was trained on it"):
        other.evaluate(TEXT[:2000], compare=["rnn"])


def test_runs_in_the_folder_that_is_read_are_left_out(tmp_path):
    """``tidegate train text .`` writes to runs/ in that very folder; the next run reads the same as the first."""
    (tmp_path / "a.txt").write_bytes(TEXT)
    (tmp_path / "config.toml").write_text("[mine]\n")
    (tmp_path / "data.json").write_text("{}")
    folder = tmp_path / "runs" / "1"
    first = tg.TextModel(**SMALL).fit(tmp_path, folder=folder)
    (folder / "notes.txt").write_text("more")
    assert read_text(tmp_path).files == ["a.txt", "config.toml", "data.json"]
    assert tg.TextModel.load(folder).evaluate() == first.evaluate()
    assert source_of(folder).sha256 == digest(tmp_path)
    (tmp_path / "runs" / "data.json").write_text("{}")  # with no config.toml beside it, any folder
    assert read_text(tmp_path).files[-1] == "runs/data.json"


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


def test_a_text_of_a_few_bytes_tells_no_models_apart(fitted, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"tide and")
    metrics = fitted.evaluate(tmp_path / "a.txt")
    said = sentences(metrics, "LSTM")
    assert said
    assert all(sentence.endswith("on 8 bytes, too few to tell them apart.") for sentence in said)
