"""What a simulated period says of each strategy: money, machines, and how sure one may be of a lead.

Everything is summed per strategy, seed and day first. Intervals resample whole days, of which the strategies share traffic,
requests and luck; so a lead is a ratio of sums over the same days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from marca_common.seeding import numpy_generator

SUMS = ["revenue", "spend", "gmv", "clicks", "impressions", "timeouts", "requests"]
DRAWS = 2000
_MINUTES = 1440


@dataclass(frozen=True)
class Rivals:
    """Names of the strategies that others are held against; None where a run has none."""

    baseline: str
    hourly: str | None
    blind: str | None
    oracle: str | None


def measure(minutes: pd.DataFrame, services: tuple[str, ...], budget: float) -> pd.DataFrame:
    """One row per ``strategy, seed, day``: sums of money and counts, core-ms, μ, ν, mean CPU, degraded minutes.

    ``minutes`` is the day stage's table. ``price`` and ``price_moves`` are means of λ and of |Δλ| from minute to minute.
    """
    cpu = minutes[[f"cpu_{name}" for name in services]].to_numpy()
    price = minutes[[f"lambda_{name}" for name in services]].to_numpy()
    spent = minutes[[f"core_ms_{name}" for name in services]].to_numpy()
    by_run = ["strategy", "seed", "group"]
    moves = minutes.groupby(by_run, sort=False)[[f"lambda_{name}" for name in services]].diff().abs()
    table = minutes[["strategy", "seed", *SUMS]].assign(
        day=minutes["minute"] // _MINUTES,
        core_ms=spent.sum(axis=1),
        mu=(np.minimum(cpu, budget) / budget).mean(axis=1),
        nu=(np.maximum(cpu - budget, 0) / budget).mean(axis=1),
        cpu_mean=cpu.mean(axis=1),
        degraded_minutes=(minutes["degradation"] > 0).astype(float),
        price=price.mean(axis=1),
        price_moves=moves.mean(axis=1).fillna(0.0),
        **{f"core_ms_{name}": spent[:, j] for j, name in enumerate(services)},
        **{f"price_{name}": price[:, j] for j, name in enumerate(services)},
    )
    keys = ["strategy", "seed", "day"]
    means = ["mu", "nu", "cpu_mean", "price", "price_moves", *(f"price_{name}" for name in services)]
    grouped = table.groupby(keys, sort=False)
    sums = grouped[[*SUMS, "core_ms", "degraded_minutes", *(f"core_ms_{name}" for name in services)]].sum()
    return pd.concat([sums, grouped[means].mean()], axis=1).reset_index()


def compare(measured: pd.DataFrame, rivals: Rivals) -> dict[str, dict[str, float | None]]:
    """Per strategy: means per day, and its uplifts over the rivals with a 95 % interval of the one over ``blind``."""
    found = {}
    for name in dict.fromkeys(measured["strategy"]):
        mine = measured[measured["strategy"] == name]
        low, high = interval(measured, name, rivals.blind)
        found[str(name)] = {
            "revenue": float(mine["revenue"].mean()),
            "uplift_pct": uplift(measured, name, rivals.baseline),
            "uplift_over_hourly_pct": uplift(measured, name, rivals.hourly),
            "uplift_over_blind_pct": uplift(measured, name, rivals.blind),
            "ci_low": low,
            "ci_high": high,
            "uplift_equal_cpu_pct": uplift_at_equal_cpu(measured, name, rivals.blind),
            "oracle_share_pct": oracle_share(measured, name, rivals),
            **{one: float(mine[one].mean()) for one in ("mu", "nu", "cpu_mean")},
            "spend_core_ms": float(mine["core_ms"].mean()),
            **{one: float(mine[one].mean()) for one in ("gmv", "impressions", "clicks", "degraded_minutes")},
            "ctr": _ratio(mine["clicks"].sum(), mine["impressions"].sum()),
            "roi": _ratio(mine["gmv"].sum(), mine["spend"].sum()),
            "timeouts": float(mine["timeouts"].mean()),
            "price_moves": _ratio(mine["price_moves"].sum(), mine["price"].sum()),
        }
    return found


def uplift(measured: pd.DataFrame, name: str, rival: str | None) -> float | None:
    """Revenue of a strategy over a rival's on the same days, percent; None without that rival."""
    if not _stands(measured, rival):
        return None
    return 100 * float(_revenue(measured, name).sum() / _revenue(measured, str(rival)).sum() - 1)


