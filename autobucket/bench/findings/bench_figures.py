"""Figures of a bench run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.bench.findings.analysis import service_costs
from autobucket.bench.measuring.campaign import Measured
from marca_common.cost_maps import CostMaps
from marca_common.figures import COLORS, new_figure, save_figure


def draw_bench(
    table: pd.DataFrame,
    maps: CostMaps | None,
    replay: Sequence[dict[str, Any]],
    rates: pd.DataFrame,
    measured: Measured,
    out: Path,
    cores: int,
) -> dict[str, Path]:
    """All figures that the data allow, title → path."""
    figures = {
        "Cost per request, by bucket": draw_buckets(table, out / "buckets.png"),
        "How far to trust it": draw_trust(table, rates, out / "trust.png"),
    }
    if maps is not None:
        figures["Cost of a longer queue"] = draw_curves(table, maps, out / "curves.png")
    if replay:
        figures["Mixed-action replay"] = draw_replay(replay, out / "replay.png")
    return figures


def draw_buckets(table: pd.DataFrame, path: Path) -> Path:
    """Mean cost with its interval, dearest last; invalid ones hollow; the machine-wide reading beside it."""
    part = table[table["degradation"] == 0].sort_values("cost_ms", ignore_index=True)
    figure, axis = new_figure(width=8.5, height=max(3.2, 0.19 * len(part) + 1.6))
    y = np.arange(len(part))
    error = np.stack([part["cost_ms"] - part["cost_low_ms"], part["cost_high_ms"] - part["cost_ms"]])
    valid = part["valid"].to_numpy(bool)
    for mask, face, label in ((valid, COLORS[0], "process clocks, 95 % interval"), (~valid, "white", "not valid")):
        if mask.any():
            axis.errorbar(
                part["cost_ms"][mask],
                y[mask],
                xerr=np.nan_to_num(error[:, mask]),
                fmt="o",
                ms=5,
                mfc=face,
                color=COLORS[0],
                label=label,
            )
    top = 1.3 * float(part["cost_ms"].max())
    inside = part["machine_cost_ms"].to_numpy() <= top
    label = "Eq. 26 with the core's p%: all that ran on it"
    if inside.any():
        axis.plot(part["machine_cost_ms"][inside], y[inside], "|", ms=9, mew=1.8, color=COLORS[1], label=label)
    if not inside.all():
        edge = np.full((~inside).sum(), 0.985 * top)
        axis.plot(edge, y[~inside], ">", ms=5, color=COLORS[1], label=f"{label} (further right)")
    axis.set_yticks(y, [f"{row.bucket} @ {row.asked_qps:g}/s" for row in part.itertuples()], fontsize=7)
    axis.set(
        xlabel="core-ms per request",
        title="Cost per request of each bucket and rate",
        xlim=(0, top),
    )
    figure.legend(loc="outside lower center", ncol=2)
    return save_figure(figure, path)


def draw_trust(table: pd.DataFrame, rates: pd.DataFrame, path: Path) -> Path:
    """Spread between rounds, disagreement of the two accounts, dependence on the rate."""
    normal = table[table["degradation"] == 0]
    figure, axes = new_figure(1, 3, width=10.5, height=3.2)
    panels = [
        (normal["cv_pct"], "CV between rounds", "percent"),
        (
            normal["machine_vs_process_pct"],
            "Machine-wide p% against process clocks",
            "percent more than by the process clocks",
        ),
        (rates["change_pct"], "Cost at the higher against the lower rate", "percent change"),
    ]
    for axis, (values, title, label) in zip(axes, panels):
        values = values.dropna()
        if 0 < len(values) < 8:
            axis.plot(np.sort(values), np.arange(1, len(values) + 1), "o", color=COLORS[0])
            axis.set_ylim(0, len(values) + 1)
        elif len(values):
            axis.hist(values, bins=min(12, max(4, len(values))), color=COLORS[0], alpha=0.8)
        else:
            axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        if len(values):
            axis.axvline(values.median(), color=COLORS[1], ls="--", label=f"median {values.median():.1f} %")
            axis.legend(loc="upper right")
            axis.margins(y=0.25)
        axis.set(title=title, xlabel=label, ylabel="cells" if len(values) >= 8 else "cells, sorted")
        axis.title.set_fontsize(9.5)
    return save_figure(figure, path)


def draw_curves(table: pd.DataFrame, maps: CostMaps, path: Path) -> Path:
    """Queue curves with their bands, and measured against fitted medians."""
    elements, idc = list(maps.actions.elements), maps.idcs[0]
    figure, axes = new_figure(
        len(maps.services),
        len(elements) + 1,
        width=3.5 * (len(elements) + 1),
        height=2.9 * len(maps.services),
        squeeze=False,
    )
    rows = table[(table["degradation"] == 0) & table["cost_ms"].notna()]
    fitted = service_costs(maps, rows)
    for j, (line, service) in enumerate(zip(axes, maps.services)):
        one = maps.maps[idc][service]
        for axis, element in zip(line, elements):
            for color, (setting, curve) in zip(COLORS, one.queues[element].items()):
                axis.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, lw=0)
                axis.plot(curve.x, curve.cost, "o-", ms=3, color=color, label=setting)
            axis.set(
                title=f"{service}: {element}", xlabel="items", ylabel="core-ms more than the shortest", ylim=(0, None)
            )
            if len(one.queues[element]) > 1:
                axis.legend()
        axis, measured = line[-1], rows[f"cost_{service}_ms"]
        top = 1.05 * float(max(measured.max(), fitted[:, j].max()))
        axis.plot([0, top], [0, top], color="0.6", lw=1)
        for color, (rate, part) in zip(COLORS, rows.groupby("asked_qps")):
            at = rows.index.get_indexer(part.index)
            axis.plot(measured.to_numpy()[at], fitted[at, j], "o", ms=4, alpha=0.8, color=color, label=f"{rate:g}/s")
        axis.set(title=f"{service}: fit at the higher load", xlabel="measured core-ms", ylabel="fitted core-ms")
        axis.legend(title="rate", loc="upper left")
    return save_figure(figure, path)


def draw_replay(replay: Sequence[dict[str, Any]], path: Path) -> Path:
    """Total CPU of the mixed replays: measured, predicted from actions, predicted from realised results."""
    figure, axis = new_figure(width=6.4, height=3.2)
    x = np.arange(len(replay))
    bars = [
        ("measured_s", "measured"),
        ("predicted_s", "predicted from actions"),
        ("predicted_realised_s", "from realised results"),
    ]
    for k, (name, label) in enumerate(bars):
        axis.bar(x + 0.27 * (k - 1), [one[name] for one in replay], 0.25, color=COLORS[k], label=label)
    axis.set_xticks(x, [f"round {one['round']}" for one in replay])
    axis.set(ylabel="core-seconds", title="Mixed-action replay: total CPU, predicted and measured")
    axis.set_ylim(0, 1.35 * max(max(one[name] for one in replay) for name, _ in bars))
    axis.legend(loc="upper center", ncol=3, fontsize=8)
    return save_figure(figure, path)
