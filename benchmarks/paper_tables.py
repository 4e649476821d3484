"""The paper's learner tables on the open world: `python -m benchmarks.paper_tables --table 1|2|aw|gamma|heads|head_loss|precision|tau`.

Every learner × seed is one row of `learner_runs.csv`, written when it ends; a stopped command goes on from there.
`--quick`: the small world and two seeds, minutes. Default (the *reduced* configuration): base world, 300,000 requests, seeds
100–104. `--rows 1000000` is the full one. Tables are mean ± sd over seeds; the paper's figures stand beside, as the paper's. How far
the reference (`awrq_plus`, else `awrq_mixer`) is ahead of a row is a mean over seeds of differences, with its standard error.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._learners import BUDGETS, PAPER, TABLES, Job, make_world, run_job
from benchmarks._results import KEPT, SCRATCH, add_keep
from marca_common.compute import set_threads
from marca_common.figures import new_figure, save_figure
from marca_common.files import write_text
from marca_common.run_folder import versions
from marca_common.tables import write_table

RUNS = "learner_runs.csv"
KEYS = ["learner", "world", "seed", "rows", "epochs"]
COLUMNS = {
    "spearman": "spearman",
    "spearman_within": "spearman_within",
    "capture": "capture",
    **{f"capture_{number}": f"capture_{share}" for number, share in enumerate(BUDGETS, start=1)},
    "return_pct": "return_pct_greedy",
    "return_pct_optimal": "return_pct_optimal",
    "regret": "regret",
    "samples_to_95": "samples_to_95_percent",
    "gradient_variance": "gradient_variance",
    "train_s": "train_s",
}
LEADS = {
    "spearman_within": "r_s within states",
    "capture": "capture, mean of five budgets",
    "return_pct": "Return%, greedy transport",
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=list(TABLES), default="1")
    parser.add_argument("--seeds", type=int, default=5, help="evaluation seeds 100, 101, …")
    parser.add_argument("--world", default="configs/cascade_world/base.yaml", help="config of the world")
    parser.add_argument("--rows", type=int, default=300_000, help="requests in the log")
    parser.add_argument("--epochs", type=float, default=None, help="passes over the rows; default: each learner's own")
    parser.add_argument("--learners", nargs="*", help="only these rows")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--quick", action="store_true", help="small world, two seeds, a pass over 20,000 rows")
    add_keep(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.world, arguments.rows, arguments.seeds = "configs/cascade_world/small.yaml", 20_000, 2
    learners = arguments.learners or TABLES[arguments.table]
    folder = Path("runs/benchmarks/learners")
    jobs = [
        Job(learner, arguments.world, 100 + s, arguments.rows, arguments.epochs, folder)
        for s in range(arguments.seeds)
        for learner in learners
    ]
    run_missing(jobs, arguments.workers, arguments.results)
    stem = Path(arguments.world).stem
    suffix = "" if (stem, arguments.rows) == ("base", 300_000) else f"_{stem}_{arguments.rows}"
    write_tables(jobs, f"table{arguments.table}{suffix}", arguments.results)


def run_missing(jobs: list[Job], workers: int, results: Path) -> None:
    """Run the jobs that have no row yet; each row is written as soon as it is there."""
    done = {_key(row) for row in known_runs().to_dict("records")}
    missing = [job for job in jobs if _job_key(job) not in done]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are there already")
    with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
        worlds = {(job.world, job.seed, job.rows): job for job in missing}
        list(pool.map(make_world, worlds.values()))
        waiting = {pool.submit(run_job, job): job for job in missing}
        for number, future in enumerate(as_completed(waiting), start=1):
            row = future.result() | {"epochs": waiting[future].epochs or "own", "torch": versions()["torch"]}
            runs = pd.concat([known_runs(), pd.DataFrame([row])], ignore_index=True)
            write_table(runs, results / RUNS)
            print(
                f"{number}/{len(missing)} {row['learner']} seed {row['seed']}: within {row['spearman_within']:.3f}",
                flush=True,
            )


def known_runs() -> pd.DataFrame:
    """Rows written so far, stored ones and those of this machine."""
    paths = [folder / RUNS for folder in (KEPT, SCRATCH) if (folder / RUNS).exists()]
    found = [pd.read_csv(path, dtype={"epochs": str}) for path in paths]
    return pd.concat(found, ignore_index=True).drop_duplicates(KEYS) if found else pd.DataFrame(columns=KEYS)


def write_tables(jobs: list[Job], name: str, results: Path) -> None:
    """Mean and sd over seeds of every learner, as CSV and markdown, in the table's order."""
    wanted = {_job_key(job) for job in jobs}
    runs = known_runs()
    runs = runs[[_key(row) in wanted for row in runs.to_dict("records")]]
    rows = []
    for learner in dict.fromkeys(job.learner for job in jobs):
        mine = runs[runs["learner"] == learner]
        row: dict[str, object] = {"learner": learner, "seeds": len(mine)}
        for column, source in COLUMNS.items():
            row[f"{column}_mean"], row[f"{column}_sd"] = mine[source].mean(), mine[source].std()
        row |= lead_over(runs, learner, "awrq_plus" if (runs["learner"] == "awrq_plus").any() else "awrq_mixer")
        row["paper_spearman"], row["paper_return_pct"] = PAPER.get(learner, (None, None))
        rows.append(row)
    table = pd.DataFrame(rows)
    table["machine"] = f"{os.cpu_count()} cores"
    write_table(table, results / f"{name}.csv")
    write_text(results / f"{name}.md", _markdown(table, jobs[0]))
    draw(
        table,
        f"{Path(jobs[0].world).stem} world, {jobs[0].rows:,} requests: mean ± sd over seeds",
        results / f"{name}.png",
    )
    print((results / f"{name}.md").read_text())


