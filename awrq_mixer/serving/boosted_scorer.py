"""Boosted trees that score joint actions: what the lightgbm baseline is once it is trained."""

from __future__ import annotations

import re
from typing import Any

import lightgbm
import numpy as np
import torch
from torch import Tensor

from awrq_mixer.learner_config import LearnerConfig
from marca_common.errors import UserError


class BoostedScorer:
    """Scores every pair of state and joint action with the sum of the boosters' raw scores."""

    def __init__(self, boosters: list[lightgbm.Booster], config: LearnerConfig, scale: float) -> None:
        self.boosters, self.scale, self.log_link = boosters, scale, config.loss.kind == "tweedie"
        self.joint = config.spec.joint_table().astype(np.float32)  # (A, T)

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Q in money, (S, A)."""
        state = np.concatenate([codes.numpy().astype(np.float32), numbers.numpy()], axis=1)
        size, joint = len(state), len(self.joint)
        rows = np.concatenate([np.repeat(state, joint, 0), np.tile(self.joint, (size, 1))], axis=1)
        return torch.from_numpy(self._money(rows).reshape(size, joint))

    def pairs(self, codes: np.ndarray, numbers: np.ndarray, joint: np.ndarray) -> np.ndarray:
        """Q in money of one joint action per encoded state, float32 (V,)."""
        return self._money(np.concatenate([codes.astype(np.float32), numbers, self.joint[joint]], axis=1))

    def _money(self, rows: np.ndarray) -> np.ndarray:
        raw = raw_scores(self.boosters, rows)
        return (np.exp(raw) if self.log_link else raw).astype(np.float32) * np.float32(self.scale)

    def to_payload(self) -> dict[str, Any]:
        """What a checkpoint must hold: the trees as text, up to the best iteration, and the scale of their target."""
        texts = [booster.model_to_string(num_iteration=booster.best_iteration) for booster in self.boosters]
        return {"scale": self.scale, "models": texts}

    @classmethod
    def from_payload(cls, payload: dict[str, Any], config: LearnerConfig, features: int) -> BoostedScorer:
        """The scorer a checkpoint holds; trees of another number of ``features`` or with loose ends are a UserError."""
        scale, texts = payload["scale"], payload["models"]
        expected = 2 if config.plus.surrogate else 1
        if not isinstance(scale, float) or scale <= 0 or not isinstance(texts, list) or len(texts) != expected:
            raise UserError(f"scale {scale!r} and {len(texts)} models; expected a positive scale and {expected} models")
        for text in texts:
            _check_trees(text)
        boosters = [lightgbm.Booster(model_str=text) for text in texts]
        for booster in boosters:
            if booster.num_feature() != features:
                raise UserError(
                    f"trees of {booster.num_feature()} columns; the config declares {features}: train again"
                )
        return cls(boosters, config, scale)


def _check_trees(text: str) -> None:
    """A UserError where a tree's children are not later nodes or leaves of it, or a leaf is no finite number.

    LightGBM follows whatever indices a model's text holds.
    """
    for tree in re.split(r"^Tree=\d+$", text, flags=re.MULTILINE)[1:]:
        lines = dict(line.split("=", 1) for line in tree.splitlines() if "=" in line)
        leaves = int(lines["num_leaves"])
        for side in ("left_child", "right_child"):
            children = [int(one) for one in lines.get(side, "").split()]
            inside = all(-leaves <= one < 0 or node < one < leaves - 1 for node, one in enumerate(children))
            if len(children) != leaves - 1 or not inside:
                raise UserError("a tree with loose ends; train again")
        values = np.array(lines["leaf_value"].split(), np.float64)
        if len(values) != leaves or not np.isfinite(values).all():
            raise UserError("a tree with a leaf that is no finite number; train again")


def raw_scores(boosters: list[lightgbm.Booster], rows: np.ndarray) -> np.ndarray:
    """Sum of raw scores, (rows,); of booster j only the trees up to its best iteration."""
    scores = [np.asarray(booster.predict(rows, raw_score=True, num_threads=1)) for booster in boosters]
    return np.asarray(np.sum(scores, axis=0))
