"""The cascade, slowly and obviously: one request, one joint action, plain lists."""

from __future__ import annotations

import math
from typing import Any


def expected_outcome(
    candidates: list[dict[str, Any]],
    lengths: list[int],
    model: int,
    truncation: int,
    ranker: int,
    slots: list[float],
    reserve: float,
    commission_per_click: float,
) -> dict[str, float]:
    """Expectation over clicks of one joint action on given candidates (channel, score, pre, click, bid, estimate)."""
    retrieved = []
    for channel, length in enumerate(lengths):
        own = [one for one in candidates if one["channel"] == channel]
        retrieved += sorted(own, key=lambda one: -one["score"][model])[:length]
    passed = sorted(retrieved, key=lambda one: -one["pre"][model])[:truncation]
    ranked = sorted(passed, key=lambda one: -one["estimate"][ranker] * one["bid"])
    q, clicks, spend, none, variance = 0.0, 0.0, 0.0, 1.0, 0.0
    shown = ranked[: len(slots)]
    for i, one in enumerate(shown):
        price = min(reserve, one["bid"])
        if i + 1 < len(ranked):
            following = ranked[i + 1]
            price = max(price, following["estimate"][ranker] * following["bid"] / one["estimate"][ranker])
        chance = one["click"] * slots[i]
        clicks += chance
        spend += chance * price
        variance += chance * (1 - chance) * price**2
        none *= 1 - chance
        q += chance * (price + commission_per_click)
    return {
        "q": q,
        "p0": none,
        "clicks": clicks,
        "spend": spend,
        "spend2": spend**2 + variance,
        "impressions": len(shown),
        "retrieved": len(retrieved),
        "preranked": len(passed),
    }


def auction_by_hand() -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Three candidates of one channel, two slots (1, .5), reserve 2, no purchases; worked out on paper.

    Rank values .1·50 = 5, .2·20 = 4, .1·10 = 1: the first pays 4/.1 = 40, the second max(2, 1/.2) = 5.
    Clicks .1 and .2·.5 = .1, so spend .1·40 + .1·5 = 4.5, no click .9·.9 = .81.
    """
    rows = [(0.1, 50.0), (0.2, 20.0), (0.1, 10.0)]
    candidates = [
        {"channel": 0, "score": [-i], "pre": [-i], "click": click, "bid": bid, "estimate": [click]}
        for i, (click, bid) in enumerate(rows)
    ]
    assert math.isclose(0.1 * 40 + 0.1 * 5, 4.5)
    return candidates, {"q": 4.5, "p0": 0.81, "clicks": 0.2, "spend": 4.5, "impressions": 2}
