"""The world of users with continuous tastes: smooth, the same user whenever seen, and columns that only hint at it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from cascade_world.config import WorldConfig
from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.generate import generate
from cascade_world.mechanism.truth import truth_key
from cascade_world.population.hidden_users import UserPopulation
from cascade_world.population.world_traffic import make_traffic
from cascade_world.portrait import properties
from cascade_world.records.request_log import serve
from cascade_world.request_luck import hash_columns
from cascade_world.world import World, load_truth
from marca_common.scores import read_scores

USER = 4  # its column among the codes


@pytest.fixture(scope="module")
def generated(users_config: WorldConfig, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return generate(users_config, tmp_path_factory.mktemp("users"))


@pytest.fixture(scope="module")
def population(users_config: WorldConfig) -> UserPopulation:
    found = World(users_config).population
    assert isinstance(found, UserPopulation)
    return found


def sampled(population: UserPopulation, count: int, day: float) -> np.ndarray:
    return population.sample(hash_columns(int(day), np.arange(count)), np.full(count, 24.0 * day))


def test_logs_name_the_user_and_the_truth_is_found_again(generated: Any) -> None:
    log = generated.world.spec.read(generated.folder / "logs/requests.parquet", results=True)
    assert list(generated.world.spec.state) == ["user_value", "placement", "segment", "idc", "user"]
    assert log["user"].nunique() == 40
    assert (log["revenue"] > 0).mean() > 0.1
    truth = load_truth(generated.folder)
    references = read_scores(generated.folder / "truth/references.parquet", truth.request_spec())
    assert references.scores["truth"] == pytest.approx(truth.values(references.states))
    assert references.scores["truth"].shape == (40, 512)
    assert truth.costs(references.states).shape == (40, 512, 2)
    latent = truth.latent(references.states)
    expected = generated.world.tables.q[latent["class"]] * latent["scale"].to_numpy()[:, None]
    assert references.scores["truth"] == pytest.approx(expected, rel=1e-5)


def test_some_users_come_late(generated: Any) -> None:
    late = {f"u{i:02d}" for i in np.flatnonzero(generated.world.population.birth)}
    assert len(late) == 10
    log = pd.read_parquet(generated.folder / "logs/requests.parquet", columns=["timestamp", "user"])
    early = log["timestamp"] < log["timestamp"].iloc[0] + pd.Timedelta(days=10)
    assert not late & set(log.loc[early, "user"])
    assert late & set(log.loc[~early, "user"])


def test_a_user_who_comes_back_is_the_same(population: UserPopulation) -> None:
    """Other weeks tell another tier or segment of most users, yet class and scale follow from user and placement."""
    codes = np.concatenate([sampled(population, 2000, day) for day in (1, 8, 12)])
    classes, scale = population.latent(codes)
    assert len(np.unique(np.column_stack([codes[:, [1, USER]], classes]), axis=0)) == len(np.unique(classes))
    assert len(np.unique(np.column_stack([codes[:, USER], scale]), axis=0)) == len(np.unique(codes[:, USER]))
    told = [set(map(tuple, codes[codes[:, USER] == user][:, [0, 2]].tolist())) for user in np.unique(codes[:, USER])]
    assert np.mean([len(one) for one in told]) > 1.5
    assert max(len(one) for one in told) <= 2  # two weeks: the second and third sample share one


def test_parameters_are_smooth_in_taste(population: UserPopulation) -> None:
    """Along a line between two tastes twice the points halve the longest step: there is no border to jump over."""

    def longest_step(points: int) -> np.ndarray:
        part = np.linspace(0, 1, points)[:, None]
        line = (1 - part) * population.taste[0] + part * population.taste[1]
        on_line = replace(population, taste=line).spread("affinity", 4)
        steps = np.diff(on_line.reshape(points, len(population.placement_taste), 4), axis=0)
        return np.asarray(np.abs(steps).max(axis=0))

    ratio = longest_step(101) / longest_step(201)
    assert ratio == pytest.approx(np.full(ratio.shape, 2.0), rel=0.05)


def test_parameters_are_no_linear_function_of_tastes(population: UserPopulation) -> None:
    """The tanh bends: with a slope near 0 three numbers per taste axis explain all, at the shipped slope they do not."""

    def unexplained(bend: float) -> float:
        one = replace(population, users=population.users.model_copy(update={"bend": bend}))
        values = one.spread("affinity", 4)
        assert values.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-9)
        assert values.std(axis=0) == pytest.approx(np.ones(4))
        context = np.column_stack([one._context, np.ones(len(values))])
        return float(((values - context @ np.linalg.lstsq(context, values, rcond=None)[0]) ** 2).mean())

    assert unexplained(1e-4) < 1e-6
    assert unexplained(1.0) > 0.01


def test_alike_tastes_have_alike_values(generated: Any) -> None:
    """Within a placement the distance of two users' tastes orders the distance of their profiles over actions."""
    population, q = generated.world.population, np.log(generated.world.tables.q)
    shape = (q - q.mean(axis=1, keepdims=True)).reshape(40, 3, -1)[:, 0]
    pairs = np.triu_indices(40, 1)
    far = np.linalg.norm(population.taste[pairs[0]] - population.taste[pairs[1]], axis=1)
    apart = np.linalg.norm(shape[pairs[0]] - shape[pairs[1]], axis=1)
    assert spearmanr(far, apart).statistic > 0.3


