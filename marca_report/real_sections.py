"""Sections of the real cascade's page: what benchmarks measured on it, what its build found, and what limits the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.html_page import Figure, Section
from marca_report.benchmark_files import BenchmarkFiles, not_measured

_COSTS = {  # column of real_costs_summary.csv → what it is
    "cv_median_pct": "variation of a bucket's cost between rounds, median bucket, %",
    "fit_error_pct": "error of the cost maps on the buckets they were fitted to, %",
    "left_out_error_pct": "the same on buckets left out, %",
    "replay_error_pct": "error of predicted total CPU: random actions replayed, %",
    "mix_error_pct": "the same: all mixes of actions that budgets choose, %",
    "worst_mix_error_pct": "the same: the worst of these mixes, %",
    "lost": "requests lost",
}


def budgets_section(files: BenchmarkFiles) -> Section:
    """Revenue by budget, with intervals over users."""
    title, command = "Revenue by budget", "python -m benchmarks.movielens"
    found = files.table("movielens.csv", ["budget", "strategy", "value", "lead", "lead_low", "lead_high"])
    if found is None:
        return not_measured(title, command)
    rows = found.frame.assign(
        cell=[_interval(*one) for one in found.frame[["lead", "lead_low", "lead_high"]].to_numpy()]
    )
    money = rows["value"].map("{:.3f}".format)
    rows["cell"] = rows["cell"].where(rows["strategy"] != "static", money + " money")
    order = sorted(rows["strategy"].unique(), key=lambda name: name != "static")
    table = rows.pivot(index="strategy", columns="budget", values="cell").loc[order]
    return found.section(
        title,
        "Every visit gets an action under a budget, a share of what the dearest action costs. Judged by likes that no log has "
        "shown. static is the best mixture of fixed actions, priced_blind one price over one profile for everybody, tiers that "
        "profile times the mean of the user's tier. static_told, told_levels, logged_likes and ceiling know what nobody can: "
        f"the true means, each visit's level, each visit's own labels, and those that judge. Measured by {command}.",
        "Left, what a request earns at each budget; right, the lead over the static mixture: above 0 it pays to look at who asks.",
        table.rename_axis(columns=None).reset_index(),
        "Lead over static, % (95 % interval over users), by budget; for static itself what it earns per request",
    )  # fmt: skip


def learners_section(files: BenchmarkFiles) -> Section:
    """The learners, means over seeds."""
    title, command = "The learners", "python -m benchmarks.movielens"
    columns = {
        "lead": "mean lead over static, %",
        "spearman_visits": "r_s of visits",
        "spearman_actions": "r_s of actions",
    }
    found = files.table("table1_movielens.csv", ["learner", "seeds", *columns])
    if found is None:
        return not_measured(title, command)
    frame = found.frame
    table = frame[["learner", "seeds"]].copy()
    for key, name in columns.items():
        error = frame.get(f"{key}_se", pd.Series(float("nan"), frame.index))
        table[name] = [f"{mean:.2f}" + (f" ± {se:.2f}" if se == se else "") for mean, se in zip(frame[key], error)]
    return found.section(
        title,
        "Means over seeds with standard errors. A learner gains by knowing which visits are worth more, and which actions are: "
        f"r_s is the rank correlation with what the judging half says of either. Measured by {command}.",
        "",
        table,
        "The lead is the mean over the budgets",
    )


def costs_section(files: BenchmarkFiles) -> Section:
    """Costs by load test, and how well they predict."""
    title, command = "Measured and predicted CPU", "python -m benchmarks.real_costs"
    found = files.table("real_costs_summary.csv", list(_COSTS))
    if found is None:
        return not_measured(title, command)
    table = pd.DataFrame({"": _COSTS.values(), "measured": [f"{found.frame[key].iloc[0]:.4g}" for key in _COSTS]})
    return found.section(
        title,
        "The service was measured by the test bench, from outside and with HTTP. What the cost maps then say of a mix of actions "
        f"stands beside what the clocks read. Measured by {command}.",
        "Left, what a request of each bucket costs; right, mixes of actions: on the line, predicted CPU is measured CPU.",
        table,
        "How far to trust the costs",
    )


def live_section(files: BenchmarkFiles) -> Section:
    """Strategies on the live service."""
    title, command = "Live", "python -m benchmarks.live_ab"
    leads = ["lead_pct", "lead_low", "lead_high"]
    found = files.table("live_ab.csv", ["strategy", "cpu_mean", "cpu_over_target", "value", *leads, "p99_ms", "lost"])
    if found is None:
        return not_measured(title, command)
    frame = found.frame
    table = pd.DataFrame({
        "strategy": frame["strategy"], "mean CPU, %": frame["cpu_mean"].map("{:.1f}".format),
        "over the target, points": frame["cpu_over_target"].map("{:.1f}".format),
        "money per request": frame["value"].map("{:.3f}".format),
        f"lead over {frame['strategy'].iloc[0]}, % (95 %)": [_interval(*one) for one in frame[leads].to_numpy()],
        "p99, ms": frame["p99_ms"].map("{:.0f}".format), "lost": frame["lost"],
    })  # fmt: skip
    return found.section(
        title,
        "The service under traffic with the shape of the record's own day. All strategies served the same requests at the same "
        f"moments, in turns. Measured by {command}.",
        "CPU should stay at the dashed target while traffic rises and falls; what is earned beside that is on the right.",
        table,
        "What each strategy used and earned",
    )


def build_section(build: Path, summary: Mapping[str, Any]) -> Section:
    """What fixed actions earn and cost, by the build's own tables."""
    value, cost = summary["value"], summary["cost_ms"]
    best = ", ".join(f"{ranker} {money:.3f}" for ranker, money in value["best_with"].items())
    return Section(
        "What each joint action earns and costs",
        f"The cascade was run for all visits and all {summary['distinct_actions']} joint actions that differ. Fixed actions cost "
        f"{cost['least']:.3f} to {cost['most']:.3f} core-ms per request; the median action's cost varies by "
        f"{cost['between_round_cv_pct']:.1f} % between rounds. They earn {value['least']:.3f} to {value['best']:.3f} money per "
        f"request; the best by ranker: {best}; the kept answer {value['kept_answer']:.3f}.",
        [
            Figure(build / "values.png", "More computation does not always earn more: only actions on the line are worth buying."),
            Figure(build / "costs.png", "Computation of the two services by how long a user's history is."),
        ],
    )  # fmt: skip


