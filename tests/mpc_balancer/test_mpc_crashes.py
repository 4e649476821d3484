"""The balancer on a live system: crashes, restarts and the state files between them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_fixtures import trained_model
from serving_fixtures import PI, config, crash, loop, right, start

import mpc_balancer.serving.balancer as balancer_module
from marca_common.config import replaced
from marca_common.errors import UserError
from mpc_balancer.config import ControllerConfig
from mpc_balancer.serve import Balancer, ServeConfig
from mpc_balancer.serving.decision_log import read_log
from mpc_balancer.serving.replay import differing, replay
from mpc_balancer.serving.state_file import _sum


# -- crashes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["mpc", "pi_forecast", "bisection"])
def test_a_crash_at_any_minute_changes_no_price(name: str, tmp_path: Path) -> None:
    undisturbed, one = loop(tmp_path / "a", name=name)
    resumed, other = loop(tmp_path / "b", range(0, 90, 4), name=name)
    np.testing.assert_array_equal(resumed, undisturbed)
    assert one.summary == other.summary
    other.close()
    hurried = config(name)
    hurried = replaced(hurried, {"controller.mpc.solver.deadline_ms": 1e-9})  # a replay has all the time it needs
    again = replay(hurried, tmp_path / "b/log", trained_model())
    assert len(again) == 90
    assert differing(again) == 0


@settings(max_examples=8, deadline=None)
@given(crashes=st.sets(st.integers(0, 59), max_size=6))
def test_crashes_at_drawn_minutes_change_no_price(crashes: set[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("crashes")
    resumed, one = loop(folder, crashes, minutes=60, name="pi_forecast")
    one.close()
    np.testing.assert_array_equal(resumed, loop(folder / "undisturbed", minutes=60, name="pi_forecast")[0])


class Killed(BaseException):
    """Stands in for SIGKILL."""


@pytest.mark.parametrize("first", [5, 7])
def test_killed_between_log_and_state_the_minute_is_answered_again(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or, where ``first`` comes after it, lived through as a lost one; the row of the step that was cut off does not count."""
    one = start(tmp_path)
    for minute in range(5):
        one.step(right(minute))

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(balancer_module, "save_state", kill)
        with pytest.raises(Killed):
            one.step(right(5))
    crash(one)
    two, never = start(tmp_path), start(tmp_path / "never")
    for minute in (*range(5), first, first + 1):
        expected = never.step(right(minute))
    two.step(right(first))
    np.testing.assert_array_equal(two.step(right(first + 1)), expected)
    two.close()
    rows = read_log(tmp_path / "log")
    assert rows["step"].tolist() == list(range(first + 2))
    assert (rows["kind"] == "gap").sum() == first - 5
    assert differing(replay(config(), tmp_path / "log", trained_model())) == 0


def test_what_was_answered_before_the_crash_is_not_answered_twice(tmp_path: Path) -> None:
    one = start(tmp_path)
    for minute in range(5):
        last = one.step(right(minute))
    crash(one)
    two = start(tmp_path)
    for minute in range(5):  # a file read again from its start
        np.testing.assert_array_equal(two.step(right(minute)), last)
    two.step(right(5))
    assert two.troubles["answered"] == 5
    assert two.summary["measured"] == 6


def test_minutes_of_a_restart_are_lived_through_as_lost_ones(tmp_path: Path) -> None:
    one, never = start(tmp_path), start(tmp_path / "never")
    for minute in range(20):
        one.step(right(minute))
        never.step(right(minute))
    crash(one)
    two = start(tmp_path)
    for _ in range(4):
        never.step(None)
    np.testing.assert_array_equal(two.step(right(24)), never.step(right(24)))
    assert two.summary["gap"] == never.summary["lost"] == 4
    saw, lived = (
        json.loads((out / "state/reference.json").read_text())["state"] for out in (tmp_path, tmp_path / "never")
    )
    assert saw["controller"]["forecaster"] == lived["controller"]["forecaster"]


def test_a_leap_that_is_too_long_for_a_gap_costs_no_lost_minutes(tmp_path: Path) -> None:
    one = start(tmp_path, gap_minutes=10)
    for minute in (*range(5), 16, 5, 6):  # a wrong stamp, and on
        one.step(right(minute))
    assert one.summary["gap"] == 0
    one.step(right(17))
    assert one.summary["gap"] == 10


# -- state files -----------------------------------------------------------------------------------------------------
def saved(out: Path, **more: Any) -> Path:
    one = start(out, **more)
    for minute in range(3):
        one.step(right(minute))
    crash(one)
    return out / "state/reference.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version: got 2; expected 1"),
        ({"identity": "0" * 16}, "identity: a state of another system model or config; remove it to start anew"),
        ({"group": "elsewhere"}, "identity"),
        ({"checksum": ""}, "checksum: does not fit the content"),
        ({"saved": "yesterday"}, "checksum"),
        ({"saved": "2026-01-01T00:00:00"}, "checksum"),
        ({"more": 1}, "more: unknown key"),
        ({"state": {}}, "checksum"),
    ],
)
def test_a_state_file_that_is_not_ours_is_refused_in_one_line(change: Any, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=f"reference.json: {message}") as caught:
        start(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', "\x00"])
def test_a_state_file_that_was_cut_or_overwritten_is_refused(content: str, tmp_path: Path) -> None:
    saved(tmp_path).write_text(content)
    with pytest.raises(UserError, match=r"reference\.json: "):
        start(tmp_path)


def test_a_state_of_another_controller_model_or_shape_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(UserError, match="another system model or config"):
        start(tmp_path, "pi")
    other = replace(trained_model(), idle=trained_model().idle + 1)
    with pytest.raises(UserError, match="another system model or config"):
        Balancer(config(), tmp_path, other)
    start(tmp_path).close()  # a refusal lets go of the folder, and leaves the file
    content = json.loads(path.read_text())
    content["state"]["controller"]["lambda_"] = [1.0]
    content["checksum"] = _sum(json.dumps(content["state"]))
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"reference\.json: state\.controller\.lambda_: got \[1\.0\]; expected numbers of shape"
    ):
        start(tmp_path)


def test_a_state_that_is_too_old_is_left_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path)
    for minutes, steps in ((59, 3), (61, 0)):
        later = datetime.now(UTC) + timedelta(minutes=minutes)
        one = start(tmp_path, now=lambda: later)  # noqa: B023
        assert one.summary["measured"] == steps
        crash(one)
    assert "61 minutes old, more than state_minutes 60: started anew" in caplog.text


def test_names_of_data_centres_are_no_paths(tmp_path: Path) -> None:
    names = ["../../x", "a/b", ".", "a b", "ü"]
    one = Balancer(
        ServeConfig(
            model=None, services=["s"], groups=names, controller=ControllerConfig(name="pi", price_high=[1.0], pi=PI)
        ),
        tmp_path,
    )
    for name in names:
        one.step(right(0, group=name, cpu=[50.0], lambda_=[0.5]))
    assert len(list((tmp_path / "state").iterdir())) == len(names)
    assert one.troubles == {}
