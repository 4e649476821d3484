"""Measure a real service: `python -m autobucket.testbench [--quick] --config configs/autobucket/testbench.yaml`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.findings.analysis import (
    ReplayCheck,
    actions_of,
    bucket_table,
    check_replay,
    fit_errors,
    loadtest_rows,
    noop_ms,
    rate_sensitivity,
)
from autobucket.bench.findings.bench_figures import draw_bench
from autobucket.bench.findings.bench_page import write_report
from autobucket.bench.findings.estimator_cost import estimator_cost
from autobucket.bench.measuring.campaign import Campaign, Measured
from autobucket.bench.target.interface import Target
from autobucket.bench.target.machine import generator_on, machine_facts, place
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.fit_costs import fit_costs
from marca_common.cli import run_cli
from marca_common.cost_maps import CostMaps
from marca_common.errors import UserError
from marca_common.files import read_json, write_json
from marca_common.run_folder import RunFolder
from marca_common.tables import write_table

log = logging.getLogger(__name__)


@dataclass
class TestbenchResult:
    """What a bench found out; ``maps`` is None where too little was valid for a fit."""

    __test__ = False

    buckets: pd.DataFrame
    loadtest: pd.DataFrame
    maps: CostMaps | None
    summary: dict[str, Any]
    out: Path


def testbench(
    config: TestbenchConfig,
    out: str | Path,
    make_target: Callable[[], Target] | None = None,  # noqa: PT028 (a bench, no test)
) -> TestbenchResult:
    """Put a service under load bucket by bucket, account its CPU by its own clocks, fit and check cost maps (Eq. 26).

    Writes ``loadtest.csv`` (data/README.md), ``buckets.csv``, ``costs/`` (cost_maps.json), ``report.html``, ``report.json``,
    figures and ``summary.json``. An interrupted bench goes on with the rounds that are missing. ``--quick``: three minutes.
    ``make_target`` takes any other service than the two kinds of the config: called once per round.
    """
    with RunFolder(out, config, resumes_from="scouted.json") as run:
        finished = run.path / "summary.json"
        if run.resuming and finished.exists():
            log.info("%s: this bench is finished; choose another --out to measure again", run.path)
            return _finished(run.path)
        started = time.perf_counter()
        placement = place(config.accounting, config.target.kind)
        facts = machine_facts(placement, config.target.threads, _clock_text(config))
        with generator_on(placement):
            measured = Campaign(config, run.path, placement, resume=run.resuming, make_target=make_target).run()
        if not any(one.kind == "cell" for one in measured.records):
            raise UserError(f"max_seconds: nothing was measured within {config.max_seconds:g} s; allow more")
        table = bucket_table(config, measured, placement.monitored_cores)
        rows = loadtest_rows(config, measured, placement.declared_cores)
        write_table(table, run.path / "buckets.csv")
        write_table(rows, run.path / "loadtest.csv")
        maps, fit = _fit(config, table, run.path)
        replay = check_replay(config, measured, maps, placement.declared_cores) if maps else ReplayCheck([])
        errors = fit_errors(maps, table, placement.declared_cores) if maps else pd.Series(dtype=float)
        summary = summarise(config, measured, table, replay, errors)
        summary["wall_s"] = time.perf_counter() - started
        own = estimator_cost(config.estimator, config.estimator_requests, config.seed) if config.estimator else {}
        details = {
            "machine": facts,
            "estimator": own,
            "fit": fit,
            "replay": replay.rounds,
            "fit_errors_pct": errors.to_dict(),
        }
        _write(run, config, measured, table, maps, details, summary, placement.declared_cores)
        return TestbenchResult(table, rows, maps, summary, run.out)


def summarise(
    config: TestbenchConfig, measured: Measured, table: pd.DataFrame, replay: ReplayCheck, errors: pd.Series
) -> dict[str, Any]:
    """The bench in a few numbers; percentages are medians over buckets."""
    normal = table[table["degradation"] == 0]
    rates = rate_sensitivity(table)
    sensitivity = float(rates["change_pct"].abs().median()) if len(rates) else float("nan")
    return {
        "cv_median": float(normal["cv_pct"].median()),
        "fit_error_pct": float(errors.abs().median()) if len(errors) else float("nan"),
        "replay_error_pct": abs(replay.error_pct()),
        "replay_error_realised_pct": abs(replay.error_pct("predicted_realised_s")),
        "machine_vs_process_pct": float(normal["machine_vs_process_pct"].abs().median()),
        "rate_sensitivity_pct": sensitivity,
        "rate_warning": bool(sensitivity > config.validity.rate_warning_pct),
        "buckets_valid": int(table["valid"].sum()),
        "buckets": len(table),
        "buckets_found": measured.n_found,
        "requests": int(table["requests"].sum()),
        "lost": int(table["lost"].sum() + table["errors"].sum()),
        "noop_ms": noop_ms(measured.records),
        "cost_median_ms": float(normal["cost_median_ms"].median()),
        "note": measured.note,
    }


def _fit(config: TestbenchConfig, table: pd.DataFrame, out: Path) -> tuple[CostMaps | None, dict[str, Any]]:
    """Cost maps with a leave-one-bucket-out error; None, and why, where there is too little to fit."""
    settings = FitCostsConfig(
        loadtest=out / "loadtest.csv",
        actions=actions_of(config, table),
        folds=max(int(table["bucket"].nunique()), 2),
        seed=config.seed,
    )
    try:
        result = fit_costs(settings, out / "costs")
    except UserError as error:
        log.warning("no cost maps: %s", error)
        return None, {"error": str(error)}
    return result.maps, result.summary


def _write(
    run: RunFolder,
    config: TestbenchConfig,
    measured: Measured,
    table: pd.DataFrame,
    maps: CostMaps | None,
    details: dict[str, Any],
    summary: dict[str, Any],
    cores: int,
) -> None:
    figures = draw_bench(table, maps, details["replay"], rate_sensitivity(table), measured, run.path, cores)
    content = {"summary": summary, **details, "buckets": table.to_dict("records")}
    write_json(run.path / "report.json", content)
    write_report(run.path / "report.html", config, measured, table, summary, details, figures)
    run.write_summary(summary)


def _finished(path: Path) -> TestbenchResult:
    maps_path = path / "costs" / "cost_maps.json"
    maps = CostMaps.load(maps_path) if maps_path.exists() else None
    tables = [pd.read_csv(path / name) for name in ("buckets.csv", "loadtest.csv")]
    return TestbenchResult(tables[0], tables[1], maps, read_json(path / "summary.json"), path)


def _clock_text(config: TestbenchConfig) -> str:
    if config.accounting.cgroup is not None:
        return f"usage of the cgroup {config.accounting.cgroup}"
    if config.target.kind == "callable":
        return "CPU clock of the worker thread"
    exact = hasattr(time, "clock_gettime") and np.isfinite(time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID))
    return f"CPU clocks of the process tree ({'nanoseconds' if exact else 'ticks'})"


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    run_cli(
        testbench,
        TestbenchConfig,
        default_config="configs/autobucket/testbench.yaml",
        default_out="runs/autobucket-testbench",
        flags={"--quick": ("configs/autobucket/testbench_quick.yaml", "the three-minute config")},
        argv=argv,
    )


if __name__ == "__main__":
    main()