def lead_over(runs: pd.DataFrame, learner: str, reference: str) -> dict[str, object]:
    """Mean over common seeds of the reference's metric minus the learner's, and its standard error."""
    by_seed = runs.set_index("seed")
    best, mine = by_seed[by_seed["learner"] == reference], by_seed[by_seed["learner"] == learner]
    if best.empty or learner == reference:
        return {}
    found: dict[str, object] = {"reference": reference}
    for column in ("spearman", *LEADS):
        difference = (best[COLUMNS[column]] - mine[COLUMNS[column]]).dropna()
        found[f"lead_{column}"] = difference.mean()
        found[f"lead_{column}_se"] = difference.std() / np.sqrt(max(len(difference), 1))
    return found


def draw(table: pd.DataFrame, title: str, path: Path) -> None:
    """One panel a metric, one line a learner."""
    figure, panels = new_figure(1, len(LEADS), width=9.6, height=1.2 + 0.24 * len(table), sharey=True)
    places = np.arange(len(table))[::-1]
    ours = table["learner"].str.startswith("awrq_plus")
    for panel, (column, label) in zip(panels, LEADS.items()):
        mean, sd = table[f"{column}_mean"], table[f"{column}_sd"].fillna(0)
        for mask, colour in ((~ours, "tab:blue"), (ours, "tab:red")):
            panel.errorbar(mean[mask], places[mask], xerr=sd[mask], fmt="o", markersize=4, capsize=2, color=colour)
        panel.set_xlabel(label)
        panel.locator_params(axis="x", nbins=5)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_yticks(places, table["learner"])
    figure.suptitle(title)
    save_figure(figure, path)


def _markdown(table: pd.DataFrame, job: Job) -> str:
    lines = [
        f"World `{Path(job.world).stem}`, {job.rows:,} requests, mean ± sd over {table['seeds'].max()} seeds. The last two columns "
        "are the paper's own figures, on its private logs. The reference of the column before is "
        f"{', '.join(table['reference'].dropna().unique()) if 'reference' in table else 'not in this table'}.\n",
        "| learner | r_s all pairs | r_s within | capture | Return% greedy | Return% optimal | train s "
        "| reference ahead: r_s, within, capture, Return% (± SE) | paper r_s | paper Return% |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        cells = [
            f"{row[f'{name}_mean']:.{digits}f} ± {row[f'{name}_sd']:.{digits}f}"
            for name, digits in (
                ("spearman", 3), ("spearman_within", 3), ("capture", 3), ("return_pct", 2), ("return_pct_optimal", 2), ("train_s", 0)
            )
        ]  # fmt: skip
        leads = [
            f"{row[f'lead_{name}']:+.3f} ± {row[f'lead_{name}_se']:.3f}"
            for name in ("spearman", *LEADS)
            if pd.notna(row.get(f"lead_{name}"))
        ]
        cells.append(", ".join(leads))
        paper = ["" if pd.isna(row[name]) else f"{row[name]:g}" for name in ("paper_spearman", "paper_return_pct")]
        lines.append("| " + " | ".join([row["learner"], *cells, *paper]) + " |")
    return "\n".join(lines) + "\n"


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEYS)


def _job_key(job: Job) -> tuple[str, ...]:
    return (job.learner, Path(job.world).stem, str(job.seed), str(job.rows), str(job.epochs or "own"))


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    set_threads(1)


if __name__ == "__main__":
    main()
