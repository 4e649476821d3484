"""Figures of a run: CPU against budget, λ, traffic and forecast, and a zoom on each event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from marca_common.figures import COLORS, new_figure, save_figure
from mpc_balancer.testbed.scenarios import ScenarioRun


def plot_run(
    frame: pd.DataFrame, name: str, budget: dict[str, float], drawn: ScenarioRun, zoom_minutes: int, folder: Path
) -> None:
    """run.png, and zoom_<minute>.png around each surge or cost step; ``budget`` per service, percent."""
    save_figure(_panels(frame, budget, f"{name}: CPU, price and traffic"), folder / "run.png")
    minutes = {s.minute for s in drawn.scenario.surges} | {s.minute for s in drawn.scenario.cost_steps}
    for minute in sorted(minutes):
        part = frame.iloc[max(0, minute - zoom_minutes // 4) : minute + zoom_minutes]
        if len(part) > 5:
            figure = _panels(part, budget, f"{name}: event at minute {minute}")
            save_figure(figure, folder / f"zoom_{minute}.png")


def _panels(frame: pd.DataFrame, budget: dict[str, float], title: str) -> Figure:
    figure: Figure
    figure, (top, middle, bottom) = new_figure(3, 1, width=9.0, height=6.6, sharex=True)
    time = frame["timestamp"].to_numpy()
    thin = 0.8 if len(frame) > 400 else 1.4
    for j, (name, percent) in enumerate(budget.items()):
        top.plot(time, frame[f"cpu_{name}"], color=COLORS[j], lw=thin, label=name)
        top.axhline(percent, color="black", ls="--", lw=1, label="budget" if j == 0 else None)
    top.set(title=title, ylabel="CPU (percent)", ylim=(0, 102))
    top.legend(loc="lower right", ncols=3)
    for j, name in enumerate(c for c in frame if c.startswith("lambda_")):
        middle.plot(time, frame[name], color=COLORS[j], lw=thin, label=name.removeprefix("lambda_"))
    middle.set(ylabel="λ (money per core-ms)", ylim=(0, None))
    middle.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    bottom.plot(time, frame["qps"], color=COLORS[2], lw=thin, label="traffic")
    if "forecast_qps" in frame and np.isfinite(frame["forecast_qps"]).any():
        bottom.plot(time, frame["forecast_qps"], color=COLORS[3], lw=thin, ls="--", label="forecast a step before")
    bottom.set(ylabel="requests per second", xlabel="time", ylim=(0, None))
    bottom.legend(loc="lower right", ncols=2)
    concise: Any = mdates.ConciseDateFormatter
    bottom.xaxis.set_major_formatter(concise(bottom.xaxis.get_major_locator()))
    return figure
