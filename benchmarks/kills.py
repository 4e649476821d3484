"""Killed at random moments, started again: is the result the same? `python -m benchmarks.kills [--quick] [--kills 50]`.

Each program first runs undisturbed. Then, again and again, it is started in an empty folder, gets SIGKILL or SIGINT at a random
moment of the undisturbed run's time, and the same command is given again until it ends. The two folders must hold the same
weights, tables and numbers bit for bit; measured times and the figures drawn from them are left out. Writes ``kills.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks._results import add_keep
from marca_common.config import content_hash
from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table

LOGS = "world/logs"
WORLD = ["cascade_world.generate", "--config=configs/cascade_world/small.yaml", "--set=truth.cache=null"]
_MPC = "--set=day.strategies.marca_mpc.controller.mpc.solver.deadline_ms=null"  # a deadline in wall time is no seed
PROGRAMS = {
    "awrq_mixer.train": ["--config=configs/awrq_mixer/smoke.yaml", f"--set=requests={LOGS}/requests.parquet", "--set=epochs=3"],
    "autobucket.train": ["--config=configs/autobucket/smoke.yaml", f"--set=data.requests={LOGS}/requests.parquet"],
    "autobucket.fit_costs": ["--config=configs/autobucket/costs.yaml", f"--set=loadtest={LOGS}/loadtest.csv"],
    "revenue_sim.train": [
        "--config=configs/revenue_sim/train.yaml", f"--set=requests=[{LOGS}/requests.parquet]", "--set=sample_states=200",
        "--set=trees.trees=60", "--set=nets.epochs=1",
    ],
    "mpc_balancer.run": [
        "--config=configs/mpc_balancer/run.yaml", "--set=controller.mpc.solver.deadline_ms=null",
        "--set=scenario.days=0.25", "--set=train.epochs=10",
    ],
    "marca_loop.orchestrate": ["--config=configs/smoke.yaml", _MPC],
}  # fmt: skip
_TIMES = re.compile(
    r"(^|_)(s|ms|seconds|mb)$|seconds|per_s$|per_second|^solve_ms|^wall|^stage_s|^step_ms|^last_error|^artifacts"
)
_DRAWN = {".png", ".html"}


def main() -> None:
    """Kill, resume, compare; exit code 1 where a folder differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three kills of two programs")
    parser.add_argument("--kills", type=int, default=50, help="how often in all, the programs in turns")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    add_keep(parser)
    arguments = parser.parse_args()
    programs = list(PROGRAMS)[:2] if arguments.quick else list(PROGRAMS)
    table = kill_all(programs, 3 if arguments.quick else arguments.kills, arguments.seed, Path("runs/benchmarks/kills"))
    write_table(table, arguments.results / f"kills{'_quick' if arguments.quick else ''}.csv")
    print(table.drop(columns="moments_s").to_string(index=False))
    sys.exit(int(table["equal"].sum() < table["kills"].sum()))


def kill_all(programs: list[str], kills: int, seed: int, folder: Path) -> pd.DataFrame:
    """One row per program: how often it was killed, by which signal, and how often the resumed run was equal."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "configs").symlink_to(Path(__file__).parents[1] / "configs")
    _finish(WORLD, folder, "world")
    rows: dict[str, dict[str, Any]] = {}
    generator = numpy_generator(seed, "benchmarks", "kills")
    for number in progress(range(kills), what="kills", unit="kill"):
        program = programs[number % len(programs)]
        if program not in rows:
            rows[program] = _undisturbed(program, folder)
        row = rows[program]
        killed_by = signal.SIGKILL if generator.random() < 0.5 else signal.SIGINT
        moment = float(row["wall_s"] * generator.uniform(0.1, 1.0))
        _killed(program, folder, killed_by, moment)
        _finish([program, *PROGRAMS[program]], folder, "run")
        found = [*differences(folder / "undisturbed" / program, folder / "run")]
        row["kills"] += 1
        row[killed_by.name.lower()] += 1
        row["equal"] += not found
        row["moments_s"] += f"{' ' if row['moments_s'] else ''}{moment:.1f}"
        for line in found:
            print(f"{program}, {killed_by.name} after {moment:.2f} s: {line}", flush=True)
        shutil.rmtree(folder / "run")
    return pd.DataFrame(rows.values())


def differences(one: Path, two: Path) -> Iterator[str]:
    """Files and values of run folder ``one`` that ``two`` has not, or has otherwise; measured times left out."""
    names = {path.relative_to(folder) for folder in (one, two) for path in folder.rglob("*") if path.is_file()}
    for name in sorted(names):
        if name.suffix in _DRAWN or name.name in ("versions.json", ".stage.json"):
            continue
        missing = [folder for folder in (one, two) if not (folder / name).exists()]
        if missing:
            yield f"{name} is missing in {missing[0]}"
        elif _digest(one / name) != _digest(two / name):
            yield f"{name} differs"


def _digest(path: Path) -> Any:
    """What a file says, times left out, in a form that compares bit for bit."""
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()))
    if path.suffix == ".pt":
        return _plain(torch.load(path, weights_only=True))
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: _plain(file[name]) for name in file.files}
    if path.suffix in (".csv", ".parquet"):
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        return {str(name): _plain(frame[name].tolist()) for name in frame if not _TIMES.search(str(name))}
    return path.read_bytes()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items() if not _TIMES.search(str(key))}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return str(value.dtype), tuple(value.shape), content_hash(np.asarray(value).tobytes().hex())
    return [repr(_plain(one)) for one in value] if isinstance(value, (list, tuple)) else repr(value)


def _undisturbed(program: str, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    _finish([program, *PROGRAMS[program]], folder, "run")
    wall = time.perf_counter() - started
    (folder / "undisturbed").mkdir(exist_ok=True)
    (folder / "run").rename(folder / "undisturbed" / program)
    return {
        "program": program,
        "wall_s": round(wall, 1),
        "kills": 0,
        "sigkill": 0,
        "sigint": 0,
        "equal": 0,
        "moments_s": "",
    }


def _killed(program: str, folder: Path, killed_by: signal.Signals, moment: float) -> None:
    process = _start([program, *PROGRAMS[program]], folder, "run")
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(killed_by)
        said = process.communicate(timeout=120)[1]
        if killed_by == signal.SIGINT and process.returncode == 130 and "Traceback" in said:
            raise RuntimeError(f"{program}: Ctrl-C ended in a traceback:\n{said[-2000:]}") from None


def _finish(arguments: list[str], folder: Path, out: str) -> None:
    process = _start(arguments, folder, out)
    said = process.communicate(timeout=1800)[1]
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}\n{said[-2000:]}")


def _start(arguments: list[str], folder: Path, out: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments, f"--out={out}"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


if __name__ == "__main__":
    main()
