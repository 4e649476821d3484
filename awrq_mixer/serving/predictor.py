"""A trained learner that scores every joint action of a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError

from awrq_mixer.anchoring.anchor import Anchor
from awrq_mixer.config import TrainConfig
from awrq_mixer.learners import BOOSTED, LEARNERS, STACK, find_learner
from awrq_mixer.learners.base import Learner
from awrq_mixer.learners.row_shards import RowShards
from awrq_mixer.learners.state_memory import StateMemory
from awrq_mixer.networks.space import Space
from awrq_mixer.serving.boosted_scorer import BoostedScorer
from awrq_mixer.serving.stack_scorer import Scorer, StackScorer
from marca_common.checkpoint import (
    content_of,
    load_checkpoint,
    load_weights,
    require_fit,
    require_keys,
    save_checkpoint,
)
from marca_common.compute import resolve_device
from marca_common.config import to_dict
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.memory import require_memory

KIND = "awrq_mixer"


class Predictor:
    """Q(s, a) for states of a DataFrame; travels as one checkpoint with its encoder, training config and anchor, if any."""

    def __init__(
        self,
        scorer: Scorer,
        config: TrainConfig,
        encoder: StateEncoder,
        device: torch.device | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        self.scorer, self.config, self.spec, self.encoder = scorer, config, config.spec, encoder
        self.device, self.anchor = device or torch.device("cpu"), anchor

    @torch.no_grad()
    def values(self, states: pd.DataFrame, chunk: int = 64) -> np.ndarray:
        """Expected revenue of every joint action, float32 (S, A), in joint-index order.

        Categories that training never saw share one learned row. Raises UserError where a state column is missing
        or the matrix would not fit into memory.
        """
        require_memory(len(states), self.spec.n_joint)
        if isinstance(self.scorer, Learner | StackScorer):
            self.scorer.eval()
        codes, numbers = (torch.from_numpy(x).to(self.device) for x in self.encoder.transform(states))
        out = np.empty((len(states), self.spec.n_joint), dtype=np.float32)
        for start in range(0, len(states), chunk):
            rows = slice(start, start + chunk)
            learned = self.scorer.values(codes[rows], numbers[rows]).cpu().numpy()
            out[rows] = learned if self.anchor is None else self.anchor.apply(learned)
        return out

    @torch.no_grad()
    def at(self, states: pd.DataFrame, rows: np.ndarray, joint: np.ndarray, chunk: int = 64) -> np.ndarray:
        """Expected revenue of chosen pairs: row ``rows`` of ``states`` under joint action ``joint``, both (V,) → (V,)."""
        if isinstance(self.scorer, BoostedScorer) and self.anchor is None:
            return self.scorer.pairs(*self.encoder.transform(states.iloc[rows]), joint)
        out = np.empty(len(rows), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        for start in range(0, len(states), chunk):
            mine = order[slice(*np.searchsorted(rows, [start, start + chunk], sorter=order))]
            out[mine] = self.values(states.iloc[start : start + chunk])[rows[mine] - start, joint[mine]]
        return out

    def save(self, path: str | Path) -> None:
        """Write the checkpoint, atomically."""
        payload = {"learner": self.config.learner, "config": to_dict(self.config), "encoder": self.encoder.to_dict()}
        if self.anchor is not None:
            payload["anchor"] = self.anchor.to_payload()
        for one in row_shards(self.scorer):
            one.put_beside(Path(path))
        save_checkpoint(path, KIND, list(self.spec.state), payload | self.scorer.to_payload())

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Predictor:
        """Read a checkpoint written by training; one of another kind or version, or a damaged one, is a UserError."""
        payload, place = load_checkpoint(path, KIND), resolve_device(device)
        with content_of(path):
            config = _config(payload)
            encoder = StateEncoder.from_dict(payload["encoder"], config.spec.state)
            space = Space.of(config.spec, encoder)
            held = payload.get("anchor")
            anchor = None if held is None else Anchor.from_payload(held, config.spec.n_joint)
            return cls(_scorer(payload, config, space, place, Path(path)), config, encoder, place, anchor)


def row_shards(scorer: Scorer) -> list[RowShards]:
    """The rows in shards that a learner, or the members of a stack, remember."""
    if isinstance(scorer, StackScorer):
        return [found for one in scorer.members.values() for found in row_shards(one.scorer)]
    return [scorer.shards] if isinstance(scorer, StateMemory) and scorer.shards else []


def _scorer(payload: dict[str, Any], config: TrainConfig, space: Space, device: torch.device, path: Path) -> Scorer:
    """What scores, as a checkpoint at ``path`` holds it."""
    if config.learner in BOOSTED:
        return BoostedScorer.from_payload(payload, config, space)
    if config.learner == STACK:
        configs = config.member_configs()
        spare = config.fallbacks()
        require_keys(payload["members"], set(configs) - spare, optional=spare, what="members")

        def build(name: str, parts: Any) -> Scorer:
            require_keys(parts, _parts(configs[name].learner), optional={"rows"}, what=f"member {name}")
            return _scorer(parts, configs[name], space, device, path)

        return StackScorer.from_payload(payload, config.spec.n_joint, build)
    kind = find_learner(config.learner)
    if config.learner in LEARNERS:  # somebody else's may need real tensors
        require_fit(lambda: kind(space, config), payload["weights"], any_size=kind.any_size)
    learner = kind(space, config)
    if isinstance(learner, StateMemory) and "rows" in payload:
        learner.shards = RowShards.beside(path, str(payload["rows"]), space)
    load_weights(learner, payload["weights"], any_size=learner.any_size)
    return learner.to(device).eval()


def _parts(learner: str) -> set[str]:
    """What a checkpoint holds of a learner beside its config and encoder."""
    others = {
        "lightgbm": {"scale", "models"},
        "lightgbm_history": {"scale", "models", "history"},
        STACK: {"members", "profile"},
    }
    return others.get(learner, {"weights"})


def _config(payload: dict[str, Any]) -> TrainConfig:
    """The training config of a checkpoint whose parts are those of its learner."""
    require_keys(
        payload, {"learner", "config", "encoder", *_parts(str(payload.get("learner")))}, optional={"anchor", "rows"}
    )
    try:
        config = TrainConfig.model_validate(payload["config"])
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"its config is of another version of this software ({key}); train again") from None
    if config.learner != payload["learner"]:
        raise UserError(f"learner {payload['learner']!r} with the config of {config.learner!r}; train again")
    return config
