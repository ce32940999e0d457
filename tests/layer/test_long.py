"""Sequences longer than what sixteen bits count."""

import torch

import tidegate as tg


def test_more_steps_than_sixteen_bits_count():
    torch.manual_seed(0)
    theirs, x = torch.nn.LSTM(2, 3), torch.randn(66_000, 1, 2)
    for every in (None, 256):
        ours = tg.LSTM(2, 3, checkpoint_every=every)
        ours.load_state_dict(theirs.state_dict())
        outputs, gradients = [], []
        for module in (ours, theirs):
            output, _ = module(x)
            outputs.append(output)
            gradients.append(torch.autograd.grad(output[-100:].square().sum(), list(module.parameters())))
        torch.testing.assert_close(*outputs)
        for got, want in zip(*gradients, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
