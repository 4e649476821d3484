"""The additive monotone model of measured costs: base + switches + Σ channels + queue curves, one convex fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.queue_curves import choose_knots, ramp_basis
from marca_common.cost_maps import ALL, Curve, ServiceMap, channel_names, interpolate
from marca_common.errors import UserError
from marca_common.spread import is_flat

_REWEIGHTINGS = 3
_LEAST = 1e-3  # core-ms; a smaller fitted cost has no meaningful ratio


@dataclass
class Block:
    """Consecutive columns of the design that belong together."""

    kind: str  # base | switch | channel | queue
    name: str  # switch, channel or element
    setting: str  # the setting it applies to, or "all"
    knots: np.ndarray | None = None
    columns: slice = field(default_factory=lambda: slice(0))


class Design:
    """Turns rows into a non-negative regression's columns; fixed by the rows it was made for."""

    def __init__(self, config: FitCostsConfig, rows: pd.DataFrame, place: str) -> None:
        self.actions, self.place = config.actions, place
        self.switches = {
            name: _settings(rows[name], setting.values) for name, setting in config.actions.switches.items()
        }
        self.blocks = [Block("base", "", ALL), *self._switch_blocks(), *self._channel_blocks(rows)]
        self.blocks += self._queue_blocks(rows, config)
        at = 0
        for block in self.blocks:
            width = {"switch": 2, "queue": 0 if block.knots is None else len(block.knots) - 1}.get(block.kind, 1)
            block.columns = slice(at, at + width)
            at += width
        self.width = at

    def matrix(self, rows: pd.DataFrame) -> np.ndarray:
        """(rows, width)."""
        out = np.zeros((len(rows), self.width))
        on = {name: _indicators(rows[name]) for name in self.switches}
        sets = _indicators(rows["channels"], channel_names) if self.actions.channels is not None else {}
        for block in self.blocks:
            if block.kind == "base":
                out[:, block.columns] = 1.0
                continue
            shown = self._shown(block, on, len(rows))
            if block.kind == "switch":  # a difference may have either sign: one column for each
                out[:, block.columns] = np.stack([shown, -shown], axis=1)
            elif block.kind == "channel":
                out[:, block.columns] = (shown * sets.get(block.name, 0.0))[:, None]
            else:
                assert block.knots is not None
                out[:, block.columns] = shown[:, None] * ramp_basis(rows[block.name].to_numpy(), block.knots)
        return out

    def roughness(self) -> np.ndarray:
        """Rows whose product with the coefficients is a curve's change of slope times its mean segment, core-ms."""
        parts = []
        for block in self.blocks:
            if block.kind != "queue" or block.knots is None or len(block.knots) < 3:
                continue
            widths = np.diff(block.knots)
            part = np.zeros((len(widths) - 1, self.width))
            columns = np.arange(block.columns.start, block.columns.stop)
            for k in range(len(widths) - 1):
                part[k, columns[k]] = -widths.mean() / widths[k]
                part[k, columns[k + 1]] = widths.mean() / widths[k + 1]
            parts.append(part)
        return np.concatenate(parts) if parts else np.zeros((0, self.width))

    def _shown(self, block: Block, on: Mapping[str, dict[str, np.ndarray]], size: int) -> np.ndarray:
        """1 where the block's setting is in force, (rows,)."""
        by_kind = {"switch": block.name, "channel": self.actions.channel_switch}
        switch = by_kind[block.kind] if block.kind in by_kind else self.actions.elements[block.name].switch
        if switch is None or block.setting == ALL:
            return np.ones(size)
        return on[switch].get(block.setting, np.zeros(size))

    def _by_setting(self, switch: str | None) -> Sequence[str]:
        return [ALL] if switch is None else self.switches[switch]

    def _switch_blocks(self) -> list[Block]:
        return [Block("switch", name, value) for name, values in self.switches.items() for value in values[1:]]

    def _channel_blocks(self, rows: pd.DataFrame) -> list[Block]:
        if self.actions.channels is None:
            return []
        found = sorted({name for value in rows["channels"].astype(str).unique() for name in channel_names(value)})
        wanted = {name for value in self.actions.channels.values for name in channel_names(value)}
        missing = sorted(wanted - set(found))
        if missing:
            raise UserError(f"{self.place}: channel {missing[0]!r} was never measured; found {found}")
        return [
            Block("channel", c, setting) for setting in self._by_setting(self.actions.channel_switch) for c in found
        ]

    def _queue_blocks(self, rows: pd.DataFrame, config: FitCostsConfig) -> list[Block]:
        blocks = []
        for name, element in self.actions.elements.items():
            for setting in self._by_setting(element.switch):
                shown = (
                    slice(None) if element.switch is None else (rows[element.switch].astype(str) == setting).to_numpy()
                )
                lengths = rows[name].to_numpy()[shown]
                blocks.append(Block("queue", name, setting, choose_knots(lengths, config.max_knots, config.merge_pct)))
        return blocks


