"""Controllers under a wrong model, wrong sensors and wrong adapters, as deployed: ``python -m benchmarks.faults [--quick] [--seeds N] [--keep]``.

faults.csv: ``fault, controller, mu, nu, alarm_minutes`` and more, means over evaluation seeds 100, …; μ and ν in percent. ``alarm_minutes`` is how long
after its onset the first alarm rose, the longest over seeds; empty where none did. ``mu_unguarded`` and ``nu_unguarded`` are those of the same controller whose model is
always believed and whose margin is fixed. faults.png shows one fault with and without the guard.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._mpc import CACHE, commissioned_model, stamp
from benchmarks._results import add_keep
from benchmarks.controllers import BUDGET, HIDDEN
from marca_common.config import content_hash
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.progress import progress
from marca_common.system import system_table
from mpc_balancer.config import ColumnsConfig, ControllerConfig, MpcConfig, SystemModelConfig, WatchConfig
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.run import ClosedLoopConfig, simulate
from mpc_balancer.system_model.minute_table import from_frame
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.testbed.commissioning import excite
from mpc_balancer.testbed.reference_plant import ReferenceConfig, ReferencePlant
from mpc_balancer.testbed.reference_traffic import SyntheticTrafficConfig, synthetic_traffic
from mpc_balancer.testbed.run_metrics import run_metrics
from mpc_balancer.testbed.scenarios import Scenario, load_scenarios, start_scenario
from mpc_balancer.train import fit_model

CONTROLLERS = ["mpc", "one_step", "pi_dead_time", "pi_feedforward", "pi"]
GUARDED = ["mpc", "one_step"]
UNGUARDED = MpcConfig(watch=WatchConfig(least_error=1e9), over_use=None)
DRAWN, HOURS = "release_cost_2_5", (11, 16)  # the fault of the figure, and the part of the day shown


def model_learnt_without_moves() -> SystemModel:
    """A system model trained on days whose λ never moved: it knows traffic and nothing of λ."""
    config, minutes = ReferenceConfig(), 5 * 1440
    path = CACHE / f"system_model_without_moves_{content_hash(config, minutes)}.pt"
    if not path.exists():
        high = 12 * np.array(config.half_price)
        scale = PriceScale(np.zeros(len(high)), high, high / 20)
        traffic = synthetic_traffic(SyntheticTrafficConfig(sub_intervals=config.sub_intervals), 0, minutes)
        days = excite(ReferencePlant(config, 0, minutes), traffic.arrivals, scale, 0, gain=0.0, dither=0.0)
        data = from_frame(system_table(days, config.services), ColumnsConfig(), config.services, "reference plant")
        fit_model(data, SystemModelConfig(price_high=high.tolist(), allow_unidentified=True))[0].save(path)
    return SystemModel.load(path)


def onset(fault: Scenario) -> int:
    """Minute at which the fault sets in."""
    return min([one.minute for one in fault.cost_steps] + [one.minute for one in fault.wrong_sensors], default=0)


def measure(
    name: str, fault: Scenario, seed: int, model: SystemModel, mpc: MpcConfig
) -> tuple[dict[str, Any], np.ndarray]:
    """One run: its numbers, and true CPU (T, D)."""
    drawn = start_scenario(fault, seed)
    config = ClosedLoopConfig(controller=ControllerConfig(name=name, budget=BUDGET, mpc=mpc))
    steered: Any
    steered, loop, cpu = simulate(config, drawn, model, drawn.calendar, progress=False)
    out = run_metrics(cpu, loop.prices, np.full(2, BUDGET))
    rose = [minute for minute in steered.alarms.first.values() if minute >= onset(fault)]
    row = {"mu": 100 * out["mu"], "nu": 100 * out["nu"], "alarm_minutes": min(rose, default=np.nan) - onset(fault)}
    return row | {"alarms": " ".join(sorted(steered.alarms.first))}, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three faults of four hours, one seed")
    parser.add_argument("--seeds", type=int, default=5, help="evaluation seeds 100, 101, …")
    add_keep(parser)
    arguments = parser.parse_args()
    faults = load_scenarios("configs/mpc_balancer/faults.yaml")
    seeds = list(range(100, 100 + (1 if arguments.quick else arguments.seeds)))
    if arguments.quick:
        faults = {
            n: faults[n].model_copy(update={"days": 1 / 6}) for n in ("nominal", "qps_half", "price_effect_fifth")
        }
    good, rows, paths = commissioned_model(HIDDEN, days=5), [], {}
    for fault, name, seed in progress([(f, n, s) for f in faults for n in CONTROLLERS for s in seeds], what="runs"):
        model = model_learnt_without_moves() if fault == "learnt_without_moves" else good
        row, cpu = measure(name, faults[fault], seed, model, MpcConfig())
        if name in GUARDED:
            bare, bare_cpu = measure(name, faults[fault], seed, model, UNGUARDED)
            row |= {"mu_unguarded": bare["mu"], "nu_unguarded": bare["nu"]}
            if (fault, name, seed) == (DRAWN, "mpc", 100):
                paths = {"always believed": bare_cpu, "watched": cpu}
        rows.append({"fault": fault, "controller": name, "seed": seed, **row})
    table = collect(pd.DataFrame(rows)).assign(**stamp("100+"))
    suffix = "_quick" if arguments.quick else ""
    table.to_csv(arguments.results / f"faults{suffix}.csv", index=False, float_format="%.5g", lineterminator="\n")
    figure(paths, arguments.results / f"faults{suffix}.png")
    print(table.iloc[:, :9].to_string(index=False))


def collect(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds; the longest time to an alarm, and all alarms that rose."""
    grouped = rows.groupby(["fault", "controller"], sort=False)
    means = grouped[["mu", "nu", "mu_unguarded", "nu_unguarded"]].mean()
    slowest = grouped["alarm_minutes"].apply(lambda one: one.max() if one.notna().all() else np.nan)
    names = grouped["alarms"].apply(lambda one: " ".join(sorted({name for each in one for name in each.split()})))
    found = means[["mu", "nu"]].assign(alarm_minutes=slowest, alarms=names)
    return found.join(means[["mu_unguarded", "nu_unguarded"]]).assign(seeds=grouped.size()).reset_index()


def figure(paths: dict[str, np.ndarray], path: Any) -> None:
    """CPU of the first service under the fault drawn, with and without the guard."""
    plot, axis = new_figure(width=8.0, height=3.4)
    for color, (label, cpu) in zip(COLORS, paths.items()):
        axis.plot(np.arange(len(cpu)) / 60, cpu[:, 0], color=color, lw=1.0, label=f"the model is {label}")
    axis.axhline(BUDGET, color="black", ls="--", lw=1, label="budget")
    axis.set(
        title="MPC when a release at noon makes requests 2.5 times as dear",
        xlabel="hour of the day",
        ylabel="CPU of retrieval (percent)",
        ylim=(40, 102),
        xlim=HOURS,
    )
    axis.legend(loc="lower right")
    save_figure(plot, path)


if __name__ == "__main__":
    main()
