"""The bench's report: one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.measuring.campaign import Measured
from marca_common.cost_maps import CostMaps
from marca_common.files import write_text

_TEXTS = {
    "cv_median": "spread between rounds (CV), median bucket, %",
    "fit_error_pct": "fit against bucket medians, median, %",
    "replay_error_pct": "mixed replay, total CPU predicted from actions, error %",
    "replay_error_realised_pct": "the same from realised results, error %",
    "machine_vs_process_pct": "machine-wide p% against process clocks, median difference, %",
    "rate_sensitivity_pct": "change of cost between rates, median, %",
    "buckets_valid": "valid cells (bucket × rate × degradation)",
    "buckets": "cells measured",
    "buckets_found": "buckets found in the traffic",
    "requests": "requests measured",
    "lost": "requests lost or failed",
    "noop_ms": "request without work, core-ms",
    "cost_median_ms": "median cost of a request, core-ms",
    "wall_s": "wall time, s",
}


def write_report(
    path: Path,
    config: TestbenchConfig,
    measured: Measured,
    table: pd.DataFrame,
    summary: Mapping[str, Any],
    details: Mapping[str, Any],
    figures: Mapping[str, Path],
) -> None:
    """Fill the template; figures are embedded, so that the file can be passed on alone."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    columns, rows = _bucket_rows(table)
    fit = details["fit"]
    text = environment.get_template("bench_page.html.j2").render(
        headline=_headline(config, summary),
        warnings=_warnings(config, summary, table),
        summary=[(label, _short(summary[name])) for name, label in _TEXTS.items()],
        machine=[(name.replace("_", " "), str(value)) for name, value in details["machine"].items()],
        figures=[(title, base64.b64encode(Path(file).read_bytes()).decode()) for title, file in figures.items()],
        columns=columns,
        rows=rows,
        edges=[(bucket.name, bucket.label(), bucket.count) for bucket in measured.buckets],
        **_fit_parts(fit, path.parent / "costs" / "cost_maps.json"),
        replay=details["replay"],
        estimator=details["estimator"],
    )
    write_text(path, text)


def _headline(config: TestbenchConfig, summary: Mapping[str, Any]) -> str:
    rates = " and ".join(f"{rate:g}" for rate in config.load.rates)
    return (
        f"{summary['buckets_valid']} of {summary['buckets']} cells are valid at {rates} requests per second, "
        f"{config.load.arrivals} arrivals; a request costs {summary['cost_median_ms']:.2f} core-ms in the median bucket."
    )


def _warnings(config: TestbenchConfig, summary: Mapping[str, Any], table: pd.DataFrame) -> list[str]:
    lines = [summary["note"]] if summary["note"] else []
    if summary["rate_warning"]:
        lines.append(
            f"Cost depends on the rate by {summary['rate_sensitivity_pct']:.1f} % in the median: measure near production load."
        )
    invalid = table[~table["valid"].astype(bool)]
    if len(invalid):
        lines.append(f"{len(invalid)} cells are not valid; the table says why.")
    failure = next((text for text in table["last_failure"] if text), "")
    return [*lines, *([f"Last failed request: {failure}"] if failure else [])]


def _bucket_rows(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    columns = [
        "bucket",
        "D",
        "n",
        "asked/s",
        "served/s",
        "late p99 ms",
        "lost",
        "cost ms",
        "95 %",
        "CV %",
        "machine %",
        "p50 ms",
        "p99 ms",
        "ctx",
        "valid",
    ]
    rows = []
    for row in table.to_dict("records"):
        numbers = [row["degradation"], row["requests"], row["asked_qps"], row["served_qps"], row["lateness_p99_ms"]]
        rows.append(
            [
                row["bucket"],
                *map(_short, numbers),
                _short(row["lost"] + row["errors"]),
                f"{row['cost_ms']:.3f}",
                f"{row['cost_low_ms']:.2f}–{row['cost_high_ms']:.2f}",
                *map(_short, [row["cv_pct"], row["machine_vs_process_pct"], row["p50_ms"], row["p99_ms"]]),
                f"{row['voluntary_switches']:.1f} / {row['involuntary_switches']:.1f}",
                "yes" if row["valid"] else row["why_not"],
            ]
        )
    return columns, rows


def _fit_parts(fit: Mapping[str, Any], maps_path: Path) -> dict[str, Any]:
    if "error" in fit:
        return {"fit_rows": [], "fit_error": fit["error"], "degradation": [], "services": []}
    maps = CostMaps.load(maps_path)
    idc = maps.idcs[0]
    rows, levels = [], sorted({level for name in maps.services for level in maps.maps[idc][name].degradation[0]})
    for name in maps.services:
        one = maps.maps[idc][name]
        quality, additivity = one.quality, one.quality["additivity"]
        holds = "not testable" if not additivity["testable"] else ("yes" if additivity["holds"] else "no")
        numbers = [
            quality["median_error_pct"],
            quality["left_out_error_pct"],
            quality["rate_sensitivity_pct"],
            one.idle_percent,
        ]
        rows.append([name, *map(_short, [*numbers, additivity["worst_pct"]]), holds])
    table = [(f"{level:g}", [_short(c) for c in maps.degradation_cost(idc, level)]) for level in levels if level > 0]
    return {"fit_rows": rows, "fit_error": "", "degradation": table, "services": maps.services}


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
