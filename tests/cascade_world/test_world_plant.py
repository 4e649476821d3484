"""The closed loop's plant: common luck, CPU by hand, delay, lost and frozen readings, degradation and time-outs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.population.world_traffic import make_traffic
from cascade_world.world import World
from marca_common.errors import UserError


def fixed(joint: int) -> Any:
    return lambda ids, lambda_: np.full(len(ids), joint, dtype=np.int64)


def build(
    make_config: Any,
    *overrides: Any,
    joint: int = 444,
    seed: int = 3,
    minutes: int = 20,
    expected: Any = None,
    start_day: float = 0.8,
) -> Any:
    world = World(make_config(*overrides))
    traffic = make_traffic(world.config, 9, minutes / 1440, start_day=start_day)
    return WorldPlant(world, "north", traffic, fixed(joint), seed, expected=expected), traffic


def run(plant: Any, traffic: Any, prices: Any = (0.0, 0.0)) -> Any:
    return [plant.step(np.array(prices), row) for row in traffic.arrivals[plant.index]]


def test_one_request_meets_the_same_luck_under_every_strategy(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strategies that differ for some states only: the others' states and revenue are the same, request by request."""
    world = World(
        make_config(
            "plant.degradation_max=0", "plant.saturation=100", "plant.machines.north={retrieval: 50, ranking: 50}"
        )
    )
    traffic = make_traffic(world.config, 9, 5 / 1440, start_day=0.8)
    seen = []
    for other in (100, 900):
        plant = WorldPlant(world, "north", traffic, lambda ids, _: np.where(ids % 2 == 0, 444, other), 3)  # noqa: B023
        rows: list[Any] = []
        monkeypatch.setattr(plant.breakdown, "add", lambda *seen, rows=rows: rows.append((seen[1], *seen[3:])))
        run(plant, traffic)
        seen.append([np.concatenate(parts) for parts in zip(*rows)])
    (states, revenue, core_ms), (states_b, revenue_b, core_ms_b) = seen
    assert np.array_equal(states, states_b)
    same = states % 2 == 0
    assert np.array_equal(revenue[same], revenue_b[same])
    assert np.array_equal(core_ms[same], core_ms_b[same])
    assert not np.array_equal(core_ms[~same], core_ms_b[~same])


def test_utilisation_by_hand(make_config: Any) -> None:
    """Without noise and lag CPU = idle + arrivals · cost / cores; the cost is the mean over the requests that came."""
    quiet = ["cost.request_sd=0", "cost.minute_sd=0", "plant.lag_seconds=0", "plant.measurement_noise=0"]
    plant, traffic = build(make_config, *quiet, "plant.degradation_threshold=1000", joint=310, minutes=3)
    measured = run(plant, traffic)
    row = plant.minutes().iloc[0]
    world = plant.world
    mean_cost = row["core_ms_retrieval"] / row["requests"]
    cost = world.cost_tables[0, :, 310, 0]
    assert cost.min() <= mean_cost <= cost.max()
    by_hand = 2.0 + 100 * row["requests"] / 60 * mean_cost / (1000 * world.cores[0, 0])
    assert measured[0].cpu[0] == pytest.approx(by_hand, rel=1e-6)
    assert row["requests"] == pytest.approx(traffic.arrivals[0, 0].sum(), rel=0.02)
    assert measured[0].qps == traffic.arrivals[0, 0].sum() / 60


def test_revenue_of_a_day_agrees_with_the_truth(make_config: Any) -> None:
    plant, traffic = build(make_config, "plant.degradation_max=0", "plant.saturation=100", joint=222, minutes=300)
    run(plant, traffic)
    catalogue, world = plant.catalogue, plant.world
    hours = catalogue.ids[0].ravel()
    truth = world.expected_values(catalogue.codes[hours], np.full(len(hours), 222)).mean()
    found = plant.minutes()
    assert found["timeouts"].sum() == 0
    assert found["revenue"].sum() / found["requests"].sum() == pytest.approx(truth, rel=0.05)


def test_prices_act_after_the_delay(make_config: Any) -> None:
    plant, traffic = build(make_config, "plant.actuation_delay=2", minutes=5)
    in_force = [plant.step(np.array([float(i), 1.0]), row).lambda_[0] for i, row in enumerate(traffic.arrivals[0])]
    assert in_force == [0.0, 0.0, 0.0, 1.0, 2.0]


