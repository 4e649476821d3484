"""The live A/B's parts on a service of known cost and a virtual clock: traffic, strategies, rounds, judgement, table."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autobucket.bench.measuring.run_async import run_async
from autobucket.bench.target.interface import Reply
from benchmarks._live_blocks import Served, Server, Strategy, measurement
from benchmarks._live_strategies import Blended, Hourly, Priced, Response, Simulated, commissioned
from benchmarks._live_traffic import Day, make_block
from benchmarks.live_ab import (
    STRATEGIES,
    Always,
    Machine,
    Plan,
    Run,
    calibrated,
    figure,
    judged,
    rounds,
    run_all,
    table_of,
)
from marca_common.errors import UserError
from recommender.build_parts import Parts
from recommender.truth.page_table import shown
from tests.autobucket.bench_fakes import virtual_time

COST = np.array([0.4, 0.7, 1.6])  # core-ms of three actions


class FakeService:
    """Answers after a tenth of a millisecond; an action costs what COST says times ``slow``."""

    def __init__(self, slow: float = 1.0, lose: int = 0) -> None:
        self.slow, self.lose, self.used, self.asked = slow, lose, 0.0, list[Any]()

    def send(self, request: Any) -> Any:
        self.asked.append((request["visit"], request["joint"]))
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        lost = self.lose and len(self.asked) % self.lose == 0
        self.used += 0 if lost else COST[request["joint"]] * self.slow / 1000
        page = {"page": [str(request["joint"])]}
        future.set_result(
            Reply("lost" if lost else "ok", loop.time() + 1e-4, {} if lost else page, "late" if lost else "")
        )
        return future

    def clock(self) -> Any:
        return self

    def read(self) -> Any:
        return {"http": self.used / 2, "cascade": self.used / 2}

    def ended(self) -> None:
        return None


def day_of(past: list[float], present: list[float], visits: int = 40) -> Day:
    everyone = np.arange(visits)
    return Day(np.arange(len(past)), np.array(past), np.array(present), [everyone] * len(past))


def server(service: Any, interval_s: float = 1.0, cores: int = 1) -> Server:
    return Server(service, np.arange(3), cores, interval_s)


def test_the_days_traffic_is_the_records(parts: Parts) -> None:
    day, visits = Day.of(parts.people), parts.people.visits
    assert day.past.mean() == pytest.approx(1)
    assert day.present.mean() == pytest.approx(1)
    assert 1 <= len(day.hours) == len(day.past) == len(day.by_hour) <= 24
    for hour, rows in zip(day.hours, day.by_hour):
        assert len(rows) == len(visits) or set(visits.time[rows] // 3600 % 24) == {hour}


def test_the_day_by_hand() -> None:
    """Users who rate at 10, 11 and 12 o'clock: 4, 2 and 1 on the first day, 1, 3 and 4 on the second."""
    asked = [(10, 4), (11, 2), (12, 1), (34, 1), (35, 3), (36, 4)]
    hour = np.repeat([one for one, _ in asked], [users for _, users in asked])
    user = np.concatenate([np.arange(users) for _, users in asked])
    again = np.append(hour, [10] * 9), np.append(user, [0] * 9)  # a user counts once an hour
    ratings = SimpleNamespace(time=again[0] * 3600 + 5, user=again[1])
    visits = pd.DataFrame({"time": np.array([10, 34, 12]) * 3600})
    day = Day.of(SimpleNamespace(ratings=ratings, visits=visits))  # type: ignore[arg-type]
    assert day.hours.tolist() == [10, 11]  # 1 of 4 is too little
    assert day.past.tolist() == [4 / 3, 2 / 3]
    assert day.present.tolist() == [1 / 2, 3 / 2]
    assert [one.tolist() for one in day.by_hour] == [[0, 1], [0, 1, 2]]  # nobody visits at 11: anybody


