"""Controllers on the scenario suite: as deployed, and μ at ν = 0.64 %, the target offset swept per run.

``python -m benchmarks.controllers [--quick] [--only S,S] [--controllers C,C] [--seeds N] [--part i/n] [--trace F]``.
Everything is tuned on development days: g and the PI gains (per delay and reading noise of the scenario) on commissioned
days of seeds 0 and 3, defaults on seed 20. Evaluation seeds are 100 and up. Rows are kept in
controllers_rows.csv (and, while a process runs, in runs/benchmarks) and resumed.

``one_step``, ``look_ahead`` and ``pi_dead_time`` are the rivals that have MPC's model, its forecasts or the known delay.
``mpc`` steers once a minute; ``mpc_20s`` is the same controller with control steps of 20 seconds; ``pi_forecast`` and
``pi_feedforward_20s`` give the rival MPC's forecasts and MPC's shorter steps. All are judged on minute means of true CPU.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._frontier import NU, Point, at_nu
from benchmarks._mpc import CACHE, commissioned_model, stamp, trace_config
from benchmarks._results import KEPT, SCRATCH, add_keep
from marca_common.config import content_hash
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.files import read_json, write_json
from marca_common.progress import progress
from mpc_balancer.config import ControllerConfig, MpcConfig, PiConfig, SystemModelConfig
from mpc_balancer.controllers.pi_tuning import PI_KINDS, tune_on_model
from mpc_balancer.run import ClosedLoopConfig, simulate
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.testbed.run_metrics import per_minute, recoveries, run_metrics
from mpc_balancer.testbed.scenarios import Scenario, ScenarioRun, load_scenarios, start_scenario
from mpc_balancer.testbed.trace_traffic import TraceConfig
from mpc_balancer.train import load_data

BUDGET = 65.0
HIDDEN = [64, 64]
MPC = {1: MpcConfig(), 3: MpcConfig(max_delay=9)}  # as shipped; delays of up to three minutes
CONTROLLERS = {  # name in the table → controller, control steps per minute
    "mpc": ("mpc", 1),
    "one_step": ("one_step", 1),
    "look_ahead": ("look_ahead", 1),
    "pi": ("pi", 1),
    "pi_feedforward": ("pi_feedforward", 1),
    "pi_forecast": ("pi_forecast", 1),
    "pi_dead_time": ("pi_dead_time", 1),
    "bisection": ("bisection", 1),
    "fixed": ("fixed", 1),
    "knows_next_minute": ("knows_next_minute", 1),
    "clairvoyant": ("clairvoyant", 1),
    "mpc_20s": ("mpc", 3),
    "pi_feedforward_20s": ("pi_feedforward", 3),
}
EXTRA = {"mpc_20s", "pi_feedforward_20s"}  # shorter steps: only where they are the question
EXTRA_SCENARIOS = {"nominal", "hard", "flash_unannounced", "failover", "delay_1"}
_LEFT = 92.0  # percent; the figure names what lies below
FIRST = [
    *["hard", "nominal", "flash_unannounced", "failover", "delay_1", "flash_announced", "flash_wrong_size", "noise_2"]
]


@functools.cache
def system_model(parts: int) -> SystemModel:
    """g for a number of control steps per minute."""
    if parts == 1:
        return commissioned_model(HIDDEN, days=7, tune_pi=False, commission_steps_per_minute=1, forecast_horizon=10)
    return commissioned_model(HIDDEN, days=4, tune_pi=False, commission_steps_per_minute=parts, forecast_horizon=15)


def pi_gains(kind: str, parts: int, scenario: Scenario) -> dict[str, float]:
    """Gains tuned on two development days for this delay and reading noise; kept on disk."""
    noise = (0.5 if scenario.reading_noise is None else scenario.reading_noise) * parts**0.5
    delay = parts * scenario.delay_minutes
    path = CACHE / f"pi_{content_hash(kind, parts, noise, delay, system_model(parts).tuned.to_dict())}.json"
    if not path.exists():
        data = load_data(SystemModelConfig(commission_days=2, seed=3, commission_steps_per_minute=parts))
        gains = tune_on_model(system_model(parts), data, kind, np.full(2, BUDGET), delay=delay, reading_noise=noise)
        write_json(path, asdict(gains))
    kept: dict[str, float] = read_json(path)
    return kept


def gains_of(kind: str, parts: int, scenario: Scenario) -> dict[str, float]:
    """PI gains of a controller. MPC's are those of the rule below it; dead time is compensated, so its rule is tuned without."""
    if kind == "pi_dead_time":
        return pi_gains("pi_forecast", parts, scenario.model_copy(update={"delay_minutes": 0}))
    return pi_gains("pi" if scenario.broken_model else kind if kind in PI_KINDS else "pi_feedforward", parts, scenario)


