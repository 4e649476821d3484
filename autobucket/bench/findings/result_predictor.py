"""What a request will result in, guessed from scouted requests: the bench's own stand-in for the trained estimator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

_RIDGE = 1.0


@dataclass
class ResultPredictor:
    """Ridge regression of log(1 + result) on fields and pairs of fields, with the retransformation's bias taken out.

    A few hundred scouted requests are too few for the MMoE estimator and enough for the total of a replay.
    """

    fields: list[str]
    levels: dict[str, list[str]]
    weights: dict[str, np.ndarray]
    scale: dict[str, float]
    most: dict[str, float]

    @classmethod
    def fit(cls, scouted: pd.DataFrame, fields: Sequence[str], results: Sequence[str]) -> ResultPredictor:
        """Learn ``results`` from the ``fields`` of scouted requests."""
        levels = {name: sorted(scouted[name].astype(str).unique()) for name in fields}
        made = cls(list(fields), levels, {}, {}, {})
        x = made._matrix(scouted)
        gram = x.T @ x + _RIDGE * np.eye(x.shape[1])
        for name in results:
            y = scouted[name].to_numpy(np.float64)
            made.weights[name] = np.linalg.solve(gram, x.T @ np.log1p(y))
            guess = np.expm1(x @ made.weights[name])
            made.scale[name] = float(y.sum() / max(guess.sum(), 1e-9))
            made.most[name] = float(y.max())
        return made

    def predict(self, requests: pd.DataFrame) -> dict[str, np.ndarray]:
        """Result → predicted value (M,)."""
        x = self._matrix(requests)
        return {
            name: np.clip(np.expm1(x @ weight) * self.scale[name], 0, self.most[name])
            for name, weight in self.weights.items()
        }

    def _matrix(self, requests: pd.DataFrame) -> np.ndarray:
        single = [
            (requests[name].astype(str).to_numpy()[:, None] == np.array(self.levels[name])).astype(np.float64)
            for name in self.fields
        ]
        pairs = [
            (a[:, :, None] * b[:, None, :]).reshape(len(requests), -1)
            for i, a in enumerate(single)
            for b in single[i + 1 :]
        ]
        return np.concatenate([np.ones((len(requests), 1)), *single, *pairs], axis=1)
