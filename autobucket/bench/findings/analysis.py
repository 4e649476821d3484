"""From measurements to numbers: the bucket table, load-test rows, the fit's and the replay's error, the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.findings.result_predictor import ResultPredictor
from autobucket.bench.measuring.buckets import RequestBucket
from autobucket.bench.measuring.campaign import Measured, replay_requests
from autobucket.bench.measuring.load import LoadWindow
from autobucket.bench.measuring.records import Cell, Record, cost_ms, idle_rates, standard_error_pct
from marca_common.cost_maps import ActionsConfig, CostMaps, ElementConfig, SettingConfig

_CONFIDENCE = 0.95


def bucket_table(config: TestbenchConfig, measured: Measured, monitored_cores: int) -> pd.DataFrame:
    """One row per bucket, rate and degradation level, with everything that says how far to trust it."""
    idle = idle_rates(measured.records)
    by_name = {bucket.name: bucket for bucket in measured.buckets}
    groups: dict[Cell, list[Record]] = {}
    for one in measured.records:
        if one.kind == "cell" and one.cell is not None:
            groups.setdefault(one.cell, []).append(one)
    rows = [_row(config, cell, parts, by_name[cell.bucket], idle, monitored_cores) for cell, parts in groups.items()]
    return pd.DataFrame(rows).sort_values(["bucket", "degradation", "asked_qps"], ignore_index=True)


def _row(
    config: TestbenchConfig,
    cell: Cell,
    parts: list[Record],
    bucket: RequestBucket,
    idle: dict[int, dict[str, float]],
    cores: int,
) -> dict[str, Any]:
    windows = [one.window for one in parts]
    answered = [one for one in parts if one.window.ok]
    by_service = pd.DataFrame([cost_ms(one, idle) for one in answered])
    costs = by_service.sum(axis=1).to_numpy() if len(answered) else np.array([np.nan])
    machine = [_machine_cost(one, cores) for one in answered]
    low, high = _interval(costs)
    lateness = np.concatenate([window.lateness_ms for window in windows])
    latency = np.concatenate([window.latency_ms for window in windows]) if answered else np.array([np.nan])
    sent, ok = sum(window.sent for window in windows), sum(window.ok for window in windows)
    row = {
        "bucket": bucket.name,
        **bucket.strata,
        "value": bucket.value,
        **{name: float(np.nanmean([one.lengths[name] for one in parts])) for name in bucket.means},
        **{
            f"{name}_{end}": bound
            for name, bounds in bucket.bounds.items()
            for end, bound in zip(("low", "high"), bounds)
        },
        "degradation": cell.degradation,
        "asked_qps": cell.rate,
        "served_qps": float(np.mean([window.served_qps for window in windows])),
        "rounds": len(parts),
        "requests": sent,
        "lost": sum(window.lost for window in windows),
        "errors": sum(window.errors for window in windows),
        "lateness_p99_ms": float(np.quantile(lateness, 0.99)),
        "cost_ms": float(costs.mean()),
        "cost_median_ms": float(np.median(costs)),
        "cost_low_ms": low,
        "cost_high_ms": high,
        "cv_pct": _spread_pct(costs),
        "se_pct": standard_error_pct(costs.tolist()),
        **{f"cost_{name}_ms": float(by_service[name].mean()) for name in by_service},
        "machine_cost_ms": float(np.mean(machine)) if machine else float("nan"),
        "machine_vs_process_pct": _beyond_pct(np.array(machine), costs),
        "machine_percent": float(np.mean([window.machine_percent for window in windows])),
        "p50_ms": float(np.quantile(latency, 0.5)),
        "p99_ms": float(np.quantile(latency, 0.99)),
        "voluntary_switches": sum(window.switches[0] for window in windows) / max(ok, 1),
        "involuntary_switches": sum(window.switches[1] for window in windows) / max(ok, 1),
    }
    why = why_not(config, row)
    return row | {"valid": not why, "why_not": why, "last_failure": next((w.detail for w in windows if w.detail), "")}


def why_not(config: TestbenchConfig, row: dict[str, Any]) -> str:
    """Why a row of the bucket table does not count; empty when it does."""
    limits, load = config.validity, config.load
    failed = 100 * (row["lost"] + row["errors"]) / max(row["requests"], 1)
    slow = 100 * (1 - row["served_qps"] / row["asked_qps"])
    reasons = []
    if failed > limits.lost_pct:
        reasons.append(f"{failed:.2g} % of requests lost or failed")
    if slow > limits.slow_pct and failed <= limits.lost_pct:
        reasons.append(f"served {row['served_qps']:.4g} of {row['asked_qps']:g} requests/s asked")
    if row["lateness_p99_ms"] > limits.lateness_ms:
        reasons.append(f"generator {row['lateness_p99_ms']:.3g} ms late (p99)")
    if row["rounds"] < load.min_rounds:
        reasons.append(f"{row['rounds']} of {load.min_rounds} rounds")
    elif not row["se_pct"] < load.stop_se_pct:
        reasons.append(f"not converged: standard error {row['se_pct']:.2g} %")
    return "; ".join(reasons)


def loadtest_rows(config: TestbenchConfig, measured: Measured, cores: int) -> pd.DataFrame:
    """Measurements in the columns of data/README.md (`loadtest`), one row per service, data centre and window.

    ``cpu_percent`` is the service's own CPU over the window in percent of the declared cores, so that Eq. 26 gives back its
    core-seconds per answered request. Windows with losses beyond the limit or served too slowly are left out.
    """
    by_name = {bucket.name: bucket for bucket in measured.buckets}
    rows = []
    for one in measured.records:
        window = one.window
        if one.kind not in ("idle", "cell") or (one.kind == "cell" and not _usable(config, window)):
            continue
        bucket = by_name[one.cell.bucket] if one.cell else measured.buckets[0]
        level = one.cell.degradation if one.cell else 0.0
        strata = bucket.strata if one.cell else {n: "none" if n == "channels" else v for n, v in bucket.strata.items()}
        for service, cpu in window.cpu.items():
            percent = min(max(100 * cpu / (window.seconds * cores), 0.0), 100.0)
            lengths = {name: one.lengths.get(name) for name in config.buckets.lengths}
            row = {"service": service, "round": one.round, **strata, **lengths, "degradation": level}
            row |= {
                "bucket": bucket.name if one.cell else "idle",
                "qps": window.ok / window.seconds if one.cell else 0.0,
            }
            rows += [
                {"idc": idc, **row, "machines": 1, "cores": cores, "cpu_percent": percent}
                for idc in config.accounting.idcs
            ]
    return pd.DataFrame(rows)


def _usable(config: TestbenchConfig, window: LoadWindow) -> bool:
    failed = 100 * (window.lost + window.errors) / max(window.sent, 1)
    slow = 100 * (1 - window.served_qps / window.asked_qps)
    return window.ok > 0 and failed <= config.validity.lost_pct and slow <= config.validity.slow_pct


def actions_of(config: TestbenchConfig, table: pd.DataFrame) -> ActionsConfig:
    """The config's reading of settings, or one made up from the strata: ``channels``, everything else a switch."""
    if config.actions is not None:
        return config.actions
    names = config.buckets.strata
    found = {name: sorted(table[name].astype(str).unique()) for name in names}
    switches = {n: SettingConfig(action=n, values=found[n]) for n in names if n != "channels"}
    channels = SettingConfig(action="channels", values=found["channels"]) if "channels" in names else None
    return ActionsConfig(
        idc=None,
        channels=channels,
        switches=switches,
        elements={name: ElementConfig() for name in config.buckets.lengths},
    )


