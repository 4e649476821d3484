"""Findings on one HTML page, with what was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from marca_common.html_page import Section, write_page
from own_system.declaration import OwnSystem
from own_system.findings import Finding, Findings
from own_system.tables import OwnTables


def write_findings_page(own: OwnSystem, findings: Findings, tables: OwnTables, path: Path) -> Path:
    """Write the page: errors, warnings, then a portrait of the tables."""
    errors = len(findings.errors)
    facts: dict[str, Any] = {"errors": errors, "warnings": len(findings) - errors}
    facts |= {f"rows of {Path(name).name}": f"{rows:,}" for name, rows in tables.rows.items()}
    sections = [_section(one) for one in findings] + _portrait(own, tables)
    return write_page(path, "Check of own tables", _lead(findings), facts, sections)


def _lead(findings: Findings) -> str:
    if not len(findings):
        return "No defect was found."
    return (
        "What is wrong, what it means, and what to do. Nothing sound can be learned before errors are mended. "
        "Look at each warning, then decide: the loop runs with it, and its numbers mean less."
    )


def _section(one: Finding) -> Section:
    text = f"{one.place}: {one.value}. {one.meaning} What to do: {one.advice}"
    return Section(f"{one.level.capitalize()}: {one.kind.replace('_', ' ')}", text)


def _portrait(own: OwnSystem, tables: OwnTables) -> list[Section]:
    """How often each declared value was taken, and what it earned on average."""
    if tables.requests is None:
        return []
    log = tables.requests
    shares = {
        f"{name} ({agent})": pd.DataFrame(
            {
                "value": values,
                "share of requests": [float((log[name] == value).mean()) for value in values],
                "mean revenue": [float(log["revenue"][log[name] == value].mean()) for value in values],
            }
        )
        for agent, actions in own.agents.items()
        for name, values in actions.items()
    }
    text = "How often each value was taken, and what these requests earned, in money. Means are no effects: who got a value was no accident."
    return [Section("The log's actions", text, tables=shares)]
