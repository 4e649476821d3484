"""The paper's Table 3: μ and ν of a feedback rule and of MPC, here with the rivals the paper left out.

``python -m benchmarks.table3 [--quick]``. No target offset is swept: each controller runs as it is deployed. ``mpc_eq17`` is
Eq. 17 as printed (α .4, β 8, N 10, per-step reading, no back-off); ``mpc`` is this software's default, which inverts g here, and
``mpc_plan`` the same with a plan over ten steps. The paper reports
feedback 92.33 % ± .40 / 2.91 % ± .43 and MPC 95.29 % ± .23 / 0.64 % ± .10 on its own, unpublished traffic.
"""

from __future__ import annotations

import argparse

import pandas as pd

from benchmarks._mpc import stamp
from benchmarks._results import add_keep
from benchmarks.controllers import BUDGET, pi_gains, run_once
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.progress import progress
from mpc_balancer.config import ControllerConfig, MpcConfig, ObjectiveConfig, PiConfig
from mpc_balancer.testbed.scenarios import load_scenarios

EQ17 = ObjectiveConfig(mode="paper", alpha=0.4, beta=8.0, horizon=10, reading="per_step")
WHOLE = EQ17.model_copy(update={"reading": "whole_horizon"})
CONTROLLERS = {
    "feedback_bisection": ("bisection", MpcConfig()),
    "feedback_pi": ("pi", MpcConfig()),
    "pi_feedforward": ("pi_feedforward", MpcConfig()),
    "mpc_eq17": ("mpc", MpcConfig(objective=EQ17, backoff_quantile=None)),
    "mpc_eq17_whole_horizon": ("mpc", MpcConfig(objective=WHOLE, backoff_quantile=None)),
    "mpc_eq17_beta_0": ("mpc", MpcConfig(objective=EQ17.model_copy(update={"beta": 0.0}), backoff_quantile=None)),
    "mpc_plan": ("mpc", MpcConfig(objective=ObjectiveConfig(horizon=10))),
    "mpc": ("mpc", MpcConfig()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two hours and one seed")
    add_keep(parser)
    arguments = parser.parse_args()
    quick = arguments.quick
    scenarios = load_scenarios("configs/mpc_balancer/scenarios.yaml")
    rows = []
    runs = [
        (s, n, seed) for s in ("nominal", "hard") for n in CONTROLLERS for seed in range(100, 101 if quick else 105)
    ]
    for scenario, name, seed in progress(runs, what="runs"):
        kind, mpc = CONTROLLERS[name]
        script = scenarios[scenario].model_copy(update={"days": 1 / 12}) if quick else scenarios[scenario]
        pi = PiConfig(**pi_gains(kind, 1, script)) if kind.startswith("pi") else PiConfig()
        config = ControllerConfig(name=kind, budget=BUDGET, mpc=mpc, pi=pi)
        rows.append({"scenario": scenario, "controller": name} | run_once(config, script, seed))
    table = (
        pd.DataFrame(rows)
        .groupby(["scenario", "controller"], sort=False)
        .agg(
            mu=("mu", "mean"),
            mu_sd=("mu", "std"),
            nu=("nu", "mean"),
            nu_sd=("nu", "std"),
            seeds=("seed", "size"),
            recovery_minutes_max=("recovery", "max"),
            solve_ms_p50=("solve_ms_p50", "median"),
        )
        .reset_index()
        .fillna(0.0)
    )
    suffix = "_quick" if quick else ""
    table.assign(**stamp("100+")).to_csv(
        arguments.results / f"table3{suffix}.csv", index=False, float_format="%.5g", lineterminator="\n"
    )
    figure, axes = new_figure(1, 2, width=11.4, height=3.9)
    for axis, (scenario, part) in zip(axes, table.groupby("scenario", sort=False)):
        for i, row in enumerate(part.itertuples()):
            axis.errorbar(
                row.nu,
                row.mu,
                xerr=row.nu_sd,
                yerr=row.mu_sd,
                fmt="osD^v<>p"[i],
                color=COLORS[i % 7],
                label=row.controller,
            )
        axis.set(title=f"As deployed: {scenario}", xlabel="ν (percent)", ylabel="μ (percent)")
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, arguments.results / f"table3{suffix}.png")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
