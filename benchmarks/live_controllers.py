"""MPC on a real service: `python -m benchmarks.live_controllers [--quick]`.

The example service is commissioned for some minutes under a dithered price, the system model is learned from those
intervals, and then PI, feed-forward and MPC each steer days of traffic compressed into a minute, in turns. A price in [0, 1]
stands for λ: it shortens all queues together, as the other two controllers' queue scale does. Writes
``live_controllers[_quick].csv`` and a PNG; each run's own figure is under runs/benchmarks/live.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from autobucket.bench.bench_config import LiveConfig
from autobucket.bench.live.queue_controllers import QueueController
from autobucket.live import live
from benchmarks._mpc import stamp
from benchmarks._results import add_keep
from marca_common.config import load_config, replaced
from marca_common.figures import COLORS, new_figure, save_figure
from marca_loop.live_mpc import LiveMpc, Priced, commissioned, with_peak
from mpc_balancer.system_model.model import SystemModel

FOLDER = Path("runs/benchmarks/live")


def controllers(parts: LiveMpc, model: SystemModel) -> dict[str, tuple[LiveConfig, QueueController | None]]:
    """Name → config and callable of the live loop; its own controllers are named by the config alone."""
    config = parts.live
    own = {
        kind: (config.model_copy(update={"controller": config.controller.model_copy(update={"kind": kind})}), None)
        for kind in ("pi", "feed_forward")
    }
    return {**own, "mpc": (config, Priced(parts, model))}


def main() -> None:
    """Commission, run all controllers in turns, write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two minutes of commissioning, one run of 20 s each")
    add_keep(parser)
    arguments = parser.parse_args()
    quick = arguments.quick
    parts = load_config(LiveMpc, "configs/live_mpc.yaml", ["live.seconds=20", "commission_s=120"] if quick else [])
    model = commissioned(parts, FOLDER)
    parts = with_peak(parts, FOLDER)
    records: list[dict[str, Any]] = []
    days: dict[str, pd.DataFrame] = {}
    for number in range(1 if quick else 3):
        seeded = replaced(parts, {"live.seed": 100 + number})
        for name, (settings, controller) in controllers(seeded, model).items():
            result = live(settings, FOLDER / f"{name}-{number}", controller)
            kept = {key: value for key, value in result.summary.items() if isinstance(value, (int, float))}
            records.append({"controller": name, "round": number, "traffic_seed": seeded.live.seed} | kept)
            days.setdefault(name, result.rows)
    stem = "live_controllers_quick" if quick else "live_controllers"
    table = pd.DataFrame(records).assign(**stamp(0))
    table.to_csv(arguments.results / f"{stem}.csv", index=False, float_format="%.5g", lineterminator="\n")
    draw(days, arguments.results / f"{stem}.png")
    columns = ["mean_cpu", "mean_error_points", "mean_error_5_points", "over_target_points", "p99_ms_median", "lost"]
    print(table.groupby("controller", sort=False)[columns].mean().round(2).to_string())


def draw(days: dict[str, pd.DataFrame], path: Path) -> None:
    """CPU of the first round, five-second means, and the traffic."""
    figure, (top, bottom) = new_figure(2, 1, width=8, height=5)
    for color, (name, rows) in zip(COLORS, days.items()):
        top.plot(rows["second"], rows["cpu"].rolling(5, min_periods=1).mean(), color=color, label=name)
    top.axhline(next(iter(days.values()))["target"].iloc[0], color="k", ls="--", lw=1, label="target")
    top.set(title="CPU of a real service, 5-second means", ylabel="CPU in %", ylim=(0, 100))
    top.legend(ncols=4, loc="lower center")
    bottom.plot(next(iter(days.values()))["second"], next(iter(days.values()))["planned_qps"], color="0.3")
    bottom.set(title="Traffic, a day in a minute", xlabel="seconds", ylabel="requests/s", ylim=(0, None))
    save_figure(figure, path)


if __name__ == "__main__":
    main()
