"""Ridge regression of all models' scores at once, with penalties from leave-one-out errors in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PENALTIES = np.geomspace(0.3, 300.0, 13)


@dataclass(frozen=True)
class Ridge:
    """Linear in the features; each principal direction of the scores has a penalty of its own.

    That a prompt is hard for all models is easy to see from its text; which model it suits is not. So directions in which
    models differ are drawn more strongly towards the models' means.
    """

    middle: np.ndarray  # (F,)
    mean: np.ndarray  # (A,) mean score of each model
    weights: np.ndarray  # (F, A)

    @classmethod
    def fit(cls, features: np.ndarray, scores: np.ndarray) -> Ridge:
        """``features`` (S, F), ``scores`` (S, A); each direction takes the penalty with the least leave-one-out error."""
        middle, mean = features.mean(axis=0), scores.mean(axis=0)
        centred, residual = features - middle, scores - mean
        turn = np.linalg.eigh(residual.T @ residual)[1]  # (A, A)
        target = residual @ turn
        power, axes = np.linalg.eigh(centred.T @ centred)
        kept = power > 1e-9 * max(power[-1], 1e-300)
        power, axes = power[kept], axes[:, kept]
        along = centred @ axes / np.sqrt(power)  # (S, R) orthonormal columns
        errors = np.array([leave_one_out(along, target, power / (power + penalty)) for penalty in PENALTIES])
        penalty = PENALTIES[errors.argmin(axis=0)]  # (A,)
        coefficients = (along.T @ target) * np.sqrt(power)[:, None] / (power[:, None] + penalty)
        return cls(middle, mean, axes @ coefficients @ turn.T)

    def expected(self, features: np.ndarray) -> np.ndarray:
        """Expected scores (S, A)."""
        return np.asarray(self.mean + (features - self.middle) @ self.weights)


def leave_one_out(along: np.ndarray, target: np.ndarray, shrunk: np.ndarray) -> np.ndarray:
    """Mean squared error of each centred target (A,) where its row is left out of the fit, its mean included.

    ``along`` (S, R) orthonormal columns, each fit shrunk to the share ``shrunk`` (R,) of least squares.
    """
    leverage = (along**2) @ shrunk + 1.0 / len(along)
    residual = target - along @ (shrunk[:, None] * (along.T @ target))
    return np.asarray(((residual / np.maximum(1.0 - leverage, 1e-6)[:, None]) ** 2).mean(axis=0))
