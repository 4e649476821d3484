"""The bench's report: one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.measuring.campaign import Measured
from marca_common.cost_maps import CostMaps
from marca_common.html_page import Figure, Section, write_page

_FACTS = {
    "cost_median_ms": "core-ms, median request",
    "noop_ms": "core-ms without work",
    "buckets_valid": "valid cells",
    "buckets": "cells measured",
    "requests": "requests",
    "lost": "lost or failed",
    "wall_s": "seconds",
}
_QUALITY = {
    "cv_median": "spread between rounds (CV), median cell",
    "fit_error_pct": "fit against cell medians, median",
    "replay_error_pct": "mixed replay, total CPU predicted from actions, error",
    "replay_error_realised_pct": "the same from realised results",
    "machine_vs_process_pct": "machine-wide p% against process clocks, median difference",
    "rate_sensitivity_pct": "change of cost between rates, median",
}
_BUCKETS = (
    "Cost: core-milliseconds per answered request by the target's own CPU clocks, idle CPU taken off, with a 95 % interval "
    "between rounds. Machine: how much more Eq. 26 gives with the core's p%, which counts all that ran there. Latencies "
    "count from the intended send time. Ctx: context switches per request, voluntary / forced."
)


def write_report(
    path: Path,
    config: TestbenchConfig,
    measured: Measured,
    table: pd.DataFrame,
    summary: Mapping[str, Any],
    details: Mapping[str, Any],
    figures: Mapping[str, Path],
) -> None:
    """Write the page; figures are embedded, so that the file can be passed on alone."""
    facts = {label: _short(summary[name]) for name, label in _FACTS.items()}
    quality = pd.DataFrame([(label, _short(summary[name])) for name, label in _QUALITY.items()], columns=["", "%"])
    machine = pd.DataFrame([(name.replace("_", " "), str(value)) for name, value in details["machine"].items()])
    edges = [(bucket.name, bucket.label(), bucket.count) for bucket in measured.buckets]
    scouted = pd.DataFrame(edges, columns=["bucket", "settings · request value · realised lengths", "scouted"])
    sections = [
        *_warnings(config, summary, table),
        Section(
            "How good the numbers are",
            f"A cell is a bucket at a rate and degradation level; the traffic has {summary['buckets_found']} buckets.",
            tables={"": quality},
        ),
        *(Section(title, "", [Figure(file)]) for title, file in figures.items()),
        Section("Buckets", _BUCKETS, tables={"": _bucket_rows(table)}),
        _cost_maps(details["fit"], path.parent / "costs" / "cost_maps.json"),
        _replay(details["replay"]),
        *_estimator(details["estimator"]),
        Section("Edges of the buckets", "What each bucket holds.", tables={"": scouted}),
        Section("Machine and set-up", "What the numbers depend on.", tables={"": machine.set_axis(["", "is"], axis=1)}),
    ]
    write_page(path, "Test bench: cost per request", _headline(config, summary), facts, sections)


def _headline(config: TestbenchConfig, summary: Mapping[str, Any]) -> str:
    rates = " and ".join(f"{rate:g}" for rate in config.load.rates)
    return (
        f"{summary['buckets_valid']} of {summary['buckets']} cells are valid at {rates} requests per second, "
        f"{config.load.arrivals} arrivals; a request costs {summary['cost_median_ms']:.2f} core-ms in the median bucket."
    )


def _warnings(config: TestbenchConfig, summary: Mapping[str, Any], table: pd.DataFrame) -> list[Section]:
    lines = [f"The bench {summary['note']}."] if summary["note"] else []
    if summary["rate_warning"]:
        change = summary["rate_sensitivity_pct"]
        lines.append(f"Cost depends on the rate by {change:.1f} % in the median: measure near production load.")
    invalid = int((~table["valid"].astype(bool)).sum())
    if invalid:
        lines.append(f"{invalid} cells are not valid; the table of buckets says why.")
    failure = next((text for text in table["last_failure"] if text), "")
    lines += [f"Last failed request: {failure}."] if failure else []
    return [Section("Warnings", " ".join(lines))] if lines else []


def _bucket_rows(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in table.to_dict("records"):
        rows.append(
            {
                "bucket": row["bucket"],
                "valid": "yes" if row["valid"] else row["why_not"],
                "cost ms": f"{row['cost_ms']:.3f}",
                "95 %": f"{row['cost_low_ms']:.2f}–{row['cost_high_ms']:.2f}",
                "CV %": row["cv_pct"],
                "machine %": row["machine_vs_process_pct"],
                "D": row["degradation"],
                "n": row["requests"],
                "lost": row["lost"] + row["errors"],
                "asked/s": row["asked_qps"],
                "served/s": row["served_qps"],
                "late p99 ms": row["lateness_p99_ms"],
                "p50 ms": row["p50_ms"],
                "p99 ms": row["p99_ms"],
                "ctx": f"{row['voluntary_switches']:.1f} / {row['involuntary_switches']:.1f}",
            }
        )
    return pd.DataFrame(rows)


def _cost_maps(fit: Mapping[str, Any], maps_path: Path) -> Section:
    """How good the fitted maps of the first data centre are, and f(D) where degradation was measured."""
    if "error" in fit:
        return Section("Cost maps", f"None: {fit['error']}.")
    maps = CostMaps.load(maps_path)
    idc, rows = maps.idcs[0], []
    for name in maps.services:
        one = maps.maps[idc][name]
        quality, additivity = one.quality, one.quality["additivity"]
        rows.append(
            {
                "service": name,
                "fit error, median %": quality["median_error_pct"],
                "leave-one-out error %": quality["left_out_error_pct"],
                "change with load %": quality["rate_sensitivity_pct"],
                "idle CPU %": one.idle_percent,
                "worst channel set %": additivity["worst_pct"],
                "sums over channels hold": ("yes" if additivity["holds"] else "no")
                if additivity["testable"]
                else "not testable",
            }
        )
    levels = sorted({level for name in maps.services for level in maps.maps[idc][name].degradation[0] if level > 0})
    costs = [[f"{level:g}", *maps.degradation_cost(idc, level)] for level in levels]
    columns = ["degradation level D", *(f"f(D) {name}, core-ms" for name in maps.services)]
    text = (
        "Worst channel set: mean difference of a channel set from the sum over its channels. "
        "Leave-one-out: each bucket predicted from all others."
    )
    tables = {"": pd.DataFrame(rows)} | ({"Degradation": pd.DataFrame(costs, columns=columns)} if costs else {})
    return Section("Cost maps", text, tables=tables)


def _replay(rounds: list[dict[str, float]]) -> Section:
    if not rounds:
        return Section("Replayed rounds", "Not measured.")
    names = ["round", "requests", "measured, core-s", "predicted from actions", "from realised results"]
    frame = pd.DataFrame(rounds).set_axis(names, axis=1)
    return Section("Replayed rounds", "Total CPU of mixed actions.", tables={"": frame})


def _estimator(own: Mapping[str, float]) -> list[Section]:
    if not own:
        return []
    text = (
        f"Predicting the results of all {own['joint_actions']} joint actions of a request takes {own['single_ms']:.3f} "
        f"core-ms one request at a time, {own['batched_ms']:.3f} core-ms in batches."
    )
    return [Section("The estimator's own cost", text)]


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
