"""Tasks: the scale a result is learnt on, its loss, and the way back to the result's own unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autobucket.results.estimator_config import Loss, TaskConfig
from marca_common.errors import UserError
from marca_common.spread import is_flat

_ENOUGH = 20  # rows of a joint action that show what it allows


@dataclass(frozen=True)
class Task:
    """A result column with the scale fitted on training rows.

    ``mse``, ``mae`` and ``huber`` are learnt on (y − centre) / scale; ``poisson`` on y / scale through a log link, so that
    its loss estimates the mean of a count whatever its spread; ``bce`` on a logit. ``share`` is learnt as the share of what
    the joint action allows, on a logit: ``caps`` (A,) is the largest result that training rows show for each joint action.
    So a full queue, which most requests have, is predicted as full.
    """

    name: str
    loss: str
    weight: float
    patience: int
    centre: float
    scale: float
    caps: Tensor | None = None  # float32 (A,), loss share

    @classmethod
    def fit(cls, name: str, config: TaskConfig, labels: np.ndarray, joint: np.ndarray, n_joint: int) -> Task:
        """Learn scale and caps from training labels (M,) and joint actions (M,); a label its loss can't take is a UserError."""
        if config.loss == "bce" and not np.isin(labels, (0.0, 1.0)).all():
            wrong = labels[~np.isin(labels, (0.0, 1.0))][0]
            raise UserError(f"task {name!r}: got the label {wrong:g}; loss bce expects 0 or 1 (or set `above`)")
        if config.loss in ("share", "poisson") and labels.min() < 0:
            raise UserError(
                f"task {name!r}: got the label {labels.min():g}; loss {config.loss} expects non-negative results"
            )
        centre, scale = 0.0, 1.0
        caps = None
        if config.loss in ("mse", "mae", "huber"):
            centre, scale = float(labels.mean()), 1.0 if is_flat(labels) else float(labels.std())
        elif config.loss == "poisson":
            scale = float(labels.mean()) or 1.0
        elif config.loss == "share":
            caps = _largest(labels, joint, n_joint)
            scale = float(caps.mean())
        return cls(name, config.loss, config.weight, config.patience, centre, scale, caps)

    def check(self, n_joint: int) -> None:
        """A UserError where the scale or the caps of a checkpoint fit nothing that ``fit`` makes."""
        numbers = (self.weight, self.patience, self.centre, self.scale)
        if not all(isinstance(one, int | float) for one in numbers):
            raise UserError(f"task {self.name!r}: got {numbers}; expected numbers: train again")
        capped = self.caps is not None and self.caps.shape == (n_joint,) and bool((self.caps > 0).all())
        if (
            min(self.scale, self.weight, self.patience) <= 0
            or capped != (self.loss == "share")
            or self.loss not in get_args(Loss)
        ):
            raise UserError(
                f"task {self.name!r}: scale {self.scale:g} or its caps do not fit loss {self.loss!r}: train again"
            )

    @property
    def binary(self) -> bool:
        """Whether the prediction is a probability."""
        return self.loss == "bce"

    def loss_of(self, output: Tensor, label: Tensor, joint: Tensor) -> Tensor:
        """Mean loss of outputs (M,) against labels (M,) in the result's own unit, under joint actions (M,)."""
        if self.loss == "share":
            cap = self._cap(joint)
            share = (label / cap).clamp_(max=1.0)
            return F.binary_cross_entropy_with_logits(output, share, weight=cap / self.scale)
        target = (label - self.centre) / self.scale
        if self.loss == "mse":
            return F.mse_loss(output, target)
        if self.loss == "mae":
            return F.l1_loss(output, target)
        if self.loss == "huber":
            return F.huber_loss(output, target)
        if self.loss == "poisson":
            return F.poisson_nll_loss(output.clamp(max=20.0), target, log_input=True)
        return F.binary_cross_entropy_with_logits(output, target)

    def prediction(self, output: Tensor, joint: Tensor) -> Tensor:
        """Outputs (…, M) under joint actions (M,) to the result's own unit (a probability for bce), never negative."""
        if self.loss == "share":
            return torch.sigmoid(output) * self._cap(joint)
        if self.loss == "bce":
            return torch.sigmoid(output)
        if self.loss == "poisson":
            return torch.exp(output.clamp(max=20.0)) * self.scale
        return (output * self.scale + self.centre).clamp_(min=0.0)

    def _cap(self, joint: Tensor) -> Tensor:
        assert self.caps is not None
        return self.caps.to(joint.device)[joint]


def _largest(labels: np.ndarray, joint: np.ndarray, n_joint: int) -> Tensor:
    """Largest label per joint action (A,); where fewer than _ENOUGH rows show it, the largest of all."""
    caps, every = np.zeros(n_joint), float(labels.max()) or 1.0
    np.maximum.at(caps, joint, labels)
    caps[np.bincount(joint, minlength=n_joint) < _ENOUGH] = every
    return torch.from_numpy(np.where(caps > 0, caps, every).astype(np.float32))


def labels_of(name: str, config: TaskConfig, column: np.ndarray) -> np.ndarray:
    """The label column float32 (M,), turned into 0/1 where the task says ``above``."""
    with np.errstate(over="ignore"):  # 0/1 by a threshold, whatever the size; other labels were checked
        values = np.asarray(column, dtype=np.float32)
    return (values > config.above).astype(np.float32) if config.above is not None else values
