"""``tg.swap`` and ``tg.restore``: torch's LSTMs computed by tidegate, in place."""

import copy
import io

import pytest
import torch
from helpers import needs_native
from torch import nn

import tidegate as tg

I, H = 3, 5


class Encoder(nn.Module):
    """A model that touches what models touch."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(I, H, 2, batch_first=True, dropout=0.3, bidirectional=True)
        self.same = self.lstm
        self.small = nn.Sequential(nn.Linear(2 * H, I), nn.LSTM(I, H))
        self.kept = [self.lstm]  # a reference that no module sees

    def forward(self, x):
        self.lstm.flatten_parameters()
        assert isinstance(self.lstm, nn.LSTM)
        assert len(self.lstm.all_weights) == 4
        h = x.new_zeros(4, x.shape[0], H)
        output, (h_n, _) = self.lstm(x, (h, h))
        return self.small(output)[0].sum() + h_n.square().sum() + self.kept[0](x)[0].sum()


def grown(model, x):
    torch.manual_seed(7)
    loss = model(x)
    return loss, torch.autograd.grad(loss, list(model.parameters()))


@needs_native
@pytest.mark.parametrize("training", [False, True])
def test_results_gradients_and_random_numbers_stay(training):
    torch.manual_seed(0)
    model, x = Encoder().train(training), torch.randn(4, 6, I)
    want, gradients = grown(model, x)
    report = tg.swap(model)
    assert report.replaced == ["lstm", "same", "small.1"]
    assert report.left == {}
    assert isinstance(model.lstm, tg.LSTM)
    assert model.same is model.lstm is model.kept[0]
    got, found = grown(model, x)
    torch.testing.assert_close(got, want)
    for w, g in zip(gradients, found, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


def test_an_optimiser_made_before_goes_on():
    torch.manual_seed(0)
    ours, theirs = Encoder().eval(), None
    theirs = copy.deepcopy(ours)
    optimisers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in (ours, theirs)]
    parameters = [id(p) for p in ours.parameters()]
    tg.swap(ours)
    assert [id(p) for p in ours.parameters()] == parameters
    x = torch.randn(4, 6, I)
    for _ in range(5):
        losses = []
        for model, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            losses.append(model(x))
            losses[-1].backward()
            optimiser.step()
        torch.testing.assert_close(*losses)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


@needs_native
def test_back_again():
    torch.manual_seed(0)
    model, x = Encoder().eval(), torch.randn(4, 6, I)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    want = model(x)
    tg.swap(model)
    model(x)
    model.double().float()  # new storage for the weights
    assert tg.restore(model).replaced == ["lstm", "same", "small.1"]
    assert type(model.lstm) is nn.LSTM
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
    assert torch.equal(model(x), want)
    assert tg.restore(model).replaced == []


def test_hooks_stay():
    model, seen = Encoder(), []
    model.lstm.register_forward_hook(lambda *a: seen.append("forward"))
    model.lstm.register_forward_pre_hook(lambda *a: seen.append("before"))
    tg.swap(model)
    model.lstm(torch.randn(1, 2, I))
    assert seen == ["before", "forward"]


@needs_native
def test_state_dicts_copies_and_pickles():
    model, x = Encoder().eval(), torch.randn(2, 3, I)
    keys = list(model.state_dict())
    plain = copy.deepcopy(model)
    tg.swap(model)
    assert list(model.state_dict()) == keys
    plain.load_state_dict(model.state_dict())
    for again in (copy.deepcopy(model), torch.load(_saved(model), weights_only=False)):
        assert isinstance(again.lstm, tg.LSTM)
        torch.testing.assert_close(again(x), plain(x))


def _saved(model):
    data = io.BytesIO()
    torch.save(model, data)
    data.seek(0)
    return data


@needs_native
def test_the_model_itself():
    lstm, x = nn.LSTM(I, H), torch.randn(4, 2, I)
    want = lstm(x)
    report = tg.swap(lstm)
    assert str(report) == "replaced 1: the model itself"
    torch.testing.assert_close(lstm(x)[0], want[0])
    tg.restore(lstm)
    assert torch.equal(lstm(x)[0], want[0])


def test_one_that_was_parametrised_meanwhile_is_left_until_it_is_not():
    model, x = nn.Sequential(nn.LSTM(I, H)), torch.randn(4, 2, I)
    want = model(x)[0]
    tg.swap(model)
    torch.nn.utils.parametrizations.weight_norm(model[0], "weight_hh_l0")
    report = tg.restore(model)
    assert report.replaced == []
    assert "parametrised" in report.left["0"]
    torch.testing.assert_close(model(x)[0], want)
    torch.nn.utils.parametrize.remove_parametrizations(model[0], "weight_hh_l0")
    assert tg.restore(model).replaced == ["0"]
    assert type(model[0]) is nn.LSTM
    torch.testing.assert_close(model(x)[0], want)


class Special(nn.LSTM):
    pass


def left(module, **kwargs):
    report = tg.swap(nn.ModuleList([module]), **kwargs)
    assert report.replaced == []
    return report.left["0"]


def test_what_is_left_is_said():
    assert "subclass of torch.nn.LSTM, Special" in left(Special(I, H))
    parametrised = torch.nn.utils.parametrizations.weight_norm(nn.LSTM(I, H), "weight_hh_l0")
    assert "parametrised" in left(parametrised)
    assert "float16" in left(nn.LSTM(I, H).half()) or tg.ops.native.library() is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_old_weight_norm_and_scripts_are_left():
    assert "weight_hh_l0 is not a parameter" in left(torch.nn.utils.weight_norm(nn.LSTM(I, H), "weight_hh_l0"))
    assert "scripted" in left(torch.jit.script(nn.LSTM(I, H)))


def test_force_replaces_the_slow_ones_too():
    lstm, x = nn.LSTM(I, H, num_layers=2).half(), torch.randn(4, 2, I).half()
    want, (h, c) = lstm(x)
    assert tg.swap(lstm, force=True).replaced == [""]
    got = lstm(x)
    for w, g in zip((want, h, c), (got[0], *got[1]), strict=True):
        torch.testing.assert_close(g.float(), w.float(), rtol=0, atol=2e-3)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_projections_are_replaced():
    lstm, x = nn.LSTM(I, H, proj_size=2, num_layers=2), torch.randn(4, 2, I)
    want, (h, c) = lstm(x)
    assert tg.swap(lstm).replaced == [""]
    got = lstm(x)
    for w, g in zip((want, h, c), (got[0], *got[1]), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*RNN, GRU, or LSTM:UserWarning")
def test_that_torch_compiles_no_swapped_layer_says_nothing_of_others():
    """It remembers by their code which functions it refuses."""
    torch._dynamo.reset()
    x = torch.randn(6, 4, I)
    model = nn.Sequential(nn.LSTM(I, H))
    want = model(x)[0]
    tg.swap(model)
    torch.testing.assert_close(torch.compile(model, backend="eager")(x)[0], want)
    layer = tg.LSTM(I, H)
    found = torch.compile(layer, fullgraph=True, backend="eager")(x)[0]
    torch.testing.assert_close(found, layer(x)[0])


def test_a_swapped_layer_steps_on_the_kernels():
    lstm = nn.LSTM(I, H).eval()
    x = torch.randn(4, 2, I)
    tg.swap(lstm)
    with torch.no_grad():
        want, state = lstm(x)[0], None
        for x_t, want_t in zip(x, want, strict=True):
            found, state = lstm.step(x_t, state)
            torch.testing.assert_close(found, want_t)
    assert "_plan" in vars(lstm) or tg.ops.native.library() is None


def test_what_is_no_module():
    with pytest.raises(TypeError, match=r"a model is a torch\.nn\.Module; given dict"):
        tg.swap({})
