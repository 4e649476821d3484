"""The balancer on a live system: measurements, silence, other writers, shadow, replay, many data centres."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpc_fixtures import trained_model
from serving_fixtures import PI, config, crash, right, start
from test_mpc_bad_measurements import BAD, WHOLE

import mpc_balancer.serving.balancer as balancer_module
from marca_common.config import load_config, replaced
from marca_common.errors import UserError
from mpc_balancer.config import ControllerConfig
from mpc_balancer.serve import Balancer, ServeConfig
from mpc_balancer.serving.decision_log import read_log
from mpc_balancer.serving.loop import serve_loop
from mpc_balancer.serving.replay import differing, replay
from mpc_balancer.serving.sinks import Sink
from mpc_balancer.serving.steered import Steered
from mpc_balancer.testbed.scenarios import Scenario, start_scenario


# -- measurements ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["mpc", "pi_feedforward"])
def test_whatever_is_measured_prices_stay_in_their_box_and_all_is_logged(name: str, tmp_path: Path) -> None:
    one = start(tmp_path, name)
    high = trained_model().prices.high
    every = [*WHOLE, *(right(minute, **{field: value}) for minute, (field, _, value) in enumerate(BAD))]
    for bad in every:
        price = one.step(bad)
        assert price.shape == (2,)
        assert ((price >= 0) & (price <= high)).all()
    assert one.troubles == {}
    one.close()
    assert len(read_log(tmp_path / "log")) >= len(every)
    assert differing(replay(config(name), tmp_path / "log", trained_model())) == 0


def test_the_log_says_what_was_measured_decided_and_refused(tmp_path: Path) -> None:
    one = start(tmp_path, log_rows=2)
    one.step(right(0, cpu=np.array([61.0, np.nan])))
    price = one.step(right(1))
    one.step(None)
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["decisions_000001.parquet", "open.jsonl"]
    rows = read_log(tmp_path / "log")
    assert rows["kind"].tolist() == ["measured", "measured", "lost"]
    assert rows["timestamp"].iloc[1] == pd.Timestamp("2026-03-09 00:01")
    assert rows["cpu_retrieval"].iloc[0] == 61.0
    assert rows["cpu_ranking"].isna().tolist() == [True, False, True]
    assert rows["refused"].iloc[0] == "cpu=1"
    assert rows["rung"].tolist() == ["solver", "solver", "solver"]
    assert rows["price_retrieval"].iloc[1] == price[0]
    assert rows["in_force_ranking"].iloc[1] == 1e-4


def test_a_line_that_was_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    one = start(tmp_path)
    one.step(right(0))
    crash(one)
    with (tmp_path / "log/open.jsonl").open("a") as file:
        file.write('{"group": "refer')
    two = start(tmp_path)
    two.step(right(1))
    two.close()
    assert read_log(tmp_path / "log")["step"].tolist() == [0, 1]


def test_units_are_converted_once_at_the_edge(tmp_path: Path) -> None:
    units = {"price": "money per core-s", "traffic": "per minute", "cpu": "fraction"}
    ours, theirs = start(tmp_path / "a", "pi"), start(tmp_path / "b", "pi", units=units)
    for minute in range(9):
        one = right(minute)
        other = replace(one, qps=60 * one.qps, cpu=one.cpu / 100, lambda_=1000 * one.lambda_)
        np.testing.assert_allclose(theirs.step(other), 1000 * ours.step(one), rtol=1e-9)
    assert theirs.prices()["reference"]["ranking"] == pytest.approx(1000 * ours.prices()["reference"]["ranking"])
    assert theirs.summary["refused"] == ours.summary["refused"]


def test_units_that_cannot_be_converted_are_refused() -> None:
    with pytest.raises(UserError, match="only 'money per core-ms' can be converted"):
        load_config(ServeConfig, None, ["units.price=money per core-s", "controller.price_unit=yuan per core-h"])


# -- silence, other writers, shadow ----------------------------------------------------------------------------------
def test_a_silent_data_centre_is_held_then_dear_and_then_goes_on(tmp_path: Path, caplog: Any) -> None:
    one = start(tmp_path, "pi", silence_minutes=6)
    for minute in range(3):
        held = one.step(right(minute))
    silent = [one.step(None) for _ in range(8)]
    np.testing.assert_array_equal(silent[:5], np.tile(held, (5, 1)))
    np.testing.assert_array_equal(silent[5:], np.tile(trained_model().prices.high, (3, 1)))
    assert read_log(tmp_path / "log")["rung"].iloc[-1] == "silence_max"
    back = one.step(right(11))
    assert (back < 0.9 * trained_model().prices.high).all()
    for text in ("no CPU for 3 steps", "no CPU for 6 steps: λ to its maximum", "CPU is measured again, after 8 steps"):
        assert caplog.text.count(text) == 1
    assert 'mpc_balancer_steps_total{group="reference",kind="lost"} 8.0' in metrics(one)


def test_silence_and_its_end_keep_to_the_limits_on_moves(tmp_path: Path) -> None:
    limited = config("pi", silence_minutes=3)
    limited = replaced(limited, {"controller.moves.most_per_minute": 0.05, "controller.moves.period": 2})
    one = Balancer(limited, tmp_path, trained_model())
    prices = [one.steered["reference"].lambda_]
    for minute in range(60):
        prices.append(one.step(None if 4 <= minute < 30 else right(minute)))
    unit = trained_model().prices.to_unit(np.array(prices))
    moved = np.abs(np.diff(unit, axis=0)).max(axis=1)
    assert (moved <= 0.1 + 1e-9).all()
    assert (moved[1::2] < 1e-9).all()
    assert (unit[29] > 0.99).all()  # the dearest, a period at a time
    assert (unit[-1] < 0.9).all()
    one.close()
    assert differing(replay(limited, tmp_path / "log", trained_model())) == 0


def metrics(one: Balancer) -> str:
    one.write_metrics()
    return (one.out / "metrics.prom").read_text()


class Scripted:
    """A source by the minute, and the clock that goes with it."""

    def __init__(self, minutes: list[Any]) -> None:
        self.minutes, self.time, self.troubles = minutes, 0.0, Counter[str]()

    def read(self, seconds: float) -> list[Any] | None:
        """The next minute's measurement where it comes in time."""
        next_minute = 60.0 * (int(self.time / 60) + 1)
        if self.time + seconds < next_minute:
            self.time += seconds
            return []
        self.time = next_minute
        if int(next_minute / 60) > len(self.minutes):
            return None
        one = self.minutes[int(next_minute / 60) - 1]
        return [] if one is None else [one]


