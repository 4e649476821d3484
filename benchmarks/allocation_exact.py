"""Is the proven best choice of whole rows right, and how long does it take? `python -m benchmarks.allocation_exact [--quick]`.

2,000 multiple-choice knapsacks of Pisinger's kinds and of values that hardly differ, all numbers exact in float64. A table over
costs gives the optimum; wrong is a value above it, a bound below it, a choice over the budget, or "optimal" where it is not. Then
larger ones, beside HiGHS (its gap set to zero) and, where ortools is installed, CP-SAT. Writes ``allocation_exact.csv``,
``allocation_exact_times.csv`` and a PNG of the times.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from benchmarks._results import add_keep
from marca_common.figures import new_figure, save_figure
from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from revenue_sim.allocation.one_budget import allocate
from tests.reference.allocation_reference import knapsack_table

Instance = tuple[np.ndarray, np.ndarray, np.ndarray, int]  # values and costs (S, A), counts (S,), budget: whole numbers
KINDS = (
    "uncorrelated", "weakly correlated", "strongly correlated", "inverse strongly", "subset sum", "zigzag",
    "1e-3", "1e-5", "1e-7", "1e-9",
)  # fmt: skip
LIMIT_S = 2.0


def instance(kind: str, rows: int, actions: int, largest: int, seed: int) -> Instance:
    """An instance whose costs go up to ``largest``; a kind that is a number is the relative size of differences in value."""
    generator = numpy_generator(seed, "benchmark", "allocation_exact", kind, rows, actions, largest)
    costs = generator.integers(1, largest + 1, (rows, actions))
    noise = generator.integers(0, largest // 10 + 2, (rows, actions))
    values = {
        "uncorrelated": generator.integers(1, largest + 1, (rows, actions)),
        "weakly correlated": np.maximum(costs + noise - largest // 20, 1),
        "strongly correlated": costs + largest // 10 + 1,
        "inverse strongly": np.maximum(costs - largest // 10 - 1, 1),
        "subset sum": costs,
        "zigzag": np.sort(generator.integers(1, largest + 1, (rows, actions)), axis=1),
    }.get(kind)
    if kind == "zigzag":
        costs = np.sort(costs, axis=1)
    if values is None:
        values = costs * int(1 / float(kind)) + generator.integers(0, 100, (rows, actions))
    counts = generator.integers(0, 4, rows) if seed % 3 == 0 else np.ones(rows, np.int64)
    least, most = (int(counts @ bound) for bound in (costs.min(axis=1), costs.max(axis=1)))
    return values, costs, counts, max(int(least + generator.uniform(0.02, 0.98) * (most - least)), 1)


def check(kind: str, seeds: range) -> dict[str, Any]:
    """How often the answer is wrong, and how, over instances of one kind."""
    found: dict[str, Any] = {"kind": kind, "instances": 0, "value_above": 0, "bound_below": 0, "over_budget": 0,
                             "not_optimal": 0, "limit": 0, "gap_max": 0.0, "wall_s_max": 0.0}  # fmt: skip
    for seed in seeds:
        generator = numpy_generator(seed, "benchmark", "allocation_exact", "size")
        rows, actions = int(generator.integers(1, 40)), int(generator.integers(2, 20))
        largest = int(generator.choice([10, 100, 1000]))
        values, costs, counts, budget = instance(kind, rows, actions, largest, seed)
        started = time.perf_counter()
        solved = allocate(
            values.astype(float),
            costs.astype(float),
            float(budget),
            counts.astype(float),
            integral=True,
            time_limit_s=LIMIT_S,
        )
        wall = time.perf_counter() - started
        optimum = knapsack_table(values * counts[:, None], costs * counts[:, None], budget)
        picked = np.arange(rows), solved.choice
        value, cost = int(counts @ values[picked]), int(counts @ costs[picked])
        found["instances"] += 1
        found["value_above"] += value > optimum or solved.value > optimum
        found["bound_below"] += solved.bound < optimum
        found["over_budget"] += cost > budget
        found["not_optimal"] += solved.status == "optimal" and value != optimum
        found["limit"] += solved.status == "limit"
        found["gap_max"] = max(found["gap_max"], solved.gap / max(abs(solved.bound), 1.0))
        found["wall_s_max"] = max(found["wall_s_max"], wall)
    return found


def ours(values: np.ndarray, costs: np.ndarray, budget: int, limit: float) -> tuple[float, float]:
    """Value and bound."""
    solved = allocate(values.astype(float), costs.astype(float), float(budget), integral=True, time_limit_s=limit)
    return solved.value, solved.bound


def highs(values: np.ndarray, costs: np.ndarray, budget: int, limit: float) -> tuple[float, float]:
    """The same by HiGHS' branch and bound."""
    rows, actions = values.shape
    one_each = sparse.kron(sparse.eye(rows), np.ones((1, actions)), format="csr")
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(sparse.csr_matrix(costs.ravel().astype(float)), -np.inf, budget),
    ]
    solved = milp(
        -values.ravel().astype(float), constraints=constraints, integrality=np.ones(values.size), bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": limit},
    )  # fmt: skip
    return (np.nan if solved.fun is None else -solved.fun), -(solved.mip_dual_bound or np.nan)


