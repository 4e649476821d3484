"""The simulated days on the page: the result in one picture, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from marca_common.html_page import Figure, Section
from marca_report.day_figures import draw_cpu, draw_lambda, draw_revenue, draw_uplifts
from marca_report.looks import Look, strategy_looks
from marca_report.waterfall import draw_waterfall, needs_truth
from marca_report.who_gets_what import choices_of, draw_action_mix, draw_computation

MOST_LINES = 5  # strategies in a figure of lines
_RESULT = {
    "uplift_pct": "over {baseline}, %",
    "uplift_over_hourly_pct": "over {hourly}, %",
    "uplift_over_blind_pct": "over {blind}, %",
    "oracle_share_pct": "share of the lead of {oracle}, %",
    "mu": "budget used (μ), %",
    "nu": "over budget (ν), %",
}
_GAINS = ("uplift_pct", "uplift_over_hourly_pct", "uplift_over_blind_pct")


@dataclass(frozen=True)
class Days:
    """What the closed loop left: its config, numbers by strategy, reasons of those that failed, and tables."""

    config: Mapping[str, Any]  # the run's own, with its sections day and world
    numbers: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, str]
    minutes: pd.DataFrame
    breakdown: pd.DataFrame
    attribution: pd.DataFrame | None  # None: no such table in this run

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> Days:
        """The tables of a stage ``day``, with the run's config and summary."""
        steps = folder / "attribution.csv"
        return cls(
            config,
            summary["strategies"],
            summary.get("failed", {}),
            pd.read_parquet(folder / "minutes.parquet"),
            pd.read_csv(folder / "who_gets_what.csv", dtype={"value": str}),
            pd.read_csv(steps).dropna(subset="uplift_pct") if steps.exists() else None,
        )

    @property
    def looks(self) -> dict[str, Look]:
        """Looks of all strategies, in the config's order."""
        return strategy_looks(self.config["day"]["strategies"], self.config["day"]["baseline"])

    def rival(self, role: str) -> str | None:
        """The strategy that the config names as ``baseline``, ``hourly``, ``blind`` or ``oracle``."""
        name: str | None = self.config["day"].get(role)
        return name

    def label(self, role: str) -> str | None:
        """Label of the strategy with that role; None where there is none."""
        name = self.rival(role)
        return None if name is None else self.looks[name].label

    def learned(self) -> list[str]:
        """Strategies that a log can teach and that are no rival, the one that earns most first."""
        steps = self.config["day"].get("attribution") or {}
        others = {self.rival(role) for role in ("baseline", "hourly", "blind", "oracle")}
        others |= {strategy for step, strategy in steps.items() if needs_truth(step)}
        others |= {name for name, one in self.config["day"]["strategies"].items() if one.get("values") == "truth"}
        return sorted(
            (name for name in self.numbers if name not in others), key=lambda one: -self.numbers[one]["revenue"]
        )

    def shown(self) -> dict[str, Look]:
        """The few strategies of figures with lines: rivals, and the best learned ones with and without a horizon."""
        if len(self.numbers) <= MOST_LINES:
            chosen = set(self.numbers)
        else:
            ahead = [name for name in self.learned() if self._controller(name) == "mpc"]
            others = [name for name in self.learned() if self._controller(name) != "mpc"]
            rivals = {name for role in ("baseline", "hourly", "blind") if (name := self.rival(role))}
            chosen = rivals.union(others[:1], ahead[:1])
        return {name: look for name, look in self.looks.items() if name in chosen and name in self.numbers}

    def _controller(self, name: str) -> Any:
        return (self.config["day"]["strategies"][name].get("controller") or {}).get("name")


def question(days: Days) -> str:
    """A few sentences: what is asked, and of whom."""
    roles = {
        "hourly": "changes that blend by the clock",
        "blind": "lets feedback set a price, but treats all requests alike",
        "oracle": "knows the truth and the future, and bounds what can be had",
    }
    rivals = "; ".join(f"“{days.label(role)}” {text}" for role, text in roles.items() if days.rival(role))
    length, seeds = _length(days.config["day"]["days"]), len(days.config["day"]["seeds"])
    return (
        "How much more can a recommender earn with the same CPUs, if it learns from its logs which requests deserve more "
        f"computation? Every strategy served the same {length}{f' under each of {seeds} seeds' * (seeds > 1)}: the same "
        f"requests, the same luck, the same CPU budget. The yardstick, “{days.label('baseline')}”, gives everybody one blend of "
        f"actions that fits the peak{'; ' * bool(rivals)}{rivals}."
    )


