"""What do shards cost, and do several processes give the same? python -m benchmarks.scale [--quick] [--pairs 1e8 1e9]

Made-up scores, 1,000 joint actions a state, lie in shards of 25,000 states: as dense score files (float32) for the smallest size,
and as hull shards for all. Each job runs in processes of its own, ``loop`` in one, ``torchrun`` in two. A job is timed in rounds, beside
reading all numbers of the same files; the first round warms up. ``equal`` says whether λ, value, bound and choices are bit-equal to
those of the loop; for ``in_memory`` and ``from_scores`` λ, and the bound up to the order of adding. Scoring runs the real program,
on a small world with models trained for it. So does training, of AWRQ-Mixer with 2,048 rows per update and rank, width 256 and K = 20,
on a made-up log: in memory, streamed, and streamed by two ranks. ``simulated``: an allocation by the ranks of ``--nodes`` machines, one
after the other in one process. Writes scale.csv, and scale_day.csv, what a day of 10¹¹ requests would take by these numbers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from benchmarks._results import add_keep
from benchmarks._scale_nodes import day_table, node_row, print_day
from benchmarks._scale_training import training_rows
from benchmarks.allocation import make_problem
from marca_common.files import file_hash, read_json, write_json
from marca_common.hull_shards import SUFFIX, ShardSums, shard_paths, write_shard
from marca_common.memory import PeakMemory
from marca_common.progress import progress
from marca_common.ranks import Ranks
from marca_common.run_folder import versions
from marca_common.tables import write_table
from revenue_sim.allocation.from_shards import ShardedAllocation, allocate_shards
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.allocation.result import Allocation
from revenue_sim.allocation.row_hulls import row_hulls

ACTIONS, STATES, SEED, SHARE = 1_000, 25_000, 100, 1 / 3
GROUP = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
MADE = ("choices", "new")  # what a job writes; each round begins without it
SCORING = {  # what is trained on the small world, and how
    "awrq": ["awrq_mixer.train", "--config=configs/awrq_mixer/smoke.yaml", "--set=requests=world/logs/requests.parquet"],
    "results": ["autobucket.train", "--config=configs/autobucket/smoke.yaml", "--set=data.requests=world/logs/requests.parquet"],
    "costs": ["autobucket.fit_costs", "--config=configs/autobucket/costs.yaml", "--set=loadtest=world/logs/loadtest.csv"],
}  # fmt: skip


def read(path: Path) -> None:
    """Add up a file's bytes, eight at a time: the least that any method must read."""
    numbers = np.memmap(path, np.uint8, mode="r")
    numbers[: len(numbers) // 8 * 8].view(np.uint64).sum()


def make_shards(folder: Path, shards: int, dense: bool) -> None:
    """Hull shards of made-up scores and, where asked for, the scores themselves as ``scores/<shard>-{q,c}.npy``."""
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    for number in progress(range(shards), what="shards", unit="shard"):
        values, costs = make_problem(STATES, ACTIONS, SEED * 1000 + number)
        if dense:
            np.save(folder / f"scores/{number:05}-q.npy", values)
            np.save(folder / f"scores/{number:05}-c.npy", costs)
        write_hulls(folder / f"hulls/{number:05}{SUFFIX}", values, costs)


def write_hulls(path: Path, values: np.ndarray, costs: np.ndarray) -> None:
    """One shard of hulls, a request per state."""
    hulls, count = row_hulls(values, costs, threads=1), np.ones(len(values))
    states = pd.DataFrame({"state": np.arange(len(values)) % 1000})
    write_shard(path, states, count, hulls, ShardSums.of(hulls, count, {"sizes": ACTIONS}, "made up", path.stem))


def from_hulls(folder: Path, ranks: Ranks) -> ShardedAllocation:
    """Allocate from the hull shards."""
    return allocate_shards(shard_paths(folder / "hulls"), folder / "choices", ranks, share=SHARE)


def from_scores(folder: Path, ranks: Ranks) -> ShardedAllocation:
    """Make the hull shards anew from dense scores, and allocate from them."""

    def one(path: Path) -> None:
        number = path.stem[:-2]
        costs = np.load(path.with_name(f"{number}-c.npy"), mmap_mode="r")
        write_hulls(folder / f"new/{number}{SUFFIX}", np.load(path, mmap_mode="r"), costs)

    ranks.map(one, sorted((folder / "scores").glob("*-q.npy")))
    return allocate_shards(shard_paths(folder / "new"), folder / "choices", ranks, share=SHARE)


def in_memory(folder: Path, _: Ranks) -> Allocation:
    """Read all scores into memory and allocate: what one did before there were shards."""
    values, costs = (
        np.concatenate([np.load(path) for path in sorted((folder / "scores").glob(f"*-{name}.npy"))]) for name in "qc"
    )
    return allocate(values, costs, read_json(folder / "budget.json"), threads=1)


def answer(solved: Allocation | ShardedAllocation, folder: Path) -> dict[str, Any]:
    """What must be equal whatever the number of ranks."""
    found = {"lambda": solved.lambda_, "bound": solved.bound, "value": solved.value, "cost": solved.cost}
    if isinstance(solved, Allocation):
        return found
    write_json(folder / "budget.json", solved.budget)
    return found | {"choices": file_hash(folder / "choices"), "edges": solved.edges, "passes": solved.passes}


JOBS: dict[str, tuple[Callable[[Path, Ranks], Allocation | ShardedAllocation], str]] = {
    "allocate": (from_hulls, f"hulls/*{SUFFIX}"),
    "from_scores": (from_scores, "scores/*.npy"),
    "in_memory": (in_memory, "scores/*.npy"),
}


def work(job: str, folder: Path, rounds: int) -> None:
    """One job in this process or group: rounds of reading and working, each right after the other; rank 0 writes ``done.json``."""
    method, files = JOBS[job]
    paths = sorted(folder.glob(files))
    memory = PeakAnonymous()
    with Ranks() as ranks, memory:
        times, solved, gathered = [], [], 0
        for _ in range(rounds + 1):
            ranks.lead(lambda: _remove_made(folder))
            reading = _timed(lambda: ranks.map(read, paths))
            before, gathered = time.process_time(), ranks.gathered_bytes
            spent = _timed(lambda: solved.append(method(folder, ranks)))
            times.append((reading, spent, time.process_time() - before))
        gathered = ranks.gathered_bytes - gathered
        found = ranks.lead(lambda: answer(solved[-1], folder))
        parts = ranks.map(lambda _: (times[-1][2], memory.mb, memory.anonymous_mb), range(ranks.size))
    read_s, wall_s, _ = np.median(times[1:], axis=0)
    ratio = float(np.median([spent / reading for reading, spent, _ in times[1:]]))
    cpu_s, peak_mb, anonymous_mb = (
        max(part[k] for part in parts) if k else sum(part[0] for part in parts) for k in range(3)
    )
    size = sum(path.stat().st_size for path in paths)
    row = {
        "wall_s": wall_s,
        "read_s": read_s,
        "ratio_to_read": ratio,
        "read_gb_per_s": size / 1e9 / read_s,
        "file_mb": size / 1e6,
    }
    row |= {"cpu_s": cpu_s, "peak_mb": peak_mb, "anonymous_mb": anonymous_mb, "reduced_mb": gathered / 1e6}
    if ranks.rank == 0:
        write_json(folder / "done.json", {"row": row, "answer": found})


class PeakAnonymous(PeakMemory):
    """As its parent, and of this process alone ``anonymous_mb``, memory that no file backs."""

    anonymous_mb = 0.0

    def _sample(self) -> None:
        super()._sample()
        info = psutil.Process().memory_info()
        self.anonymous_mb = max(self.anonymous_mb, (info.rss - getattr(info, "shared", 0)) / 2**20)


def _remove_made(folder: Path) -> None:
    for name in MADE:
        shutil.rmtree(folder / name, ignore_errors=True)


def _timed(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measured(job: str, engine: str, folder: Path, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row of the table and the answer of a job that ran in processes of its own."""
    words = ["benchmarks.scale", "--job", job, "--folder", str(folder), "--rounds", str(rounds)]
    subprocess.run(
        [*(GROUP if engine == "torchrun" else [sys.executable, "-m"]), *words], check=True, env=_one_thread()
    )
    done = read_json(folder / "done.json")
    states = STATES * len(shard_paths(folder / "hulls"))
    head = {
        "job": job,
        "engine": engine,
        "ranks": 2 if engine == "torchrun" else 1,
        "rows": states,
        "pairs": states * ACTIONS,
    }
    return head | done["row"] | {"edges": done["answer"].get("edges"), "passes": done["answer"].get("passes")}, done[
        "answer"
    ]


def allocation_rows(folder: Path, pairs: int, dense: bool, rounds: int) -> list[dict[str, Any]]:
    """All jobs of one size."""
    make_shards(folder, max(round(pairs / ACTIONS / STATES), 2), dense)
    row, known = measured("allocate", "loop", folder, rounds)
    rows = [row | {"equal": True}]
    jobs = [
        ("allocate", "torchrun"),
        *([("from_scores", "loop"), ("from_scores", "torchrun"), ("in_memory", "loop")] if dense else []),
    ]
    for job, engine in jobs:
        row, found = measured(job, engine, folder, rounds)
        exact = all(found[key] == known[key] for key in found if job != "in_memory" or key == "lambda")
        rows.append(row | {"equal": exact and bool(np.isclose(found["bound"], known["bound"], rtol=1e-12, atol=0))})
    shutil.rmtree(folder)
    return rows


def simulated_row(folder: Path, nodes: int) -> dict[str, Any]:
    """Two shards of hulls a machine, allocated by simulated ranks."""
    make_shards(folder, 2 * nodes, dense=False)
    row = node_row(lambda ranks: answer(from_hulls(folder, ranks), folder), nodes, 2 * nodes * STATES, ACTIONS)
    shutil.rmtree(folder)
    return row


def scoring_rows(folder: Path, parts: int, rounds: int) -> list[dict[str, Any]]:
    """``marca_loop.score_shards`` in one process and in two, on a small world's log in parts; ``wall_s`` is without starting up."""
    world = [
        "cascade_world.generate",
        "--config=configs/cascade_world/small.yaml",
        "--set=truth.cache=null",
        f"--out={folder / 'world'}",
    ]
    _program(world)
    for name, words in SCORING.items():
        _program([*(word.replace("=world/", f"={folder}/world/") for word in words), f"--out={folder / name}"])
    log = pd.read_parquet(folder / "world/logs/requests.parquet")
    (folder / "parts").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(log)), parts)):
        log.iloc[rows].to_parquet(folder / f"parts/{number:03}.parquet")
    models = {
        "checkpoint": "awrq/best.pt",
        "estimator": "results/estimator.pt",
        "cost_maps": "costs/cost_maps.json",
        "requests": "parts",
    }
    words = ["marca_loop.score_shards", *(f"--set={name}={folder / path}" for name, path in models.items())]
    walls: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for ranks in walls:
            out = folder / f"scored-{ranks}-{number}"
            _program([*words, f"--out={out}"], GROUP if ranks == 2 else None)
            summary = read_json(out / "summary.json")
            walls[ranks].append(summary["score_s"])
    equal = file_hash(folder / "scored-1-0/hulls") == file_hash(folder / "scored-2-0/hulls")
    sizes = {"rows": summary["states"], "pairs": summary["pairs"], "file_mb": summary["hull_mb"], "equal": equal}
    heads = {1: {"job": "score", "engine": "loop", "ranks": 1}, 2: {"job": "score", "engine": "torchrun", "ranks": 2}}
    return [heads[ranks] | sizes | {"wall_s": float(np.median(spent))} for ranks, spent in walls.items()]


