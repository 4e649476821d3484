"""The training jobs of ``benchmarks.scale`` over a made-up log: in memory, from shards, and by two ranks.

AWRQ-Mixer on all sizes; on the small one also the class member of ``awrq_plus``, whose rows are sorted by state first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from marca_common.checkpoint import load_checkpoint
from marca_common.files import read_json
from marca_common.progress import progress

SHARD, GROUP, SEED = 1_000_000, 50_000, 100
CATEGORIES = {"user_value": 100, "placement": 6, "segment": 400, "idc": 2}
SIZES = {"a1": 4, "a2": 5, "a3": 5, "a4": 2, "a5": 5}
BATCH = 2048  # rows per update and rank
IN_MEMORY = 2_000_000  # rows of the log that is read into memory for comparison
LEARNERS: dict[str, dict[str, Any]] = {
    "train": {"network": {"hidden": 256, "heads": 20}},
    "train_states": {
        "learner": "latent_classes",
        "network": {"embedding": 32, "hidden": 64, "dropout": 0.1},
        "plus": {"surrogate": "seen", "history": ["user_value", "segment"], "members": 2, "classes": 128, "rank": 8},
    },
}


def make_log(folder: Path, rows: int) -> Path:
    """A log in shards: uniform states and actions; three rows in ten earn, more where actions are large."""
    folder.mkdir(parents=True)
    for number in progress(range(-(-rows // SHARD)), what="log", unit="shard"):
        rng, size = np.random.default_rng((SEED, number)), min(SHARD, rows - number * SHARD)
        columns: dict[str, Any] = {}
        for name, choices in CATEGORIES.items():
            words = pa.array([str(k) for k in range(choices)])
            columns[name] = pa.DictionaryArray.from_arrays(rng.integers(0, choices, size, np.int16), words)
        columns |= {name: rng.integers(0, choices, size, np.int8) for name, choices in SIZES.items()}
        effect = 1 + sum(columns[name] for name in SIZES) / 8
        columns["revenue"] = np.where(rng.random(size) < 0.3, effect * rng.gamma(2, 0.5, size), 0).astype(np.float32)
        columns["seen"] = (effect * 8).astype(np.float32)  # a side column
        pq.write_table(pa.table(columns), folder / f"{number:05}.parquet", row_group_size=GROUP, compression="zstd")
    return folder


def training_rows(
    folder: Path, rows: int, rounds: int, updates: int, launch: dict[int, list[str]]
) -> list[dict[str, Any]]:
    """Rows of the table: in memory and streamed on a small log, streamed on one of ``rows`` rows by one rank and by two."""
    small, large = make_log(folder / "small", min(rows, IN_MEMORY)), make_log(folder / "large", rows)
    stream = {"buffer_rows": 8 * GROUP, "lanes": 8}
    jobs = [
        ("train", "memory", small, 1, None),
        ("train", "loop", small, 1, stream),
        ("train", "loop", large, 1, stream),
        ("train", "torchrun", large, 2, stream),
        ("train_states", "memory", small, 1, None),
        ("train_states", "loop", small, 1, stream),
        ("train_states", "torchrun", small, 2, stream),
    ]
    walls: list[list[dict[str, Any]]] = [[] for _ in jobs]
    for number in range(rounds):
        for found, (job, engine, log, ranks, how) in zip(walls, jobs):
            out = folder / f"{job}-{engine}-{log.name}-{number}"
            found.append(trained(log, out, how, BATCH * ranks, updates, launch[ranks], LEARNERS[job]))
            shutil.rmtree(out / "rows", ignore_errors=True)
    equal = {job: same_weights(folder, small, stream, launch, job) for job in LEARNERS}
    table = []
    for found, (job, engine, log, ranks, _) in zip(walls, jobs):
        middle = sorted(found, key=lambda one: float(one["wall_s"]))[len(found) // 2]
        head = {"job": job, "engine": engine, "ranks": ranks, "rows": len_of(log), "file_mb": size_mb(log)}
        table.append(head | middle | {"equal": equal[job] if ranks == 2 else None})
    return table


def trained(
    log: Path,
    out: Path,
    stream: dict[str, int] | None,
    batch: int,
    updates: int,
    launcher: list[str],
    learner: dict[str, Any],
    optimiser: str = "adam",
) -> dict[str, Any]:
    """One training in processes of its own."""
    config = out.with_suffix(".yaml")
    rows = len_of(log) * 0.9
    values: dict[str, Any] = {"extends": str(Path("configs/awrq_mixer/default.yaml").resolve())}
    values |= {"requests": str(log), "stream": stream, "batch_size": batch, "epochs": updates / (rows // batch)}
    values |= {"spec": {"state": dict.fromkeys(CATEGORIES, "category"), "sizes": SIZES, "results": []}}
    values["spec"] |= {"timestamp": None, "propensity": None}
    values |= learner | {"split": {"train": 0.9, "validation": 0.0, "test": 0.1}}
    values |= {"eval_every": 10**9, "optimiser": {"name": optimiser}}
    config.write_text(yaml.safe_dump(values))
    place = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "."}
    words = [*launcher, "awrq_mixer.train", f"--config={config}", f"--out={out}"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=place) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(said.decode()[-2000:])
    summary = read_json(out / "summary.json")
    return {
        "wall_s": summary["train_s"],
        "load_s": summary["load_s"],
        "sort_s": summary.get("sort_s"),
        "samples_per_s": summary["samples_per_s"],
        "batch": batch,
        "parameters": summary["parameters"],
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,  # of the largest process
    }


def same_weights(folder: Path, log: Path, stream: dict[str, int], launch: dict[int, list[str]], job: str) -> bool:
    """Whether one update of the same batch by one rank and by two gives the same weights, within single precision."""
    found = []
    for ranks, launcher in launch.items():
        out = folder / f"one-update-{job}-{ranks}"
        trained(log, out, stream, 2 * BATCH, 1, launcher, LEARNERS[job], "sgd")  # Adam's first step is a sign
        found.append(load_checkpoint(out / "best.pt", "awrq_mixer")["weights"])
    return all(
        torch.allclose(one.double(), found[1][name].double(), rtol=1e-4, atol=1e-6) for name, one in found[0].items()
    )


def len_of(log: Path) -> int:
    """Rows of a log."""
    return sum(pq.read_metadata(path).num_rows for path in log.iterdir())


def size_mb(log: Path) -> float:
    """Size of its files."""
    return sum(path.stat().st_size for path in log.iterdir()) / 1e6
