"""Everything that defines a world, as strict types; the shipped worlds stand in ``configs/cascade_world``."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from marca_common.config import Config
from marca_common.requests import RequestSpec

_COLUMNS = ("user_value", "placement", "segment", "idc")


class StatesConfig(Config):
    """Who asks: the categorical state columns, their mix over time, and the hidden classes behind them."""

    user_values: int = Field(default=100, ge=2, description="tiers of user_value")
    placements: list[str] = Field(
        default=["home", "search", "detail", "cart", "feed", "orders"], min_length=1, description="placement names"
    )
    segments: int = Field(default=400, ge=2, description="audience segments")
    segment_tail: float = Field(default=1.05, ge=0, description="Zipf exponent of segment frequencies")
    idcs: dict[str, float] = Field(default={"north": 0.55, "south": 0.45}, description="data centre → share of traffic")
    late_segments: float = Field(default=0.06, ge=0, lt=1, description="share of segments that appear only late")
    late_after: float = Field(default=0.75, ge=0, le=1, description="they appear after this part of the log's days")
    drift_per_week: float = Field(default=0.25, ge=0, description="sd of the weekly change of log segment frequency")
    clusters: int = Field(default=10, ge=1, description="hidden segment clusters")
    bands: int = Field(default=4, ge=1, description="hidden bands of user_value")
    band_jitter: float = Field(default=0.10, ge=0, description="sd of the noise of band borders, share of all tiers")
    cluster_noise: float = Field(
        default=0.2, ge=0, le=1, description="share of (segment, placement, tiers) cells of another cluster"
    )
    tier_slope: float = Field(default=1.6, description="change of log money scale from the lowest to the highest tier")
    segment_sd: float = Field(default=0.35, ge=0, description="sd of log money scale between segments")
    state_sd: float = Field(default=0.25, ge=0, description="sd of log money scale between states of equal columns")
    action_noise: float = Field(default=0.0, ge=0, description="sd of log Q's own noise per (state, joint action)")


class UsersConfig(Config):
    """Hidden users with continuous tastes, who come back, in place of hidden classes: nothing discrete decides.

    Of ``states`` only user_values, placements, segments, idcs, late_after, drift_per_week and action_noise count then.
    """

    count: int = Field(default=800, ge=2, description="hidden users")
    tail: float = Field(default=0.8, ge=0, description="Zipf exponent of user frequencies")
    late: float = Field(default=0.1, ge=0, lt=1, description="share of users that appear only late in the log")
    dimension: int = Field(default=6, ge=1, description="numbers in the taste of a user and in that of a placement")
    bend: float = Field(default=1.0, gt=0, description="slope of the tanh through which tastes act; near 0: linear")
    wealth_sd: float = Field(default=0.55, ge=0, description="sd of log money scale between users")
    value_noise: float = Field(
        default=0.1, ge=0, description="sd of the noise of a user's user_value, share of all tiers, new every week"
    )
    segment_noise: float = Field(
        default=0.5, ge=0, description="sd of the noise on a user's taste before its segment is found, new every week"
    )


class ClassesConfig(Config):
    """Spread of the cascade's parameters between classes: hidden classes, or users × placements where there are users.

    Half of each variance is shared along placement, cluster and band; with users all of it follows their tastes.
    """

    click_rate: float = Field(default=0.03, gt=0, lt=1, description="median click probability of a candidate")
    click_rate_sd: float = Field(default=0.35, ge=0, description="sd of its logarithm between classes")
    dispersion: float = Field(default=0.75, gt=0, description="median sd of log relevance between candidates")
    dispersion_sd: float = Field(default=0.35, ge=0, description="sd of its logarithm between classes")
    bid_sd: float = Field(default=0.6, ge=0, description="sd of log bid between candidates")
    affinity_sd: float = Field(default=0.7, ge=0, description="sd of a channel's mean log relevance between classes")
    supply: float = Field(default=90, gt=0, description="median number of candidates of a channel")
    supply_sd: float = Field(default=0.5, ge=0, description="sd of its logarithm between classes")
    supply_request_sd: float = Field(default=0.15, ge=0, description="sd of its logarithm between requests of a class")
    money_sd: float = Field(default=0.4, ge=0, description="sd of the log bid level between classes")
    bid: float = Field(default=30.0, gt=0, description="median bid per click at scale 1, money")
    reserve: float = Field(default=3.0, ge=0, description="reserve price per click at scale 1, money")
    conversion: float = Field(default=0.04, ge=0, le=1, description="median probability of a purchase after a click")
    conversion_sd: float = Field(default=0.3, ge=0, description="sd of its logarithm between classes")
    basket: float = Field(default=1500.0, ge=0, description="mean value of a purchase at scale 1, money")
    basket_sd: float = Field(default=0.9, ge=0, description="sd of the logarithm of a purchase's value")
    commission: float = Field(default=0.1, ge=0, le=1, description="platform's share of a purchase; added to the spend")


class ActionConfig(Config):
    """One sub-action."""

    agent: str = Field(description="agent (stage) that takes it; agents act in order of first mention")
    kind: Literal["channels", "queue", "model", "truncation", "ranker"] = Field(description="what it sets")
    levels: list[list[str]] | list[int] | list[str] = Field(
        min_length=1, description="its choices: channel sets, queue lengths, model or ranker names"
    )
    channels: list[str] = Field(default=[], description="kind queue: the channels whose length it sets")


class CascadeConfig(Config):
    """Channels, stages and what each of them knows."""

    channels: list[str] = Field(
        default=["similar", "popular", "behaviour", "graph"], min_length=1, description="retrieval channels"
    )
    max_candidates: int = Field(default=120, ge=1, le=1024, description="most candidates of one channel")
    models: dict[str, float] = Field(
        default={"light": 4.0, "heavy": 1.3},
        min_length=1,
        description="retrieval model → sd of its score noise, log units",
    )
    model_correlation: float = Field(default=0.5, ge=0, le=1, description="correlation of the models' score noise")
    preranking_noise: float = Field(default=2.8, ge=0, description="sd of the pre-ranker's score noise, log units")
    preranking_memory: float = Field(
        default=0.1, ge=0, lt=1, description="weight of the retrieval score in the pre-ranker's; the rest is its own"
    )
    rankers: dict[str, float] = Field(
        default={"ranker": 0.4}, min_length=1, description="ranker → sd of its log click rate's noise"
    )
    slots: list[float] = Field(
        default=[1.0, 0.65, 0.45, 0.3], min_length=1, description="position discount of the click rate, per shown slot"
    )
    prediction_bias: float = Field(
        default=0.7, gt=0, description="factor on the ranker's predicted value, optimistic by selection"
    )
    prediction_bias_sd: float = Field(default=0.1, ge=0, description="sd of its logarithm between placements")
    actions: dict[str, ActionConfig] = Field(min_length=1, description="sub-action column → what it does, in order")

    @model_validator(mode="after")
    def _actions_fit(self) -> CascadeConfig:
        for name, action in self.actions.items():
            _check_levels(name, action, self)
        for kind in ("channels", "model", "truncation", "ranker"):
            if sum(action.kind == kind for action in self.actions.values()) > 1:
                raise ValueError(f"at most one sub-action of kind {kind!r} is possible")
        queued = [channel for action in self.actions.values() for channel in action.channels]
        if len(set(queued)) != len(queued):
            raise ValueError("a channel's queue length is set by one sub-action only")
        missing = [channel for channel in self.channels if channel not in queued]
        if missing:
            raise ValueError(f"no sub-action of kind 'queue' sets the length of channel {missing[0]!r}")
        if len(self.models) > 2 or len(self.rankers) > 3:
            raise ValueError("at most two retrieval models and three rankers are possible")
        if any(not 0 <= slot <= 1 for slot in self.slots):
            raise ValueError("slots are discounts from 0 to 1")
        if min([*self.models.values(), *self.rankers.values()]) < 0:
            raise ValueError("noise of a model or ranker is a standard deviation of at least 0")
        return self


def _check_levels(name: str, action: ActionConfig, cascade: CascadeConfig) -> None:
    known = {"channels": set(cascade.channels), "model": set(cascade.models), "ranker": set(cascade.rankers)}
    if action.kind in ("queue", "truncation"):
        lengths = action.levels
        if not all(isinstance(level, int) and level >= 1 for level in lengths) or list(lengths) != sorted(set(lengths)):  # type: ignore[type-var]
            raise ValueError(f"{name}: levels must be whole numbers of at least 1 that rise, got {lengths}")
        if action.kind == "queue" and (not action.channels or set(action.channels) - set(cascade.channels)):
            raise ValueError(f"{name}: channels must name some of {cascade.channels}, got {action.channels}")
        return
    names: list[str] = []
    for level in action.levels:
        if isinstance(level, list) != (action.kind == "channels") or isinstance(level, int):
            raise ValueError(f"{name}: a level of kind {action.kind!r} cannot be {level!r}")
        names += level if isinstance(level, list) else [level]
        if not level:
            raise ValueError(f"{name}: an empty channel set retrieves nothing")
    unknown = [one for one in names if one not in known[action.kind]]
    if unknown:
        raise ValueError(f"{name}: unknown {action.kind} {unknown[0]!r}; known are {sorted(known[action.kind])}")


Length = Annotated[float, Field(ge=0)]


class ServiceCost(Config):
    """Cost of one service as a function of realised results, core-milliseconds per request on reference hardware.

    The curves are points (length, core-ms), linear between them and flat beyond the ends.
    """

    base: float = Field(default=0.0, ge=0, description="cost of any request, core-ms")
    channels: dict[str, dict[str, float]] = Field(default={}, description="model → channel → core-ms to open it")
    retrieved: dict[str, list[tuple[Length, float]]] = Field(default={}, description="model → (items, core-ms)")
    preranked: dict[str, list[tuple[Length, float]]] = Field(default={}, description="ranker → (items, core-ms)")

    @model_validator(mode="after")
    def _monotone(self) -> ServiceCost:
        for curve in [*self.retrieved.values(), *self.preranked.values()]:
            lengths, costs = zip(*curve) if curve else ((), ())
            if list(lengths) != sorted(set(lengths)) or list(costs) != sorted(costs) or (costs and costs[0] < 0):
                raise ValueError(
                    f"a cost curve needs rising lengths and costs of at least 0 that never fall, got {curve}"
                )
        if any(cost < 0 for by_channel in self.channels.values() for cost in by_channel.values()):
            raise ValueError("the cost of a channel is at least 0")
        return self


class Release(Config):
    """A new version of a service that changes its cost from one moment on."""

    day: float = Field(ge=0, description="days since the start of the simulation")
    service: str = Field(description="service it changes")
    factor: float = Field(gt=0, description="factor on its cost from then on")


class CostConfig(Config):
    """What serving costs."""

    services: dict[str, ServiceCost] = Field(default={}, description="service → its cost")
    map: str | None = Field(default=None, description="cost_maps.json of autobucket in place of the curves; null: none")
    hardware: dict[str, float] = Field(default={}, description="data centre → factor on core-ms; absent: 1")
    request_sd: float = Field(default=0.25, ge=0, description="sd of the log cost of equal requests")
    minute_sd: float = Field(default=0.01, ge=0, description="sd of a common log factor per minute (AR 0.8)")
    load_slope: float = Field(default=0.0, gt=-1, description="relative change of cost from 0 to 100 % utilisation")
    releases: list[Release] = Field(default=[], description="steps of cost in time")


class TrafficEvent(Config):
    """Something that changes traffic."""

    kind: Literal["flash", "failover"] = Field(
        description="flash: jump that decays; failover: a group's traffic leaves"
    )
    day: float = Field(ge=0, description="start, days since the start of the simulation")
    factor: float = Field(default=2.0, gt=0, description="flash: factor on traffic; failover: on the other groups'")
    decay_minutes: float = Field(default=30.0, gt=0, description="flash: time constant of return; failover: duration")
    group: str | None = Field(default=None, description="flash: this data centre (null: all); failover: the one lost")
    announced: bool = Field(default=False, description="whether the calendar shows it")
    announced_factor: float | None = Field(default=None, description="size in the calendar; null: the true factor")


class ArrivalsConfig(Config):
    """Arrivals."""

    start: str = Field(default="2026-01-05 00:00:00", description="first minute (a Monday)")
    peak_qps: float = Field(default=50000.0, gt=0, description="requests per second of all groups in an ordinary peak")
    night: float = Field(default=0.3, gt=0, le=1, description="traffic at the day's minimum / its peak")
    weekend: float = Field(default=0.92, gt=0, description="factor on Saturdays and Sundays")
    noise: float = Field(default=0.02, ge=0, description="sd of the log AR noise per minute (t, 4 d.o.f.)")
    noise_persistence: float = Field(default=0.9, ge=0, lt=1, description="AR coefficient of that noise per minute")
    sub_intervals: int = Field(default=6, ge=1, le=60, description="arrival counts per minute")
    burst: float = Field(default=0.01, ge=0, description="sd of the relative noise of one sub-interval, beside Poisson")
    trace: str | None = Field(default=None, description="CSV timestamp,value to follow; null: the shapes")
    events: list[TrafficEvent] = Field(default=[], description="flash sales and failovers")


class PlantConfig(Config):
    """Machines of one data centre (the same everywhere) and how they behave."""

    machines: dict[str, dict[str, int]] = Field(description="data centre → service → machines")
    cores: int = Field(default=16, ge=1, description="cores of a machine")
    budget_percent: float = Field(default=62.0, gt=0, le=100, description="C_m: CPU that λ has to keep to, percent")
    idle_percent: float = Field(default=2.0, ge=0, lt=100, description="CPU at no traffic, percent")
    lag_seconds: float = Field(default=15.0, ge=0, description="time constant of CPU after load")
    actuation_delay: int = Field(default=0, ge=0, le=60, description="minutes until a new price is in force")
    measurement_noise: float = Field(default=0.4, ge=0, description="sd of a CPU reading, points")
    dropped: float = Field(default=0.0, ge=0, le=1, description="probability that a minute's CPU readings are lost")
    frozen: float = Field(default=0.0, ge=0, le=1, description="probability per minute that readings freeze")
    frozen_minutes: int = Field(default=10, ge=1, description="how long they stay frozen, minutes")
    degradation_threshold: float = Field(default=75.0, gt=0, description="CPU above which the level D rises, percent")
    degradation_rise: float = Field(default=0.15, ge=0, description="rise of D per sub-interval and 10 points above")
    degradation_fall: float = Field(default=0.05, ge=0, description="fall of D per sub-interval below the threshold")
    degradation_max: float = Field(
        default=4.0, ge=0, description="highest level; a whole one takes a step off every queue"
    )
    saturation: float = Field(default=92.0, gt=0, le=100, description="CPU above which requests time out, percent")
    weight: float = Field(default=1000.0, ge=1, description="real requests that one simulated request stands for")
    states_per_hour: int = Field(default=1500, ge=1, description="states that an hour's requests of a group come from")


class LogsConfig(Config):
    """What is logged, and under which policies."""

    requests: int = Field(default=1_000_000, ge=1, description="rows of the request log")
    days: int = Field(default=28, ge=1, description="days that the request log covers")
    exploration: float = Field(default=0.4, gt=0, le=1, description="probability per sub-action of a uniform choice")
    system_days: float = Field(default=7, gt=0, description="days of the system table")
    lambda_spread: float = Field(default=1.0, ge=0, description="sd of log λ around the incumbent's rule, per service")
    lambda_hold: float = Field(default=12.0, gt=0, description="mean minutes between jumps of λ")
    loadtest_rounds: int = Field(default=4, ge=1, description="repetitions of every load-test bucket")
    loadtest_noise: float = Field(default=0.03, ge=0, description="sd of the relative noise between load-test runs")
    loadtest_utilisation: list[Annotated[float, Field(gt=0, lt=100)]] = Field(
        default=[25.0, 55.0], min_length=1, description="CPU that the bench's two or more rates aim at, percent"
    )


class TruthConfig(Config):
    """How precisely Q and C are known."""

    draws: int = Field(default=1000, ge=2, description="candidate draws per class, common to all joint actions")
    reference_states: int = Field(
        default=2000, ge=1, description="states in truth/references.parquet; describe samples twice as many"
    )
    cache: str | None = Field(default="runs/cascade_world/cache", description="folder of finished truths; null: none")


class WorldConfig(Config):
    """A world."""

    name: str = Field(default="base", description="name, for titles and logs")
    seed: int = Field(default=0, ge=0, description="seed of the world itself (classes, mapping) and of its logs")
    workers: int = Field(default=2, ge=1, description="threads; changes nothing but the time")
    states: StatesConfig = StatesConfig()
    users: UsersConfig | None = Field(default=None, description="users in place of hidden classes; null: classes")
    classes: ClassesConfig = ClassesConfig()
    cascade: CascadeConfig
    cost: CostConfig
    traffic: ArrivalsConfig = ArrivalsConfig()
    plant: PlantConfig
    logs: LogsConfig = LogsConfig()
    truth: TruthConfig = TruthConfig()

    @model_validator(mode="after")
    def _names_fit(self) -> WorldConfig:
        groups, services = list(self.states.idcs), list(self.cost.services)
        for name in (*self.states.placements, *groups):
            if "_" in name:
                raise ValueError(f"state value {name!r} contains '_', which joins the values of a key")
        if not groups or min(self.states.idcs.values()) <= 0:
            raise ValueError("states.idcs needs at least one data centre with a positive share")
        if list(self.plant.machines) != groups:
            raise ValueError(f"plant.machines must name the data centres {groups}, got {list(self.plant.machines)}")
        for group, machines in self.plant.machines.items():
            if not services or list(machines) != services or min(machines.values()) < 1:
                raise ValueError(f"plant.machines.{group} must give at least one machine to each service {services}")
        unknown = [name for name in self.cost.hardware if name not in groups]
        unknown += [event.group for event in self.traffic.events if event.group and event.group not in groups]
        if unknown:
            raise ValueError(f"unknown data centre {unknown[0]!r}; known are {groups}")
        if any(factor <= 0 for factor in self.cost.hardware.values()):
            raise ValueError("cost.hardware factors must be positive")
        if any(release.service not in services for release in self.cost.releases):
            raise ValueError(f"cost.releases must name services out of {services}")
        return self

    @property
    def services(self) -> tuple[str, ...]:
        """CPU services in order."""
        return tuple(self.cost.services)

    @property
    def groups(self) -> tuple[str, ...]:
        """Data centres in order."""
        return tuple(self.states.idcs)

    @property
    def state_columns(self) -> tuple[str, ...]:
        """State columns in order; codes of states have one column each."""
        return (*_COLUMNS, "user") if self.users else _COLUMNS

    @cached_property
    def request_spec(self) -> RequestSpec:
        """Columns of the request log of this world."""
        agents: dict[str, list[str]] = {}
        for name, action in self.cascade.actions.items():
            agents.setdefault(action.agent, []).append(name)
        names = [name for columns in agents.values() for name in columns]
        return RequestSpec(
            state=dict.fromkeys(self.state_columns, "category"),
            agents=agents,
            sizes={name: len(self.cascade.actions[name].levels) for name in names},
        )
