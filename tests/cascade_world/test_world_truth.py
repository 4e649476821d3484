"""The truth: the same bytes for any number of workers, cached under its own key, with the declared properties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_world.mechanism.truth import compute_truth, load_tables, save_tables, truth_key
from cascade_world.portrait import properties
from cascade_world.world import Truth, World
from marca_common.errors import UserError
from marca_measures.clairvoyant import clairvoyant
from marca_measures.static_mixture import static_mixture


def test_same_bytes_for_any_number_of_workers(make_config: Any) -> None:
    found = []
    for workers in (1, 3):
        world = World(make_config(f"workers={workers}", "truth.draws=7"))
        found.append(compute_truth(world.config, world.space, world.parameters, world.costs))
    assert np.array_equal(found[0].q, found[1].q)
    assert np.array_equal(found[0].cost, found[1].cost)


def test_truth_of_another_config_is_refused(world: Any, make_config: Any, tmp_path: Path) -> None:
    path = tmp_path / "tables.npz"
    save_tables(world.tables, path, truth_key(world.config))
    assert np.array_equal(load_tables(path, truth_key(world.config)).q, world.tables.q)
    with pytest.raises(UserError, match="truth of another config"):
        load_tables(path, truth_key(make_config("seed=1")))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable truth"):
        load_tables(path, truth_key(world.config))


def test_key_covers_what_shapes_the_truth_and_nothing_else(make_config: Any) -> None:
    key = truth_key(make_config())
    assert truth_key(make_config("workers=1", "logs.requests=5", "traffic.peak_qps=9")) == key
    assert truth_key(make_config("cascade.preranking_noise=0.1")) != key
    assert truth_key(make_config("cost.services.ranking.base=0.9")) != key


def test_standard_error_shrinks_with_draws(world: Any, make_config: Any) -> None:
    few = World(make_config("truth.draws=25"))
    ratio = np.median(few.tables.q_se / few.tables.q) / np.median(world.tables.q_se / world.tables.q)
    assert ratio == pytest.approx(2.0, rel=0.15)


def test_states_are_class_table_times_scale(world: Any) -> None:
    truth = Truth(world)
    states = world.population.frame(properties.sample_states(world, 50))
    values, latent = truth.values(states), truth.latent(states)
    assert values.shape == (50, world.space.n_joint)
    assert values.dtype == np.float32
    rebuilt = world.tables.q[latent["class"]] * latent["scale"].to_numpy()[:, None]
    assert values == pytest.approx(rebuilt, rel=1e-5)
    references = truth.reference_scores(states)
    assert np.ptp(references["flat"], axis=1).max() == 0
    assert references["profile"].mean(axis=1) == pytest.approx(values.mean(axis=1), rel=1e-4)


def test_action_noise_perturbs_every_state_its_own_way(make_config: Any) -> None:
    plain, noisy = World(make_config()), World(make_config("states.action_noise=0.1"))
    codes = properties.sample_states(plain, 40)
    ratio = np.log(noisy.values(plain.population.frame(codes)) / plain.values(plain.population.frame(codes)))
    assert ratio.std() == pytest.approx(0.1, rel=0.05)
    assert np.linalg.matrix_rank(ratio - ratio.mean()) == len(np.unique(codes, axis=0))
    joint = np.arange(40) * 3
    assert noisy.chosen_factors(codes, joint) == pytest.approx(np.exp(ratio)[np.arange(40), joint], rel=1e-4)


def test_parts_of_the_action_noise_are_measured_and_taken_apart(make_config: Any) -> None:
    """Equal halves of sd² over the variance of log Q; without its own part a state's values are those of its segment."""
    plain, noisy = World(make_config()), World(make_config("states.action_noise=0.2"))
    codes = properties.sample_states(plain, 300)
    frame = plain.population.frame(codes)
    log_q = np.log(noisy.values(frame)).astype(np.float64)
    found = properties.noise_shares(noisy, codes, log_q)
    expected = 0.02 / float(log_q.var(axis=1).mean())
    assert found == pytest.approx({"segment_noise": expected, "state_noise": expected}, rel=0.05)
    assert set(properties.noise_shares(plain, codes, np.log(plain.values(frame))).values()) == {0.0}
    shared = np.log(properties.values_less_state_noise(noisy, codes) / plain.values(frame))
    first = {segment: shared[i] for i, segment in reversed(list(enumerate(codes[:, 2])))}
    assert shared == pytest.approx(np.array([first[segment] for segment in codes[:, 2]]), abs=1e-4)
    assert shared.std() == pytest.approx(np.sqrt(0.02), rel=0.05)


