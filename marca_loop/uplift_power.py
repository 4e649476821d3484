"""How large a log it would take until the uplift's interval excludes 0, and what exploring in the meantime would cost.

Errors fall with the root of the rows. They also fall where requests explore: in a share of them every joint action is as likely. How
much, the equations of ``revenue_sim.off_policy.signed`` tell: the information on effects of sub-actions and pairs, with actions drawn
anew. The policy is taken to stay as good as it is; with more rows it becomes better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from marca_loop.judged_half import POLICY, RIVALS, JudgedHalf
from revenue_sim.off_policy.directions import ActionEffects

EXPLORED = (0.0, 0.02, 0.05, 0.1, 0.2)  # shares of requests with a uniformly random joint action
_SAMPLE = 4000  # requests that information is worked out on


def power_table(
    halves: Sequence[JudgedHalf], table: pd.DataFrame, days: float | None, spec: RequestSpec, seed: int
) -> pd.DataFrame:
    """Rows ``rival, explored, rows, days, cost_pct``: at today's spend, until the interval excludes 0.

    ``days``: what the log covers; None: unknown. ``cost_pct``: share of revenue that exploring costs while it lasts.
    """
    today, logged = table[table["spend_share"] == 1.0].set_index("rival"), sum(len(one.ids) for one in halves)
    actions, found = ActionEffects.of(spec.shape), []
    loss = float(np.mean([random_loss(one, actions) for one in halves]))
    for rival in RIVALS:
        needed = float(today["rows_needed"].astype(float)[rival])  # NaN: unknown
        for explored in EXPLORED:
            share = float(np.mean([error_share(one, actions, rival, explored, seed) for one in halves]))
            rows = needed * share
            wait = np.nan if days is None else rows * days / logged
            found.append(
                {"rival": rival, "explored": explored, "rows": rows, "days": wait, "cost_pct": 100 * explored * loss}
            )
    return pd.DataFrame(found)


def error_share(half: JudgedHalf, actions: ActionEffects, rival: str, explored: float, seed: int) -> float:
    """Variance of the uplift over a rival per row if a share of requests were ``explored``, over that of today's log."""
    gradient = half.valued[1.0, POLICY].gradient - half.valued[1.0, rival].gradient
    gradient = gradient[: actions.columns.shape[1]]

    def variance(share: float) -> float:
        return float(gradient @ np.linalg.solve(_information(half, actions, share, seed), gradient))

    return 1.0 if explored == 0 or not gradient.any() else variance(explored) / variance(0.0)


def random_loss(half: JudgedHalf, actions: ActionEffects) -> float:
    """Share of revenue that is lost where joint actions are drawn evenly, by effects of sub-actions and pairs."""
    worth = np.exp(actions.columns @ half.effects.slope[: actions.columns.shape[1]])
    return 1 - float((half.reward / worth[half.joint]).mean() * worth.mean() / half.reward.mean())


def _information(half: JudgedHalf, actions: ActionEffects, explored: float, seed: int) -> np.ndarray:
    """Of effects (K, K), per request, with what their being draws adds at the log's rows."""
    generator = numpy_generator(seed, "uplift_power")
    rows = generator.integers(0, len(half.ids), _SAMPLE)
    random = generator.random(_SAMPLE) < explored
    joint = np.where(random, generator.integers(0, len(actions.columns), _SAMPLE), half.joint[rows])
    foreseen = (1 - explored) * actions.foreseen(half.propensities.of_rows(rows)) + explored * actions.columns.mean(0)
    x = actions.columns[joint] - foreseen
    known = np.where(
        actions.block < 0, 1e-9, 1 / np.maximum(half.effects.sd[0], 1e-4) ** 2 if half.effects.sd.size else 0
    )
    return np.asarray(x.T @ x / _SAMPLE + np.diag(known / len(half.ids) + 1e-9))
