"""The paper's Figure 4: sweeps of α, β and N of Eq. 17, with the time per solve; of the default objective's weights; and of α and N where
moves of λ are limited.

``python -m benchmarks.mpc_sensitivity [--quick]``. One parameter moves, the others stay at the paper's choice (α .4, β 8,
N 10) on ``failover``, or at ours. ``limited`` is ``rate_limited_sales``. There, and for our objective, ν is steered to .6 %, so that μ tells.
Development seeds 30 and 31: a sweep is a choice of settings, so evaluation seeds stay out of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._mpc import stamp
from benchmarks._results import add_keep
from benchmarks.controllers import BUDGET, run_once
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.progress import progress
from mpc_balancer.config import ControllerConfig, MpcConfig, ObjectiveConfig
from mpc_balancer.testbed.scenarios import load_scenarios

PAPER = {"mode": "paper", "alpha": 0.4, "beta": 8.0, "horizon": 10, "reading": "per_step"}
OWN: dict[str, object] = {"mode": "asymmetric", "horizon": 10}
LIMITED: dict[str, object] = {"mode": "asymmetric", "horizon": 15, "alpha": 0.97}
SETTINGS = {"paper": PAPER, "asymmetric": OWN, "limited": LIMITED}
SCENARIOS = {"paper": "failover", "asymmetric": "failover", "limited": "rate_limited_sales"}
SWEEPS: dict[tuple[str, str], list[Any]] = {
    ("paper", "alpha"): [0.1, 0.2, 0.4, 0.6, 0.8, 1.0],
    ("paper", "beta"): [0.0, 1.0, 2.0, 4.0, 8.0, 16.0],
    ("paper", "horizon"): [1, 3, 5, 10, 15, 20],
    ("asymmetric", "over_weight"): [1.0, 3.0, 10.0],
    ("asymmetric", "move_weight"): [0.0, 0.02, 0.1, 0.5],
    ("asymmetric", "horizon"): [1, 3, 5, 10],
    ("limited", "horizon"): [1, 3, 5, 10, 15, 20, 30],
    ("limited", "alpha"): [0.8, 0.9, 0.95, 0.97, 1.0],
}
TITLES = {"paper": "Eq. 17", "asymmetric": "default objective", "limited": "moves limited"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one hour, one seed and two values each")
    add_keep(parser)
    arguments = parser.parse_args()
    quick = arguments.quick
    scripts = load_scenarios("configs/mpc_balancer/scenarios.yaml")
    length = {"days": 1 / 24 if quick else 0.75}
    rows = []
    runs = [
        (mode, name, v, seed)
        for (mode, name), values in SWEEPS.items()
        for v in (values[::3] if quick else values)
        for seed in ([30] if quick else [30, 31])
    ]
    for mode, name, value, seed in progress(runs, what="runs"):
        script = scripts[SCENARIOS[mode]].model_copy(update=length)
        objective = ObjectiveConfig(**{**SETTINGS[mode], name: value})
        mpc = MpcConfig(objective=objective, backoff_quantile=None if mode == "paper" else 0.7)
        controller = ControllerConfig(name="mpc", budget=BUDGET, mpc=mpc)
        rows.append({"objective": mode, "parameter": name, "value": value} | run_once(controller, script, seed))
    table = (
        pd.DataFrame(rows)
        .groupby(["objective", "parameter", "value"], sort=False)
        .agg(mu=("mu", "mean"), nu=("nu", "mean"), ms_per_solve=("solve_ms_p50", "median"), seeds=("seed", "size"))
        .reset_index()
    )
    suffix = "_quick" if quick else ""
    table.assign(**stamp("30+")).to_csv(
        arguments.results / f"mpc_sensitivity{suffix}.csv", index=False, float_format="%.5g", lineterminator="\n"
    )
    _figure(table, arguments.results / f"mpc_sensitivity{suffix}.png")
    print(table.to_string(index=False))


def _figure(table: pd.DataFrame, path: Path) -> None:
    figure, axes = new_figure(2, 4, width=13.0, height=5.6)
    for axis, ((mode, name), part) in zip(axes.flat, table.groupby(["objective", "parameter"], sort=False)):
        at = np.arange(len(part))
        axis.plot(at, part["mu"], "o-", color=COLORS[0])
        axis.set(title=f"{TITLES[mode]}: {name}", xlabel=name)
        axis.set_xticks(at, [f"{value:g}" for value in part["value"]])
        axis.set_ylabel("μ (percent)", color=COLORS[0])
        middle = part["mu"].mean()  # at least half a point is shown, so that a flat sweep looks flat
        reach = max(0.25, 1.6 * float((part["mu"] - middle).abs().max()))
        axis.set_ylim(middle - reach, middle + reach)
        right = axis.twinx()
        right.plot(at, part["nu"], "s--", color=COLORS[1])
        right.set_ylabel("ν (percent)", color=COLORS[1])
        right.set_ylim(0, max(1.0, 1.3 * part["nu"].max()))
        right.grid(False)
        for x, row in zip(at, part.itertuples()):
            axis.annotate(
                f"{row.ms_per_solve:.1f}",
                (x, row.mu),
                xytext=(0, -13),
                textcoords="offset points",
                fontsize=7,
                ha="center",
            )
    figure.suptitle("Weights and horizon: μ, ν, and below each point the median ms per control step")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
