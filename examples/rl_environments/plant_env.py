"""The balancer's testbed plant as a Gymnasium environment: set λ each minute so that the CPUs stay at their budget."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from mpc_balancer.price_scale import PriceScale
from mpc_balancer.testbed.run_metrics import over_utilisation, utilisation
from mpc_balancer.testbed.scenarios import Scenario, start_scenario

MOST_TRAFFIC = 10.0  # times the plant's reference traffic: what an observation can say


class PlantEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A data centre under a scenario; an episode is the scenario's days, and is then truncated.

    Action: each price's place in its box, 0 free, 1 the end (``PriceScale``). Observation: CPU of each service as a share of the
    budget, traffic over the plant's reference, the prices' places last set, and sine and cosine of the time of day. A reading that
    is lost keeps its last value. Reward: utilisation μ less ``over_weight`` times over-utilisation ν of the minute (Eqs. 21, 22).
    """

    metadata = {"render_modes": []}

    def __init__(self, scenario: Scenario | None = None, budget: float = 65.0, over_weight: float = 10.0) -> None:
        """``budget``: C_m of every service, percent of the declared cores."""
        self.scenario, self.budget, self.over_weight = scenario or Scenario(days=1.0), budget, over_weight
        reference = start_scenario(self.scenario, 0).reference
        high = 12 * np.array(reference.half_price)
        self.scale = PriceScale(np.zeros(len(high)), high, high / 20)
        services, prices = len(reference.services), len(high)
        top = np.array([*services * [100 / budget], MOST_TRAFFIC, *prices * [1.0], 1.0, 1.0], np.float32)
        low = np.array([*np.zeros(services + 1 + prices), -1.0, -1.0], np.float32)
        self.observation_space = Box(low, top)
        self.action_space = Box(0.0, 1.0, (prices,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a day whose traffic and disturbances are drawn anew; its first minute runs in the middle of the box."""
        super().reset(seed=seed)
        self._run = start_scenario(self.scenario, int(self.np_random.integers(2**31)))
        self._plant, self._minute = self._run.plant(), 0
        self._readings = np.full(len(self._run.reference.services), self.budget)
        self._unit = np.full(self.scale.size, 0.5)
        return self._serve(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One minute under the prices at these places of the box; ``info`` holds the prices and the true CPU, percent."""
        self._unit = np.clip(np.asarray(action, np.float64), 0.0, 1.0)
        seen, cpu = self._serve(), self._plant.truth[-1]
        over = self.over_weight * np.mean(over_utilisation(cpu[None], self.budget))
        reward = float(np.mean(utilisation(cpu[None], self.budget)) - over)
        done = self._minute == len(self._run.arrivals)
        return seen, reward, False, done, {"lambda": self.scale.from_unit(self._unit), "cpu": cpu}

    def _serve(self) -> np.ndarray:
        """Serve a minute; what is then seen, float32."""
        report = self._plant.step(self.scale.from_unit(self._unit), self._run.arrivals[self._minute])
        self._minute += 1
        self._readings = np.where(np.isfinite(report.cpu), report.cpu, self._readings)
        traffic = np.nan_to_num(report.qps) / self._run.reference.reference_qps
        angle = 2 * np.pi * (report.timestamp.astype("datetime64[s]").astype(np.int64) % 86_400) / 86_400
        outside = np.array([np.sin(angle), np.cos(angle)])
        seen = [self._readings / self.budget, np.array([min(traffic, MOST_TRAFFIC)]), self._unit, outside]
        return np.concatenate(seen).astype(np.float32)
