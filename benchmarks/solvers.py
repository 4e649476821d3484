"""Solvers of the same Eq. 17 problems: time per solve and objective, side by side.

``python -m benchmarks.solvers [--quick]`` trains a 3×256 system model on the commissioned reference plant, collects start
states from closed loops at several operating points and times every solver on all of them on one core, in CPU time of the
process: what else runs on the machine is not the solver's. J is Eq. 17 as printed; its terms of i = 0 are measured, the same
for every plan, so ``steerable`` leaves them out. ``--tune`` prints a search over settings on other start states.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks._mpc import commissioned_model, stamp, start_problems
from benchmarks._results import add_keep
from marca_common.figures import new_figure, save_figure
from marca_common.progress import progress
from mpc_balancer.config import ObjectiveConfig, SolverConfig
from mpc_balancer.planning.control_problem import Problem
from mpc_balancer.planning.solvers import solve

OBJECTIVE = ObjectiveConfig(mode="paper", alpha=0.4, beta=8.0, horizon=10, reading="per_step")
# Chosen by hand so that more work brings little; --tune searches around them.
SETTINGS: dict[str, dict[str, Any]] = {
    "gauss_newton": {},
    "lbfgsb": {"iterations": 60},
    "slsqp": {"iterations": 40},
    "icem": {"iterations": 6, "samples": 120},
    "gradient_descent": {"iterations": 60, "step_size": 0.08},
    "grid": {"grid_points": 9},
    "random_sampling": {"iterations": 1, "samples": 100},
}
TUNING: dict[str, list[dict[str, Any]]] = {
    "lbfgsb": [{"iterations": n} for n in (10, 30, 60, 120)],
    "slsqp": [{"iterations": n} for n in (10, 20, 40, 80)],
    "icem": [{"iterations": n, "samples": m} for n in (3, 6, 10) for m in (60, 120, 240)],
    "gradient_descent": [{"iterations": n, "step_size": s} for n in (30, 60, 120) for s in (0.02, 0.05, 0.08, 0.15)],
    "grid": [{"grid_points": n} for n in (7, 9, 13)],
    "gauss_newton": [
        {"iterations": n, "refine": r, "constants": c} for n in (3, 4, 6) for r in (1, 2, 3) for c in (8, 12)
    ],
}


def measure(
    problems: list[Problem], warm: list[np.ndarray | None], name: str, options: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """CPU milliseconds of this process (wall time on a free core) and J without its constant, per problem."""
    config = SolverConfig(name=name, deadline_ms=None, **options)
    generator = np.random.default_rng(0)
    milliseconds, values = np.empty(len(problems)), np.empty(len(problems))
    for i, (problem, plan) in enumerate(zip(problems, warm)):
        started = time.process_time()
        solution = solve(problem, config, plan, generator)
        milliseconds[i] = (time.process_time() - started) * 1000
        values[i] = solution.value - constant(problem)
    return milliseconds, values


def constant(problem: Problem) -> float:
    """Eq. 17's terms of i = 0: measured, the same for every plan; left out so that percentages mean something."""
    now, before = problem.start.cpu, problem.start.cpu_before
    change = np.where(np.isfinite(before), now - before, 0.0)
    return float((((now - problem.target) ** 2) + OBJECTIVE.beta * (now >= problem.target) * change**2).sum())


