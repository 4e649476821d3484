"""The table of the example: accuracy by budget and strategy, with intervals over prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from examples.llm_router.config import RouterConfig
from examples.llm_router.strategies import shares
from marca_common.seeding import numpy_generator

STRATEGIES = ("router", "static", "random", "cheapest_first", "clairvoyant")


def judged(
    name: str, scores: np.ndarray, expected: np.ndarray, prices: np.ndarray, config: RouterConfig
) -> pd.DataFrame:
    """Rows ``data, budget, strategy, accuracy, ci_low, ci_high, lead_over_static, lead_low, lead_high, spend``.

    ``scores`` and ``expected`` (S, A), ``prices`` (A,). ``budget`` and ``spend`` are shares of what the dearest model costs for
    all prompts; a lead is relative, 0.05 is five percent. Allocations stay as they are in all draws of prompts.
    """
    dearest = prices.max()
    found = [shares(scores, expected, prices, budget * dearest) for budget in config.budgets]
    worth = np.array(
        [[(one[key] * scores).sum(axis=1) for key in STRATEGIES] for one in found]
    )  # (budgets, strategies, S)
    spend = np.array([[(one[key] @ prices).mean() / dearest for key in STRATEGIES] for one in found])
    mean, drawn = worth.mean(axis=2), _drawn_means(worth, config)
    (low, high), (lead_low, lead_high) = (_interval(one, config) for one in (drawn, _lead(drawn)))
    budgets = np.repeat(config.budgets, len(STRATEGIES))
    table = pd.DataFrame({"data": name, "budget": budgets, "strategy": STRATEGIES * len(found)})
    numbers = {
        "accuracy": mean, "ci_low": low, "ci_high": high,
        "lead_over_static": _lead(mean), "lead_low": lead_low, "lead_high": lead_high, "spend": spend,
    }  # fmt: skip
    return table.assign(**{key: one.ravel() for key, one in numbers.items()})


def _drawn_means(worth: np.ndarray, config: RouterConfig) -> np.ndarray:
    """Mean over prompts of ``worth`` (…, S) in each draw of as many prompts with replacement, (draws, …)."""
    generator, size = numpy_generator(config.seed, "llm_router", "bootstrap"), worth.shape[-1]
    draws = (generator.integers(size, size=size) for _ in range(config.bootstrap_draws))
    return np.array([worth @ np.bincount(draw, minlength=size) / size for draw in draws])


def _lead(means: np.ndarray) -> np.ndarray:
    """Of each strategy, the last axis, over the static mixture; NaN where that is never right."""
    static = means[..., [STRATEGIES.index("static")]]
    return np.asarray(means / np.where(static > 0, static, np.nan) - 1.0)


def _interval(drawn: np.ndarray, config: RouterConfig) -> np.ndarray:
    """Low and high percentiles over draws, the first axis."""
    tail = 50.0 * (1.0 - config.confidence)
    return np.asarray(np.percentile(drawn, [tail, 100.0 - tail], axis=0))
