"""What does each price take off each CPU one row later? A regression that says how far a minute table can tell.

    log CPU' = -slope · u' + controls + error

u' is the price in its coordinate, in force in the next row. The controls are all that may move price and CPU together:
traffic, CPU and prices of this row and the one before, the coming traffic, the time of day, the group, the other prices.
What they leave of u' moved independently of the load. Where nothing is left, no model can tell what the price does from what called for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.minute_table import SystemData, prices_in_force

_CERTAIN = 3.0  # standard errors from 0 at which an effect counts as seen
_HARDLY = 0.1  # log points per box: with an error below it, an effect that matters would show
OWN = 0.1  # share of a price's spread that must be its own: less may be the controls' misfit, and a model drowns it
_HARMONICS = (1, 2, 3)
_RANGES = ((0.25, 0.75), (0.05, 0.95), (0.0, 1.0))  # quantiles between which relief is taken: the first that differ
_MEMORY = 30  # rows over which errors may hang together
_NOTHING = 1e-6  # box units: what rounding leaves of a price that never moves by itself
_SPARE = 10  # rows needed beyond the number of terms


@dataclass(frozen=True)
class PriceEffects:
    """Prices in box units (coordinate u from 0 to 1), CPU in log points."""

    slope: np.ndarray  # (D, L) taken off log CPU per box unit; 0 where the table can't tell
    error: np.ndarray  # (D, L) its Newey-West standard error; infinite where the table can't tell
    relief: np.ndarray  # (D, L) taken off log CPU between the price's ends, where its slope may differ from that beyond
    relief_error: np.ndarray  # (D, L) its standard error, as above
    movement: np.ndarray  # (L,) deviation of the price's moves that controls and other prices leave
    alone: np.ndarray  # (L,) the same, not counting other prices among the controls
    answer: np.ndarray  # (L,) deviation of what present CPU and prices explain of it beyond traffic and time
    spread: np.ndarray  # (L,) deviation of the price
    ends: np.ndarray  # (2, L) the price's quartiles
    noise: np.ndarray  # (D,) deviation of the regression's errors
    rows: int  # used

    @property
    def sure(self) -> np.ndarray:
        """Whether the table shows the effect, bool (D, L): a dearer price lowers CPU."""
        return np.asarray(self._moved & (self.slope >= _CERTAIN * self.error))

    @property
    def told(self) -> np.ndarray:
        """Whether the table shows the effect, or that there is hardly any, bool (D, L)."""
        return np.asarray(self.sure | (self._moved & (self.error <= _HARDLY)))

    @property
    def _moved(self) -> np.ndarray:
        return np.asarray(np.isfinite(self.error) & (self.movement > OWN * self.spread))

    def own(self) -> list[int]:
        """The price of each service: its own, or else the one that is surest to lower its CPU."""
        services, prices = self.slope.shape
        certainty = self.slope / np.maximum(self.error, 1e-300)
        return list(range(services)) if services == prices else [int(j) for j in certainty.argmax(axis=1)]


def price_effects(data: SystemData, prices: PriceScale) -> PriceEffects:
    """The regression on all rows whose next one is known; too few of them tell nothing (infinite errors)."""
    now, coming = (prices.to_unit(np.clip(one, prices.low, prices.high)) for one in prices_in_force(data))
    rows = _usable(data, now, coming)
    ends = _ends(prices.to_unit(np.clip(data.price, prices.low, prices.high)))
    traffic, state = _traffic(data, rows), _state(data, rows, now)
    services, count = data.cpu.shape[1], now.shape[1]
    zero, none = np.zeros(count), np.zeros((services, count))
    if len(rows) < traffic.shape[1] + state.shape[1] + 6 * count + _SPARE:
        unknown = none + np.inf
        return PriceEffects(none, unknown, none, unknown, zero, zero, zero, zero, ends, np.zeros(services), len(rows))
    price, before, cpu = coming[rows], now[rows], np.log(data.next_cpu[rows])
    controls = np.column_stack([traffic, state, before])
    alone = _residual(controls, price)
    answer = np.maximum(_residual(traffic, price).var(axis=0) - alone.var(axis=0), 0.0)
    slope, error, noise = _slopes(controls, price, cpu, count)
    bent = np.column_stack([traffic, state, _pieces(before, ends)])
    between, between_error, _ = _slopes(bent, _pieces(price, ends), cpu, count)
    span = ends[1] - ends[0]
    return PriceEffects(
        slope=slope,
        error=error,
        relief=between * span,
        relief_error=between_error * np.where(span > 0, span, 1.0),
        movement=_moves([_residual(np.delete(alone, j, axis=1), alone[:, j]).std() for j in range(count)]),
        alone=_moves(alone.std(axis=0)),
        answer=_moves(np.sqrt(answer)),
        spread=_moves(price.std(axis=0)),
        ends=ends,
        noise=noise,
        rows=len(rows),
    )


def _slopes(
    controls: np.ndarray, terms: np.ndarray, cpu: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the first ``count`` terms take off log CPU, (D, count), its standard errors, and the deviation (D,) of the rest."""
    both = _residual(controls, np.column_stack([terms, cpu]))
    terms, cpu = both[:, : terms.shape[1]], both[:, terms.shape[1] :]
    rest = _residual(terms, cpu)
    wide = np.sqrt(len(cpu) / (len(cpu) - controls.shape[1] - terms.shape[1]))
    slope, error = np.zeros((cpu.shape[1], count)), np.full((cpu.shape[1], count), np.inf)
    for j in range(count):
        left = _residual(np.delete(terms, j, axis=1), terms[:, j])
        if left.std() > _NOTHING:
            power = left @ left
            slope[:, j] = -(left @ cpu) / power
            error[:, j] = [wide * long_run(left * one) / power for one in rest.T]
    return slope, error, wide * rest.std(axis=0)


