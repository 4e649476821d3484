"""What each strategy makes of a budget: blind ones give every prompt the same odds, the others take argmax Q − λC."""

from __future__ import annotations

import numpy as np

from marca_common.errors import UserError
from marca_measures.static_mixture import static_mixture
from revenue_sim.allocation.one_budget import allocate


def shares(scores: np.ndarray, expected: np.ndarray, prices: np.ndarray, budget: float) -> dict[str, np.ndarray]:
    """Share of each prompt that each model answers, float64 (S, A), per strategy.

    ``scores`` (S, A) are true, ``expected`` (S, A) the router's; ``prices`` (A,) and ``budget`` per prompt are in one unit.
    ``static`` knows the true mean score of each model on these prompts; ``clairvoyant`` knows every score.
    """
    if budget < prices.min():
        least = prices.min() / prices.max()
        raise UserError(f"budgets: got {budget / prices.max():.6g}; the cheapest model alone needs {least:.6g}")
    mixture = static_mixture(scores.mean(axis=0), prices, budget)
    static = np.zeros(len(prices))
    static[mixture.actions] = mixture.weights
    blind = {"static": static, "random": at_random(prices, budget), "cheapest_first": cheapest_first(prices, budget)}
    return {
        "router": priced(expected, prices, budget),
        **{name: np.tile(odds, (len(scores), 1)) for name, odds in blind.items()},
        "clairvoyant": priced(scores, prices, budget),
    }


def priced(values: np.ndarray, prices: np.ndarray, budget: float) -> np.ndarray:
    """argmax Q − λC with the λ that meets the budget per prompt, (S, A); less than one prompt's upgrade may be left over."""
    solved = allocate(values, prices, budget * len(values), threads=1)
    share = np.zeros(values.shape)
    share[np.arange(len(values)), solved.choice] = 1.0
    return share


def at_random(prices: np.ndarray, budget: float) -> np.ndarray:
    """Any model with equal odds; where that is too dear, the cheapest one for as many prompts as needed; (A,)."""
    return _between(_priced_at(prices, prices.min()), np.full(len(prices), 1.0 / len(prices)), prices, budget)


def cheapest_first(prices: np.ndarray, budget: float) -> np.ndarray:
    """Up the price list: all prompts get one price, and as many as the budget allows the next one; (A,)."""
    levels = np.unique(prices)
    step = int(np.searchsorted(levels, budget, side="right")) - 1
    low, high = (_priced_at(prices, levels[min(k, len(levels) - 1)]) for k in (step, step + 1))
    return _between(low, high, prices, budget)


def _priced_at(prices: np.ndarray, price: float) -> np.ndarray:
    """Equal odds for all models of a price."""
    own = prices == price
    return np.asarray(own / own.sum())


def _between(low: np.ndarray, high: np.ndarray, prices: np.ndarray, budget: float) -> np.ndarray:
    """As much of the odds ``high`` as the budget allows, the rest ``low``."""
    room, more = budget - float(low @ prices), float((high - low) @ prices)
    part = min(1.0, max(0.0, room / more)) if more > 0 else 1.0
    return np.asarray(low + part * (high - low))
