"""Compiled loops read memory without looking: each file that has some says here which door checks what reaches them.

A new file with compiled loops, or a public one in a file whose loops are private, fails until it has its line.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autobucket.costs.cost_model import CostModel
from cascade_world.data_centre.breakdown import Breakdown
from marca_common.arrays import require_range, require_shape, whole_numbers
from marca_common.errors import UserError
from marca_measures.clairvoyant import clairvoyant
from mpc_balancer.testbed.reference_plant import ReferenceConfig
from revenue_sim.quotas import transport

ROOT = Path(__file__).parents[1]
DOORS = {  # file: (public compiled loops, door that checks their arguments)
    "autobucket/costs/cost_model.py": ("", "CostModel.from_results: shapes, data centres"),
    "autobucket/results/result_kernels.py": (
        "first_cross mix next_cross relu_pairs relu_rows spread",
        "joint_scoring.py: all arrays are made there, of one network's own sizes",
    ),
    "awrq_mixer/networks/cell_kernels.py": (
        "grow step_back step_on",
        "agents.py, training_cell.py: all arrays are made there, of one network's own sizes; RequestSpec.read: sub-actions",
    ),
    "awrq_mixer/networks/mixing_kernels.py": ("mix_elu mix_relu", "mixers.py: all arrays are made there, of one network's own sizes"),
    "awrq_mixer/serving/decide_kernels.py": ("decide_rows look_up positions", "HullPolicy: ids, prices; PolicyCache.of: the cache"),
    "benchmarks/allocation.py": ("read_rows", "draws its arrays itself"),
    "cascade_world/data_centre/minute_serving.py": (
        "arriving_states serve_minute tally",
        "WorldPlant.step: arrivals, decisions; Breakdown.add: states, joint actions",
    ),
    "cascade_world/mechanism/cascade.py": ("class_sums serve_requests", "truth.py: the world's own tables; request_log.serve: joint actions"),
    "cascade_world/request_luck.py": ("mix64 normal uniform", "numbers only; the table of normals is its own"),
    "marca_common/fast_tanh.py": ("fast_tanh", "numbers only"),
    "marca_loop/clairvoyant_prices.py": (
        "balance",
        "WorldPlant.pool: ids of its own catalogue; HullPolicy: candidates, checked when loaded",
    ),
    "marca_measures/clairvoyant.py": ("", "clairvoyant: shapes"),
    "marca_measures/hull.py": ("", "chain, pareto, candidates: shapes"),
    "mpc_balancer/planning/objective.py": ("", "objective: shapes"),
    "mpc_balancer/planning/solvers/gauss_newton.py": ("", "Problem: rollout, sensitivities and objective have checked its parts"),
    "mpc_balancer/system_model/rollout_kernels.py": ("chain_rule rollout", "SystemModel: rollout_with_tape, sensitivities; weights at load"),
    "mpc_balancer/testbed/reference_plant.py": ("", "ReferenceConfig: one entry per service"),
    "revenue_sim/allocation/core_kernels.py": ("extended least_loss least_losses", "best_whole_rows: check_pair, the start's choice"),
    "revenue_sim/allocation/hull_kernels.py": ("climb hull_rows", "allocate: revenue_sim.checks; hull_edges: shapes, rows"),
    "revenue_sim/allocation/priced_rows.py": ("", "PricedRows: shapes"),
    "revenue_sim/allocation/shard_kernels.py": (
        "slope_sums split_edges",
        "from_shards.py: columns of one length of a mapped file; offsets and room for edges the loops check themselves",
    ),
    "revenue_sim/ground_truth/trees.py": ("", "fit_trees makes the trees; a checkpoint's are checked at load"),
    "revenue_sim/allocation/stream.py": ("", "serve_stream: rows; Hulls: row_hulls, or a mapped shard"),
    "revenue_sim/quotas/quota.py": ("", "greedy, optimal: _checked"),
    "revenue_sim/quotas/transport.py": ("", "solve: the start flow"),
}  # fmt: skip


def compiled(path: Path) -> list[str]:
    """Names of the functions that numba compiles in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
    return [one.name for one in functions if any("njit" in ast.unparse(mark) for mark in one.decorator_list)]


def test_every_compiled_loop_has_a_door() -> None:
    files = [
        path for path in ROOT.glob("*/**/*.py") if path.relative_to(ROOT).parts[0] not in (".venv", "tests", "runs")
    ]
    found = {
        str(path.relative_to(ROOT)): compiled(path) for path in files if "njit" in path.read_text(encoding="utf-8")
    }
    public = {name: " ".join(sorted(one for one in loops if one[0] != "_")) for name, loops in found.items() if loops}
    known = {name: loops for name, (loops, _) in DOORS.items()}
    assert {name: loops for name, loops in public.items() if known.get(name) != loops} == {}


