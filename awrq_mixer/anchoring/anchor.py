"""An anchored learner: its mean over states is the global profile, and states depart from it as far as evidence goes.

log Q = slope · (level(s) − mean level) + shift(a) + Σ_k w_k ⟨departure(s), u_k⟩ u_k(a). A state's *departure* is its learned
shape over actions less the mean shape. Its components along principal directions u_k keep the shares w_k that revenue in
held-out rows bears out; ``shift`` then puts the mean over states on the profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from marca_common.checkpoint import require_keys
from marca_common.errors import UserError

LEAST = 1e-3  # a value at or below 0 has no logarithm: the least one, as a share of the mean value


def log_shapes(values: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Log level (S,), and shape over joint actions (S, A) around it, of values (S, A), none of them below ``floor``."""
    raised = np.maximum(values, np.float32(floor))
    level = np.asarray(np.log(raised.mean(axis=1)))
    return level, np.asarray(np.log(raised) - level[:, None])


def least_value(values: np.ndarray) -> float:
    """The floor of learned values (S, A), money."""
    return LEAST * max(float(np.abs(values).mean()), 1e-30)


@dataclass(frozen=True)
class Anchor:
    """What turns a learner's values into anchored ones."""

    floor: float  # money: smaller values count as this
    centre: np.ndarray  # mean shape (A,)
    directions: np.ndarray  # (K, A), orthonormal rows
    shares: np.ndarray  # share kept of the departure along each direction, and of the rest (K + 1,)
    slope: float  # of the level
    level: float  # mean log level
    shift: np.ndarray  # (A,)

    def shapes(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log level (S,) and departure from the mean shape (S, A) of learned values (S, A)."""
        level, shape = log_shapes(values, self.floor)
        return level, shape - self.centre

    def components(self, departure: np.ndarray) -> np.ndarray:
        """Departures along the directions, (S, K)."""
        return np.asarray(departure @ self.directions.T)

    def unshifted(self, values: np.ndarray) -> np.ndarray:
        """Log values before ``shift``, (S, A)."""
        level, departure = self.shapes(values)
        along, rest = self.components(departure), self.shares[-1]
        kept = (along * (self.shares[:-1] - rest)) @ self.directions
        return np.asarray((self.slope * (level - self.level))[:, None] + kept + rest * departure)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Anchored values in money, float32 (S, A)."""
        return np.asarray(np.exp(self.unshifted(values) + self.shift), np.float32)

    def to_payload(self) -> dict[str, Any]:
        """Tensors and numbers for a checkpoint."""
        return {
            one.name: torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else float(value)
            for one in fields(self)
            for value in [getattr(self, one.name)]
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any], n_joint: int) -> Anchor:
        """The anchor a checkpoint holds; one whose parts don't fit is a UserError."""
        require_keys(payload, {one.name for one in fields(cls)}, what="anchor")
        parts = {
            name: np.asarray(one, np.float32 if isinstance(one, torch.Tensor) else None)
            for name, one in payload.items()
        }
        if not all(part.dtype.kind == "f" and np.isfinite(part).all() for part in parts.values()):
            raise UserError("anchor: holds what is no finite number; anchor it again")
        directions = len(np.atleast_2d(parts["directions"]))
        expected = {"centre": (n_joint,), "shift": (n_joint,), "directions": (directions, n_joint)}
        expected |= {"shares": (directions + 1,), "floor": (), "slope": (), "level": ()}
        for name, shape in expected.items():
            if parts[name].shape != shape:
                raise UserError(f"anchor: {name} has the shape {parts[name].shape}; expected {shape}: anchor it again")
        floor, slope, level = (float(parts[name]) for name in ("floor", "slope", "level"))
        if floor <= 0:
            raise UserError(f"anchor: floor is {floor:g}; expected more than 0: anchor it again")
        centre, shift, basis, shares = (parts[name] for name in ("centre", "shift", "directions", "shares"))
        return cls(floor, centre, basis, shares, slope, level, shift)
