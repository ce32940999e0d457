"""Layers that the tests of single steps share, and ways to run them."""

from __future__ import annotations

import copy

import torch

import tidegate as tg

I, H = 5, 19


def layer(dtype=torch.float32, **options):
    return tg.LSTM(I, H, num_layers=2, dtype=dtype, **options).eval()


def kept(lstm):
    """Are the layer's weights kept packed for steps, that is: was the short way taken?"""
    return "_plan" in vars(lstm)


def kept_whole(lstm):
    """The same for whole sequences."""
    return "_route" in vars(lstm) and len(vars(lstm)["_route"].kept) == 1


@torch.no_grad()
def whole(lstm, x):
    return lstm(x)


def afresh(lstm, x):
    """A whole sequence with weights packed for this call alone."""
    return whole(copy.deepcopy(lstm), x)


@torch.no_grad()
def stepped(lstm, x, state=None, reset=None):
    outputs = []
    for t, x_t in enumerate(x):
        output, state = lstm.step(x_t, state, None if reset is None else reset[t])
        outputs.append(output)
    return torch.stack(outputs), state


def moved(lstm):
    """The gains of a layer norm away from one, where they would hide a mistake."""
    with torch.no_grad():
        for name, p in lstm.named_parameters():
            if "norm" in name:
                p.normal_()
    return lstm
