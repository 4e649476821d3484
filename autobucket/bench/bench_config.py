"""Settings of the test bench and of the live loop: target, traffic, buckets, load, accounting, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from marca_common.config import Config
from marca_common.cost_maps import ActionsConfig


class TargetConfig(Config):
    """The service under test."""

    kind: Literal["http", "callable"] = Field(
        default="http", description="http: a command that serves HTTP; callable: a Python function in this process"
    )
    command: list[str] = Field(
        default=["{python}", "-m", "autobucket.bench.example_service", "--port", "{port}"],
        min_length=1,
        description="program and arguments; {python}, {port} and {address} are filled in (kind http)",
    )
    callable: str | None = Field(
        default=None,
        description="module:function that takes a request's fields and returns its results (kind callable)",
    )
    address: str = Field(default="127.0.0.1", description="where it listens; only loopback unless allowed below")
    allow_addresses: list[str] = Field(default=[], description="further addresses that may be put under load, by name")
    port: int = Field(default=0, ge=0, le=65535, description="0: a free one is chosen")
    health_path: str = Field(default="/health", description="answers 200 once ready; may name {services: {name: pid}}")
    serve_path: str = Field(
        default="/serve", description="takes a request as a JSON object, answers its results as one"
    )
    noop_path: str | None = Field(default="/noop", description="answers without work; null: no no-op baseline")
    service: str = Field(default="service", description="name of the service where health names none")
    start_timeout_s: float = Field(default=30.0, gt=0, le=600, description="seconds until health must answer")
    request_timeout_s: float = Field(default=5.0, gt=0, le=60, description="seconds after which a request is lost")
    threads: int = Field(default=1, ge=1, description="BLAS threads of the target (set in its environment)")
    environment: dict[str, str] = Field(default={}, description="further environment variables of the target")

    @model_validator(mode="after")
    def _complete(self) -> TargetConfig:
        if self.kind == "callable" and (self.callable is None or ":" not in self.callable):
            raise ValueError("kind callable needs callable: module:function")
        loopback = self.address in ("localhost", "::1") or self.address.startswith("127.")
        if not loopback and self.address not in self.allow_addresses:
            raise ValueError(
                f"address {self.address!r} is not loopback; list it in target.allow_addresses to put load on it"
            )
        return self


class BenchTrafficConfig(Config):
    """Simulated requests: a table of your own, or fields drawn from choices."""

    table: Path | None = Field(
        default=None, description="CSV or Parquet, one request a row, columns = fields of the request; null: drawn"
    )
    requests: int = Field(default=1600, ge=8, le=100_000, description="requests of the scouting pass")
    users: int = Field(default=5000, ge=1, description="users that drawn requests come from")
    values: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={"low": 0.6, "mid": 0.3, "high": 0.1},
        min_length=1,
        description="request value → share of users (drawn)",
    )
    value: str = Field(default="value", description="field that holds the request value")
    fields: dict[str, list[str | int | float]] = Field(
        default={
            "channels": [
                "similar+popular",
                "similar+popular+behaviour",
                "similar+popular+graph",
                "similar+popular+behaviour+graph",
                "similar",
                "behaviour+graph",
            ],
            "queue_a": [1, 3, 10, 30, 100],
            "queue_b": [1, 3, 8, 25, 80],
            "model": ["light", "heavy"],
            "truncation": [4, 10, 30, 70, 150],
        },
        description="field → its choices, drawn uniformly and independently",
    )


class BucketsConfig(Config):
    """AutoBucket: which requests are measured together."""

    strata: list[str] = Field(
        default=["channels", "model"], description="fields kept apart: never two values in a bucket"
    )
    lengths: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={"retrieved": 4, "preranked": 3}, min_length=1, description="realised queue length → number of bins"
    )
    values: list[list[str]] | None = Field(
        default=None, description="groups of request values that share buckets; null: each value its own"
    )
    edges: Literal["quantile", "target_aware"] = Field(
        default="quantile",
        description="bins of equal counts, or bins that explain the service time seen in scouting best",
    )
    min_count: int = Field(default=4, ge=1, description="buckets with fewer scouted requests are merged or left out")
    most: int = Field(default=32, ge=1, description="buckets measured at most; a balanced choice where there are more")
    replay: int = Field(default=24, ge=1, description="requests of a bucket that are replayed, over and over, at most")


class LoadConfig(Config):
    """How load is put on the target."""

    arrivals: Literal["poisson", "jittered", "constant"] = Field(default="poisson", description="gaps between requests")
    jitter: float = Field(default=0.5, ge=0, le=1, description="half width of a jittered gap, share of the mean gap")
    rates: list[float] = Field(
        default=[50.0, 20.0], min_length=1, description="requests per second; the first is the main one"
    )
    second_rate_buckets: int = Field(
        default=10, ge=0, description="buckets that are measured at the further rates, too"
    )
    window_s: float = Field(default=2.5, gt=0, le=120, description="length of one measurement")
    warmup_s: float = Field(default=2.0, ge=0, le=120, description="mixed load after each start, not measured")
    idle_s: float = Field(default=1.5, gt=0, le=120, description="idle baseline after each start")
    noop_s: float = Field(default=1.5, ge=0, le=120, description="no-op baseline after each start; 0: none")
    pause_s: float = Field(default=0.1, ge=0, le=10, description="rest between measurements")
    min_rounds: int = Field(default=4, ge=2, description="rounds (fresh starts of the target) at least")
    max_rounds: int = Field(default=7, ge=2, description="rounds at most")
    stop_se_pct: float = Field(default=3.0, gt=0, description="a bucket is done when its standard error is below this")
    degradations: list[float] = Field(
        default=[0.0], min_length=1, description="degradation levels; 0 is normal service"
    )
    degradation_field: str = Field(default="degradation", description="field that sets the level")
    degradation_buckets: int = Field(default=4, ge=0, description="buckets measured at levels above 0, too")
    replay_s: float = Field(default=8.0, ge=0, le=600, description="mixed-action replay in each round; 0: none")

    @model_validator(mode="after")
    def _sensible(self) -> LoadConfig:
        if min(self.rates) <= 0 or len(set(self.rates)) != len(self.rates):
            raise ValueError("rates must be positive and different")
        if self.max_rounds < self.min_rounds:
            raise ValueError("max_rounds must be at least min_rounds")
        if self.degradations[0] != 0:
            raise ValueError("degradations must begin with 0")
        return self


class ValidityConfig(Config):
    """When a measurement counts."""

    lost_pct: float = Field(
        default=0.5, ge=0, description="more lost or failed requests make a bucket invalid, percent"
    )
    slow_pct: float = Field(
        default=5.0, ge=0, description="a rate served further below the asked one does, too, percent"
    )
    lateness_ms: float = Field(default=25.0, gt=0, description="p99 of sending later than planned above this does, too")
    rate_warning_pct: float = Field(default=5.0, ge=0, description="warn when cost differs by more between rates")
    abort_errors: int = Field(default=50, ge=1, description="consecutive failed requests that end the bench")


class AccountingConfig(Config):
    """Which cores and clocks."""

    pin: bool = Field(default=True, description="target and generator on different cores, where the machine allows")
    target_cores: list[int] | None = Field(default=None, description="cores of the target; null: the first one")
    cgroup: Path | None = Field(
        default=None,
        description="delegated cgroup folder to run the target in and read usage from; null: process clocks",
    )
    idcs: list[str] = Field(
        default=["bench"], min_length=1, description="data centres that the rows stand for (equal hardware is assumed)"
    )


class TestbenchConfig(Config):
    """`python -m autobucket.testbench`."""

    __test__ = False  # not a test class, whatever its name

    target: TargetConfig = TargetConfig()
    traffic: BenchTrafficConfig = BenchTrafficConfig()
    buckets: BucketsConfig = BucketsConfig()
    load: LoadConfig = LoadConfig()
    validity: ValidityConfig = ValidityConfig()
    accounting: AccountingConfig = AccountingConfig()
    actions: ActionsConfig | None = Field(
        default=None,
        description="settings ↔ sub-actions of the cost map that is fitted; null: read from strata and lengths",
    )
    estimator: Path | None = Field(
        default=None, description="estimator.pt whose own cost per request is reported beside; null: not measured"
    )
    estimator_requests: int = Field(default=32, ge=1, le=10_000, description="requests scored for it")
    max_seconds: float = Field(default=840.0, gt=0, le=7200, description="the bench ends with what it has after this")
    max_requests: int = Field(default=200_000, ge=1, description="the bench never sends more than this")
    seed: int = Field(default=0, ge=0, description="seed of traffic, order of measurements and gaps")


class LiveControllerConfig(Config):
    """The shipped controllers."""

    kind: str = Field(
        default="feed_forward",
        description="who sets the queue lengths: pi, feed_forward, fixed, or module:Class of your own",
    )
    target_percent: float = Field(
        default=60.0, gt=0, le=100, description="CPU to keep to, percent of the target's cores"
    )
    kp: float = Field(default=0.03, ge=0, description="PI: change of the queue scale per 10 points of error change")
    ki: float = Field(default=0.06, ge=0, description="PI: change of the queue scale per 10 points of error and second")
    trim: float = Field(
        default=0.05, ge=0, le=1, description="feed-forward: share of the error taken into its cost factor"
    )
    smoothing: float = Field(
        default=0.5, ge=0, lt=1, description="feed-forward: weight of the past in the traffic estimate"
    )
    latency_limit_ms: float = Field(
        default=1000.0,
        gt=0,
        description="p99 above this brakes, whatever the CPU says: the machine gives less than its cores",
    )
    brake: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="queue scale taken off per braked interval; a fifth of it comes back per calm one",
    )
    level: float = Field(default=0.5, ge=0, le=1, description="first queue scale, 0 shortest, 1 longest; fixed: always")


class LiveConfig(Config):
    """`python -m autobucket.live`."""

    target: TargetConfig = TargetConfig()
    traffic: BenchTrafficConfig = BenchTrafficConfig()
    accounting: AccountingConfig = AccountingConfig()
    controller: LiveControllerConfig = LiveControllerConfig()
    seconds: float = Field(default=60.0, ge=1, le=3600, description="length of the run; a day is compressed into it")
    peak_qps: float | None = Field(
        default=None,
        gt=0,
        le=100_000,
        description="traffic of the busiest moment; null = calibrated, so that the longest queues exceed the target by a tenth at night",
    )
    night: float = Field(default=0.65, gt=0, le=1, description="quietest / busiest")
    burst: float = Field(default=1.3, ge=1, description="factor of a sudden event at two thirds of the run; 1: none")
    interval_s: float = Field(default=1.0, gt=0, le=60, description="seconds between decisions")
    lengths: dict[str, tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]] = Field(
        default={"queue_a": (1, 100), "queue_b": (1, 80), "truncation": (4, 150)},
        min_length=1,
        description="field → shortest and longest queue that the controller may set",
    )
    calibration_s: float = Field(default=8.0, ge=0, le=120, description="time spent on the cost curve before the run")
    calibration_qps: float = Field(default=40.0, gt=0, le=100_000, description="traffic while it is measured")
    calibration_points: int = Field(default=4, ge=2, le=20, description="queue scales measured in it")
    warmup_s: float = Field(default=1.5, ge=0, le=120, description="mixed load before anything is measured")
    max_requests: int = Field(default=100_000, ge=1, description="never send more than this")
    seed: int = Field(default=0, ge=0, description="seed of traffic and gaps")
