"""The report of an orchestrated run, from what its stages left in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from marca_common.files import read_json
from marca_common.html_page import Figure, Section, write_page
from marca_report.day_sections import Days, question, result_section, story_section
from marca_report.learned_sections import learned_sections
from marca_report.uplift_sections import uplift_facts, uplift_lead, uplift_sections

_OWN_QUESTION = (
    "What is each joint action worth to each request, what computation does it cost, and how do the CPUs answer? All three "
    "were learned from your logs. The rivals are the learners, and the best static mixture of actions for everybody."
)


def write_run_page(stages: Path, summary: dict[str, Any], into: Path) -> list[str]:
    """Report the run whose stages stand in ``stages``: draw the days' figures into ``into/figures``, write ``report.html``.

    ``into`` holds the run's config.yaml. Returns the files that are worth opening, as paths in ``into``.
    """
    config = yaml.safe_load((into / "config.yaml").read_text(encoding="utf-8"))
    figures = into / "figures"
    learned = learned_sections(stages, config, summary, figures)
    if config["world"] is not None:
        name, days = config["world"]["name"], Days.read(stages / "day", config, summary)
        lead, facts = question(days), _day_facts(days)
        sections = [result_section(days, figures), story_section(days, figures), *learned]
    else:
        name, lead, facts = Path(config["logs"]["requests"]).stem, _OWN_QUESTION, {}
        sections = [*_opened(learned), *learned]
        if config["uplift"] is not None:
            found = read_json(stages / "uplift/summary.json")
            lead, facts = uplift_lead(found), uplift_facts(found)
            sections = [*uplift_sections(stages / "uplift", found, figures), *learned]
    page = write_page(into / "report.html", f"MaRCA · {name}", lead, facts | _run_facts(summary), sections)
    return [page.name, "summary.json", *(str(path.relative_to(into)) for path in sorted(figures.glob("*.png")))]


def _opened(learned: list[Section]) -> list[Section]:
    """With own logs the picture of what a budget earns opens the report, in place of its own section."""
    first: list[Figure] = [one for one in learned[0].figures if one.path.stem == "budget_curve"]
    learned[0].figures = [one for one in learned[0].figures if one not in first]
    return [Section("The result in one picture", "", first)] if first else []


def _day_facts(days: Days) -> dict[str, str]:
    best = next(iter(days.learned()), None)
    if best is None:
        return {}
    numbers, label = days.numbers[best], days.looks[best].label
    facts = {f"revenue of {label} over {days.label('baseline')}": (numbers.get("uplift_pct"), "+.1f")}
    facts |= {f"the same over {days.label('blind')}": (numbers.get("uplift_over_blind_pct"), "+.1f")}
    facts |= {f"share of the lead of {days.label('oracle')}": (numbers.get("oracle_share_pct"), ".0f")}
    facts |= {"budget used (μ)": (100 * numbers["mu"], ".1f"), "over budget (ν)": (100 * numbers["nu"], ".2f")}
    return {name: f"{value:{form}} %" for name, (value, form) in facts.items() if value is not None}


def _run_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Of the runs that made the stages, not of the one that reused them."""
    seconds = sum(summary["stage_s"].values())
    return {"time of all stages, added up": f"{seconds:.0f} s", "peak memory": f"{summary['peak_rss_mb']:.0f} MB"}
