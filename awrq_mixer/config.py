"""Every number that training, prediction and evaluation depend on, typed and checked before any work starts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from marca_common.config import Config
from marca_common.requests import RequestSpec

LearnerName = Literal[
    "dqn",
    "dqn_reward_everywhere",
    "ddqn",
    "drqn",
    "averaged_dqn",
    "rem",
    "vdn",
    "qmix",
    "wqmix",
    "awrq_mixer",
    "awrq_no_aw",
    "awrq_no_smc",
    "awrq_no_vgca",
    "regression",
    "lightgbm",
    "awrq_plus",
]


class SplitConfig(Config):
    """How the log is cut, in time order; the shares must add up to one."""

    train: float = Field(default=0.8, gt=0, le=1, description="share of the rows, the earliest")
    validation: float = Field(default=0.1, ge=0, lt=1, description="share of the rows that follow")
    test: float = Field(default=0.1, ge=0, lt=1, description="share of the rows, the latest; never read by training")

    @model_validator(mode="after")
    def _whole(self) -> SplitConfig:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError(f"shares add up to {self.train + self.validation + self.test:g}; expected 1")
        return self


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
    hyper_layers: list[int] = Field(default=[64], description="hidden layers of the hypernetwork")


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


class OptimiserConfig(Config):
    """How weights move."""

    name: Literal["adam", "sgd", "rmsprop"] = Field(default="adam", description="optimiser")
    lr: float = Field(default=3e-3, gt=0, description="learning rate")
    decay: Literal["none", "linear", "cosine"] = Field(default="cosine", description="learning rate over the run")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled L2 shrinkage per unit of learning rate")
    clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm; null: no clipping")


class PlusConfig(Config):
    """Our own learner, awrq_plus, and its ablations; a surrogate may also be given to regression and lightgbm."""

    members: int = Field(default=2, ge=1, description="models averaged in the log domain")
    classes: int = Field(default=64, ge=1, description="latent classes of states")
    rank: int = Field(default=8, ge=1, description="rank of the classes' action surfaces around one profile")
    pairs: bool = Field(default=True, description="tables for pairs of sub-actions beside those for single ones")
    history: list[str] | None = Field(
        default=None,
        description="categorical state columns whose equal values share one class, so that their logged rows tell it; "
        "null: all; []: rows tell nothing beyond their columns",
    )
    surrogate: str | None = Field(
        default=None, description="observed column that is less noisy than revenue and teaches the shape; null: none"
    )
    surrogate_weight: float = Field(
        default=10.0, ge=0, description="regression alone: weight of the surrogate's loss beside revenue's"
    )


class BoostConfig(Config):
    """LightGBM baseline."""

    trees: int = Field(default=400, ge=1, description="most trees; early stopping may take fewer")
    leaves: int = Field(default=63, ge=2, description="leaves per tree")
    lr: float = Field(default=0.05, gt=0, description="shrinkage")
    min_rows: int = Field(default=200, ge=1, description="fewest rows in a leaf")


class TrainConfig(Config):
    """Train one learner on a request log."""

    seed: int = Field(default=0, ge=0, description="seed of every random stream")
    learner: LearnerName = Field(default="awrq_mixer", description="which learner")
    requests: str = Field(default="runs/world/logs/requests.parquet", description="request log, CSV or Parquet")
    spec: RequestSpec = Field(default=RequestSpec(), description="what the log's columns mean")
    split: SplitConfig = Field(default=SplitConfig(), description="train / validation / test, by time")
    network: NetworkConfig = Field(default=NetworkConfig())
    mixer: MixerConfig = Field(default=MixerConfig())
    td: TDConfig = Field(default=TDConfig())
    loss: LossConfig = Field(default=LossConfig())
    optimiser: OptimiserConfig = Field(default=OptimiserConfig())
    plus: PlusConfig = Field(default=PlusConfig())
    boost: BoostConfig = Field(default=BoostConfig())
    max_rows: int | None = Field(default=None, ge=1, description="use only the latest rows; null: all")
    batch_size: int = Field(default=1024, ge=1, description="rows per update")
    epochs: float = Field(default=6, gt=0, description="passes over the training rows")
    eval_every: int = Field(default=200, ge=1, description="updates between validations and checkpoints")
    patience: int | None = Field(default=8, ge=1, description="validations without gain before stopping; null: never")
    validation_rows: int = Field(default=20000, ge=1, description="most validation rows read by one validation")
    threads: int = Field(default=1, ge=1, description="torch threads")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where tensors live")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="precision of the matrix products")
    compile: bool = Field(default=False, description="compile the update (pays on long runs)")

    @model_validator(mode="after")
    def _surrogate_is_used(self) -> TrainConfig:
        users = ("awrq_plus", "regression", "lightgbm")
        if self.plus.surrogate and self.learner not in users:
            raise ValueError(
                f"plus.surrogate: learner {self.learner!r} cannot learn from it; expected one of {list(users)}, or null"
            )
        return self

    @model_validator(mode="after")
    def _plus_is_on_a_log_scale(self) -> TrainConfig:
        if self.learner == "awrq_plus" and self.loss.kind != "tweedie":
            raise ValueError(f"loss.kind: got {self.loss.kind!r}; awrq_plus models log revenue, expected 'tweedie'")
        return self

    @model_validator(mode="after")
    def _history_is_there(self) -> TrainConfig:
        categories = [name for name, kind in self.spec.state.items() if kind == "category"]
        for name in self.plus.history or []:
            if name not in categories:
                raise ValueError(f"plus.history: got {name!r}; expected categorical state columns, of {categories}")
        return self


class PredictConfig(Config):
    """Score every joint action of the states of a table."""

    checkpoint: str = Field(default="runs/awrq_mixer/best.pt", description="checkpoint of a trained learner")
    states: str = Field(default="runs/world/logs/requests.parquet", description="table with the state columns")
    name: str = Field(default="q", description="name of the score column")
    max_states: int | None = Field(default=None, ge=1, description="score only the first distinct states; null: all")
    chunk: int = Field(default=512, ge=1, description="states scored at once")
    threads: int = Field(default=1, ge=1, description="torch threads")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where tensors live")


class EvaluateConfig(Config):
    """Judge a trained learner on the test rows of a log and, where there is one, against a table of true values."""

    checkpoint: str = Field(default="runs/awrq_mixer/best.pt", description="checkpoint of a trained learner")
    requests: str = Field(default="runs/world/logs/requests.parquet", description="request log; its test share is used")
    truth: str | None = Field(
        default=None, description="wide Parquet of true `value` and `cost_<service>` per joint action; null: none"
    )
    budgets: list[float] = Field(
        default=[0.04, 0.08, 0.12, 0.2, 0.3],
        description="budgets of the capture curve, as shares of the way from the cheapest to the clairvoyant's spend",
    )
    slices: list[str] = Field(default=["user_value", "placement"], description="columns by which metrics are split")
    buckets: int = Field(default=50, ge=2, description="quantile buckets of calibration")
    seed: int = Field(default=0, ge=0, description="seed of the sample of test states")
    max_states: int = Field(default=4000, ge=10, description="test states sampled for metrics over all joint actions")
    threads: int = Field(default=1, ge=1, description="torch threads")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where tensors live")
