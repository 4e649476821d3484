"""Figures of fitted cost maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from marca_common.cost_maps import ALL, CostMaps, ServiceMap
from marca_common.figures import COLORS, new_figure, save_figure


def draw_cost_maps(maps: CostMaps, table: pd.DataFrame, path: str | Path) -> Path:
    """One row per service of the first data centre: a queue curve per element, and measured against fitted cost."""
    elements = list(maps.actions.elements)
    idc = maps.idcs[0]
    figure, axes = new_figure(
        len(maps.services),
        len(elements) + 1,
        width=3.6 * (len(elements) + 1),
        height=3.1 * len(maps.services),
        squeeze=False,
    )
    for row, service in zip(axes, maps.services):
        one = maps.maps[idc][service]
        for axis, element in zip(row, elements):
            _draw_curves(axis, one, element)
            axis.set(title=f"{service}: cost of {element}", xlabel=f"{element}, items", ylabel="core-ms a request")
        rows = table[(table["idc"] == idc) & (table["service"] == service) & (table["degradation"] == 0)]
        _draw_fit(row[-1], rows)
        error = one.quality.get("median_error_pct", float("nan"))
        row[-1].set(
            title=f"{service}: fit, median error {error:.1f} %", xlabel="measured core-ms", ylabel="fitted core-ms"
        )
    figure.suptitle(f"Cost maps of data centre {idc}")
    return save_figure(figure, path)


def _draw_curves(axis: Axes, one: ServiceMap, element: str) -> None:
    for color, (setting, curve) in zip(COLORS, one.queues[element].items()):
        axis.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, lw=0)
        axis.plot(curve.x, curve.cost, "o-", ms=3, color=color, label=None if setting == ALL else setting)
    if ALL not in one.queues[element]:
        axis.legend(loc="upper left")
    axis.set_ylim(bottom=0)


def _draw_fit(axis: Axes, rows: pd.DataFrame) -> None:
    top = float(np.nanmax([rows["cost"].max(), rows["fitted"].max(), 1e-3])) * 1.05
    axis.plot([0, top], [0, top], color="0.7", lw=1)
    axis.plot(rows["cost"], rows["fitted"], ".", ms=3, alpha=0.5)
