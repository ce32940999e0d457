"""``checkpoint_every``: the same numbers from less memory."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import tidegate as tg

T, B, I, H = 23, 3, 5, 7
OPTIONS = [
    {},
    {"bidirectional": True},
    {"bidirectional": True, "zoneout": (0.3, 0.1), "recurrent_dropout": 0.2, "peephole": True},
    {"layer_norm": True},
    {"proj_size": 3, "bidirectional": True, "zoneout": (0.3, 0.1)},
]


@pytest.fixture(params=["native", "reference"])
def backend(request):
    if request.param == "native" and tg.ops.native.library() is None:
        pytest.skip(tg.ops.library.missing())
    return request.param


def run(every, backend, options, dtype=torch.float64, **given):
    torch.manual_seed(1)
    lstm = tg.LSTM(I, H, num_layers=2, dtype=dtype, checkpoint_every=every, **options)
    x = torch.randn(T, B, I, dtype=dtype, requires_grad=True)
    h, c = (torch.randn(2 * lstm.directions, B, size, dtype=dtype) for size in (lstm.state_size, H))
    h.requires_grad_(), c.requires_grad_()
    torch.manual_seed(2)
    with tg.ops.use_backend(backend):
        output, state = lstm(x, (h, c), **given)
    loss = (output * torch.randn_like(output)).sum() + state.h.square().sum() + state.c.sin().sum()
    return [output, *state], torch.autograd.grad(loss, [x, h, c, *lstm.parameters()])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("every", [1, 5, 100])
def test_values_and_gradients_do_not_change(backend, options, ragged, every):
    given = {}
    if ragged:
        torch.manual_seed(0)
        given = {"lengths": torch.tensor([T, 0, 11]), "reset": torch.rand(T, B) < 0.2}
    values, gradients = run(None, backend, options, **given)
    found, found_gradients = run(every, backend, options, **given)
    for want, got in zip(values, found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-14)
        assert backend == "reference" or torch.equal(want, got)
    for want, got in zip(gradients, found_gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_bfloat16_sums_its_pieces_in_float32():
    if tg.ops.native.library() is None:
        pytest.skip(tg.ops.library.missing())
    _, exact = run(None, "reference", {})
    _, whole = run(None, "native", {}, torch.bfloat16)
    _, pieces = run(1, "native", {}, torch.bfloat16)
    for want, one, many in zip(exact, whole, pieces, strict=True):
        error = (one.double() - want).abs().max()
        assert (many.double() - want).abs().max() <= 1.5 * error + 1e-2 * want.abs().max()


def test_the_reset_on_a_piece_edge_cuts_the_backward_direction():
    lstm = tg.LSTM(I, H, bidirectional=True, checkpoint_every=4)
    x = torch.randn(8, 1, I, requires_grad=True)
    reset = torch.zeros(8, 1, dtype=torch.bool)
    reset[4] = True
    output, _ = lstm(x, reset=reset)
    [gradient] = torch.autograd.grad(output[:4].sum(), x)
    assert gradient[:4].abs().min() > 0
    assert gradient[4:].count_nonzero() == 0


def saved_bytes(lstm, x):
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda t: t):
        output, _ = lstm(x)
    weights = {p.untyped_storage().data_ptr() for p in (*lstm.parameters(), x, output)}
    return sum(size for at, size in sizes.items() if at not in weights)


def test_memory_is_of_the_order_of_the_root():
    if tg.ops.native.library() is None:
        pytest.skip(tg.ops.library.missing())
    steps = 1024
    x = torch.randn(steps, B, I)
    plain = saved_bytes(tg.LSTM(I, H), x)
    kept = saved_bytes(tg.LSTM(I, H, checkpoint_every=32), x)
    assert plain >= steps * B * 5 * H * 4  # gates and cells
    assert kept <= (steps // 32 + 3) * B * 2 * H * 4  # both memories of each piece, and the first


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*:FutureWarning")
def test_compiled(backend):
    x = torch.randn(T, B, I, requires_grad=True)
    lstm = tg.LSTM(I, H, bidirectional=True, checkpoint_every=5)
    want, _ = lstm(x)
    with tg.ops.use_backend(backend):
        got, _ = torch.compile(lstm, fullgraph=True, backend="aot_eager", dynamic=True)(x)
        found = torch.autograd.grad(got.square().sum(), [x, *lstm.parameters()])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    expected = torch.autograd.grad(want.square().sum(), [x, *lstm.parameters()])
    for w, g in zip(expected, found, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


def test_second_derivatives(backend):
    torch.manual_seed(0)
    lstm = tg.LSTM(2, 3, dtype=torch.float64, checkpoint_every=2)
    x = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    with tg.ops.use_backend(backend):
        assert torch.autograd.gradgradcheck(lambda x: lstm(x)[0], x)


@pytest.mark.parametrize("every", [0, -1, 2.5, "auto"])
def test_a_wrong_number_of_steps(every):
    with pytest.raises((ValueError, TypeError), match="checkpoint_every"):
        tg.LSTM(I, H, checkpoint_every=every)


def test_no_steps():
    output, state = tg.LSTM(I, H, checkpoint_every=3, bidirectional=True)(torch.randn(0, B, I, requires_grad=True))
    assert output.shape == (0, B, 2 * H)
    assert torch.equal(state.c, torch.zeros(2, B, H))
