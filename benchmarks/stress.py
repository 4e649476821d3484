"""Logs that a learner was not made for: `python -m benchmarks.stress [--seeds N] [--quick]`.

Each condition changes the base world's log, never its truth: another side column than the world's good one, hardly any
exploration, few rows, states of which none comes back. Rivals get the same columns. Writes `stress_runs.csv` (a row per
condition, learner and seed, written as soon as it is there) and `stress.csv`: means over evaluation seeds with standard
errors, how far `awrq_plus` is ahead seed by seed, and what it says of the condition (`warned`). `stress.md` and `stress.png` show them.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._learners import Job, judge, make_world, train_job, world_folder
from benchmarks._results import KEPT, SCRATCH, add_keep
from benchmarks.paper_tables import _one_thread
from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from cascade_world.world import load_truth
from marca_common.config import load_config
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.files import write_text
from marca_common.requests import RequestSpec
from marca_common.run_folder import versions
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table

RUNS, SIDE = "stress_runs.csv", "predicted_value"
LEARNERS = [
    "awrq_plus",
    "latent_classes",
    "low_rank",
    "regression_surrogate",
    "lightgbm_surrogate",
    "profile_estimated",
]
Edit = Callable[[pd.DataFrame, RequestSpec, np.random.Generator], pd.DataFrame]


def as_it_is(log: pd.DataFrame, spec: RequestSpec, rng: np.random.Generator) -> pd.DataFrame:
    """The log."""
    return log


def sparse(log: pd.DataFrame, spec: RequestSpec, rng: np.random.Generator) -> pd.DataFrame:
    """The side column is lost in four of five rows: it says 0."""
    return log.assign(**{SIDE: log[SIDE].where(rng.random(len(log)) < 0.2, 0.0)})


def wrong(log: pd.DataFrame, spec: RequestSpec, rng: np.random.Generator) -> pd.DataFrame:
    """The side column is wrong by a factor per pair of sub-actions, sd .5 of the logarithm over joint actions."""
    joint, sizes = spec.joint_table(), spec.shape
    error = np.zeros(len(joint))
    for i, j in itertools.combinations(range(len(sizes)), 2):
        error += rng.standard_normal((sizes[i], sizes[j]))[joint[:, i], joint[:, j]]
    error *= 0.5 / error.std()
    return log.assign(**{SIDE: log[SIDE] * np.exp(error[spec.joint_index(log)])})


def unique(log: pd.DataFrame, spec: RequestSpec, rng: np.random.Generator) -> pd.DataFrame:
    """One more state column, a session that never comes back."""
    return log.assign(session=rng.permutation(len(log)).astype(str))


@dataclass(frozen=True)
class Condition:
    """How a log differs from the base world's."""

    title: str
    edit: Edit = as_it_is
    side: str = SIDE
    world: dict[str, float] = field(default_factory=dict)  # overrides of the world's config
    rows: int | None = None  # only the latest
    session: bool = False  # is there a column `session`, and a memory of all columns?

    def overrides(self, learner: str) -> list[str]:
        """Overrides of a learner's training config."""
        found = [f"max_rows={self.rows}"] if self.rows else []
        if learner == "awrq_plus":
            found.append(f"stack.side_columns=[{self.side}]")
            return found + (["stack.history=null"] if self.session else [])
        found += [f"plus.surrogate={self.side}"] if learner not in ("profile_estimated", "glm") else []
        return found + (["plus.history=null"] if self.session else [])


