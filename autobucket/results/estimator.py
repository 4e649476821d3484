"""A trained action-result estimator: loading, saving, and scoring rows or all joint actions of states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from autobucket.results.estimator_config import TrainConfig
from autobucket.results.joint_scoring import JointScorer
from autobucket.results.result_network import ActionResultModel, initialise
from autobucket.results.tasks import Task
from marca_common.checkpoint import (
    content_of,
    load_checkpoint,
    load_weights,
    require_fit,
    require_keys,
    save_checkpoint,
)
from marca_common.config import to_dict
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.requests import RequestSpec

KIND = "autobucket-estimator"
_ROWS = 8192  # rows per forward pass of predict
_PAIRS = 16384  # state-action pairs per forward pass of results


def build_model(
    config: TrainConfig, encoder: StateEncoder, generator: torch.Generator | None = None
) -> ActionResultModel:
    """The network that fits the config and the vocabularies, its weights drawn from ``generator`` (None: left to torch)."""
    spec = config.data.spec
    default = config.model.gates or list(spec.sub_actions)
    gates = [task.gates if task.gates is not None else default for task in config.tasks.values()]
    model = ActionResultModel(
        config.model,
        [*encoder.vocabularies, *encoder.means],
        encoder.sizes,
        len(encoder.means),
        spec.sub_actions,
        spec.shape,
        gates,
        config.optimiser.dropout,
    )
    if generator is not None:
        initialise(model, generator)
    return model


class Estimator:
    """Predicts the results of (state, action); tasks that kept weights of the same moment share one pass."""

    def __init__(
        self,
        config: TrainConfig,
        encoder: StateEncoder,
        tasks: Sequence[Task],
        kept: Sequence[int],
        snapshots: dict[int, dict[str, Tensor]],
        device: str | torch.device = "cpu",
    ) -> None:
        self.config, self.encoder, self.tasks, self.kept = config, encoder, list(tasks), list(kept)
        self.device = torch.device(device)
        self.passes: list[tuple[ActionResultModel, list[int]]] = []
        for moment in sorted(set(self.kept)):
            require_fit(partial(build_model, config, encoder), snapshots[moment], f"snapshot {moment}")
            model = build_model(config, encoder)
            load_weights(model, snapshots[moment], f"snapshot {moment}")
            if not model.fits_sizes():
                raise UserError(f"snapshot {moment}: a column without any size: train again")
            model.requires_grad_(False).eval().to(self.device)
            self.passes.append((model, [t for t, kept_at in enumerate(self.kept) if kept_at == moment]))

    @property
    def spec(self) -> RequestSpec:
        """Columns it was trained on."""
        return self.config.data.spec

    @property
    def names(self) -> list[str]:
        """Result columns it predicts, in order."""
        return [task.name for task in self.tasks]

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Estimator:
        """Read ``estimator.pt``; a checkpoint of another program or a broken one is a UserError."""
        payload = load_checkpoint(path, KIND)
        with content_of(path):
            require_keys(payload, {"config", "encoder", "tasks", "kept", "snapshots"})
            config = TrainConfig.model_validate(payload["config"])
            spec, tasks, kept = config.data.spec, [Task(**values) for values in payload["tasks"]], payload["kept"]
            for task in tasks:
                task.check(spec.n_joint)
            found, declared = {task.name: task.loss for task in tasks}, {n: one.loss for n, one in config.tasks.items()}
            if found != declared or len(kept) != len(tasks):
                raise UserError(f"tasks {found}; the config declares {declared}: train again")
            if set(kept) != set(payload["snapshots"]):
                raise UserError(f"weights of the moments {list(payload['snapshots'])}; the tasks kept {kept}")
            encoder = StateEncoder.from_dict(payload["encoder"], spec.state)
            return cls(config, encoder, tasks, kept, payload["snapshots"], device)

    def save(self, path: str | Path) -> None:
        """Write one checkpoint: config, vocabularies, scales and the kept weights."""
        snapshots = {self.kept[tasks[0]]: model.state_dict() for model, tasks in self.passes}
        columns = [*self.spec.state, *self.spec.sub_actions, *self.names]
        payload = {
            "config": to_dict(self.config),
            "encoder": self.encoder.to_dict(),
            "tasks": [asdict(task) for task in self.tasks],
            "kept": self.kept,
            "snapshots": snapshots,
        }
        save_checkpoint(path, KIND, columns, payload)

    @torch.no_grad()
    def predict(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Predicted results of logged rows, float32 (M,) per task in the result's own unit (probability if binary)."""
        codes, numbers = self._encode(frame)
        actions = torch.from_numpy(frame[list(self.spec.sub_actions)].to_numpy(np.int64).copy()).to(self.device)
        joint = torch.from_numpy(self.spec.joint_index(frame)).to(self.device)
        outputs = np.empty((len(self.tasks), len(frame)), dtype=np.float32)
        for model, tasks in self.passes:
            for start in range(0, len(frame), _ROWS):
                rows = slice(start, start + _ROWS)
                state = model.embed_states(codes[rows], numbers[rows])
                for t, out in zip(tasks, model(state, model.embed_actions(actions[rows]), tasks)):
                    outputs[t, rows] = self.tasks[t].prediction(out, joint[rows]).cpu().numpy()
        return dict(zip(self.names, outputs))

    @torch.no_grad()
    def results(self, states: pd.DataFrame, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Predicted results of every joint action, float32 (S, A) per task; the state part is computed once a state."""
        return self.encoded_results(*self._encode(states), names)

    @torch.no_grad()
    def encoded_results(
        self, codes: Tensor, numbers: Tensor, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """As ``results``, of states that are encoded: codes (S, columns), numbers (S, columns)."""
        wanted = self._wanted(names)
        joint = torch.arange(self.spec.n_joint, device=self.device)
        outputs = {t: np.empty((len(codes), len(joint)), dtype=np.float32) for t in wanted}
        chunk = max(1, _PAIRS // len(joint))
        for model, kept in self.passes:
            tasks = [t for t in kept if t in wanted]
            if not tasks:
                continue
            score = self._scorer(model)
            for start in range(0, len(codes), chunk):
                rows = slice(start, start + chunk)
                for t, out in zip(tasks, score(model.embed_states(codes[rows], numbers[rows]), tasks)):
                    outputs[t][rows] = self.tasks[t].prediction(out, joint).cpu().numpy()
        return {self.tasks[t].name: values for t, values in outputs.items()}

    def _scorer(self, model: ActionResultModel) -> Callable[[Tensor, list[int]], list[Tensor]]:
        """What turns state parts (S, ds) into outputs (S, A) of some tasks."""
        table = self.spec.joint_table()
        if self.device.type == "cpu":
            return JointScorer(model, table)
        action = model.embed_actions(torch.from_numpy(table).to(self.device))[None]  # (1, A, da)
        return lambda state, tasks: model(state[:, None], action, tasks)

    def _wanted(self, names: Sequence[str] | None) -> list[int]:
        unknown = [name for name in names or [] if name not in self.names]
        if unknown:
            raise UserError(f"the estimator does not predict {unknown[0]!r}; expected some of {self.names}")
        return [t for t, name in enumerate(self.names) if names is None or name in names]

    def _encode(self, frame: pd.DataFrame) -> tuple[Tensor, Tensor]:
        codes, numbers = self.encoder.transform(frame)
        return torch.from_numpy(codes).to(self.device), torch.from_numpy(numbers).to(self.device)
