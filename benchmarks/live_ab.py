"""Live A/B on the real cascade: ``python -m benchmarks.live_ab [--target PERCENT] [--rounds N] [--quick] [--keep]``.

The service of a build (seed 100; ``--quick``: a small one, seed 0) is put under open-loop traffic with the shape of the record's
own day. Each round is a stretch of that day. In it every strategy serves the same requests at the same moments, one strategy
after the other in random order; the first round is not counted. ``static_hourly`` is sized beforehand from the day as it used to be.
``static_feedback`` is one mixture for everybody, whose mean cost follows the CPU. The others take argmax Q − λC, with λ by a controller. Q is learned from the build's log (``benchmarks.movielens``), C are the maps
of the service's bench (``benchmarks.real_costs``), scaled to the machine as it is now. Traffic is calibrated to the machine.

``value`` is the expected revenue of the pages that were really served, by the half of the later likes that nobody has seen.
Intervals are percentiles over draws of rounds. Builds, learners and the bench are kept, so the measured part is what repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from autobucket.bench.measuring.campaign import build_target
from autobucket.bench.measuring.run_async import run_async
from autobucket.bench.target.machine import generator_on, place
from benchmarks._live_blocks import Served, Server, Strategy
from benchmarks._live_strategies import Blended, Hourly, Learned, Priced, Response, Simulated, commissioned
from benchmarks._live_traffic import Day, make_block
from benchmarks._mpc import stamp
from benchmarks._real_service import FEW_VISITS, ROOT, ServiceCosts, first_joint, parts_of
from benchmarks._results import add_keep
from benchmarks._script import script
from benchmarks.movielens import Real, learned, profile_of
from marca_common.compute import set_threads
from marca_common.errors import UserError
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from recommender.build_parts import Parts
from recommender.histories.split import JUDGED
from recommender.truth.worth import discounts

STRATEGIES = {  # name → whose Q (or mixtures by the profile), which controller
    "static_hourly": ("mixture", ""),
    "static_feedback": ("mixture", "pi"),
    "priced_blind": ("profile", "pi"),
    "marca_feedback": ("awrq_mixer", "pi"),
    "marca_mpc": ("awrq_mixer", "mpc"),
    "plus_mpc": ("awrq_plus", "mpc"),
}
DRAWS = 2000
MOST_SENDING = 70.0  # percent of its core that the generator can use and still be on time


@dataclass(frozen=True)
class Plan:
    """How long everything lasts, seconds."""

    rounds: int = 12
    block_s: float = 12.0
    interval_s: float = 1.0  # between decisions of a controller
    calibration_s: float = 6.0  # for each of three actions
    rows: int = 1000  # intervals that the system models are learned from


QUICK = Plan(rounds=3, block_s=4.0, interval_s=0.25, calibration_s=2.0, rows=400)


@dataclass(frozen=True)
class Machine:
    """The service on this machine now: core-ms of each distinct action (D,), and the traffic that suits the target."""

    cost: np.ndarray
    mean_qps: float
    noise: float  # of an interval's core-ms per request, log points
    notes: list[str]  # what keeps the target from being met whoever steers


class Always:
    """One action for everybody: calibration."""

    price = np.zeros(1)

    def __init__(self, setting: int) -> None:
        self.setting = setting

    def choose(self, visit: int, share: float) -> int:
        """That action."""
        return self.setting

    def step(self, measurement: object) -> None:
        """Nothing is learned."""


async def calibrated(
    server: Server, day: Day, costs: np.ndarray, profile: np.ndarray, plan: Plan, target: float
) -> Machine:
    """Scale the maps by what three actions cost now, and find the traffic whose busiest and quietest hours suit them.

    Three actions: the cheapest, the best, and one between. The geometric middle of the budgets is put on that of the costs.
    A UserError where this machine is too slow to send so many requests on time.
    """
    order = np.argsort(costs)
    chosen = [int(order[0]), int(order[len(order) // 2]), int(np.argmax(profile))]
    ratios, measured, spread, sending = [], [], [], []
    for number, setting in enumerate([chosen[2], *chosen]):  # the first one only warms up
        qps = 10 * target * server.cores / costs[setting]
        block = make_block(day, np.ones(1), qps, plan.calibration_s, 0.0, 1.0, 0, f"calibration {number}")
        before = time.process_time()
        served = await server.serve(block, Always(setting))
        sending.append(1000 * (time.process_time() - before) / max(len(block.times), 1))
        measured.append(1000 * served.cpu_s / max(len(block.times), 1))
        ratios.append(measured[-1] / costs[setting])
        spread.append(float(np.log(served.rows["cpu"] / served.rows["qps"]).std()))
    now = costs * float(np.median(ratios[1:]))
    low, high = measured[1], measured[3]
    ends = np.array([day.past.max(), day.past.min()])
    mean_qps = 10 * target * server.cores / np.sqrt(low * high * ends.prod())
    budgets = (
        10 * target * server.cores / (mean_qps * np.array([max(s.max() for s in (day.past, day.present)), ends[1]]))
    )
    notes = []
    if budgets[0] < low:
        notes.append(
            f"at the peak the target leaves {budgets[0]:.2f} core-ms per request; the cheapest action takes {low:.2f}"
        )
    if budgets[1] > high:
        notes.append(f"in the quietest hour it leaves {budgets[1]:.2f}; the best action takes only {high:.2f}")
    peak = mean_qps * day.present.max()
    own = peak * float(np.median(sending)) / 10
    if own > MOST_SENDING:
        raise UserError(
            f"--target: got {target:g}; sending the peak's {peak:.0f} requests/s would take {own:.0f} % of the generator's core "
            f"on this machine; expected at most {target * MOST_SENDING / own:.0f}"
        )
    return Machine(now, float(mean_qps), float(np.median(spread[1:])), notes)


@dataclass(frozen=True)
class Run:
    """Everything that was served: by strategy the blocks of its counted rounds."""

    machine: Machine
    visits: list[np.ndarray]  # of each round
    served: dict[str, list[Served]]


async def run_all(
    real: Real, costs: ServiceCosts, q: Mapping[str, np.ndarray], day: Day, plan: Plan, target: float, folder: Path
) -> Run:
    """Calibrate, commission, and serve the rounds; the service is started once and ended whatever happens."""
    placement, config = place(costs.config.accounting, "http"), costs.config
    service = build_target(config.target, config.accounting, placement)
    try:
        await service.start()
        server = Server(service, first_joint(parts_of(real)), placement.declared_cores, plan.interval_s)
        table = costs.of_actions(config.load.rates[0], server.cores)
        machine = await calibrated(server, day, table, q["profile"][0], plan, target)
        said(machine, day, target)
        responses = {name: Response.of(one, machine.cost) for name, one in q.items()}
        responses["mixture"] = Response.of_mixtures(q["profile"][0], machine.cost)
        models = {
            name: commissioned(
                Simulated(one, day, machine.mean_qps, machine.noise, plan.interval_s, server.cores),
                target,
                plan.rows,
                folder / name,
            )
            for name, one in responses.items()
        }
        strategies = {
            name: strategy(name, q, models, machine, day, server.cores, target, real.seed) for name in STRATEGIES
        }
        return await rounds(server, strategies, machine, day, plan, real.seed)
    finally:
        await service.stop()


def strategy(
    name: str, q: Mapping[str, np.ndarray], models: Mapping[str, Learned], machine: Machine, day: Day, cores: int, target: float, seed: int
) -> Strategy:  # fmt: skip
    """A fresh strategy."""
    values, steered = STRATEGIES[name]
    if not steered:
        budgets = 10 * target * cores / (machine.mean_qps * day.past)
        return Hourly(q["profile"][0], machine.cost, budgets, day, seed)
    model = models[values]
    controller = model.controller(steered, target)
    if values == "mixture":
        return Blended(q["profile"][0], machine.cost, model.days.response, controller, seed)
    return Priced(q[values], machine.cost, controller)


def said(machine: Machine, day: Day, target: float) -> None:
    """The plan, and what is out of reach, before the run."""
    print(
        f"traffic {machine.mean_qps * day.present.min():.0f} to {machine.mean_qps * day.present.max():.0f} requests/s over the hours "
        f"{day.hours[0]} to {day.hours[-1]} UTC; actions cost {machine.cost.min():.2f} to {machine.cost.max():.2f} core-ms"
    )
    for note in machine.notes:
        print(f"warning: target {target:g} % is out of reach: {note}")


async def rounds(
    server: Server, strategies: Mapping[str, Strategy], machine: Machine, day: Day, plan: Plan, seed: int
) -> Run:
    """Each stretch of the day under every strategy, in random order; the stretch before the first is served to settle."""
    visits, served = [], {name: list[Served]() for name in strategies}
    for number in range(-1, plan.rounds):
        start = (number % plan.rounds) / plan.rounds
        block = make_block(
            day, day.present, machine.mean_qps, plan.block_s, start, start + 1 / plan.rounds, seed, f"round {number}"
        )
        for at in numpy_generator(seed, "live", "order", number).permutation(len(strategies)):
            name = list(strategies)[at]
            one = await server.serve(block, strategies[name])
            if number >= 0:
                served[name].append(one)
        if number >= 0:
            visits.append(block.visit)
            print(f"round {number + 1} of {plan.rounds}: {len(block.visit)} requests per strategy", flush=True)
    return Run(machine, visits, served)


def judged(parts: Parts, visit: np.ndarray, pages: list[list[str]]) -> np.ndarray:
    """Expected revenue (n,) of pages (film ids) at visits (n,) by the half of later likes that nobody has seen; 0 where lost."""
    people, worth = parts.people, parts.worth
    code = {str(film): place for place, film in enumerate(people.ratings.films)}
    discount = discounts(parts.config.page.slots)
    likes = {int(v): set(people.later_likes(people.visits, int(v), JUDGED).tolist()) for v in np.unique(visit)}
    values = np.zeros(len(visit))
    for i, (v, page) in enumerate(zip(visit.tolist(), pages)):
        films = [code[film] for film in page]
        rate = np.array([worth.click if film in likes[v] else worth.stray for film in films])
        values[i] = (
            (rate * worth.film[films]) @ discount[: len(films)] * worth.user[people.visits.user[v]] if films else 0.0
        )
    return values


def table_of(run: Run, values: Mapping[str, list[np.ndarray]], target: float) -> pd.DataFrame:
    """One row per strategy; leads over static_hourly in percent, intervals over draws of rounds."""
    count = len(run.visits)
    drawn = numpy_generator(0, "live", "bootstrap").integers(count, size=(DRAWS, count))
    size = np.array([len(one) for one in run.visits], float)
    sums = {name: np.array([one.sum() for one in parts]) for name, parts in values.items()}
    draws = {name: one[drawn].sum(axis=1) / size[drawn].sum(axis=1) for name, one in sums.items()}
    base, base_draws = sums["static_hourly"].sum(), draws["static_hourly"]
    rows = []
    for name, blocks in run.served.items():
        cpu = pd.concat([one.rows for one in blocks])["cpu"].to_numpy()
        smooth = np.convolve(cpu, np.ones(5) / 5, mode="valid") if len(cpu) >= 5 else cpu
        low, high = np.percentile(draws[name], [2.5, 97.5])
        lead = np.percentile(100 * (draws[name] / base_draws - 1), [2.5, 97.5])
        latency = np.concatenate([one.latency_ms for one in blocks])
        rows.append(
            {
                "strategy": name,
                "cpu_mean": sum(one.cpu_s for one in blocks) / sum(one.core_seconds for one in blocks) * 100,
                "cpu_over_target": float(np.maximum(smooth - target, 0).mean()),
                "value": sums[name].sum() / size.sum(),
                "ci_low": low,
                "ci_high": high,
                "p99_ms": float(np.nanquantile(latency, 0.99)),
                "lost": int(sum((~one.ok).sum() for one in blocks)),
                "lead_pct": 100 * (sums[name].sum() / base - 1),
                "lead_low": lead[0],
                "lead_high": lead[1],
                "core_ms": 1000 * sum(one.cpu_s for one in blocks) / size.sum(),
                "requests": int(size.sum()),
            }
        )
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame, run: Run, target: float, path: Path) -> None:
    """CPU and traffic over the day; what each strategy earns beyond the static mixtures, its mean CPU and latency."""
    plot, axes = new_figure(3, 2, width=10.5, height=7.6, width_ratios=[2.2, 1])
    colors, lines, bars = list(COLORS[: len(table)]), axes[:, 0], axes[:, 1]
    alike = [name for name in run.served if STRATEGIES[name][0] in ("mixture", "profile")]
    rest = [name for name in run.served if name not in alike]
    for axis, names, title in zip(lines, (alike, rest), ("all requests alike", "by learned Q")):
        for name in names:
            rows = pd.concat([one.rows for one in run.served[name]])
            smooth, color = rows["cpu"].rolling(5, min_periods=1).mean(), colors[list(run.served).index(name)]
            axis.plot(rows["share"], smooth, color=color, lw=1.2, label=name)
        axis.axhline(target, color="k", ls="--", lw=1, label="target")
        axis.set(title=f"CPU, five-interval means: {title}", ylabel="percent of a core", ylim=(0, 1.7 * target))
        axis.legend(loc="lower center", ncols=4, fontsize=8)
    rows = pd.concat([one.rows for one in run.served["static_hourly"]])
    lines[2].plot(rows["share"], rows["qps"].rolling(5, min_periods=1).mean(), color="0.3")
    lines[2].set(title="Traffic", xlabel="share of the day", ylabel="requests/s", ylim=(0, None))
    place = np.arange(len(table))
    reach = np.stack([table["lead_pct"] - table["lead_low"], table["lead_high"] - table["lead_pct"]])
    bars[0].errorbar(table["lead_pct"], place, xerr=reach, fmt="none", ecolor="0.4", capsize=3)
    bars[0].scatter(table["lead_pct"], place, c=colors, zorder=3)
    bars[0].axvline(0, color="0.6", lw=0.8)
    bars[0].set(title="Revenue over static_hourly, %")
    bars[1].barh(place, table["cpu_mean"], color=colors, alpha=0.7)
    bars[1].axvline(target, color="k", ls="--", lw=1)
    bars[1].set(title="Mean CPU, percent of a core")
    bars[2].barh(place, table["p99_ms"], color=colors, alpha=0.7)
    bars[2].set(title="99th percentile of latency, ms", xscale="log", xlim=(1, None))
    for axis in bars:
        axis.set_yticks(place, table["strategy"])
        axis.invert_yaxis()
    save_figure(plot, path)


def main() -> None:
    """Prepare, run, judge, write live_ab.csv and live_ab.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few visits, a clicks regression in place of awrq_plus, short blocks"
    )
    parser.add_argument(
        "--target", type=float, help="mean CPU to keep to, percent of the service's core, default 50, with --quick 20"
    )
    parser.add_argument("--rounds", type=int, help="stretches of the day, default 12, with --quick 3")
    add_keep(parser)
    arguments = parser.parse_args()
    quick = arguments.quick
    target = (20.0 if quick else 50.0) if arguments.target is None else arguments.target
    if not 5 <= target <= 90:
        parser.error(f"--target: got {target:g}; expected 5 to 90 percent")
    if arguments.rounds is not None and arguments.rounds < 2:
        parser.error(f"--rounds: got {arguments.rounds}; expected at least 2, or intervals say nothing")
    set_threads(1)
    plan = QUICK if quick else Plan()
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    real = Real.of(0 if quick else 100, FEW_VISITS if quick else [])
    parts = parts_of(real)
    q = {"profile": np.tile(profile_of(real), (len(real.judged), 1))}
    q |= {
        name: learned(real, "regression_clicks" if quick and name == "awrq_plus" else name)
        for name in ("awrq_mixer", "awrq_plus")
    }
    costs = ServiceCosts.of(real, quick)
    began = time.perf_counter()
    with generator_on(place(costs.config.accounting, "http")):
        run = run_async(
            lambda: run_all(
                real, costs, q, Day.of(parts.people), plan, target, ROOT / f"live{'_quick' if quick else ''}"
            )
        )
    values = {
        name: [judged(parts, visit, one.pages) for visit, one in zip(run.visits, blocks)]
        for name, blocks in run.served.items()
    }
    table, suffix = table_of(run, values, target), "_quick" if quick else ""
    write_table(table.assign(target=target, **stamp(real.seed)).round(4), arguments.results / f"live_ab{suffix}.csv")
    figure(table, run, target, arguments.results / f"live_ab{suffix}.png")
    print(table.round(3).to_string(index=False))
    print(f"measured in {(time.perf_counter() - began) / 60:.1f} minutes")
    failures = {one.failure for blocks in run.served.values() for one in blocks if one.failure}
    if failures:
        print(f"lost requests: {'; '.join(sorted(failures)[:3])}")


if __name__ == "__main__":
    script(main)