def test_bad_prices_and_decisions_are_programming_errors(make_config: Any) -> None:
    plant, traffic = build(make_config, minutes=2)
    for bad in (np.array([np.nan, 0.0]), np.array([-1.0, 0.0]), np.array([1.0])):
        with pytest.raises(ValueError, match="lambda_"):
            plant.step(bad, traffic.arrivals[0, 0])
    plant.decide = lambda ids, lambda_: np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="decide returned"):
        plant.step(np.zeros(2), traffic.arrivals[0, 0])
    for arrivals in (np.array([-1.0] * 6), np.array([np.nan] * 6)):
        with pytest.raises(ValueError, match="exogenous"):
            plant.step(np.zeros(2), arrivals)


@pytest.mark.parametrize("wrong", [-1, 10**6, 0.5, np.nan, "a"])
def test_decisions_that_do_not_exist_never_reach_the_compiled_loops(make_config: Any, wrong: Any) -> None:
    plant, traffic = build(make_config, minutes=2)
    plant.decide = lambda ids, lambda_: np.full(len(ids), wrong)
    with pytest.raises(UserError, match="decide returned a joint action: got"):
        plant.step(np.zeros(2), traffic.arrivals[0, 0])


def test_readings_get_lost_and_freeze(make_config: Any) -> None:
    plant, traffic = build(make_config, "plant.dropped=0.3", minutes=200)
    lost = np.isnan([one.cpu[0] for one in run(plant, traffic)])
    assert 0.2 < lost.mean() < 0.4
    plant, traffic = build(make_config, "plant.frozen=0.05", "plant.frozen_minutes=4", minutes=200)
    cpu = np.array([one.cpu for one in run(plant, traffic)])
    still = np.all(np.diff(cpu, axis=0) == 0, axis=1)
    assert still.sum() >= 8
    assert still.sum() % 4 in (0, 1, 2, 3)
    true = plant.minutes()["cpu_retrieval"].to_numpy()
    assert (np.diff(true) != 0).all()


def test_overload_degrades_then_loses_requests(make_config: Any) -> None:
    heavy = int(np.ravel_multi_index([3, 4, 4, 1, 4], (4, 5, 5, 2, 5)))
    plant, traffic = build(make_config, joint=heavy, minutes=30)
    measured = run(plant, traffic)
    found = plant.minutes()
    assert measured[0].cpu.max() <= 100.0
    assert found["timeouts"].iloc[0] > 0
    assert found["degradation"].iloc[-1] > 0.5
    assert found["core_ms_retrieval"].iloc[-1] / found["requests"].iloc[-1] < 0.8 * (
        found["core_ms_retrieval"].iloc[0] / found["requests"].iloc[0]
    )
    light, traffic = build(make_config, joint=0, minutes=30)
    run(light, traffic)
    assert light.minutes()[["timeouts", "degradation"]].to_numpy().max() == 0


def test_breakdown_adds_up(make_config: Any) -> None:
    plant, traffic = build(make_config, joint=555, minutes=10)
    run(plant, traffic)
    total, table = plant.minutes().sum(), plant.breakdown.table()
    spec = plant.world.spec
    for _, part in table.groupby("dimension"):
        assert part["requests"].sum() == pytest.approx(total["requests"])
        assert part["revenue"].sum() == pytest.approx(total["revenue"])
        assert part["core_ms"].sum() == pytest.approx(total["core_ms_retrieval"] + total["core_ms_ranking"])
        mix = part[[f"a2={choice}" for choice in range(spec.sizes["a2"])]].sum()
        assert mix.sum() == pytest.approx(total["requests"])


def test_aggregates_are_the_policys_own_predictions(make_config: Any) -> None:
    plant, traffic = build(
        make_config, minutes=1, expected=lambda ids, joint: (np.full(len(ids), 2.0), np.tile([1.0, 3.0], (len(ids), 1)))
    )
    found = run(plant, traffic)[0].aggregates
    requests = plant.minutes()["requests"].iloc[0]
    assert found["q_mean"] == 2.0
    assert found["c_ranking_sum"] == pytest.approx(3.0 * requests)
    assert found["q_sum"] == pytest.approx(2.0 * requests)


def test_releases_raise_cost_from_their_day_on(make_config: Any) -> None:
    release = "cost.releases=[{day: 0.803, service: ranking, factor: 1.5}]"
    quiet = ["cost.request_sd=0", "cost.minute_sd=0", "plant.degradation_max=0"]
    plain, traffic = build(make_config, *quiet, minutes=10)
    dearer, _ = build(make_config, *quiet, release, minutes=10)
    run(plain, traffic), run(dearer, traffic)
    ratio = dearer.minutes()["core_ms_ranking"] / plain.minutes()["core_ms_ranking"]
    assert ratio.to_numpy() == pytest.approx([1.0] * 5 + [1.5] * 5)
    assert dearer.minutes()["core_ms_retrieval"].tolist() == plain.minutes()["core_ms_retrieval"].tolist()
