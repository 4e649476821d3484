"""Findings on one HTML page, with what was read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from marca_common.html_page import Section, write_page
from own_system.declaration import OwnSystem
from own_system.findings import Finding, Findings
from own_system.tables import OwnTables

_LEADS = {
    "error": "Mend these first: nothing sound can be learned before.",
    "warning": "Look at each, then decide: the loop runs with them, and its numbers mean less.",
}


def write_findings_page(own: OwnSystem, findings: Findings, tables: OwnTables, path: Path) -> Path:
    """Write the page: errors, warnings, then a portrait of the tables."""
    errors = len(findings.errors)
    facts = {"errors": errors, "warnings": len(findings) - errors} | {
        f"rows of {n}": f"{m:,}" for n, m in tables.rows.items()
    }
    lead = "No defect was found." if not len(findings) else "What is wrong, what it means, and what to do."
    sections = [
        Section(f"{level}s".capitalize(), text, tables={"": _table(found)})
        for level, text in _LEADS.items()
        if (found := [one for one in findings if one.level == level])
    ]
    return write_page(path, "Check of own tables", lead, facts, [*sections, *_portrait(own, tables)])


def _table(found: list[Finding]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "kind": one.kind,
                "place": one.place,
                "found": one.value,
                "it means": one.meaning,
                "what to do": one.advice,
            }
            for one in found
        ]
    )


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
