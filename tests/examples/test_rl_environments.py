"""Other people's interfaces to our world and plant: their own checkers pass, and learners that know only these learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_world.config import WorldConfig
from marca_common.config import load_config
from marca_common.errors import UserError
from mpc_balancer.testbed.scenarios import Scenario

pytest.importorskip("gymnasium", reason="the extra `rl` is not installed")
pytest.importorskip("pettingzoo", reason="the extra `rl` is not installed")

from gymnasium.utils.env_checker import check_env
from pettingzoo.test import parallel_api_test

from examples.rl_environments.cascade_env import CascadeEnv
from examples.rl_environments.plant_env import PlantEnv

DEAR = [0.05, 0.05]  # money per core-ms: more than any action is worth


@pytest.fixture(scope="module")
def world() -> WorldConfig:
    return load_config(WorldConfig, "configs/cascade_world/small.yaml")


def test_the_cascade_passes_pettingzoo_s_test(world: WorldConfig) -> None:
    parallel_api_test(CascadeEnv(world, DEAR, requests=40), num_cycles=100)


def test_the_plant_passes_gymnasium_s_test() -> None:
    check_env(PlantEnv(Scenario(days=0.02, lost_share=0.3)), skip_render_check=True)


def played(env: CascadeEnv, seed: int, choose: Any) -> list[tuple[Any, float, Any]]:
    """Observations, rewards and infos of the first agent."""
    seen, _ = env.reset(seed=seed)
    found, agent = [], env.possible_agents[0]
    while env.agents:
        shown = seen[agent]
        seen, rewards, _, _, infos = env.step({one: choose(one) for one in env.agents})
        found.append((shown, rewards[agent], infos[agent]))
        assert len(set(rewards.values())) == 1
    return found


def test_the_reward_is_revenue_less_the_price_of_what_was_computed(world: WorldConfig) -> None:
    free, priced = CascadeEnv(world, requests=60), CascadeEnv(world, [0.01, 0.02], requests=60)
    largest = {agent: free.action_space(agent).nvec - 1 for agent in free.possible_agents}
    least = {agent: 0 * most for agent, most in largest.items()}
    one, two = played(free, 3, largest.get), played(priced, 3, largest.get)
    for (seen, reward, info), (again, less, also) in zip(one, two):
        assert np.array_equal(seen, again)
        assert reward == info["revenue"] == also["revenue"]
        assert less == pytest.approx(reward - np.array([0.01, 0.02]) @ info["core_ms"])
    spent = [np.mean([info["core_ms"].sum() for _, _, info in played(free, 3, who.get)]) for who in (least, largest)]
    assert 0 < spent[0] < spent[1]


def test_an_episode_depends_on_its_seed_and_number_alone(world: WorldConfig) -> None:
    def states(env: CascadeEnv, seed: int | None) -> Any:
        env.reset(seed=seed)
        return env._codes.tolist()

    env, other = CascadeEnv(world, requests=30), CascadeEnv(world, requests=30)
    first, second = states(env, 5), states(env, None)
    assert first != second
    assert states(other, 5) == first
    assert states(other, None) == second
    assert states(other, 6) != first


def test_a_price_for_every_service_is_asked_for(world: WorldConfig) -> None:
    with pytest.raises(UserError, match="lambda_: got 1 prices; expected one per service"):
        CascadeEnv(world, [0.1])


class Bandit:
    """An independent learner of one agent: mean reward of each choice of each sub-action, now and then a random one."""

    def __init__(self, sizes: np.ndarray, seed: int) -> None:
        self.rng, self.sizes = np.random.default_rng(seed), sizes
        self.count = [np.zeros(n) for n in sizes]
        self.total = [np.zeros(n) for n in sizes]

    def act(self, curious: float) -> np.ndarray:
        best = [int(np.argmax(np.where(n > 0, t / np.maximum(n, 1), np.inf))) for n, t in zip(self.count, self.total)]
        return np.where(self.rng.random(len(best)) < curious, self.rng.integers(self.sizes), best)

    def learn(self, action: np.ndarray, reward: float) -> None:
        for choice, count, total in zip(action, self.count, self.total):
            count[choice] += 1
            total[choice] += reward


@pytest.mark.slow
def test_independent_learners_find_cheap_actions_where_computation_is_dear(world: WorldConfig) -> None:
    env = CascadeEnv(world, DEAR, requests=500)
    bandits = {agent: Bandit(env.action_space(agent).nvec, seed) for seed, agent in enumerate(env.possible_agents)}

    def rewards(seed: int, curious: float) -> float:
        env.reset(seed=seed)
        found = []
        while env.agents:
            actions = {agent: one.act(curious) for agent, one in bandits.items()}
            _, reward, *_ = env.step(actions)
            for agent, one in bandits.items():
                one.learn(actions[agent], reward[agent])
            found.append(reward[agent])
        return float(np.mean(found))

    random = rewards(1, 1.0)
    assert rewards(2, 0.0) > random / 2  # both are losses: less than half is left


@pytest.mark.slow
def test_a_search_over_linear_policies_learns_to_hold_the_cpu() -> None:
    env, rng = PlantEnv(Scenario(days=0.1)), np.random.default_rng(0)
    shape = (len(env.action_space.sample()), len(env.observation_space.sample()) + 1)

    def score(weights: np.ndarray, seed: int) -> float:
        seen, _ = env.reset(seed=seed)
        total, steps, over = 0.0, 0, False
        while not over:
            action = 1 / (1 + np.exp(-weights.reshape(shape) @ np.append(seen, 1.0)))
            seen, reward, _, over, _ = env.step(action.astype(np.float32))
            total, steps = total + reward, steps + 1
        return total / steps

    mean, deviation = np.zeros(np.prod(shape)), 1.0
    untrained = score(mean, 99)
    for generation in range(8):  # the cross-entropy method
        tried = mean + deviation * rng.standard_normal((24, mean.size))
        best = np.argsort([score(one, generation) for one in tried])[-6:]
        mean, deviation = tried[best].mean(axis=0), tried[best].std(axis=0)
    assert score(mean, 99) > untrained + 0.1
