"""Control a real service for a minute: `python -m autobucket.live --seconds 60`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.bench.bench_config import LiveConfig
from autobucket.bench.live.live_figures import draw_live
from autobucket.bench.live.live_loop import LiveLoop, calibrate, reachable, unreachable, with_peak
from autobucket.bench.live.queue_controllers import QueueController, QueueScale, ScaleCost, controller_class
from autobucket.bench.measuring.bench_requests import make_requests, payloads
from autobucket.bench.measuring.campaign import build_target
from autobucket.bench.measuring.load import Budget, drive, schedule
from autobucket.bench.measuring.run_async import run_async
from autobucket.bench.target.interface import Target
from autobucket.bench.target.machine import Placement, generator_on, machine_facts, place
from marca_common.cli import run_cli
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table


@dataclass
class LiveResult:
    """A finished live run: one row per interval, and its summary."""

    rows: pd.DataFrame
    summary: dict[str, Any]
    out: Path


def live(
    config: LiveConfig,
    out: str | Path,
    controller: QueueController | None = None,
    make_target: Callable[[], Target] | None = None,
) -> LiveResult:
    """A day of traffic in ``seconds`` on a real service while a controller sets its queue lengths every interval.

    ``controller`` is any callable from an Observation to queue lengths; without one, the config's is made. Writes
    ``live.csv``, ``live.png`` and ``summary.json``. Short of a better clock, judge on means over five seconds.
    """
    with RunFolder(out, config) as run:
        placement = place(config.accounting, config.target.kind)
        started = time.perf_counter()
        with generator_on(placement):
            rows, curve, driven, name = run_async(lambda: _run(config, placement, controller, make_target, run.warn))
        summary = summarise(rows) | {
            "controller": name,
            "peak_qps": driven.peak_qps,
            "reachable_percent": {} if curve is None else reachable(driven, curve, placement.declared_cores),
            "calibration": {} if curve is None else dict(zip(map(str, curve.scale.tolist()), curve.cost_ms.tolist())),
            "machine": machine_facts(placement, config.target.threads, "CPU clocks of the target"),
            "wall_s": time.perf_counter() - started,
        }
        write_table(rows, run.path / "live.csv")
        draw_live(rows, name, run.path / "live.png")
        run.write_summary(summary)
        return LiveResult(rows, summary, run.out)


async def _run(
    config: LiveConfig,
    placement: Placement,
    controller: QueueController | None,
    make_target: Callable[[], Target] | None,
    warn: Callable[[str], None],
) -> tuple[pd.DataFrame, ScaleCost | None, LiveConfig, str]:
    make = controller_class(config.controller.kind)  # before anything starts
    target = make_target() if make_target is not None else build_target(config.target, config.accounting, placement)
    try:
        await target.start()
        await _warm(config, target)
        curve, name = None, config.controller.kind
        if config.calibration_s > 0:
            curve = await calibrate(config, target, placement.target)
            config = with_peak(config, curve, placement.declared_cores)
            for note in unreachable(config, reachable(config, curve, placement.declared_cores)):
                warn(note)
        if controller is not None:
            name = getattr(controller, "__name__", type(controller).__name__)
        else:
            controller = make(config, curve, placement.declared_cores)
        first = QueueScale(config.lengths).lengths(config.controller.level)
        rows = await LiveLoop(config, target, controller, first, placement.declared_cores).run()
        return rows, curve, config, name
    finally:
        await target.stop()


async def _warm(config: LiveConfig, target: Target) -> None:
    if config.warmup_s > 0:
        rate = config.calibration_qps
        times = schedule("poisson", rate, config.warmup_s, numpy_generator(config.seed, "autobucket", "live", "warm"))
        requests = payloads(make_requests(config.traffic, config.seed, "live", "warm", count=len(times)))
        await drive(target, requests, times, Budget(len(times), abort_errors=50), horizon_s=config.warmup_s)


def summarise(rows: pd.DataFrame) -> dict[str, Any]:
    """How well the target was kept: on single intervals and on means over five, with latency and losses."""
    error = (rows["cpu"] - rows["target"]).to_numpy()
    smooth = np.convolve(error, np.ones(5) / 5, mode="valid") if len(error) >= 5 else error
    return {
        "intervals": len(rows),
        "mean_cpu": float(rows["cpu"].mean()),
        "target": float(rows["target"].iloc[0]),
        "mean_error_points": float(np.abs(error).mean()),
        "mean_error_5_points": float(np.abs(smooth).mean()),
        "over_target_points": float(np.maximum(smooth, 0).mean()),
        "p99_ms_median": float(rows["p99_ms"].median()),
        "p99_ms_worst": float(rows["p99_ms"].max()),
        "requests": float((rows["qps"] * rows["second"].diff().fillna(rows["second"].iloc[0])).sum().round()),
        "lost": int(rows["lost"].sum()),
    }


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    run_cli(
        live,
        LiveConfig,
        default_config="configs/autobucket/live.yaml",
        default_out="runs/autobucket-live",
        flags={"--seconds": ("seconds", "length of the run")},
        argv=argv,
    )


if __name__ == "__main__":
    main()
