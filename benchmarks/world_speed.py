"""How fast the open world is: `python -m benchmarks.world_speed [--quick]`.

Bars of `base`, on two idle cores: truth at its 1,000 draws ≤ 180 s with a median relative standard error ≤ 2 %; 1M
logged requests ≤ 40 s; closed loop ≥ 2M request outcomes/s with all noise on; memory < 4 GB. Wall times stand beside CPU
times and the load average, since another process on the machine stretches the former; `--quick` measures a tenth of the
draws and requests and scales up.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import psutil

from benchmarks._results import add_keep
from cascade_world.config import WorldConfig
from cascade_world.describe import outcome_rate
from cascade_world.generate import world_hash
from cascade_world.mechanism.truth import compute_truth
from cascade_world.records.request_log import request_log
from cascade_world.world import World
from marca_common.config import load_config
from marca_common.run_folder import versions
from marca_common.tables import write_table


def main() -> None:
    """Measure truth, logs and closed loop of the base world."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws and requests, scaled up")
    add_keep(parser)
    arguments = parser.parse_args()
    share = 0.1 if arguments.quick else 1.0
    config = load_config(WorldConfig, "configs/cascade_world/base.yaml")
    _warm_up()
    few = config.model_copy(
        update={"truth": config.truth.model_copy(update={"draws": int(config.truth.draws * share), "cache": None})}
    )
    world = World(few)
    tables, truth = _timed(lambda: compute_truth(few, world.space, world.parameters, world.costs))
    world = World(few, tables)
    _, logs = _timed(lambda: request_log(world, rows=int(config.logs.requests * share)))
    error = float(np.median(tables.q_se / tables.q)) * np.sqrt(share)
    cpu_before, rate = time.process_time(), outcome_rate(world)
    rows = [
        {"what": "truth", "unit": "s", **_scaled(truth, share)},
        {"what": "1M logged requests", "unit": "s", **_scaled(logs, share * config.logs.requests / 1e6)},
        {"what": "median relative SE of Q", "unit": "1", "value": error},
        {"what": "outcomes", "unit": "1/s", "value": rate, "cpu_s": time.process_time() - cpu_before},
        {"what": "outcomes, one thread", "unit": "1/s", "value": outcome_rate(world, threads=1)},
        {"what": "peak memory", "unit": "MB", "value": _peak_mb()},
    ]
    found = versions()
    table = pd.DataFrame(rows).assign(
        scaled_from=share, seed=config.seed, world=world_hash(config), load=os.getloadavg()[0], cpus=found["cpus"],
        numba=found["numba"], numpy=found["numpy"],
    )  # fmt: skip
    write_table(table, arguments.results / f"world_speed{'_quick' if share < 1 else ''}.csv")
    print(table[["what", "unit", "value", "cpu_s", "load"]].to_string(index=False))


def _warm_up() -> None:
    """Compile (or load) the kernels, so that compilation is not measured."""
    config = load_config(WorldConfig, "configs/cascade_world/small.yaml", ["truth.draws=2", "truth.cache=null"])
    request_log(World(config), rows=50)
    outcome_rate(World(config), minutes=10)


def _timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {"value": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def _scaled(seconds: dict[str, float], share: float) -> dict[str, float]:
    return {name: value / share for name, value in seconds.items()}


def _peak_mb() -> float:
    import resource

    peak: float = max(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, psutil.Process().memory_info().rss / 1e6
    )
    return peak


if __name__ == "__main__":
    main()
