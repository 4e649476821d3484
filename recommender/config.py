"""Everything that defines the real cascade and its truth, as strict types; the shipped one stands in ``configs/recommender``."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from marca_common.config import Config
from marca_common.requests import RequestSpec

CHANNELS = ("als", "knn", "popular", "content")
CACHED = "cached"  # in place of channels: the answer that is kept for each user since the models were trained
MODELS = ("light", "heavy")
RANKERS = ("none", "small", "large")
STATE = ("user_value", "activity", "recency", "taste", "hour", "history")
SERVICES = ("retrieval", "ranking")


class DataConfig(Config):
    """Where ratings come from, and what counts as one."""

    folder: str | None = Field(
        default=None, description="folder in a MovieLens format; null: MovieLens-100K out of a wheel"
    )
    cache: str | None = Field(default=None, description="where fetched data is kept; null: the user's cache folder")
    min_ratings: int = Field(default=20, ge=4, description="users with fewer ratings are left out")
    most_users: int | None = Field(default=None, ge=2, description="users drawn at random from larger sets; null: all")
    like: float = Field(default=4.0, ge=0, description="stars from which a rating is a like")


class SplitConfig(Config):
    """How each user's ratings are cut in time; what is left after both shares is later."""

    features: float = Field(default=0.5, gt=0, lt=1, description="share that models of taste are fitted on")
    ranker: float = Field(default=0.2, gt=0, lt=1, description="share that rankers learn from")
    every: int = Field(default=3, ge=1, description="ratings from one visit to the next")
    most_visits: int = Field(
        default=20_000,
        ge=10,
        description="visits in the truth, and visits that rankers learn from; drawn at random from more",
    )
    tiers: int = Field(default=5, ge=2, description="tiers of user value, of activity and of history length")
    tastes: int = Field(default=12, ge=2, description="taste groups")

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitConfig:
        if self.features + self.ranker > 0.95:
            raise ValueError("features and ranker must leave at least .05 for later")
        return self


class ModelsConfig(Config):
    """The models behind channels and rankers."""

    light_factors: int = Field(default=16, ge=1, description="ALS: numbers in the vectors of the light model")
    heavy_factors: int = Field(default=32, ge=1, description="ALS: numbers in the vectors of the heavy model")
    confidence: float = Field(default=1.0, gt=0, description="ALS: weight of a like beside that of a film not rated")
    ridge: float = Field(default=15.0, gt=0, description="ALS: weight of the squared length of vectors")
    als_sweeps: int = Field(default=12, ge=1, description="ALS: alternations")
    neighbours: int = Field(default=200, ge=1, description="kNN: films kept beside each film")
    shrink: float = Field(default=1.0, ge=0, description="kNN: likes in common at which a cosine counts half")
    light_recent: int = Field(default=4, ge=1, description="kNN: latest likes that the light model reads")
    heavy_recent: int = Field(default=15, ge=1, description="kNN: latest likes that the heavy model reads")
    fusion: float = Field(default=20.0, ge=0, description="ranks are merged as Σ 1 / (fusion + rank)")
    candidates: int = Field(default=80, ge=5, description="most films not liked per visit that rankers learn from")
    trees: int = Field(default=120, ge=1, description="small ranker: trees")
    leaves: int = Field(default=15, ge=2, description="small ranker: leaves of a tree")
    sequence: int = Field(default=50, ge=2, description="large ranker: films of the history that it reads")
    width: int = Field(default=64, ge=4, description="large ranker: width of its recurrent state")
    epochs: int = Field(default=1, ge=1, description="large ranker: passes over the visits it learns from")
    lr: float = Field(default=0.002, gt=0, description="large ranker: learning rate")


class ActionConfig(Config):
    """One sub-action."""

    agent: str = Field(description="agent (stage) that takes it; agents act in order of first mention")
    kind: Literal["channels", "queue", "model", "truncation", "ranker"] = Field(description="what it sets")
    levels: list[list[str]] | list[int] | list[str] = Field(
        min_length=1, description="its choices: channel sets ([cached]: the kept answer), lengths, or names"
    )
    channels: list[str] = Field(default=[], description="kind queue: the channels whose length it sets")


