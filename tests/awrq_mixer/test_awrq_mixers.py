"""Mixers by hand, their tables of all joint actions against mixing one by one, the compiled layer against numpy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import MixerConfig, NetworkConfig
from awrq_mixer.networks import mixers
from awrq_mixer.networks.agents import initialise
from awrq_mixer.networks.mixers import MonotonicMixer, VDNMixer
from awrq_mixer.networks.mixing_kernels import mix_elu, mix_relu
from awrq_mixer.networks.space import Space
from marca_common.seeding import numpy_generator, torch_generator

AGENTS = ((2, 3), (4,), (2,), (3,))


def _mixer(agents: int, **changes: Any) -> MonotonicMixer:
    space = Space((4, 3), 1, AGENTS[:agents])
    config = MixerConfig.model_validate({"embed": 5, "hyper_layers": [6], **changes})
    mixer = MonotonicMixer(space, config, NetworkConfig(embedding=3, oov_rate=0.0, trunk_layers=[9]))
    initialise(mixer, "torch", torch_generator(0, "mixer"))
    nn.init.normal_(mixer.hyper_out.bias, generator=torch_generator(1, "bias"))
    return mixer.eval()


def _states(size: int) -> tuple[Tensor, Tensor]:
    g = torch_generator(2, "states")
    codes = torch.stack([torch.randint(0, n, (size,), generator=g) for n in (4, 3)], 1)
    return codes, torch.randn(size, 1, generator=g)


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize("weights, positive", [("softplus", _softplus), ("abs", abs)])
@pytest.mark.parametrize(
    "activation, act", [("relu", lambda x: max(x, 0.0)), ("elu", lambda x: x if x > 0 else math.expm1(x))]
)
def test_q_tot_by_hand(weights: str, positive: Any, activation: str, act: Any) -> None:
    mixer = _mixer(2, embed=2, weights=weights, activation=activation)
    nn.init.zeros_(mixer.hyper_out.weight)  # the hypernetwork says its bias, whatever the state
    raw = [1.0, -2.0, 0.5, -0.25, 0.3, -4.0, 1.5, -1.0, 0.7]  # W1 by agent, b1, W2, b2
    mixer.hyper_out.bias.data = torch.tensor(raw)
    w1 = [[positive(x) / 2 for x in raw[0:2]], [positive(x) / 2 for x in raw[2:4]]]  # over two agents
    w2 = [positive(x) * 2 / 2 for x in raw[6:8]]
    hidden = [act(1.2 * w1[0][e] + 0.4 * w1[1][e] + raw[4 + e]) for e in range(2)]
    found = mixer(torch.tensor([[1.2, 0.4]]), *_states(1), torch.zeros(1, 3, dtype=torch.long))
    assert float(found.detach()) == pytest.approx(hidden[0] * w2[0] + hidden[1] * w2[1] + 0.7, abs=1e-6)


def test_only_a_hypernetwork_of_state_and_action_sees_the_action() -> None:
    for hypernetwork, sees in (("state", False), ("state_action", True)):
        mixer = _mixer(2, hypernetwork=hypernetwork)
        codes, numbers = _states(1)
        taken = [torch.tensor([actions]) for actions in itertools.product(range(2), range(3), range(4))]
        found = {round(float(mixer(torch.ones(1, 2), codes, numbers, one).detach()), 5) for one in taken}
        assert len(found) == (24 if sees else 1)
        assert mixer.state.width == 2 * 3 + 1  # embeddings and a number: the trunk is the agents' own


def test_mixing_weights_start_on_the_scale_of_the_values() -> None:
    mixer = _mixer(2)  # five wide, two agents
    for part in (mixer.hyper_out.weight, mixer.hyper_out.bias):
        nn.init.zeros_(part)
    w1, b1, w2, b2 = mixer.weights(*_states(1), None)
    assert w1.flatten().tolist() == pytest.approx([math.log(2) / 2] * 10)
    assert w2.flatten().tolist() == pytest.approx([math.log(2) * 2 / 5] * 5)
    assert float(b1.abs().sum() + b2.abs().sum()) == 0
    assert "offsets" not in mixer.state_dict()


@pytest.mark.parametrize("size", [1, 6])
def test_every_state_has_weights_of_its_own(size: int) -> None:
    mixer, (codes, numbers) = _mixer(2), _states(size)
    w1, b1, w2, b2 = mixer.weights(codes, numbers, None)
    assert [tuple(one.shape) for one in (w1, b1, w2, b2)] == [(size, 2, 5), (size, 5), (size, 5), (size,)]
    for s in range(size):
        alone = mixer.weights(codes[s : s + 1], numbers[s : s + 1], None)
        assert all(torch.allclose(one[s], other[0], atol=1e-6) for one, other in zip((w1, b1, w2, b2), alone))


def _values(agents: int, sees_earlier: bool, scale: float) -> list[Tensor]:
    """Random values of each agent, (S, P_g, N_g)."""
    choices, g, before, q = [math.prod(sizes) for sizes in AGENTS[:agents]], torch_generator(3, "values"), 1, []
    for n in choices:
        q.append(scale * torch.randn(3, before if sees_earlier else 1, n, generator=g))
        before *= n
    return q


def _one_by_one(mixer: nn.Module, q: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The table by a loop over joint actions, and their sub-actions (A, T)."""
    sizes = [n for agent in AGENTS[: len(q)] for n in agent]
    joint = torch.tensor(list(itertools.product(*(range(n) for n in sizes))))
    columns = []
    for actions in joint:
        values, before, start = [], 0, 0
        for one, agent in zip(q, AGENTS):
            own = int(np.ravel_multi_index([int(a) for a in actions[start : start + len(agent)]], agent))
            values.append(one[:, before if one.shape[1] > 1 else 0, own])
            before, start = before * one.shape[2] + own, start + len(agent)
        columns.append(mixer(torch.stack(values, 1), *_states(3), actions.repeat(3, 1)))
    return torch.stack(columns, 1), joint


