"""Figures of a run of the revenue simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.figures import COLORS, new_figure, save_figure
from revenue_sim.judging.budget_curves import Curves


def write_all(folder: Path, table: pd.DataFrame, curves: Curves | None) -> list[Path]:
    """Write every figure of a run; returns their paths."""
    paths = [return_figure(table, folder / "return_pct.png")]
    if table["model"].nunique() > 1:
        paths.append(agreement_figure(table, folder / "return_vs_spearman.png"))
    if curves is not None:
        paths.append(curve_figure(curves, folder / "budget_curve.png"))
    return paths


def return_figure(table: pd.DataFrame, path: Path) -> Path:
    """Return% of every model with its interval, greedy and optimal."""
    means = table[table["seed"] == "mean"].sort_values("greedy")
    at = np.arange(len(means))
    figure, axis = new_figure(height=1.4 + 0.42 * len(means))
    columns = (("greedy", "ci_low", "ci_high", -0.1), ("optimal", "optimal_ci_low", "optimal_ci_high", 0.1))
    for color, (key, low, high, shift) in zip(COLORS, columns):
        error = np.maximum(0.0, np.stack([means[key] - means[low], means[high] - means[key]]))
        axis.errorbar(means[key], at + shift, xerr=error, fmt="o", color=color, capsize=3, label=f"{key} quotas")
    axis.axvline(100.0, color="0.5", linewidth=1)
    axis.set_yticks(at, means["model"])
    axis.set_ylim(-0.6, len(means) - 0.4)
    axis.set_xlabel("Return%: revenue in percent of the reference's own allocation")
    axis.set_title("Offline return of each model's allocation,\n95 % intervals over states and seeds")
    axis.legend(loc="best")
    return save_figure(figure, path)


def curve_figure(curves: Curves, path: Path) -> Path:
    """Revenue per request against the budget, for every model, the clairvoyant and the best static mixture."""
    figure, axis = new_figure()
    fixed = {"clairvoyant": ("black", "-"), "static": ("0.55", "--")}
    colors = iter(COLORS * 4)
    for name, part in curves.table.groupby("strategy", sort=False):
        color, line = fixed[str(name)] if name in fixed else (next(colors), "-")
        axis.plot(part["budget"], part["value"], color=color, linestyle=line, label=str(name))
    axis.axvline(curves.reference, color="0.6", linewidth=1, linestyle=":", label="reference budget")
    axis.set_xlabel("budget, core-ms per request (all services)")
    axis.set_ylabel("revenue per request, by reference values")
    axis.set_title("What a budget earns")
    axis.legend(loc="lower right")
    return save_figure(figure, path)


def agreement_figure(table: pd.DataFrame, path: Path) -> Path:
    """Does rank correlation order models as Return% does?"""
    means = table[table["seed"] == "mean"]
    figure, axes = new_figure(1, 2, height=3.4, sharey=True)
    titles = {"spearman": "r_s over all pairs", "spearman_within": "mean r_s within a state"}
    for axis, (key, title) in zip(axes, titles.items()):
        for rank, color, (_, one) in zip(means["greedy"].rank(method="first"), COLORS * 4, means.iterrows()):
            axis.plot(one[key], one["greedy"], "o", color=color)
            where = (5, 3 if rank % 2 else -10)  # one above, the next below: neighbours' names stay apart
            axis.annotate(one["model"], (one[key], one["greedy"]), xytext=where, textcoords="offset points", fontsize=8)
        axis.set_xlabel(title)
        axis.margins(0.18)
    axes[0].set_ylabel("Return% (greedy quotas)")
    figure.suptitle("Return% and rank correlation, one point per model", fontsize=11)
    return save_figure(figure, path)
