"""Read a platform's tables against their declaration: ``python -m own_system.check --config configs/own_system.yaml``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marca_common.cli import run_cli
from marca_common.errors import UserError
from marca_common.files import write_json
from marca_common.memory import PeakMemory
from marca_common.run_folder import RunFolder
from own_system.checks.across_files import check_costs, check_data_centres, check_lengths, check_money, check_times
from own_system.checks.actions import check_coverage, check_declared, check_exploration
from own_system.checks.load_tests import check_load_tests
from own_system.checks.minutes import check_minutes
from own_system.checks.over_time import check_duplicates, check_over_time
from own_system.checks.propensities import check_against_counts, check_propensities
from own_system.checks.revenue import check_results, check_revenue, check_usable
from own_system.checks.states import check_states
from own_system.coded_log import CodedLog, code_log
from own_system.declaration import OwnSystem
from own_system.findings import Findings
from own_system.findings_page import write_findings_page
from own_system.fitted_propensity import foretell
from own_system.tables import OwnTables, read_own

_SPOILED = {
    "propensity_range",
    "undeclared_action",
}  # rows were left out by propensity or action: the others are no fair sample
_FITTED_ROWS = 200_000  # most rows that propensities are fitted on


@dataclass
class CheckResult:
    """What was found; ``tables`` are the sound rows under our names."""

    findings: Findings
    tables: OwnTables
    summary: dict[str, Any]


def check(config: OwnSystem, out: str | Path) -> CheckResult:
    """Check everything; write findings.json, findings.html and summary.json to ``out``."""
    started = time.perf_counter()
    with RunFolder(out, config) as run, PeakMemory() as memory:
        findings, tables = find_all(config)
        summary = {
            "errors": len(findings.errors),
            "warnings_found": len(findings) - len(findings.errors),
            "rows": tables.rows,
            "wall_s": time.perf_counter() - started,
            "peak_rss_mb": memory.mb,
        }
        write_json(run.path / "findings.json", {"findings": findings.plain()})
        write_findings_page(config, findings, tables, run.path / "findings.html")
        run.write_summary(summary)
    return CheckResult(findings, tables, summary)


def find_all(own: OwnSystem) -> tuple[Findings, OwnTables]:
    """All findings of a declaration's files, and the tables as read."""
    findings = Findings()
    tables = read_own(own, findings)
    frames = {"requests": tables.requests, "minutes": tables.minutes, "load_tests": tables.load_tests}
    check_data_centres(own, frames, findings)
    log = _check_log(own, tables, findings)
    data = check_minutes(own, tables.minutes, findings) if tables.minutes is not None else None
    measured = check_load_tests(own, tables.load_tests, findings) if tables.load_tests is not None else None
    if log is not None and tables.minutes is not None:
        check_times(own, log, tables.minutes, findings)
    if log is not None and measured is not None:
        check_lengths(own, log, measured, findings)
    if data is not None and measured is not None:
        check_costs(own, data, measured, findings)
        if log is not None:
            check_money(own, log, data, measured, findings)
    return findings, tables


def _check_log(own: OwnSystem, tables: OwnTables, findings: Findings) -> CodedLog | None:
    """All that concerns the request log alone; None where fewer than two rows are left to look at."""
    if tables.requests is None:
        return None
    check_declared(own, tables.requests, findings)
    log = code_log(own, tables.requests)
    if len(log) < 2:
        return None
    check_duplicates(log, findings)
    check_states(log, findings)
    check_revenue(own, log, findings)
    check_results(own, log, findings)
    check_usable(own, log, findings)
    check_over_time(own, log, findings)
    check_coverage(log, findings)
    part = log.sample(_FITTED_ROWS)
    foretold = foretell(part)
    check_exploration(part, foretold, findings)
    column = own.requests.columns.propensity
    if column is not None and not _SPOILED & {one.kind for one in findings}:
        check_propensities(log, column, findings)
        check_against_counts(part, column, foretold, findings)
    return log


def check_and_leave(config: OwnSystem, out: str | Path) -> CheckResult:
    """Read all tables against the declaration: ranges, duplicates, gaps, overlap, propensities, drift, units, λ.

    Prints each finding with what it means and what to do; writes findings.json and findings.html. Exit code 2 where an
    error was found.
    """
    result = check(config, out)
    for one in result.findings:
        print(one)
    if result.findings.errors:
        count, first = result.findings.count, result.findings.errors[0]
        raise UserError(f"{count} found, first {first.kind}: {first.place}; see {Path(out) / 'findings.html'}")
    return result


def main() -> None:
    """The command line."""
    run_cli(check_and_leave, OwnSystem, default_config="configs/own_system.yaml", default_out="runs/own_check")


if __name__ == "__main__":
    main()
