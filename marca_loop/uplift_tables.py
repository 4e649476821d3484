"""The uplift of judged halves as a table, a figure and a manager's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.requests import RequestSpec
from marca_loop.judged_half import LOGGED, POLICY, RIVALS, JudgedHalf
from revenue_sim.off_policy.intervals import effective_rows
from revenue_sim.off_policy.signed import signed_uplift

NAMES = {"logged": "today's policy", "static_mixture": "best static mixture", "priced_blind": "priced, one profile"}


def uplift_table(halves: Sequence[JudgedHalf], clusters: Sequence[np.ndarray], confidence: float) -> pd.DataFrame:
    """One row per spend and rival: uplift and its interval in percent, predicted spend, rows needed to exclude 0."""
    rows, number = [], sum(len(one.ids) for one in halves)
    for share in dict.fromkeys(share for share, _ in halves[0].valued):
        for rival in RIVALS:
            found = signed_uplift(
                [one.valued[share, POLICY] for one in halves],
                [one.valued[share, rival] for one in halves],
                clusters,
                confidence,
            )
            spend = np.average([one.decided[share, POLICY].spend for one in halves], weights=[len(c) for c in clusters])
            rows.append(
                {
                    "spend_share": share,
                    "core_ms": float(spend),
                    "rival": rival,
                    "uplift_pct": 100 * found.uplift,
                    "low_pct": _percent(found.low),
                    "high_pct": _percent(found.high),
                    "se_log": found.se,
                    "rows_needed": found.rows_needed(number, confidence),
                    "warning": found.warning,
                }
            )
    return pd.DataFrame(rows)


def summary_of(
    table: pd.DataFrame, halves: Sequence[JudgedHalf], log: pd.DataFrame, spec: RequestSpec
) -> dict[str, Any]:
    """What a manager asks first, and what tells how far to trust it."""
    today = table[table["spend_share"] == 1.0].set_index("rival")
    less = table[np.isclose(table["spend_share"], 0.8)].set_index("rival")
    columns = ["uplift_pct", "low_pct", "high_pct"]
    effective = sum(_matched_rows(one) for one in halves)
    return {
        "rows": len(log),
        "core_ms_today": float(np.average([one.today for one in halves], weights=[len(one.ids) for one in halves])),
        "at_todays_spend": {rival: _plain(today.loc[rival, columns]) for rival in RIVALS},
        "at_20_pct_less_cpu": {rival: _plain(less.loc[rival, columns]) for rival in RIVALS if len(less)},
        "cpu_saved_at_todays_revenue_pct": saved(table[table["rival"] == LOGGED]),
        "rows_needed": {rival: _number(today.loc[rival, "rows_needed"]) for rival in RIVALS},
        "carried_by": "effects of sub-actions, pairs and departures (g-estimation)",
        "rows_that_match_the_policy": effective,
        "sd_of_pairs": [float(one.effects.sd[0]) for one in halves if len(one.effects.sd)],
        "propensities": {
            "groupings": dict(zip(spec.sub_actions, halves[0].propensities.groupings)),
            "least": float(min(one.propensities.logged.min() for one in halves)),
        },
    }


def saved(curve: pd.DataFrame) -> dict[str, float | None]:
    """CPU that is saved where the policy earns today's revenue, percent: by the estimate, and by both ends of its interval.

    None where the curve over spends does not cross today's revenue.
    """
    curve = curve.sort_values("spend_share")
    share = curve["spend_share"].to_numpy()
    found = {}
    for name, column in (("estimate", "uplift_pct"), ("low", "low_pct"), ("high", "high_pct")):
        gain = curve[column].to_numpy(np.float64)
        cross = np.flatnonzero((gain[:-1] < 0) & (gain[1:] >= 0)) if np.isfinite(gain).all() else []
        if not len(cross):
            found[name] = None
            continue
        i = int(cross[-1])
        at = share[i] + (share[i + 1] - share[i]) * -gain[i] / (gain[i + 1] - gain[i])
        found[name] = 100 * (1 - float(at))
    return found


def draw(table: pd.DataFrame, path: Path) -> None:
    """Uplift over each rival against spend, with intervals."""
    figure, axis = new_figure(width=7.2, height=4.2)
    for k, rival in enumerate(RIVALS):
        part = table[table["rival"] == rival].sort_values("spend_share")
        at = 100 * part["spend_share"].to_numpy() + 0.6 * (k - 1)
        value = part["uplift_pct"].to_numpy()
        low, high = (part[name].fillna(part["uplift_pct"]).to_numpy(np.float64) for name in ("low_pct", "high_pct"))
        axis.errorbar(
            at,
            value,
            [value - low, high - value],
            fmt="o-",
            ms=4,
            lw=1.2,
            capsize=3,
            color=COLORS[k],
            label=NAMES[rival],
        )
    axis.axhline(0, color="0.3", lw=0.8)
    axis.set(
        xlabel="computation, percent of today's predicted spend",
        ylabel="revenue over the rival's, percent",
        title="What personalised pricing would earn (95 % intervals)",
    )
    axis.legend(title="over", loc="best")
    save_figure(figure, path)


def _matched_rows(half: JudgedHalf) -> float:
    """Effective rows whose joint action is the policy's at today's spend: what inverse propensities could go by."""
    chosen = half.decided[1.0, POLICY].actions[0][half.ids]
    weight = (chosen == half.joint) / half.propensities.logged
    return float(effective_rows(weight)) if weight.any() else 0.0


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _plain(values: pd.Series) -> dict[str, float | None]:
    return {str(name): _number(one) for name, one in values.items()}
