"""Table 4 on the open world: four weeks, every strategy, three worlds of each kind: ``python -m benchmarks.table4``.

A world × seed is one run of ``configs/paper.yaml`` (hard: ``paper_hard.yaml``) in ``runs/paper``, with that seed for the world
and for the training of every learner; a stopped command goes on from there. `--quick`: the smoke config, one seed.

Writes ``table4.csv`` (one row per world and strategy), ``table4_leads.csv`` (awrq_plus against each rival), ``table4_weeks.csv``
(all measures per strategy, world, seed and week), ``attribution.csv`` and figures. Uplifts are means over world seeds; their
intervals resample world seeds, and days within each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._results import add_keep, parameters_hash
from marca_common.config import load_config, to_dict
from marca_common.run_folder import versions
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from marca_loop.measures import DRAWS, uplift_at_equal_cpu
from marca_loop.orchestrate import orchestrate
from marca_loop.settings import Orchestration
from marca_report.waterfall import draw_waterfall

CONFIGS = {"base": "configs/paper.yaml", "hard": "configs/paper_hard.yaml", "small": "configs/smoke.yaml"}
# The paper's Table 4: revenue over static in its four-week online test, percent, on its private traffic.
PAPER = {"dcaf": 3.67, "rl_mpca": 12.16, "marca_feedback": 14.93, "marca_mpc": 16.67}
OURS = ("plus_feedback", "plus_mpc")
Daily = dict[int, pd.DataFrame]  # by seed: revenue, a row per day, a column per strategy


def main() -> None:
    """Run what is missing, then write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="*", default=["base", "hard"], choices=list(CONFIGS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102], help="seeds of worlds and training")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the runs")
    parser.add_argument("--quick", action="store_true", help="the smoke config, one seed, a minute")
    add_keep(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.worlds, arguments.seeds = ["small"], [100]
    tables, leads, weeks, steps = [], [], [], []
    for world in arguments.worlds:
        measured, config = run_world(world, arguments.seeds, arguments.runs)
        daily = {seed: one.pivot(index="day", columns="strategy", values="revenue") for seed, one in measured.items()}
        known = provenance(config, arguments.seeds)
        tables.append(table4(world, daily, measured, config).assign(**known))
        leads.append(leads_of(world, daily, config))
        weeks.append(by_week(world, measured))
        falls = waterfall(daily, config).assign(world=world)
        draw_waterfall(falls, arguments.results / f"attribution_{world}.png")
        steps.append(falls.assign(**known))
    suffix = "_quick" if arguments.quick else ""
    for name, parts in (("table4", tables), ("table4_leads", leads), ("table4_weeks", weeks), ("attribution", steps)):
        write_table(pd.concat(parts, ignore_index=True), arguments.results / f"{name}{suffix}.csv")
    print(pd.concat(tables).drop(columns=["command", "versions", "world_hash"]).round(3).to_string(index=False))
    print(pd.concat(leads).round(3).to_string(index=False))


def run_world(world: str, seeds: list[int], runs: Path) -> tuple[Daily, Orchestration]:
    """Measures per strategy and day of every seed, and the config of the last."""
    found = {}
    for seed in seeds:
        config = load_config(Orchestration, CONFIGS[world], [f"world.seed={seed}"])
        learners = {name: one.model_copy(update={"seed": seed}) for name, one in config.learners.items()}
        results = config.results.model_copy(update={"seed": seed})
        config = config.model_copy(update={"learners": learners, "results": results})
        out = runs / f"{world}_{seed}"
        failed = orchestrate(config, out).summary["failed"]
        if failed:
            print("\n".join(failed.values()))
        found[seed] = pd.read_csv(out / "day/measures.csv")
    return found, config


def provenance(config: Orchestration, seeds: list[int]) -> dict[str, str]:
    """Command, seeds, hash of the world's config without its seed, and versions."""
    assert config.world is not None
    known = versions()
    return {
        "seeds": " ".join(map(str, seeds)),
        "world_hash": parameters_hash(to_dict(config.world)),
        "versions": f"python {known['python']} numpy {known['numpy']} torch {known['torch']}",
        "command": "python -m benchmarks.table4",
    }


def uplift(daily: Daily, name: str, rival: str | None) -> tuple[float, float, float]:
    """Mean over seeds of the uplift in percent, and its 95 % interval; NaN without that rival."""
    if rival is None or any(one not in table for table in daily.values() for one in (name, rival)):
        return np.nan, np.nan, np.nan
    pairs = [table[[name, rival]].to_numpy() for table in daily.values()]
    value = float(np.mean([100 * (one[:, 0].sum() / one[:, 1].sum() - 1) for one in pairs]))
    drawn = resampled([np.stack([one[:, 0], one[:, 1]]) for one in pairs])
    low, high = np.percentile(drawn, [2.5, 97.5])
    return value, float(low), float(high)


def resampled(pairs: list[np.ndarray], seed: int = 0) -> np.ndarray:
    """Means over resampled seeds of 100 · (sum/sum − 1) over resampled days, (DRAWS,); ``pairs``: per seed (2, days)."""
    generator = numpy_generator(seed, "table4")
    of_days = np.stack(
        [
            100 * (sums[0] / sums[1] - 1)
            for one in pairs
            for sums in [one[:, generator.integers(one.shape[1], size=(DRAWS, one.shape[1]))].sum(axis=2)]
        ]
    )  # (seeds, DRAWS)
    chosen = generator.integers(len(pairs), size=(len(pairs), DRAWS))
    return np.asarray(np.take_along_axis(of_days, chosen, axis=0).mean(axis=0))


def table4(world: str, daily: Daily, measured: Daily, config: Orchestration) -> pd.DataFrame:
    """One row per strategy; ``ci_low`` and ``ci_high`` belong to the uplift over ``blind``."""
    day, rows = config.day, []
    everything = pd.concat(measured.values())
    for name in day.strategies:
        over = {rival: uplift(daily, name, rival) for rival in (day.baseline, day.hourly, day.blind)}
        mine = everything[everything["strategy"] == name]
        _, low, high = over[day.blind]
        equal = [uplift_at_equal_cpu(one, name, day.blind) for one in measured.values()]
        rows.append(
            {
                "world": world,
                "strategy": name,
                "uplift_over_static_pct": over[day.baseline][0],
                "uplift_over_hourly_pct": over[day.hourly][0],
                "uplift_over_blind_pct": over[day.blind][0],
                "ci_low": low,
                "ci_high": high,
                "mu": mine["mu"].mean(),
                "nu": mine["nu"].mean(),
                "oracle_share_pct": oracle_share(daily, name, day.blind, day.oracle),
                "static_ci_low": over[day.baseline][1],
                "static_ci_high": over[day.baseline][2],
                "hourly_ci_low": over[day.hourly][1],
                "hourly_ci_high": over[day.hourly][2],
                "uplift_over_blind_equal_cpu_pct": np.mean([np.nan if one is None else one for one in equal]),
                "paper_uplift_over_static_pct": PAPER.get(name, np.nan),
            }
        )
    return pd.DataFrame(rows)


def oracle_share(daily: Daily, name: str, blind: str | None, oracle: str | None) -> float:
    """Mean over seeds of the share of the oracle's lead over ``blind``, percent."""
    if blind is None or oracle is None or any(one not in t for t in daily.values() for one in (name, blind, oracle)):
        return float("nan")
    sums = [table.sum() for table in daily.values()]
    return 100 * float(np.mean([(one[name] - one[blind]) / (one[oracle] - one[blind]) for one in sums]))


def leads_of(world: str, daily: Daily, config: Orchestration) -> pd.DataFrame:
    """How far awrq_plus is ahead of every other strategy that knows no truth, and how far every learner is ahead of ``blind``."""
    knows = {name for name, one in config.day.strategies.items() if (d := one.decider("")) and d.values == "truth"}
    learned = [name for name in config.day.strategies if name not in knows]
    pairs = [(name, rival) for name in OURS for rival in learned if rival not in OURS and name in learned]
    rows = [(world, name, rival, *uplift(daily, name, rival)) for name, rival in pairs]
    return pd.DataFrame(rows, columns=["world", "strategy", "rival", "ahead_pct", "ci_low", "ci_high"])


def by_week(world: str, measured: Daily) -> pd.DataFrame:
    """All measures per strategy, seed and week: counts and money summed, shares averaged."""
    table = pd.concat(
        [one.assign(world=world, world_seed=seed, week=one["day"] // 7) for seed, one in measured.items()]
    )
    means = ["mu", "nu", "cpu_mean", "price", "price_moves"]
    sums = [name for name in table if name in ("revenue", "spend", "gmv", "clicks", "impressions", "timeouts", "requests",
                                               "core_ms", "degraded_minutes")]  # fmt: skip
    grouped = table.groupby(["world", "strategy", "world_seed", "week"], sort=False)
    found = pd.concat([grouped[sums].sum(), grouped[means].mean()], axis=1).reset_index()
    return found.assign(ctr=found["clicks"] / found["impressions"], roi=found["gmv"] / found["spend"])


def waterfall(daily: Daily, config: Orchestration) -> pd.DataFrame:
    """The steps from the baseline to the bound: means over seeds of gains in points of the baseline's revenue."""
    base, before, rows = config.day.baseline, config.day.baseline, []
    first = config.day.strategies[base].label or base
    for step, name in {first: base, **config.day.attribution}.items():
        if any(name not in table for table in daily.values()):
            continue
        gains = [np.stack([t[base] + t[name] - t[before], t[base]]) for t in daily.values()]
        low, high = np.percentile(resampled(gains), [2.5, 97.5])
        points = float(np.mean([100 * (one[0].sum() / one[1].sum() - 1) for one in gains]))
        rows.append((step, name, uplift(daily, name, base)[0], points, float(low), float(high)))
        before = name
    return pd.DataFrame(rows, columns=["step", "strategy", "uplift_pct", "gain_points", "ci_low", "ci_high"])


if __name__ == "__main__":
    main()
