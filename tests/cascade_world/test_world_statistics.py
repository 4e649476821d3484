"""Statistics that need many requests: off-policy estimates cover the truth, tables stand in for the mechanism."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.population.world_traffic import make_traffic
from cascade_world.portrait.properties import sample_states
from cascade_world.records.logging_policies import LoggingPolicy
from cascade_world.records.request_log import serve
from cascade_world.request_luck import hash_columns
from cascade_world.world import World
from marca_common.seeding import integer_seed


def snips(weight: np.ndarray, reward: np.ndarray) -> tuple[float, float]:
    """Self-normalised importance sampling: estimate and its standard error by the delta method."""
    value = float((weight * reward).sum() / weight.sum())
    return value, float(np.sqrt(((weight * (reward - value)) ** 2).sum()) / weight.sum())


@pytest.mark.slow
def test_self_normalised_ips_covers_the_truth(make_config: Any) -> None:
    """A stochastic policy near the logging one; 95 % intervals hold the truth in at least 85 of 100 seeds."""
    world = World(make_config("truth.draws=400"))
    logging, target = LoggingPolicy(world), LoggingPolicy(world, exploration=0.35)
    n, table = 5600, world.spec.joint_table()
    states = sample_states(world, 1500)
    truth = float((target.probabilities(states) * world.values(world.population.frame(states))).sum(axis=1).mean())
    covered, sizes = 0, []
    for seed in range(100):
        luck = hash_columns(integer_seed(seed, "ips"), np.arange(n))
        codes = states[(luck % np.uint64(len(states))).astype(np.int64)]
        joint, propensity = logging.act(codes, luck)
        same = logging.rule(codes) == table[joint]  # (n, sub-actions)
        sizes_of = np.array(world.spec.shape)
        wanted = np.prod(target.exploration / sizes_of + (1 - target.exploration) * same, axis=1)
        weight = wanted / propensity
        estimate, error = snips(weight, serve(world, seed, 0, codes, joint)["revenue"].to_numpy())
        covered += abs(estimate - truth) <= 1.96 * error
        sizes.append(weight.sum() ** 2 / (weight**2).sum())
    assert min(sizes) >= 5000
    assert covered >= 85


@pytest.mark.slow
@pytest.mark.parametrize("sub_actions", [(1, 2, 2, 0, 2), (3, 3, 3, 1, 3)])
def test_sampled_outcomes_stand_in_for_the_cascade(
    make_config: Any, sub_actions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plant's revenue per request against the mechanism's on the same mix of states: mean, zeros, spread and tail."""
    quiet = ["plant.machines.north={retrieval: 99, ranking: 99}", "plant.weight=3000", "truth.draws=400"]
    world = World(make_config(*quiet))
    joint = int(np.ravel_multi_index(list(sub_actions), world.spec.shape))
    traffic = make_traffic(world.config, 2, 300 / 1440, start_day=0.7)
    plant = WorldPlant(world, "north", traffic, lambda ids, _: np.full(len(ids), joint), 5)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(plant.breakdown, "add", lambda *seen: parts.append((seen[1], seen[3])))
    for row in traffic.arrivals[0]:
        plant.step(np.zeros(2), row)
    states, sampled = (np.concatenate(one) for one in zip(*parts))
    codes = plant.catalogue.codes[states]
    mechanism = serve(world, 77, 0, codes, np.full(len(codes), joint))["revenue"].to_numpy()
    n = len(sampled)
    assert n > 80_000
    assert plant.minutes()[["timeouts", "degradation"]].to_numpy().max() == 0
    error = np.hypot(sampled.std(), mechanism.std()) / np.sqrt(n)
    assert abs(sampled.mean() - mechanism.mean()) < 4 * error + 0.01 * mechanism.mean()
    assert (sampled > 0).mean() == pytest.approx((mechanism > 0).mean(), abs=0.006)
    assert sampled.std() == pytest.approx(mechanism.std(), rel=0.12)
    for level in (0.5, 0.75, 0.9, 0.99):
        ours, true = np.quantile(sampled[sampled > 0], level), np.quantile(mechanism[mechanism > 0], level)
        assert ours == pytest.approx(true, rel=0.12), level
