"""The table of the example: accuracy by budget and strategy, with intervals over prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from examples.llm_router.config import RouterConfig
from examples.llm_router.strategies import shares
from marca_common.seeding import numpy_generator

STRATEGIES = ("router", "static", "random", "cheapest_first", "clairvoyant")
NUMBERS = ("accuracy", "ci_low", "ci_high", "lead_over_static", "lead_low", "lead_high", "spend")


def judged(
    name: str, scores: np.ndarray, expected: np.ndarray, prices: np.ndarray, config: RouterConfig
) -> pd.DataFrame:
    """Rows ``data, budget, strategy, accuracy, ci_low, ci_high, lead_over_static, lead_low, lead_high, spend``.

    ``scores`` and ``expected`` (S, A), ``prices`` (A,). ``budget`` and ``spend`` are shares of what the dearest model costs for
    all prompts; a lead is relative, 0.05 is five percent. Allocations stay as they are in all draws of prompts.
    """
    counts = _draws(len(scores), config)
    tails = 50.0 * (1.0 - config.confidence)
    rows: list[dict[str, Any]] = []
    for budget in config.budgets:
        share = shares(scores, expected, prices, budget * prices.max())
        means = {key: _means((share[key] * scores).sum(axis=1), counts) for key in STRATEGIES}
        for key, mean in means.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                lead = mean / means["static"] - 1.0
            low, high = np.percentile(mean[1:], [tails, 100.0 - tails])
            lead_low, lead_high = np.percentile(lead[1:], [tails, 100.0 - tails])
            spend = float((share[key] @ prices).mean() / prices.max())
            numbers = [mean[0], low, high, lead[0], lead_low, lead_high, spend]
            rows.append({"data": name, "budget": budget, "strategy": key} | dict(zip(NUMBERS, map(float, numbers))))
    return pd.DataFrame(rows)


def _draws(prompts: int, config: RouterConfig) -> np.ndarray:
    """How often each prompt is in each draw, (draws + 1, S); draw 0 has every prompt once."""
    generator = numpy_generator(config.seed, "llm_router", "bootstrap")
    drawn = generator.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=config.bootstrap_draws)
    return np.vstack([np.ones((1, prompts)), drawn])


def _means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of the prompts' values in each draw."""
    return np.asarray(counts @ values / len(values))
