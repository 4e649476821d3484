"""What a build says of itself in numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from marca_common.seeding import numpy_generator
from recommender.build_parts import LOG_FILE, Parts
from recommender.cascade.action_space import Setting
from recommender.config import RANKERS
from recommender.movielens.wheel import LICENCE
from recommender.truth.variance import variance_shares

_DRAWS = 2000  # of users


def build_summary(parts: Parts) -> dict[str, Any]:
    """Sizes, ranges of value and cost, the best fixed actions, and where the variance of value is."""
    ratings, visits = parts.people.ratings, parts.people.visits
    log = pd.read_parquet(parts.folder / LOG_FILE, columns=["revenue", "visit"])
    logged, judged = parts.values
    return {
        "licence": LICENCE,
        "users": len(ratings.users),
        "films": len(ratings.films),
        "ratings": len(ratings.user),
        "duplicates": ratings.duplicates,
        "dropped_users": ratings.dropped_users,
        "visits": len(visits),
        "requests": len(log),
        "joint_actions": len(parts.space.distinct),
        "distinct_actions": len(parts.space.settings),
        "cost_ms": cost_ranges(parts),
        "value": value_ranges(parts, judged, logged),
        "ranker_gain_pct": ranker_gains(parts, judged.mean(axis=0, dtype=np.float64)),
        "ranker_lead": ranker_leads(_by_ranker(parts), judged, visits.user, parts.config.seed),
        "by_truncation": by_truncation(parts, judged.mean(axis=0, dtype=np.float64)),
        "variance_share": variance_shares(judged, parts.states, visits.user, parts.config.seed),
        "rewarded_share": float((log["revenue"] > 0).mean()),
        "revenue_mean": float(log["revenue"].mean()),
        "revenue_cv": float(log["revenue"].std() / max(log["revenue"].mean(), 1e-12)),
    }


def cost_ranges(parts: Parts) -> dict[str, float]:
    """Cheapest and dearest fixed action, core-ms per request, and how well rounds agree, percent."""
    cost = parts.cost_of_visits().sum(axis=2).mean(axis=0)
    cv = 100 * parts.costs.between_round_cv
    return {
        "least": float(cost.min()),
        "most": float(cost.max()),
        "between_round_cv_pct": float(np.median(cv)),
        "between_round_cv_p90_pct": float(np.quantile(cv, 0.9)),
    }


def value_ranges(parts: Parts, judged: np.ndarray, logged: np.ndarray) -> dict[str, Any]:
    """Judged value of fixed actions, money per request, and of the best action of each visit by the other half."""
    mean, cost = judged.mean(axis=0, dtype=np.float64), parts.cost_of_visits().sum(axis=2).mean(axis=0)
    best = int(np.argmax(mean))
    return {
        "least": float(mean.min()),
        "best": float(mean[best]),
        "best_action": parts.space.names[best],
        "best_action_cost_ms": float(cost[best]),
        "kept_answer": float(mean[[one.cached for one in parts.space.settings]].max(initial=0.0)),
        "best_with": {ranker: float(mean[own].max()) for ranker, own in _by_ranker(parts).items()},
        "split_half_best": float(np.take_along_axis(judged, logged.argmax(axis=1)[:, None], axis=1).mean()),
        "own_half_best": float(judged.max(axis=1).mean()),
    }


def ranker_gains(parts: Parts, mean: np.ndarray) -> dict[str, float]:
    """Value of a ranker over none, percent: mean over the actions that differ in nothing else."""
    place = {setting: d for d, setting in enumerate(parts.space.settings)}
    gains: dict[str, list[float]] = {}
    for setting, d in place.items():
        plain = next(
            (e for one, e in place.items() if one.ranker == "none" and _but_ranker(one) == _but_ranker(setting)), None
        )
        if setting.ranker != "none" and plain is not None:
            gains.setdefault(setting.ranker, []).append(100 * (mean[d] / mean[plain] - 1))
    return {ranker: float(np.mean(found)) for ranker, found in gains.items()}


def ranker_leads(
    by_ranker: dict[str, np.ndarray], judged: np.ndarray, user: np.ndarray, seed: int
) -> dict[str, dict[str, float]]:
    """How far the best action with a ranker is ahead of the best with the one before, money per request.

    ``judged`` (V, D), ``user`` (V,). With a 95 % interval: percentiles over draws of users.
    """
    best = {ranker: judged[:, own[judged[:, own].mean(axis=0).argmax()]] for ranker, own in by_ranker.items()}
    users = int(user.max()) + 1
    draws = numpy_generator(seed, "ranker leads").multinomial(users, np.full(users, 1 / users), size=_DRAWS)
    visits = draws @ np.bincount(user, minlength=users)
    found = {}
    for before, ranker in pairwise(best):
        lead = best[ranker].astype(np.float64) - best[before]
        low, high = np.percentile(draws @ np.bincount(user, lead, users) / visits, [2.5, 97.5])
        found[f"{ranker}_over_{before}"] = {"mean": float(lead.mean()), "low": float(low), "high": float(high)}
    return found


def by_truncation(parts: Parts, mean: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean value of the actions with a ranker that pass so many films, ``mean`` (D,)."""
    found: dict[str, dict[str, float]] = {}
    for ranker, own in _by_ranker(parts).items():
        passed = np.array([parts.space.settings[d].truncation for d in own])
        found[ranker] = {str(n): float(mean[own[passed == n]].mean()) for n in np.unique(passed)}
    return found


def _by_ranker(parts: Parts) -> dict[str, np.ndarray]:
    served = [(d, one.ranker) for d, one in enumerate(parts.space.settings) if not one.cached]
    found = {ranker: np.array([d for d, own in served if own == ranker], int) for ranker in RANKERS}
    return {ranker: own for ranker, own in found.items() if len(own)}


def _but_ranker(setting: Setting) -> tuple[object, int]:
    return setting.retrieval, setting.truncation
