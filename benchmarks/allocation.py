"""Allocation at the speed of memory, and quotas with their optimum: python -m benchmarks.allocation [--quick]

Measured in interleaved rounds: each round times one reading of both arrays and each method right after it, so that other
work on the machine falls on both; the ratio of a method is the median of its rounds' ratios. ``ms`` are medians too.
Writes allocation.csv, quota.csv and allocation.png (``_quick`` with --quick, which is smaller).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numba import njit

from benchmarks._results import add_keep
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.progress import progress
from marca_common.run_folder import versions
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from revenue_sim.allocation.budget_curve import budget_curve, run_chunks
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.allocation.several_budgets import allocate_several
from revenue_sim.quotas import quota
from tests.reference.allocation_reference import highs_optimum, numpy_bisection, sort_and_fill

SEED = 100


def make_problem(rows: int, actions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and costs float32 (rows, actions): diminishing returns in cost, heavy-tailed rows, own noise per pair."""
    generator = numpy_generator(seed, "benchmark", "allocation", rows, actions)
    base = np.sort(generator.uniform(0.5, 6.0, actions)).astype(np.float32)
    values, costs = np.empty((rows, actions), np.float32), np.empty((rows, actions), np.float32)
    for start in range(0, rows, 2000):
        part = slice(start, min(rows, start + 2000))
        size = (part.stop - start, actions)
        costs[part] = base * (0.8 + 0.4 * generator.random(size, dtype=np.float32))
        scale = np.exp(generator.standard_normal((size[0], 1), dtype=np.float32))
        power = 0.2 + 0.4 * generator.random((size[0], 1), dtype=np.float32)
        values[part] = scale * costs[part] ** power * (0.85 + 0.3 * generator.random(size, dtype=np.float32))
    return values, costs


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds and result."""
    started = time.perf_counter()
    result = function()
    return 1000 * (time.perf_counter() - started), result


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # the sum vectorises
def read_rows(q: np.ndarray, c: np.ndarray, start: int, stop: int) -> float:
    """Sum of both arrays' rows: the least that any method must read."""
    total = q[0, 0] - q[0, 0]
    for i in range(start, stop):
        for j in range(q.shape[1]):
            total += q[i, j] + c[i, j]
    return float(total)


def read_both(values: np.ndarray, costs: np.ndarray, threads: int | None) -> None:
    """Sum all numbers of both arrays, with as many threads as the solver has."""
    run_chunks(lambda start, stop: read_rows(values, costs, start, stop), len(values), threads)


def allocation_rows(rows: int, actions: int, repeats: int) -> list[dict[str, Any]]:
    """The exact solver, its one-thread run and numpy bisection beside reading, in interleaved rounds."""
    values, costs = make_problem(rows, actions, SEED)
    least = float(costs.min(axis=1).sum(dtype=np.float64))
    budget = least + 0.35 * (float(costs.mean(dtype=np.float64)) * rows - least)
    methods: dict[str, tuple[int | None, Callable[[], Any]]] = {
        "exact": (None, lambda: allocate(values, costs, budget)),
        "exact_one_thread": (1, lambda: allocate(values, costs, budget, threads=1)),
        "numpy_bisection": (1, lambda: numpy_bisection(values, costs, budget)),
    }
    if repeats > 3:
        methods["whole_curve"] = (None, lambda: budget_curve(values, costs))
    for threads, method in methods.values():  # warm: compiled code and pages
        read_both(values, costs, threads)
        if method is not methods["numpy_bisection"][1]:
            method()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    results: dict[str, Any] = {}
    for _ in progress(range(repeats), what=f"{rows} × {actions}", unit="round"):
        for name, (threads, method) in methods.items():
            reading, _ = timed(partial(read_both, values, costs, threads))
            spent, results[name] = timed(method)
            times[name].append((reading, spent))
    exact = results["exact"]
    value = {"exact": exact.value, "exact_one_thread": results["exact_one_thread"].value}
    value["numpy_bisection"] = results["numpy_bisection"][1]
    value["whole_curve"] = exact.bound
    out = [row("read", rows, actions, [r for r, _ in times["exact"]], 1.0, None, repeats)]
    for name, pairs in times.items():
        ratio = float(np.median([spent / reading for reading, spent in pairs]))
        out.append(row(name, rows, actions, [s for _, s in pairs], ratio, 1 - value[name] / exact.bound, repeats))
    speedup = np.median([n / e for (_, n), (_, e) in zip(times["numpy_bisection"], times["exact"])])
    out[1]["times_faster_than_numpy"] = float(speedup)
    return out


