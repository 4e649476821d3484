"""What a learner is made from: its networks, its mixer, its targets and its loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from marca_common.config import Config
from marca_common.requests import RequestSpec


class NetworkConfig(Config):
    """The agents' networks."""

    embedding: int = Field(default=16, ge=1, description="width of the embedding of every categorical state column")
    hidden: int = Field(default=64, ge=1, description="width of the recurrent state")
    heads: int = Field(default=5, ge=1, description="K, value heads per agent")
    trunk_layers: list[int] = Field(default=[], description="layers over the state before the recurrent cell")
    head_layers: list[int] = Field(default=[], description="layers between the recurrent state and the heads")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in trunk and head layers, training only")
    observe: Literal["state", "own", "all"] = Field(
        default="own",
        description="earlier sub-actions a sub-step sees: none, those of its own agent, or of every agent before it",
    )
    drqn_observe: Literal["state", "own"] = Field(
        default="state", description="DRQN alone: earlier sub-actions it sees; in the paper's sense none"
    )
    oov_rate: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="share of category values hidden in training, so that the unseen row learns",
    )
    init: Literal["glorot_uniform", "torch"] = Field(default="glorot_uniform", description="initial weights")


class MixerConfig(Config):
    """The mixer of the agents' values into Q_tot."""

    embed: int = Field(default=32, ge=1, description="width of the mixing layer")
    weights: Literal["softplus", "abs"] = Field(default="softplus", description="what keeps mixing weights positive")
    activation: Literal["relu", "elu"] = Field(default="elu", description="between the two mixing layers")
    hypernetwork: Literal["state", "state_action"] = Field(
        default="state", description="input of the hypernetwork; with the action Q_tot is not monotone across actions"
    )
    hyper_layers: list[Annotated[int, Field(ge=1)]] = Field(
        default=[64], description="hidden layers of the hypernetwork"
    )


class TDConfig(Config):
    """Targets of the sub-steps."""

    gamma: float = Field(default=0.9, ge=0, le=1, description="discount from one sub-step to the next")
    bootstrap: Literal["logged", "max"] = Field(
        default="logged",
        description="next sub-action in a recurrent agent's target: the logged one (Eq. 8) or the best",
    )
    target_update: int = Field(default=100, ge=1, description="updates between copies to the target network")
    vgca: Literal["paper", "normalised"] = Field(
        default="normalised", description="reward weights of sub-steps: Eq. 16, or its running sum over the total"
    )
    vgca_scope: Literal["batch", "train"] = Field(
        default="batch", description="rows from which the variances of VGCA are taken"
    )
    gradient_flow: Literal["end_to_end", "algorithm1"] = Field(
        default="end_to_end", description="does the mixer's loss reach the agents, or only the hypernetwork"
    )
    head_loss_weight: float = Field(default=1.0, ge=0, description="weight of the heads' losses beside the mixer's")
    wqmix: Literal["cw", "ow"] = Field(default="ow", description="Weighted QMIX: centrally or optimistically weighted")
    wqmix_alpha: float = Field(default=0.5, gt=0, le=1, description="weight of the other samples in Weighted QMIX")


class LossConfig(Config):
    """What is minimised; for tweedie every value is read through a log link."""

    kind: Literal["mse", "mae", "huber", "tweedie"] = Field(default="tweedie", description="loss")
    tweedie_power: float = Field(default=1.5, gt=1, lt=2, description="variance power p of the Tweedie deviance")
    huber_delta: float = Field(default=1.0, gt=0, description="where the Huber loss turns linear, scaled reward")
    reward_scale: float | None = Field(default=None, gt=0, description="divide revenue by this; null: training mean")


class PlusConfig(Config):
    """latent_classes and its ablations; low_rank, neural_process and lightgbm_history share what they know of.

    A surrogate may also be given to regression and lightgbm.
    """

    members: int = Field(default=2, ge=1, description="models averaged in the log domain")
    classes: int = Field(default=64, ge=1, description="latent classes of states")
    rank: int = Field(
        default=8,
        ge=1,
        description="rank of the classes' action surfaces around one profile; low_rank: length of a state's vector",
    )
    pairs: bool = Field(
        default=True,
        description="tables for pairs of sub-actions beside those for single ones; with a surrogate also for triples, in the common profile",
    )
    history: list[str] | None = Field(
        default=None,
        description="categorical state columns whose equal values make one state, which its logged rows tell of; "
        "null: all; []: rows tell nothing beyond their columns",
    )
    surrogate: str | None = Field(
        default=None, description="observed column that is less noisy than revenue and teaches the shape; null: none"
    )
    surrogate_weight: float = Field(
        default=10.0, ge=0, description="regression alone: weight of the surrogate's loss beside revenue's"
    )


class LearnerConfig(Config):
    """The part of a training config that builds a learner again from its checkpoint."""

    learner: str = Field(default="awrq_mixer", description="a name of ours, or module:Class of somebody else's learner")
    spec: RequestSpec = Field(default=RequestSpec(), description="what the log's columns mean")
    network: NetworkConfig = Field(default=NetworkConfig())
    mixer: MixerConfig = Field(default=MixerConfig())
    td: TDConfig = Field(default=TDConfig())
    loss: LossConfig = Field(default=LossConfig())
    plus: PlusConfig = Field(default=PlusConfig())
