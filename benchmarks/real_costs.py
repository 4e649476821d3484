"""Costs of the real cascade by load test: ``python -m benchmarks.real_costs [--quick] [--keep]``.

The service of a build (seed 100; ``--quick``: a small one, seed 0) goes through the test bench: cost maps, their error on
buckets left out, a replay of random joint actions. Then come the mixes that matter: for each budget, every visit gets the action
that the logged likes and the maps call best. They are replayed at the bench's rate, in random order, in several rounds. What the maps
said beforehand stands beside what the service's clocks then read. Bars: replay within 7 %, CV between rounds 7 %, nothing lost.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.bench.measuring.bench_requests import payloads
from autobucket.bench.measuring.campaign import build_target
from autobucket.bench.measuring.load import Budget, LoadWindow, drive, rest, schedule
from autobucket.bench.measuring.run_async import run_async
from autobucket.bench.target.interface import Target
from autobucket.bench.target.machine import Placement, generator_on, place
from benchmarks._mpc import stamp
from benchmarks._real_service import FEW_VISITS, ServiceCosts, parts_of, requests_of
from benchmarks._results import add_keep
from benchmarks._script import script
from benchmarks.movielens import Real
from marca_common.compute import set_threads
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from revenue_sim.allocation.one_budget import allocate

BUDGETS = (0.1, 0.2, 0.35, 0.5)  # between the cheapest and the dearest action's cost


@dataclass(frozen=True)
class Mix:
    """Requests that are replayed together, and what the maps say that they cost."""

    name: str
    requests: pd.DataFrame
    qps: float
    predicted_ms: np.ndarray  # core-ms, (M,)


def mixes(real: Real, costs: ServiceCosts, requests: int, cores: int) -> list[Mix]:
    """For each budget ``requests`` visits, in random order, with the actions that it allows."""
    parts, qps = parts_of(real), costs.config.load.rates[0]
    table = costs.of_actions(qps, cores)
    found = []
    for budget in BUDGETS:
        level = table.min() + budget * (table.max() - table.min())
        chosen = allocate(real.logged, table, level * len(real.logged), threads=1).choice
        visit = numpy_generator(real.seed, "mix", str(budget)).integers(0, len(chosen), requests)
        asked = requests_of(parts, visit, chosen[visit])
        found.append(Mix(f"budget {budget:g}", asked, qps, costs.of_requests(asked, qps, cores)))
    return found


def replayed(mixes: list[Mix], costs: ServiceCosts, placement: Placement, rounds: int, seconds: float) -> pd.DataFrame:
    """One row per round and mix: core-ms predicted and measured per request, the round's idle CPU taken off."""

    async def run() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for number in range(rounds):
            target = build_target(costs.config.target, costs.config.accounting, placement)
            try:
                await target.start()
                await _window(target, mixes[0], "warm", 1.0, placement)
                idle = await rest(target, 1.0, placement.target)
                for at in numpy_generator(costs.config.seed, "mix order", number).permutation(len(mixes)):
                    window = await _window(target, mixes[at], f"{number}/{mixes[at].name}", seconds, placement)
                    rows.append(_row(mixes[at], number, window, idle))
            finally:
                await target.stop()
        return rows

    with generator_on(placement):
        return pd.DataFrame(run_async(run))


async def _window(target: Target, mix: Mix, name: str, seconds: float, placement: Placement) -> LoadWindow:
    times = schedule("poisson", mix.qps, seconds, numpy_generator(0, "mix times", name))
    asked = payloads(mix.requests.drop(columns=["channels", "model", "ranker", "history"]))
    budget = Budget(len(times), abort_errors=50)
    return await drive(target, asked, times, budget, horizon_s=seconds, cores=placement.target)


def _row(mix: Mix, number: int, window: LoadWindow, idle: LoadWindow) -> dict[str, Any]:
    predicted = float(mix.predicted_ms[np.arange(window.sent) % len(mix.predicted_ms)].mean())
    cpu = window.cpu_total - idle.cpu_total / idle.seconds * window.seconds
    return {
        "mix": mix.name,
        "round": number,
        "asked_qps": window.asked_qps,
        "served_qps": window.served_qps,
        "requests": window.sent,
        "lost": window.sent - window.ok,
        "predicted_ms": predicted,
        "measured_ms": 1000 * cpu / max(window.ok, 1),
        "p99_ms": float(np.quantile(window.latency_ms, 0.99)) if window.latency_ms else float("nan"),
    }