@pytest.mark.parametrize(
    "values", [[[1]], 1, ["1"], [True], [1.5], [np.nan], [2**63], [2.0**63], [None], [1j], b"1", [-np.inf]]
)
def test_what_is_no_row_of_whole_numbers_is_refused(values: Any) -> None:
    with pytest.raises(UserError, match=r"ids: .*expected"):
        whole_numbers("ids", values)


def test_indices_and_shapes_by_hand() -> None:
    assert whole_numbers("ids", [3.0, 4.0]).dtype == np.int64
    require_range("ids", np.array([0, 4]), 5)
    require_range("ids", np.zeros(0, np.int64), 0)
    for wrong in (5, -1, -(2**63), 2**63 - 1):
        with pytest.raises(UserError, match=f"ids: got {wrong} at position 1; expected 0 to 4"):
            require_range("ids", np.array([0, wrong, 9]), 5)
    require_shape("q", np.zeros((2, 3)), (None, 3))
    with pytest.raises(UserError, match=r"q: got shape \(2, 3\); expected \(any, 4\)"):
        require_shape("q", np.zeros((2, 3)), (None, 4))


@pytest.mark.parametrize(
    "change",
    [
        {"state": np.array([0, 2])},
        {"action": np.array([-1, 1])},
        {"count": np.array([1, 2])},
        {"count": np.array([3, -1])},
        {"state": np.array([0])},
        {"supply": np.array([1, 1, 0])},
        {"demand": np.array([2])},
        {"state": np.array([0.5, 1])},
    ],
)
def test_a_start_flow_outside_the_matrix_or_off_its_sums_is_refused(change: Any) -> None:
    right = {"supply": np.array([1, 1]), "demand": np.array([1, 1])}
    right |= {"state": np.array([0, 1]), "action": np.array([0, 1]), "count": np.array([1, 1])}
    scores = np.array([[1.0, 5.0], [4.0, 1.0]])
    assert transport.solve(scores, **right)[3] == pytest.approx(9)
    with pytest.raises(UserError, match="expected"):
        transport.solve(scores, **{**right, **change})


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4, 1), 2, 3), ((3, 4), (3, 3, 2), 2, 3), ((3, 4), (3, 4, 2), 2, 2), ((3,), (3, 4, 2), 2, 3)]
)
def test_the_clairvoyant_refuses_shapes_that_do_not_fit(shapes: Any) -> None:
    values, costs, budget, weights = shapes
    with pytest.raises(UserError, match="expected"):
        clairvoyant(np.ones(values), np.ones(costs), np.ones(budget), np.ones(weights))


def test_costs_of_an_unknown_data_centre_are_refused() -> None:
    model = object.__new__(CostModel)
    model.tasks = ["passed"]
    tables: Any = type("Tables", (), {"fixed": np.zeros((2, 4, 1))})
    model.tables = tables
    for idc in ([2], [-1]):
        with pytest.raises(UserError, match=r"data centre: got .*expected 0 to 1"):
            model.from_results({"passed": np.zeros((1, 4))}, np.array(idc))
    with pytest.raises(UserError, match="results: got shape"):
        model.from_results({"passed": np.zeros((1, 3))}, np.array([0]))


def test_a_minute_with_joint_actions_that_do_not_exist_is_refused() -> None:
    breakdown = object.__new__(Breakdown)
    breakdown.cells, breakdown.requests, breakdown.sums, breakdown.first_hour = (
        np.zeros((2, 2), int),
        np.zeros((26, 3)),
        np.zeros((26, 2)),
        2,
    )
    time, one = np.datetime64("2026-01-01T00:00"), np.ones(1)
    breakdown.add(time, np.array([1]), np.array([2]), one, one)
    for states, joint, money in (([2], [0], one), ([0], [3], one), ([0], [-1], one), ([0], [0], np.ones(2))):
        with pytest.raises(UserError, match="expected"):
            breakdown.add(time, np.array(states), np.array(joint), money, one)


@pytest.mark.parametrize("name", ["idle_percent", "load_percent", "floor", "half_price", "core_ms"])
def test_the_reference_plant_wants_one_entry_per_service(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got 1 values; expected one per service, 2"):
        ReferenceConfig(**{name: [0.1]})
