"""One look for all figures, drawn without pyplot: a notebook's own figures and backend stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from marca_common.files import atomic_path

# Okabe-Ito: told apart in print and by colour-blind readers.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.size": 9.5,
    "figure.constrained_layout.use": True,
}


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.2, height: float = 3.8, **options: Any
) -> tuple[Figure, Any]:
    """Figure and axes (one, or an array of them) in the house style; options go to ``Figure.subplots``."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, **options)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG atomically."""
    for legend in [*figure.legends, *(axis.get_legend() for axis in figure.axes)]:
        if legend is not None:
            legend.set_frame_on(False)
    with matplotlib.rc_context(_STYLE), atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return Path(path)
