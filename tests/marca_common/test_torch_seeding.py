"""Noise from a named generator: the same masks again, and nothing of torch's own stream."""

from __future__ import annotations

import torch
from torch import nn

from marca_common.torch_seeding import SeededDropout, use_generator


def test_dropout_draws_from_its_generator_alone() -> None:
    net, x = nn.Sequential(nn.Identity(), SeededDropout(0.25)), torch.ones(1000, 8)
    masks = []
    for _ in range(2):
        use_generator(net, torch.Generator().manual_seed(3))
        before = torch.get_rng_state()
        masks.append(net(x))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*masks)
    assert set(masks[0].unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(masks[0].mean().item() - 1) < 0.05
    assert torch.equal(net.eval()(x), x)
