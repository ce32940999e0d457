"""Plain calls: the short way has the bits of the general one, and is left where it must be."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import tidegate as tg
from tidegate import direct, ops

T, B, I, H = 6, 3, 5, 19

OPTIONS = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"bidirectional": True, "num_layers": 2},
    {"batch_first": True},
    {"bias": False, "peephole": True},
    {"layer_norm": True, "dtype": torch.float64},
    {"dtype": torch.bfloat16, "merge": "sum"},
    {"proj_size": 7, "num_layers": 2},
    {"proj_size": 7, "bidirectional": True, "dtype": torch.bfloat16},
]


def made(**options):
    torch.manual_seed(0)
    lstm = tg.LSTM(I, H, **options)
    with torch.no_grad():
        for name, p in lstm.named_parameters():
            if "norm" in name:  # gains of one would hide a mistake
                p.normal_()
    return lstm


def general(lstm, *words):
    """What the call gives with the short way closed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "sequence", lambda *_: None)
        return lstm(*words)


def masks_of(lstm, masked):
    """No lengths and resets, or some of both."""
    if not masked:
        return None, None
    rows, steps = (T, B) if lstm.batch_first else (B, T)
    reset = torch.rand(input_of(lstm).shape[:2]) < 0.3
    return torch.randint(steps + 1, (rows,)), reset


def input_of(lstm):
    return torch.randn(T, B, I).to(lstm.weight_ih_l0.dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["empty", "given state"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "lengths and resets"])
@torch.no_grad()
def test_has_the_bits_of_the_general_way(isa, options, given, masked):
    lstm = made(**options)
    x, hx = input_of(lstm), None
    if given:
        hx = lstm.initial_state(T if lstm.batch_first else B)
        hx = tg.State(torch.randn_like(hx.h), torch.randn_like(hx.c))
    masks = masks_of(lstm, masked)
    found = direct.sequence(lstm, x, hx, *masks)
    assert found is not None
    wanted = general(lstm, x, hx, *masks)
    for a, b in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
        assert a.shape == b.shape
        assert a.stride() == b.stride()
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    torch.testing.assert_close(lstm(x.transpose(0, 1).contiguous().transpose(0, 1), hx, *masks)[0], found[0])
    strided = torch.empty(T, B, 2 * I, dtype=x.dtype)[:, :, ::2].copy_(x)
    assert torch.equal(lstm(strided, hx, *masks)[0], found[0])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["empty", "given state"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "lengths and resets"])
def test_has_the_gradients_of_the_general_way(isa, options, given, masked):
    lstm = made(**options)
    x, hx = input_of(lstm).requires_grad_(), None
    wanted = [x, *lstm.parameters()]
    if given:
        hx = lstm.initial_state(T if lstm.batch_first else B)
        hx = tg.State(*[torch.randn_like(s).requires_grad_() for s in hx])
        wanted += hx
    masks = masks_of(lstm, masked)
    found = direct.sequence(lstm, x, hx, *masks)
    assert found is not None
    others = general(lstm, x, hx, *masks)
    weights = [torch.randn_like(r) for r in (found[0], *found[1])]
    gradients = []
    for output, state in (found, others):
        results = (output, *state)
        gradients.append([*results, *torch.autograd.grad(results, wanted, weights)])
    for a, b in zip(*gradients, strict=True):
        assert a.stride() == b.stride()
        assert torch.equal(a, b)


@pytest.mark.parametrize("wanted", ["input", "h", "c", "one weight"])
def test_whatever_needs_a_gradient_gets_one(wanted):
    lstm, x = made(num_layers=2).requires_grad_(False), torch.randn(T, B, I)
    hx = tg.State(torch.randn(2, B, H), torch.randn(2, B, H))
    assert not lstm(x, hx)[0].requires_grad
    leaf = {"input": x, "h": hx.h, "c": hx.c, "one weight": lstm.bias_hh_l1}[wanted].requires_grad_()
    [found] = torch.autograd.grad(lstm(x, hx)[0].sum(), leaf)
    assert torch.equal(found, torch.autograd.grad(general(lstm, x, hx)[0].sum(), leaf)[0])
    with ops.use_backend("reference"):
        torch.testing.assert_close(found, torch.autograd.grad(lstm(x, hx)[0].sum(), leaf)[0])
    assert found.any()