def test_cpu_is_a_share_of_the_cores_and_no_controller_is_told_more_than_all() -> None:
    day = day_of([1.0, 1.0], [1.0, 1.0])
    block = make_block(day, day.present, 500, 4, 0, 1, 7, "x")
    strategy = Hourly(np.array([3.0, 2.0, 1.0]), COST, np.array([1.6, 1.6]), day, 0)
    with virtual_time():
        one, two = (run_async(partial(server(FakeService(), cores=cores).serve, block, strategy)) for cores in (1, 2))
    assert one.rows["cpu"].tolist() == pytest.approx((2 * two.rows["cpu"]).tolist())
    assert one.rows["cpu"].mean() == pytest.approx(0.4 * len(block.times) / 4 / 10, rel=0.01)
    assert (one.core_seconds, two.core_seconds) == (4, 8)
    told = measurement(3, 10.0, 104.0, np.array([0.5]))
    assert (told.minute, told.qps, told.cpu.tolist(), told.lambda_.tolist()) == (3, 10.0, [100.0], [0.5])


def test_traffic_between_the_middles_of_hours_by_hand() -> None:
    day = day_of([0.5, 1.5], [1.0, 1.0])
    assert day.rate(np.array([0.0, 0.25, 0.5, 0.75, 1.0]), day.past).tolist() == [0.5, 0.5, 1.0, 1.5, 1.5]
    assert day.hour(np.array([0.0, 0.49, 0.5, 1.0])).tolist() == [0, 0, 1, 1]


def test_a_block_follows_the_day_and_is_the_same_for_the_same_name() -> None:
    day = day_of([0.5, 1.5], [0.5, 1.5])
    block = make_block(day, day.present, 400, 100, 0, 1, 7, "x")
    again = make_block(day, day.present, 400, 100, 0, 1, 7, "x")
    assert (block.times == again.times).all()
    assert (block.visit == again.visit).all()
    early, late = (block.times < 20).sum(), (block.times >= 80).sum()
    assert 0.28 < early / late < 0.39  # a third
    assert abs(len(block.times) - 40_000) < 1000
    assert block.share(50) == 0.5
    other = make_block(day, day.present, 400, 100, 0, 1, 7, "y")
    assert len(other.times) != len(block.times) or (other.times != block.times).any()


def test_a_price_moves_requests_by_hand() -> None:
    q = np.array([[1.0, 2.0, 2.1], [0.0, 0.1, 4.0]])
    response = Response.of(q, COST)
    at = np.interp([0, 1e9], response.prices, response.cost)
    assert at == pytest.approx([1.6, 0.4])  # for nothing the best, at any price the cheapest
    assert (np.diff(response.cost) <= 1e-12).all()
    scale = response.scale()
    assert 0 < scale.ref[0] < scale.high[0] <= response.prices[-1]

    by_hand = Response(np.array([0.0, 1.0, 2.0, 4.0]), np.array([10.0, 6.9, 3.0, 0.1])).scale()
    assert (by_hand.high.tolist(), by_hand.ref.tolist()) == (
        [4.0],
        [0.5],
    )  # 31 % of all that can be saved is saved at 1

    strategy = Priced(q, COST, Stepped(0.0, 2.0))
    assert [strategy.choose(v, 0.0) for v in (0, 1)] == [2, 2]
    strategy.step(measurement(0, 100, 50, strategy.price))
    assert [strategy.choose(v, 0.0) for v in (0, 1)] == [
        1,
        2,
    ]  # 2 − 1.4 beats 1 − .8 and 2.1 − 3.2; 4 − 3.2 beats the rest


def test_mixtures_keep_each_hours_budget() -> None:
    day, profile = day_of([0.5, 1.5], [1.0, 1.0]), np.array([1.0, 2.0, 2.4])
    strategy = Hourly(profile, COST, np.array([1.15, 0.1]), day, 0)
    first = [strategy.choose(0, 0.2) for _ in range(4000)]
    assert COST[first].mean() == pytest.approx(1.15, abs=0.03)
    assert set(first) == {1, 2}
    assert {strategy.choose(0, 0.9) for _ in range(500)} <= {
        0,
        1,
    }  # too little for anything: nearly always the cheapest
    assert COST[[strategy.choose(0, 0.9) for _ in range(2000)]].mean() < 0.42


