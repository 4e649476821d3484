"""All solvers on the same problems: the box, agreement with an exhaustive answer, deadlines, NaN."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpc_fixtures import random_problem, reference_module
from scipy.optimize import differential_evolution

from marca_common.errors import UserError
from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.inversion import _newton, invert_ahead
from mpc_balancer.planning.solvers import SOLVERS, find_solver, solve
from mpc_balancer.run import broken

OPTIONS = {
    "gauss_newton": {"iterations": 12},
    "grid": {},
    "random_sampling": {"samples": 300, "iterations": 3},
    "slsqp": {"iterations": 60},
    "lbfgsb": {"iterations": 80},
    "gradient_descent": {"iterations": 80},
    "icem": {"iterations": 8, "samples": 120},
}


def config(name: Any, **more: Any) -> Any:
    return SolverConfig(name=name, deadline_ms=None, **{**OPTIONS[name], **more})


@pytest.mark.parametrize("name", list(SOLVERS))
@given(seed=st.integers(0, 10_000), low=st.floats(0, 0.45), high=st.floats(0.5, 1))
@settings(max_examples=12, deadline=None)
def test_plans_stay_in_the_box_and_report_their_value(name: Any, seed: int, low: Any, high: Any) -> None:
    problem = random_problem(seed, steps=4)
    problem.low[:], problem.high[:] = low, high
    problem.low[0] = problem.high[0] = (low + high) / 2  # a pending command
    solution = solve(problem, config(name, **({"iterations": 3} if "iterations" in OPTIONS[name] else {})))
    assert (solution.plan >= problem.low).all()
    assert (solution.plan <= problem.high).all()
    # single precision: a plan alone and the same plan inside a batch round differently
    assert problem.values(solution.plan[None])[0] == pytest.approx(solution.value, rel=2e-5)


@pytest.mark.parametrize(
    "mode", [{"mode": "paper", "alpha": 0.4, "beta": 8.0}, {"mode": "asymmetric", "move_weight": 0.02}]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_good_solvers_match_an_independent_global_search(mode: Any, seed: int) -> None:
    problem = random_problem(seed, steps=2, **mode)
    slow = reference_module("slow_rollout")

    def cost(flat: Any) -> Any:
        plan = flat.reshape(problem.shape)
        if mode["mode"] == "asymmetric":
            return problem.values(plan[None])[0]
        path = slow.slow_rollout(
            problem.model, problem.start.cpu, plan, problem.exogenous, problem.traffic, problem.gain
        )
        return slow.slow_eq17(0.4, 8.0, "per_step", problem.target, problem.start.cpu, problem.start.cpu_before, path)

    best = differential_evolution(cost, [(0, 1)] * 4, seed=0, maxiter=25, popsize=8, tol=1e-6, polish=False).fun
    for name in ("gauss_newton", "icem"):
        assert solve(problem, config(name)).value <= best * 1.01 + 0.05


@pytest.mark.parametrize("reading", ["per_step", "whole_horizon"])
def test_eq17_matches_the_slow_version(reading: Any) -> None:
    slow = reference_module("slow_rollout")
    for seed in range(6):
        problem = random_problem(seed, mode="paper", alpha=0.6, beta=2.0, reading=reading)
        plan = np.random.default_rng(seed).random(problem.shape)
        expected = slow.slow_eq17(
            0.6, 2.0, reading, problem.target, problem.start.cpu, problem.start.cpu_before, problem.path(plan)
        )
        assert problem.values(plan[None])[0] == pytest.approx(expected, rel=1e-5)


def ticking(milliseconds: float = 1.0) -> Any:
    """A clock that moves on by so much whenever it is read."""
    return itertools.count(0.0, milliseconds / 1000).__next__


@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_passed_deadline_still_gives_a_plan(name: Any) -> None:
    problem = random_problem(4)
    problem.now = ticking()
    solution = solve(problem, config(name).model_copy(update={"deadline_ms": 0.5, "iterations": 10_000}))
    assert solution.timed_out
    assert np.isfinite(solution.plan).all()
    assert ((solution.plan >= problem.low) & (solution.plan <= problem.high)).all()


@pytest.mark.parametrize("name", ["gradient_descent", "icem", "random_sampling"])
def test_a_solver_stops_at_its_deadline(name: Any) -> None:
    problem = random_problem(4)
    problem.now = ticking()
    solution = solve(problem, config(name).model_copy(update={"deadline_ms": 3.5, "iterations": 10_000}))
    assert solution.iterations == 3  # read once before and once ahead of each iteration


def test_without_a_deadline_the_clock_is_not_asked() -> None:
    problem = random_problem(4)
    problem.now = ticking(1e9)
    assert not solve(problem, config("gradient_descent", iterations=4)).timed_out


def test_a_solver_of_somebody_elses_comes_by_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halfway.py").write_text(
        "from mpc_balancer.planning.control_problem import Search\n"
        "def solver(problem, config, warm, generator):\n"
        "    search = Search(problem, config)\n"
        "    search.attempt((problem.low + problem.high)[None] / 2)\n"
        "    return search.solution(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    solution = solve(random_problem(4), SolverConfig(name="halfway:solver"))
    np.testing.assert_array_equal(solution.plan, np.full((5, 2), 0.5))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gaus_newton", "solver.name: got 'gaus_newton'; .* did you mean 'gauss_newton'"),
        ("nowhere:solver", "solver.name: got 'nowhere:solver'; .*No module named 'nowhere'"),
        ("math:nothing", "solver.name: .* no attribute 'nothing'"),
        ("math:pi", "'math:pi' is not callable"),
    ],
)
def test_bad_names_of_solvers(name: Any, expected: Any) -> None:
    with pytest.raises(UserError, match=expected):
        find_solver(name)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_model_of_nan_gives_no_value(name: Any) -> None:
    problem = random_problem(4)
    problem.model = broken(problem.model)
    try:
        value = solve(problem, config(name, iterations=2)).value
    except (ValueError, ArithmeticError):  # SciPy may refuse; the ladder catches it
        return
    assert not np.isfinite(value)


def test_a_warm_start_is_never_made_worse() -> None:
    for seed in range(8):
        problem = random_problem(seed, mode="paper", beta=8.0, alpha=0.4)
        warm = solve(problem, config("gauss_newton")).plan
        again = solve(problem, config("gauss_newton", iterations=1, constants=2), warm)
        assert again.value <= problem.values(warm[None])[0] + 1e-6


def limited(seed: int, reach: float, steps: int = 4) -> Any:
    problem = random_problem(seed, steps=steps, move_weight=0.0)
    problem.reach = np.full(steps, reach)
    return problem


@pytest.mark.parametrize("name", list(SOLVERS))
def test_no_step_of_a_plan_goes_further_than_it_may(name: Any) -> None:
    problem = limited(3, 0.05)
    problem.reach[2] = 0.0  # between two moments at which λ may move
    plan = solve(problem, config(name)).plan
    moves = np.abs(np.diff(np.concatenate([problem.start.unit[None], plan]), axis=0)).max(axis=1)
    assert (moves <= problem.reach + 1e-9).all()


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_gauss_newton_with_limited_moves_matches_a_global_search_over_moves(seed: int) -> None:
    problem = limited(seed, 0.15, steps=3)

    def cost(flat: Any) -> Any:
        plan = problem.start.unit + np.cumsum(flat.reshape(problem.shape), axis=0)
        return problem.values(problem.clip(plan)[None])[0]

    best = differential_evolution(cost, [(-0.15, 0.15)] * 6, seed=0, maxiter=40, popsize=10, tol=1e-7, polish=False).fun
    assert solve(problem, config("gauss_newton", iterations=25)).value <= best * 1.01 + 0.05


@given(seed=st.integers(0, 5_000))
@settings(max_examples=25, deadline=None)
def test_inversion_puts_each_steps_cpu_on_the_target_or_the_price_at_the_end_of_its_box(seed: int) -> None:
    problem = random_problem(seed, steps=3)
    price_of = np.arange(2)
    plan = _newton(problem, problem.clip(problem.low), problem.low, problem.high, price_of)
    path = problem.path(plan)
    inside = (plan > 1e-9) & (plan < 1 - 1e-9)
    off = np.abs(np.log(np.maximum(path, 0.1) / problem.target))
    lively = (
        np.abs(problem.model.jacobians(problem.trace(plan[None])[1])[1][0][:, [0, 1], [0, 1]]) > 8.0
    )  # λ does something
    assert (off[inside & lively] < 0.02).mean() > 0.9 if (inside & lively).any() else True


def test_looking_ahead_sets_out_for_the_dearest_step() -> None:
    problem = random_problem(4, steps=5)
    problem.reach = np.full(5, 0.1)
    called = _newton(problem, problem.clip(problem.low), problem.low, problem.high, np.arange(2))
    expected = np.clip(
        (called - 0.1 * np.arange(5)[:, None]).max(axis=0), problem.start.unit - 0.1, problem.start.unit + 0.1
    ).clip(0, 1)
    np.testing.assert_allclose(invert_ahead(problem, np.arange(2), 0), expected)
