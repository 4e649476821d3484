"""The live loop, drawn."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from marca_common.figures import COLORS, new_figure, save_figure


def draw_live(rows: pd.DataFrame, controller: str, path: Path) -> Path:
    """Traffic, CPU against its target, queue lengths, latency with losses; one time axis."""
    figure, axes = new_figure(4, 1, width=8.5, height=8.6, sharex=True)
    t = rows["second"]
    axes[0].plot(t, rows["planned_qps"], color="0.6", label="planned")
    axes[0].plot(t, rows["qps"], color=COLORS[0], lw=1, label="sent")
    axes[0].set(ylabel="requests / s", title=f"A day of traffic on a real service; controller: {controller}")
    services = [name for name in rows if name.startswith("cpu_")]
    axes[1].stackplot(
        t,
        *(rows[name] for name in services),
        labels=[n.removeprefix("cpu_") for n in services],
        colors=COLORS[4:6],
        alpha=0.55,
    )
    axes[1].plot(t, rows["cpu"].rolling(5, min_periods=1, center=True).mean(), color=COLORS[0], label="5-interval mean")
    axes[1].plot(t, rows["target"], color=COLORS[1], ls="--", label="target")
    axes[1].set(ylabel="CPU, percent", ylim=(0, max(105, 1.05 * rows["cpu"].max())))
    for color, name in zip(COLORS, [name for name in rows if name.startswith("length_")]):
        axes[2].step(t, rows[name], where="pre", color=color, label=name.removeprefix("length_"))
    axes[2].set(ylabel="queue length", yscale="log")
    axes[2].yaxis.set_major_formatter("{x:g}")
    axes[3].plot(t, rows["p50_ms"], color=COLORS[0], label="p50")
    axes[3].plot(t, rows["p99_ms"], color=COLORS[1], label="p99")
    lost = rows[rows["lost"] > 0]
    if len(lost):
        beside = axes[3].twinx()
        beside.bar(lost["second"], lost["lost"], width=0.6, color="0.5", alpha=0.5)
        beside.set(ylabel=f"lost ({int(lost['lost'].sum())} in all)")
        beside.grid(False)
    axes[3].set(ylabel="latency, ms", yscale="log", xlabel="seconds (one day, compressed)")
    axes[3].yaxis.set_major_formatter("{x:g}")
    for axis in axes:
        axis.legend(loc="upper left", bbox_to_anchor=(1.08, 1.0))
    return save_figure(figure, path)