def test_columns_are_only_noisy_views(generated: Any) -> None:
    """A told row knows a state's profile; tier, placement and segment together leave a good part of it open."""
    world = generated.world
    codes = properties.sample_states(world, 4000)
    log_q = np.log(world.values(world.population.frame(codes))).astype(np.float64)
    within = log_q - log_q.mean(axis=1, keepdims=True)
    within -= within.mean(axis=0)

    def unexplained(groups: np.ndarray) -> float:
        ids = np.unique(groups, axis=0, return_inverse=True)[1].ravel()
        total = np.zeros((ids.max() + 1, within.shape[1]))
        np.add.at(total, ids, within)
        rest = within - (total / np.bincount(ids)[:, None])[ids]
        return float((rest**2).mean() / (within**2).mean())

    row = unexplained(world.population.latent(codes)[0][:, None])
    columns = unexplained(np.column_stack([codes[:, 0] * 10 // 100, codes[:, 1], codes[:, 2]]))
    placement = unexplained(codes[:, 1:2])
    assert row < 1e-9
    assert 0.02 < columns < 0.7 * placement


def test_cost_never_falls_when_a_queue_or_channel_set_grows(generated: Any) -> None:
    assert properties.cost_is_monotone(generated.world)


@pytest.mark.parametrize("joint", [0, 300, 511])
def test_served_requests_agree_with_the_truth(generated: Any, joint: int) -> None:
    world, count = generated.world, 20_000
    codes, actions = properties.sample_states(world, count), np.full(count, joint)
    revenue = serve(world, 5, 0, codes, actions)["revenue"].to_numpy()
    rows = world.population.latent(codes)[0]
    error = np.hypot(
        revenue.std() / np.sqrt(count), (world.tables.q_se / world.tables.q)[rows, joint].mean() * revenue.mean()
    )
    assert abs(revenue.mean() - world.expected_values(codes, actions).mean()) < 4 * error


def test_a_data_centre_serves_them(generated: Any) -> None:
    world = generated.world
    traffic = make_traffic(world.config, 9, 60 / 1440, start_day=20.2)
    plant = WorldPlant(world, "north", traffic, lambda ids, _: np.full(len(ids), 200), 3)
    for row in traffic.arrivals[0]:
        plant.step(np.zeros(2), row)
    pools = plant.catalogue.codes[plant.catalogue.ids[0].ravel()]
    truth = world.expected_values(pools, np.full(len(pools), 200)).mean()
    found = plant.minutes().sum()
    assert found["timeouts"] == 0
    assert found["revenue"] / found["requests"] == pytest.approx(truth, rel=0.1)


def test_truth_key_covers_the_users(users_config: WorldConfig, make_config: Any) -> None:
    assert users_config.users is not None
    other = users_config.model_copy(update={"users": users_config.users.model_copy(update={"bend": 0.5})})
    assert truth_key(other) != truth_key(users_config)
    assert truth_key(make_config("truth.draws=60", "users=null")) == truth_key(make_config("truth.draws=60"))