def best_known(problems: list[Problem], warm: list[np.ndarray | None], found: dict[str, np.ndarray]) -> np.ndarray:
    """The least J per problem over all solvers and over long runs of three of them."""
    every = list(found.values())
    long_runs = {
        "gauss_newton": {"iterations": 40, "refine": 8, "constants": 40},
        "lbfgsb": {"iterations": 200, "constants": 40},
        "icem": {"iterations": 12, "samples": 300},
    }
    for name, options in progress(long_runs.items(), what="best known", total=len(long_runs)):
        every.append(measure(problems, warm, name, options)[1])
    return np.asarray(np.min(every, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 start states and a small network")
    parser.add_argument("--tune", action="store_true", help="print the search over settings on tuning states and stop")
    add_keep(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hidden, count = ([32, 32], 24) if arguments.quick else ([256, 256, 256], 240)
    model = commissioned_model(hidden, days=2 if arguments.quick else 7, tune_pi=False)
    if arguments.tune:
        tune(start_problems(model, OBJECTIVE, 60, seed=7))
        return
    problems, warm = start_problems(model, OBJECTIVE, count, seed=107)
    times: dict[str, list[np.ndarray]] = {name: [] for name in SETTINGS}
    values: dict[str, np.ndarray] = {}
    measure(problems[:3], warm[:3], "gauss_newton", {})  # compile
    for _ in progress(range(2 if arguments.quick else 3), what="rounds"):
        for name, options in SETTINGS.items():
            if len(times[name]) and np.median(times[name]) > 30:
                continue  # slow ones are timed once
            milliseconds, values[name] = measure(problems, warm, name, options)
            times[name].append(milliseconds)
    best = best_known(problems, warm, values)
    fixed = float(np.mean([constant(problem) for problem in problems]))
    rows = []
    for name in SETTINGS:
        per_solve = np.min(
            times[name], axis=0
        )  # the least of the rounds: what else ran on the machine is not the solver's
        raw = np.concatenate(times[name])
        rows.append(
            {
                "solver": name,
                "default": int(name == "gauss_newton"),
                "ms_p50": np.percentile(per_solve, 50),
                "ms_p99": np.percentile(per_solve, 99),
                "mean_objective": values[name].mean() + fixed,
                "mean_steerable": values[name].mean(),
                "above_best_percent": 100 * (values[name].mean() - best.mean()) / (best.mean() + fixed),
                "steerable_above_best_percent": 100 * (values[name].mean() / best.mean() - 1),
                "best_known": best.mean() + fixed,
                "ms_p50_all_rounds": np.percentile(raw, 50),
                "ms_p99_all_rounds": np.percentile(raw, 99),
                "states": len(problems),
                "network": "x".join(map(str, hidden)),
                **stamp(107),
            }
        )
    table = pd.DataFrame(rows)
    suffix = "_quick" if arguments.quick else ""
    table.to_csv(arguments.results / f"solvers{suffix}.csv", index=False, float_format="%.5g", lineterminator="\n")
    _figure(table, arguments.results / f"solvers{suffix}.png")
    print(
        table[
            ["solver", "ms_p50", "ms_p99", "mean_objective", "above_best_percent", "steerable_above_best_percent"]
        ].to_string(index=False)
    )


def tune(drawn: tuple[list[Problem], list[np.ndarray | None]]) -> None:
    """Print every tried setting."""
    problems, warm = drawn
    for name, options in ((n, o) for n, many in TUNING.items() for o in many):
        milliseconds, values = measure(problems, warm, name, options)
        print(
            f"{name:18s} {options!s:60s} {np.median(milliseconds):8.2f} ms  {np.percentile(milliseconds, 99):8.2f} ms  J {values.mean():9.3f}",
            flush=True,
        )


def _figure(table: pd.DataFrame, path: Path) -> None:
    figure, axis = new_figure(width=7.0, height=4.0)
    for row in table.itertuples():
        axis.plot(
            row.ms_p50,
            max(row.steerable_above_best_percent, 0.05),
            "o" if not row.default else "*",
            ms=7 if not row.default else 14,
        )
        axis.annotate(
            str(row.solver),
            (row.ms_p50, max(row.steerable_above_best_percent, 0.05)),
            xytext=(6, 5),
            textcoords="offset points",
        )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="median CPU time per solve (ms)",
        ylabel="steerable J above the best known (percent)",
        title=f"Solvers of Eq. 17: {table['states'][0]} states, network {table['network'][0]}, N = 10",
    )
    axis.margins(0.15)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
