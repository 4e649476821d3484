"""Whatever is measured: ``step`` answers with finite prices inside the box, counts what it did not believe, and recovers."""

from __future__ import annotations

import datetime
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_fixtures import trained_model

from marca_common.errors import UserError
from marca_common.plain_numbers import plain_number, plain_numbers
from marca_common.protocols import Coming, Measurement
from mpc_balancer.config import ControllerConfig, MpcConfig, ObjectiveConfig, PiConfig, SolverConfig
from mpc_balancer.controllers import CONTROLLERS, make_controller
from mpc_balancer.forecasting.event_calendar import Calendar, PlannedEvent
from mpc_balancer.testbed.control_loop import closed_loop
from mpc_balancer.testbed.reference_plant import ReferenceConfig, ReferencePlant

GROUP = "reference"
START = np.datetime64("2026-03-09T00:00", "s")
MINUTE = np.timedelta64(60, "s")
QUICK = MpcConfig(
    objective=ObjectiveConfig(horizon=3), solver=SolverConfig(iterations=1, constants=4, refine=1, deadline_ms=None)
)
PI = PiConfig(kp=0.15, ki=0.15, down_factor=0.7, feedforward=0.6)


def controller(name: str, calendar: Calendar | None = None, **options: Any) -> Any:
    return make_controller(ControllerConfig(name=name, mpc=QUICK, pi=PI, **options), GROUP, trained_model(), calendar)


def right(minute: int, **changed: Any) -> Measurement:
    """A reading near the budget that moves a little each minute."""
    wave = np.sin(1.7 * minute)
    one = Measurement(
        minute, START + minute * MINUTE, GROUP, 400.0 + 9 * wave, np.array([62.0 + 2 * wave, 63.0 - 1.5 * wave]), 0.0,
        np.array([1e-4, 1e-4]), np.full(6, 4000.0) + wave, {"q_sum": 1.0, "q_mean": 1.0},
    )  # fmt: skip
    return replace(one, **changed)


