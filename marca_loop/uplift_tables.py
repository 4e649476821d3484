"""The uplift of judged halves as a table, and a manager's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from marca_loop.judged_half import LOGGED, POLICY, RIVALS, JudgedHalf
from revenue_sim.off_policy.intervals import effective_rows
from revenue_sim.off_policy.signed import LEFT_OUT, Valued, signed_uplift
from revenue_sim.off_policy.support import LEAST_ROWS


def uplift_table(
    halves: Sequence[JudgedHalf], clusters: Sequence[np.ndarray] | None, confidence: float
) -> pd.DataFrame:
    """One row per spend and rival: uplift and its interval in percent, predicted spends, rows needed to exclude 0."""
    rows, number = [], sum(len(one.ids) for one in halves)
    for share in dict.fromkeys(share for share, _ in halves[0].valued):
        for rival in RIVALS:
            found = signed_uplift(
                [one.valued[share, POLICY] for one in halves],
                [one.valued[share, rival] for one in halves],
                clusters,
                confidence,
                LEFT_OUT,
            )
            rows.append(
                {
                    "spend_share": share,
                    "rival": rival,
                    "core_ms": _spend(halves, share, POLICY),
                    "rival_core_ms": _spend(halves, share, rival),
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
    table: pd.DataFrame, halves: Sequence[JudgedHalf], clusters: Sequence[np.ndarray] | None, confidence: float
) -> dict[str, Any]:
    """What a manager asks first, and what tells how far to trust it."""
    today, less = (table[np.isclose(table["spend_share"], share)].set_index("rival") for share in (1.0, 0.8))
    columns = ["uplift_pct", "low_pct", "high_pct"]
    rows = [len(one.ids) for one in halves]
    told = halves[0].propensity is not halves[0].propensities.logged
    return {
        "rows": sum(rows),
        "core_ms_today": float(np.average([one.today for one in halves], weights=rows)),
        "at_todays_spend": {rival: _plain(today.loc[rival, columns]) for rival in RIVALS},
        "at_20_pct_less_cpu": {rival: _plain(less.loc[rival, columns]) for rival in RIVALS if len(less)},
        "cpu_saved_at_todays_revenue_pct": saved(table[table["rival"] == LOGGED]),
        "rows_needed": _plain(today["rows_needed"]),
        "check_by_matches": matches(halves, clusters, confidence),
        "sd_of_pairs": [float(one.effects.sd[0]) for one in halves if len(one.effects.sd)],
        "propensities": {
            "groupings": sorted({cells.name for one in halves for cells in one.propensities.cells}),
            "least": float(min(one.propensities.logged.min() for one in halves)),
            "calibration": max(float(one.propensities.calibration(one.sub_actions)) for one in halves),
            "agreement": max(one.propensities.agreement(one.propensity) for one in halves) if told else None,
        },
    }


def matches(
    halves: Sequence[JudgedHalf], clusters: Sequence[np.ndarray] | None, confidence: float
) -> dict[str, float | str | None]:
    """Uplift over the log by rows that were given the policy's action alone, percent, where they are enough to tell."""
    weights = [_taken(one) / one.propensity for one in halves]
    effective = effective_rows(np.concatenate(weights)) if any(one.any() for one in weights) else 0.0
    found: dict[str, float | str | None] = {"effective_rows": float(effective)}
    if effective < LEAST_ROWS or not all(one.any() for one in weights):
        return found | {"warning": f"too few rows match the policy to check it by them; expected {LEAST_ROWS:g}"}
    uplift = signed_uplift(
        [Valued.of_matches(one.reward, weight, one.effects) for one, weight in zip(halves, weights)],
        [one.valued[1.0, LOGGED] for one in halves],
        clusters,
        confidence,
    )
    return found | {
        "uplift_pct": 100 * uplift.uplift,
        "low_pct": _percent(uplift.low),
        "high_pct": _percent(uplift.high),
    }


def _taken(half: JudgedHalf) -> np.ndarray:
    """Probability of each row's logged action under the policy at today's spend (M,)."""
    policy = half.decided[1.0, POLICY]
    return np.asarray(policy.weights @ (policy.actions[:, half.ids] == half.joint))


def saved(curve: pd.DataFrame) -> dict[str, float | None]:
    """CPU that is saved where the policy earns today's revenue, percent: by the estimate, and by both ends of its interval.

    None where the curve over spends does not cross today's revenue.
    """
    curve = curve.sort_values("spend_share")
    names = {"estimate": "uplift_pct", "low": "low_pct", "high": "high_pct"}
    return {name: _crossing(curve["spend_share"].to_numpy(), curve[one].to_numpy(float)) for name, one in names.items()}


def _crossing(share: np.ndarray, gain: np.ndarray) -> float | None:
    cross = np.flatnonzero((gain[:-1] < 0) & (gain[1:] >= 0))
    if not len(cross):
        return None
    i = int(cross[-1])
    return 100 * (1 - float(share[i] + (share[i + 1] - share[i]) * -gain[i] / (gain[i + 1] - gain[i])))


def _spend(halves: Sequence[JudgedHalf], share: float, name: str) -> float:
    """Mean predicted cost per request, core-ms."""
    spent = [one.today if name == LOGGED else one.decided[share, name].spend for one in halves]
    return float(np.average(spent, weights=[len(one.ids) for one in halves]))


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _plain(values: pd.Series) -> dict[str, float | None]:
    return {str(name): _number(one) for name, one in values.items()}
