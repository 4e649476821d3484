"""How λ may move, and what is planned for machines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpc_fixtures import trained_model

from marca_common.errors import UserError
from mpc_balancer.config import ControllerConfig, MovesConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.controllers.moves import Moves
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.run import ClosedLoopConfig, simulate
from mpc_balancer.testbed.scenarios import Scenario, start_scenario


class TestMoves:
    @pytest.mark.parametrize("name", ["mpc", "one_step", "look_ahead", "pi", "pi_dead_time", "bisection"])
    @pytest.mark.parametrize(
        "moves", [{"most_per_minute": 0.02}, {"period": 5}, {"period": 5, "most_per_minute": 0.02}, {"levels": 7}]
    )
    def test_every_controller_keeps_to_them(self, name: str, moves: dict[str, Any]) -> None:
        drawn = start_scenario(Scenario.model_validate({"days": 0.06, "surges": [{"minute": 40, "factor": 2.0}]}), 5)
        config = ClosedLoopConfig(controller=ControllerConfig(name=name, moves=MovesConfig(**moves)))
        _, loop, _ = simulate(config, drawn, trained_model(), drawn.calendar, progress=False)
        unit = trained_model().prices.to_unit(loop.prices)[1:]  # the first interval runs under the start price
        steps = np.abs(np.diff(unit, axis=0)).max(axis=1)
        period = moves.get("period", 1)
        assert steps.max() > 0
        assert steps.max() <= moves.get("most_per_minute", np.inf) * period + 1e-9
        moved = np.flatnonzero(steps > 1e-12)
        assert len(set(moved % period)) == 1 or period == 1
        if "levels" in moves:
            np.testing.assert_allclose(unit * 6, np.round(unit * 6), atol=1e-9)

    @pytest.mark.parametrize("name", ["pi", "pi_feedforward", "pi_dead_time"])
    def test_an_integrator_does_not_wind_up_where_moves_are_limited(self, name: str) -> None:
        moves = MovesConfig(most_per_minute=0.005)
        rule: Any = make_controller(ControllerConfig(name=name, moves=moves), "reference", trained_model())
        drawn = start_scenario(Scenario(days=0.02), 3)
        one = drawn.plant().step(rule.lambda_, drawn.arrivals[0])
        for minute in range(20):
            stamp = one.timestamp + minute * np.timedelta64(60, "s")
            rule.step(replace(one, timestamp=stamp, cpu=np.array([90.0 + 0.1 * minute] * 2)))
        held = rule.curve.to_unit(rule._state)
        np.testing.assert_allclose(held, rule.scale.to_unit(rule.lambda_), atol=1e-6)
        assert rule.scale.to_unit(rule.lambda_).max() < 0.5 + 20 * 0.005 + 1e-9

    def test_a_price_that_rose_as_far_as_it_may_is_held(self) -> None:
        scale = trained_model().prices
        moves = Moves(MovesConfig(most_per_minute=0.1), scale, 60)
        last = scale.from_unit(np.array([0.5, 0.5]))
        for wanted, held in (([0.9, 0.55], [True, False]), ([0.1, 0.6], [False, True]), ([0.5, 0.5], [False, False])):
            moves.allowed(scale.from_unit(np.array(wanted)), last)
            assert moves.held.tolist() == held

    def test_the_reach_of_coming_steps_by_hand(self) -> None:
        scale = trained_model().prices
        moves = Moves(MovesConfig(period=3, most_per_minute=0.1), scale, 60)
        assert moves.reach(1, 6) == pytest.approx([np.inf, 0.3, 0.0, 0.0, 0.3, 0.0])
        moves.allowed(scale.high, scale.low)
        assert moves.reach(0, 5) == pytest.approx([0.0, 0.0, 0.3, 0.0, 0.0])
        assert Moves(MovesConfig(most_per_minute=0.1), scale, 20).reach(0, 2) == pytest.approx([0.1 / 3, 0.1 / 3])
        assert Moves(MovesConfig(levels=5), scale, 60).reach(0, 2) is None

    def test_levels_never_lead_further_than_lambda_may_move(self) -> None:
        scale = trained_model().prices
        moves = Moves(MovesConfig(levels=11, most_per_minute=0.13), scale, 60)
        at = np.array([0.5, 0.5])
        for wanted, expected in (([0.9, 0.1], [0.6, 0.4]), ([0.56, 0.44], [0.6, 0.4]), ([0.54, 0.46], [0.5, 0.5])):
            found = moves.allowed(scale.from_unit(np.array(wanted)), scale.from_unit(at))
            np.testing.assert_allclose(scale.to_unit(found), expected, atol=1e-9)
        off = moves.allowed(scale.from_unit(np.array([0.9, 0.9])), scale.from_unit(np.array([0.43, 0.43])))
        np.testing.assert_allclose(scale.to_unit(off), [0.5, 0.5], atol=1e-9)  # .56 would round to .6, .17 away

    def test_levels_further_apart_than_lambda_may_move_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"levels: got 5, 0.25 of the box apart; λ may move by 0.02 at a time"):
            MovesConfig(levels=5, most_per_minute=0.02)

    def test_a_plan_sets_out_before_an_announced_sale_and_one_step_does_not(self) -> None:
        scenario = Scenario.model_validate(
            {
                "days": 0.35,
                "moves": {"most_per_minute": 0.02},
                "surges": [{"minute": 300, "factor": 1.7, "decay_minutes": 45, "announced": 1.7}],
            }
        )
        peaks, units = {}, {}
        for name in ("mpc", "look_ahead", "one_step"):
            drawn = start_scenario(scenario, 11)
            config = ClosedLoopConfig(controller=ControllerConfig(name=name))
            _, loop, cpu = simulate(config, drawn, trained_model(), drawn.calendar, progress=False)
            peaks[name] = cpu[298:320].max()
            units[name] = trained_model().prices.to_unit(loop.prices)[299].mean()
        assert peaks["mpc"] < peaks["one_step"] - 5
        assert peaks["look_ahead"] < peaks["one_step"] - 5
        assert min(units["mpc"], units["look_ahead"]) > units["one_step"] + 0.05


class TestPlannedCapacity:
    def calendar(self, tmp_path: Path, text: str) -> Calendar:
        path = tmp_path / "capacity.csv"
        path.write_text(text, encoding="utf-8")
        return Calendar([]).with_capacity(path)

    def test_load_by_hand(self, tmp_path: Path) -> None:
        rows = "start,end,share\n2026-03-09T10:00,2026-03-09T12:00,0.5\n2026-03-09T11:00,2026-03-09T13:00,0.8\n"
        calendar = self.calendar(tmp_path, rows)
        times = np.array(
            ["2026-03-09T09:59", "2026-03-09T10:00", "2026-03-09T11:00", "2026-03-09T12:00", "2026-03-09T13:00"]
        )
        np.testing.assert_allclose(calendar.load(times.astype("datetime64[s]")), [1.0, 2.0, 2.5, 1.25, 1.0])

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ("start,end,share\n2026-03-09T10:00,2026-03-09T09:00,0.5\n", "row 1: got share 0.5"),
            ("start,end,share\n2026-03-09T10:00,2026-03-09T11:00,0\n", "expected a share above 0"),
            ("start,end,share\n2026-03-09T10:00,soon,0.5\n", "column 'end'"),
            ("start,share\n2026-03-09T10:00,0.5\n", "'end'"),
        ],
    )
    def test_bad_rows_are_named(self, tmp_path: Path, rows: str, said: str) -> None:
        with pytest.raises(UserError, match=said):
            self.calendar(tmp_path, rows)

    def test_a_planned_change_is_met_when_it_comes(self) -> None:
        scenario = Scenario.model_validate({"days": 0.3, "capacity": [{"minute": 200, "minutes": 100, "share": 0.67}]})
        drawn = start_scenario(scenario, 4)
        config = ClosedLoopConfig(controller=ControllerConfig(name="mpc"))
        _, _, told = simulate(config, drawn, trained_model(), drawn.calendar, progress=False)
        _, _, untold = simulate(config, drawn, trained_model(), Calendar([]), progress=False)
        assert untold[200].max() > 75 > told[200].max()
        assert told[300].min() > 55 > untold[300].min()