@dataclass
class AdditiveFit:
    """Coefficients of a design, with the rows they were fitted to."""

    design: Design
    coefficients: np.ndarray  # (width,), all ≥ 0
    rows: pd.DataFrame
    matrix: np.ndarray  # of the rows, (rows, width)
    smoothness: float

    @cached_property
    def fitted(self) -> np.ndarray:
        """Cost in core-ms of its own rows (rows,)."""
        return np.asarray(np.maximum(self.matrix @ self.coefficients, _LEAST))

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Cost in core-ms of any rows (M,)."""
        return np.asarray(np.maximum(self.design.matrix(rows) @ self.coefficients, _LEAST))

    def to_map(self, config: FitCostsConfig, generator: np.random.Generator) -> ServiceMap:
        """The coefficients as a map, curves with a bootstrap band (wild, on relative residuals)."""
        draws = self._bootstrap(config.bootstrap, generator)
        tail = (1 - config.confidence) / 2
        switches: dict[str, dict[str, float]] = {name: {v[0]: 0.0} for name, v in self.design.switches.items()}
        channels: dict[str, dict[str, float]] = {}
        queues: dict[str, dict[str, Curve]] = {}
        base = 0.0
        for block in self.design.blocks:
            part = self.coefficients[block.columns]
            if block.kind == "base":
                base = float(part[0])
            elif block.kind == "switch":
                switches[block.name][block.setting] = float(part[0] - part[1])
            elif block.kind == "channel":
                channels.setdefault(block.setting, {})[block.name] = float(part[0])
            else:
                assert block.knots is not None
                cost = np.concatenate([[0.0], np.cumsum(part)])
                steps = np.concatenate([np.zeros((len(draws), 1)), np.cumsum(draws[:, block.columns], axis=1)], axis=1)
                low, high = np.quantile(steps, [tail, 1 - tail], axis=0) if len(draws) else (cost, cost)
                queues.setdefault(block.name, {})[block.setting] = Curve(block.knots, cost, low, high)
        base, queues = _anchored_at_zero(base, queues)
        return ServiceMap(base, switches, channels, queues)

    def quality(self, config: FitCostsConfig, generator: np.random.Generator) -> dict[str, Any]:
        """Fit of the rows, error on settings left out of the fit, additivity of the channels."""
        y, fitted = self.rows["cost"].to_numpy(), self.fitted
        return {
            "r2": float("nan") if is_flat(y) else float(1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
            "left_out_error_pct": self._left_out_error(config, generator),
            "additivity": self._additivity(y, fitted, config.additivity_threshold_pct),
        }

    def _bootstrap(self, draws: int, generator: np.random.Generator) -> np.ndarray:
        residual = self.rows["cost"].to_numpy() - self.fitted
        signs = generator.choice([-1.0, 1.0], (draws, len(residual)))
        targets = self.fitted + residual * signs
        return _solve(self.design, self.matrix, targets, self.fitted, self.smoothness)  # (draws, width)

    def _left_out_error(self, config: FitCostsConfig, generator: np.random.Generator) -> float:
        """Median relative error, percent, on buckets (all their rounds and rates) that the fit has not seen."""
        settings = [*self.design.switches, *self.actions_columns(), *self.design.actions.elements]
        bucket = self.rows.groupby(settings, observed=True, sort=False).ngroup().to_numpy()
        fold = generator.permutation(bucket.max() + 1)[bucket] % config.folds
        matrix, y, weight = self.matrix, self.rows["cost"].to_numpy(), self.fitted
        errors = []
        for k in range(config.folds):
            out = fold == k
            if out.any() and (~out).sum() >= 8:
                found = _solve(self.design, matrix[~out], y[~out], weight[~out], self.smoothness)
                errors.append(np.abs(matrix[out] @ found / y[out] - 1))
        return float(100 * np.median(np.concatenate(errors))) if errors else float("nan")

    def actions_columns(self) -> list[str]:
        """The channel column, where there is one."""
        return ["channels"] if self.design.actions.channels is not None else []

    def _additivity(self, y: np.ndarray, fitted: np.ndarray, threshold: float) -> dict[str, Any]:
        """Mean relative residual per channel set, percent, and the part of it that grows with the pairs in a set.

        The test means something only when there are more sets than channels; ``testable`` says so.
        """
        if not self.actions_columns():
            return {"testable": False, "worst_pct": 0.0, "sets": {}}
        sets = self.rows["channels"].astype(str)
        relative = pd.Series(100 * (y / fitted - 1), index=self.rows.index)
        by_set = relative.groupby(sets.to_numpy()).agg(["mean", "sem", "count"])
        sizes = np.array([len(channel_names(value)) for value in sets])
        pairs = sizes * (sizes - 1) / 2
        n_channels = len({name for value in sets.unique() for name in channel_names(value)})
        slope, z = _slope(pairs, relative.to_numpy())
        several = by_set[[len(channel_names(value)) > 1 for value in by_set.index]]
        worst = float(several["mean"].abs().max()) if len(several) else 0.0
        return {
            "testable": bool(sets.nunique() > n_channels),
            "worst_pct": worst,
            "holds": bool(worst <= threshold),
            "per_pair_pct": slope,
            "per_pair_z": z,
            "sets": {
                str(k): {"mean_pct": r["mean"], "se_pct": r["sem"], "rows": int(r["count"])}
                for k, r in by_set.iterrows()
            },
        }


def _anchored_at_zero(base: float, queues: dict[str, dict[str, Curve]]) -> tuple[float, dict[str, dict[str, Curve]]]:
    """Curves continued to length 0 and a quarter beyond the longest one measured, for readers who do not extrapolate.

    What an element's curves save between their first point and 0 moves out of the base, as far as the base reaches.
    """
    for by in queues.values():
        longer = {key: _continued(curve) for key, curve in by.items()}
        shift = min(base, max(-curve.cost[0] for curve in longer.values()))
        base -= shift
        for key, curve in longer.items():
            parts = (np.maximum(part + shift, 0.0) for part in (curve.cost, curve.low, curve.high))
            by[key] = Curve(curve.x, *parts)
    return base, queues


def _continued(curve: Curve) -> Curve:
    if len(curve.x) < 2:
        return curve
    x = np.concatenate([[0.0] if curve.x[0] > 0 else [], curve.x, [1.25 * curve.x[-1]]])
    return Curve(x, *(interpolate(x, curve.x, part) for part in (curve.cost, curve.low, curve.high)))


def fit_additive(config: FitCostsConfig, rows: pd.DataFrame, place: str) -> AdditiveFit:
    """Relative-error least squares of ``rows['cost']`` under monotonicity, reweighted by the fit itself."""
    design = Design(config, rows, place)
    matrix, y = design.matrix(rows), rows["cost"].to_numpy()
    level = np.full(len(y), float(np.median(y)))
    coefficients = np.zeros(design.width)
    for _ in range(_REWEIGHTINGS):
        coefficients = _solve(design, matrix, y, level, config.smoothness)
        level = np.maximum(matrix @ coefficients, 0.05 * float(np.median(y)))
    return AdditiveFit(design, coefficients, rows, matrix, config.smoothness)


def _solve(design: Design, matrix: np.ndarray, y: np.ndarray, level: np.ndarray, smoothness: float) -> np.ndarray:
    """Coefficients (width,) of one vector ``y`` (n,), or (B, width) of several (B, n), weighted by 1 / level²."""
    rough = design.roughness()
    n, scale = len(level), np.median(level)
    penalty = np.sqrt(smoothness * n / max(len(rough), 1)) / scale
    tiny = (
        1e-5 * np.sqrt(n) / scale
    )  # a ridge decides what the rows leave open (which of two always-open channels costs)
    stacked = np.concatenate([matrix / level[:, None], penalty * rough, tiny * np.eye(design.width)])
    q, r = np.linalg.qr(stacked)  # each problem shrinks to ``width`` equations
    targets = np.atleast_2d(y) / level
    padded = np.concatenate([targets, np.zeros((len(targets), len(stacked) - n))], axis=1)
    try:
        out = np.array([nnls(r, target, maxiter=50 * design.width)[0] for target in (q.T @ padded.T).T])
        out = out.reshape(len(targets), design.width)  # no targets: no rows
    except RuntimeError as error:
        raise UserError(f"{design.place}: the non-negative fit did not converge on {matrix.shape}: {error}") from None
    return out[0] if y.ndim == 1 else out


def _settings(column: pd.Series, declared: Sequence[str]) -> list[str]:
    measured = set(column.astype(str).unique())
    missing = [value for value in declared if value not in measured]
    if missing:
        raise UserError(
            f"load test: column {column.name!r}: setting {missing[0]!r} was never measured; found {sorted(measured)}"
        )
    return list(dict.fromkeys(declared))


def _indicators(column: pd.Series, parts: Callable[[str], list[str]] = lambda value: [value]) -> dict[str, np.ndarray]:
    """Part → 1.0 in the rows (rows,) whose value contains it; by default the value itself is its only part."""
    codes, found = pd.factorize(column)
    names = [parts(str(value)) for value in found]
    wanted = {name for part in names for name in part}
    return {name: np.array([float(name in part) for part in names])[codes] for name in wanted}


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope and its z value; zeros where x does not vary."""
    centred = x - x.mean()
    spread = float((centred**2).sum())
    if spread == 0 or len(x) < 3:
        return 0.0, 0.0
    slope = float((centred * y).sum() / spread)
    error = y - y.mean() - slope * centred
    se = float(np.sqrt((error**2).sum() / (len(x) - 2) / spread))
    return slope, slope / se if se > 0 else 0.0