def service_costs(maps: CostMaps, settings: pd.DataFrame) -> np.ndarray:
    """Core-ms per request and service (M, services) of rows with settings and lengths, at the maps' reference load."""
    costs = np.zeros((len(settings), len(maps.services)))
    switches = list(maps.actions.switches)
    keys = [*(["channels"] if maps.actions.channels is not None else []), *switches]
    groups = settings.groupby(keys, observed=True).indices.items() if keys else [((), np.arange(len(settings)))]
    for key, rows in groups:
        named = dict(zip(keys, map(str, key if isinstance(key, tuple) else (key,))))
        lengths = {name: settings[name].to_numpy(np.float64)[rows] for name in maps.actions.elements}
        picked = {name: named[name] for name in switches}
        for j, service in enumerate(maps.services):
            costs[rows, j] = maps.cost(maps.idcs[0], service, lengths, named.get("channels", ""), picked)
    return costs


def under_load(maps: CostMaps, costs: np.ndarray, load: np.ndarray) -> np.ndarray:
    """Total core-ms per request (M,) of ``costs`` (M, services) when the services are at ``load`` percent, same shape or (services,)."""
    load = np.broadcast_to(load, costs.shape)
    ones = [maps.maps[maps.idcs[0]][name] for name in maps.services]
    factors = np.stack([np.interp(load[:, j], *one.load) for j, one in enumerate(ones)], axis=1)
    return np.asarray((costs * factors).sum(axis=1))


@dataclass
class ReplayCheck:
    """Mixed actions: total CPU predicted and measured, core-seconds."""

    rounds: list[dict[str, float]]  # round, requests, measured_s, predicted_s, predicted_realised_s

    def error_pct(self, name: str = "predicted_s") -> float:
        """Relative error of the total over all rounds, percent, with its sign; NaN without a replay."""
        measured = sum(one["measured_s"] for one in self.rounds)
        return 100 * (sum(one[name] for one in self.rounds) / measured - 1) if measured > 0 else float("nan")


