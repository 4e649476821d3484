"""Which measure on held-out rows ranks learners as their true capture does? `python -m benchmarks.validation_power [--quick] [--keep]`.

Development worlds only (seeds 0-99). On each, learners of different quality are trained; every measure looks at the validation
rows, and capture is counted in the truth on the test states. `validation_power.csv` has a row per world and measure:

- `spearman`, `kendall`: of the measure's ranks with capture's, over the learners of a seed; mean and standard error over seeds.
- `right`: share of pairs of learners in capture's order. `told`: share of pairs that differ by more than two standard errors of their
  difference. `told_right`: share of those in capture's order.
- `regret`: capture lost by taking the measure's best learner. `regret_choose`: by `choose`, which takes the simplest of those that
  the measure cannot tell from its best.

`validation_power_learners.csv` holds every learner's measures and capture. Worlds that are done are reused.
`--quick`: two small worlds, three learners, nothing kept.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, spearmanr

from awrq_mixer.anchoring.global_profile import estimate_profile, result_columns
from awrq_mixer.config import TrainConfig
from awrq_mixer.judging.measured import Measured, choose
from awrq_mixer.train import TrainResult
from awrq_mixer.training.training_log import read_by_time
from benchmarks._learners import BUDGETS, Job, make_world, sample_states, train_job, world_folder
from benchmarks._results import add_keep
from benchmarks._validation_measures import MEASURES, HeldOut, Seen
from benchmarks.paper_tables import _one_thread
from cascade_world.records.logging_policies import LoggingPolicy
from cascade_world.world import Truth, load_truth
from marca_common.figures import new_figure, save_figure
from marca_common.requests import RequestSpec
from marca_common.tables import Column, write_table
from marca_measures.frontier import capture_curve

LEARNERS = [  # simplest first
    "regression", "lightgbm", "qmix", "awrq_mixer", "regression_surrogate", "lightgbm_surrogate",
    "latent_one_class", "latent_no_history", "latent_classes",
]  # fmt: skip
SIDE = ["predicted_value", "clicks"]
WORLDS = ["base", "three_stage", "manifold"]
STATES = 4000  # states that costs and capture are averaged over
TOLD = 2.0  # standard errors


def main() -> None:
    """Run what is missing, write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small worlds, three learners")
    parser.add_argument("--worlds", nargs="*", default=WORLDS, help="configs of cascade_world")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="development seeds, 0-99")
    parser.add_argument("--rows", type=int, default=300_000, help="requests of a world")
    parser.add_argument("--learners", nargs="*", default=LEARNERS, help="simplest first")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    add_keep(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.worlds, arguments.seeds, arguments.rows = ["small"], [0, 1], 20_000
        arguments.learners = ["regression", "qmix", "latent_one_class"]
    if any(not 0 <= seed < 100 for seed in arguments.seeds):
        parser.error("--seeds: worlds above 99 are for evaluation; nothing is chosen on them")
    folder = Path("runs/benchmarks/validation_power")
    epochs = 0.5 if arguments.quick else None
    jobs = [
        Job("", f"configs/cascade_world/{world}.yaml", seed, arguments.rows, epochs, folder)
        for world in arguments.worlds
        for seed in arguments.seeds
    ]
    with ProcessPoolExecutor(arguments.workers, initializer=_one_thread) as pool:
        found = pool.map(partial(one_world, learners=arguments.learners), jobs)
        learners, pairs = (pd.concat(parts, ignore_index=True) for parts in zip(*found))
    table = power(learners, pairs)
    name = f"validation_power{'_quick' if arguments.quick else ''}"
    write_table(table, arguments.results / f"{name}.csv")
    write_table(learners, arguments.results / f"{name}_learners.csv")
    draw(table, arguments.results / f"{name}.png")
    print(table.round(3).to_string(index=False))
    print(f"written to {arguments.results / name}.csv")


def one_world(job: Job, learners: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Learners' measures and capture on one world, and the differences of all pairs; kept in a file each."""
    make_world(job)
    truth = load_truth(world_folder(job))
    spec = truth.request_spec()
    held, judges = None, None
    parts = []
    for name in learners:
        setting = ("plus.members=1",) if name.startswith("latent_") else None  # one member: half the time
        mine = replace(job, learner=name, setting=setting)
        path = job.folder / "measured" / f"{world_folder(job).name}_{name}_{job.epochs or 'own'}.pkl"
        if not path.exists():
            config, result = train_job(mine, world_folder(job) / "logs/requests.parquet", spec)
            held = held or held_out(config, truth, spec)
            judges = judges or judged_states(config, truth, spec, job.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            pd.to_pickle(one_learner(result, held, judges), path)
        parts.append(pd.read_pickle(path))
    labels = {"world": Path(job.world).stem, "seed": job.seed}
    return records(dict(zip(learners, parts)), labels)


def held_out(config: TrainConfig, truth: Truth, spec: RequestSpec) -> HeldOut:
    """The validation rows of a log, the profile of its training rows, and costs as load tests would give them."""
    side = [Column(name, "float", 0) for name in SIDE]
    train, rows, _ = read_by_time(config.requests, config, [*side, *result_columns(spec)])
    rows = rows.reset_index(drop=True)
    states, _, counts = spec.distinct_states(rows.iloc[:STATES])
    cost = np.average(truth.costs(states).sum(2), axis=0, weights=counts)
    profile = estimate_profile(train, spec, SIDE[0])
    return HeldOut(rows, spec, profile, cost, sub_propensities(truth, rows, spec), SIDE)


def sub_propensities(truth: Truth, rows: pd.DataFrame, spec: RequestSpec) -> np.ndarray:
    """Propensity of each logged sub-action, (M, sub-actions): each is explored on its own."""
    policy, population = LoggingPolicy(truth.world), truth.world.population
    rule = policy.rule(population.codes(rows[list(spec.state)]))
    same = rows[list(spec.sub_actions)].to_numpy() == rule
    found = policy.exploration / np.array(spec.shape) + (1 - policy.exploration) * same
    assert np.allclose(found.prod(axis=1), rows[spec.propensity or ""])
    return np.asarray(found)


def judged_states(
    config: TrainConfig, truth: Truth, spec: RequestSpec, seed: int
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Test states, their requests, true values (S, A) and costs (S, A)."""
    states, counts, _ = sample_states(spec, config, seed, STATES)
    return states, counts, truth.values(states), truth.costs(states).sum(2)


def one_learner(
    result: TrainResult, held: HeldOut, judges: tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]
) -> tuple[float, dict[str, Measured]]:
    """Capture, and every measure."""
    states, counts, value, cost = judges
    curve = capture_curve(result.model.values(states), cost, value, counts, BUDGETS)
    seen = Seen.of(held, result.model.values)
    return float(np.mean([row["capture"] for row in curve])), {name: take(seen) for name, take in MEASURES.items()}


def records(
    parts: dict[str, tuple[float, dict[str, Measured]]], labels: dict[str, object]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per learner and measure; a row per measure and pair of learners, and what ``choose`` takes in the first."""
    singles, pairs = [], []
    for measure in MEASURES:
        measured = {name: one[measure] for name, (_, one) in parts.items()}
        chosen = choose(measured)
        for name, (capture, _) in parts.items():
            one = measured[name]
            row = {"learner": name, "measure": measure, "value": one.value, "error": one.error, "capture": capture}
            singles.append(labels | row | {"chosen": int(name == chosen)})
        for (a, (capture_a, _)), (b, (capture_b, _)) in combinations(parts.items(), 2):
            gap = measured[a].minus(measured[b])
            row = {"measure": measure, "gap": gap.value, "error": gap.error, "capture_gap": capture_a - capture_b}
            pairs.append(labels | row)
    return pd.DataFrame(singles), pd.DataFrame(pairs)


def power(learners: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """A row per world and measure: means over seeds, and the standard errors of the first ones."""
    rows = []
    for (world, measure), part in learners.groupby(["world", "measure"], sort=False):
        mine = pairs[(pairs["world"] == world) & (pairs["measure"] == measure)]
        seeds = [one_seed(one, mine[mine["seed"] == seed]) for seed, one in part.groupby("seed")]
        table = pd.DataFrame(seeds)
        row = {"world": world, "measure": measure, "seeds": len(table)}
        for name in ("spearman", "kendall", "right", "told", "regret", "regret_choose"):
            row |= {name: table[name].mean(), f"{name}_se": table[name].sem() if len(table) > 1 else np.nan}
        told = mine[told_apart(mine)]
        rows.append(row | {"told_right": in_order(told).mean() if len(told) else np.nan})
    return pd.DataFrame(rows)


def one_seed(learners: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, float]:
    """How a measure ranks the learners of one world and seed."""
    value, capture = learners["value"].to_numpy(), learners["capture"].to_numpy()
    return {
        "spearman": float(spearmanr(value, capture)[0]),
        "kendall": float(kendalltau(value, capture)[0]),
        "right": float(in_order(pairs).mean()),
        "told": float(told_apart(pairs).mean()),
        "regret": float(capture.max() - capture[value.argmax()]),
        "regret_choose": float(capture.max() - capture[learners["chosen"].to_numpy().argmax()]),
    }


def told_apart(pairs: pd.DataFrame) -> pd.Series[bool]:
    """Pairs that the measure itself calls different."""
    return pairs["gap"].abs() > TOLD * pairs["error"]


def in_order(pairs: pd.DataFrame) -> pd.Series[bool]:
    """Pairs that the measure orders as capture does."""
    return pairs["gap"] * pairs["capture_gap"] > 0


def draw(table: pd.DataFrame, path: Path) -> None:
    """A row per measure, a colour per world: rank correlation with capture, and capture lost by the measure's best learner."""
    measures, worlds = list(dict.fromkeys(table["measure"])), list(dict.fromkeys(table["world"]))
    panels = {
        "spearman": "rank correlation with capture",
        "regret": "capture lost by taking the measure's best learner",
    }
    figure, axes = new_figure(1, len(panels), width=9.6, height=1.6 + 0.3 * len(measures), sharey=True)
    places = np.arange(len(measures))[::-1]
    for axis, (column, label) in zip(axes, panels.items()):
        for number, world in enumerate(worlds):
            mine = table[table["world"] == world].set_index("measure").loc[measures]
            shifted = places + 0.2 * ((len(worlds) - 1) / 2 - number)
            axis.errorbar(mine[column], shifted, xerr=mine[f"{column}_se"], fmt="o", ms=4, capsize=2, label=world)
        axis.set_xlabel(label)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_yticks(places, measures)
    axes[0].legend()
    figure.suptitle(
        f"Measures on held-out rows: mean ± SE over {int(table['seeds'].max())} development worlds of a kind"
    )
    save_figure(figure, path)


if __name__ == "__main__":
    main()
