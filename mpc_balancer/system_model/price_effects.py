"""What does each price take off each CPU one row later? A regression that says how far a minute table can tell.

    log CPU' = -slope · u' + controls + error

u' is the price in its coordinate, in force in the next row. The controls are all that may move price and CPU together:
the traffic of both rows, CPU and prices now, the time of day, the group. What they leave of u' moved independently of
the load. Where nothing is left, no model can tell what the price does from what called for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.minute_table import SystemData, prices_in_force

_CERTAIN = 3.0  # standard errors from 0 at which an effect counts as seen
_HARDLY = 0.1  # log points per box: with an error below it, an effect that matters would show
_HARMONICS = (1, 2, 3)
_MEMORY = 30  # rows over which errors may hang together
_NOTHING = 1e-6  # box units: what rounding leaves of a price that never moves by itself
_SPARE = 10  # rows needed beyond the number of terms


@dataclass(frozen=True)
class PriceEffects:
    """Prices in box units (coordinate u from 0 to 1), CPU in log points."""

    slope: np.ndarray  # (D, L) taken off log CPU per box unit; 0 where the table can't tell
    error: np.ndarray  # (D, L) its Newey-West standard error; infinite where the table can't tell
    movement: np.ndarray  # (L,) deviation of the price's moves that controls and other prices leave
    alone: np.ndarray  # (L,) the same, not counting other prices among the controls
    answer: np.ndarray  # (L,) deviation of what present CPU and prices explain of it beyond traffic and time
    spread: np.ndarray  # (L,) deviation of the price
    span: np.ndarray  # (L,) distance of its quartiles
    noise: np.ndarray  # (D,) deviation of the regression's errors, log points
    rows: int  # used

    @property
    def certainty(self) -> np.ndarray:
        """Slope over its standard error, (D, L)."""
        return np.where(np.isfinite(self.error), self.slope / np.maximum(self.error, 1e-300), 0.0)

    @property
    def told(self) -> np.ndarray:
        """Whether the table shows the effect, or that there is hardly any, bool (D, L)."""
        return self.sure | (self.error <= _HARDLY)

    @property
    def sure(self) -> np.ndarray:
        """Whether the table shows the effect, bool (D, L): a dearer price lowers CPU beyond the regression's noise."""
        return self.certainty >= _CERTAIN

    def own(self) -> list[int]:
        """The price of each service: its own, or else the one that is surest to lower its CPU."""
        services, prices = self.slope.shape
        return list(range(services)) if services == prices else [int(j) for j in self.certainty.argmax(axis=1)]


def price_effects(data: SystemData, prices: PriceScale) -> PriceEffects:
    """The regression on all rows whose next one is known; too few of them tell nothing (infinite errors)."""
    now, coming = (prices.to_unit(np.clip(one, prices.low, prices.high)) for one in prices_in_force(data))
    rows = _usable(data, now, coming)
    price, cpu = coming[rows], _log(data.next_cpu[rows])
    outer, inner = _outer_controls(data, rows), _inner_controls(data, rows, now)
    services, count = cpu.shape[1], price.shape[1]
    terms = outer.shape[1] + inner.shape[1] + count
    empty = np.full((services, count), np.inf)
    if len(rows) < terms + _SPARE:
        zero = np.zeros(count)
        return PriceEffects(0 * np.ones_like(empty), empty, zero, zero, zero, zero, zero, np.zeros(services), len(rows))
    before = _residual(outer, price)
    both = _residual(np.column_stack([outer, inner]), np.column_stack([price, cpu]))
    alone, cpu = both[:, :count], both[:, count:]
    left = np.column_stack([_residual(np.delete(alone, j, axis=1), alone[:, j]) for j in range(count)])
    error = _residual(alone, cpu)
    told = left.std(axis=0) > _NOTHING
    power = np.where(told, (left**2).sum(axis=0), 1.0)
    slope = np.where(told, -(cpu.T @ left) / power, 0.0)
    wide = np.sqrt(len(rows) / (len(rows) - terms))
    deviation = [[wide * _long_run(left[:, j] * error[:, i]) / power[j] for j in range(count)] for i in range(services)]
    return PriceEffects(
        slope=slope,
        error=np.where(told, deviation, np.inf),
        movement=np.where(told, left.std(axis=0), 0.0),
        alone=alone.std(axis=0),
        answer=np.sqrt(np.maximum(before.var(axis=0) - alone.var(axis=0), 0.0)),
        spread=price.std(axis=0),
        span=np.diff(np.quantile(price, [0.25, 0.75], axis=0), axis=0)[0],
        noise=wide * error.std(axis=0),
        rows=len(rows),
    )


def _usable(data: SystemData, now: np.ndarray, coming: np.ndarray) -> np.ndarray:
    """Rows with traffic, CPU and prices of this row and the next."""
    known = np.isfinite(now).all(axis=1) & np.isfinite(coming).all(axis=1)
    with np.errstate(invalid="ignore"):
        for part in (data.cpu, data.next_cpu, data.qps[:, None], data.next_qps[:, None]):
            known &= (part > 0).all(axis=1)
    return np.flatnonzero(known)


def _outer_controls(data: SystemData, rows: np.ndarray) -> np.ndarray:
    """Traffic of both rows and the time of day (n, K), each around its mean within the group; and the constant."""
    coming, present = (_within(_log(part[rows]), data.group[rows]) for part in (data.next_qps, data.qps))
    turn = 2 * np.pi * (data.timestamps[rows].astype("datetime64[s]").astype(np.int64) % 86_400) / 86_400
    columns = [coming, coming**2, coming**3, present, present**2]
    columns += [wave(k * turn) for k in _HARMONICS for wave in (np.sin, np.cos)]
    return np.column_stack([np.eye(len(data.groups))[data.group[rows]], *columns])


def _inner_controls(data: SystemData, rows: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Present CPU and prices (n, K): a controller's answer to them is no independent move."""
    cpu = _within(_log(data.cpu[rows]), data.group[rows])
    return np.column_stack([cpu, cpu**2, now[rows]])


def _log(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(values))


def _within(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Deviations from the mean of each row's group."""
    out = np.array(values)
    for g in np.unique(group):
        out[group == g] -= values[group == g].mean(axis=0)
    return out


def _residual(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What least squares on terms (n, K), which may hang together, leaves of values (n, …)."""
    size = np.sqrt((terms**2).sum(axis=0))
    terms = terms[:, size > 0] / size[size > 0]
    return np.asarray(values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0])


def _long_run(scores: np.ndarray) -> float:
    """Root of the long-run variance of a sum of scores (n,), Bartlett weights (Newey and West)."""
    memory = min(_MEMORY, len(scores) // 10)
    total = float(scores @ scores)
    for lag in range(1, memory + 1):
        total += 2 * (1 - lag / (memory + 1)) * float(scores[lag:] @ scores[:-lag])
    return float(np.sqrt(max(total, 0.0)))
