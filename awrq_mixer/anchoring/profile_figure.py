"""Figures of anchoring: the global profile by sub-action, and what of a learner's personalisation revenue bears out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.anchor import Anchor
from awrq_mixer.anchoring.evidence import Slopes
from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.requests import RequestSpec
from marca_common.tables import write_table


def draw_profile(values: np.ndarray, spec: RequestSpec, path: Path) -> Path:
    """Mean value of each choice of each sub-action, the others averaged, as a share of the mean over all."""
    table, names = spec.joint_table(), spec.sub_actions
    figure, panels = new_figure(1, len(names), width=2.0 * max(len(names), 3), height=3.0, sharey=True, squeeze=False)
    for j, (panel, name) in enumerate(zip(panels[0], names)):
        means = [values[table[:, j] == choice].mean() / values.mean() for choice in range(spec.shape[j])]
        panel.plot(range(spec.shape[j]), means, "o-", ms=4)
        panel.axhline(1, color="0.4", lw=0.8)
        panel.set(title=name, xlabel="choice", xticks=range(spec.shape[j]))
    panels[0][0].set_ylabel("mean value / mean of all actions")
    figure.suptitle("What each choice is worth on average over all requests", fontsize=10)
    return save_figure(figure, path)


def draw_slopes(slopes: Slopes, anchor: Anchor, confidence: float, name: str, path: Path) -> Path:
    """Slope of held-out revenue along each direction with its error, and the share that is kept."""
    places, error = np.arange(len(slopes.slope)), np.where(np.isfinite(slopes.se), slopes.se, 0)
    figure, axis = new_figure(width=7.2, height=3.4)
    axis.bar(places, anchor.shares, color="0.85", width=0.7, label="share kept")
    axis.errorbar(
        places, slopes.slope, yerr=confidence * error, fmt="o", ms=4, color=COLORS[0], capsize=2,
        label=f"slope ± {confidence:g} standard errors",
    )  # fmt: skip
    axis.axhline(1, color="0.3", lw=0.8, ls="--")
    axis.set(
        title=f"{name}: how much of its personalisation held-out revenue bears out",
        xlabel="principal direction of departures from the mean shape",
        ylabel="slope (1 = as large as claimed)",
        ylim=(-0.6, 2.2),
        xticks=places,
        xticklabels=[*map(str, places[:-1] + 1), "rest"],
    )
    figure.legend(loc="outside lower center", ncols=2)  # whiskers may fill the whole panel
    return save_figure(figure, path)


def write_slopes(slopes: Slopes, anchor: Anchor, confidence: float, name: str, folder: Path) -> pd.DataFrame:
    """Write slopes.csv (`direction, slope, se, share`) and slopes.png; the table."""
    names = [*map(str, range(1, len(slopes.slope))), "rest"]
    table = pd.DataFrame({"direction": names, "slope": slopes.slope, "se": slopes.se, "share": anchor.shares})
    write_table(table.replace(np.inf, np.nan), folder / "slopes.csv")
    draw_slopes(slopes, anchor, confidence, name, folder / "slopes.png")
    return table
