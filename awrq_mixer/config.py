"""Every number that training, prediction and evaluation depend on, typed and checked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.learners import BOOSTED, STACK, find_learner
from awrq_mixer.learners.base import Learner
from awrq_mixer.learners.state_memory import StateMemory, check_history
from marca_common.config import Config
from marca_common.requests import RequestSpec


class SplitConfig(Config):
    """How the log is cut, in time order; the shares must add up to one."""

    train: float = Field(default=0.8, gt=0, le=1, description="share of the rows, the earliest")
    validation: float = Field(default=0.1, ge=0, lt=1, description="share of the rows that follow")
    test: float = Field(default=0.1, ge=0, lt=1, description="share of the rows, the latest; never read by training")
    half: Literal[None, "first", "second"] = Field(
        default=None, description="learn from this half of the training rows alone, by time; null: from all"
    )

    def learned(self, rows: int) -> slice:
        """Which of ``rows`` training rows to learn from."""
        middle = rows // 2
        return slice(middle if self.half == "second" else 0, middle if self.half == "first" else rows)

    @model_validator(mode="after")
    def _whole(self) -> SplitConfig:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError(f"shares add up to {self.train + self.validation + self.test:g}; expected 1")
        return self


class OptimiserConfig(Config):
    """How weights move."""

    name: Literal["adam", "sgd", "rmsprop"] = Field(default="adam", description="optimiser")
    lr: float = Field(default=3e-3, gt=0, description="learning rate")
    decay: Literal["none", "linear", "cosine"] = Field(default="cosine", description="learning rate over the run")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled L2 shrinkage per unit of learning rate")
    clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm; null: no clipping")


class BoostConfig(Config):
    """LightGBM baseline."""

    trees: int = Field(default=400, ge=1, description="most trees; early stopping may take fewer")
    leaves: int = Field(default=63, ge=2, description="leaves per tree")
    lr: float = Field(default=0.05, gt=0, description="shrinkage")
    min_rows: int = Field(default=200, ge=1, description="fewest rows in a leaf")


class FitConfig(LearnerConfig):
    """A learner and how its weights are found, whatever the rows."""

    optimiser: OptimiserConfig = Field(default=OptimiserConfig())
    boost: BoostConfig = Field(default=BoostConfig())
    batch_size: int = Field(default=1024, ge=1, description="rows per update")
    epochs: float = Field(default=6, gt=0, description="passes over the training rows")
    eval_every: int = Field(default=200, ge=1, description="updates between validations and checkpoints")
    patience: int | None = Field(default=8, ge=1, description="validations without gain before stopping; null: never")
    validation_rows: int = Field(default=20000, ge=1, description="most validation rows read by one validation")
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="fp32", description="precision of the matrix products; auto: bf16 where the processor multiplies it"
    )
    compile: bool = Field(default=False, description="compile the update (pays on long runs)")


class ShrinkConfig(Config):
    """How far a learner's personalisation is trusted."""

    directions: int = Field(default=12, ge=1, description="principal directions of departures that get a slope each")
    confidence: float = Field(
        default=2.0, ge=0, description="standard errors that a slope is lowered by before it becomes a share"
    )
    reference_rows: int = Field(default=4000, ge=50, description="training rows that means over states are taken over")
    evidence_rows: int = Field(default=100000, ge=20, description="most validation rows that slopes are fitted on")


class StackConfig(Config):
    """What awrq_plus is made of: members of any kind, weighed and shrunk by what held-out revenue bears out."""

    members: dict[str, FitConfig] = Field(
        default={}, description="name → learner; one that can use a side column is trained once for each of them"
    )
    side_columns: list[str] = Field(
        default=[], description="observed columns that may be less noisy than revenue; one that misleads is dropped"
    )
    history: list[str] | None = Field(
        default=None, description="plus.history of every member: state columns whose equal values are one state's rows"
    )
    revenue_alone: list[str] = Field(
        default=[],
        description="members that are trained on revenue alone where no side column is borne out; with no side columns all are",
    )
    cross_fit: bool = Field(
        default=True, description="train members on halves of the rows, too, so that each half judges the other's"
    )
    shrink: ShrinkConfig = Field(default=ShrinkConfig())

    @model_validator(mode="after")
    def _names_fit(self) -> StackConfig:
        for name in self.revenue_alone:
            if name not in self.members:
                raise ValueError(f"revenue_alone: got {name!r}; expected members, of {list(self.members)}")
        if len(set(self.side_columns)) < len(self.side_columns):
            raise ValueError(f"side_columns: {self.side_columns} names a column twice")
        return self