class Stepped:
    """A controller that goes through given prices."""

    def __init__(self, *prices: float) -> None:
        self.coming = [np.array([one]) for one in prices]
        self.lambda_ = self.coming.pop(0)

    def step(self, seen: Any) -> np.ndarray:
        self.lambda_ = self.coming.pop(0)
        return self.lambda_


def test_feedback_blends_neighbours_on_the_hull_whoever_asks() -> None:
    """Actions 0, 1 and 3 make the hull; from 1.6 core-ms to .4 half of what can be saved is 1.0: 2/3 of action 1, 1/3 of action 3."""
    cost, profile = np.array([0.4, 0.7, 1.0, 1.6]), np.array([1.0, 2.0, 2.1, 2.9])
    response = Response.of_mixtures(profile, cost)
    assert np.interp([0.0, 0.5, 1.0], response.prices, response.cost) == pytest.approx([1.6, 1.0, 0.4])
    strategy = Blended(profile, cost, response, Stepped(0.0, 0.5, 1.0), 0)
    assert {strategy.choose(v, 0.3) for v in range(50)} == {3}
    strategy.step(measurement(0, 100, 50, strategy.price))
    drawn = [strategy.choose(v, 0.3) for v in range(6000)]
    assert set(drawn) == {1, 3}
    assert cost[drawn].mean() == pytest.approx(1.0, abs=0.02)
    strategy.step(measurement(1, 100, 50, strategy.price))
    assert {strategy.choose(v, 0.3) for v in range(50)} == {0}


class Integral:
    """λ rises by ``gain`` for each point that CPU is above 50 %."""

    def __init__(self, start: float, gain: float) -> None:
        self.lambda_, self.gain = np.array([start]), gain

    def step(self, seen: Any) -> np.ndarray:
        self.lambda_ = np.clip(self.lambda_ + self.gain * (seen.cpu - 50), 0, 10)
        return self.lambda_


def test_feedback_rests_at_the_target_where_one_price_for_everybody_cannot() -> None:
    """At 215 requests/s the hull's neighbours bring the CPU to 30 and to 69 %; only a mixture of them brings it to 50."""
    cost, profile, day = 2 * COST, np.array([1.0, 2.0, 2.9]), day_of([1.0, 1.0], [1.0, 1.0])
    response = Response.of_mixtures(profile, cost)
    strategies: dict[str, Strategy] = {
        "blended": Blended(profile, cost, response, Integral(0.2, 0.005), 0),
        "priced": Priced(np.tile(profile, (40, 1)), cost, Integral(0.45, 0.005)),
    }
    block = make_block(day, day.present, 215, 20, 0, 1, 7, "x")
    swing = {}
    for name, one in strategies.items():
        with virtual_time():
            cpu = run_async(partial(server(FakeService(slow=2)).serve, block, one)).rows["cpu"].to_numpy()[8:]
        swing[name] = np.abs(cpu - 50).mean()
    assert swing["blended"] < 6  # of Poisson arrivals, 3.5 points
    assert swing["priced"] > 15


def test_controllers_hold_the_mean_in_simulated_days(tmp_path: Path) -> None:
    q = np.random.default_rng(0).gamma(1.0, 1.0, (60, 1)) * np.array([1.0, 1.3, 1.5])
    day = day_of([0.7, 1.0, 1.3], [0.7, 1.0, 1.3])
    days = Simulated(Response.of(q, COST), day, 700.0, 0.05, 1.0, 1)
    found = commissioned(days, 50.0, 300, tmp_path)
    seen = days.drive(found.controller("pi", 50.0), 432, "another")
    assert np.mean([one.cpu[0] for one in seen[40:]]) == pytest.approx(50, abs=3)


