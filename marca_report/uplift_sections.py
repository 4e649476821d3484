"""What personalised pricing of computation would earn, for those who decide on it: from the tables of ``marca_loop.signed_uplift``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from marca_common.html_page import Figure, Section
from marca_report.uplift_figures import RIVAL_NAMES, draw_power, draw_uplift

CHANCE, WRONG = 5, 10  # propensities.calibration: up to here it is chance; from here on they are wrong
_LOGGED = "logged"
_LEAN = (
    "On logs whose answer is known, the lead over today's policy came out several points too high on average, "
    "and that over the other rivals less so. Sign the lower end of an interval, not its middle."
)
_TITLE = "What personalised pricing would earn"


def uplift_lead(summary: Mapping[str, Any]) -> str:
    """The answer in a few sentences."""
    today, less = summary["at_todays_spend"][_LOGGED], summary["at_20_pct_less_cpu"].get(_LOGGED)
    text = f"At today's spend, a policy that prices computation for each request is estimated to earn {_span(today)} over today's policy. "
    text += f"It is {_verdict(today)}. "
    if less:
        text += f"With 20 % less computation it is {_span(less)}: {_verdict(less)}."
    return text


def uplift_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """The numbers on top of the page."""
    facts = {"revenue at today's spend": _span(summary["at_todays_spend"][_LOGGED])}
    if less := summary["at_20_pct_less_cpu"].get(_LOGGED):
        facts["revenue with 20 % less CPU"] = _span(less)
    saved = summary["cpu_saved_at_todays_revenue_pct"]["estimate"]
    if saved is not None:
        facts["CPU saved at today's revenue"] = f"{saved:.0f} %"
    return facts | {"requests in the log": f"{summary['rows']:,}"}


def uplift_sections(folder: Path, summary: Mapping[str, Any], figures: Path) -> list[Section]:
    """The answer, what it would take to be surer, what was assumed, what to do next: of ``uplift.csv`` and ``power.csv`` in ``folder``."""
    table, power = pd.read_csv(folder / "uplift.csv"), pd.read_csv(folder / "power.csv")
    return [
        _answer(table, summary, figures),
        _power(power, figures),
        Section(
            "What was assumed",
            "The interval covers what a log leaves to chance, and an error of about 3 % of what three and more sub-actions do together. Beyond "
            "that it covers no wrong assumption. Each is below, with what the log says of it.",
            tables={"": _assumed(summary)},
        ),
        Section("What to do next", "", tables={"": _next(summary, power)}),
    ]


def _answer(table: pd.DataFrame, summary: Mapping[str, Any], figures: Path) -> Section:
    text = (
        "A policy was learned on one half of the log and judged by the revenue of the other half, and the other way round. Whiskers are "
        "95 % intervals. The best static mixture gives everybody the same. The price of one profile asks what requests cost, and "
        "not who asks. So the lead over these two is what knowing the request adds; the rest of the lead over today's policy, "
        "a better rule for everybody earns, too. " + _saved(table, summary["cpu_saved_at_todays_revenue_pct"])
    )
    shares = {"At today's spend": 1.0, "With 20 % less computation": 0.8}
    tables = {
        name: _rivals(part) for name, share in shares.items() if len(part := table[table["spend_share"] == share])
    }
    caption = "Above the line at 0, the personalised policy earns more than the rival."
    return Section(_TITLE, text, [Figure(draw_uplift(table, figures / "uplift.png"), caption)], tables)


def _saved(table: pd.DataFrame, saved: Mapping[str, float | None]) -> str:
    """How much less computation earns what is earned today."""
    if saved["estimate"] is not None:
        unsure = [f"{saved[end]:.0f} %" if saved[end] is not None else "unknown" for end in ("low", "high")]
        return (
            f"Today's revenue is estimated to need {saved['estimate']:.0f} % less computation "
            f"(by the interval's lower end: {unsure[0]}; by its upper end: {unsure[1]})."
        )
    mine = table[table["rival"] == _LOGGED].sort_values("spend_share")
    least = 100 * float(mine["spend_share"].iloc[0])
    if (mine["uplift_pct"] > 0).all():
        return f"Even the smallest spend that was judged, {least:.0f} % of today's, is estimated to earn more than today's policy."
    return "No spend that was judged is estimated to earn exactly today's revenue."


def _rivals(part: pd.DataFrame) -> pd.DataFrame:
    """One row per rival, in words."""
    found = [one for _, one in part.iterrows()]
    return pd.DataFrame(
        {
            "over": [RIVAL_NAMES[one["rival"]] for one in found],
            "uplift, %": [f"{one['uplift_pct']:+.1f}" for one in found],
            "interval, %": [_interval(one) for one in found],
            "it is": [_verdict(one) for one in found],
        }
    )


def _power(power: pd.DataFrame, figures: Path) -> Section:
    timed = power["days"].notna().any()
    text = (
        "If the estimate is right, the interval at today's spend excludes 0 after so many requests like the log's. "
        "Exploring more at random makes a log say more, and costs revenue while it lasts. Unknown: the lead is too small to be told "
        "from what the assumptions below leave out, however long the log; or there is no interval."
    )
    table = pd.DataFrame(
        {
            "over": power["rival"].map(RIVAL_NAMES),
            "explored, %": (100 * power["explored"]).map("{:.0f}".format),
            "requests": power["rows"].map(lambda one: "unknown" if pd.isna(one) else f"{one:,.0f}"),
            **({"days": power["days"].map(lambda one: "unknown" if pd.isna(one) else f"{one:,.1f}")} if timed else {}),
            "costs, % of revenue": power["cost_pct"].map("{:.1f}".format),
        }
    )
    caption = "Lower is sooner. Where nothing is explored beyond what the log did, it costs nothing."
    figure = [Figure(draw_power(power, figures / "power.png"), caption)] if power["rows"].notna().any() else []
    return Section("What it takes to be sure", text, figure, {"Until the interval excludes 0": table})


def _assumed(summary: Mapping[str, Any]) -> pd.DataFrame:
    fitted = summary["propensities"]
    rows = [
        ("Nothing outside the log decided both actions and revenue.", "No log can tell. Ask whoever set the actions."),
        (
            "Sub-actions were explored, each by itself, given the state.",
            f"Counted by {', '.join(fitted['groupings'])}. Rows foretell rows within {fitted['calibration']:.1f} standard errors: {_calibrated(fitted)}",
        ),
        (
            "Three sub-actions together do nothing that pairs do not.",
            f"{_second_opinion(summary)} {_LEAN}",
        ),
        (
            "Costs are right.",
            f"Today's policy is predicted to spend {summary['core_ms_today']:.3g} core-ms a request. Hold that against your meters.",
        ),
        ("Coming requests are like the log's.", "python -m own_system.check looks for drift within it."),
        ("A request does not change the next one.", "No log of this kind can tell. A canary on some users can."),
    ]
    return pd.DataFrame(rows, columns=["assumed", "what is known of it"])


def _calibrated(fitted: Mapping[str, Any]) -> str:
    if fitted["calibration"] <= CHANCE:
        return "no more than chance."
    return "somewhat more than chance." if fitted["calibration"] <= WRONG else "they are wrong."


def _second_opinion(summary: Mapping[str, Any]) -> str:
    matched = summary["check_by_matches"]
    rows = f"{matched['effective_rows']:,.0f} effective requests that happened to get the policy's very action"
    if matched.get("low_pct") is None:
        return f"Too few to tell: {rows}."
    agrees = "agree" if _agrees(summary) else "do NOT agree"
    return f"{rows} say {_span(matched)}. Both {agrees}."


def _agrees(summary: Mapping[str, Any]) -> bool:
    """Do the interval and that of matching rows share a value? Also where either is missing."""
    matched, mine = summary["check_by_matches"], summary["at_todays_spend"][_LOGGED]
    if matched.get("low_pct") is None or mine["low_pct"] is None:
        return True
    return bool(matched["low_pct"] <= mine["high_pct"] and mine["low_pct"] <= matched["high_pct"])


def _next(summary: Mapping[str, Any], power: pd.DataFrame) -> pd.DataFrame:
    """What to do, the most urgent first, and why."""
    today = summary["at_todays_spend"]
    steps = [("Look into this first.", text) for text in summary.get("warnings", [])]
    if summary["propensities"]["calibration"] > WRONG:
        steps.append(
            ("Find what else decides the actions, and declare it as a state column.", "Counts do not foretell them.")
        )
    if not _agrees(summary):
        steps.append(("Believe neither number before you know why.", "The second opinion contradicts the first."))
    if not steps and _signed(today[_LOGGED]):
        steps.append(
            (
                "Serve it in shadow mode, then to a few percent of users at their share of the budget.",
                "The uplift over today's policy is above 0. docs/serving.md says how.",
            )
        )
        if not _signed(today["static_mixture"]):
            steps.append(
                (
                    "Try the best static mixture beside it.",
                    "Whether knowing the request adds to a better rule for everybody cannot be told yet.",
                )
            )
    elif not steps and today[_LOGGED]["high_pct"] is not None and today[_LOGGED]["high_pct"] < 0:
        steps.append(("Do not serve it.", "It would earn less than today's policy."))
    for rival in (_LOGGED, "static_mixture"):
        if not _signed(today[rival]) and (wait := _wait(power, rival)):
            steps.append((wait, f"Then the interval over {RIVAL_NAMES[rival]} excludes 0, if the estimate is right."))
    return pd.DataFrame(steps, columns=["what", "why"])


def _wait(power: pd.DataFrame, rival: str) -> str | None:
    """What log to collect; None: unknown."""
    mine = power[(power["rival"] == rival) & power["rows"].notna()]
    if not len(mine):
        return None
    calm, least = mine.iloc[0], mine.loc[mine["rows"].idxmin()]
    text = f"Collect {_size(calm)}"
    if least["explored"] > 0:
        text += f", or {_size(least)} with {100 * least['explored']:.0f} % explored at random, for {least['cost_pct']:.1f} % of revenue"
    return f"{text}."


def _size(row: pd.Series) -> str:
    return f"{row['rows']:,.0f} requests" + ("" if pd.isna(row["days"]) else f" ({row['days']:,.1f} days)")


def _span(one: Mapping[str, Any]) -> str:
    return f"{one['uplift_pct']:+.1f} % ({_interval(one)})"


def _interval(one: Mapping[str, Any]) -> str:
    return "no interval" if pd.isna(one["low_pct"]) else f"{one['low_pct']:+.1f} to {one['high_pct']:+.1f}"


def _signed(one: Mapping[str, Any]) -> bool:
    return not pd.isna(one["low_pct"]) and one["low_pct"] > 0


def _verdict(one: Mapping[str, Any]) -> str:
    """What an interval says, in words."""
    if pd.isna(one["low_pct"]):
        return "not told by this log"
    if one["low_pct"] > 0:
        return "an uplift that can be signed"
    return "a loss" if one["high_pct"] < 0 else "not yet told apart from 0"
