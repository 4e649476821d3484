"""Networks, mixers and learners: against torch's own cells, slow trees, gradients' signs and published identities."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from awrq_mixer.learner_config import LearnerConfig, MixerConfig, NetworkConfig
from awrq_mixer.learners import LEARNERS
from awrq_mixer.learners.base import Batch
from awrq_mixer.networks.agents import RecurrentAgent, gru_cell, initialise
from awrq_mixer.networks.mixers import MonotonicMixer, VDNMixer
from awrq_mixer.networks.space import Space
from marca_common.seeding import torch_generator
from marca_common.torch_seeding import use_generator

SPACE = Space((4, 3), 1, ((2, 3), (4,)))


def _batch(rows: int = 64, seed: int = 0) -> Batch:
    g = torch_generator(seed, "batch")

    def draw(n: Any) -> Any:
        return torch.randint(0, n, (rows,), generator=g)

    codes = torch.stack([draw(4), draw(3)], 1)
    numbers = torch.randn(rows, 1, generator=g)
    actions = torch.stack([draw(2), draw(3), draw(4)], 1)
    reward = torch.rand(rows, generator=g) * 2
    return Batch(codes, numbers, actions, reward, torch.full((rows,), float("nan")))


def _learner(name: str, **changes: Any) -> Any:
    values = {
        "learner": name,
        "network": {"embedding": 3, "hidden": 8, "heads": 4, "oov_rate": 0.0, **changes.pop("network", {})},
        "mixer": {"embed": 5, "hyper_layers": [6], **changes.pop("mixer", {})},
        **changes,
    }
    learner = LEARNERS[name](SPACE, LearnerConfig.model_validate(values))
    initialise(learner, "glorot_uniform", torch_generator(1, "weights"))
    learner.generator = torch_generator(2, "noise")
    batch = _batch()
    learner.prepare(batch, torch.full((24,), 1 / 24))
    learner.reward_scale.fill_(1.0)
    use_generator(learner, learner.generator)
    return learner


def _agent(observe: str, before: Any = ()) -> RecurrentAgent:
    config = NetworkConfig(embedding=3, hidden=8, heads=4, observe=observe, oov_rate=0.0, head_layers=[6])
    agent = RecurrentAgent(SPACE, config, (2, 3, 4), before)
    initialise(agent, "glorot_uniform", torch_generator(0, "agent"))
    nn.init.normal_(agent.step_bias, generator=torch_generator(0, "bias"))
    nn.init.normal_(agent.candidate_bias, generator=torch_generator(0, "candidate"))
    return agent.eval()


def test_the_cell_is_torch_s_gru() -> None:
    cell = nn.GRUCell(5, 7)
    x, h = torch.randn(3, 5), torch.randn(3, 7)
    with torch.no_grad():
        cell.bias_hh[:14] = 0  # these two biases are redundant beside the input's
        got = gru_cell(cell.weight_ih @ x[0] + cell.bias_ih, h[0] @ cell.weight_hh.T, h[0], cell.bias_hh[14:])
        assert torch.allclose(got, cell(x[:1], h[:1])[0], atol=1e-6)


@pytest.mark.parametrize("observe, before", [("own", ()), ("state", ()), ("all", (2, 2))])
def test_the_tree_equals_one_forward_pass_per_choice(observe: Any, before: Any) -> None:
    agent = _agent(observe, before)
    batch = _batch(3)
    tree = agent.tree(batch.codes, batch.numbers)
    prefixes = list(itertools.product(*(range(n) for n in before)))
    for p, prefix in enumerate(prefixes):
        for n, choice in enumerate(itertools.product(range(2), range(3), range(4))):
            earlier = torch.tensor([prefix] * 3).reshape(3, len(before))
            q = agent.last(batch.codes, batch.numbers, earlier, torch.tensor([choice] * 3))
            assert torch.allclose(tree[:, p, n], q.mean(1)[:, choice[-1]], atol=1e-5)
    assert tree.shape == (3, max(1, len(prefixes)), 24)
    with torch.no_grad():  # the compiled cell
        assert torch.allclose(agent.tree(batch.codes, batch.numbers), tree, atol=2e-6)


@pytest.mark.parametrize("observe, before", [("own", ()), ("state", ()), ("all", (2, 2))])
@pytest.mark.parametrize("rows, threads", [(33, 1), (33, 3), (1, 1)])
def test_the_compiled_cell_trains_as_torch_s_own_operations(
    observe: Any, before: Any, rows: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, batch = _agent(observe, before), _batch(rows)
    draw = partial(torch.randint, generator=torch_generator(5, "choices"))
    earlier = torch.stack([draw(n, (rows,)) for n in before], 1) if before else torch.zeros(rows, 0, dtype=torch.long)
    own = torch.stack([draw(n, (rows,)) for n in (2, 3, 4)], 1)
    weights = [torch.randn(8, generator=torch_generator(6, "weights")) for _ in range(3)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    def trained() -> tuple[Any, Any]:
        states = agent.hidden_states(batch.codes, batch.numbers, earlier, own)
        agent.zero_grad()
        torch.autograd.backward(torch.stack([(h * w).square().sum() for h, w in zip(states, weights)]).sum())
        return states, {name: p.grad.clone() for name, p in agent.named_parameters() if p.grad is not None}

    states, gradients = trained()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    plain_states, plain_gradients = trained()
    for h, plain in zip(states, plain_states):
        torch.testing.assert_close(h, plain, rtol=0, atol=2e-6)
    assert gradients.keys() == plain_gradients.keys()
    assert {"candidate_bias", "step_bias", "recurrent.weight", "input.weight"} <= gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], rtol=1e-5, atol=1e-5, msg=name)


def test_forward_s_last_sub_step_is_last() -> None:
    agent, batch = _agent("own"), _batch(5)
    choices = torch.tensor([[1, 2, 0]] * 5)
    steps = agent(batch.codes, batch.numbers, choices[:, :0], choices)
    assert [step.shape for step in steps] == [(5, 4, 2), (5, 4, 3), (5, 4, 4)]
    assert torch.allclose(steps[-1], agent.last(batch.codes, batch.numbers, choices[:, :0], choices))


@pytest.mark.parametrize("weights", ["softplus", "abs"])
@pytest.mark.parametrize("activation", ["relu", "elu"])
@pytest.mark.parametrize("hypernetwork", ["state", "state_action"])
def test_q_tot_never_falls_in_any_agent_s_value(weights: Any, activation: Any, hypernetwork: Any) -> None:
    config = MixerConfig(embed=6, weights=weights, activation=activation, hypernetwork=hypernetwork, hyper_layers=[5])
    mixer = MonotonicMixer(SPACE, config, NetworkConfig(embedding=3, oov_rate=0.0))
    initialise(mixer, "torch", torch_generator(0, "mixer"))
    batch = _batch(200)
    q = (3 * torch.randn(200, 2, generator=torch_generator(0, "q"))).requires_grad_()
    mixer(q, batch.codes, batch.numbers, batch.actions).sum().backward()
    assert q.grad is not None
    assert torch.ge(q.grad, 0).all()
    assert torch.gt(q.grad, 0).any()


@pytest.mark.parametrize("hypernetwork", ["state", "state_action"])
@pytest.mark.parametrize("observe", ["own", "all"])
def test_the_table_of_joint_values_equals_mixing_one_by_one(hypernetwork: Any, observe: Any) -> None:
    learner = _learner("awrq_mixer", network={"observe": observe}, mixer={"hypernetwork": hypernetwork}).eval()
    batch = _batch(4)
    table = learner.raw_table(batch.codes, batch.numbers)
    assert table.shape == (4, 24)
    for a, actions in enumerate(learner.joint):
        rows = Batch(batch.codes, batch.numbers, actions.repeat(4, 1), batch.reward, batch.surrogate)
        q = [
            agent.last(rows.codes, rows.numbers, earlier, own).mean(1)[:, own[0, -1]]
            for agent, earlier, own in learner.by_agent(rows)
        ]
        q_tot = learner.online["mixer"](torch.stack(q, 1), rows.codes, rows.numbers, rows.actions)
        assert torch.allclose(table[:, a], q_tot, atol=1e-5)


def test_vdn_s_table_is_the_sum() -> None:
    q = [torch.randn(2, 1, 3), torch.randn(2, 3, 4)]
    table = VDNMixer().table(q, *[torch.zeros(0)] * 3)
    assert torch.allclose(table, (q[0][:, 0, :, None] + q[1]).reshape(2, 12))


def _same_loss(first: str, second: str, **changes: Any) -> None:
    a, b = _learner(first, **dict(changes)), _learner(second, **dict(changes))
    batch = _batch()
    for p in a.online.parameters():  # online and target differ, or identities of targets would be empty
        p.data += 0.1 * torch.randn(p.shape, generator=torch_generator(5, "move"))
    source = a.online[0] if first == "averaged_dqn" else a.online  # its only network
    b.online.load_state_dict(source.state_dict(), strict=False)
    assert float(a.loss(batch)[0].detach()) == pytest.approx(float(b.loss(batch)[0].detach()), rel=1e-6)


@pytest.mark.parametrize("name", ["rem", "averaged_dqn"])
@pytest.mark.parametrize("loss", ["mse", "tweedie"])
def test_one_head_makes_ensembles_dqn(name: Any, loss: Any) -> None:
    _same_loss(name, "dqn", network={"heads": 1}, loss={"kind": loss})


def test_one_head_has_weight_one() -> None:
    _same_loss("awrq_mixer", "awrq_no_aw", network={"heads": 1})


def test_double_dqn_is_dqn_while_online_equals_target() -> None:
    dqn, double, batch = _learner("dqn"), _learner("ddqn"), _batch()
    assert float(dqn.loss(batch)[0].detach()) == pytest.approx(float(double.loss(batch)[0].detach()))
    for learner in (dqn, double):
        for p in learner.target.parameters():
            p.data += torch.randn(p.shape, generator=torch_generator(9, "target"))
    assert float(dqn.loss(batch)[0].detach()) != pytest.approx(float(double.loss(batch)[0].detach()))


@pytest.mark.parametrize("variant", ["cw", "ow"])
def test_alpha_one_makes_weighted_qmix_qmix(variant: Any) -> None:
    weighted, plain, batch = _learner("wqmix", td={"wqmix": variant, "wqmix_alpha": 1.0}), _learner("qmix"), _batch()
    plain.online.load_state_dict(weighted.online.state_dict(), strict=False)
    assert torch.equal(weighted.sample_weights(torch.randn(64), batch), torch.ones(64))
    assert float(weighted.loss(batch)[1]["tot"]) == pytest.approx(float(plain.loss(batch)[1]["tot"]))


def test_algorithm_1_stops_the_mixer_s_loss_at_the_agents() -> None:
    for flow, reaches in (("algorithm1", False), ("end_to_end", True)):
        learner = _learner("awrq_mixer", td={"gradient_flow": flow, "head_loss_weight": 0.0})
        agents = list(learner.online["agents"].parameters())
        q = learner.at_logged(learner.sub_steps(learner.online, _batch()), _batch())
        heads = learner.head_losses(q, learner.targets([], q.detach(), _batch())).sum()
        alone = torch.autograd.grad(heads, agents, allow_unused=True)
        learner.loss(_batch())[0].backward()
        mixer_moves = any(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.online["mixer"].parameters())
        same = all(torch.allclose(p.grad, g) for p, g in zip(agents, alone) if g is not None)
        assert mixer_moves
        assert same is not reaches  # in algorithm1 the agents' gradient is that of their heads' losses alone


def test_td_targets_of_awrq_mixer_by_hand() -> None:
    learner = _learner("awrq_mixer", loss={"kind": "mse"}, td={"gamma": 0.5, "vgca": "normalised", "target_update": 1})
    batch = Batch(
        torch.ones(4, 2, dtype=torch.long),
        torch.zeros(4, 1),
        torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]),
        torch.tensor([1.0, 3.0, 5.0, 7.0]),
        torch.zeros(4),
    )
    q = torch.zeros(4, 3, 4)
    q[:, 1], q[:, 2] = 10.0, 100.0
    # variances 4, 1, 0 → weights .8, 1, 1
    targets = learner.targets([], q, batch)
    assert targets[0, :, 0].tolist() == pytest.approx([0.8 + 5, 1 + 50, 1])
    assert targets[3, :, 0].tolist() == pytest.approx([5.6 + 5, 7 + 50, 7])


def test_only_the_last_sub_step_is_paid_without_vgca() -> None:
    assert _learner("awrq_no_vgca").credit(torch.rand(5), torch.zeros(5, 3).long()).tolist() == [0, 0, 1]


def test_a_network_that_sees_only_the_state_is_flat_before_its_last_sub_step() -> None:
    batch = _batch(2)
    own, blind = (_learner("awrq_mixer", network={"observe": o}).eval() for o in ("own", "state"))
    spread = [
        learner.online["agents"][0].tree(batch.codes, batch.numbers).reshape(2, 2, 3).std(1).max()
        for learner in (own, blind)
    ]
    assert spread[0] > 1e-4
    assert spread[1] == 0
