"""``tg.swap`` on public models that contain LSTMs: outputs and training stay equal."""

import copy

import pytest
import torch
from helpers import needs_native

import tidegate as tg


def compare(model, run, replaced, *, steps=3, rate=1e-3):
    """Outputs and some steps of training of a swapped model beside the model as published."""
    ours, theirs = model, copy.deepcopy(model)
    optimisers = [torch.optim.Adam(m.parameters(), lr=rate) for m in (ours, theirs)]  # before the swap
    report = tg.swap(ours)
    assert len(report.replaced) == replaced
    assert report.left == {}
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(run(ours), run(theirs), rtol=1e-4, atol=1e-5)
    ours.train(), theirs.train()
    for step in range(steps):
        losses = []
        for m, optimiser in zip((ours, theirs), optimisers, strict=True):
            torch.manual_seed(step)
            optimiser.zero_grad()
            losses.append(run(m).square().mean())
            losses[-1].backward()
            optimiser.step()
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
    tg.restore(ours)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=rate * 0.1, msg=lambda m, name=name: f"{name}: {m}")


@needs_native
def test_demucs_separates_sources():
    hdemucs = pytest.importorskip("demucs.hdemucs", reason="demucs is not installed")
    torch.manual_seed(0)
    model = hdemucs.HDemucs(["drums", "rest"], channels=8, nfft=1024, depth=5, dconv_lstm=3, dconv_attn=9)
    audio = torch.randn(2, 2, 8000)
    compare(model, lambda m: m(audio), 4)


@needs_native
def test_stanza_names_a_language():
    langid = pytest.importorskip("stanza.models.langid.model", reason="stanza is not installed")
    torch.manual_seed(0)
    letters = {c: i for i, c in enumerate(["<PAD>", "<UNK>", *"abcdefgh"])}
    model = langid.LangIDBiLSTM(letters, {"en": 0, "nl": 1}, 2, 12, 24, dropout=0.3)
    text = torch.randint(2, len(letters), (5, 40))
    compare(model, lambda m: m(text), 1)


@needs_native
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_stable_baselines_learns_a_policy():
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
    gymnasium = pytest.importorskip("gymnasium")
    learned = []
    for swapped in (False, True):
        agent = contrib.RecurrentPPO(
            "MlpLstmPolicy", gymnasium.make("CartPole-v1"), n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu",
            policy_kwargs={"lstm_hidden_size": 16},
        )  # fmt: skip
        if swapped:
            assert tg.swap(agent.policy).replaced == ["lstm_actor", "lstm_critic"]
        agent.learn(64)
        learned.append([p.detach() for p in agent.policy.parameters()])
    for p, q in zip(*learned, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