def test_the_loop_gives_lost_steps_in_time_and_hands_prices_on(tmp_path: Path) -> None:
    one, got = start(tmp_path, "pi", silence_minutes=4), list[Any]()
    source = Scripted([right(0), right(1), *6 * [None], right(8), right(9)])
    serve_loop(one, source, Sink(got.append, 5.0, "money per core-ms"), now=lambda: source.time)
    rows = read_log(tmp_path / "log")
    assert rows["kind"].tolist() == ["measured"] * 2 + ["lost"] * 6 + ["measured"] * 2
    assert rows["rung"].tolist()[5:8] == ["silence_max"] * 3
    assert [batch["lambda"]["reference"]["ranking"] for batch in got] == rows["price_ranking"].tolist()


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    one = start(tmp_path)
    with pytest.raises(UserError, match="another process sets λ from this folder; expected one writer"):
        start(tmp_path)
    one.close()
    start(tmp_path).close()


def test_another_writer_of_lambda_is_noticed(tmp_path: Path, caplog: Any) -> None:
    one = start(tmp_path, "pi")
    prices = [one.steered["reference"].lambda_]
    for minute in range(20):  # an actuator that is three minutes late is no other writer
        prices.append(one.step(right(minute, lambda_=prices[max(0, minute - 3)])))
    assert one.summary["foreign"] == 0
    for minute in range(20, 28):
        one.step(right(minute, lambda_=np.array([7e-4, 1e-5])))
    assert one.summary["foreign"] == 8
    assert caplog.text.count("someone else sets it") == 1
    assert 'mpc_balancer_foreign_steps{group="reference"} 8.0' in metrics(one)


@pytest.mark.parametrize("name", ["mpc", "pi"])
def test_in_shadow_nothing_is_touched_and_the_log_replays(name: str, tmp_path: Path) -> None:
    drawn = start_scenario(Scenario(days=0.1), 4)
    alone, watched = drawn.plant(), drawn.plant()
    one, got = start(tmp_path, name, shadow=True), list[Any]()
    measured, price = [], np.array([2e-4, 1e-4])
    for t in range(len(drawn.arrivals)):
        expected, seen = alone.step(price, drawn.arrivals[t]), watched.step(price, drawn.arrivals[t])
        for part in (seen.cpu, seen.lambda_, seen.arrivals):
            if part is not None:
                part.setflags(write=False)
        measured.append(seen)
        np.testing.assert_array_equal(seen.cpu, expected.cpu)
        price = price * (1 + 0.02 * np.sin(t))  # somebody else steers
    source = Scripted(measured)
    serve_loop(one, source, Sink(got.append, 5.0, "money per core-ms"), now=lambda: source.time)
    one.close()
    assert got == []
    assert one.summary["foreign"] == 0
    if name == "mpc":  # which takes the price in force, not its advice, for what was commanded
        delay = json.loads((tmp_path / "state/reference.json").read_text())["state"]["controller"]["delay"]
        assert (delay["reported"], delay["inferred"]) == (0, 0)
        assert delay["_commands"][-2] == pytest.approx(trained_model().prices.to_unit(measured[-1].lambda_))
    assert read_log(tmp_path / "log")["shadow"].all()
    assert differing(replay(config(name, shadow=True), tmp_path / "log", trained_model())) == 0