def limits_section(summary: Mapping[str, Any], figure: Path) -> Section:
    """What keeps any learner from more: luck of labels, and what state columns tell."""
    value, share = summary["value"], summary["variance_share"]
    numbers = {
        "requests with revenue, %": 100 * summary["rewarded_share"],
        "coefficient of variation of a request's revenue": summary["revenue_cv"],
        "variance of value between visits, %": 100 * share["between_visits"],
        "variance of value between actions whoever asks, %": 100 * share["profile"],
    }
    table = pd.DataFrame({"": numbers.keys(), "measured": [f"{one:.3g}" for one in numbers.values()]})
    columns = pd.DataFrame({
        "state column": share["level"].keys(),
        "of visits' levels, %": [_signed(100 * one) for one in share["level"].values()],
        "of actions, beyond what is common to all, %": [_signed(100 * one, 2) for one in share["departure"].values()],
    })  # fmt: skip
    return Section(
        "What limits the result",
        "The later likes of a user are halved by coins: one half is logged, the other judges. Choosing each visit's best action "
        f"by one half and judging it by the other earns {value['split_half_best']:.3f}; the best fixed action earns "
        f"{value['best']:.3f}. By the judging half itself it would be {value['own_half_best']:.3f}, the ceiling that nobody can "
        "know. Where the first is below the second, what one visit's labels say is mostly luck. What is left to a policy is what "
        "state columns tell.",
        [Figure(draw_limits(summary, figure), "Left: labels of one visit are worth knowing where the first bar is longer than the "
                "second. Right: the longer a column's bar, the better it tells who is worth computation.")],
        {"How noisy revenue is, and where its variance lies": table,
         "What each state column tells, a share of variance; it is unbiased, so it can be below 0": columns},
    )  # fmt: skip


def draw_limits(summary: Mapping[str, Any], path: Path) -> Path:
    """What choosing by either half earns beside fixed actions; and what state columns tell of visits' levels."""
    value, level = summary["value"], summary["variance_share"]["level"]
    bars = {
        "each visit's best\nby the logged half": value["split_half_best"],
        "best fixed action": value["best"],
        "kept answer": value["kept_answer"],
        "each visit's best\nby the judging half": value["own_half_best"],
    }
    columns = [name for name in level if name != "all"]  # all together make too many groups to learn from
    figure, (left, right) = new_figure(1, 2, width=9.2, height=3.4)
    left.barh(list(bars), list(bars.values()), color=[COLORS[1], COLORS[0], COLORS[5], "0.7"])
    left.invert_yaxis()
    left.set(title="Earned on the judging half", xlabel="money per request")
    right.barh(columns, [100 * level[name] for name in columns], color=COLORS[2])
    right.invert_yaxis()
    right.axvline(0, color="0.5", lw=0.8)
    right.set(title="What columns tell of visits' levels", xlabel="percent of the variance of value")
    return save_figure(figure, path)


def licence_section(summary: Mapping[str, Any]) -> Section:
    """Whose data these are."""
    return Section("Data, licence and citation", str(summary["licence"]))


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _interval(middle: float, low: float, high: float) -> str:
    return f"{_signed(middle)} ({_signed(low)} to {_signed(high)})"
