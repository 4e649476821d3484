"""Controllers on recorded traffic, as deployed: ``python -m benchmarks.traces F.csv G.yaml … [--days D] [--seeds S,S] [--keep]`` or ``--quick``.

A CSV holds ``timestamp,value`` and is scaled to the plant's 400 requests per second. A YAML file holds the keys of
``traffic`` in configs/mpc_balancer/run.yaml. μ and ν are in percent, at offset 0. ``correlation`` is how much the last ten
seconds of a minute tell of the next one; a real record of arrival times has some, minutes drawn from counts have none.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._mpc import stamp, trace_config
from benchmarks._results import SCRATCH, add_keep
from benchmarks.controllers import BUDGET, MPC, pi_gains, system_model
from mpc_balancer.config import ControllerConfig, PiConfig
from mpc_balancer.run import ClosedLoopConfig, simulate
from mpc_balancer.testbed.run_metrics import run_metrics
from mpc_balancer.testbed.scenarios import Scenario, ScenarioRun, start_scenario

CONTROLLERS = ("mpc", "pi_feedforward", "pi_forecast")


def last_seconds_correlation(arrivals: np.ndarray) -> float:
    """Correlation of the last sub-interval's share of a minute with the log change to the next, from arrivals (T, I).

    Over minutes with requests in both.
    """
    minute = arrivals.sum(axis=1)
    known = (minute[:-1] > 0) & (minute[1:] > 0)
    share = arrivals[:-1, -1][known] / minute[:-1][known]
    return float(np.corrcoef(share, np.log(minute[1:][known] / minute[:-1][known]))[0, 1])


def deployed(name: str, drawn: ScenarioRun) -> dict[str, float]:
    """μ and ν in percent of a controller at its own target; MPC has the gains of PI + feed-forward below it."""
    pi = PiConfig(**pi_gains("pi_feedforward" if name == "mpc" else name, 1, drawn.scenario))
    config = ClosedLoopConfig(controller=ControllerConfig(name=name, budget=BUDGET, mpc=MPC[1], pi=pi))
    _, loop, cpu = simulate(config, drawn, system_model(1), drawn.calendar, progress=False)
    out = run_metrics(cpu, loop.prices, np.full(2, BUDGET))
    return {"mu": 100 * out["mu"], "nu": 100 * out["nu"]}


def made_up(folder: Path) -> Path:
    """A file of six hours of counts by the minute that rise and fall."""
    start, minutes = np.datetime64("2026-03-09T00:00:00"), np.arange(360)
    counts = (24_000 * (1 + 0.3 * np.sin(minutes / 60))).astype(int)
    path = folder / "made_up.csv"
    pd.DataFrame({"timestamp": start + minutes * np.timedelta64(60, "s"), "value": counts}).to_csv(path, index=False)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--quick", action="store_true", help="six hours of a made-up trace, one seed")
    parser.add_argument("--days", type=float, help="most days of a trace; all of it where left out")
    parser.add_argument("--seeds", default="100,101,102", help="of plant and traffic, comma-separated")
    add_keep(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.traces, arguments.seeds = [str(made_up(SCRATCH))], "0"
    elif not arguments.traces:
        parser.error("got no trace; expected at least one file, or --quick")
    rows = []
    for trace in arguments.traces:
        for seed in map(int, arguments.seeds.split(",")):
            drawn = start_scenario(Scenario(days=arguments.days), seed, trace=trace_config(trace))
            found = {"minutes": len(drawn.arrivals), "correlation": last_seconds_correlation(drawn.arrivals)}
            rows += [
                {"trace": Path(trace).stem, "controller": name, **deployed(name, drawn), **found, **stamp(seed)}
                for name in CONTROLLERS
            ]
    table = pd.DataFrame(rows)
    table.to_csv(arguments.results / "traces.csv", index=False, float_format="%.4g", lineterminator="\n")
    print(table[["trace", "controller", "seed", "mu", "nu", "minutes", "correlation"]].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
