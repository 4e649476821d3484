"""What does not knowing the future cost? python -m benchmarks.online_lambda [--quick] [--tune]

A day's budget is spent on a stream of requests, in 5-minute intervals. Arrivals are stationary, drift (values rise and fall over
the day), or come sorted by worth; and traffic may be a tenth above or below its forecast. Loss is stated against the optimum of
all requests known beforehand. ``primal_dual`` stands beside a constant price and exact re-solving on a sliding window. ``--tune``
prints the losses on development seeds that the two constants were chosen by. Writes online_lambda.csv and a PNG.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._results import add_keep
from benchmarks.allocation import make_problem
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.hull_shards import Hulls
from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.allocation.row_hulls import row_hulls
from revenue_sim.allocation.stream import WARM, Constant, PrimalDual, Resolving, StreamResult, serve_stream

ACTIONS, INTERVALS = 60, 288
ARRIVALS = ("stationary", "drifting", "sorted_rising", "sorted_falling")
TRAFFIC = (1.0, 0.9, 1.1)  # requests that come, as a share of the forecast
LOAD = (
    1.0 + 0.6 * np.sin(2 * np.pi * (np.arange(INTERVALS) / INTERVALS - 0.3))
) / INTERVALS  # share of the day's requests
SHARE = 0.3  # of the way from the least cost to where λ is 0: the budget
STEPS, WINDOWS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0), (100, 300, 1000, 3000, 10_000)


def day(arrivals: str, requests: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and costs float32 (requests, ACTIONS) in the order of arrival, and the ends of the intervals."""
    generator = numpy_generator(seed, "benchmark", "online_lambda", arrivals)
    values, costs = make_problem(requests, ACTIONS, seed)
    ends = np.cumsum(generator.multinomial(requests, LOAD))
    if arrivals == "drifting":
        clock = np.arange(requests) / requests
        swing = np.sin(2 * np.pi * (clock + generator.random())) + 0.4 * np.sin(
            6 * np.pi * (clock + generator.random())
        )
        values *= np.exp(0.5 * swing)[:, None].astype(np.float32)
    elif arrivals != "stationary":
        order = np.argsort(values.max(axis=1) - values[np.arange(requests), costs.argmin(axis=1)])
        order = order if arrivals == "sorted_rising" else order[::-1]
        values, costs = np.ascontiguousarray(values[order]), np.ascontiguousarray(costs[order])
    return values, costs, ends


def rivals(hulls: Hulls) -> dict[str, Callable[[float], Any]]:
    """The pricings that are compared, by name."""
    return {"primal_dual": PrimalDual, "resolving": partial(Resolving, hulls=hulls), "constant": Constant}


def played(arrivals: str, traffic: float, requests: int, seed: int, pricings: Any) -> list[dict[str, Any]]:
    """One day under each of the ``pricings`` (a function of the hulls); a row each."""
    values, costs, ends = day(arrivals, round(traffic * requests), seed)
    hulls = row_hulls(values, costs)
    least, most = (float(hulls.c[at].mean(dtype=np.float64)) for at in (hulls.first[:-1], hulls.first[1:] - 1))
    budget = requests * (least + SHARE * (most - least))  # made for the forecast, whatever comes
    best = allocate(values, costs, budget)
    rows = np.arange(len(values))
    found = []
    for name, pricing in pricings(hulls).items():
        result = serve_stream(hulls, rows, ends, requests * np.cumsum(LOAD), budget, pricing)
        found.append(
            {"arrivals": arrivals, "traffic": traffic, "method": name, "seed": seed}
            | numbers(result, best.bound, budget)
        )
    return found


def numbers(result: StreamResult, optimum: float, budget: float) -> dict[str, float]:
    """What a table says of one day."""
    return {
        "loss_pct": 100 * (1 - result.value / optimum),
        "spent_pct": 100 * result.cost / budget,
        "over_budget": int(result.cost > budget),
        "lowered": result.lowered,
        "refused": result.refused,
        "lambda_first": result.prices[0],
        "lambda_last": result.prices[-1],
    }


def tuning(requests: int) -> pd.DataFrame:
    """Mean loss on development seeds by step and window; they are chosen where nothing is sorted."""

    def both(hulls: Hulls) -> dict[str, Any]:
        steps = {f"step {step}": partial(PrimalDual, step=step) for step in STEPS}
        return steps | {f"window {size}": partial(Resolving, hulls=hulls, window=size) for size in WINDOWS}

    days = [played(kind, 1.0, requests, seed, both) for kind in ARRIVALS for seed in range(3)]
    table = pd.DataFrame([row for rows in days for row in rows])
    losses = table.pivot_table("loss_pct", "method", "arrivals", sort=False)
    return losses.assign(chosen_by=losses[["stationary", "drifting"]].mean(axis=1))


def figure(table: pd.DataFrame, path: Any) -> None:
    """Mean loss by arrivals and method, at the forecast traffic."""
    part = table[table["traffic"] == 1].groupby(["arrivals", "method"], sort=False)["loss_pct"].mean().unstack()
    picture, axes = new_figure(1, 1, width=7.5, height=3.2)
    axis, width = np.ravel(axes)[0], 0.8 / len(part.columns)
    for number, method in enumerate(part.columns):
        place = np.arange(len(part)) + (number - 1) * width
        bars = axis.bar(place, part[method], width, color=COLORS[number], label=method.replace("_", "-"))
        axis.bar_label(bars, fmt="%.2g", padding=2, fontsize=8)
    axis.set_xticks(np.arange(len(part)), [name.replace("_", ", ") for name in part.index])
    axis.set_ylabel("value lost, %")
    axis.set_title("Loss against the optimum with all requests known")
    axis.grid(axis="x", visible=False)
    axis.legend()
    save_figure(picture, path)


def main(argv: list[str] | None = None) -> None:
    """Run all days and print the mean losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests and one seed")
    parser.add_argument("--tune", action="store_true", help="only print losses on development seeds")
    add_keep(parser)
    arguments = parser.parse_args(argv)
    requests, seeds = (20_000, 1) if arguments.quick else (200_000, 5)
    if arguments.tune:
        print(tuning(requests).round(3).to_string())
        return
    suffix = "_quick" if arguments.quick else ""
    days = [(kind, traffic, seed) for kind in ARRIVALS for traffic in TRAFFIC for seed in range(100, 100 + seeds)]
    found = [
        played(kind, traffic, requests, seed, rivals) for kind, traffic, seed in progress(days, what="days", unit="day")
    ]
    table = pd.DataFrame([row for rows in found for row in rows]).assign(requests=requests, warm=WARM)
    write_table(table, arguments.results / f"online_lambda{suffix}.csv")
    figure(table, arguments.results / f"online_lambda{suffix}.png")
    shown = ["loss_pct", "spent_pct", "over_budget", "lowered", "refused"]
    print(table.groupby(["arrivals", "traffic", "method"], sort=False)[shown].mean().round(3).to_string())


if __name__ == "__main__":
    main()
