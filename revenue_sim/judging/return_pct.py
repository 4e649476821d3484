"""Return%: what a model's allocation earns in the truth's numbers (Eq. 20 and §4.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def return_pct(model_by_state: np.ndarray, truth_by_state: np.ndarray) -> float:
    """Eq. 20, read as: true revenue of the model's allocation in percent of that of the truth's own, both (S,).

    NaN where the truth earns nothing.
    """
    truth = float(truth_by_state.sum())
    return 100.0 * float(model_by_state.sum()) / truth if truth > 0 else float("nan")


def return_interval(
    models_by_state: Sequence[np.ndarray],
    truth_by_state: np.ndarray,
    generator: np.random.Generator,
    *,
    draws: int,
    confidence: float,
) -> tuple[float, float]:
    """Percentile interval of the mean Return% over training seeds, from draws of seeds and of states with replacement.

    ``models_by_state``: one (S,) array per training seed, the true revenue of that seed's allocation in each state. The
    allocations stay as they are; a draw says what other states, and other seeds, would have shown.
    """
    stacked = np.stack(models_by_state)  # (K, S)
    seeds, states = stacked.shape
    ratios = np.empty(draws)
    for draw in range(draws):
        weight = np.bincount(generator.integers(0, states, states), minlength=states)
        chosen = generator.integers(0, seeds, seeds)
        total = float(truth_by_state @ weight)
        ratios[draw] = 100.0 * float((stacked[chosen] @ weight).mean()) / total if total > 0 else np.nan
    tail = 50.0 * (1.0 - confidence)
    if not np.isfinite(ratios).any():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(ratios, [tail, 100.0 - tail])
    return float(low), float(high)