@pytest.mark.parametrize("scale", [1.0, 60.0])  # the latter beyond what the compiled exponentials hold
@pytest.mark.parametrize("sees_earlier", [False, True])
@pytest.mark.parametrize("hypernetwork, activation", [("state", "elu"), ("state", "relu"), ("state_action", "elu")])
@pytest.mark.parametrize("agents", [1, 2, 3, 4])
def test_the_table_is_mixing_one_by_one(
    agents: int, hypernetwork: str, activation: str, sees_earlier: bool, scale: float
) -> None:
    mixer = _mixer(agents, hypernetwork=hypernetwork, activation=activation)
    q = _values(agents, sees_earlier, scale)
    expected, joint = _one_by_one(mixer, q)
    assert torch.allclose(mixer.table(q, *_states(3), joint), expected, rtol=1e-4, atol=1e-4 * scale)
    with torch.no_grad():  # the compiled layer
        assert torch.allclose(mixer.table(q, *_states(3), joint), expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("sees_earlier", [False, True])
def test_values_of_agents_that_see_earlier_choices_add_up(sees_earlier: bool) -> None:
    q = _values(4, sees_earlier, 1.0)
    expected, joint = _one_by_one(VDNMixer(), q)
    assert torch.allclose(VDNMixer().table(q, *_states(3), joint), expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["elu", "relu"])
@pytest.mark.parametrize("agents", [2, 3])
def test_serving_takes_the_compiled_layer_and_training_never(
    monkeypatch: pytest.MonkeyPatch, agents: int, activation: str
) -> None:
    calls: list[str] = []
    kernel: Any = {"elu": mix_elu, "relu": mix_relu}[activation]

    def spy(*arrays: Any) -> Any:
        calls.append(activation)
        return kernel(*arrays)

    monkeypatch.setattr(mixers, f"mix_{activation}", spy)
    mixer, q = _mixer(agents, activation=activation), _values(agents, False, 1.0)
    assert mixer.table(q, *_states(3), torch.zeros(0)).requires_grad
    assert not calls
    with torch.no_grad():
        mixer.table(q, *_states(3), torch.zeros(0))
    assert calls == [activation]


def test_compiled_layers_by_numpy() -> None:
    rng = numpy_generator(0, "kernels")
    left, right = (rng.normal(0, 2, (3, n, 4)).astype(np.float32) for n in (5, 2))
    w2, b2 = rng.gamma(1, 1, (3, 4)).astype(np.float32), rng.normal(0, 1, 3).astype(np.float32)
    x = (left[:, :, None] + right[:, None]).reshape(3, 10, 4)
    elu, relu = np.where(x > 0, x, np.expm1(x)), np.maximum(x, 0)
    found = mix_elu(left, right, np.exp(left), np.exp(right), w2, b2)
    assert found == pytest.approx((elu * w2[:, None]).sum(2) + b2[:, None], abs=1e-4)
    assert found.dtype == np.float32
    found = mix_relu(left, right, w2, b2)
    assert found == pytest.approx((relu * w2[:, None]).sum(2) + b2[:, None], abs=1e-4)
    assert found.dtype == np.float32
