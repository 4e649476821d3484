"""Figures of a simulated day, one line per strategy.

Input is the minute table of the closed loop: ``strategy, seed, group, minute, qps, requests, revenue, timeouts,
degradation, budget_<service>, cpu_<service>, lambda_<service>``, one row per strategy, seed, data centre and minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from marca_common.figures import new_figure, save_figure
from marca_report.looks import Look

Looks = Mapping[str, Look]  # by strategy, in the order of legends and bars


def draw_revenue(minutes: pd.DataFrame, path: Path, looks: Looks, baseline: str) -> Path:
    """Revenue rate over the first day, and what each strategy has earned more than the baseline so far."""
    minutes = with_hour(minutes)
    rate = minutes.groupby(["strategy", "hour"])["revenue"].sum().unstack(0) / minutes["seed"].nunique()
    first = rate[rate.index < rate.index.min() + 24]
    unit, name = (1e6, "million money") if rate.max().max() > 1e6 else (1.0, "money")
    scale, axis_name = (24, "days") if len(rate) > len(first) else (1, "hour of day")
    figure, (top, bottom) = new_figure(2, 1, height=5.6)
    for strategy, look in looks.items():
        smooth = first[strategy].rolling(15, center=True, min_periods=1).mean() / unit
        top.plot(first.index, smooth, color=look.color, label=look.label, lw=1.4)
        if strategy != baseline:
            uplift = 100 * (rate[strategy].cumsum() / rate[baseline].cumsum() - 1)
            bottom.plot(rate.index[30:] / scale, uplift.iloc[30:], color=look.color, lw=1.4)
    top.set(title="Revenue over the first day (15-minute mean)", ylabel=f"{name} per minute", xlabel="hour of day")
    bottom.axhline(0, color="0.3", lw=0.8)
    bottom.set(title=f"Earned since the start, against the {looks[baseline].label}", xlabel=axis_name)
    bottom.set_ylabel("uplift in %")
    _hours(top)
    _hours(bottom)
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return save_figure(figure, path)


def draw_cpu(minutes: pd.DataFrame, services: Sequence[str], path: Path, looks: Looks) -> Path:
    """CPU of every service and data centre against its budget, on the first day."""
    groups = sorted(minutes["group"].unique())
    day = _one_day(minutes)
    figure, axes = new_figure(
        len(services), len(groups), width=8.4, height=2.6 * len(services) + 0.4, sharex=True, sharey=True, squeeze=False
    )
    for row, service in enumerate(services):
        for column, group in enumerate(groups):
            axis = axes[row][column]
            part = day[day["group"] == group]
            for strategy in looks:
                one = part[part["strategy"] == strategy]
                smooth = one[f"cpu_{service}"].rolling(5, center=True, min_periods=1).mean()
                axis.plot(one["hour"], smooth, color=looks[strategy].color, lw=0.9, label=looks[strategy].label)
            axis.axhline(part[f"budget_{service}"].iloc[0], color="0.2", lw=1.0, ls="--", label="budget")
            axis.set_title(f"{group} · {service}")
            _hours(axis)
            if column == 0:
                axis.set_ylabel("CPU in %, 5-minute mean")
            if row == len(services) - 1:
                axis.set_xlabel("hour of day")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return save_figure(figure, path)


def draw_lambda(minutes: pd.DataFrame, services: Sequence[str], path: Path, looks: Looks) -> Path:
    """The price of computation, of the strategies that set one, and the traffic it answers to, on the first day."""
    strategies = [
        name
        for name in looks
        if (minutes.loc[minutes["strategy"] == name, [f"lambda_{one}" for one in services]] > 0).any(axis=None)
    ]
    day = _one_day(minutes)
    groups = sorted(day["group"].unique())
    figure, axes = new_figure(
        len(services) + 1,
        len(groups),
        width=8.4,
        height=2.1 * (len(services) + 1) + 0.4,
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for column, group in enumerate(groups):
        part = day[day["group"] == group]
        first = part[part["strategy"] == next(iter(looks))]
        axes[0][column].plot(first["hour"], first["qps"], color="0.35", lw=0.8)
        axes[0][column].set_title(f"{group} · traffic")
        for row, service in enumerate(services, start=1):
            for strategy in strategies:
                one = part[part["strategy"] == strategy]
                axes[row][column].plot(
                    one["hour"],
                    1e3 * one[f"lambda_{service}"],
                    color=looks[strategy].color,
                    lw=0.8,
                    label=looks[strategy].label,
                )
            axes[row][column].set_title(f"{group} · price of {service}")
        axes[-1][column].set_xlabel("hour of day")
        _hours(axes[-1][column])
    axes[0][0].set_ylabel("requests/s")
    for row in range(1, len(services) + 1):
        axes[row][0].set_ylabel("λ, money per\ncore-second")
    handles, labels = axes[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return save_figure(figure, path)


def draw_uplifts(numbers: Mapping[str, Mapping[str, float]], path: Path, looks: Looks, baseline: str) -> Path:
    """What each strategy earns more than the baseline, one bar each."""
    shown = [name for name in looks if name in numbers and name != baseline]
    figure, axis = new_figure(height=1.4 + 0.4 * len(shown))
    uplifts = [numbers[name]["uplift_pct"] for name in shown]
    bars = axis.barh(
        [looks[name].label for name in shown], uplifts, color=[looks[one].color for one in shown], height=0.55
    )
    axis.bar_label(bars, fmt="%+.1f %%", padding=3)
    axis.set(xlabel=f"revenue over the {looks[baseline].label}, %")
    axis.invert_yaxis()
    axis.margins(x=0.2)
    return save_figure(figure, path)


def with_hour(minutes: pd.DataFrame) -> pd.DataFrame:
    """The table with ``hour``: hours since midnight before its first minute."""
    first = pd.Timestamp(minutes["timestamp"].min())
    return minutes.assign(hour=(minutes["timestamp"] - first.normalize()).dt.total_seconds() / 3600)


def _one_day(minutes: pd.DataFrame) -> pd.DataFrame:
    """The first seed's first 24 hours."""
    one = with_hour(minutes[minutes["seed"] == minutes["seed"].min()])
    return one[one["hour"] < one["hour"].min() + 24]


def _hours(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 3, 4, 6, 10], integer=True))
    axis.margins(x=0.01)
