"""Dropout as a function of (seed, step, layer, position in the whole batch)."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from vgg_mm.models.dropout import Dropout, free_dropout, seed_dropout

ONES = torch.ones(6, 5, 2, 2)


def dropped(x, ranks=(0,), processes=1, seed=3, step=7, layer=0, p=0.5):
    net = nn.ModuleList([nn.Dropout(), Dropout(p), Dropout(p)])
    seed_dropout(net, seed, step, ranks, processes)
    return net[1 + layer](x)


def splitmix(seed, n):
    """The paper's generator, in numbers without an end."""
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_the_numbers_are_splitmixs(p):
    assert splitmix(1234567, 0) == 6457827717110365317  # as published
    seed = int(np.random.SeedSequence((3, 7, 1)).generate_state(1, np.uint64)[0])
    kept = [splitmix(seed, n) / 2**64 >= p for n in range(ONES.numel())]
    found = dropped(ONES, layer=1, p=p)
    assert torch.equal(found.flatten(), torch.tensor(kept) / (1 - p))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_drop_what_one_would(processes):
    whole = dropped(ONES)
    parts = [dropped(ONES[r::processes], [r], processes) for r in range(processes)]
    for rank, part in enumerate(parts):
        assert torch.equal(part, whole[rank::processes])
    gathered = dropped(ONES, range(processes), processes)
    assert torch.equal(gathered, torch.cat(parts))


def test_seed_step_and_layer_count():
    masks = [
        dropped(torch.ones(64, 64), **other)
        for other in ({}, {"seed": 4}, {"step": 8}, {"layer": 1})
    ]
    for i, mask in enumerate(masks):
        assert abs((mask > 0).float().mean() - 0.5) < 0.05
        for other in masks[:i]:
            assert abs((mask == other).float().mean() - 0.5) < 0.05


def test_elsewhere_it_is_torchs():
    module = Dropout(0.3)

    def torchs():
        torch.manual_seed(0)
        expected = nn.Dropout(0.3)(ONES)
        torch.manual_seed(0)
        return torch.equal(module(ONES), expected)

    assert torchs()
    seed_dropout(module, 0, 0)
    assert not torchs()
    assert torch.equal(module.eval()(ONES), ONES)
    module.train()
    free_dropout(module)
    assert torchs()
    for p in (0.0, 1.0):
        assert torch.equal(dropped(ONES, p=p), ONES * (1 - p))


def test_the_kinds_of_numbers_stay_and_gradients_are_masked():
    x = ONES.to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    y = dropped(x)
    assert y.dtype == torch.bfloat16 and torch.equal(y, dropped(ONES).bfloat16())
    y.sum().backward()
    assert torch.equal(x.grad, y)


def test_a_compiled_one_drops_the_same_and_is_compiled_once():
    counters.clear()
    torch._dynamo.reset()
    plain = Dropout(0.5)
    compiled = torch.compile(plain, backend="aot_eager")
    for step in range(10):
        seed_dropout(plain, 0, step, [1], 2)
        assert torch.equal(compiled(ONES), plain(ONES))
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