def check_replay(config: TestbenchConfig, measured: Measured, maps: CostMaps, cores: int) -> ReplayCheck:
    """Predict each replayed request's cost from its action alone (results predicted from scouting) and compare totals."""
    idle = idle_rates(measured.records)
    names = list(config.buckets.lengths)
    rounds = []
    for one in measured.records:
        if one.kind != "replay":
            continue
        requests = replay_requests(config, one.round)
        answered = np.array([bool(result) for result in one.window.results])
        requests = requests[: len(answered)][answered].reset_index(drop=True)
        if len(requests) == 0:
            continue
        qps = one.window.served_qps
        echoed = [result for result in one.window.results if result]
        real = requests.assign(**{name: [float(result[name]) for result in echoed] for name in names})
        measured_s = sum(cost_ms(one, idle).values()) * one.window.ok / 1000
        rounds.append(
            {
                "round": one.round,
                "requests": len(requests),
                "measured_s": measured_s,
                "predicted_s": float(predicted_costs(config, measured.scouted, maps, requests, qps, cores).sum())
                / 1000,
                "predicted_realised_s": float(_mixed(maps, real, qps, cores).sum()) / 1000,
            }
        )
    return ReplayCheck(rounds)


def predicted_costs(
    config: TestbenchConfig, scouted: pd.DataFrame, maps: CostMaps, requests: pd.DataFrame, qps: float, cores: int
) -> np.ndarray:
    """Core-ms of every request of a mix (M,) by its fields alone, under the load that the mix makes at ``qps``.

    What a request results in is predicted from the ``scouted`` ones.
    """
    predictor = ResultPredictor.fit(scouted, _fields(config, scouted), list(config.buckets.lengths))
    return _mixed(maps, requests.assign(**predictor.predict(requests)), qps, cores)


def _mixed(maps: CostMaps, settings: pd.DataFrame, qps: float, cores: int) -> np.ndarray:
    """Cost of every request of a mix (M,), under the load that the mix makes."""
    costs = service_costs(maps, settings)
    return under_load(maps, costs, costs.mean(axis=0) * qps / (10 * cores))


def rate_sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Buckets measured at several rates: cost at the highest over cost at the lowest rate, percent change."""
    rows = []
    for name, part in table[table["degradation"] == 0].groupby("bucket"):
        part = part.sort_values("asked_qps")
        if len(part) > 1:
            low, high = part.iloc[0], part.iloc[-1]
            change = 100 * (high["cost_ms"] / low["cost_ms"] - 1)
            rows.append(
                {"bucket": name, "low_qps": low["asked_qps"], "high_qps": high["asked_qps"], "change_pct": change}
            )
    return pd.DataFrame(rows, columns=["bucket", "low_qps", "high_qps", "change_pct"])


def fit_errors(maps: CostMaps, table: pd.DataFrame, cores: int) -> pd.Series:
    """Relative difference of the fitted cost from each undegraded bucket's median, percent, by row of the table."""
    rows = table[(table["degradation"] == 0) & table["cost_median_ms"].notna()]
    costs = service_costs(maps, rows)
    fitted = under_load(maps, costs, costs * rows["asked_qps"].to_numpy()[:, None] / (10 * cores))
    return pd.Series(100 * (fitted / rows["cost_median_ms"].to_numpy() - 1), index=rows.index)


def noop_ms(records: Sequence[Record]) -> float:
    """Core-ms of a request without work; NaN where it was not measured."""
    idle = idle_rates(records)
    values = [sum(cost_ms(one, idle).values()) for one in records if one.kind == "noop" and one.window.ok]
    return float(np.median(values)) if values else float("nan")


def _fields(config: TestbenchConfig, scouted: pd.DataFrame) -> list[str]:
    """Fields that say what is done and for whom: those with few values."""
    drop = {*config.buckets.lengths, "service_ms"}
    return [name for name in scouted if name not in drop and scouted[name].nunique() <= 50]


def _spread_pct(costs: np.ndarray) -> float:
    """Coefficient of variation between rounds, percent; NaN below two rounds or where idle CPU hides the cost."""
    return float(100 * costs.std(ddof=1) / costs.mean()) if len(costs) > 1 and costs.mean() > 0 else float("nan")


def _beyond_pct(machine: np.ndarray, costs: np.ndarray) -> float:
    """Median of how far ``machine`` lies above ``costs`` that are positive, percent; NaN where none is."""
    beyond = [one / cost - 1 for one, cost in zip(machine, costs) if cost > 0]
    return float(100 * np.median(beyond)) if beyond else float("nan")


def _interval(costs: np.ndarray) -> tuple[float, float]:
    """Confidence interval of the mean between rounds (Student t)."""
    if len(costs) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, len(costs) - 1) * costs.std(ddof=1) / np.sqrt(len(costs))
    return float(costs.mean() - half), float(costs.mean() + half)


def _machine_cost(record: Record, cores: int) -> float:
    """Eq. 26 as the paper writes it, p% · N / QPS: whatever ran on those cores is counted, core-ms per request."""
    window = record.window
    return 1000 * window.machine_percent / 100 * cores * window.seconds / max(window.ok, 1)