@pytest.mark.parametrize("which", [0, 1], ids=["lengths", "resets"])
@pytest.mark.parametrize("short", [True, False], ids=["short way", "general way"])
def test_masks_written_to_before_the_backward_pass_are_refused(which, short):
    """Else its gradient would silently be that of another call."""
    lstm, x = made(), torch.randn(T, B, I)
    masks = torch.full((B,), T), torch.zeros(T, B, dtype=torch.bool)
    output = (lstm(x, None, *masks) if short else general(lstm, x, None, *masks))[0]
    masks[which][0] = 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_masks_from_inference_mode_serve_in_training():
    """As where a rollout is collected in it."""
    lstm, x = made(), torch.randn(T, B, I)
    with torch.inference_mode():
        masks = torch.full((B,), T), torch.rand(T, B) < 0.3
    lstm(x, None, *masks)[0].sum().backward()
    found = lstm.weight_hh_l0.grad.clone()
    lstm.zero_grad()
    lstm(x, None, *[m.clone() for m in masks])[0].sum().backward()
    assert torch.equal(found, lstm.weight_hh_l0.grad)


def test_weights_laid_out_otherwise_get_their_gradients():
    """As after ``.t()`` or a slice: what is not contiguous is copied for the kernels, and its gradient must fit."""
    lstm, x = made(), torch.randn(T, B, I)
    gradients = []
    for change in (lambda p: p, lambda p: p.t().contiguous().t()):
        lstm.weight_hh_l0 = torch.nn.Parameter(change(lstm.weight_hh_l0.detach()))
        gradients.append(torch.autograd.grad(lstm(x)[0].square().sum(), list(lstm.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_second_derivatives_and_checkpoints_of_the_general_way():
    lstm, x = made(dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)

    def second(run):
        [first] = torch.autograd.grad(run(lstm, x)[0].square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), lstm.weight_hh_l0)[0]

    torch.testing.assert_close(second(lambda lstm, x: lstm(x)), second(general))
    lstm.checkpoint_every = 2  # after the addresses were taken
    assert direct.sequence(lstm, x, None, None, None) is None


@torch.no_grad()
def test_every_call_has_results_of_its_own():
    """Of its own sizes, in memory of its own, whatever the call before was."""
    lstm = made(num_layers=2)
    alive = []
    for steps, rows in [(T, B), (T, B), (T + 1, B), (T, B + 1), (3000, 5), (T, B)]:
        x = torch.randn(steps, rows, I)
        output, state = lstm(x)
        expected, after = general(lstm, x)
        for found, right in zip((output, *state), (expected, *after), strict=True):
            assert torch.equal(found, right)
            assert all(found.data_ptr() != other.data_ptr() for other in alive)
        alive += [output, *state]


def test_results_after_inference_mode_are_ordinary_tensors():
    lstm, x = made(), torch.randn(T, B, I)
    with torch.inference_mode():
        lstm(x)
    with torch.no_grad():
        output, state = lstm(x)
    assert not any(t.is_inference() for t in (output, *state))


def test_the_number_of_rows_may_change_between_a_call_and_its_backward_pass():
    lstm = made(num_layers=2, bidirectional=True)
    calls = []
    for rows in (B, B + 2, B):
        x = torch.randn(T, rows, I, requires_grad=True)
        calls.append((x, lstm(x)[0].square().sum()))
    for x, loss in calls:
        [found] = torch.autograd.grad(loss, x)
        [right] = torch.autograd.grad(general(lstm, x)[0].square().sum(), x)
        assert torch.equal(found, right)


def test_a_layer_first_used_in_inference_mode_is_differentiated_twice():
    """The zeros that its memories begin with must not be of that mode."""
    lstm, x = made(), torch.randn(T, B, I, requires_grad=True)
    with torch.inference_mode():
        lstm(x)
    [first] = torch.autograd.grad(lstm(x)[0].square().sum(), x, create_graph=True)
    [second] = torch.autograd.grad(first.square().sum(), x)
    [first] = torch.autograd.grad(general(lstm, x)[0].square().sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(first.square().sum(), x)[0])


@torch.no_grad()
def test_new_weights_are_read():
    lstm, x = made(), torch.randn(T, B, I)
    lstm(x)
    changes = [
        lambda: lstm.weight_hh_l0.mul_(2.0),
        lambda: lstm.weight_hh_l0.data.add_(0.1),
        lambda: lstm.weight_hh_l0.numpy().fill(0.1),
        lambda: setattr(lstm.weight_hh_l0, "data", torch.full((4 * H, H), 0.2)),
        lambda: setattr(lstm, "weight_hh_l0", torch.nn.Parameter(torch.full((4 * H, H), 0.3))),
        lambda: setattr(lstm.weight_hh_l0, "data", torch.randn(H, 4 * H).t()),
        lambda: lstm.load_state_dict(made(init=tg.init.chrono(9)).state_dict()),
        lambda: lstm.double().float(),
    ]
    for change in changes:
        change()
        assert torch.equal(lstm(x)[0], general(lstm, x)[0])


@torch.no_grad()
def test_left_where_the_general_way_is_needed():
    x = torch.randn(T, B, I)
    lstm = made()
    assert direct.sequence(lstm, x, None, None, None) is not None
    for other in (x[0], x[:0], x[:, :0], x.double(), x[..., :4], x.to("meta"), torch.nn.Parameter(x), None):
        assert direct.sequence(lstm, other, None, None, None) is None
    h = torch.zeros(1, B, H)
    for hx in (h, (h, h, h), (h, h.double()), (h[0], h[0]), (h, None), [h, h]):
        assert direct.sequence(lstm, x, hx, None, None) is None
    for lengths in ([T] * B, torch.full((B,), T, dtype=torch.int32), torch.full((B + 1,), T), torch.tensor(T)):
        assert direct.sequence(lstm, x, None, lengths, None) is None
    for reset in (torch.zeros(T, B), torch.zeros(B, T, dtype=torch.bool), [[False] * B] * T):
        assert direct.sequence(lstm, x, None, None, reset) is None
    with pytest.raises(ValueError, match=f"lengths are from 0 to the number of steps, {T}"):
        direct.sequence(lstm, x, None, torch.tensor([0, T, T + 1]), None)
    with ops.use_backend("reference"):
        assert direct.sequence(lstm, x, None, None, None) is None
    with torch.autocast("cpu"):
        assert direct.sequence(lstm, x, None, None, None) is None
    assert direct.sequence(made(zoneout=0.1), x, None, None, None) is None
    assert direct.sequence(made(recurrent_dropout=0.1), x, None, None, None) is None
    assert direct.sequence(made(recurrent_dropout=0.1).eval(), x, None, None, None) is not None
    assert direct.sequence(made(proj_size=3), x, None, None, None) is not None
    h, c = torch.zeros(1, B, 3), torch.zeros(1, B, H)
    for hx in ((c, c), (h, h), (c, h)):
        assert direct.sequence(made(proj_size=3), x, hx, None, None) is None
    assert direct.sequence(made(merge=None), x, None, None, None) is None
    assert direct.sequence(made(bidirectional=True, merge="sum"), x, None, None, None) is None
    lstm.zoneout = (0.5, 0.0)  # after the addresses were taken
    assert direct.sequence(lstm, x, None, None, None) is None


@torch.no_grad()
def test_a_copy_reads_its_own_weights():
    lstm, x = made(), torch.randn(T, B, I)
    before = lstm(x)[0]
    for other in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        for p in other.parameters():
            p.zero_()
        assert not other(x)[0].any()
        assert torch.equal(lstm(x)[0], before)


def test_a_gradient_is_never_cut():
    lstm, x = made(), torch.randn(T, B, I)
    assert lstm(x)[0].requires_grad
    with torch.no_grad():
        lstm(x)
    assert lstm(x)[0].requires_grad
    with torch.inference_mode():
        kept = lstm(x)[0]
    assert torch.equal(kept, lstm(x)[0])


@torch.no_grad()
def test_parametrised_weights_are_computed_once_a_call():
    class Counted(torch.nn.Module):
        calls = 0

        def forward(self, weight):
            self.calls += 1
            return weight

    lstm, counted = made(), Counted()
    torch.nn.utils.parametrize.register_parametrization(lstm, "weight_hh_l0", counted)
    before = counted.calls
    lstm(torch.randn(T, B, I))
    assert counted.calls == before + 1


@pytest.mark.parametrize("grad", [False, True])
def test_states_and_weights_of_torchs_negative_bit(grad):
    lstm, x = tg.LSTM(3, 4).eval(), torch.randn(5, 2, 3)
    h, c = torch.randn(2, 1, 2, 4)
    with torch.set_grad_enabled(grad):
        expected = lstm(x, (-h, -c))[0]
        for k in range(2):
            given = tuple(torch._neg_view(t) if k == at else -t for at, t in enumerate((h, c)))
            assert torch.equal(lstm(x, given)[0], expected)
        lstm.weight_hh_l0 = torch.nn.Parameter(torch._neg_view(-lstm.weight_hh_l0.detach()))
        assert torch.equal(lstm(x, (-h, -c))[0], expected)
