"""Every learner of the tables gets the same number of settings to choose from: `python -m benchmarks.tune_learners`.

Development worlds (base, 300,000 requests, seeds 0 to `--seeds` − 1), a run for each setting and seed. The best mean of the validation
metric is chosen (`shape_gain`, revenue of the log; no truth) where seeds can tell it from the config's own setting, else the latter. All runs and the choice stand in `tuning.csv`; `paper_tables`
takes the settings chosen in the stored one. A learner that was tuned on fewer seeds so far is continued, not begun again.
Rows are written as they end, and a stopped command goes on. `--quick`: two learners, two settings, the small world, no file.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks._learners import LEARNERS, TUNING, VARIANT_OF, Job, make_world, train_job, world_folder
from benchmarks._results import add_keep
from benchmarks.paper_tables import _one_thread
from cascade_world.world import load_truth
from marca_common.run_folder import versions
from marca_common.tables import write_table

RATES = ["optimiser.lr=0.001", "", "optimiser.lr=0.01"]
NETWORK = [*RATES, "network.dropout=0.1", "optimiser.lr=0.01 network.dropout=0.1"]
RECURRENT = [*RATES, "network.hidden=128", "optimiser.lr=0.0003"]  # have no layers that dropout could touch
LONGER = [*RATES, "optimiser.lr=0.01 network.dropout=0.1 epochs=8", "optimiser.lr=0.02"]
TREES = ["boost.leaves=15", "boost.leaves=31", "", "boost.leaves=255", "boost.lr=0.02"]
SETTINGS: dict[str, list[str]] = {
    **{name: RECURRENT for name in ("drqn", "vdn", "wqmix", "qmix", "awrq_mixer", "awrq_residual")},
    "awrq_residual_surrogate": [
        "optimiser.lr=0.01 td.head_loss_weight=0.1",
        "optimiser.lr=0.01 td.head_loss_weight=0.1 epochs=6",
        "optimiser.lr=0.01 td.head_loss_weight=0.1 epochs=6 network.trunk_layers=[64]",
        "td.head_loss_weight=0.1 epochs=6 network.trunk_layers=[64]",
        "optimiser.lr=0.01 epochs=6 network.trunk_layers=[64]",
    ],
    **{name: LONGER for name in ("regression", "regression_surrogate")},
    **{name: TREES for name in ("lightgbm", "lightgbm_surrogate", "lightgbm_history")},
    "glm": [
        "optimiser.lr=0.01",
        "",
        "optimiser.lr=0.03",
        "optimiser.lr=0.01 optimiser.weight_decay=0.3",
        "optimiser.lr=0.03 optimiser.weight_decay=0.3",
    ],
    "neural_process": [*RATES, "network.dropout=0.1 epochs=12", "network.hidden=128"],
    "low_rank": ["optimiser.lr=0.01", "", "plus.rank=8", "plus.rank=16", "network.dropout=0.2"],
    "awrq_plus": [""],  # its members are tuned
    "latent_classes": ["optimiser.lr=0.01", "", "plus.classes=128", "plus.rank=5", "network.dropout=0.2"],
}
TUNED = [name for name in LEARNERS if name not in VARIANT_OF]
COLUMNS = ["learner", "setting", "validation_shape_gain", "train_s", "chosen", "world", "seed", "rows", "torch"]


def main() -> None:
    """Run what is missing, then mark the best setting of each learner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two learners, two settings, small world, nothing kept")
    parser.add_argument("--learners", nargs="*", help="only these; default: every learner that is tuned")
    parser.add_argument("--seeds", type=int, default=5, help="development worlds, seeds 0, 1, …")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    add_keep(parser)
    arguments = parser.parse_args()
    world, rows = ("small", 20_000) if arguments.quick else ("base", 300_000)
    names = ["dqn", "latent_classes"] if arguments.quick else arguments.learners or TUNED
    folder = Path("runs/benchmarks/learners")
    jobs = [
        Job(name, f"configs/cascade_world/{world}.yaml", seed, rows, None, folder, tuple(setting.split()))
        for seed in range(1 if arguments.quick else arguments.seeds)
        for name in names
        for setting in SETTINGS.get(name, NETWORK)[: 2 if arguments.quick else None]
    ]
    known = pd.read_csv(TUNING, keep_default_na=False) if TUNING.exists() and not arguments.quick else pd.DataFrame()
    done = set(zip(known["learner"], known["setting"], known["seed"])) if len(known) else set()
    missing = [job for job in jobs if (job.learner, " ".join(job.setting or ()), job.seed) not in done]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are there already")
    for job in {job.seed: job for job in missing}.values():
        make_world(job)
    records = known.to_dict("records")
    with ProcessPoolExecutor(arguments.workers, initializer=_one_thread) as pool:
        waiting = {pool.submit(try_setting, job): job for job in missing}
        for future in as_completed(waiting):
            records.append(future.result())
            print({name: records[-1][name] for name in COLUMNS[:4]}, flush=True)
            if not arguments.quick:
                write_table(choose(records, TUNED), arguments.results / TUNING.name)
    print(choose(records, TUNED)[COLUMNS[:5]].to_string(index=False))


def try_setting(job: Job) -> dict[str, object]:
    """Train once; the row of the tuning table."""
    folder = world_folder(job)
    _, result = train_job(job, folder / "logs/requests.parquet", load_truth(folder).request_spec())
    return {
        "learner": job.learner,
        "setting": " ".join(job.setting or ()),
        "validation_shape_gain": result.summary["validation_shape_gain"],
        "train_s": result.summary["train_s"],
        "chosen": 0,
        "world": Path(job.world).stem,
        "seed": job.seed,
        "rows": job.rows,
        "torch": versions()["torch"],
    }


def choose(records: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    """The table in the learners' order, the chosen setting of each marked in all its rows.

    That is the one with the highest mean of the validation metric over the seeds that every setting of the learner was run
    on. But the config's own, the empty setting, stays unless the lead over it is more than one standard error, seed by
    seed. While there is no seed that all have, nothing is marked.
    """
    table = pd.DataFrame(records)
    table["chosen"] = 0
    for name, mine in table.groupby("learner"):
        by_seed = mine.pivot_table("validation_shape_gain", "setting", "seed").dropna(axis=1)
        if by_seed.shape[1]:
            best = by_seed.mean(axis=1).idxmax()
            if "" in by_seed.index and by_seed.shape[1] > 1:
                lead = by_seed.loc[best] - by_seed.loc[""]
                best = best if lead.mean() > lead.sem() else ""
            table.loc[(table["learner"] == name) & (table["setting"] == best), "chosen"] = 1
    return table.sort_values("learner", key=lambda column: column.map(names.index), kind="stable", ignore_index=True)


if __name__ == "__main__":
    main()