def _moves(deviation: np.ndarray | list[float]) -> np.ndarray:
    """Deviations in box units, 0 where rounding is all there is."""
    return np.where(np.asarray(deviation) > _NOTHING, deviation, 0.0)


def _ends(unit: np.ndarray) -> np.ndarray:
    """The quartiles (2, L) of each price; where they are one, quantiles farther out."""
    ends = np.quantile(unit, _RANGES[0], axis=0)
    for wider in _RANGES[1:]:
        ends = np.where(ends[1] - ends[0] > _NOTHING, ends, np.quantile(unit, wider, axis=0))
    return np.asarray(ends)


def _pieces(unit: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Each price (n, L) between its ends, below and above them: (n, 3 L), 0 at the ends where they do not reach beyond."""
    low, high = ends
    return np.column_stack([np.clip(unit, low, high), np.minimum(unit - low, 0.0), np.maximum(unit - high, 0.0)])


def _usable(data: SystemData, now: np.ndarray, coming: np.ndarray) -> np.ndarray:
    """Rows with traffic, CPU and prices of this row, the one before and the next."""
    known = np.isfinite(now).all(axis=1)
    with np.errstate(invalid="ignore"):
        for part in (data.cpu, data.qps[:, None]):
            known &= (part > 0).all(axis=1)
        known[1:] &= data.follows[:-1] & known[:-1]
        known[:1] = False
        for part in (data.next_cpu, data.next_qps[:, None]):
            known &= (part > 0).all(axis=1)
    return np.flatnonzero(known & np.isfinite(coming).all(axis=1))


def _traffic(data: SystemData, rows: np.ndarray) -> np.ndarray:
    """Traffic of the next row, this one and the one before, each around its group's mean, time of day and group (n, K)."""
    parts = (data.next_qps[rows], data.qps[rows], data.qps[rows - 1])
    coming, present, past = (_within(np.log(part), data.group[rows]) for part in parts)
    turn = 2 * np.pi * (data.timestamps[rows].astype("datetime64[s]").astype(np.int64) % 86_400) / 86_400
    columns = [coming, coming**2, coming**3, present, present**2, past]
    columns += [wave(k * turn) for k in _HARMONICS for wave in (np.sin, np.cos)]
    return np.column_stack([np.eye(len(data.groups))[data.group[rows]], *columns])


def _state(data: SystemData, rows: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Log CPU of this row, its square, log CPU and prices of the row before (n, K): no answer to them is independent."""
    cpu, past = (_within(np.log(data.cpu[at]), data.group[rows]) for at in (rows, rows - 1))
    return np.column_stack([cpu, cpu**2, past, now[rows - 1]])


def _within(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Deviations from the mean of each row's group."""
    out = np.array(values)
    for g in np.unique(group):
        out[group == g] -= values[group == g].mean(axis=0)
    return out


def _residual(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What least squares on terms (n, K), which may hang together, leaves of values (n, …)."""
    size = np.sqrt((terms**2).mean(axis=0))
    terms = terms[:, size > _NOTHING] / size[size > _NOTHING]
    return np.asarray(values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0])


def long_run(scores: np.ndarray) -> float:
    """Root of the long-run variance of a sum of scores (n,), Bartlett weights (Newey and West)."""
    memory = min(_MEMORY, len(scores) // 10)
    total = float(scores @ scores)
    for lag in range(1, memory + 1):
        total += 2 * (1 - lag / (memory + 1)) * float(scores[lag:] @ scores[:-lag])
    return float(np.sqrt(max(total, 0.0)))