def run_once(controller: ControllerConfig, script: Scenario, seed: int) -> dict[str, float]:
    """One run of a scenario: μ and ν in percent, longest recovery in minutes, wall time of a controller step."""
    drawn = start_scenario(script, seed)
    config = ClosedLoopConfig(controller=controller)
    _, loop, cpu = simulate(config, drawn, system_model(1), drawn.calendar, progress=False)
    out = run_metrics(cpu, loop.prices, np.full(2, BUDGET), np.array(loop.step_seconds))
    known = {"recovery": out["recovery_minutes_max"], "solve_ms_p50": out["solve_ms_p50"]}
    return {"seed": seed, "mu": 100 * out["mu"], "nu": 100 * out["nu"]} | known


def evaluate(name: str, drawn: ScenarioRun, start: float, known: bool) -> tuple[Point, dict[str, float]]:
    """μ at ν = NU of one controller on one run; μ, ν and the highest CPU as deployed; its longest recovery from 88 %."""
    kind, parts = CONTROLLERS[name]
    model = system_model(parts)
    pi = PiConfig(**gains_of(kind, parts, drawn.scenario))
    slowest: dict[float, int] = {}
    seen: dict[float, tuple[float, float, float]] = {}

    def run(offset: float) -> tuple[float, float]:
        config = ControllerConfig(name=kind, budget=BUDGET, offset=offset, mpc=MPC[parts], pi=pi)
        if kind == "fixed":  # no target: the sweep is over the price itself
            price = model.prices.from_unit(np.full(2, np.clip(0.5 - offset / 40, 0, 1))).tolist()
            config = config.model_copy(update={"offset": 0.0, "fixed_price": price})
        _, loop, cpu = simulate(ClosedLoopConfig(controller=config), drawn, model, drawn.calendar, progress=False)
        cpu = per_minute(cpu, parts)
        out = run_metrics(cpu, loop.prices, np.full(2, BUDGET))
        slowest[offset] = max(recoveries(cpu, np.full(2, BUDGET)), default=0)
        seen[offset] = out["mu"], out["nu"], float(cpu.max())
        return out["mu"], out["nu"]

    mu, nu = run(0.0)
    clairvoyant = kind == "clairvoyant"
    point = Point(mu, nu, 0.0, True, 1) if clairvoyant else at_nu(run, start, tries=5, step=0.8 if known else 2.0)
    nearest = min(slowest, key=lambda offset: abs(offset - point.offset))
    deployed = dict(zip(("mu_deployed", "nu_deployed", "peak_deployed"), seen[0.0]))
    return point, {"recovery_minutes": slowest[nearest], **deployed}


def rows_of(path: Path) -> pd.DataFrame:
    """All rows measured so far, stored ones and those of this machine."""
    kept = [folder / path.name.replace("_part", "") for folder in (KEPT, SCRATCH)]
    found = [pd.read_csv(p) for p in [*kept, *sorted(path.parent.glob(path.name.replace("_part", "_*")))] if p.exists()]
    return (
        pd.concat(found, ignore_index=True).drop_duplicates(["scenario", "controller", "seed"])
        if found
        else pd.DataFrame()
    )


def measure(
    scenarios: dict[str, Scenario],
    controllers: list[str],
    seeds: list[int],
    store: Path,
    shared: Path,
    trace: TraceConfig | None,
) -> None:
    """Measure what is missing, row by row."""
    done = rows_of(shared)
    have = set(zip(done["scenario"], done["controller"], done["seed"])) if len(done) else set()
    todo = [
        (s, c, seed)
        for seed in seeds
        for s in scenarios
        for c in controllers
        if (s, c, seed) not in have
        and (c not in EXTRA or s in EXTRA_SCENARIOS)
        and (c != "look_ahead" or scenarios[s].moves.limited)  # elsewhere it is one_step
    ]
    offsets: dict[tuple[str, str], float] = {}
    for s, c, seed in progress(todo, what="runs"):
        drawn = start_scenario(scenarios[s], seed, trace=trace)
        point, found = evaluate(c, drawn, offsets.get((s, c), 0.0), (s, c) in offsets)
        offsets[s, c] = point.offset
        row = {
            "scenario": s,
            "controller": c,
            "seed": seed,
            "mu": point.mu,
            "nu": point.nu,
            "offset": point.offset,
            "reached": int(point.reached),
            "runs": point.runs,
            **found,
        }
        pd.DataFrame([row]).to_csv(store, mode="a", index=False, header=not store.exists(), float_format="%.6g")