def table_of(costs: ServiceCosts, rows: pd.DataFrame) -> pd.DataFrame:
    """``part, name, …``: buckets that the maps were fitted to, mixes that they predicted, and all mixes together."""
    buckets = costs.result.buckets
    named = buckets[costs.config.buckets.strata].astype(str).agg(" | ".join, axis=1)
    parts = [
        pd.DataFrame({
            "part": "bucket", "name": named, "retrieved": buckets["retrieved"], "preranked": buckets["preranked"],
            "asked_qps": buckets["asked_qps"], "requests": buckets["requests"], "lost": buckets["lost"] + buckets["errors"],
            "measured_ms": buckets["cost_ms"], "http_ms": buckets["cost_http_ms"], "cascade_ms": buckets["cost_cascade_ms"],
            "cv_pct": buckets["cv_pct"], "valid": buckets["valid"],
        })
    ]  # fmt: skip
    for name, part in [*rows.groupby("mix"), ("all mixes", rows)]:
        measured, predicted = part["measured_ms"] * part["requests"], part["predicted_ms"] * part["requests"]
        parts.append(pd.DataFrame([{
            "part": "mix", "name": name, "asked_qps": part["asked_qps"].mean(), "requests": part["requests"].sum(),
            "lost": part["lost"].sum(), "measured_ms": measured.sum() / part["requests"].sum(),
            "predicted_ms": predicted.sum() / part["requests"].sum(), "error_pct": 100 * (predicted.sum() / measured.sum() - 1),
            "cv_pct": _cv(part), "p99_ms": part["p99_ms"].median(),
        }]))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _cv(part: pd.DataFrame) -> float:
    """Between rounds, of the mean over the part's mixes, percent."""
    by_round = part.groupby("round")["measured_ms"].mean()
    return float(100 * by_round.std() / by_round.mean())


def summary(costs: ServiceCosts, table: pd.DataFrame) -> dict[str, float]:
    """What the bars are held against."""
    bench, mixed = costs.result.summary, table[table["part"] == "mix"].set_index("name")
    quality = [one.quality["left_out_error_pct"] for one in costs.maps.maps["bench"].values()]
    return {
        "cv_median_pct": bench["cv_median"],
        "fit_error_pct": bench["fit_error_pct"],
        "left_out_error_pct": max(quality),
        "replay_error_pct": bench["replay_error_pct"],
        "mix_error_pct": float(abs(mixed.loc["all mixes", "error_pct"])),
        "worst_mix_error_pct": float(mixed["error_pct"].abs().max()),
        "mix_cv_pct": float(mixed.loc["all mixes", "cv_pct"]),
        "lost": float(bench["lost"] + mixed.loc["all mixes", "lost"]),
        "noop_ms": bench["noop_ms"],
    }


def figure(table: pd.DataFrame, rows: pd.DataFrame, path: Path) -> None:
    """Left: what actions cost; right: mixes as predicted and as measured."""
    plot, (left, right) = new_figure(1, 2, width=9.6, height=4.2)
    buckets = table[(table["part"] == "bucket") & (table["asked_qps"] == table["asked_qps"][0])]
    ranker = buckets["name"].str.split(" | ", regex=False).str[2]
    for color, name, mark in zip((COLORS[2], COLORS[4], COLORS[1]), ("none", "small", "large"), "o^s"):
        part = buckets[ranker == name]
        left.scatter(part["preranked"], part["measured_ms"], s=22, color=color, marker=mark, label=f"ranker: {name}")
    left.set(xlabel="films that pass pre-ranking", ylabel="core-ms per request", ylim=(0, None))
    left.set_title("Buckets of the bench, HTTP included")
    left.legend(fontsize=8)
    top = 1.1 * max(rows["measured_ms"].max(), rows["predicted_ms"].max())
    right.plot([0, top], [0, top], color="0.6", lw=1)
    for color, (name, part) in zip(COLORS, rows.groupby("mix")):
        right.scatter(part["predicted_ms"], part["measured_ms"], s=24, color=color, label=name)
    right.set(xlabel="predicted, core-ms per request", ylabel="measured, each round", xlim=(0, top), ylim=(0, top))
    right.set_title("Mixes of actions, by budget")
    right.legend(fontsize=8)
    save_figure(plot, path)


def main() -> None:
    """Bench, replay of mixes, table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few visits, short windows, two rounds")
    add_keep(parser)
    arguments = parser.parse_args()
    quick, load = arguments.quick, os.getloadavg()[0]
    set_threads(1)
    real = Real.of(0 if quick else 100, FEW_VISITS if quick else [])
    costs = ServiceCosts.of(real, quick)
    placement = place(costs.config.accounting, "http")
    cores = placement.declared_cores
    planned = mixes(real, costs, 300 if quick else 3000, cores)
    rows = replayed(planned, costs, placement, *((2, 1.5) if quick else (5, 8.0)))
    table, suffix = table_of(costs, rows), "_quick" if quick else ""
    told = summary(costs, table)
    write_table(table.round(4), arguments.results / f"real_costs{suffix}.csv")
    one = pd.DataFrame([told | {"load_average_at_start": load} | stamp(real.seed)])
    write_table(one.round(3), arguments.results / f"real_costs_summary{suffix}.csv")
    figure(table, rows, arguments.results / f"real_costs{suffix}.png")
    print(table[table["part"] == "mix"].dropna(axis=1, how="all").round(3).to_string(index=False))
    print(one.round(3).T.to_string(header=False))


if __name__ == "__main__":
    script(main)