def result_section(days: Days, figures: Path) -> Section:
    """The result in one picture, and one table of all strategies."""
    tables = {"All strategies; μ and ν are means over minutes, services and data centres": result_table(days)}
    baseline = days.looks[days.config["day"]["baseline"]].label
    if days.attribution is not None and len(days.attribution) > 1:
        steps = days.attribution.replace({"step": {days.config["day"]["baseline"]: baseline}})
        path = draw_waterfall(steps, figures / "waterfall.png")
        caption = (
            "Each bar adds one ability to the strategy above it: its gain in points, and the level reached. Blue was "
            "learned from logs, hatched needs the truth: it is what better learning could still earn at most."
        )
        if days.attribution[["ci_low", "ci_high"]].notna().any(axis=None):
            caption += " Whiskers are 95 % intervals of the gain."
    else:
        path = draw_uplifts(days.numbers, figures / "result.png", days.looks, days.config["day"]["baseline"])
        caption = f"The longer the bar, the more a strategy earns than the {baseline} on the same CPUs."
    return Section("The result in one picture", "", [Figure(path, caption)], tables)


def result_table(days: Days) -> pd.DataFrame:
    """The most important numbers, one row per strategy; one that failed says why."""
    known = {key for numbers in days.numbers.values() for key in numbers}
    columns = {key: title for key, title in _RESULT.items() if key in known}
    rows = []
    for name, look in days.looks.items():
        if name in days.numbers:
            rows.append({"strategy": look.label} | _numbers(days, days.numbers[name], columns))
        elif name in days.failed:
            rows.append({"strategy": f"{look.label}, failed: {days.failed[name]}"})
    return pd.DataFrame(rows).fillna("–")


def _numbers(days: Days, one: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    labels = {role: days.label(role) for role in ("baseline", "hourly", "blind", "oracle")}
    cells = {}
    for key, title in columns.items():
        value = one.get(key)
        share = 100 if key in ("mu", "nu") else 1
        cell = "–" if value is None else f"{share * value:{'+' * (key in _GAINS)}.{2 if key == 'nu' else 1}f}"
        cells[title.format(**labels)] = cell.replace("-", "−")
        if key == "uplift_over_blind_pct" and None not in (one.get("ci_low"), one.get("ci_high")):
            interval = f"{one['ci_low']:+.1f} … {one['ci_high']:+.1f}".replace("-", "−").replace(" ", "\u00a0")
            cells["its 95 % interval"] = interval
    return cells


def story_section(days: Days, figures: Path) -> Section:
    """How the result came about: revenue, CPU, price and who gets what."""
    looks, services = days.shown(), list(days.config["world"]["cost"]["services"])
    few = "" if len(looks) == len(days.numbers) else " Drawn: the rivals and the best learned strategies."
    first = few + " The first day is shown." * (days.config["day"]["days"] > 1)
    drawn = [
        Figure(
            draw_revenue(days.minutes, figures / "revenue.png", looks, str(days.rival("baseline"))),
            "A lead that grows at night was earned with budget that others leave unused; one that grows by day, with "
            f"better choices at the peak.{few}",
        ),
        Figure(
            draw_cpu(days.minutes, services, figures / "cpu.png", looks),
            "A good strategy keeps CPU just below the dashed budget: far below is money left, above it is a risk of "
            f"timeouts.{first}",
        ),
        Figure(
            draw_lambda(days.minutes, services, figures / "lambda.png", looks),
            "λ, the price of computation, rises where traffic presses on the budget and falls to nothing where computation "
            f"is free.{first}",
        ),
        Figure(
            draw_computation(days.breakdown, figures / "computation.png", looks),
            f"A flat line treats all alike; a slope shows to whom a strategy gives more computation.{few}",
        ),
    ]
    best = next(iter(days.learned()), None)
    if best is not None:
        choices = choices_of(days.config["world"]["cascade"]["actions"])
        drawn.append(
            Figure(
                draw_action_mix(days.breakdown, choices, best, figures / "action_mix.png"),
                f"What {days.looks[best].label} sets for whom: where colours change along a row, the choice depends on it.",
            )
        )
    text = (
        "Every request gets the joint action with the largest Q − λC: what it is worth, less its computation at the price λ. "
        "There is one price per service and data centre."
    )
    return Section("How it came about", text, drawn, {"All numbers, by their names in summary.json": full_table(days)})


def full_table(days: Days) -> pd.DataFrame:
    """Every number of every strategy that finished, by its name in summary.json."""
    table = pd.DataFrame(days.numbers).T.rename(index={name: look.label for name, look in days.looks.items()})
    return table.apply(pd.to_numeric, errors="coerce").dropna(axis=1, how="all").rename_axis("strategy").reset_index()


def _length(days: float) -> str:
    return f"{days:.3g} days" if days > 1 else "day" if days == 1 else f"{24 * days:.3g} hours"
