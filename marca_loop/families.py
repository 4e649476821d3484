"""Which joint actions remain where only some sub-actions are decided request by request: the best family of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marca_common.errors import UserError
from marca_loop.scene import Scene
from marca_measures.static_mixture import static_mixture

_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of the logged traffic that families are compared at


def best_family(scene: Scene, free: Sequence[str]) -> np.ndarray:
    """Joint actions (n,) that share the fixed sub-actions' choices, of all such families the one worth most in the log.

    Worth is the mean value of the best mixture within a family, by the global profile, over quantiles of the log's traffic.
    """
    spec, group = scene.parts.spec, scene.world.groups[0]
    profile, table = scene.profile(group), spec.joint_table()
    fixed = [j for j, name in enumerate(spec.sub_actions) if name not in free]
    family = np.unique(table[:, fixed], axis=0, return_inverse=True)[1].ravel()
    budgets = [scene.allowed(group, float(profile.qps.quantile(one))) for one in _QUANTILES]
    worth = [_worth(profile.values[family == f], profile.costs[family == f], budgets) for f in range(family.max() + 1)]
    if max(worth) == -np.inf:
        raise UserError(f"free {list(free)}: no choice of the other sub-actions fits the budget at peak traffic")
    return np.flatnonzero(family == int(np.argmax(worth)))


def _worth(values: np.ndarray, costs: np.ndarray, budgets: Sequence[np.ndarray]) -> float:
    """Mean value of the best mixtures; −∞ where a budget fits none."""
    least = costs.min(axis=0)
    if any((least > budget).any() for budget in budgets):
        return -np.inf
    try:
        return float(np.mean([static_mixture(values, costs, budget).value for budget in budgets]))
    except UserError:  # each budget alone can be met, all together not
        return -np.inf