def test_simulated_cpu_has_the_noise_that_it_is_told() -> None:
    class Still:
        lambda_ = np.array([1.0])

        def step(self, seen: Any) -> Any:
            return self.lambda_

    day = day_of([0.5, 1.5], [1.0, 1.0])
    days = Simulated(Response(np.array([0.0, 2.0]), np.array([3.0, 1.0])), day, 500.0, 0.05, 1.0, 2)
    seen = days.drive(Still(), 720, "noise")
    ratio = np.log([one.cpu[0] / one.qps for one in seen])
    assert np.exp(ratio.mean()) == pytest.approx(2.0 / 10 / 2, rel=0.01)  # core-ms at that price, percent, two cores
    assert ratio.std() == pytest.approx(0.05, rel=0.1)
    assert np.mean([one.qps for one in seen[:36]]) == pytest.approx(250, rel=0.03)  # the past's early hours


@pytest.fixture
def quick_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending costs nothing, whatever the machine."""
    monkeypatch.setattr("time.process_time", lambda: 0.0)


@pytest.mark.usefixtures("quick_sender")
def test_calibration_scales_the_maps_and_finds_the_traffic() -> None:
    day, profile = day_of([0.5, 1.5], [0.5, 1.5]), np.array([1.0, 2.0, 2.4])
    with virtual_time():
        machine = run_async(
            lambda: calibrated(server(FakeService(slow=1.25)), day, COST, profile, Plan(calibration_s=3.0), 50.0)
        )
    assert machine.cost == pytest.approx(1.25 * COST, rel=0.03)
    assert machine.mean_qps == pytest.approx(500 / np.sqrt(0.5 * 2.0 * 0.75), rel=0.03)
    assert machine.notes == []


@pytest.mark.usefixtures("quick_sender")
def test_what_is_out_of_reach_is_said() -> None:
    day, profile = day_of([0.1, 1.9], [0.1, 1.9]), np.array([1.0, 2.0, 2.4])
    with virtual_time():
        machine = run_async(
            lambda: calibrated(server(FakeService()), day, COST, profile, Plan(calibration_s=2.0), 50.0)
        )
    assert len(machine.notes) == 2
    assert "the cheapest action takes 0.4" in machine.notes[0]
    assert "the best action takes only 1.6" in machine.notes[1]


def test_a_machine_that_is_too_slow_to_send_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    day, service = day_of([1.0, 1.0], [1.0, 1.0]), FakeService()
    monkeypatch.setattr("time.process_time", lambda: len(service.asked) / 1000)  # a core-millisecond a request
    with virtual_time():
        machine = run_async(
            lambda: calibrated(server(service), day, COST, np.array([1.0, 2.0, 2.4]), Plan(calibration_s=2.0), 50.0)
        )
    assert 500 / 0.9 < machine.mean_qps < 500 / 0.7
    assert machine.notes == []  # 62 % of its core
    service.slow = 0.5
    too_slow = r"^--target: got 50; sending the peak's 1\d\d\d requests/s would take 12\d % of the generator's core .* at most 2[89]$"
    with virtual_time(), pytest.raises(UserError, match=too_slow):
        run_async(
            lambda: calibrated(server(service), day, COST, np.array([1.0, 2.0, 2.4]), Plan(calibration_s=2.0), 50.0)
        )


def test_every_strategy_serves_the_same_requests_and_nothing_waits() -> None:
    day, service = day_of([1.0, 1.0], [1.0, 1.0]), FakeService(lose=500)
    plan = Plan(rounds=2, block_s=5.0)
    budgets = np.array([1.6, 1.6])
    strategies = {
        "static_hourly": Hourly(np.array([1.0, 2.0, 3.0]), COST, budgets, day, 0),
        "cheap": Hourly(np.array([3.0, 2.0, 1.0]), COST, budgets, day, 0),
    }
    with virtual_time():
        run = run_async(lambda: rounds(server(service), strategies, Machine(COST, 100.0, 0.0, []), day, plan, 0))
    dear, cheap = run.served["static_hourly"], run.served["cheap"]
    assert len(run.visits) == len(dear) == len(cheap) == 2
    for visit, a, b in zip(run.visits, dear, cheap):
        assert len(visit) == len(a.setting) == len(b.setting)
        assert set(a.setting) == {2}
        assert set(b.setting) == {0}
        assert a.latency_ms[a.ok] == pytest.approx(0.1, abs=0.2)
        assert len(a.rows) == 5
    lost = sum((~one.ok).sum() for one in (*dear, *cheap))
    assert lost == sum(one.pages.count([]) for one in (*dear, *cheap)) > 0
    values = {name: [np.where(one.ok, 1.0, 0.0) for one in run.served[name]] for name in strategies}
    values["cheap"] = [2 * one for one in values["cheap"]]
    table = table_of(run, values, target=10.0).set_index("strategy")
    assert table["lost"].sum() == lost
    assert table.loc["static_hourly", "lead_pct"] == 0
    assert table.loc["cheap", "lead_low"] <= table.loc["cheap", "lead_pct"] <= table.loc["cheap", "lead_high"]
    assert table.loc["cheap", "lead_pct"] == pytest.approx(100, abs=2)
    asked = table["requests"].iloc[0] / 10
    assert table.loc["static_hourly", "cpu_mean"] == pytest.approx(1.6 * asked / 10, rel=0.02)
    assert table.loc["cheap", "cpu_over_target"] == 0 < table.loc["static_hourly", "cpu_over_target"]


def test_requests_are_sent_at_their_times_however_slow_the_answers() -> None:
    class Slow(FakeService):
        def send(self, request: Any) -> Any:
            loop = asyncio.get_running_loop()
            sent.append(loop.time())
            future = loop.create_future()
            loop.call_later(3, lambda: future.set_result(Reply("ok", loop.time(), {"page": []})))
            self.used += 0.001
            return future

    day, sent = day_of([1.0, 1.0], [1.0, 1.0]), list[float]()
    block = make_block(day, day.present, 30, 2, 0, 1, 7, "x")
    with virtual_time():
        served = run_async(lambda: server(Slow()).serve(block, Always(0)))
    assert np.diff(sent) == pytest.approx(np.diff(block.times), abs=1e-6)
    assert served.latency_ms == pytest.approx(3000)


def test_strategies_take_turns_at_being_first() -> None:
    day, order = day_of([1.0, 1.0], [1.0, 1.0]), list[str]()

    class Named(Always):
        def choose(self, visit: int, share: float) -> int:
            order.extend([] if order[-1:] == [name := "ab"[self.setting]] else [name])
            return self.setting

    strategies = {"a": Named(0), "b": Named(1)}
    with virtual_time():
        run_async(
            lambda: rounds(
                server(FakeService()), strategies, Machine(COST, 50.0, 0.0, []), day, Plan(rounds=7, block_s=1.0), 0
            )
        )
    assert 8 < len(order) < 16  # of eight rounds, some begin with who ended the one before


@pytest.mark.slow
@pytest.mark.usefixtures("quick_sender")
def test_the_whole_run_on_a_service_of_known_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Controllers are prepared and all strategies serve: the mixture under feedback swings less than one price for everybody."""

    class Started(FakeService):
        async def start(self) -> None:
            pass

        async def stop(self) -> None:
            stopped.append(True)

    stopped = list[bool]()
    service, drawn = Started(slow=4.4), np.random.default_rng(0).gamma(1.0, 1.0, (40, 1))
    monkeypatch.setattr("benchmarks.live_ab.build_target", lambda *_: service)
    monkeypatch.setattr("benchmarks.live_ab.place", lambda *_: SimpleNamespace(declared_cores=1))
    monkeypatch.setattr("benchmarks.live_ab.parts_of", lambda _: None)
    monkeypatch.setattr("benchmarks.live_ab.first_joint", lambda _: np.arange(3))
    config = SimpleNamespace(accounting=None, target=None, load=SimpleNamespace(rates=[300.0]))
    costs: Any = SimpleNamespace(config=config, of_actions=lambda qps, cores: COST)
    real: Any = SimpleNamespace(seed=0)
    profile = np.array([1.0, 1.2, 2.9])  # the middle action lies below the hull
    q = {"profile": np.tile(profile, (40, 1)), "awrq_mixer": drawn * profile, "awrq_plus": drawn * profile}
    day = day_of([0.8, 1.0, 1.2], [1.2, 1.0, 0.8])
    plan = Plan(rounds=3, block_s=12.0, calibration_s=4.0, rows=200)
    with virtual_time():
        run = run_async(lambda: run_all(real, costs, q, day, plan, 50.0, tmp_path))
    assert run.machine.cost == pytest.approx(4.4 * COST, rel=0.05)
    assert stopped == [True]
    assert list(run.served) == list(STRATEGIES)
    values = {name: [np.ones(len(one)) for one in run.visits] for name in STRATEGIES}
    table = table_of(run, values, 50.0).set_index("strategy")
    assert table["requests"].nunique() == 1
    held = table.drop(["static_hourly", "priced_blind"])
    assert held["cpu_mean"].to_numpy() == pytest.approx(50, abs=6)
    swing = {name: np.std(pd.concat([one.rows for one in run.served[name]])["cpu"]) for name in STRATEGIES}
    assert swing["static_feedback"] < 0.6 * swing["priced_blind"]


