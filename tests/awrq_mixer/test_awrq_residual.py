"""AWRQ-Mixer of departures: what is common to all states by hand, what teaches which part, and a round trip to decisions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from awrq_mixer.config import TrainConfig
from awrq_mixer.learner_config import LearnerConfig, MixerConfig, NetworkConfig
from awrq_mixer.learners import awrq_residual
from awrq_mixer.learners.awrq_residual import START, AWRQResidual
from awrq_mixer.learners.base import Batch
from awrq_mixer.networks.agents import initialise
from awrq_mixer.networks.mixers import MonotonicMixer, ResidualMixer
from awrq_mixer.networks.space import Space
from awrq_mixer.serving import HullPolicy, Predictor
from awrq_mixer.train import train
from marca_common.seeding import torch_generator
from tests.awrq_mixer.conftest import prepared

SPACE = Space((4, 3), 1, ((2, 3), (4,)))
STATE = {"state": {"one": "category", "two": "category", "three": "numeric"}, "propensity": None}
ROWS = 32


def _batch() -> Batch:
    g = torch_generator(0, "batch")
    codes = torch.stack([torch.randint(1, n, (ROWS,), generator=g) for n in SPACE.categories], 1)
    actions = torch.stack([torch.randint(0, n, (ROWS,), generator=g) for n in SPACE.sizes], 1)
    money = torch.rand(2, ROWS, generator=g)
    return Batch(codes, torch.randn(ROWS, 1, generator=g), actions, money[0], 0.5 + money[1])


def _learner(**changes: Any) -> AWRQResidual:
    network = {"embedding": 3, "hidden": 8, "heads": 2, "oov_rate": 0.0}
    values = {"spec": STATE, "network": network, "mixer": {"embed": 5, "hyper_layers": [6]}, **changes}
    learner = AWRQResidual(SPACE, LearnerConfig.model_validate({"learner": "awrq_residual", **values}))
    return prepared(learner, _batch())


SIDE: dict[str, Any] = {"plus": {"surrogate": "hint"}}


@torch.no_grad()
def _common(learner: AWRQResidual, paid: str = "") -> None:
    """Level 1 + 2 · number + .5 where column one is 1; effects t of sub-action choice t + 1, and 3 for the pair (1, 2) of one agent."""
    level, effects = learner.online[f"{paid}level"], learner.online[f"{paid}effects"]
    for table in (level.embedding.table.weight, *effects.tables):
        table.zero_()
    level.bias.fill_(1.0)
    level.slopes.fill_(2.0)
    level.embedding.table.weight[1] = 0.5
    effects.tables[0][0, 1] = 0.25
    effects.tables[2][0, 3] = -0.75
    if not paid:
        effects.tables[3][0, 1 * 3 + 2] = 3.0  # the first pair of sub-actions


@torch.no_grad()
def _silent(learner: AWRQResidual) -> None:
    for agent in learner.online["agents"]:
        for out in agent.out:
            out.weight.zero_()
            out.bias.zero_()


def test_where_agents_say_nothing_the_value_is_level_times_effect() -> None:
    learner = _learner().eval()
    _silent(learner)
    _common(learner)
    found = learner.values(torch.tensor([[1, 2], [2, 1]]), torch.tensor([[0.1], [-0.2]])).detach()
    levels = torch.tensor([1 + 0.2 + 0.5, 1 - 0.4])
    effects = torch.zeros(2, 3, 4)
    effects[1] += 0.25
    effects[..., 3] -= 0.75
    effects[1, 2] += 3.0
    assert torch.allclose(found, torch.exp(levels[:, None] + effects.flatten()), rtol=1e-5)


def test_with_a_side_column_revenue_s_correction_is_added() -> None:
    learner = _learner(**SIDE).eval()
    _silent(learner)
    _common(learner)
    plain = learner.raw_table(torch.tensor([[1, 2]]), torch.tensor([[0.1]])).detach().reshape(2, 3, 4)
    _common(learner, "paid_")
    both = learner.raw_table(torch.tensor([[1, 2]]), torch.tensor([[0.1]])).detach().reshape(2, 3, 4)
    added = torch.full((2, 3, 4), 1.7)
    added[1] += 0.25
    added[..., 3] -= 0.75
    assert torch.allclose(both - plain, added, atol=1e-5)


def test_the_table_is_what_training_sees_of_each_joint_action(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = _learner(loss={"kind": "mse"}, td={"head_loss_weight": 0.0, "target_update": 1}).eval()
    with torch.no_grad():
        for table in learner.online["effects"].tables:
            table.normal_(generator=torch_generator(3, "effects"))
    monkeypatch.setattr(learner, "head_weights", lambda losses: torch.full_like(losses, 0.5))  # as serving has it
    batch = _batch()
    table = learner.raw_table(batch.codes, batch.numbers).detach()
    joint = (batch.actions * torch.tensor([12, 4, 1])).sum(1)
    expected = (table[torch.arange(ROWS), joint] - batch.reward).square().mean()
    assert float(learner.loss(batch)[1]["tot"]) == pytest.approx(float(expected), rel=1e-5)


def _mixers(**changes: Any) -> tuple[ResidualMixer, MonotonicMixer]:
    config = MixerConfig.model_validate({"embed": 5, "hyper_layers": [6], **changes})
    made = []
    for kind in (ResidualMixer, MonotonicMixer):
        mixer = kind(SPACE, config, NetworkConfig(embedding=3, oov_rate=0.0))
        initialise(mixer, "torch", torch_generator(0, "mixer"))
        torch.nn.init.normal_(mixer.hyper_out.bias, generator=torch_generator(1, "bias"))
        made.append(mixer.eval())
    return made[0], made[1]  # type: ignore[return-value]


@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_the_mixer_says_nothing_of_nothing_and_keeps_all_differences(activation: str) -> None:
    residual, whole = _mixers(activation=activation)
    batch, g = _batch(), torch_generator(4, "q")
    first, second = torch.randn(2, ROWS, 2, generator=g)
    zero = torch.zeros(ROWS, 2)

    def at(mixer: MonotonicMixer, q: Tensor) -> Tensor:
        return mixer(q, batch.codes, batch.numbers, batch.actions).detach()  # type: ignore[no-any-return]

    assert torch.allclose(at(residual, zero), torch.zeros(ROWS), atol=1e-6)
    assert torch.allclose(at(residual, first) - at(residual, second), at(whole, first) - at(whole, second), atol=1e-5)


def test_the_mixer_rises_with_every_agent_s_value() -> None:
    residual, _ = _mixers()
    batch = _batch()
    q = torch.randn(ROWS, 2, generator=torch_generator(5, "q"), requires_grad=True)
    (slope,) = torch.autograd.grad(residual(q, batch.codes, batch.numbers, batch.actions).sum(), q)
    assert (slope > 0).all()


@pytest.mark.parametrize("changes", [{}, SIDE])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_gradient_reaches_every_head_though_departures_start_at_nothing(
    changes: dict[str, Any], weight: float
) -> None:
    learner = _learner(**changes, td={"head_loss_weight": weight})
    _silent(learner)
    learner.loss(_batch())[0].backward()  # type: ignore[no-untyped-call]
    for agent in learner.online["agents"]:
        for t, out in enumerate(agent.out):
            reached = out.weight.grad.unflatten(0, (2, -1)).abs().amax((1, 2)) > 0  # of both heads
            assert reached.all() or (weight == 0 and t < len(agent.out) - 1)  # Q_tot is of last sub-steps alone


def test_heads_start_at_a_tenth() -> None:
    learner = _learner()
    other = AWRQResidual(SPACE, learner.config)
    initialise(other, "glorot_uniform", torch_generator(1, "weights"))
    for mine, usual in zip(learner.online["agents"], other.online["agents"]):
        assert torch.allclose(mine.out[0].weight, START * usual.out[0].weight)


def test_sub_steps_depart_from_level_and_the_effects_so_far() -> None:
    learner = _learner()
    _common(learner)
    with torch.no_grad():
        learner.online["constants"][0].copy_(torch.tensor([0.1, 0.2, 0.3]))
    batch = _batch().take(torch.arange(2))
    batch.codes, batch.numbers = torch.tensor([[1, 1], [2, 1]]), torch.tensor([[0.0], [0.5]])
    batch.actions = torch.tensor([[1, 2, 3], [0, 2, 3]])
    level, effects = learner.shared(learner.online, batch)
    assert level.tolist() == pytest.approx([1.5, 2.0])
    base = learner.so_far(learner.online, level, effects)[:, :, 0].detach()
    first = [1.5 + 0.25 + 0.1, 1.5 + 0.25 + 3 + 0.2, 1.5 + 0.25 + 3 - 0.75 + 0.3]
    assert base[0].tolist() == pytest.approx(first)
    assert base[1].tolist() == pytest.approx([2.1, 2.2, 2.0 - 0.75 + 0.3])


def test_the_heads_losses_leave_level_and_effects_alone() -> None:
    learner = _learner()
    batch = _batch()
    outputs = learner.sub_steps(learner.online, batch)
    own = learner.at_logged(outputs, batch)
    q = own + learner.so_far(learner.online, *learner.shared(learner.online, batch))
    heads, _ = learner.heads_loss(q, learner.targets(outputs, q, batch))
    heads.backward()  # type: ignore[no-untyped-call]
    moved = {name for name, p in learner.online.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("constants") for name in moved)
    assert any(name.startswith("agents") for name in moved)
    assert not any(name.startswith(("level", "effects", "mixer")) for name in moved)


def _gradients(learner: AWRQResidual, batch: Batch) -> dict[str, Tensor]:
    learner.zero_grad()
    learner.loss(batch)[0].backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in learner.online.named_parameters() if p.grad is not None}


def test_the_side_column_teaches_all_but_revenue_s_corrections() -> None:
    learner, batch = _learner(**SIDE), _batch()
    before = _gradients(learner, batch)
    batch.reward = batch.reward.flip(0)
    paid = _gradients(learner, batch)
    batch.surrogate = batch.surrogate.flip(0)
    hinted = _gradients(learner, batch)
    for name in before:
        assert torch.equal(before[name], paid[name]) == (not name.startswith("paid_")) or not before[name].any()
    assert not torch.equal(paid["level.bias"], hinted["level.bias"])
    assert torch.allclose(paid["paid_level.bias"], hinted["paid_level.bias"], rtol=1e-2)  # but for η in the departures


def test_ridges_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awrq_residual, "RIDGES", (2.0, 3.0))
    monkeypatch.setattr(awrq_residual, "CORRECTION_RIDGES", (5.0, 7.0))
    learner = _learner()
    _common(learner)
    assert float(learner.ridge().detach()) == pytest.approx((2 * 0.25 + 3 * 9) / ROWS)
    learner = _learner(**SIDE)
    _common(learner)  # the side column's own tables have none
    _common(learner, "paid_")
    with torch.no_grad():
        learner.online["paid_effects"].tables[3][0, 0] = 2.0
    assert float(learner.ridge().detach()) == pytest.approx((5 * 0.25 + 7 * 4) / ROWS)


def test_a_target_network_of_equal_weights_says_the_same() -> None:
    own, later = _learner(td={"target_update": 1}), _learner(td={"target_update": 100})
    batch = _batch()
    found = [float(one.loss(batch)[0].detach()) for one in (own, later)]
    assert found[0] == pytest.approx(found[1])


def test_the_best_next_sub_action_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"td\.bootstrap: got 'max'; awrq_residual knows the logged"):
        TrainConfig.model_validate({"learner": "awrq_residual", "td": {"bootstrap": "max"}})


@pytest.mark.parametrize("surrogate", [None, "clicks"])
def test_trained_saved_loaded_and_deciding(
    small_world: Any, small_config: Any, tmp_path: Path, surrogate: str | None
) -> None:
    frame = small_world.frame.assign(clicks=small_world.frame["money"] + 1.0)
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    changes = {"learner": "awrq_residual", "plus": {"surrogate": surrogate}, "requests": str(tmp_path / "log.parquet")}
    result = train(TrainConfig.model_validate({**small_config, **changes}), tmp_path / "run")
    states, _, _ = result.model.spec.distinct_states(frame)
    values = result.model.values(states)
    again = Predictor.load(tmp_path / "run/best.pt")
    assert np.array_equal(again.values(states), values)
    assert again.config.plus.surrogate == surrogate
    cost = np.tile(np.arange(24.0), (len(states), 1))
    policy = HullPolicy.build(states, again.values, lambda rows: cost[: len(rows)], quiet=True)
    assert np.array_equal(policy.decide(states, 0.02), (values - 0.02 * cost).argmax(1))


def test_a_side_column_without_noise_orders_actions_within_states(
    small_world: Any, small_config: Any, tmp_path: Path
) -> None:
    frame = small_world.frame.copy()
    states, ids = frame[["place", "segment"]], frame.index
    joint = frame["b1"] * 12 + frame["b2"] * 4 + frame["b3"]
    frame["hint"] = small_world.truth(states)[ids, joint]
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    common = {**small_config, "requests": str(tmp_path / "log.parquet"), "epochs": 30, "td": {"head_loss_weight": 0.1}}
    found = {}
    for learner, plus in (("glm", {}), ("awrq_residual", {"surrogate": "hint"})):
        model = train(
            TrainConfig.model_validate({**common, "learner": learner, "plus": plus}), tmp_path / learner
        ).model
        asked, _, _ = model.spec.distinct_states(frame)
        pairs = zip(model.values(asked), small_world.truth(asked))
        found[learner] = float(np.mean([pd.Series(q).corr(pd.Series(v), method="spearman") for q, v in pairs]))
    assert found["awrq_residual"] > 0.9 > found["glm"]


def test_the_summary_has_the_spread_of_head_weights_over_all_updates(small_config: Any, tmp_path: Path) -> None:
    config = {**small_config, "learner": "awrq_mixer", "loss": {"kind": "mse"}, "eval_every": 1}
    summary = train(TrainConfig.model_validate(config), tmp_path / "run").summary
    logged = pd.read_csv(tmp_path / "run/metrics.csv")  # a row per update
    assert summary["eta_least"] == pytest.approx(logged["eta_min"].min())
    assert summary["eta_most"] == pytest.approx(logged["eta_max"].max())
    assert 0 <= summary["eta_least"] < 1 / 3 < summary["eta_most"] <= 1
    glm = train(TrainConfig.model_validate({**small_config, "learner": "glm", "epochs": 0.1}), tmp_path / "glm").summary
    assert "eta_least" not in glm
    assert math.isfinite(summary["eta_most"])
