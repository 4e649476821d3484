"""How far two runs of the test bench on the example service agree: `python -m benchmarks.bench_repeat [--quick]`.

Each run is the shipped three-minute bench (`--quick`: a shorter one). Bars: CV between rounds ≤ 5 % in the median bucket, fit within
3 % of bucket medians, mixed replay within 7 %, repeated curves within 5 %, nothing lost. Costs depend on what else the
machine does: the load average stands in the table.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.findings.analysis import service_costs
from autobucket.testbench import TestbenchResult, testbench
from benchmarks._results import add_keep
from marca_common.config import load_config
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.run_folder import versions
from marca_common.tables import write_table

RUNS = Path("runs/benchmarks/bench_repeat")
SHORT = [
    "traffic.requests=300",
    "buckets.most=10",
    "load.window_s=0.8",
    "load.min_rounds=2",
    "load.max_rounds=2",
    "load.second_rate_buckets=2",
    "load.replay_s=2",
]
KEYS = [
    "cv_median",
    "fit_error_pct",
    "replay_error_pct",
    "replay_error_realised_pct",
    "machine_vs_process_pct",
    "rate_sensitivity_pct",
    "buckets_valid",
    "buckets",
    "lost",
    "noop_ms",
    "cost_median_ms",
    "wall_s",
]


def main() -> None:
    """Run the bench twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter windows, two rounds")
    parser.add_argument("--repeats", type=int, default=2)
    add_keep(parser)
    arguments = parser.parse_args()
    config = load_config(TestbenchConfig, "configs/autobucket/testbench_quick.yaml", SHORT if arguments.quick else [])
    results, loads = [], []
    for k in range(arguments.repeats):
        out = RUNS / f"{'quick' if arguments.quick else 'full'}_{k}"
        shutil.rmtree(out, ignore_errors=True)
        loads.append(os.getloadavg()[0])
        results.append(testbench(config, out))
    suffix = "_quick" if arguments.quick else ""
    table = compare(results, loads, config.seed)
    write_table(table, arguments.results / f"bench_repeat{suffix}.csv")
    draw(results, arguments.results / f"bench_repeat{suffix}.png")
    print(table.T.to_string(header=False))


def compare(results: list[TestbenchResult], loads: list[float], seed: int) -> pd.DataFrame:
    """One row a run; difference of its buckets and of its fitted curves from the first run's, median, percent."""
    known = versions()
    first, rows = results[0], []
    for k, (result, load) in enumerate(zip(results, loads)):
        rows.append(
            {
                "run": k,
                **{key: result.summary[key] for key in KEYS},
                "bucket_difference_pct": _buckets(first, result),
                "curve_difference_pct": _curves(first, result),
                "load_average_at_start": load,
                "seed": seed,
                "python": known["python"],
                "numpy": known["numpy"],
                "machine": f"{known['machine']} x{known['cpus']}",
            }
        )
    return pd.DataFrame(rows)


def _buckets(a: TestbenchResult, b: TestbenchResult) -> float:
    keys = ["bucket", "asked_qps", "degradation"]
    both = a.buckets.merge(b.buckets, on=keys, suffixes=("_a", "_b"))
    return float(100 * np.median(np.abs(both["cost_ms_b"] / both["cost_ms_a"] - 1)))


def _curves(a: TestbenchResult, b: TestbenchResult) -> float:
    """Both maps at the first run's buckets, all services together."""
    if a.maps is None or b.maps is None:
        return float("nan")
    mine, other = (service_costs(maps, a.buckets).sum(axis=1) for maps in (a.maps, b.maps))
    return float(100 * np.median(np.abs(other / mine - 1)))


def draw(results: list[TestbenchResult], path: Path) -> None:
    """Cost of each bucket in the first and in the other runs."""
    figure, axis = new_figure(width=5.2, height=4.6)
    first = results[0].buckets.set_index(["bucket", "asked_qps"])["cost_ms"]
    top = 1.08 * first.max()
    axis.plot([0, top], [0, top], color="0.6", lw=1)
    for color, (k, result) in zip(COLORS, enumerate(results[1:], start=1)):
        other = result.buckets.set_index(["bucket", "asked_qps"])["cost_ms"].reindex(first.index)
        axis.plot(first, other, "o", ms=5, alpha=0.8, color=color, label=f"run {k}")
    axis.set(xlabel="run 0, core-ms per request", ylabel="again, core-ms per request", xlim=(0, top), ylim=(0, top))
    axis.set_title("The bench repeated: cost of each bucket and rate")
    axis.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
