"""Typed configs of the balancer: the table, the system model, the objective, the solvers and the controllers."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from marca_common.column_values import Zone
from marca_common.config import Config
from marca_common.prices import PRICE_UNIT
from marca_common.table_format import TableFormat

MINUTE_OF_DAY = "minute_of_day"  # in a time format: minutes since midnight, 694 is 11:34


class ColumnsConfig(TableFormat):
    """Which columns of the minute table mean what; every name may be replaced, so that foreign tables can be read."""

    timestamp: list[str] = Field(["timestamp"], description="columns that, joined by a space, give the minute's start")
    timestamp_format: str | None = Field(
        None,
        description="strptime format of the joined text; minute_of_day as its last word reads 694 as 11:34; without a %d"
        " the date is unknown; null = ISO 8601",
    )
    group: list[str] = Field(["idc"], description="columns that, joined by '/', name the data centre (or group)")
    qps: str = Field("qps", description="traffic of the minute")
    qps_divisor: float = Field(1.0, gt=0, description="traffic / this = requests per second (60 for counts a minute)")
    cpu: list[str] | None = Field(None, description="CPU columns, percent; null = cpu_<service>")
    price: list[str] | None = Field(None, description="λ columns, money per core-ms; null = lambda_<service>")
    price_unit: str = Field(PRICE_UNIT, description="unit of the λ columns; a controller's must be the same")
    price_in_force: Literal["this_minute", "next_minute"] = Field(
        "this_minute",
        description="the minute in which the row's λ was in force; the paper's table holds the next one's",
    )
    next_cpu: list[str] | None = Field(None, description="CPU one minute later; null = next_cpu_<service>")
    next_qps: str | None = Field("next_qps", description="traffic one minute later; null = taken from the next row")
    extras: list[str] | None = Field(
        None, description="further inputs (degradation, Q and C aggregates); null = the house table's columns"
    )
    arrivals: list[str] | None = Field(
        None, description="requests per sub-minute interval, in order; null = arrivals_0, arrivals_1, … where present"
    )
    gaps: Literal["error", "split"] = Field(
        "error", description="a missing minute: refuse the table or learn around it"
    )
    timezone: Zone = Field("UTC", description="IANA zone of times without an offset")

    @model_validator(mode="after")
    def _minute_of_day_is_last(self) -> ColumnsConfig:
        words = (self.timestamp_format or "").split(" ")
        if MINUTE_OF_DAY in words[:-1] or (self.minutes_counted and len(words) != len(self.timestamp)):
            raise ValueError(
                f"timestamp_format: got {self.timestamp_format!r} for the columns {self.timestamp}; expected a word for each of "
                f"them, {MINUTE_OF_DAY} the last"
            )
        return self

    @property
    def minutes_counted(self) -> bool:
        """Whether the last time column counts minutes from midnight."""
        return (self.timestamp_format or "").split(" ")[-1] == MINUTE_OF_DAY

    @property
    def date_known(self) -> bool:
        """Whether times have a date; without one only the time of day is known, and the order of rows."""
        return self.timestamp_format is None or re.search("%[djcxsDF]", self.timestamp_format) is not None


class SystemModelConfig(Config):
    """Training of the system model g from a minute table, and of all that is fitted beside it."""

    RENAMED: ClassVar[dict[str, str]] = {"learning_rate": "lr"}

    table: str | None = Field(None, description="system table, CSV or Parquet; null = commission the reference plant")
    services: list[str] = Field(["retrieval", "ranking"], description="services whose CPU is steered", min_length=1)
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig, description="column names")
    head: Literal["utilisation_law", "plain"] = Field(
        "utilisation_law",
        description="utilisation_law: CPU' = ρ·CPU + (1-ρ)(idle + traffic·exp(network)); plain: CPU' = network",
    )
    hidden: list[Annotated[int, Field(ge=1)]] = Field([64, 64], description="widths of the hidden layers", min_length=1)
    rollout_steps: int = Field(5, ge=1, description="minutes rolled out in the training loss")
    epochs: int = Field(45, ge=1, description="most passes over the training rows")
    patience: int = Field(8, ge=1, description="passes without a better validation loss before stopping")
    batch_size: int = Field(256, ge=1, description="windows per update")
    lr: float = Field(3e-3, gt=0, description="Adam's step, decayed by a cosine to a tenth")
    weight_decay: float = Field(1e-4, ge=0, description="decoupled weight decay")
    huber_points: float = Field(5.0, gt=0, description="errors beyond this many CPU points count linearly")
    monotone_weight: float = Field(1.0, ge=0, description="weight of the hint that a service's price lowers its CPU")
    allow_unidentified: bool = Field(
        False, description="learn from a table that cannot say what λ does; a controller then relies on a guess"
    )
    validation_share: float = Field(0.2, gt=0, lt=0.9, description="last share of the time span kept for validation")
    price_high: list[Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="upper end of λ's box per price, money per core-ms; null = largest in the table, without outliers, times box_margin",
    )
    box_margin: float = Field(1.0, ge=1, description="how far beyond the largest λ seen the box may reach")
    max_minutes: float = Field(2.0, gt=0, description="wall-clock limit of the training loop, minutes")
    forecast_horizon: int = Field(10, ge=1, description="minutes ahead that traffic forecasts are fitted for")
    tune_pi: bool = Field(True, description="also tune pi, pi_feedforward and pi_forecast on the same table")
    tune_days: float = Field(0.75, gt=0, description="last days of each group's table that gains are tuned on")
    tune_candidates: int = Field(14, ge=2, description="gains tried per round, three rounds")
    commission_days: float = Field(5.0, gt=0, description="days of the reference plant simulated where table is null")
    commission_dither: float = Field(
        0.12, ge=0, description="how far λ is thrown about then, box units; 0 = not at all"
    )
    commission_steps_per_minute: int = Field(1, ge=1, description="control steps per minute then (1, 2, 3 or 6)")
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="where to train; the network is small: cpu")
    threads: int = Field(1, ge=1, description="torch threads")
    seed: int = Field(0, ge=0, description="seed of initial weights and batches")


class CommissionConfig(Config):
    """How far and how long to throw λ about, so that a system model can tell what λ does."""

    table: str | None = Field(None, description="minute table to plan from, CSV or Parquet; null = the numbers below")
    services: list[str] = Field(["retrieval", "ranking"], description="services whose CPU is steered", min_length=1)
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig, description="column names")
    price_high: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="upper end of λ's box per price, money per core-ms; null = the table's, or 1 without a table"
    )
    precision: float = Field(
        0.1, gt=0, le=0.5, description="share of its effect to which what λ takes off CPU shall be known"
    )
    days: float = Field(2.0, gt=0, description="how long λ is thrown about; two days show the time of day")
    hold: int = Field(4, ge=1, description="minutes for which an offset of λ is held: longer than commands are late")
    step_seconds: int = Field(60, gt=0, description="seconds between rows where table is null")
    effect: float = Field(
        1.0, gt=0, description="what λ over its whole box takes off CPU, log points, where the table can't tell"
    )
    noise: float = Field(
        0.02, gt=0, description="noise of a minute's CPU when its traffic and λ are known, log points, without a table"
    )
    answer: float = Field(
        0.02, ge=0, description="how far λ moves in answer to past CPU, box units; a table without dither may show more"
    )
    target: float = Field(60.0, gt=0, le=100, description="CPU while λ is thrown about, percent")
    budget: float = Field(65.0, gt=0, le=100, description="C_m, percent, that over-use is stated against")
    seed: int = Field(0, ge=0, description="seed of the offsets")


class SystemErrorsConfig(Config):
    """One-step and N-step errors of a trained system model on a table."""

    model: str = Field("runs/mpc_train/system_model.pt", description="checkpoint written by mpc_balancer.train")
    table: str | None = Field(None, description="system table; null = further days of the reference plant")
    columns: ColumnsConfig | None = Field(None, description="column names; null = those of the checkpoint")
    steps: int = Field(10, ge=1, description="N of the N-step error, minutes")
    commission_days: float = Field(2.0, gt=0, description="days of the reference plant simulated where table is null")
    seed: int = Field(1, ge=0, description="seed of those days")


class MovesConfig(Config):
    """How λ may move: what an adapter or an operator allows. All controllers keep to it, MPC plans with it."""

    most_per_minute: float | None = Field(
        None, gt=0, description="largest move of a price a minute, share of its (logarithmic) box; null = any"
    )
    period: int = Field(1, ge=1, description="control steps between moves")
    levels: int | None = Field(
        None, ge=2, description="λ takes one of so many values, evenly spaced in the box; null = any"
    )

    @model_validator(mode="after")
    def _levels_in_reach(self) -> MovesConfig:
        if self.levels is not None and self.most_per_minute is not None:
            apart, most = 1 / (self.levels - 1), self.most_per_minute * self.period
            if apart > most:
                raise ValueError(
                    f"levels: got {self.levels}, {apart:.3g} of the box apart; λ may move by {most:.3g} at a time, expected more levels"
                )
        return self

    @property
    def limited(self) -> bool:
        """Whether a price may be unable to go where it should at once."""
        return self.most_per_minute is not None or self.period > 1


class ObjectiveConfig(Config):
    """What a plan of prices is judged by (Eq. 17 and the default of this software)."""

    mode: Literal["asymmetric", "paper"] = Field("asymmetric", description="paper = Eq. 17 as printed")
    horizon: int | None = Field(
        None,
        ge=1,
        description="N, control steps looked ahead; null = 15 where moves of λ are limited, else one-step inversion",
    )
    alpha: float | None = Field(
        None,
        gt=0,
        le=1,
        description="α, discount per step (the paper: 0.4); null = 0.97 where moves are limited, else 0.8",
    )
    beta: float = Field(8.0, ge=0, description="paper mode: β, weight of ΔC² above the budget")
    reading: Literal["per_step", "whole_horizon"] = Field(
        "per_step", description="paper mode: β's condition holds for each step alone, or once for the whole horizon"
    )
    over_weight: float = Field(3.0, gt=0, description="asymmetric: weight of squared CPU points above the target")
    rise_weight: float = Field(0.0, ge=0, description="asymmetric: weight of squared upward moves of CPU above target")
    move_weight: float = Field(0.1, ge=0, description="asymmetric: weight of squared moves of λ, percent of the box")

    @property
    def discount(self) -> float:
        """α where nothing else is given."""
        return 0.8 if self.alpha is None else self.alpha

    def resolved(self, moves: MovesConfig, solver: str) -> ObjectiveConfig:
        """The nulls filled in; the horizon stays null where a plan of several steps has nothing to gain and nobody asked for one."""
        limited, paper = moves.limited, self.mode == "paper"
        asked = paper or solver != SolverConfig().name
        horizon = self.horizon or (15 if limited else 10 if asked else None)
        alpha = self.alpha or (0.97 if limited and not paper else self.discount)
        return self.model_copy(update={"horizon": horizon, "alpha": alpha})


class SolverConfig(Config):
    """How a plan is searched."""

    name: str = Field("gauss_newton", description="the solver: a name in planning/solvers, or module:function")
    deadline_ms: float | None = Field(50.0, gt=0, description="wall-clock limit per solve, ms; null = none")
    constants: int = Field(12, ge=2, description="gauss_newton: constant-λ seeds")
    refine: int = Field(1, ge=1, description="gauss_newton: how many of the best seeds are refined")
    iterations: int = Field(6, ge=1, description="iterations of the iterative solvers (each has its own meaning)")
    tolerance: float = Field(1e-4, ge=0, description="gauss_newton: relative gain in J below which it stops")
    samples: int = Field(100, ge=2, description="random_sampling, icem: plans drawn (per iteration)")
    grid_points: int = Field(9, ge=2, description="grid: values per price")
    step_size: float = Field(0.05, gt=0, description="gradient_descent: first step, units of the box")
    seed: int = Field(0, ge=0, description="seed of the samplers")


class GainConfig(Config):
    """Online multiplicative correction of the system model."""

    rate: float | None = Field(
        None, ge=0, le=1, description="share of a log error absorbed; 0 = off; null = picked online"
    )
    fast_rate: float = Field(
        0.2, ge=0, le=1, description="share absorbed while errors keep one sign (tracking signal 1); 0 = always `rate`"
    )
    tracking_memory: float = Field(0.3, gt=0, le=1, description="smoothing of the tracking signal, per interval")
    low: float = Field(0.6, gt=0, le=1, description="lower clip of the correction")
    high: float = Field(1.7, ge=1, description="upper clip")
    freeze_log_error: float = Field(0.7, gt=0, description="log errors beyond this are taken for faults, not gain")
    saturated_cpu: float = Field(
        85.0,
        gt=0,
        le=100,
        description="CPU readings at or above this, percent, may raise the correction but not lower it",
    )


class WatchConfig(Config):
    """When the system model is taken for wrong: PI with feed-forward steers until it is right again."""

    memory: float = Field(0.1, gt=0, le=1, description="smoothing of squared errors, per control step")
    worse: float = Field(1.4, gt=0, description="wrong: error above this times that of a forecast without a model")
    bias: float = Field(0.08, gt=0, description="wrong: mean log error beyond this")
    least_error: float = Field(0.05, ge=0, description="log errors up to this are never wrong")
    effect_memory: float = Field(0.03, gt=0, le=1, description="smoothing of what λ's moves did, per control step")
    too_strong: float = Field(
        1.0,
        gt=0,
        description="wrong: λ's moves do more than the model says by more than this share of it, beyond doubt",
    )
    one_sided: float = Field(
        0.6,
        gt=0,
        le=1,
        description="not white: mean product of the signs of successive errors above this; an alarm only",
    )
    patience: int = Field(3, ge=1, description="wrong control steps in a row after which it is taken for wrong")
    return_steps: int = Field(20, ge=1, description="control steps of a right model before it steers again")
    longest_return_steps: int = Field(480, ge=1, description="the same at most; it doubles with each relapse")


class LadderConfig(Config):
    """When the MPC steps down to a simpler rule, and what counts as a bad measurement."""

    bridge_minutes: int = Field(3, ge=0, description="minutes without CPU and traffic that the model bridges")
    stale_margin: float = Field(
        3.0, ge=0, description="CPU points that the target is lowered by where readings are lost for an hour or more"
    )
    frozen_minutes: int = Field(4, ge=2, description="identical readings in a row that count as a frozen sensor")
    high_cpu: float = Field(
        85.0, gt=0, le=100, description="last good CPU at or above this and stale: λ to its maximum"
    )
    stale_minutes: int = Field(2, ge=1, description="minutes without a reading after which high_cpu applies")


class MpcConfig(Config):
    """The model predictive controller."""

    RENAMED: ClassVar[dict[str, str]] = {"detect_delay": "delay"}

    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig, description="what a plan is judged by")
    solver: SolverConfig = Field(default_factory=SolverConfig, description="how a plan is searched")
    gain: GainConfig = Field(default_factory=GainConfig, description="online gain correction")
    watch: WatchConfig = Field(default_factory=WatchConfig, description="when the model is taken for wrong")
    ladder: LadderConfig = Field(default_factory=LadderConfig, description="degradation ladder")
    backoff_quantile: float | None = Field(
        0.7, gt=0, lt=1, description="the target first backs off by this quantile of one-step errors; null = never"
    )
    over_use: float | None = Field(
        0.6,
        gt=0,
        description="mean over-use, percent of the budget, that the back-off is steered to; null = it is fixed",
    )
    margin_rate: float = Field(0.03, ge=0, description="how fast: points per minute and point of over-use")
    forecast: Literal["auto", "persistence"] = Field("auto", description="auto = what beat persistence in back-tests")
    delay: int | None = Field(
        None, ge=0, le=1440, description="control steps by which commands act late; null = detected"
    )
    max_delay: int = Field(5, ge=0, description="longest actuation delay considered, control steps")


class PiConfig(Config):
    """Velocity-form PI; its price coordinate is logarithmic in λ. Null gains come from the checkpoint (tuned there)."""

    kp: float | None = Field(None, ge=0, description="proportional gain, box per relative CPU error; null = tuned")
    ki: float | None = Field(None, ge=0, description="integral gain per minute, box per relative error; null = tuned")
    down_factor: float | None = Field(None, gt=0, description="gain factor while CPU is under its target; null = tuned")
    feedforward: float | None = Field(None, ge=0, description="share of forecast log traffic change used; null = tuned")


class ControllerConfig(Config):
    """One controller of one data centre."""

    name: str = Field("mpc", description="which controller: a name in controllers, or module:Class")
    budget: list[float] | float = Field(65.0, description="C_m, percent of declared cores, for all services or each")
    offset: float = Field(
        0.0, gt=-100, description="added to the target, percent of the budget (negative = more careful)"
    )
    price_low: float = Field(0.0, ge=0, description="lower end of λ's box, money per core-ms")
    price_high: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="upper end per price; null = the model's box"
    )
    price_unit: str = Field(
        PRICE_UNIT, description="unit of λ here; the system model's and the policy's must be the same"
    )
    price_of_service: dict[str, int] | None = Field(
        None, description="which price each service pays, from 0; null = its own, or the only one"
    )
    moves: MovesConfig = Field(default_factory=MovesConfig, description="how λ may move")
    start: list[float] | None = Field(None, description="λ before the first measurement; null = middle of the box")
    fixed_price: list[float] | None = Field(None, description="fixed: the λ to hold; null = start")
    mpc: MpcConfig = Field(default_factory=MpcConfig, description="settings of mpc and knows_next_minute")
    pi: PiConfig = Field(default_factory=PiConfig, description="settings of the PI rules, the ladder's too")
    bisection_tolerance: float = Field(
        0.02, gt=0, description="bisection: width of a bracket, box units, that re-opens"
    )

    @model_validator(mode="after")
    def _budget_in_range(self) -> ControllerConfig:
        budgets = self.budget if isinstance(self.budget, list) else [self.budget]
        if not budgets or not all(0 < value <= 100 for value in budgets):
            raise ValueError("budget must be above 0 and at most 100 percent")
        return self


class ExportConfig(Config):
    """What ``python -m mpc_balancer.export`` needs."""

    model: str = Field(description="checkpoint of mpc_balancer.train")
    onnx: bool = Field(False, description="write g.onnx, too; needs the extra `onnx`")
    check_rows: int = Field(256, ge=2, description="random minutes on which the files must equal the model")