def test_unknown_state_value_is_refused(world: Any) -> None:
    states = world.population.frame(properties.sample_states(world, 3)).astype(str)
    states.loc[1, "placement"] = "moon"
    with pytest.raises(UserError, match=r"'placement'.*'moon'"):
        Truth(world).values(states)


def test_cost_never_falls_when_a_queue_or_channel_set_grows(world: Any) -> None:
    assert properties.cost_is_monotone(world)


def test_variance_shares_of_a_known_table() -> None:
    """log Q = x1 + 2·x2 + .5·s·x1 with x = ±1 and s = ±1: shares 1.25/5.25, 4/5.25, no stage interaction, .25/5.25."""
    x = np.array([-1.0, 1.0])
    log_q = np.array([(x[:, None] * (1 + 0.5 * s) + 2 * x[None, :]).ravel() for s in (-1, 1)])
    shares = properties.variance_shares(log_q, (2, 2), 1)
    assert shares["a1"] == pytest.approx(1.25 / 5.25)
    assert shares["a2"] == pytest.approx(4 / 5.25)
    assert shares["stage_interaction"] == pytest.approx(0, abs=1e-12)
    assert shares["state_action"] == pytest.approx(0.25 / 5.25)


def test_clairvoyant_by_hand() -> None:
    """Two states, actions of cost 1 and 3: the budget 2 buys the dear one for the state that gains 8, not for 2."""
    values = np.array([[1.0, 9.0], [1.0, 3.0]], dtype=np.float32)
    costs = np.tile(np.array([1.0, 3.0])[None, :, None], (2, 1, 1)).astype(np.float32)
    best = clairvoyant(values, costs, np.array([2.0]))
    assert best.value == pytest.approx((9 + 1) / 2, rel=1e-4)
    assert 1.0 - 1e-3 <= best.lambda_[0] <= 4.0 + 1e-3
    assert static_mixture(values.mean(axis=0), costs[0], np.array([2.0])).value == pytest.approx(3.5)
    with pytest.raises(UserError, match=r"cheapest actions need \[1\.\]"):
        clairvoyant(values, costs, np.array([0.5]))


@pytest.mark.parametrize("services", [1, 2])
def test_clairvoyant_equals_the_linear_programme(services: Any) -> None:
    from scipy.optimize import linprog

    rng = np.random.default_rng(services)
    s, a = 12, 6
    values = rng.gamma(2.0, size=(s, a)).astype(np.float32)
    costs = rng.uniform(0.5, 3.0, size=(s, a, services)).astype(np.float32)
    budget = np.full(services, 1.6)
    one_each = np.kron(np.eye(s), np.ones(a))
    exact = linprog(
        -values.ravel().astype(float) / s,
        A_ub=costs.reshape(s * a, services).T.astype(float) / s, b_ub=budget, A_eq=one_each, b_eq=np.ones(s),
    )  # fmt: skip
    assert clairvoyant(values, costs, budget, tolerance=1e-7).value == pytest.approx(-exact.fun, rel=1e-5)


def test_unreachable_budget_names_the_machines(make_config: Any) -> None:
    config = make_config("traffic.peak_qps=2000000")
    with pytest.raises(UserError, match=r"plant.machines.north.*cheapest actions need"):
        World(config).require_budget()


@pytest.mark.slow
def test_base_world_keeps_its_promises(make_config: Any) -> None:
    """The properties that every result relies on, with a coarse truth and looser tolerances than ``describe``."""
    world = World(make_config("truth.draws=60", path="configs/cascade_world/base.yaml"))
    states = properties.sample_states(world, 1500, group=0)
    shares = properties.variance_shares(np.log(world.values(world.population.frame(states))), world.spec.shape, 4)
    assert min(shares[f"a{j}"] for j in range(1, 6)) >= 0.03
    assert shares["stage_interaction"] >= 0.05
    assert shares["state_action"] >= 0.20
    curve = properties.uplift_by_budget(world, 0, states, np.array([1.0]))
    assert 10 <= curve["oracle_uplift_pct"].iloc[0] <= 32
    assert (curve[["lambda_retrieval", "lambda_ranking"]].to_numpy() > 0).all()
    assert properties.cost_is_monotone(world)
    for found in properties.queue_returns(world).values():
        assert (np.diff(found["gain_per_item"]) < 0).all()
