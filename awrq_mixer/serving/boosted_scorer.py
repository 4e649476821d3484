"""Boosted trees that score joint actions: what lightgbm and lightgbm_history are once they are trained."""

from __future__ import annotations

import re
from typing import Any

import lightgbm
import numpy as np
import torch
from torch import Tensor

from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.learners.lightgbm_history import History
from awrq_mixer.learners.state_memory import history_columns
from awrq_mixer.networks.space import Space
from marca_common.errors import UserError


class BoostedScorer:
    """Scores every pair of state and joint action with the sum of the boosters' raw scores.

    ``history``: what features of a state's training rows are made from; None where the trees know none.
    """

    history: History | None = None

    def __init__(self, boosters: list[lightgbm.Booster], config: LearnerConfig, scale: float) -> None:
        self.boosters, self.scale, self.log_link = boosters, scale, config.loss.kind == "tweedie"
        self.joint = config.spec.joint_table()  # (A, T)

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Q in money, (S, A)."""
        size, joint = len(codes), len(self.joint)
        states = [np.repeat(part.cpu().numpy(), joint, 0) for part in (codes, numbers)]
        rows = self.columns(states[0], states[1], np.tile(self.joint, (size, 1)))
        return torch.from_numpy(self._money(rows).reshape(size, joint))

    def pairs(self, codes: np.ndarray, numbers: np.ndarray, joint: np.ndarray) -> np.ndarray:
        """Q in money of one joint action per encoded state, float32 (V,)."""
        return self._money(self.columns(codes, numbers, self.joint[joint]))

    def columns(
        self, codes: np.ndarray, numbers: np.ndarray, actions: np.ndarray, own: np.ndarray | None = None
    ) -> np.ndarray:
        """What trees see of B rows, float32: state, sub-actions, and history; ``own``: features in place of the served ones."""
        parts = [codes, numbers, actions]
        if self.history is not None:
            parts.append(self.history.features(codes, actions) if own is None else own)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _money(self, rows: np.ndarray) -> np.ndarray:
        raw = raw_scores(self.boosters, rows)
        return (np.exp(raw) if self.log_link else raw).astype(np.float32) * np.float32(self.scale)

    def to_payload(self) -> dict[str, Any]:
        """What a checkpoint must hold: the trees as text, up to the best iteration, and the scale of their target."""
        texts = [booster.model_to_string(num_iteration=booster.best_iteration) for booster in self.boosters]
        history = {} if self.history is None else {"history": self.history.to_payload()}
        return {"scale": self.scale, "models": texts, **history}

    @classmethod
    def from_payload(cls, payload: dict[str, Any], config: LearnerConfig, space: Space) -> BoostedScorer:
        """The scorer a checkpoint holds; trees of another number of columns or with loose ends are a UserError."""
        scale, texts = payload["scale"], payload["models"]
        expected = 2 if config.plus.surrogate else 1
        if not isinstance(scale, float) or scale <= 0 or not isinstance(texts, list) or len(texts) != expected:
            raise UserError(f"scale {scale!r} and {len(texts)} models; expected a positive scale and {expected} models")
        for text in texts:
            _check_trees(text)
        history = None
        if "history" in payload:
            kinds = 2 if config.plus.surrogate else 1
            columns = history_columns(config, space)
            history = History.from_payload(payload["history"], columns, space.categories, space.sizes, kinds)
        features = len(config.spec.state) + len(space.sizes) + (history.width if history else 0)
        boosters = [lightgbm.Booster(model_str=text) for text in texts]
        for booster in boosters:
            if booster.num_feature() != features:
                raise UserError(
                    f"trees of {booster.num_feature()} columns; the config declares {features}: train again"
                )
        scorer = cls(boosters, config, scale)
        scorer.history = history
        return scorer


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
