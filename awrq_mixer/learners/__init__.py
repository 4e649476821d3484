"""Which learner is it? Name → class; every file differs from its parent in a dozen lines."""

from __future__ import annotations

from typing import Any

from awrq_mixer.learners.averaged_dqn import AveragedDQN
from awrq_mixer.learners.awrq_mixer import AWRQMixer
from awrq_mixer.learners.awrq_no_aw import AWRQNoAW
from awrq_mixer.learners.awrq_no_smc import AWRQNoSMC
from awrq_mixer.learners.awrq_no_vgca import AWRQNoVGCA
from awrq_mixer.learners.awrq_residual import AWRQResidual
from awrq_mixer.learners.base import Learner
from awrq_mixer.learners.ddqn import DoubleDQN
from awrq_mixer.learners.dqn import DQN
from awrq_mixer.learners.dqn_joint import DQNJoint
from awrq_mixer.learners.dqn_reward_everywhere import DQNRewardEverywhere
from awrq_mixer.learners.drqn import DRQN
from awrq_mixer.learners.glm import GLM
from awrq_mixer.learners.latent_classes import LatentClasses
from awrq_mixer.learners.low_rank import LowRank
from awrq_mixer.learners.neural_process import NeuralProcess
from awrq_mixer.learners.qmix import QMIX
from awrq_mixer.learners.regression import Regression
from awrq_mixer.learners.rem import REM
from awrq_mixer.learners.vdn import VDN
from awrq_mixer.learners.wqmix import WQMIX
from marca_common.dotted_path import find_class
from marca_common.errors import UserError

LEARNERS: dict[str, type[Learner]] = {
    "dqn": DQN,
    "dqn_reward_everywhere": DQNRewardEverywhere,
    "dqn_joint": DQNJoint,
    "ddqn": DoubleDQN,
    "drqn": DRQN,
    "averaged_dqn": AveragedDQN,
    "rem": REM,
    "vdn": VDN,
    "qmix": QMIX,
    "wqmix": WQMIX,
    "awrq_mixer": AWRQMixer,
    "awrq_no_aw": AWRQNoAW,
    "awrq_no_smc": AWRQNoSMC,
    "awrq_no_vgca": AWRQNoVGCA,
    "awrq_residual": AWRQResidual,
    "glm": GLM,
    "regression": Regression,
    "neural_process": NeuralProcess,
    "low_rank": LowRank,
    "latent_classes": LatentClasses,
}
# Trees, no network: grown by training.boosted, served by serving.boosted_scorer.
BOOSTED = ("lightgbm", "lightgbm_history")
STACK = "awrq_plus"  # a stack of other learners: trained by training.stacked, served by serving.stack_scorer


def find_learner(name: str) -> type[Learner]:
    """The class behind ``learner: name``: one of ours, or ``module:Class`` of somebody else's; else a UserError."""
    known: dict[str, Any] = {**LEARNERS, **dict.fromkeys((*BOOSTED, STACK))}  # for messages: these have no class here
    found: type[Learner] = find_class(name, known, Learner, "learner")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"learner: {name!r} does not define {', '.join(missing)}; every learner must")
    return found
