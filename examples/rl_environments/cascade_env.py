"""The cascade of the open world as a PettingZoo environment: one agent a stage, one request a step, one reward for all.

Agents act at once, each on the state alone, as the paper's agents do that see no other stage's sub-actions. The reward is
what the request earned less λ times the core-milliseconds that it took. Nothing of the world's truth is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import MultiDiscrete
from pettingzoo import ParallelEnv

from cascade_world.config import WorldConfig
from cascade_world.mechanism.assembled_world import World
from cascade_world.records.request_log import request_luck, request_times, serve
from marca_common.errors import UserError
from marca_common.seeding import integer_seed

Observations = dict[str, np.ndarray]


class CascadeEnv(ParallelEnv[str, np.ndarray, np.ndarray]):  # type: ignore[misc]  # PettingZoo has no types
    """Requests of a world in time order; an episode has ``requests`` of them and is then truncated.

    Observation of every agent: the code of each state column. Action: the agent's sub-actions. ``infos`` hold the request's
    ``revenue``, money, and ``core_ms`` (services,), the expected cost of what was retrieved and ranked for it.
    """

    metadata = {"name": "marca_cascade_v0", "render_modes": []}
    render_mode = None

    def __init__(self, config: WorldConfig, lambda_: Sequence[float] | None = None, requests: int = 1000) -> None:
        """``lambda_``: price per service, money per core-ms; None: computation is free. A UserError for another number of prices."""
        self.world = World(config)
        services = len(self.world.services)
        self.lambda_ = np.zeros(services) if lambda_ is None else np.asarray(lambda_, np.float64)
        if self.lambda_.shape != (services,):
            raise UserError(f"lambda_: got {self.lambda_.size} prices; expected one per service, {self.world.services}")
        self.requests, spec = requests, self.world.spec
        self.possible_agents = list(spec.agents)
        self.agents: list[str] = []
        seen = MultiDiscrete([len(values) for values in self.world.population.values.values()])
        self.observation_spaces = dict.fromkeys(self.possible_agents, seen)
        self.action_spaces = {
            agent: MultiDiscrete([spec.sizes[name] for name in names]) for agent, names in spec.agents.items()
        }
        self._seed, self._episode = config.seed, 0

    def observation_space(self, agent: str) -> MultiDiscrete:
        """Number of values of every state column."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> MultiDiscrete:
        """Number of choices of each of the agent's sub-actions."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin the first episode of ``seed``, or without one the next; an episode's requests depend on these alone."""
        self._seed, self._episode = (self._seed, self._episode + 1) if seed is None else (seed, 0)
        self._luck = integer_seed(self._seed, "episode", self._episode)
        seconds = request_times(self.world, self.requests, self._luck)
        numbers = np.arange(self.requests)
        self._codes = self.world.population.sample(request_luck(self._luck, numbers), seconds / 3600.0)
        self._number, self.agents = 0, list(self.possible_agents)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        """Serve the request at hand with all agents' sub-actions, and show the next one."""
        sub_actions = np.concatenate([np.asarray(actions[agent]) for agent in self.possible_agents])
        joint = int(np.ravel_multi_index(sub_actions, self.world.spec.shape))
        revenue, core_ms = self._served(joint)
        self._number += 1
        agents, over = self.agents, self._number == self.requests
        told = {"revenue": revenue, "core_ms": core_ms}
        observations = self._seen()
        if over:
            self.agents = []
        return (
            observations,
            dict.fromkeys(agents, revenue - float(self.lambda_ @ core_ms)),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            {agent: dict(told) for agent in agents},
        )

    def _served(self, joint: int) -> tuple[float, np.ndarray]:
        """Revenue and cost, core-ms per service, of the request at hand."""
        world, codes = self.world, self._codes[self._number : self._number + 1]
        row = serve(world, self._luck, self._number, codes, np.array([joint])).iloc[0]
        retrieval, _, ranker = world.space.joint[joint]
        opened = np.flatnonzero(world.space.lengths[retrieval]).tolist()
        model = int(world.space.model[retrieval])
        lengths = float(row["retrieved"]), float(row["preranked"])
        return float(row["revenue"]), world.costs.cost(int(codes[0, 3]), model, int(ranker), opened, *lengths)

    def _seen(self) -> Observations:
        place = min(self._number, self.requests - 1)  # after the last request there is no next one to show
        return {agent: self._codes[place].copy() for agent in self.agents}
