"""A trained learner that scores every joint action of a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners import LEARNERS, Learner
from awrq_mixer.training import boosted
from awrq_mixer.training.training_log import make_space
from marca_common.checkpoint import load_checkpoint, save_checkpoint
from marca_common.compute import resolve_device
from marca_common.config import to_dict
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.requests import RequestSpec

KIND = "awrq_mixer"


class Scorer(Protocol):
    """Anything that values all joint actions of encoded states."""

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Q in money, (S, A)."""
        ...


class Predictor:
    """Q(s, a) for states of a DataFrame; travels as one checkpoint with its encoder and declared columns."""

    def __init__(
        self, scorer: Scorer, spec: RequestSpec, encoder: StateEncoder, device: torch.device | None = None
    ) -> None:
        self.scorer, self.spec, self.encoder = scorer, spec, encoder
        self.device = device or torch.device("cpu")

    @property
    def learner(self) -> Learner:
        """The network behind the scores; a boosted model has none."""
        if not isinstance(self.scorer, Learner):
            raise UserError("this model is not a network; it has no agents")
        return self.scorer

    @torch.no_grad()
    def values(self, states: pd.DataFrame, chunk: int = 64) -> np.ndarray:
        """Expected revenue of every joint action, float32 (S, A), in joint-index order.

        Categories that training never saw share one learned row. Raises UserError where a state column is missing
        or the matrix would not fit into memory.
        """
        require_memory(len(states), self.spec.n_joint)
        if isinstance(self.scorer, Learner):
            self.scorer.eval()
        codes, numbers = (torch.from_numpy(x).to(self.device) for x in self.encoder.transform(states))
        out = np.empty((len(states), self.spec.n_joint), dtype=np.float32)
        for start in range(0, len(states), chunk):
            rows = slice(start, start + chunk)
            out[rows] = self.scorer.values(codes[rows], numbers[rows]).cpu().numpy()
        return out

    @torch.no_grad()
    def at(self, states: pd.DataFrame, rows: np.ndarray, joint: np.ndarray, chunk: int = 64) -> np.ndarray:
        """Expected revenue of chosen pairs: row ``rows`` of ``states`` under joint action ``joint``, both (V,) → (V,)."""
        if isinstance(self.scorer, boosted.BoostedScorer):
            return self.scorer.pairs(*self.encoder.transform(states.iloc[rows]), joint)
        out = np.empty(len(rows), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        for start in range(0, len(states), chunk):
            mine = order[slice(*np.searchsorted(rows, [start, start + chunk], sorter=order))]
            out[mine] = self.values(states.iloc[start : start + chunk])[rows[mine] - start, joint[mine]]
        return out

    def save(self, path: str | Path, payload: dict[str, Any]) -> None:
        """Write the checkpoint, atomically."""
        payload |= {"spec": to_dict(self.spec), "encoder": self.encoder.to_dict()}
        save_checkpoint(path, KIND, list(self.spec.state), payload)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", expect: str | None = None) -> Predictor:
        """Read a checkpoint written by training; ``expect`` names the learner it must hold."""
        payload = load_checkpoint(path, KIND)
        if expect and payload["learner"] != expect:
            raise UserError(f"{path}: a checkpoint of learner {payload['learner']!r}; expected {expect!r}")
        spec = RequestSpec.model_validate(payload["spec"])
        encoder = StateEncoder.from_dict(payload["encoder"])
        place = resolve_device(device)
        if payload["learner"] == "lightgbm":
            return cls(boosted.BoostedScorer.from_payload(payload, spec), spec, encoder)
        config = TrainConfig.model_validate(payload["config"])
        learner = LEARNERS[config.learner](make_space(spec, encoder), config)
        learner.load_state_dict(payload["weights"])
        return cls(learner.to(place).eval(), spec, encoder, place)


def gradient_payload(predictor: Predictor, config: TrainConfig) -> dict[str, Any]:
    """What a network's checkpoint holds; its target network stays in the training checkpoint."""
    weights = {name: w for name, w in predictor.learner.state_dict().items() if not name.startswith("target.")}
    return {"learner": config.learner, "config": to_dict(config), "weights": weights}


def require_memory(states: int, joint: int, copies: float = 1.5) -> None:
    """Refuse a score matrix (float32) that this machine cannot hold."""
    needed = states * joint * 4 * copies
    available = psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"{states} states × {joint} joint actions need {needed / 2**30:.1f} GiB; {available / 2**30:.1f} GiB are free. "
            "Score fewer states at once, or declare fewer sub-actions"
        )