class StreamConfig(Config):
    """Read training rows from Parquet shards as they are needed, not into memory."""

    buffer_rows: int = Field(
        default=1_000_000,
        ge=1,
        description="rows at hand to be shuffled, all ranks together; at least a row group per lane",
    )
    lanes: int = Field(
        default=8,
        ge=1,
        description="stretches of the log that every batch draws from alike; the number of ranks divides it",
    )
    evidence_rows: int = Field(
        default=1_000_000,
        ge=20,
        description="rows of training and of validation, drawn at random, that awrq_plus fits profiles and weighs members on",
    )


class TrainConfig(FitConfig):
    """Train one learner on a request log."""

    seed: int = Field(default=0, ge=0, description="seed of every random stream")
    requests: str = Field(
        default="runs/world/logs/requests.parquet",
        description="request log, CSV or Parquet, or a folder of such part files",
    )
    stream: StreamConfig | None = Field(default=None, description="null: the log is read into memory")
    split: SplitConfig = Field(default=SplitConfig(), description="train / validation / test, by time")
    stack: StackConfig = Field(default=StackConfig(), description="awrq_plus alone: its members")
    max_rows: int | None = Field(default=None, ge=1, description="use only the latest rows; null: all")
    threads: int = Field(default=1, ge=1, description="torch threads")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where tensors live")

    @model_validator(mode="after")
    def _learner_takes_it(self) -> TrainConfig:
        if self.learner == STACK:
            if not self.stack.members:
                raise ValueError(f"stack.members: {STACK} needs at least one")
            if self.split.half and self.stack.cross_fit:
                raise ValueError(
                    f"split.half: got {self.split.half!r}; stack.cross_fit cuts into halves itself, expected null"
                )
            self.member_configs()
        elif self.learner not in BOOSTED:
            find_learner(self.learner).check(self)
        elif self.learner == "lightgbm_history":
            check_history(self)
        return self

    @model_validator(mode="after")
    def _can_be_streamed(self) -> TrainConfig:
        if self.stream is None:
            return self
        if self.learner != STACK:  # its members are looked at one by one
            self._fits_stream(self.stream.lanes)
        dropped = [name for name, how in self.spec.negative.items() if how == "drop"]
        if dropped:
            raise ValueError(
                f"stream: spec.negative drops rows by {dropped[0]!r}; expected clip there, or stream: null"
            )
        return self

    def _fits_stream(self, lanes: int) -> None:
        kind = None if self.learner in BOOSTED else find_learner(self.learner)
        whole = kind is not None and issubclass(kind, StateMemory)
        if kind is None or (kind.groups is not Learner.groups and not whole):
            raise ValueError(
                f"stream: learner {self.learner!r} needs its rows in memory; expected null, with max_rows as memory allows"
            )
        if self.batch_size % lanes or self.batch_size < lanes * (2 if whole else 1):
            raise ValueError(
                f"batch_size: got {self.batch_size}; expected a multiple of stream.lanes, {lanes}, and two rows of each where states stay whole"
            )

    def observed_columns(self) -> list[str]:
        """Side columns that training reads."""
        if self.learner == STACK:
            return self.stack.side_columns
        return [self.plus.surrogate] if self.plus.surrogate else []

    def without_columns(self, names: Sequence[str]) -> TrainConfig:
        """The same where these are no state columns."""
        if not names:
            return self

        def rest(history: list[str] | None) -> list[str] | None:
            return history and [name for name in history if name not in names]

        spec = self.spec.model_copy(update={"state": {n: k for n, k in self.spec.state.items() if n not in names}})
        parts = {one: getattr(self, one) for one in ("plus", "stack")}
        kept = {one: part.model_copy(update={"history": rest(part.history)}) for one, part in parts.items()}
        return self.model_copy(update={"spec": spec, **kept})

    def fallbacks(self) -> set[str]:
        """Members that are trained only where no side column is borne out."""
        members = {name: self.stack.members[name] for name in self.stack.revenue_alone}
        return {name for name, member in members.items() if len(self._columns_of(name, member)) > 1}

    def member_configs(self) -> dict[str, TrainConfig]:
        """The training config of every member, by name, fallbacks included; same rows, split and seed as this one."""
        shared = ("spec", "seed", "requests", "stream", "split", "max_rows", "threads", "device")
        rows = {name: getattr(self, name) for name in shared}
        found = {}
        for name, member in self.stack.members.items():
            for column in self._columns_of(name, member):
                plus = member.plus.model_copy(update={"surrogate": column, "history": self.stack.history})
                values = {one: getattr(member, one) for one in FitConfig.model_fields} | rows | {"plus": plus}
                found[f"{name}_{column}" if column else name] = TrainConfig(**values)
        return found

    def _columns_of(self, name: str, member: FitConfig) -> list[str | None]:
        if member.learner == STACK:
            raise ValueError(f"stack.members.{name}: a stack cannot hold a stack")
        uses = member.learner in BOOSTED or find_learner(member.learner).uses_surrogate
        columns = list(self.stack.side_columns) if uses else []
        return [*columns, None] if name in self.stack.revenue_alone or not columns else [*columns]