class PageConfig(Config):
    """What a page shows and what a like on it is worth."""

    slots: int = Field(default=10, ge=1, description="films on a page")
    click: float = Field(
        default=0.6, gt=0, le=1, description="probability that a liked film in the first slot is clicked"
    )
    stray: float = Field(default=0.004, ge=0, lt=1, description="the same of any other film: click noise")
    price: float = Field(default=1.0, gt=0, description="median money of a click")
    film_sd: float = Field(default=0.5, ge=0, description="sd of log money between films")
    user_sd: float = Field(default=0.5, ge=0, description="sd of log money between users")


class LogConfig(Config):
    """How requests were served when they were logged."""

    draws: int = Field(
        default=10, ge=1, description="requests that stand for each visit, with an action and luck of their own"
    )
    exploration: float = Field(default=0.4, gt=0, le=1, description="probability that a sub-action is uniform")


class CostConfig(Config):
    """How CPU is measured."""

    rounds: int = Field(default=6, ge=2, description="rounds; in each, every action is measured in random order")
    visits: int = Field(default=30, ge=1, description="visits of each history tier, the same in all rounds")


class RecommenderConfig(Config):
    """The whole build: data, cascade, truth, logs."""

    seed: int = Field(default=0, ge=0, description="of the split, the models, the log")
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    models: ModelsConfig = ModelsConfig()
    actions: dict[str, ActionConfig] = Field(min_length=1, description="sub-action column → what it does, in order")
    cached_answer: dict[str, int] = Field(
        description="sub-actions that make the answers which are kept when models are trained"
    )
    page: PageConfig = PageConfig()
    log: LogConfig = LogConfig()
    cost: CostConfig = CostConfig()

    @model_validator(mode="after")
    def _actions_make_a_cascade(self) -> RecommenderConfig:
        for name, action in self.actions.items():
            _require_known(name, action)
        kinds = [action.kind for action in self.actions.values()]
        for kind in ("channels", "model", "truncation", "ranker"):
            if kinds.count(kind) != 1:
                raise ValueError(f"actions: got {kinds.count(kind)} of kind {kind}; expected one")
        ruled = sorted(channel for action in self.actions.values() for channel in action.channels)
        if ruled != sorted(CHANNELS):
            raise ValueError(
                f"actions: the queues set the lengths of {ruled}; expected each of {sorted(CHANNELS)} once"
            )
        self.spec.sizes  # noqa: B018 - agents and sizes must fit
        if set(self.cached_answer) != set(self.actions) or not all(
            0 <= choice < len(self.actions[name].levels) for name, choice in self.cached_answer.items()
        ):
            raise ValueError("cached_answer: expected one choice for every sub-action")
        if self.actions[self.channel_action].levels[self.cached_answer[self.channel_action]] == [CACHED]:
            raise ValueError("cached_answer: the kept answer cannot be the kept answer itself")
        return self

    @property
    def channel_action(self) -> str:
        """Name of the sub-action that opens channels."""
        return next(name for name, action in self.actions.items() if action.kind == "channels")

    @cached_property
    def spec(self) -> RequestSpec:
        """Columns of the request log."""
        agents: dict[str, list[str]] = {}
        for name, action in self.actions.items():
            agents.setdefault(action.agent, []).append(name)
        return RequestSpec(
            state=dict.fromkeys(STATE, "category"),
            agents=agents,
            sizes={name: len(action.levels) for name, action in self.actions.items()},
        )


def _require_known(name: str, action: ActionConfig) -> None:
    known = {"channels": CHANNELS, "model": MODELS, "ranker": RANKERS}.get(action.kind)
    for level in action.levels:
        if action.kind == "channels":
            fine = level == [CACHED] or (isinstance(level, list) and level and set(level) <= set(CHANNELS))
        else:
            fine = level in known if known else isinstance(level, int) and level >= 1
        if not fine:
            expected = (
                f"[{CACHED}] or some of {list(CHANNELS)}" if action.kind == "channels" else known or "a length from 1"
            )
            raise ValueError(f"actions.{name}: got {level!r}; expected {expected}")