def highs_rows(sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """The LP bound against HiGHS' optimum where HiGHS fits."""
    out = []
    for rows, actions in sizes:
        values, costs = make_problem(rows, actions, SEED + 1)
        for part in (0.05, 0.35, 0.7):
            least = float(costs.min(axis=1).sum(dtype=np.float64))
            budget = least + part * (float(costs.mean(dtype=np.float64)) * rows - least)
            spent, optimum = timed(partial(highs_optimum, values, costs, budget))
            mine, solved = timed(partial(allocate, values, costs, budget))
            error = abs(solved.bound - optimum) / abs(optimum)
            out.append(row("highs", rows, actions, [spent], None, 0.0, 1) | {"bound_error_to_highs": 0.0})
            out.append(
                row("exact", rows, actions, [mine], None, solved.gap / solved.bound, 1)
                | {"bound_error_to_highs": error}
            )
    return out


def several_rows(rows: int, actions: int, repeats: int) -> list[dict[str, Any]]:
    """Two services, each with its own budget."""
    values, first = make_problem(rows, actions, SEED + 2)
    _, second = make_problem(rows, actions, SEED + 3)
    costs = np.stack([first, second[:, numpy_generator(SEED, "shuffle").permutation(actions)]], axis=2)
    least = costs.min(axis=1).sum(axis=0, dtype=np.float64)
    budgets = least + 0.5 * (costs.mean(axis=1).sum(axis=0, dtype=np.float64) - least)
    allocate_several(values[:100], costs[:100], budgets * 100 / rows)
    runs = [timed(lambda: allocate_several(values, costs, budgets)) for _ in range(repeats)]
    solved = runs[0][1]
    one = row("two_budgets", rows, actions, [ms for ms, _ in runs], None, solved.gap / solved.bound, repeats)
    return [one | {"passes": solved.passes}]


def quota_rows(states: int, actions: int, repeats: int) -> list[dict[str, Any]]:
    """Greedy by packed keys, the plain Python loop and the optimal transport on the same scores."""
    scores, _ = make_problem(states, actions, SEED + 4)
    generator = numpy_generator(SEED, "benchmark", "quota")
    counts = generator.geometric(0.05, states)
    quotas = generator.multinomial(counts.sum(), generator.dirichlet(np.full(actions, 0.3)))
    quota.optimal(scores[:20], counts[:20], np.bincount(np.arange(counts[:20].sum()) % actions, minlength=actions))
    as_lists = scores.tolist(), counts.tolist(), quotas.tolist()
    times: dict[str, list[float]] = {"greedy": [], "python_sort_and_fill": [], "optimal": []}
    for _ in progress(range(repeats), what=f"quotas {states} × {actions}", unit="round"):
        spent, first = timed(lambda: quota.greedy(scores, counts, quotas))
        times["greedy"].append(spent)
        spent, plain = timed(lambda: sort_and_fill(*as_lists))
        times["python_sort_and_fill"].append(spent)
        spent, best = timed(lambda: quota.optimal(scores, counts, quotas))
        times["optimal"].append(spent)
    if plain != {(int(s), int(a)): int(n) for s, a, n in zip(first.state, first.action, first.count)}:
        raise AssertionError("greedy differs from sort-and-fill")
    value, bound = best.value(scores), best.bound
    assert bound is not None
    gaps = {"optimal": abs(1 - value / bound)} | dict.fromkeys(
        ("greedy", "python_sort_and_fill"), 1 - first.value(scores) / bound
    )
    out = [row(name, states, actions, spent, None, gaps[name], repeats) for name, spent in times.items()]
    ratios = [p / g for p, g in zip(times["python_sort_and_fill"], times["greedy"])]
    out[0]["times_faster_than_python"] = float(np.median(ratios))
    return out


def row(
    method: str, rows: int, actions: int, ms: list[float], ratio: float | None, gap: float | None, repeats: int
) -> dict[str, Any]:
    """One line of a results table."""
    return {
        "method": method,
        "rows": rows,
        "actions": actions,
        "ms": float(np.median(ms)),
        "ms_least": float(np.min(ms)),
        "ratio_to_read": ratio,
        "gap": gap,
        "repeats": repeats,
    }


def stamped(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """With seed, versions, machine and its load while measuring."""
    known = versions()
    return pd.DataFrame(rows).assign(
        seed=SEED,
        numpy=known["numpy"],
        numba=known["numba"],
        machine=f"{known['machine']} x{known['cpus']}",
        load_average=round(os.getloadavg()[0], 1),
    )


def figure(table: pd.DataFrame, quotas: pd.DataFrame, path: Path) -> None:
    """Times of the large problem and of the quotas."""
    large = table[table["rows"] == table["rows"].max()].sort_values("ms")
    picture, axes = new_figure(1, 2, width=9.5, height=3.4)
    for axis, part, color in ((axes[0], large, COLORS[0]), (axes[1], quotas.sort_values("ms"), COLORS[1])):
        bars = axis.barh(part["method"], part["ms"], color=color)
        axis.bar_label(bars, [f"{ms:,.0f} ms" for ms in part["ms"]], padding=3, fontsize=8.5)
        axis.set_xscale("log")
        axis.margins(x=0.25)
        axis.set_xlabel("median time, ms (log scale)")
        axis.grid(axis="y", visible=False)
    rows, actions = large["rows"].iloc[0], large["actions"].iloc[0]
    axes[0].set_title(f"One budget, {rows:,} rows × {actions:,} actions")
    axes[1].set_title(f"Quotas, {quotas['rows'].iloc[0]:,} states × {quotas['actions'].iloc[0]:,} actions")
    save_figure(picture, path)


def main(argv: list[str] | None = None) -> None:
    """Run all parts and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds")
    add_keep(parser)
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    repeats, suffix = (3, "_quick") if quick else (7, "")
    rows = allocation_rows(20_000 if quick else 100_000, 1_000, repeats)
    rows += highs_rows([(200, 50)] if quick else [(200, 50), (500, 100), (1_000, 100)])
    rows += several_rows(5_000 if quick else 20_000, 1_000, 1 if quick else 5)
    table, quotas = stamped(rows), stamped(quota_rows(500 if quick else 2_000, 1_000, repeats))
    write_table(table, arguments.results / f"allocation{suffix}.csv")
    write_table(quotas, arguments.results / f"quota{suffix}.csv")
    figure(table, quotas, arguments.results / f"allocation{suffix}.png")
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(table.drop(columns=["numpy", "numba", "machine", "seed"]).to_string(index=False))
        print(quotas.drop(columns=["numpy", "numba", "machine", "seed"]).to_string(index=False))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
