"""Faults that leave every learner training well: what a learner is made of must be there, by hand-worked numbers.

``benchmarks/hand_made_breaks.toml`` holds the faults themselves; ``python -m benchmarks.mutation`` tries them again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from awrq_mixer import equations as eq
from awrq_mixer.config import TrainConfig
from awrq_mixer.evaluate import evaluate_scores, read_truth
from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.learners import LEARNERS
from awrq_mixer.learners.base import Batch
from awrq_mixer.networks.mixers import VDNMixer
from awrq_mixer.networks.space import Space
from awrq_mixer.training.training_log import load_log
from marca_common.requests import RequestSpec
from marca_common.scores import ScoreMatrix, write_scores
from marca_common.seeding import torch_generator
from marca_measures.hull import candidates
from tests.awrq_mixer.conftest import prepared

SPACE = Space((4, 3), 1, ((2, 3), (4,)))
LOG_TWO = float(np.log(2.0))
SURROGATE: dict[str, Any] = {"plus": {"surrogate": "hint", "classes": 3, "rank": 2}}
STATE = {"state": {"one": "category", "two": "category", "three": "numeric"}, "propensity": None}
REMEMBERING = ["latent_classes", "low_rank", "neural_process"]
BOOTSTRAPPING = [name for name, cls in LEARNERS.items() if cls.bootstraps]


def _batch(rows: int = 32) -> Batch:
    g = torch_generator(0, "batch")
    codes = torch.stack([torch.randint(1, n, (rows,), generator=g) for n in SPACE.categories], 1)  # none is unseen
    actions = torch.stack([torch.randint(0, n, (rows,), generator=g) for n in SPACE.sizes], 1)
    money = torch.rand(2, rows, generator=g)
    return Batch(codes, torch.randn(rows, 1, generator=g), actions, money[0], 0.5 + money[1])


def _learner(name: str, heads: int = 2, oov_rate: float = 0.0, **changes: Any) -> Any:
    network = {"embedding": 3, "hidden": 8, "heads": heads, "oov_rate": oov_rate}
    values = {"learner": name, "spec": STATE, "network": network, "mixer": {"embed": 5, "hyper_layers": [6]}, **changes}
    learner = LEARNERS[name](SPACE, LearnerConfig.model_validate(values))
    return prepared(learner, _batch())


def _heads(*by_head: float) -> list[Tensor]:
    """Outputs that are the same for every row, sub-step and sub-action: T × (B, K, n_t)."""
    return [torch.tensor(by_head)[None, :, None].expand(32, -1, n).contiguous() for n in SPACE.sizes]


def _paid(money: float) -> Batch:
    batch = _batch()
    return Batch(batch.codes, batch.numbers, batch.actions, torch.full((32,), money), batch.surrogate)


def test_q_tot_is_made_of_heads_weighted_by_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = _learner("awrq_no_vgca", loss={"kind": "mse"}, td={"gamma": 0.0})
    learner.online["mixer"] = VDNMixer()
    outputs = _heads(1.0, 3.0)
    outputs[2] = _heads(8.0, 4.0)[2]
    monkeypatch.setattr(learner, "sub_steps", lambda networks, batch: outputs)
    logged = learner.loss(_paid(10.0))[1]
    # targets 0, 0, 10. First agent: losses 1 and 9, η = .1, .9, value .1·1 + .9·3; second: 4 and 36, .1·8 + .9·4
    assert float(logged["tot"]) == pytest.approx((10 - 2.8 - 4.4) ** 2)


@pytest.mark.parametrize("bootstrap", ["logged", "max"])
def test_targets_carry_no_gradient_though_they_come_from_the_online_network(
    monkeypatch: pytest.MonkeyPatch, bootstrap: str
) -> None:
    learner = _learner("awrq_mixer", td={"target_update": 1, "bootstrap": bootstrap})
    batch, agents = _batch(), list(learner.online["agents"].parameters())
    found = torch.autograd.grad(learner.loss(batch)[0], agents, allow_unused=True)
    outputs = learner.sub_steps(learner.online, batch)
    constant = learner.targets(outputs, learner.at_logged(outputs, batch), batch).detach().clone()
    monkeypatch.setattr(learner, "targets", lambda *_: constant)
    expected = torch.autograd.grad(learner.loss(batch)[0], agents, allow_unused=True)
    assert all(torch.allclose(one, other) for one, other in zip(found, expected) if one is not None)


@pytest.mark.parametrize("name", BOOTSTRAPPING)
def test_the_target_network_is_a_frozen_copy_renewed_every_few_updates(name: str) -> None:
    learner = _learner(name, td={"target_update": 3})

    def gap() -> float:
        online, target = (parameters_to_vector(net.parameters()).detach() for net in (learner.online, learner.target))
        return float((online - target).abs().max())

    assert gap() == 0
    assert not any(p.requires_grad for p in learner.target.parameters())
    for p in learner.online.parameters():
        p.data += 1.0
    gaps = []
    for step in (1, 2, 3, 4):
        learner.after_step(step)
        gaps.append(gap())
    assert gaps == pytest.approx([1, 1, 0, 0], abs=1e-5)


def test_credit_is_centred_over_sub_actions_not_over_rows() -> None:
    # choice 0: three rows that earn 1; choice 1: one that earns 5. Centre 3 (over rows it is 2), variance 4
    reward, actions = torch.tensor([1.0, 1.0, 1.0, 5.0]), torch.tensor([[0], [0], [0], [1]])
    assert eq.credit_variances(eq.choice_sums(reward, actions, (2,))).tolist() == [4.0]


def test_a_row_s_own_surrogate_is_not_in_its_own_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = _learner("latent_classes", **SURROGATE)
    predicted: list[Tensor] = []
    fit_to = learner.fit_to

    def spy(raw: Tensor, target: Tensor) -> Any:
        predicted.append(raw.detach())
        return fit_to(raw, target)

    monkeypatch.setattr(learner, "fit_to", spy)
    batch = _batch()
    key = learner.keys(batch.codes)
    same = (key == key[0]).nonzero()[1:, 0]  # other rows of the first row's state
    learner.loss(batch)
    batch.surrogate[0] *= 5
    learner.loss(batch)
    moved = (predicted[1] - predicted[0]).abs().amax(0)  # (B,)
    assert len(same) > 0
    assert float(moved[0]) < 1e-5
    assert float(moved[same].min()) > 1e-3


def test_rem_draws_one_mixture_a_batch_for_both_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = _learner("rem", loss={"kind": "mse"}, td={"gamma": 1.0})
    monkeypatch.setattr(learner, "q_values", lambda network, batch: _heads(1.0, 3.0))
    for _ in range(5):  # online and target heads agree: no error but the last, whatever the mixture
        loss, logged = learner.loss(_paid(1.0))
        assert float(loss) == pytest.approx(float(logged["td_last"]), abs=1e-6)


@pytest.mark.parametrize("name", ["dqn", "ddqn", "averaged_dqn", "rem"])
def test_dqn_discounts_the_next_value(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    learner = _learner(name, loss={"kind": "mse"}, td={"gamma": 0.5})
    by_network = {id(learner.online): _heads(0.0, 0.0), id(learner.target): _heads(10.0, 10.0)}
    monkeypatch.setattr(learner, "q_values", lambda network, batch: by_network[id(network)])
    assert float(learner.loss(_paid(1.0))[0]) == pytest.approx(25 + 25 + 1)  # targets .5·10, .5·10 and the reward


def test_optimistic_weights_compare_money_with_money() -> None:
    learner, q_tot = _learner("wqmix", td={"wqmix": "ow", "wqmix_alpha": 0.25}), torch.full((32,), LOG_TWO)
    assert (learner.sample_weights(q_tot, _paid(1.0)) == 0.25).all()  # 1 lies below exp(log 2), though above log 2
    assert (learner.sample_weights(q_tot, _paid(2.1)) == 1).all()


def test_central_weights_compare_money_with_money() -> None:
    class Constant(nn.Module):
        def forward(self, codes: Tensor, numbers: Tensor, actions: Tensor) -> Tensor:
            return torch.full((len(codes),), LOG_TWO)

    learner = _learner("wqmix", td={"wqmix": "cw", "wqmix_alpha": 0.25})
    learner.online["central"] = Constant()
    best = learner.raw_table(_batch().codes, _batch().numbers).argmax(1)
    for shift, money, weight in ((1, 1.0, 0.25), (1, 2.1, 1.0), (0, 1.0, 1.0)):  # the greedy action keeps weight 1
        batch = _paid(money)
        batch.actions = learner.joint[(best + shift) % len(learner.joint)]
        assert (learner.sample_weights(torch.zeros(32), batch) == weight).all()


@pytest.mark.parametrize(
    "name",
    [
        "awrq_mixer",
        "awrq_residual",
        "dqn",
        "averaged_dqn",
        "dqn_joint",
        "vdn",
        "wqmix",
        "glm",
        "regression",
        *REMEMBERING,
    ],
)
def test_the_unseen_row_learns_from_hidden_categories(name: str) -> None:
    def touched(oov_rate: float) -> float:
        learner = _learner(name, oov_rate=oov_rate, **(SURROGATE if name in REMEMBERING else {})).train()
        learner.loss(_batch())[0].backward()
        tables = [table for key, table in learner.online.named_parameters() if "embedding" in key]
        rows = [table.grad.reshape(-1, *table.shape[-2:])[:, [0, SPACE.categories[0]]] for table in tables]
        return min(float(one.abs().amax()) for one in rows)

    assert touched(0.0) == 0
    assert touched(0.5) > 0


def test_additive_scores_are_centred_on_the_logged_mix() -> None:
    learner = _learner("dqn")
    learner.profile.copy_(torch.outer(torch.tensor([0.9, 0.1]), torch.full((12,), 1 / 12)).flatten())
    heads = [torch.zeros(1, n) for n in SPACE.sizes]
    heads[0][0, 1] = 10.0
    table = learner.additive(heads)[0].reshape(2, 12)
    # the first head is worth .1·10 = 1 on average; the mean state value is the mean over heads, 1/3
    assert table[0].tolist() == pytest.approx([1 / 3 - 1] * 12)
    assert table[1].tolist() == pytest.approx([1 / 3 + 9] * 12)


def test_the_encoder_knows_training_rows_only(small_world: Any, small_config: Any, tmp_path: Path) -> None:
    frame = small_world.frame.copy()
    late = np.arange(len(frame)) >= 0.8 * len(frame)  # the rows of validation and test
    frame["segment"] = np.where(late, "late", frame["segment"])
    frame["age"] = np.where(late, 1e6, np.arange(len(frame)) % 3)
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    spec = {**small_world.spec, "state": {**small_world.spec["state"], "age": "numeric"}}
    config = TrainConfig.model_validate({**small_config, "requests": str(tmp_path / "log.parquet"), "spec": spec})
    encoder = load_log(config).encoder
    assert encoder.vocabularies["segment"] == [str(i) for i in range(8)]
    assert encoder.means["age"] == pytest.approx(1.0)
    assert encoder.scales["age"] == pytest.approx(np.sqrt(2 / 3))


def test_a_state_with_two_requests_counts_as_two_states() -> None:
    rng = np.random.default_rng(3)
    q, truth, cost = rng.random((5, 12)), rng.gamma(1, 1, (5, 12)), rng.gamma(1, 1, (5, 12, 2))
    twice = np.repeat(np.arange(5), [1, 2, 3, 1, 4])
    once = evaluate_scores(q, truth, cost, np.bincount(twice).astype(float), [0.3])
    many = evaluate_scores(q[twice], truth[twice], cost[twice], np.ones(len(twice)), [0.3])
    for name in ("spearman_within", "spearman_within_profile", "capture", "regret", "least_spend"):
        assert once[name] == pytest.approx(many[name]), name


def test_a_state_of_the_truth_counts_with_its_requests_in_the_log(tmp_path: Path) -> None:
    spec = RequestSpec.model_validate({"state": {"name": "category"}, "agents": {"x": ["b"]}, "sizes": {"b": 2}})
    states = pd.DataFrame({"name": ["often", "never", "once"]})
    write_scores(ScoreMatrix(states, {"value": np.ones((3, 2)), "cost_cpu": np.ones((3, 2))}), tmp_path / "t.parquet")
    found = read_truth(str(tmp_path / "t.parquet"), pd.DataFrame({"name": ["often", "once", "often"]}), spec)
    assert dict(zip(found.states["name"], found.requests)) == {"often": 2, "once": 1}


@pytest.mark.parametrize("services", [1, 2, 3])
@pytest.mark.parametrize("power", [-30, 20])
def test_what_can_be_best_does_not_depend_on_the_unit_of_money(services: int, power: int) -> None:
    rng = np.random.default_rng(services)
    q, c = rng.gamma(1, 1, (20, 80)), rng.gamma(1, 1, (20, 80, services))
    for one, other in zip(candidates(q, c), candidates(q * 2.0**power, c)):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("margin", [1e-2, 1e-5, 1e-8])
def test_an_action_that_wins_by_little_is_kept(margin: float) -> None:
    # at λ = (1, 1) the third action beats the other two, which tie, by the margin alone; the fourth loses by it
    q = np.array([[2.0, 2.0, 2.0 + margin, 2.0 - margin]])
    c = np.array([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]])
    assert sorted(candidates(q, c)[1].tolist()) == [0, 1, 2]
    chain_q, chain_c = np.array([[0.0, 1.0 + margin, 2.0, 1.5 - margin]]), np.array([[[0.0], [1.0], [2.0], [1.5]]])
    assert candidates(chain_q, chain_c)[1].tolist() == [0, 1, 2]
