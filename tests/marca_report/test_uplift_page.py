"""What a manager reads of an uplift: verdicts, second opinions and next steps follow from the tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from marca_common.files import write_json
from marca_common.html_page import Section
from marca_report.run_page import write_run_page
from marca_report.uplift_sections import uplift_facts, uplift_lead, uplift_sections
from tests.marca_report.test_run_page import add_pictures, config, make_run, summary, words

Interval = tuple[float, float | None, float | None]
SIGNED, OPEN, LOSS, UNTOLD = (12.3, 4.0, 21.0), (5.0, -2.0, 12.0), (-6.0, -9.0, -3.0), (30.0, None, None)
RIVALS = ("logged", "static_mixture", "priced_blind")


def spans(*intervals: Interval) -> dict[str, dict[str, float | None]]:
    names = ("uplift_pct", "low_pct", "high_pct")
    return {rival: dict(zip(names, one)) for rival, one in zip(RIVALS, intervals)}


def found(
    today: tuple[Interval, ...], less: tuple[Interval, ...] = (SIGNED, OPEN, OPEN), **more: Any
) -> dict[str, Any]:
    return {
        "rows": 20000,
        "core_ms_today": 6.0,
        "at_todays_spend": spans(*today),
        "at_20_pct_less_cpu": spans(*less),
        "cpu_saved_at_todays_revenue_pct": {"estimate": None, "low": None, "high": None},
        "check_by_matches": {"effective_rows": 5.0, "warning": "too few"},
        "propensities": {"groupings": ["tier × page"], "calibration": 2.0},
    } | more


def written(folder: Path, summary: dict[str, Any], days: float | None = 40.0) -> list[Section]:
    folder.mkdir(exist_ok=True)
    shares = {0.8: summary["at_20_pct_less_cpu"], 1.0: summary["at_todays_spend"]}
    rows = [
        {"spend_share": share, "rival": rival} | one for share, part in shares.items() for rival, one in part.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "uplift.csv", index=False)
    power = [
        {"rival": rival, "explored": share, "rows": 60000 * (1 - share), "days": days, "cost_pct": 15 * share}
        for rival in RIVALS
        for share in (0.0, 0.2)
    ]
    pd.DataFrame(power).to_csv(folder / "power.csv", index=False)
    return uplift_sections(folder, summary, folder)


def steps(sections: list[Section]) -> list[str]:
    return [str(one) for one in sections[-1].tables[""]["what"]]


def assumed(sections: list[Section]) -> str:
    return " ".join(sections[-2].tables[""]["what is known of it"])


def test_a_verdict_for_every_kind_of_interval(tmp_path: Path) -> None:
    answer = written(tmp_path, found((SIGNED, OPEN, LOSS), (UNTOLD, OPEN, OPEN)))[0]
    today, less = answer.tables.values()
    assert today["over"].tolist() == ["today's policy", "best static mixture", "priced, one profile"]
    assert today["it is"].tolist() == ["an uplift that can be signed", "not yet told apart from 0", "a loss"]
    assert today["interval, %"].tolist() == ["+4.0 to +21.0", "-2.0 to +12.0", "-9.0 to -3.0"]
    assert less.iloc[0].tolist() == ["today's policy", "+30.0", "no interval", "not told by this log"]
    assert all(
        figure.path.stat().st_size > 5000
        for section in written(tmp_path, found((SIGNED, OPEN, LOSS)))
        for figure in section.figures
    )


def test_the_answer_stands_on_top() -> None:
    one = found((SIGNED, OPEN, OPEN), cpu_saved_at_todays_revenue_pct={"estimate": 23.4, "low": 11.0, "high": None})
    assert "+12.3 % (+4.0 to +21.0) over today's policy. It is an uplift that can be signed." in uplift_lead(one)
    assert uplift_facts(one) == {
        "revenue at today's spend": "+12.3 % (+4.0 to +21.0)",
        "revenue with 20 % less CPU": "+12.3 % (+4.0 to +21.0)",
        "CPU saved at today's revenue": "23 %",
        "requests in the log": "20,000",
    }


def test_cpu_saved_in_words(tmp_path: Path) -> None:
    known = {"estimate": 23.4, "low": 11.0, "high": None}
    text = written(tmp_path, found((SIGNED, OPEN, OPEN), cpu_saved_at_todays_revenue_pct=known))[0].text
    assert "23 % less computation (by the interval's lower end: 11 %; by its upper end: unknown)" in text
    assert (
        "Even the smallest spend that was judged, 80 % of today's"
        in written(tmp_path, found((SIGNED, OPEN, OPEN)))[0].text
    )
    assert "No spend that was judged" in written(tmp_path, found((SIGNED, OPEN, OPEN), (LOSS, OPEN, OPEN)))[0].text


@pytest.mark.parametrize(
    ("today", "more", "expected"),
    [
        ((SIGNED, SIGNED, SIGNED), {}, ["Serve it in shadow mode"]),
        (
            (SIGNED, OPEN, OPEN),
            {},
            ["Serve it in shadow mode", "Try the best static mixture", "Collect 60,000 requests"],
        ),
        ((OPEN, OPEN, OPEN), {}, ["Collect 60,000 requests", "Collect 60,000 requests"]),
        ((LOSS, LOSS, LOSS), {}, ["Do not serve it.", "Collect", "Collect"]),
        ((SIGNED, SIGNED, SIGNED), {"warnings": ["a1 hardly varies"]}, ["Look into this first."]),
        (
            (SIGNED, SIGNED, SIGNED),
            {"propensities": {"groupings": ["tier"], "calibration": 11.0}},
            ["Find what else decides"],
        ),
        (
            (SIGNED, SIGNED, SIGNED),
            {"check_by_matches": {"effective_rows": 300.0, "uplift_pct": -9.0, "low_pct": -14.0, "high_pct": -4.0}},
            ["Believe neither number"],
        ),
    ],
)
def test_next_steps_follow_from_what_was_found(
    tmp_path: Path, today: tuple[Interval, ...], more: dict[str, Any], expected: list[str]
) -> None:
    assert len(steps(written(tmp_path, found(today, **more)))) == len(expected)
    for step, start in zip(steps(written(tmp_path, found(today, **more))), expected):
        assert step.startswith(start)


def test_waiting_and_exploring_have_a_price(tmp_path: Path) -> None:
    (_, _, wait) = steps(written(tmp_path, found((SIGNED, OPEN, OPEN))))
    assert (
        wait
        == "Collect 60,000 requests (40.0 days), or 48,000 requests (40.0 days) with 20 % explored at random, for 3.0 % of revenue."
    )
    (_, _, wait) = steps(written(tmp_path, found((SIGNED, OPEN, OPEN)), days=None))
    assert wait.startswith("Collect 60,000 requests, or 48,000 requests with")


def test_the_second_opinion_is_quoted(tmp_path: Path) -> None:
    matched = {"effective_rows": 300.0, "uplift_pct": 10.0, "low_pct": 1.0, "high_pct": 20.0}
    agreeing = assumed(written(tmp_path, found((SIGNED, OPEN, OPEN), check_by_matches=matched)))
    assert (
        "300 effective requests that happened to get the policy's very action say +10.0 % (+1.0 to +20.0). Both agree."
        in agreeing
    )
    assert "Too few to tell: 5 effective requests" in assumed(written(tmp_path, found((SIGNED, OPEN, OPEN))))


def test_the_loop_on_own_logs_opens_with_it(tmp_path: Path) -> None:
    settings = config(["static", "marca_mpc"])
    make_run(tmp_path, settings, ["static", "marca_mpc"])
    settings |= {"world": None, "logs": {"requests": "requests.csv", "spec": {"sizes": {"a1": 2}}}, "uplift": {}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    mine = found((SIGNED, OPEN, OPEN))
    written(tmp_path / "uplift", mine)
    write_json(tmp_path / "uplift/summary.json", mine)
    add_pictures(tmp_path)
    run = summary({})
    del run["strategies"]
    files = write_run_page(tmp_path, run, tmp_path)
    assert {"figures/uplift.png", "figures/power.png"} <= set(files)
    text = words(tmp_path / "report.html")
    assert text.index("an uplift that can be signed") < text.index("What to do next") < text.index("What was learned")
    assert not re.search(r"\btru(e|th)|world|commission|simulat", text, flags=re.IGNORECASE)