def block_of(n: int) -> Served:
    rows = pd.DataFrame({"share": [0.5], "qps": [n], "cpu": [50.0], "lambda": [0.0]})
    return Served(np.zeros(n, int), np.ones(n, bool), np.ones(n), [["1"]] * n, rows, 0.5, 1.0)


def test_the_figure_keeps_those_that_treat_all_alike_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[Any]()
    monkeypatch.setattr("benchmarks.live_ab.save_figure", lambda plot, path: drawn.append(plot))
    run = Run(Machine(COST, 1.0, 0.0, []), [np.zeros(9, int)], {name: [block_of(9)] for name in STRATEGIES})
    table = table_of(run, {name: [np.ones(9)] for name in STRATEGIES}, 50.0)
    figure(table, run, 50.0, Path("unused.png"))
    legends = [axis.get_legend() for axis in drawn[0].axes]
    shown = [[text.get_text() for text in one.get_texts()] for one in legends if one is not None]
    assert shown == [
        ["static_hourly", "static_feedback", "priced_blind", "target"],
        ["marca_feedback", "marca_mpc", "plus_mpc", "target"],
    ]


def test_block_intervals_by_hand() -> None:
    sizes, worth = [10, 10, 20], [1.0, 2.0, 4.0]
    served = {"static_hourly": [block_of(n) for n in sizes]}
    run = Run(Machine(COST, 1.0, 0.0, []), [np.zeros(n, int) for n in sizes], served)
    table = table_of(run, {"static_hourly": [np.full(n, one) for one, n in zip(worth, sizes)]}, 40.0)
    one = table.iloc[0]
    assert one["value"] == pytest.approx((10 + 20 + 80) / 40)
    assert (one["ci_low"], one["ci_high"]) == (1.0, 4.0)  # thrice the worst or the best block
    assert one["cpu_mean"] == 50
    assert (one["lead_low"], one["lead_high"]) == (0, 0)  # paired with itself
    cpu = pd.DataFrame({"cpu": [50.0, 0.0, 100.0, 0.0, 50.0]})  # 40 on average over five intervals
    served = {"static_hourly": [replace(part, rows=cpu) for part in served["static_hourly"][:1]]}
    run = Run(Machine(COST, 1.0, 0.0, []), [np.zeros(10, int)], served)
    assert table_of(run, {"static_hourly": [np.ones(10)]}, 35.0).iloc[0]["cpu_over_target"] == 5


def test_judgement_is_that_of_the_value_table(parts: Parts) -> None:
    visit = np.array([0, 3, 3, 9, 11])
    setting = np.array([0, 5, 40, 100, parts.space.kept])
    films = parts.people.ratings.films
    pages = [[str(films[film]) for film in shown(parts.pages.films[v, d])] for v, d in zip(visit, setting)]
    assert judged(parts, visit, pages) == pytest.approx(parts.values[1][visit, setting], rel=1e-5)
    assert judged(parts, visit[:1], [[]]).tolist() == [0]  # lost
