"""The report of an orchestrated run, from what its stages left in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from marca_common.html_page import Section, write_page
from marca_report.day_figures import Looks, draw_cpu, draw_lambda, draw_result, draw_revenue
from marca_report.looks import strategy_looks
from marca_report.who_gets_what import draw_action_mix, draw_computation


def write_run_page(stages: Path, summary: dict[str, Any], into: Path) -> list[str]:
    """Report the run whose stages stand in ``stages``: draw the days' figures into ``into/figures``, write ``report.html``.

    ``into`` holds the run's config.yaml. Returns the files that are worth opening, as paths in ``into``.
    """
    config = yaml.safe_load((into / "config.yaml").read_text(encoding="utf-8"))
    simulated = config["world"] is not None
    sections = _simulated(stages, config, summary, into / "figures") if simulated else []
    sections += [_values(stages, config, summary), _costs(stages), _balancer(stages, config["day"]["policy"])]
    name = config["world"]["name"] if simulated else Path(config["logs"]["requests"]).stem
    page = write_page(into / "report.html", f"MaRCA · {name}", _lead(config), _facts(summary, config), sections)
    figures = sorted((into / "figures").glob("*.png"))
    return [page.name, "summary.json", *(str(path.relative_to(into)) for path in figures)]


def _simulated(out: Path, config: dict[str, Any], summary: dict[str, Any], figures: Path) -> list[Section]:
    services = list(config["world"]["cost"]["services"])
    looks = strategy_looks(config["day"]["strategies"], config["day"]["baseline"])
    minutes = pd.read_parquet(out / "day/minutes.parquet")
    breakdown = pd.read_csv(out / "day/who_gets_what.csv", dtype={"value": str})
    return [
        _result(figures, minutes, services, summary, looks, config["day"]["baseline"]),
        _price(figures, minutes, services, looks),
        _who_gets_what(figures, breakdown, config, looks),
    ]


def _lead(config: dict[str, Any]) -> str:
    if config["world"] is None:
        return (
            "Values, costs and a system model were learned from your logs. Where a true value is spoken of below, it is the "
            "estimate of an ensemble that was fitted on the same log."
        )
    days = len(config["day"]["seeds"])
    return (
        f"Values, costs and the price of computation were learned from logs; then {days} day{'s' * (days > 1)} "
        f"of traffic were served in closed loop by every strategy, with the same requests and the same luck. "
        f"Where a strategy names no learner, {config['day']['policy']} decides."
    )


def _facts(summary: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    run = {"wall time": f"{summary['wall_s']:.0f} s", "peak memory": f"{summary['peak_rss_mb']:.0f} MB"}
    strategies = summary.get("strategies")
    if not strategies:
        return run
    looks = strategy_looks(config["day"]["strategies"], config["day"]["baseline"])
    name, last = list(strategies.items())[-1]
    return {
        f"revenue of {looks[name].label} against {looks[config['day']['baseline']].label}": f"{last['uplift_pct']:+.1f} %",
        "budget used (μ)": f"{100 * last['mu']:.1f} %",
        "over budget (ν)": f"{100 * last['nu']:.2f} %",
        "mean CPU": f"{last['cpu_mean']:.1f} %",
        **run,
    }


def _result(
    figures: Path, minutes: pd.DataFrame, services: list[str], summary: dict[str, Any], looks: Looks, baseline: str
) -> Section:
    table = pd.DataFrame(summary["strategies"]).T.rename_axis("strategy").reset_index()
    table["strategy"] = [looks[name].label for name in table["strategy"]]
    table = table.assign(mu=100 * table["mu"], nu=100 * table["nu"]).rename(
        columns={
            "revenue": "revenue per day",
            "uplift_pct": "uplift %",
            "mu": "μ %",
            "nu": "ν %",
            "cpu_mean": "mean CPU %",
        }
    )
    return Section(
        "What every strategy earns, and what it does to the CPUs",
        "The static mixture is the best blend of fixed joint actions that fits the budget at peak, with a downgrade rule. "
        "μ is the share of the budget in use, ν the share by which it is exceeded, both averaged over minutes, services and "
        "data centres.",
        [
            draw_result(minutes, services, figures / "result.png", looks, baseline),
            draw_revenue(minutes, figures / "revenue.png", looks, baseline),
            draw_cpu(minutes, services, figures / "cpu.png", looks),
        ],
        {"Mean over the simulated days": table},
    )


def _price(figures: Path, minutes: pd.DataFrame, services: list[str], looks: Looks) -> Section:
    return Section(
        "The price of computation",
        "λ rises where traffic presses on the budget and falls to nothing where computation is free. There is one price per "
        "service and data centre.",
        [draw_lambda(minutes, services, figures / "lambda.png", looks)],
    )


def _who_gets_what(figures: Path, breakdown: pd.DataFrame, config: dict[str, Any], looks: Looks) -> Section:
    last = list(looks)[-1]
    actions = config["world"]["cascade"]["actions"]
    sizes = {name: len(action["levels"]) for name, action in actions.items()}
    legend = pd.DataFrame(
        [
            {"sub-action": n, "stage": a["agent"], "sets": a["kind"], "choices": " · ".join(map(_level, a["levels"]))}
            for n, a in actions.items()
        ]
    )
    return Section(
        "Who gets what",
        "Computation per request and the action mix by user value, placement and hour.",
        [
            draw_computation(breakdown, figures / "computation.png", looks),
            draw_action_mix(breakdown, sizes, last, looks[last].label, figures / "action_mix.png"),
        ],
        {"The sub-actions": legend},
    )


def _level(level: Any) -> str:
    return "+".join(level) if isinstance(level, list) else str(level)


def _values(out: Path, config: dict[str, Any], summary: dict[str, Any]) -> Section:
    table = pd.DataFrame(
        {
            "learner": list(summary["spearman"]),
            "r_s, all pairs": list(summary["spearman"].values()),
            "r_s within states": list(summary["spearman_within"].values()),
            "Return%, greedy": list(summary["return_pct"].values()),
            "Return%, optimal": list(summary["return_pct_optimal"].values()),
        }
    )
    policy = config["day"]["policy"]
    return Section(
        "What joint actions are worth",
        "Learned Q against the world's truth on a seeded sample of states. r_s over all pairs mostly ranks states; the order of "
        "actions within a state is what an allocation lives on. Return% allocates the log's own quotas of joint actions.",
        [*_pictures(out / "offline"), *_pictures(out / "judged" / policy)],
        {"Learners against the truth": table},
    )


def _costs(out: Path) -> Section:
    return Section(
        "What they cost",
        "Load tests become monotone cost maps (core-milliseconds per request); applied to predicted action results they give "
        "C(s, a) for every joint action.",
        [*_pictures(out / "costs/maps"), *_pictures(out / "costs/results")],
    )


def _balancer(out: Path, learner: str) -> Section:
    return Section(
        "The system model behind the controller",
        "Learned on commissioning days, on which the policy ran under a dithered price.",
        _pictures(out / "balancer" / learner),
    )


def _pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))
