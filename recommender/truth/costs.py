"""What settings cost: CPU time by the process' own clock, per service, per tier of history length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from recommender.cascade.accounting import serve_accounted
from recommender.cascade.action_space import ActionSpace, Setting
from recommender.cascade.stages import Cascade
from recommender.config import SERVICES, CostConfig
from recommender.request import Request


@dataclass(frozen=True)
class Costs:
    """Core-milliseconds per request of H history tiers, D settings and the services, in R rounds."""

    rounds: np.ndarray  # float64 (R, H, D, services)

    @property
    def table(self) -> np.ndarray:
        """Median over rounds, float64 (H, D, services)."""
        return np.asarray(np.median(self.rounds, axis=0))

    @property
    def between_round_cv(self) -> np.ndarray:
        """Standard deviation between rounds over the mean, of all services and mean over tiers with visits, float64 (D,)."""
        total = np.nanmean(self.rounds.sum(axis=3), axis=1)
        return np.asarray(total.std(axis=0, ddof=1) / total.mean(axis=0))

    def frame(self, names: list[str]) -> pd.DataFrame:
        """One row per round, tier and setting."""
        index = pd.MultiIndex.from_product(
            [range(n) for n in self.rounds.shape[:3]], names=["round", "history", "setting"]
        )
        frame = pd.DataFrame(self.rounds.reshape(-1, len(SERVICES)), index, list(SERVICES)).reset_index()
        return frame.assign(action=[names[d] for d in frame["setting"]])

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> Costs:
        """From what ``frame`` gave."""
        shape = [int(frame[name].max()) + 1 for name in ("round", "history", "setting")]
        return cls(frame[list(SERVICES)].to_numpy().reshape(*shape, len(SERVICES)))


def measuring_order(rounds: int, tiers: int, settings: int, seed: int) -> np.ndarray:
    """Each (tier, setting) once per round in random order, as tier · settings + setting, int64 (R, H · D)."""
    generator = numpy_generator(seed, "measuring order")
    return np.stack([generator.permutation(tiers * settings) for _ in range(rounds)])


def measure_costs(
    cascade: Cascade, requests: list[list[Request]], space: ActionSpace, config: CostConfig, seed: int
) -> Costs:
    """Serve the requests of each tier (H lists, not all empty) under every setting, in random order, round by round.

    A warm-up serves every setting once before. Threads are the caller's to settle: the clock is of the whole process.
    """
    tiers, size = len(requests), len(space.settings)
    rounds = np.empty((config.rounds, tiers, size, len(SERVICES)))
    for setting in space.settings:
        cpu_ms(cascade, next(filter(None, requests))[:1], setting)
    order = measuring_order(config.rounds, tiers, size, seed)
    for number, cell in progress(
        [(number, cell) for number, cells in enumerate(order) for cell in cells], what="costs", unit="cell"
    ):
        tier, place = divmod(int(cell), size)
        rounds[number, tier, place] = cpu_ms(cascade, requests[tier], space.settings[place])
    return Costs(rounds)


def cpu_ms(cascade: Cascade, requests: list[Request], setting: Setting) -> np.ndarray:
    """Mean core-milliseconds per request in retrieval and in ranking, (2,); NaN where there are no requests."""
    if not requests:
        return np.full(len(SERVICES), np.nan)
    spent = np.zeros(len(SERVICES))
    for request in requests:
        spent += serve_accounted(cascade, request, setting).cpu_ms
    return spent / len(requests)
