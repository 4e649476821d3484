"""μ, ν, recoveries and λ moves of a run, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mpc_balancer.testbed.run_metrics import over_utilisation, per_minute, recoveries, run_metrics, utilisation

NAN = float("nan")


def test_utilisation_and_over_utilisation_by_hand() -> None:
    cpu, budget = np.array([[30.0, 100.0], [75.0, 40.0], [NAN, 50.0]]), np.array([60.0, 50.0])
    assert utilisation(cpu, budget) == pytest.approx([(0.5 + 1) / 2, (1 + 0.8 + 1) / 3])
    assert over_utilisation(cpu, budget) == pytest.approx([(0 + 0.25) / 2, (1 + 0 + 0) / 3])
    one = utilisation(cpu[:, 0], 60.0)
    assert isinstance(one, float)
    assert one == pytest.approx(0.75)
    assert over_utilisation(cpu[:, 0], 60.0) == pytest.approx(0.125)


@pytest.mark.parametrize("measure", [utilisation, over_utilisation])
def test_a_run_without_any_known_cpu_has_no_utilisation(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=r"^no known CPU in the run$"):
        measure(np.full((3, 2), NAN), 60.0)


def test_recoveries_by_hand() -> None:
    cpu = np.array(
        [[60.0, 87.9], [88.0, 50.0], [68.1, 50.0], [68.0, 50.0], [50.0, 95.0], [50.0, 68.0], [99.0, 50.0], [80.0, 50.0]]
    )
    # alarm at minute 1, within 65 + 3 at minute 3; alarm at 4, within at 5; alarm at 6, still out at the end
    assert recoveries(cpu, np.array([65.0, 65.0])) == [2, 1, 2]
    assert recoveries(cpu[:6], np.array([65.0, 65.0])) == [2, 1]
    assert recoveries(cpu, np.array([65.0, 65.0]), alarm=96.0, tolerance=14.0) == [2]
    assert recoveries(cpu, np.array([65.0, 65.0]), alarm=96.0, tolerance=15.0) == [1]


@pytest.mark.filterwarnings("error")
def test_an_unknown_minute_neither_starts_nor_ends_a_recovery() -> None:
    cpu = np.array([[NAN, NAN], [NAN, 90.0], [NAN, 60.0], [60.0, 60.0]])
    assert recoveries(cpu, np.array([65.0, 65.0])) == [2]
    assert recoveries(cpu[:1], np.array([65.0, 65.0])) == []


def test_minutes_are_means_of_whole_minutes() -> None:
    cpu = np.arange(14.0).reshape(7, 2)
    assert per_minute(cpu, 3).tolist() == [[2.0, 3.0], [8.0, 9.0]]  # the seventh step is no whole minute
    assert per_minute(cpu, 1).tolist() == cpu.tolist()


def test_all_metrics_of_a_run_by_hand() -> None:
    cpu, prices = np.array([[30.0, 90.0], [90.0, 30.0], [60.0, 60.0]]), np.array([[0.0, 1.0], [0.5, 1.0], [0.0, 0.0]])
    found = run_metrics(cpu, prices, np.array([60.0, 50.0]), np.array([0.001, 0.003]), np.full((3, 2), 55.0))
    assert found.pop("mu_per_service") == pytest.approx([2.5 / 3, 2.6 / 3])
    assert found.pop("nu_per_service") == pytest.approx([0.5 / 3, 1.0 / 3])
    assert found == pytest.approx(
        {
            "mu": 5.1 / 6,
            "nu": 0.25,
            "recoveries": 1,
            "recovery_minutes_max": 3,  # 60 and 60 are not within 50 + 3: it never ends
            "lambda_move_mean": (0.5 + 0 + 0.5 + 1) / 4,
            "solve_ms_p50": 2.0,
            "solve_ms_p99": 1.0 + 0.99 * 2.0,
            "mu_of_clairvoyant": (2.5 / 3 / (55 / 60) + 2.6 / 3) / 2,
        }
    )


def test_metrics_of_a_short_run_with_one_budget_for_all() -> None:
    found = run_metrics(np.array([[30.0, 45.0]]), np.array([[0.5]]), np.array(60.0), np.array([]))
    assert found == {
        "mu": 0.625,
        "nu": 0.0,
        "mu_per_service": [0.5, 0.75],
        "nu_per_service": [0.0, 0.0],
        "recoveries": 0,
        "recovery_minutes_max": 0,
        "lambda_move_mean": 0.0,
    }
    assert (
        run_metrics(np.array([[30.0], [45.0]]), np.array([[0.5], [0.75]]), np.array(60.0))["lambda_move_mean"] == 0.25
    )