class Hostile:
    """An object that raises whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __float__(self) -> float:
        raise RuntimeError("float")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")


class Raises:
    """An array-like whose conversion raises."""

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise RuntimeError("no array")


NOTHING = [None, "NaN", "", b"22", {1, 2}, object(), Raises(), Hostile(), 1j, True, np.bool_(False), pd.NA]
NUMBERS = [
    *NOTHING,
    {},
    {1: 2},
    np.nan,
    np.inf,
    -np.inf,
    -1.0,
    10**400,
    10**30,
    1e300,
    Decimal("sNaN"),
    np.datetime64("NaT"),
]
ROWS = [  # wrong as CPU, as λ and as arrivals
    *NOTHING, {}, {1: 2}, np.nan, np.inf, -1.0, 10**400, [], [[1.0, 2.0]], np.ones((2, 2)), np.ones((1, 2)), [None, 50.0],
    ["NaN", "50"], [True, False], [1j, 50.0], [-1.0, 50.0], [np.inf, 50.0], [10**400, 50], pd.Series(["a", "b"]),
    np.array(["50", "51"]), np.array([None, 50.0]), np.ma.masked_array([50.0, 51.0], [True, False]), np.empty(0),
    [[1.0], [1.0, 2.0]], {"retrieval": 50.0, "ranking": 60.0}, np.array([1, 2], "timedelta64[s]"),
]  # fmt: skip
LENGTHS = [[1.0], [1.0, 2.0, 3.0], 50.0, np.array(50.0), range(3)]  # wrong for two services
STAMPS = [
    *NOTHING, 1767571380, 1.7e9, np.datetime64("NaT"), pd.NaT, "yesterday", "now", "12:00", datetime.date(2026, 3, 9),
    datetime.datetime.max, datetime.datetime.min, np.datetime64(2**62, "s"), np.datetime64("0001-01-01"),
    np.datetime64("9999-12-31"), np.array(["2026-03-09"], "datetime64[s]"), START - 60 * MINUTE, START + 43_200 * MINUTE,
    START, pd.Timestamp("2262-04-11"),
]  # fmt: skip
MAPPINGS = [
    *NOTHING,
    {"q_sum": None},
    {"q_sum": "a", 3: object()},
    {"q_sum": np.inf},
    [("q_sum", 1.0)],
    {"q_sum": [1.0]},
]
BAD = (
    [("qps", "qps", one) for one in NUMBERS]
    + [("cpu", "cpu", one) for one in [*ROWS, *LENGTHS, [0.0, 50.0], [0.0, 0.0], [100.1, 50.0], range(2)]]
    + [("lambda_", "lambda", one) for one in [*ROWS, *LENGTHS]]
    + [("arrivals", "arrivals", one) for one in ROWS if one is not None]
    + [("timestamp", "timestamp", one) for one in STAMPS]
    + [("degradation", "aggregates", one) for one in NOTHING]
    + [("aggregates", "aggregates", one) for one in MAPPINGS]
    + [("group", "group", one) for one in [*NOTHING, "elsewhere"]]
)
WHOLE: list[Any] = [None, "a measurement", {}, 3, object(), Hostile(), Measurement, [right(3)], pd.DataFrame()]
ACCEPTED = [("arrivals", one) for one in ([1.0], [1.0, 2.0, 3.0], range(2), np.array(50.0))] + [
    ("lambda_", range(2)), ("lambda_", [0.0, 1e300]), ("cpu", range(60, 62)), ("cpu", [50, 60.5]), ("qps", Decimal(400)),
    ("qps", np.float16(400)), ("qps", np.int8(4)), ("cpu", pd.Series([50.0, 51.0])), ("cpu", np.array([50, 51], np.uint8)),
    ("aggregates", {}), ("aggregates", {"q_sum": np.nan}), ("degradation", np.nan), ("arrivals", None),
    ("timestamp", "2026-03-09T00:03:00Z"), ("timestamp", "2026-03-09 00:03"), ("timestamp", "2026-03-09T08:03+08:00"),
    ("timestamp", pd.Timestamp("2026-03-09 08:03", tz="Asia/Shanghai")), ("timestamp", pd.Timestamp("2026-03-09 00:03")),
    ("timestamp", datetime.datetime(2026, 3, 9, 0, 3, tzinfo=datetime.UTC)),
    ("timestamp", datetime.datetime(2026, 3, 9, 0, 3)), ("timestamp", np.datetime64("2026-03-09T00:03:00.5")),
    ("timestamp", np.datetime64("2026-03-09T00:03", "ns")), ("timestamp", START + 190 * MINUTE),
]  # fmt: skip


def in_box(made: Any, price: Any) -> bool:
    return bool(
        price.shape == (2,)
        and np.isfinite(price).all()
        and (price >= made.scale.low).all()
        and (price <= made.scale.high).all()
    )


def refused(made: Any) -> dict[str, int]:
    return {name: count for name, count in made.refused.items() if count}


def foretold(made: Any, minute: int) -> Any:
    """The controller, told of the coming interval where it wants to be."""
    if hasattr(made, "foresee"):
        made.foresee(Coming(np.array([400.0 + minute % 3]), lambda price: 40 + 25 * np.exp(-np.asarray(price) / 1e-4)))
    return made


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_every_wrong_field_is_survived_and_counted(name: str) -> None:
    made = controller(name)
    for minute in range(3):
        foretold(made, minute).step(right(minute))
    assert refused(made) == {}
    for minute, (field, kind, value) in enumerate(BAD, start=3):
        before = made.refused[kind]
        price = made.step(right(minute, **{field: value}))
        assert in_box(made, price), (field, value)
        assert made.refused[kind] == before + 1, (field, type(value), value if type(value) is not Hostile else "")


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_numpy_told_to_raise_stops_no_controller(name: str) -> None:
    long_ago = Calendar([PlannedEvent(START - 200_000 * MINUTE, 2.0, 1.0)])  # what is left of it underflows
    made = controller(name, long_ago)
    with np.errstate(all="raise"):
        for minute, (field, _, value) in enumerate([("qps", "", 0.0), ("aggregates", "", {"q_sum": 1e300}), *BAD]):
            assert in_box(made, made.step(right(minute, **{field: value})))


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_no_measurement_at_all_is_survived_and_counted(name: str) -> None:
    made = controller(name)
    assert in_box(made, made.step(None))  # the very first one, too
    for number, value in enumerate(WHOLE, start=2):
        assert in_box(made, made.step(value))
        assert made.refused["cpu"] == made.refused["qps"] == made.refused["timestamp"] == number


@pytest.mark.parametrize(("field", "value"), ACCEPTED)
def test_other_ways_to_write_a_right_value_are_accepted(field: str, value: Any) -> None:
    made = controller("pi")
    for minute in range(3):
        made.step(right(minute))
    made.step(right(3, **{field: value}))
    assert refused(made) == {}
    if field == "timestamp" and not isinstance(value, np.datetime64):
        assert made.checks.clock.time == START + 3 * MINUTE


@pytest.mark.parametrize("name", list(CONTROLLERS))
@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.none() | st.integers(0, len(BAD) - 1), min_size=1, max_size=25),
    whole=st.integers(0, len(WHOLE) - 1),
)
def test_any_sequence_of_wrong_and_right_measurements(name: str, steps: Any, whole: int) -> None:
    made = controller(name)
    for minute, bad in enumerate(steps):
        one: Any = right(minute) if bad is None else right(minute, **{BAD[bad][0]: BAD[bad][2]})
        if minute % 3 == 0:
            foretold(made, minute)
        assert in_box(made, made.step(WHOLE[whole] if bad == 0 else one))


@pytest.mark.parametrize("name", ["pi", "bisection", "fixed"])
def test_a_rule_without_a_model_holds_its_price_while_nothing_can_be_believed(name: str) -> None:
    made = controller(name)
    before = made.step(right(0)).copy()
    for value in WHOLE:
        assert np.array_equal(made.step(value), before)


ARRIVALS = np.full(6, 4000.0)


class Garbled:
    """A quiet reference plant whose reports are garbage for some minutes."""

    def __init__(self, spoilt: dict[int, Any]) -> None:
        quiet = ReferenceConfig(mix_amplitude=0, slow_noise=0, fast_noise=0, reading_noise=0)
        self.plant, self.spoilt, self.minute = ReferencePlant(quiet, 0, 200), spoilt, -1

    def step(self, lambda_: np.ndarray, exogenous: np.ndarray) -> Measurement:
        one = self.plant.step(lambda_, exogenous)
        one = replace(one, cpu=one.cpu + 1e-3 * np.sin(np.arange(2) + one.minute))  # else a perfect sensor looks stuck
        self.minute += 1
        if self.minute not in self.spoilt:
            return one
        kind = self.spoilt[self.minute]
        return replace(one, **{BAD[kind][0]: BAD[kind][2]}) if kind is not None else None  # type: ignore[return-value]

    def preview(self, lambda_: np.ndarray, exogenous: np.ndarray) -> np.ndarray:
        return self.plant.preview(lambda_, exogenous)


@pytest.mark.parametrize("name", [name for name in CONTROLLERS if name != "fixed"])
def test_after_an_hour_of_garbage_prices_are_those_of_a_controller_that_never_saw_any(name: str) -> None:
    """In closed loop: the integrator, the brackets, the observer and the forecast all settle again within 40 minutes."""
    generator = np.random.default_rng(5)
    kinds = [None, *range(len(BAD))]
    spoilt = {minute: kinds[generator.integers(len(kinds))] for minute in range(30, 90)}
    ends = []
    for faults in ({}, spoilt):
        plant, made = Garbled(faults), controller(name)
        prices = [made.lambda_]
        for _ in range(130):
            one = plant.step(prices[-1], ARRIVALS)
            if hasattr(made, "foresee"):
                made.foresee(Coming(np.full(9, 400.0), partial(plant.preview, exogenous=ARRIVALS)))
            prices.append(made.step(one))
        assert all(in_box(made, price) for price in prices)
        ends.append((np.array(plant.plant.truth)[-5:].mean(axis=0), prices[-1]))
    np.testing.assert_allclose(ends[1][0], ends[0][0], atol=1.5)
    unit = [made.scale.to_unit(price) for _, price in ends]
    np.testing.assert_allclose(unit[1], unit[0], atol=0.03)


@pytest.mark.parametrize("glitch", ["once 30 days ahead", "an hour back from then on"])
def test_an_announced_sale_is_not_missed_after_a_glitch_of_the_clock(glitch: str) -> None:
    """The forecast of the minute before the sale knows it, on the clock that the calendar is written in."""
    shift = np.timedelta64(3600, "s")
    for name in ("mpc", "pi_feedforward", "pi_forecast", "knows_next_minute"):
        made = controller(name, Calendar([PlannedEvent(START + 60 * MINUTE, 2.0, 30.0)]))
        late = 60 if "back" in glitch else 0
        for minute in range(60 + late):
            stamp = START + minute * MINUTE
            if late:
                stamp = stamp - shift if minute >= 20 else stamp
            elif minute == 20:
                stamp += np.timedelta64(30, "D")
            made.step(right(minute, timestamp=stamp))
        assert made.forecaster.predict(1)[0] == pytest.approx(2 * 400, rel=0.1)
        assert refused(made) == {"timestamp": 1}


GARBAGE_AHEAD: list[Any] = [
    *NOTHING, {}, Coming(np.array([]), "no function"), Coming(np.array([np.nan]), 3), Coming("x", [1]),  # type: ignore[arg-type]
    Coming([[400.0]], None), Coming(np.array([-1.0]), None),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize("name", ["knows_next_minute", "clairvoyant"])
def test_foresight_of_garbage_is_survived_and_counted(name: str) -> None:
    made = controller(name)
    foretold(made, 0).step(right(0))
    for minute, coming in enumerate(GARBAGE_AHEAD, start=1):
        made.foresee(coming)
        assert in_box(made, made.step(right(minute)))
        assert made.refused["coming"] == minute


def test_a_trial_that_fails_holds_the_price() -> None:
    def failing(price: Any) -> Any:
        raise RuntimeError("the plant is gone")

    made = controller("clairvoyant")
    before = foretold(made, 0).step(right(0)).copy()
    trials: list[Any] = [failing, lambda price: None, lambda price: [np.nan, 1], lambda price: [50.0]]
    for minute, trial in enumerate(trials, start=1):
        made.foresee(Coming(np.array([400.0]), trial))
        assert np.array_equal(made.step(right(minute)), before)
    assert made.rungs["hold"] == made.refused["coming"] == len(trials)


class Own:
    """A user's controller that does what it is told."""

    def __init__(self, does: Any) -> None:
        self.lambda_, self.does = np.array([1e-4, 1e-4]), does

    def step(self, measurement: Any) -> Any:
        return self.does()


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (lambda: 1 / 0, "controller Own: step 0: ZeroDivisionError: division by zero"),
        (lambda: np.array([np.nan, 1]), r"got \[nan +1.\]; expected 2 finite prices"),
        (lambda: [-1.0, 0.0], "expected 2 finite prices"),
        (lambda: [1.0], "expected 2 finite prices"),
        (lambda: None, "got None; expected 2"),
        (lambda: ["a", "b"], "expected 2 finite prices"),
    ],
)
def test_a_users_controller_that_fails_is_named(does: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        closed_loop(ReferencePlant(ReferenceConfig(), 0, 5), Own(does), np.full((5, 6), 4000.0))


def test_plain_numbers_by_hand() -> None:
    assert plain_number(Decimal("2.5")) == 2.5
    assert np.isnan(plain_number("2.5"))
    assert plain_numbers(3) is not None
    assert plain_numbers([1, None, 2.0], 3) == pytest.approx([1, np.nan, 2], nan_ok=True)
    assert plain_numbers([1, 2], 3) is None


@pytest.mark.parametrize("first", [None, "a", [np.nan, 1.0], [[1.0]], []])
def test_a_users_first_prices_are_checked_and_its_foresight_named(first: Any) -> None:
    own = Own(lambda: [0.0, 0.0])
    own.lambda_ = first
    with pytest.raises(UserError, match="controller Own: lambda_: got"):
        closed_loop(ReferencePlant(ReferenceConfig(), 0, 5), own, np.full((5, 6), 4000.0))
    blind: Any = Own(lambda: [0.0, 0.0])
    blind.foresee = lambda coming: coming.tomorrow
    with pytest.raises(UserError, match="controller Own: foresee 0: AttributeError"):
        closed_loop(ReferencePlant(ReferenceConfig(), 0, 5), blind, np.full((5, 6), 4000.0))


def test_traffic_beyond_all_measure_is_not_believed() -> None:
    made = controller("pi_feedforward")
    usual = made.model.features.traffic_mean[0]
    for minute, factor in enumerate([1, 5, 200, 1]):
        made.step(right(minute, qps=usual * factor))
    assert refused(made) == {"qps": 1}