def _program(words: list[str], launcher: list[str] | None = None) -> None:
    subprocess.run(
        [*(launcher or [sys.executable, "-m"]), *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_one_thread(),
    )


def _one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": "."}


def main(argv: list[str] | None = None) -> None:
    """Run all sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50 and 100 million pairs, and fewer rounds")
    parser.add_argument("--nodes", type=int, help="machines of the simulated allocation; default 64, with --quick 4")
    parser.add_argument("--rows", type=float, help="rows of the log that is trained on; default 1e8, with --quick 4e5")
    parser.add_argument("--pairs", type=float, nargs="+", help="pairs of state and joint action; default 1e8 3e8 1e9")
    for name, kind, text in (
        ("--job", str, "a job"),
        ("--folder", Path, "its shards"),
        ("--rounds", int, "its rounds"),
    ):
        parser.add_argument(name, type=kind, help=f"{text}; this program starts itself with these")
    add_keep(parser)
    arguments = parser.parse_args(argv)
    if arguments.job:
        work(arguments.job, arguments.folder, arguments.rounds)
        return
    quick, rounds = arguments.quick, 3 if arguments.quick else 7
    sizes = [int(one) for one in arguments.pairs or ([5e7, 1e8] if quick else [1e8, 3e8, 1e9])]
    with tempfile.TemporaryDirectory(dir=Path("runs/benchmarks"), prefix="scale-") as folder:
        log_rows, updates = int(arguments.rows or (4e5 if quick else 1e8)), 6 if quick else 300
        launch = {1: [sys.executable, "-m"], 2: GROUP}
        rows = training_rows(Path(folder) / "training", log_rows, 1 if quick else 3, updates, launch)
        shutil.rmtree(Path(folder) / "training")
        rows += scoring_rows(Path(folder) / "scoring", 8, 1 if quick else 3)
        rows.append(simulated_row(Path(folder) / "nodes", arguments.nodes or (4 if quick else 64)))
        for size in sizes:
            rows += allocation_rows(Path(folder) / "shards", size, size == sizes[0], rounds)
    known = versions()
    table = pd.DataFrame(rows).assign(
        machine=f"{known['machine']} x{known['cpus']}", load_average=round(os.getloadavg()[0], 1)
    )
    write_table(table, arguments.results / f"scale{'_quick' if quick else ''}.csv")
    day, path = day_table(table, arguments.nodes or 64), arguments.results / f"scale_day{'_quick' if quick else ''}.csv"
    write_table(day, path)
    print_day(day, path)
    with pd.option_context("display.width", 250, "display.max_columns", 30):
        print(table.drop(columns="machine").to_string(index=False))


if __name__ == "__main__":
    main()
