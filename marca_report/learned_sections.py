"""What was learned: values, costs and the system model, from the PNGs and numbers that their programs left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from marca_common.html_page import Figure, Section
from marca_report.who_gets_what import Choices, choices_of, draw_mean_choice

_CAPTIONS = {
    "budget_curve": "What a request earns at each budget, by {reference}: the nearer to the clairvoyant's line, and the higher "
    "above the best static mixture, the better.",
    "return_pct": "Every learner hands out the log's own amounts of each action; 100 % is what they earn where {reference} "
    "hands them out.",
    "return_vs_spearman": "If points rise to the right, learners that rank better also earn more.",
    "calibration": "Each point is a group of requests: on the line, predicted money is earned money.",
    "capture": "Left, what a budget earns; right, the share of the best possible gain over a static mixture that the "
    "deciding learner gets.",
    "cost_curves": "Curves: what longer queues cost, with bootstrap bands. Right: each point a load test; on the line, the "
    "fitted cost is the measured one.",
    "training": "Left, the error on held-out minutes while learning; right, how it grows with the minutes looked ahead.",
}


_REFERENCE = {
    True: "the truth, which the simulated world knows",
    False: "a reference, the estimates of an ensemble that was fitted on the same log",
}


def learned_sections(
    stages: Path, config: Mapping[str, Any], summary: Mapping[str, Any], figures: Path
) -> list[Section]:
    """One section each for Q, C and g."""
    simulated, policy = config["world"] is not None, config["day"]["policy"]
    return [
        Section(
            "What was learned: the worth of joint actions, Q(s, a)",
            f"Learned values against {_REFERENCE[simulated]}, on a sample of states. r_s over all pairs mostly ranks states; the "
            "order of actions within a state is what an allocation lives on. Return% gives the log's own amounts of joint "
            "actions to whom a learner would give them.",
            [
                *pictures(stages / "offline", simulated),
                _mean_choice(stages / "offline/action_mix.csv", config, figures / "mean_choice.png"),
                *pictures(stages / "judged" / policy, simulated),
            ],
            {"The learners": _learners(summary)},
        ),
        Section(
            "What was learned: their computation, C(s, a)",
            "Load tests become cost maps that never fall as a queue grows, in core-milliseconds per request. Applied to "
            "predicted queue lengths, they give the cost of every joint action.",
            [*pictures(stages / "costs/maps", simulated), *pictures(stages / "costs/results", simulated)],
        ),
        Section(
            "What was learned: how CPUs answer, the system model",
            "How CPU follows traffic and the price of computation; MPC plans the price with it. "
            + ("Learned on days before the evaluation, on which the price was varied on purpose." if simulated
               else "Learned from your minute table."),
            pictures(stages / "balancer" / policy, simulated),
        ),
    ]  # fmt: skip


def reference(simulated: bool) -> str:
    """What learned values are compared with, in a word."""
    return "the truth" if simulated else "the reference"


def pictures(folder: Path, simulated: bool) -> list[Figure]:
    """The PNGs of a stage, each with what to see in it."""
    return [
        Figure(path, _CAPTIONS.get(path.stem, path.stem.replace("_", " ")).format(reference=reference(simulated)))
        for path in sorted(folder.glob("*.png"))
    ]


def _mean_choice(table: Path, config: Mapping[str, Any], path: Path) -> Figure:
    policy, simulated = config["day"]["policy"], config["world"] is not None
    choices = (
        choices_of(config["world"]["cascade"]["actions"]) if simulated else _numbered(config["logs"]["spec"]["sizes"])
    )
    return Figure(
        draw_mean_choice(
            pd.read_csv(table, dtype={"value": str}), choices, {"truth": reference(simulated), policy: policy}, path
        ),
        f"Who gets what at one price and the reference budget: where the lines part, {policy} sets something else for these "
        f"requests than {reference(simulated)} would.",
    )


def _numbered(sizes: Mapping[str, int]) -> dict[str, Choices]:
    return {name: Choices("number of the choice", [str(k) for k in range(size)]) for name, size in sizes.items()}


def _learners(summary: Mapping[str, Any]) -> pd.DataFrame:
    columns = {
        "r_s, all pairs": "spearman",
        "r_s within states": "spearman_within",
        "Return%, greedy": "return_pct",
        "Return%, optimal": "return_pct_optimal",
    }
    table = pd.DataFrame({title: summary[key] for title, key in columns.items()})
    return table.rename_axis("learner").reset_index()