def test_advice_of_an_integrator_in_shadow_stays_near_what_is_in_force(tmp_path: Path) -> None:
    one, other = start(tmp_path / "a", "pi", shadow=True), start(tmp_path / "b", "pi")
    for minute in range(120):  # CPU rests 5 % above the budget, whatever is advised
        high = right(minute, cpu=np.array([68.0, 68.3]) + np.sin(minute))
        near, far = one.step(high), other.step(high)
    assert (near < 3e-4).all()
    assert (far > 0.8 * trained_model().prices.high).all()


# -- controllers of somebody else's, many data centres, disks ---------------------------------------------------------
FOREIGN = """
import numpy as np
class Moody:
    def __init__(self, config, group, services, scale, model, calendar):
        self.lambda_, self.number = np.full(len(services), 1e-4), 0
    def step(self, measurement):
        self.number += 1
        if self.number % 3 == 0:
            raise RuntimeError("not today")
        return [np.nan, 1.0] if self.number % 3 == 1 else np.full(2, 1e-4 * self.number)
"""


def test_a_users_controller_that_fails_is_held_and_counted(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    (tmp_path / "moody.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    one = start(tmp_path / "out", "moody:Moody")
    prices = [one.step(right(minute))[0] for minute in range(6)]
    np.testing.assert_allclose(prices, [1e-4, 2e-4, 2e-4, 2e-4, 5e-4, 5e-4])
    assert one.summary["controller_failed"] == 4
    assert "no state and restore: after a restart it starts anew" in caplog.text
    crash(one)
    assert start(tmp_path / "out", "moody:Moody").summary["measured"] == 6


def test_many_data_centres_in_one_process_are_as_good_as_one_each(tmp_path: Path) -> None:
    groups = [f"dc{number}" for number in range(5)]
    own = {"dc1": ControllerConfig(name="bisection", price_high=[1.0], budget=50.0)}
    shared = ControllerConfig(name="pi", price_high=[1.0], pi=PI)
    together = ServeConfig(model=None, services=["s"], groups=groups, controller=shared, controllers=own)
    one = Balancer(together, tmp_path / "all")
    alone = {
        name: Balancer(
            together.model_copy(update={"groups": [name], "controllers": {k: v for k, v in own.items() if k == name}}),
            tmp_path / name,
        )
        for name in groups
    }
    generator = np.random.default_rng(0)
    for minute in range(12):
        for name in generator.permutation(groups)[:4]:
            seen = right(minute, group=str(name), cpu=generator.uniform(40, 80, 1), lambda_=[0.1])
            np.testing.assert_array_equal(one.step(seen), alone[name].step(seen))
    assert one.step(right(0, group="elsewhere")).shape == (0,)
    assert one.step(None).shape == (0,)
    assert one.step(None, "dc3").shape == (1,)
    assert one.troubles["unknown_group"] == 2
    assert one.summary["data_centres"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": None}, "groups: got null without a system model"),
        ({"groups": ["a", "a"]}, "groups: got a, a; expected each once"),
        ({"controllers": {"b": ControllerConfig()}}, "controllers: got data centre 'b'; expected some of a"),
        ({"services": None}, "give a system model or the names of the services"),
        ({"calendar": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    sound = ServeConfig(
        model=None, services=["s"], groups=["a"], controller=ControllerConfig(name="pi", price_high=[1.0], pi=PI)
    )
    Balancer(sound, tmp_path).close()
    with pytest.raises(UserError, match=message):
        Balancer(sound.model_copy(update=change), tmp_path)


def test_a_disk_that_takes_no_more_stops_no_step(tmp_path: Path, monkeypatch: Any) -> None:
    one, other = start(tmp_path / "a"), start(tmp_path / "b")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("save_state", "write_text"):
        monkeypatch.setattr(balancer_module, name, full)
    monkeypatch.setattr(one.log, "append", full)
    prices = [one.step(right(minute)) for minute in range(4)]
    monkeypatch.undo()
    np.testing.assert_array_equal(prices, [other.step(right(minute)) for minute in range(4)])
    assert one.troubles["disk"] >= 8


def test_metrics_are_prometheus_text_whatever_a_data_centre_is_called(tmp_path: Path) -> None:
    name = 'a "b"\\\n'
    own = ControllerConfig(name="pi", price_high=[1.0], pi=PI)
    one = Balancer(ServeConfig(model=None, services=["s"], groups=[name], controller=own), tmp_path)
    one.step(right(0, cpu=[50.0], lambda_=[0.5]))
    lines = metrics(one).splitlines()
    assert r'mpc_balancer_steps_total{group="a \"b\"\\\n",kind="measured"} 1.0' in lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    samples = [line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")]
    assert len(families) == len(set(families))
    assert list(dict.fromkeys(samples)) == families  # all samples of a family stand together


def test_compiled_code_is_loaded_before_the_first_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[str] = []
    monkeypatch.setattr(Steered, "decide", lambda one, measured, kind: warmed.append(measured.group))
    one = start(tmp_path)
    assert warmed == ["reference"]
    assert one.summary["measured"] == 0
