"""Load-test rows → cost maps (Eq. 26, Appendix B): `python -m autobucket.fit_costs --config configs/autobucket/costs.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.costs.additive import AdditiveFit, fit_additive
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.cost_figures import draw_cost_maps
from autobucket.costs.measured_costs import measured_costs, read_loadtest, round_cv
from marca_common.cli import run_cli
from marca_common.cost_maps import ActionsConfig, CostMaps, ServiceMap
from marca_common.errors import UserError
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table


@dataclass
class FitCostsResult:
    """Fitted maps and how good they are."""

    maps: CostMaps
    rows: pd.DataFrame
    summary: dict[str, Any]


def fit_costs(config: FitCostsConfig, out: str | Path) -> FitCostsResult:
    """Fit additive, monotone cost maps per data centre and service to load-test rows.

    Writes ``cost_maps.json`` (docs/autobucket.md), ``measured.csv`` (each row's cost and fit), ``cost_curves.png`` and
    ``summary.json``.
    """
    with RunFolder(out, config) as run:
        rows = read_loadtest(config)
        generator = numpy_generator(config.seed, "autobucket", "fit_costs")
        maps: dict[str, dict[str, ServiceMap]] = {}
        measured = []
        for (idc, service), part in rows.groupby(["idc", "service"], sort=False, observed=True):
            one, table = fit_service(config, str(idc), str(service), part.reset_index(drop=True), generator)
            maps.setdefault(str(idc), {})[str(service)] = one
            measured.append(table)
        services = tuple(dict.fromkeys(rows["service"].astype(str)))
        _require_all(config.loadtest, maps, services)
        for note in _short_of_lengths(maps):
            run.warn(note)
        fitted = CostMaps(services, tuple(maps), config.actions, maps)
        fitted.save(run.path / "cost_maps.json")
        table = pd.concat(measured, ignore_index=True)
        write_table(table, run.path / "measured.csv")
        draw_cost_maps(fitted, table, run.path / "cost_curves.png")
        summary = _summary(fitted, table)
        run.write_summary(summary)
        return FitCostsResult(fitted, table, summary)


def fit_service(
    config: FitCostsConfig, idc: str, service: str, rows: pd.DataFrame, generator: np.random.Generator
) -> tuple[ServiceMap, pd.DataFrame]:
    """The map of one service from its rows, and the rows with measured ``cost`` and ``fitted`` in core-ms."""
    place = f"{config.loadtest}: {idc}.{service}"
    idle, table = measured_costs(config, rows, place)
    normal = table["degradation"] == 0
    if not normal.any():
        raise UserError(f"{place}: no usable row with degradation 0")
    rows = table[normal].reset_index(drop=True)
    fit = fit_additive(config, rows, place)
    load, sensitivity = load_dependence(fit)
    if abs(sensitivity) > config.rate_threshold_pct:
        factor = np.interp(_expected_load(fit), *load)
        fit = fit_additive(config, rows.assign(cost=rows["cost"] / factor), place)
    else:
        load, factor = ([0.0], [1.0]), np.ones(len(rows))
    table["fitted"] = fit.predict(table)
    quality = fit.quality(config, generator) | {
        "rate_sensitivity_pct": sensitivity,
        "round_cv_pct": round_cv(rows),
        "rows": len(rows),
        "median_error_pct": float(100 * np.median(np.abs(fit.fitted * factor / rows["cost"] - 1))),
    }
    degradation = degradation_costs(table, config.actions)
    one = fit.to_map(config, generator)
    return replace(one, load=load, degradation=degradation, idle_percent=idle, quality=quality), table


def load_dependence(fit: AdditiveFit) -> tuple[tuple[list[float], list[float]], float]:
    """How cost changes with load: (percent, factor) with factor 1 at the higher load, and the change in percent.

    log(cost / fit) is regressed on the load expected from the fit (not on the measured one, whose noise is in the cost).
    """
    expected = _expected_load(fit)
    low, high = np.quantile(expected, [0.1, 0.9])
    if high - low < 1.0:
        return ([0.0], [1.0]), 0.0
    ratio = np.log(fit.rows["cost"].to_numpy() / fit.fitted)
    centred = expected - expected.mean()
    slope = float((centred * ratio).sum() / (centred**2).sum())
    factors = np.exp(slope * (np.array([low, high]) - high))
    return ([float(low), float(high)], factors.tolist()), float(100 * (np.exp(slope * (high - low)) - 1))


def degradation_costs(table: pd.DataFrame, actions: ActionsConfig) -> tuple[list[float], list[float]]:
    """f(D) of Eq. 1: mean cost at level D less that at level 0, over settings measured at both; 0 at level 0.

    Settings match by their asked lengths where those stand in the table at both levels, else by everything but the lengths.
    """
    keys = [*(["channels"] if actions.channels is not None else []), *actions.switches, "bucket"]
    for names in ([*keys, *actions.elements], keys):
        mean = table.groupby([*names, "degradation"], observed=True)["cost"].mean().unstack("degradation")
        levels = [value for value in mean.columns if value > 0]
        changes = {level: (mean[level] - mean[0.0]).dropna() for level in levels} if 0.0 in mean else {}
        if levels and all(len(change) for change in changes.values()):
            return [0.0, *map(float, changes)], [0.0, *(float(change.mean()) for change in changes.values())]
    return [0.0], [0.0]


def _expected_load(fit: AdditiveFit) -> np.ndarray:
    """Utilisation in percent that the fitted costs of its rows make, (rows,)."""
    cores = (fit.rows["machines"] * fit.rows["cores"]).to_numpy(np.float64)
    return np.asarray(fit.fitted * fit.rows["qps"].to_numpy() / (10 * cores))


def _require_all(path: Path, maps: dict[str, dict[str, ServiceMap]], services: tuple[str, ...]) -> None:
    for idc, by in maps.items():
        missing = [name for name in services if name not in by]
        if missing:
            raise UserError(f"{path}: data centre {idc!r} has no rows of service {missing[0]!r}")


def _short_of_lengths(maps: dict[str, dict[str, ServiceMap]]) -> list[str]:
    """What to say of queues that were measured at one length only, a sentence each."""
    return [
        f"{idc}.{service}: {element} ({setting}) was measured at the one length {curve.x[0]:g}: its cost is part of the base, "
        "and does not grow with it"
        for idc, by in maps.items()
        for service, one in by.items()
        for element, curves in one.queues.items()
        for setting, curve in curves.items()
        if len(curve.x) == 1
    ]


def _summary(maps: CostMaps, table: pd.DataFrame) -> dict[str, Any]:
    ones = {f"{idc}.{name}": one for idc, by in maps.maps.items() for name, one in by.items()}
    return {
        "rows": len(table),
        "median_error_pct": float(np.median([one.quality["median_error_pct"] for one in ones.values()])),
        "left_out_error_pct": float(np.median([one.quality["left_out_error_pct"] for one in ones.values()])),
        "rate_sensitivity_pct": {name: one.quality["rate_sensitivity_pct"] for name, one in ones.items()},
        "additivity_pct": {name: one.quality["additivity"]["worst_pct"] for name, one in ones.items()},
        "idle_percent": {name: one.idle_percent for name, one in ones.items()},
        "degradation": {
            name: dict(zip(map(str, one.degradation[0]), one.degradation[1])) for name, one in ones.items()
        },
    }


if __name__ == "__main__":
    run_cli(
        fit_costs, FitCostsConfig, default_config="configs/autobucket/costs.yaml", default_out="runs/autobucket-costs"
    )