def uplift_at_equal_cpu(measured: pd.DataFrame, name: str, rival: str | None) -> float | None:
    """As ``uplift``, had the strategy spent the rival's core-ms: the difference is paid for at its own mean price of the day.

    First order in the difference, which the envelope theorem makes exact for small ones. A strategy without prices pays the
    rival's.
    """
    if not _stands(measured, rival):
        return None
    mine, other = (_by_day(measured, one) for one in (name, str(rival)))
    services = [one.removeprefix("price_") for one in mine if one.startswith("price_") and one != "price_moves"]
    own = mine["revenue"].copy()
    for service in services:
        price = mine[f"price_{service}"].where(mine["price"] > 0, other[f"price_{service}"])
        own -= price * (mine[f"core_ms_{service}"] - other[f"core_ms_{service}"])
    return 100 * float(own.sum() / other["revenue"].sum() - 1)


def oracle_share(measured: pd.DataFrame, name: str, rivals: Rivals) -> float | None:
    """Share of the oracle's lead over the blind strategy, percent; None where either is missing or there is no lead."""
    if not (_stands(measured, rivals.blind) and _stands(measured, rivals.oracle)):
        return None
    blind, top = (_revenue(measured, str(one)).sum() for one in (rivals.blind, rivals.oracle))
    return 100 * float((_revenue(measured, name).sum() - blind) / (top - blind)) if top > blind else None


def interval(measured: pd.DataFrame, name: str, rival: str | None, seed: int = 0) -> tuple[float | None, float | None]:
    """95 % bootstrap interval of ``uplift`` over days, resampled within each seed; None with fewer than two days."""
    if not _stands(measured, rival) or name == rival:
        return None, None
    pair = np.stack([_revenue(measured, one).to_numpy() for one in (name, str(rival))], axis=1)  # (days, 2)
    ratios = bootstrap_ratios(pair, _revenue(measured, name).index.get_level_values("seed").to_numpy(), seed)
    if ratios is None:
        return None, None
    low, high = np.percentile(100 * (ratios - 1), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_ratios(pair: np.ndarray, block: np.ndarray, seed: int) -> np.ndarray | None:
    """Ratios of the two columns' sums (DRAWS,) over resampled rows of ``pair`` (N, 2), each ``block`` (N,) by itself."""
    generator = numpy_generator(seed, "bootstrap")
    total = np.zeros((DRAWS, 2))
    for one in np.unique(block):
        rows = pair[block == one]
        if len(rows) < 2:
            return None
        total += rows[generator.integers(len(rows), size=(DRAWS, len(rows)))].sum(axis=1)
    return np.asarray(total[:, 0] / total[:, 1])


def attribution(measured: pd.DataFrame, baseline: str, steps: Mapping[str, str]) -> pd.DataFrame:
    """The waterfall: ``step, strategy, uplift_pct, gain_points, ci_low, ci_high``, from the baseline on; failed steps are left out."""
    rows = [(baseline, baseline)] + [(step, name) for step, name in steps.items() if _stands(measured, name)]
    base = _revenue(measured, baseline)
    before, found = base, []
    for step, name in rows:
        mine = _revenue(measured, name)
        gain = np.stack([(base + mine - before).to_numpy(), base.to_numpy()], axis=1)
        ratios = bootstrap_ratios(gain, base.index.get_level_values("seed").to_numpy(), 0)
        low, high = (np.nan, np.nan) if ratios is None else np.percentile(100 * (ratios - 1), [2.5, 97.5])
        total = 100 * float(mine.sum() / base.sum() - 1)
        points = 100 * float((mine - before).sum() / base.sum())
        found.append((step, name, total, points, float(low), float(high)))
        before = mine
    return pd.DataFrame(found, columns=["step", "strategy", "uplift_pct", "gain_points", "ci_low", "ci_high"])


def _stands(measured: pd.DataFrame, name: str | None) -> bool:
    return name is not None and bool((measured["strategy"] == name).any())


def _by_day(measured: pd.DataFrame, name: str) -> pd.DataFrame:
    return measured[measured["strategy"] == name].set_index(["seed", "day"]).sort_index()


def _revenue(measured: pd.DataFrame, name: str) -> pd.Series:
    return _by_day(measured, name)["revenue"]


def _ratio(top: float, bottom: float) -> float | None:
    return float(top / bottom) if bottom > 0 else None
