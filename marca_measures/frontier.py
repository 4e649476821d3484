"""What a budget makes of scores: the frontier of argmax Q − λC over all prices, and capture at given budgets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marca_measures.hull import candidates

_NOTHING = 1e-9  # an uplift below this share of the value is rounding


@dataclass
class Frontier:
    """What argmax Q − λC earns and spends for every λ: cumulative (true) value and cost per request, cheapest first."""

    cost: np.ndarray  # (N,) mean cost per request, rising
    value: np.ndarray  # (N,) mean true value per request

    def at(self, budget: float) -> tuple[float, float]:
        """(value, spend) at a mean cost per request, randomising at the margin; scores that cannot spend stop short."""
        spend = float(np.clip(budget, self.cost[0], self.cost[-1]))
        return float(np.interp(spend, self.cost, self.value)), spend


@dataclass
class Climbs:
    """argmax Q − λC for every λ: each state climbs its own upper hull, and all climbs together go steepest first (Eq. 6)."""

    state: np.ndarray  # (E,) the actions on the hulls, one state after another, by rising cost
    joint: np.ndarray  # (E,)
    share: np.ndarray  # (E,) weight of the action's state; those of the states sum to 1
    order: np.ndarray  # (N − 1,) places in E that are climbed to, as λ falls

    @classmethod
    def of(cls, q: np.ndarray, cost: np.ndarray, weight: np.ndarray) -> Climbs:
        """The climbs of scores ``q`` with costs ``cost``, both (S, A); ``weight`` (S,)."""
        counts, joint = candidates(np.asarray(q, np.float64), np.asarray(cost, np.float64)[:, :, None])
        state = np.repeat(np.arange(len(q)), counts)
        climb = np.flatnonzero(state[1:] == state[:-1]) + 1
        q_at, c_at = (np.asarray(x, np.float64)[state, joint] for x in (q, cost))
        slope = (q_at[climb] - q_at[climb - 1]) / (c_at[climb] - c_at[climb - 1])
        return cls(state, joint, (weight / weight.sum())[state], climb[np.argsort(-slope, kind="stable")])

    def total(self, per_pair: np.ndarray) -> np.ndarray:
        """Mean over requests of ``per_pair`` (S, A) of the chosen actions, before the first climb and after each, (N,)."""
        at = self.share * np.asarray(per_pair, np.float64)[self.state, self.joint]
        first = np.r_[True, self.state[1:] != self.state[:-1]]
        return np.asarray(at[first].sum() + np.insert(np.cumsum(at[self.order] - at[self.order - 1]), 0, 0.0))


def frontier(q: np.ndarray, cost: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> Frontier:
    """Sweep λ from ∞ to 0 for scores ``q`` with costs ``cost``, judged by ``truth``; all (S, A), ``weight`` (S,)."""
    climbs = Climbs.of(q, cost, weight)
    return Frontier(climbs.total(cost), climbs.total(truth))


def static_frontier(cost: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> Frontier:
    """The best mixture of fixed joint actions, by true means: the same action for every state."""
    mean_c, mean_v = (np.average(x, axis=0, weights=weight)[None] for x in (cost, truth))
    return frontier(mean_v, mean_c, mean_v, np.ones(1))


def capture_curve(
    q: np.ndarray, cost: np.ndarray, truth: np.ndarray, weight: np.ndarray, shares: list[float]
) -> list[dict[str, float]]:
    """At each budget: value, spend, capture and regret of the scores against clairvoyant and static mixture.

    Budgets lie at ``shares`` of the way from the cheapest to the clairvoyant's largest useful spend. Capture is the
    share of the clairvoyant's uplift over the best static mixture; regret the share of the clairvoyant's value lost. Both
    are 0 where there is nothing to share: no uplift but rounding, no value. A budget of 0 is always spent.
    """
    mine = frontier(q, cost, truth, weight)
    best, static = frontier(truth, cost, truth, weight), static_frontier(cost, truth, weight)
    rows = []
    for share in shares:
        budget = float(best.cost[0] + share * (best.cost[-1] - best.cost[0]))
        (value, spend), (top, _), (base, _) = mine.at(budget), best.at(budget), static.at(budget)
        rows.append(
            {
                "budget": budget,
                "value": value,
                "spend": spend / budget if budget > 0 else 1.0,
                "clairvoyant": top,
                "static": base,
                "capture": (value - base) / (top - base) if top - base > _NOTHING * abs(top) else 0.0,
                "regret": 1 - value / top if top > 0 else 0.0,
            }
        )
    return rows