class ProfileConfig(Config):
    """Estimate what each joint action is worth on average over all requests of a log."""

    requests: str = Field(default="runs/world/logs/requests.parquet", description="request log, CSV or Parquet")
    spec: RequestSpec = Field(default=RequestSpec(), description="columns of the request log")
    surrogate: str | None = Field(
        default=None, description="logged column that tells actions apart with less noise than revenue; null: none"
    )
    test: float = Field(default=0.1, ge=0, lt=1, description="share of the rows, the latest, that is not read")
    threads: int = Field(default=1, ge=1, description="torch threads")


class AnchorConfig(ShrinkConfig):
    """Anchor a trained learner to a global profile, and shrink its personalisation to what held-out revenue bears out."""

    checkpoint: str = Field(default="runs/awrq_mixer/best.pt", description="checkpoint of a trained learner")
    requests: str = Field(
        default="runs/world/logs/requests.parquet", description="the learner's log; its training and validation shares"
    )
    profile: str = Field(default="runs/profile/profile.csv", description="table of awrq_mixer.profile")
    seed: int = Field(default=0, ge=0, description="seed of the sample of reference rows")
    threads: int = Field(default=1, ge=1, description="torch threads")


class PredictConfig(Config):
    """Score every joint action of the states of a table."""

    checkpoint: str = Field(default="runs/awrq_mixer/best.pt", description="checkpoint of a trained learner")
    states: str = Field(default="runs/world/logs/requests.parquet", description="table with the state columns")
    name: str = Field(default="q", description="name of the score column")
    max_states: int | None = Field(default=None, ge=1, description="score only the first distinct states; null: all")
    threads: int = Field(default=1, ge=1, description="torch threads")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where tensors live")


class EvaluateConfig(Config):
    """Judge a trained learner on the test rows of a log and, where there is one, against a table of true values."""

    checkpoint: str = Field(default="runs/awrq_mixer/best.pt", description="checkpoint of a trained learner")
    requests: str = Field(default="runs/world/logs/requests.parquet", description="request log; its test share is used")
    truth: str | None = Field(
        default=None, description="wide Parquet of true `value` and `cost_<service>` per joint action; null: none"
    )
    profile: str | None = Field(
        default=None, description="table of awrq_mixer.profile: report what held-out revenue bears out; null: don't"
    )
    costs: str | None = Field(
        default=None,
        description="score file with a column per service, as autobucket predicts: their means price the joint actions "
        "of `borne_out_uplift`; null: leave it out",
    )
    borne_out_rows: int = Field(
        default=30000, ge=20, description="most test rows, the latest, that those measures are taken on"
    )
    budgets: list[Annotated[float, Field(ge=0)]] = Field(
        default=[0.04, 0.08, 0.12, 0.2, 0.3],
        min_length=1,
        description="budgets of the capture curve, as shares of the way from the cheapest to the clairvoyant's spend",
    )
    slices: list[str] = Field(default=["user_value", "placement"], description="columns by which metrics are split")
    buckets: int = Field(default=50, ge=2, description="quantile buckets of calibration")
    seed: int = Field(default=0, ge=0, description="seed of the sample of test states")
    max_states: int = Field(default=4000, ge=10, description="test states sampled for metrics over all joint actions")
    threads: int = Field(default=1, ge=1, description="torch threads")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where tensors live")

    @model_validator(mode="after")
    def _costs_need_a_profile(self) -> EvaluateConfig:
        if self.costs and not self.profile:
            raise ValueError("costs: needs profile as well; expected both, profile alone, or neither")
        return self


class ExportConfig(Config):
    """What ``python -m awrq_mixer.export`` needs."""

    checkpoint: str = Field(description="checkpoint of a trained learner")
    onnx: bool = Field(default=False, description="write q.onnx, too; needs the extra `onnx`")
    check_states: int = Field(default=64, ge=2, description="random states on which the files must equal the learner")
    policy: str | None = Field(default=None, description="policy cache (npz) to write as hulls.parquet; null = none")
