"""Metrics of scores: order over all pairs and within states, what a budget makes of them, agreement with revenue seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from awrq_mixer.serving.decide_kernels import candidates


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two equally long arrays; 0 where one of them is constant."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 0 else 0.0


def within_state_spearman(q: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank correlation over the joint actions of each state, two (S, A) → (S,); 0 where a state's scores are flat."""
    a, b = rankdata(q, axis=1), rankdata(truth, axis=1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.where(size > 0, (a * b).sum(1) / np.maximum(size, 1e-300), 0.0)


def reference_scores(truth: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    """Two references for r_s over all pairs, (S, A) each: ``state_value``, the true state mean without actions, and
    ``state_times_profile``, that mean times one global profile of actions."""
    mean = truth.mean(1, keepdims=True)
    profile = np.average(truth / np.maximum(mean, 1e-300), axis=0, weights=weight)
    return {"state_value": np.repeat(mean, truth.shape[1], 1), "state_times_profile": mean * profile}


@dataclass
class Frontier:
    """What argmax Q − λC earns and spends for every λ: cumulative (true) value and cost per request, cheapest first."""

    cost: np.ndarray  # (N,) mean cost per request, rising
    value: np.ndarray  # (N,) mean true value per request

    def at(self, budget: float) -> tuple[float, float]:
        """(value, spend) at a mean cost per request, randomising at the margin; scores that cannot spend stop short."""
        spend = float(np.clip(budget, self.cost[0], self.cost[-1]))
        return float(np.interp(spend, self.cost, self.value)), spend


def frontier(q: np.ndarray, cost: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> Frontier:
    """Sweep λ from ∞ to 0 for scores ``q`` with costs ``cost``, judged by ``truth``; all (S, A), ``weight`` (S,).

    Each state climbs its own upper hull; all climbs together, steepest first, are the solutions of Eq. 6 for all λ.
    """
    counts, joint = candidates(np.asarray(q, np.float64), np.asarray(cost, np.float64)[:, :, None])
    state = np.repeat(np.arange(len(q)), counts)
    share = (weight / weight.sum())[state]
    q_at, c_at, v_at = (np.asarray(x, np.float64)[state, joint] for x in (q, cost, truth))
    first = np.concatenate([[True], state[1:] != state[:-1]])
    climb = np.flatnonzero(~first)
    slope = (q_at[climb] - q_at[climb - 1]) / (c_at[climb] - c_at[climb - 1])
    order = climb[np.argsort(-slope, kind="stable")]
    steps_c, steps_v = share[order] * (c_at[order] - c_at[order - 1]), share[order] * (v_at[order] - v_at[order - 1])
    start_c, start_v = (share * c_at)[first].sum(), (share * v_at)[first].sum()
    return Frontier(start_c + np.insert(np.cumsum(steps_c), 0, 0.0), start_v + np.insert(np.cumsum(steps_v), 0, 0.0))


def static_frontier(cost: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> Frontier:
    """The best mixture of fixed joint actions, by true means: the same action for every state."""
    mean_c, mean_v = (np.average(x, axis=0, weights=weight)[None] for x in (cost, truth))
    return frontier(mean_v, mean_c, mean_v, np.ones(1))


def capture_curve(
    q: np.ndarray, cost: np.ndarray, truth: np.ndarray, weight: np.ndarray, shares: list[float]
) -> list[dict[str, float]]:
    """At each budget: value, spend, capture and regret of the scores against clairvoyant and static mixture.

    Budgets lie at ``shares`` of the way from the cheapest to the clairvoyant's largest useful spend. Capture is the
    share of the clairvoyant's uplift over the best static mixture; regret the share of the clairvoyant's value lost.
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
                "spend": spend / budget,
                "clairvoyant": top,
                "static": base,
                "capture": (value - base) / (top - base) if top > base else 0.0,
                "regret": 1 - value / top,
            }
        )
    return rows


def calibration(predicted: np.ndarray, observed: np.ndarray, buckets: int) -> dict[str, np.ndarray]:
    """Mean prediction and mean observed revenue of equally full buckets of prediction, (buckets,) each."""
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, min(buckets, len(order)))
    return {
        "predicted": np.array([predicted[part].mean() for part in parts]),
        "observed": np.array([observed[part].mean() for part in parts]),
        "rows": np.array([len(part) for part in parts]),
    }


def bucket_errors(curve: dict[str, np.ndarray]) -> dict[str, float]:
    """Bucket r_s, PE (mean of predicted/observed − 1) and absolute PE (mean of larger/smaller − 1) over buckets that
    earned something."""
    earned = (curve["observed"] > 0) & (curve["predicted"] > 0)
    p, o = curve["predicted"][earned], curve["observed"][earned]
    if not len(p):
        return {"bucket_spearman": 0.0, "pe": float("nan"), "absolute_pe": float("nan")}
    return {
        "bucket_spearman": spearman(curve["predicted"], curve["observed"]),
        "pe": float(np.mean(p / o - 1)),
        "absolute_pe": float(np.mean(np.maximum(p, o) / np.minimum(p, o) - 1)),
    }
