"""What a learner's capture lacks: its levels, its mean profile or its departures? `python -m benchmarks.capture_parts`.

A learned log Q is the level of a state + the log profile of actions + a departure of this state from both. Here the truth
takes the place of one or two of them, and capture is judged again, on development worlds (seeds 0, 1, …). `true_level_profile` is
what the departures alone do; beside it `no_departures` is the truth's level × the truth's profile. `departure_r` is the correlation of learned
and true departures; `profile_error` the sd over joint actions of log(mean learned / mean true value). Rows go to `capture_parts.csv`; a learner that was trained before is read back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from awrq_mixer.evaluate import evaluate_scores
from benchmarks._learners import BUDGETS, Job, make_world, sample_states, train_job, world_folder
from benchmarks._references import REFERENCES
from benchmarks._results import add_keep
from cascade_world.world import load_truth
from marca_common.tables import write_table

NAMES = ["glm", "qmix", "awrq_mixer", "awrq_residual", "regression", "regression_surrogate", "awrq_residual_surrogate"]


def main() -> None:
    """Train what is missing, judge, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="*", default=NAMES)
    parser.add_argument("--world", default="configs/cascade_world/base.yaml", help="config of the world")
    parser.add_argument("--rows", type=int, default=300_000, help="requests in the log")
    parser.add_argument("--seeds", type=int, default=2, help="development seeds 0, 1, …")
    add_keep(parser)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        for name in arguments.learners:
            job = Job(name, arguments.world, seed, arguments.rows, None, Path("runs/benchmarks/learners"))
            rows.append({"learner": name, "world": Path(arguments.world).stem, "seed": seed, **parts_of(job)})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    write_table(table, arguments.results / "capture_parts.csv")
    print(table.drop(columns=["world", "seed"]).groupby("learner", sort=False).mean().round(3).to_string())


def parts_of(job: Job) -> dict[str, float]:
    """Capture of the job's learner with parts of the truth in place of its own."""
    make_world(job)
    truth = load_truth(world_folder(job))
    config, result = train_job(job, world_folder(job) / "logs/requests.parquet", truth.request_spec())
    states, counts, _ = sample_states(config.spec, config, job.seed)
    value, cost, weight = truth.values(states), truth.costs(states), counts / counts.sum()
    scores_of = REFERENCES.get(job.learner)
    scores = scores_of(result.model, states, value, counts) if scores_of else result.model.values(states)
    learned = np.maximum(scores.astype(np.float64), 1e-9)
    levelled = learned * (value.mean(1) / learned.mean(1))[:, None]
    own, true = departures(learned, weight), departures(value, weight)
    tried = {
        "capture": learned,
        "true_level": levelled,
        "true_profile": with_profile(learned, value, weight),
        "true_level_profile": with_profile(levelled, value, weight),
        "no_departures": value.mean(1)[:, None] * (weight @ value),
    }
    judged = {name: evaluate_scores(one, value, cost, counts, BUDGETS) for name, one in tried.items()}
    found = {name: float(one["capture"]) for name, one in judged.items()}
    spread = (_mean(own * own, weight) * _mean(true * true, weight)) ** 0.5
    return found | {
        "spearman_within": float(judged["capture"]["spearman_within"]),
        "departure_r": _mean(own * true, weight) / spread if spread > 0 else 0.0,
        "profile_error": float(np.log((weight @ learned) / (weight @ value)).std()),
    }


def with_profile(scores: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Scores (S, A) whose mean over states, weighted by ``weight`` (S,), is that of ``value`` (S, A)."""
    return np.asarray(scores * ((weight @ value) / (weight @ scores)))


def departures(scores: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Log scores (S, A) less each state's mean and each action's."""
    logs = np.log(scores)
    shape = logs - logs.mean(axis=1, keepdims=True)
    return np.asarray(shape - weight @ shape)


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    return float((weight @ values).mean())


if __name__ == "__main__":
    main()