def collect(rows: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Means over seeds; ``reached`` 0 marks the least ν where ν = 0.64 % can't be reached in every seed."""
    out = []
    for (s, c), part in rows.groupby(["scenario", "controller"], sort=False):
        out.append(
            {
                "scenario": s,
                "controller": c,
                "mu_at_nu_064": 100 * part["mu"].mean(),
                "nu": 100 * part["nu"].mean(),
                "seeds": len(part),
                "mu_sd": 100 * part["mu"].std(ddof=1) if len(part) > 1 else 0.0,
                "reached": int(part["reached"].min()),
                "mu_deployed": 100 * part["mu_deployed"].mean(),
                "nu_deployed": 100 * part["nu_deployed"].mean(),
                "peak_deployed": part["peak_deployed"].max(),
                "recovery_minutes_max": int(part["recovery_minutes"].max()),
                "first_seed": int(part["seed"].min()),
            }
        )
    table = pd.DataFrame(out)
    names = list(CONTROLLERS)
    rank = {s: i for i, s in enumerate(order)}
    return table.sort_values(
        ["scenario", "controller"],
        ignore_index=True,
        key=lambda column: column.map(lambda v: rank.get(v, names.index(v) if v in names else 99)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two scenarios of four hours, one seed")
    parser.add_argument("--only", help="scenarios, comma-separated")
    parser.add_argument("--controllers", help="controllers, comma-separated")
    parser.add_argument("--seeds", type=int, default=5, help="evaluation seeds 100, 101, …")
    parser.add_argument("--part", default="1/1", help="i/n: this process takes every n-th seed")
    parser.add_argument(
        "--trace", help="recorded traffic, as in benchmarks.traces: one scenario of two days, named by the file"
    )
    parser.add_argument("--collect", action="store_true", help="only write the table and figure from the rows so far")
    add_keep(parser)
    arguments = parser.parse_args()
    scenarios = load_scenarios("configs/mpc_balancer/scenarios.yaml")
    scenarios = {name: scenarios[name] for name in [*FIRST, *(n for n in scenarios if n not in FIRST)]}
    suffix = "_quick" if arguments.quick else ""
    shared = CACHE / f"controllers{suffix}_rows_part.csv"
    CACHE.mkdir(parents=True, exist_ok=True)
    if not arguments.collect:
        index, count = map(int, arguments.part.split("/"))
        chosen = scenarios if not arguments.only else {n: scenarios[n] for n in arguments.only.split(",")}
        names = arguments.controllers.split(",") if arguments.controllers else list(CONTROLLERS)
        seeds = list(range(100, 100 + arguments.seeds))[index - 1 :: count]
        if arguments.trace:
            chosen = {f"trace_{Path(arguments.trace).stem}": Scenario(title="a recorded trace", days=2)}
        if arguments.quick:
            chosen = {n: scenarios[n].model_copy(update={"days": 1 / 6}) for n in ("nominal", "hard")}
            names, seeds = [n for n in names if n not in EXTRA], seeds[:1]
        store = shared.with_name(shared.name.replace("_part", f"_{index}of{count}"))
        measure(chosen, names, seeds, store, shared, trace_config(arguments.trace) if arguments.trace else None)
    rows = rows_of(shared)
    rows.to_csv(
        arguments.results / shared.name.replace("_part", ""), index=False, float_format="%.6g", lineterminator="\n"
    )
    table = collect(rows, list(scenarios)).assign(**stamp("100+"))
    table.to_csv(arguments.results / f"controllers{suffix}.csv", index=False, float_format="%.5g", lineterminator="\n")
    figure(table, arguments.results / f"controllers{suffix}.png")
    shown = [
        "scenario",
        "controller",
        "mu_deployed",
        "nu_deployed",
        "peak_deployed",
        "mu_at_nu_064",
        "nu",
        "seeds",
        "mu_sd",
    ]
    print(table[[*shown, "reached"]].to_string(index=False))


def figure(table: pd.DataFrame, path: Path) -> None:
    """μ at equal ν, one row per scenario."""
    scenarios = list(dict.fromkeys(table["scenario"]))
    drawn_ones = ("mpc", "one_step", "look_ahead", "pi_feedforward", "pi_dead_time", "knows_next_minute")
    shown = [c for c in drawn_ones if c in set(table["controller"])]
    plot, axis = new_figure(width=8.0, height=1.6 + 0.32 * len(scenarios))
    marks = dict(zip(shown, "oDs^v<"))
    for color, name in zip(COLORS, shown):
        part = table[table["controller"] == name]
        rows = [scenarios.index(s) for s in part["scenario"]]
        axis.errorbar(
            part["mu_at_nu_064"],
            rows,
            xerr=part["mu_sd"] / np.sqrt(part["seeds"]),
            fmt=marks[name],
            color=color,
            ms=6,
            lw=1,
            label=name,
        )
    axis.set(
        yticks=range(len(scenarios)),
        yticklabels=scenarios,
        xlabel=f"μ at ν = {100 * NU:.2f} % (percent)",
        title="Utilisation at equal over-utilisation (mean ± standard error over seeds)",
    )
    axis.set_xlim(_LEFT, 100.2)
    drawn = table[table["controller"].isin(shown) & (table["mu_at_nu_064"] < _LEFT)]
    for scenario, part in drawn.groupby("scenario"):
        left = ", ".join(f"{row.controller} {row.mu_at_nu_064:.1f}" for row in part.itertuples())
        axis.text(_LEFT + 0.1, scenarios.index(scenario) - 0.32, f"◂ {left}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.legend(loc="lower center", bbox_to_anchor=(0.4, 1.04), ncols=3)
    save_figure(plot, path)


if __name__ == "__main__":
    main()