CONDITIONS = {
    "as_it_is": Condition("the log as it is"),
    "side_is_clicks": Condition("clicks as the side column", side="clicks"),
    "side_80_percent_zeros": Condition("side column lost in 80 % of rows", edit=sparse),
    "side_wrong_by_pairs": Condition("side column wrong by pairs, sd .5", edit=wrong),
    "exploration_5_percent": Condition("exploration 5 %", world={"logs.exploration": 0.05}),
    "30000_rows": Condition("30,000 rows", rows=30_000),
    "every_state_unique": Condition("every state unique", edit=unique, session=True),
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102, 103, 104], help="worlds and training")
    parser.add_argument("--conditions", nargs="*", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--learners", nargs="*", default=LEARNERS)
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--quick", action="store_true", help="small world, one seed, two conditions, two learners")
    add_keep(parser)
    arguments = parser.parse_args()
    world, rows, epochs = "configs/cascade_world/base.yaml", 300_000, None
    if arguments.quick:
        world, rows, epochs = "configs/cascade_world/small.yaml", 20_000, 1.0
        arguments.seeds, arguments.conditions = [0], ["side_80_percent_zeros", "every_state_unique"]
        arguments.learners = ["latent_classes", "regression_surrogate"]
    folder = Path("runs/benchmarks/learners")
    asked = [
        (condition, Job(learner, world, seed, rows, epochs, folder))
        for seed in arguments.seeds
        for condition in arguments.conditions
        for learner in arguments.learners
    ]
    suffix = "_quick" if arguments.quick else ""
    runs = run_missing(asked, arguments.workers, arguments.results, suffix)
    table = summarise(runs)
    write_table(table, arguments.results / f"stress{suffix}.csv")
    write_text(arguments.results / f"stress{suffix}.md", markdown(table))
    draw(table, arguments.results / f"stress{suffix}.png")
    print(markdown(table))


def run_missing(asked: list[tuple[str, Job]], workers: int, results: Path, suffix: str) -> pd.DataFrame:
    """The asked rows; those not there yet are run, and written as soon as they are there."""
    name = f"{Path(RUNS).stem}{suffix}.csv"
    found = [
        pd.read_csv(folder / name) for folder in dict.fromkeys((KEPT, SCRATCH, results)) if (folder / name).exists()
    ]
    keys = ["condition", "learner", "seed"]
    runs = pd.concat(found, ignore_index=True).drop_duplicates(keys) if found else pd.DataFrame(columns=keys)
    done = set(map(tuple, runs[keys].to_numpy()))
    missing = [(condition, job) for condition, job in asked if (condition, job.learner, job.seed) not in done]
    print(f"{len(asked) - len(missing)} of {len(asked)} runs are there already")
    logs = {(condition, job.seed): (condition, job) for condition, job in missing}.values()
    with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
        list(pool.map(make_world, {job.seed: job for _, job in logs}.values()))
        list(pool.map(make_log, *zip(*logs)) if logs else [])
        waiting = [pool.submit(run_one, condition, job) for condition, job in missing]
        try:
            for future in as_completed(waiting):
                runs = pd.concat([runs, pd.DataFrame([future.result()])], ignore_index=True)
                write_table(runs, results / name)
                print({key: runs.iloc[-1][key] for key in (*keys, "spearman_within", "capture")}, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the rest would run for hours, and be lost
            raise
    wanted = {(condition, job.learner, job.seed) for condition, job in asked}
    return runs[[key in wanted for key in map(tuple, runs[keys].to_numpy())]]


def run_one(condition: str, job: Job) -> dict[str, Any]:
    """One learner under one condition: a row of the runs."""
    folder, requests = make_log(condition, job)
    truth = load_truth(folder)
    spec = truth.request_spec()
    if CONDITIONS[condition].session:
        spec = spec.model_copy(update={"state": {**spec.state, "session": "category"}})
    config, result = train_job(job, requests, spec, CONDITIONS[condition].overrides(job.learner))
    return (
        {"condition": condition, "learner": job.learner, "seed": job.seed, "rows": job.rows}
        | judge(job, config, result.model, truth)
        | {"warned": "; ".join(result.warnings), "train_s": result.summary["train_s"], "torch": versions()["torch"]}
    )


def make_log(condition: str, job: Job) -> tuple[Path, Path]:
    """Folder of the condition's world, and its log; made where absent."""
    one = CONDITIONS[condition]
    folder = world_folder(job) if not one.world else Path(f"{world_folder(job)}_{condition}")
    if one.world and not (folder / "summary.json").exists():
        overrides = {"seed": job.seed, "logs.requests": job.rows, "logs.system_days": 1, "workers": 1, **one.world}
        generate(load_config(WorldConfig, job.world, [f"{key}={value}" for key, value in overrides.items()]), folder)
    elif not one.world:
        make_world(job)
    requests = folder / "logs/requests.parquet"
    if one.edit is as_it_is:
        return folder, requests
    path = folder / f"{condition}.parquet"
    if not path.exists():
        edited = one.edit(
            pd.read_parquet(requests), load_truth(folder).request_spec(), numpy_generator(job.seed, condition)
        )
        write_table(edited, path)
    return folder, path


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per condition and learner: means over seeds, standard errors, awrq_plus' lead seed by seed, warnings."""
    rows = []
    for (condition, learner), group in runs.groupby(["condition", "learner"], sort=False):
        ours = runs[(runs["condition"] == condition) & (runs["learner"] == "awrq_plus")].set_index("seed")["capture"]
        lead = (ours - group.set_index("seed")["capture"]).dropna()
        rows.append(
            {
                "condition": condition,
                "learner": learner,
                "seeds": len(group),
                "within": group["spearman_within"].mean(),
                "capture": group["capture"].mean(),
                "capture_se": group["capture"].sem(),
                "least_capture": group[[c for c in group if c.startswith("capture_0")]].min(axis=None),
                "awrq_plus_ahead": lead.mean(),
                "awrq_plus_ahead_se": lead.sem(),
                "warned": "; ".join(
                    sorted({one for text in group["warned"].astype(object).fillna("") for one in [text] if one})
                ),
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Capture by condition and learner, ± standard error over seeds; rivals with awrq_plus' lead seed by seed."""
    learners = sorted(dict.fromkeys(table["learner"]), key=lambda name: name != "awrq_plus")
    lines = ["| | " + " | ".join(f"`{name}`" for name in learners) + " |", "|---" * (len(learners) + 1) + "|"]
    for condition, one in CONDITIONS.items():
        rows = table[table["condition"] == condition].set_index("learner")
        cells = [_cell(rows.loc[name]) if name in rows.index else "" for name in learners]
        lines += ["| " + " | ".join([one.title, *cells]) + " |"] if len(rows) else []
    return "\n".join(lines) + "\n"


def _cell(row: pd.Series) -> str:
    """Capture; of a rival also how far awrq_plus is ahead."""
    error = "" if pd.isna(row["capture_se"]) else f" ± {_short(row['capture_se'])}"
    lead = f" ({_short(row['awrq_plus_ahead'], '+')} ± {_short(row['awrq_plus_ahead_se'])})"
    rival = row.name != "awrq_plus" and not pd.isna(row["awrq_plus_ahead_se"])
    return f"{_short(row['capture'])}{error}{lead if rival else ''}"


def _short(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.2f").replace("0.", ".", 1) if abs(value) < 1 else format(value, f"{sign}.2f")


def draw(table: pd.DataFrame, path: Path) -> None:
    """A row per condition, a mark per learner; what lies left of the axis stands at its end."""
    left, learners = -0.75, sorted(dict.fromkeys(table["learner"]), key=lambda name: name != "awrq_plus")
    conditions = [name for name in CONDITIONS if name in set(table["condition"])]
    figure, axis = new_figure(width=9.0, height=1.4 + 0.75 * len(conditions))
    for number, learner in enumerate(learners):
        rows = table[table["learner"] == learner].set_index("condition").reindex(conditions)
        places = np.arange(len(conditions))[::-1] + 0.1 * (len(learners) / 2 - number)
        out, ours = rows["capture"] < left, learner == "awrq_plus"
        look = {"color": COLORS[number % len(COLORS)], "markersize": 7 if ours else 5, "linestyle": "none"}
        inside = rows["capture"].mask(out)
        axis.errorbar(
            inside, places, xerr=rows["capture_se"].fillna(0), fmt="D" if ours else "o", label=learner, **look
        )
        axis.plot(np.where(out, left, np.nan), places, "<", **look)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(np.arange(len(conditions))[::-1], [CONDITIONS[one].title for one in conditions])
    axis.set_xlim(left - 0.05, 1)
    axis.set_xlabel("capture, mean of five budgets ± standard error over seeds; a triangle lies further left")
    figure.suptitle("What learners make of logs that they were not made for")
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