def cp_sat(values: np.ndarray, costs: np.ndarray, budget: int, limit: float) -> tuple[float, float]:
    """The same by CP-SAT on one worker."""
    from ortools.sat.python import cp_model

    model, solver = cp_model.CpModel(), cp_model.CpSolver()
    picks = [[model.new_bool_var("") for _ in row] for row in values]
    for row in picks:
        model.add_exactly_one(row)
    flat = [one for row in picks for one in row]
    model.add(cp_model.LinearExpr.weighted_sum(flat, costs.ravel().tolist()) <= budget)
    model.maximize(cp_model.LinearExpr.weighted_sum(flat, values.ravel().tolist()))
    solver.parameters.max_time_in_seconds, solver.parameters.num_workers = limit, 1
    solver.solve(model)
    return solver.objective_value, solver.best_objective_bound


def time_all(kinds: tuple[str, ...], sizes: list[tuple[int, int, int]], limit: float) -> pd.DataFrame:
    """Seconds, and the gap that is left, of each method on larger instances."""
    methods: dict[str, Callable[..., tuple[float, float]]] = {"marca": ours, "HiGHS": highs}
    if importlib.util.find_spec("ortools") is not None:
        methods["CP-SAT"] = cp_sat
    rows = []
    for kind, (states, actions, largest) in progress(
        [(k, s) for k in kinds for s in sizes], what="times", unit="instance"
    ):
        values, costs, _, budget = instance(kind, states, actions, largest, 101)
        for name, method in methods.items():
            started = time.perf_counter()
            value, bound = method(values, costs, budget, limit)
            wall = time.perf_counter() - started
            rows.append({"kind": kind, "rows": states, "actions": actions, "largest_cost": largest, "method": name,
                         "seconds": wall, "value": value, "relative_gap": max(bound - value, 0.0) / (abs(value) or np.nan)})  # fmt: skip
    return pd.DataFrame(rows)


def draw(times: pd.DataFrame, path: Path) -> None:
    """Seconds by kind, one mark per instance."""
    figure, axis = new_figure(height=4.2)
    kinds = list(dict.fromkeys(times["kind"]))
    for shift, (name, part) in enumerate(times.groupby("method", sort=False)):
        place = [kinds.index(kind) + 0.22 * (shift - 1) for kind in part["kind"]]
        axis.scatter(place, part["seconds"], label=name, s=26)
    axis.set_yscale("log")
    axis.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right")
    axis.set(ylabel="seconds until proven, or the limit", title="Best choice of whole rows: time to the proof")
    axis.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, -0.28))
    save_figure(figure, path)


def main() -> None:
    """Check, time, write tables and figure; exit code 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 instances and small sizes")
    add_keep(parser)
    arguments = parser.parse_args()
    each = 4 if arguments.quick else 200
    allocate(np.eye(3), np.ones((3, 3)) + np.eye(3), 4.0, integral=True)  # compiles
    table = pd.DataFrame([check(kind, range(100, 100 + each)) for kind in progress(KINDS, what="kinds")])
    suffix = "_quick" if arguments.quick else ""
    write_table(table, arguments.results / f"allocation_exact{suffix}.csv")
    sizes = [(50, 10, 1000)] if arguments.quick else [(50, 10, 1000), (200, 20, 1000), (1000, 10, 10_000)]
    times = time_all(KINDS[:6] + KINDS[-2:], sizes, LIMIT_S if arguments.quick else 10.0)
    write_table(times, arguments.results / f"allocation_exact_times{suffix}.csv")
    draw(times, arguments.results / f"allocation_exact{suffix}.png")
    print(table.to_string(index=False), times.to_string(index=False), sep="\n\n")
    wrong = int(table[["value_above", "bound_below", "over_budget", "not_optimal"]].to_numpy().sum())
    print(f"{int(table['instances'].sum())} instances, {wrong} wrong")
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
