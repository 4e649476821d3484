"""Can this table say what λ does, and what has the model learned of it?

A model that never saw λ move by itself predicts well, better than most: such days are easy. It then guesses what a price does,
and a controller relies on the guess. So the table is judged before training, and the model by its relief and by its
skill at price moves, not by its error alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from marca_common.spread import is_flat
from mpc_balancer.system_model.minute_table import SystemData, prices_in_force
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.price_effects import OWN, PriceEffects
from mpc_balancer.system_model.training_windows import Windows, make_windows

_TOGETHER = 0.1  # share of a price's own moves that other prices must leave
_ROWS = 4096  # most rows that the model's relief is a mean of


def unidentified(data: SystemData, effects: PriceEffects) -> list[str]:
    """For each service of which the table can't tell what its price does, a sentence that says why."""
    notes = []
    for i, price in enumerate(effects.own()):
        if not effects.told[i, price]:
            cpu, name = data.layout.cpu[i], data.layout.price[price]
            notes.append(f"what {name!r} takes off {cpu!r} cannot be learned: {_reason(data, effects, i, price)}")
    return notes


def _reason(data: SystemData, effects: PriceEffects, service: int, price: int) -> str:
    if is_flat(data.price[:, price]):
        return f"it is {data.price[0, price]:g} in all rows"
    if not effects.spread[price]:
        return f"{effects.rows} rows with a known next row are too few"
    alone = effects.alone[price]
    if alone > OWN * effects.spread[price] and effects.movement[price] < _TOGETHER * alone:
        return "it moved only together with the other prices (if they are one, name one of them in columns.price)"
    own = effects.movement[price] / effects.spread[price]
    if own <= OWN:
        return f"only {own:.1%} of its spread is moves that its last values, CPU, traffic and the time of day don't foretell"
    return f"between its quartiles it takes {_by_regression(effects, service, price)} log points off"


def _by_regression(effects: PriceEffects, service: int, price: int) -> str:
    return f"{effects.relief[service, price]:.2g} ± {effects.relief_error[service, price]:.1g}"


def swapped(data: SystemData, effects: PriceEffects) -> list[str]:
    """For each pair of prices that act more on the other's service than on their own, a sentence that names them."""
    slope, error = effects.slope, effects.error
    names, notes = data.layout.price, []
    if slope.shape[0] != slope.shape[1]:
        return []
    for i in range(len(slope)):
        for j in range(i):
            crossed = all(
                effects.sure[a, b] and slope[a, b] - slope[a, a] > 2 * np.hypot(error[a, a], error[a, b])
                for a, b in ((i, j), (j, i))
            )
            if crossed:
                notes.append(
                    f"columns {names[j]!r} and {names[i]!r} look swapped: {names[j]!r} takes {slope[i, j]:.2g} log points per"
                    f" box off {data.layout.cpu[i]!r} and {slope[j, j]:.2g} off {data.layout.cpu[j]!r}"
                )
    return notes


def learned_relief(model: SystemModel, data: SystemData, effects: PriceEffects) -> dict[str, Any]:
    """Per service: what its price, going from the lower to the upper quartile seen, takes off its CPU in the next row.

    ``relief``: log points, mean over rows, by the model. ``relief_se``: the regression's standard error and the distance
    between model and regression, added as squares; None where the table can't tell. ``own_moves``: the price's
    independent movement, box units.
    """
    windows = make_windows(data, model.features, model.prices, 1)
    out: dict[str, Any] = {"relief": {}, "relief_se": {}, "own_moves": {}}
    for i, (service, price) in enumerate(zip(model.services, effects.own())):
        relief = _model_relief(model, windows, i, price, effects.ends[:, price])
        error = effects.relief_error[i, price]
        seen = np.hypot(error, relief - effects.relief[i, price]) if np.isfinite(error) else None
        out["relief"][service] = relief
        out["relief_se"][service] = None if seen is None else float(seen)
        out["own_moves"][service] = float(effects.movement[price])
    return out


def _model_relief(model: SystemModel, windows: Windows, service: int, price: int, ends: np.ndarray) -> float:
    rows = np.unique(np.linspace(0, len(windows) - 1, _ROWS).astype(int))
    level = []
    for value in ends:
        unit = windows.unit[rows, 0].copy()
        unit[:, price] = value
        cpu = model.step_rows(windows.cpu[rows], unit, windows.exogenous[rows, 0], windows.traffic[rows, 0])
        level.append(np.log(np.maximum(cpu[:, service], 0.1)).mean())
    return float(level[0] - level[1])


def unsure(relief: dict[str, Any], effects: PriceEffects) -> list[str]:
    """A sentence for each service whose learned relief is not known to within half of itself."""
    notes = []
    for i, (service, price) in enumerate(zip(relief["relief"], effects.own())):
        value, error = relief["relief"][service], relief["relief_se"][service]
        if error is not None and error > max(value, 0.0) / 2:
            notes.append(
                f"what λ takes off {service}'s CPU was learned as {value:.2g} log points, by regression it is"
                f" {_by_regression(effects, i, price)}: train longer, or let λ move"
                " more by itself (python -m mpc_balancer.commission)"
            )
    return notes


def price_move_skill(model: SystemModel, data: SystemData) -> float:
    """Share of the squared one-step error that knowing λ's moves removes: 1 - SSE / SSE with λ held as it was.

    0 for a model that knows nothing of λ, and where λ never moved; negative where what it believes of λ does harm.
    """
    windows = make_windows(data, model.features, model.prices, 1)
    now = prices_in_force(data)[0][windows.row]
    known = np.isfinite(now).all(axis=1)
    held = model.prices.to_unit(model.prices.clip(now))
    error = [_squared_error(model, windows, unit, known) for unit in (windows.unit[:, 0], held)]
    return 1 - error[0] / error[1] if error[1] > 0 else 0.0


def _squared_error(model: SystemModel, windows: Windows, unit: np.ndarray, known: np.ndarray) -> float:
    cpu = model.step_rows(windows.cpu, unit, windows.exogenous[:, 0], windows.traffic[:, 0])
    return float((windows.mask[known, 0] * (cpu - windows.target[:, 0])[known] ** 2).sum())
