"""The stages before the day and the day itself, on the parts of a finished run: what is prepared, what fails, what goes on."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.predictor import Predictor
from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.population.world_traffic import make_traffic
from cascade_world.world import World, load_truth
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.stages import Stage, Stages
from marca_loop.day import simulate
from marca_loop.deciders import Decider, prepare
from marca_loop.families import best_family
from marca_loop.scene import Parts, Scene, make_scene
from marca_loop.settings import DayConfig, Orchestration
from marca_loop.strategies import HourlyStrategy, StaticStrategy
from mpc_balancer.testbed.control_loop import closed_loop
from tests.marca_loop import failing_strategies
from tests.marca_loop.whole_run import SMOKE

GROUPS = ("north", "south")
FAILING = failing_strategies.__name__


def parts(run: Path) -> Parts:
    spec = load_config(Orchestration, SMOKE).spec
    return Parts(run, "awrq_mixer", run / "logs", run / "logs/logs/system.parquet", spec)


@pytest.fixture(scope="module")
def scene(finished: Path) -> Scene:
    """The first evaluation seed, as in the finished run."""
    return make_scene(parts(finished), 100, 14.75, 0.125)


@pytest.mark.slow
def test_hindsight_puts_cpus_on_their_budget_and_nobody_earns_more(finished: Path) -> None:
    minutes = pd.read_parquet(finished / "day/minutes.parquet")
    oracle = minutes[minutes["strategy"] == "oracle"]
    for service in ("retrieval", "ranking"):
        busy = oracle[oracle[f"lambda_{service}"] > 0]
        assert len(busy) > 300
        assert busy[f"cpu_{service}"].mean() == pytest.approx(62, abs=1)
        assert busy.groupby("group")[f"cpu_{service}"].mean().to_numpy() == pytest.approx(62, abs=2)
    numbers = read_json(finished / "summary.json")["strategies"]
    assert max(numbers, key=lambda name: numbers[name]["revenue"]) == "oracle"
    assert numbers["oracle"]["oracle_share_pct"] == pytest.approx(100)
    assert numbers["oracle"]["uplift_equal_cpu_pct"] > max(
        one["uplift_equal_cpu_pct"] for name, one in numbers.items() if name != "oracle"
    )


@pytest.mark.slow
def test_the_waterfall_of_a_run_adds_up(finished: Path) -> None:
    steps = pd.read_csv(finished / "day/attribution.csv")
    numbers = read_json(finished / "summary.json")["strategies"]
    assert steps["step"].tolist()[:2] == ["static", "clock"]
    np.testing.assert_allclose(steps["gain_points"].cumsum(), steps["uplift_pct"], atol=1e-9)
    np.testing.assert_allclose(steps["uplift_pct"], [numbers[name]["uplift_pct"] for name in steps["strategy"]])


@pytest.mark.slow
def test_prepared_policies_are_those_that_the_scorers_build(finished: Path, scene: Scene, tmp_path: Path) -> None:
    known, truth = scene.parts, load_truth(finished / "logs")
    states = scene.catalogue.states.head(700)  # a block and a part of one
    dcaf = Decider("awrq_mixer", free=("a1", "a2", "a3", "a4"))
    some = [Decider("awrq_mixer"), Decider("awrq_mixer", "true"), Decider("truth", "true"), dcaf, Decider("profile")]
    allowed = {dcaf.key: best_family(scene, dcaf.free)}
    for workers in (1, 2):
        prepare(some, known.sources(["awrq_mixer"]), states, allowed, workers, tmp_path / str(workers))
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert files == sorted(f"{one.key}.npz" for one in some if not one.blind)
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    learned, costs = Predictor.load(known.values("awrq_mixer")).values, known.cost_model().costs
    for decider, values_fn, costs_fn in [
        (some[0], learned, costs),
        (some[1], learned, truth.costs),
        (some[2], truth.values, truth.costs),
    ]:
        made = HullPolicy.load(tmp_path / "1" / f"{decider.key}.npz")
        expected = HullPolicy.build(states, values_fn, costs_fn, chunk=512, quiet=True)
        for part in ("first", "joint", "q", "c"):
            np.testing.assert_array_equal(getattr(made, part), getattr(expected, part), err_msg=decider.key)
    family = HullPolicy.load(tmp_path / "1" / f"{dcaf.key}.npz")
    assert set(family.joint.tolist()) <= set(allowed[dcaf.key].tolist())
    table = known.spec.joint_table()[family.joint]
    assert len(np.unique(table[:, 4])) == 1  # the one that is not free
    assert len(np.unique(table[:, 0])) > 1


@pytest.mark.slow
def test_a_policy_of_other_days_is_refused(finished: Path) -> None:
    elsewhere = make_scene(parts(finished), 100, 15.0, 0.05)
    with pytest.raises(UserError, match=r"awrq_mixer.npz: prepared for other states than the \d+ that may arrive"):
        elsewhere.policy()
    with pytest.raises(UserError, match=r"dqn.npz: not a readable policy cache"):
        elsewhere.policy("dqn")


def made_of(states: Any, values: Any, costs: Any) -> HullPolicy:
    return HullPolicy.build(states, values, costs, quiet=True)


@pytest.mark.slow
def test_a_policy_of_ones_own_is_handed_the_deciders_functions(scene: Scene) -> None:
    own = f"{__name__}:made_of"
    for decider in (Decider("awrq_mixer"), Decider("truth", "true")):
        prepared, mine = scene.policy(decider), scene.policy(decider, own)
        price, ids = np.full(2, 2e-4), np.arange(len(scene.catalogue.states))
        np.testing.assert_array_equal(mine.decide(ids, price), prepared.decide(ids, price))


@pytest.mark.slow
def test_by_day_and_night_the_hours_earn_at_least_what_one_mixture_does(finished: Path) -> None:
    day = make_scene(parts(finished), 102, 14, 1.0)  # the log's system table covers one Monday, and this is another
    levels = [1.15, 1.1, 1.05, 1.0, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35]
    earned = {}
    for strategy in (
        StaticStrategy(kind="static"),
        HourlyStrategy(kind="static_hourly", levels=levels, patience=3, headroom=0.97),
    ):
        policy, controller = strategy.serve(day, "north")
        plant = day.plant("north", policy)
        closed_loop(plant, controller, day.traffic.arrivals[0])
        earned[strategy.kind] = plant.minutes()["revenue"].sum()
    assert earned["static_hourly"] >= earned["static"]


def test_allowed_costs_and_pools_by_hand(small_world: Path) -> None:
    given = load_truth(small_world).world
    cost = given.config.cost.model_copy(update={"load_slope": -0.15})  # computation gets cheaper under load
    world = World(given.config.model_copy(update={"cost": cost}), given.tables)
    traffic = make_traffic(world.config, 3, 0.1, start_day=14.79)  # begins within an hour
    met: dict[int, np.ndarray] = {}

    def decide(states: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        met[plant.minute] = states
        return np.zeros(len(states), np.int64)

    plant = WorldPlant(world, "south", traffic, decide, 3)
    requests = traffic.arrivals[1].sum(axis=1)
    allowed = plant.allowed_cost(requests)
    budget, idle = world.budget_percent(), world.config.plant.idle_percent
    slope = 1 + world.config.cost.load_slope * (budget / 100 - 0.5)
    cost = allowed[7] * plant.luck.cost_factor[7] * slope  # what a request of minute 7 then takes, core-ms
    busy = 100 * cost * requests[7] / (world.cores[1] * 60_000)
    np.testing.assert_allclose(busy + idle, budget)
    assert np.isfinite(plant.allowed_cost(np.zeros(2))).all()
    for minute in range(30):
        plant.step(np.zeros(2), traffic.arrivals[1][minute])
        assert set(met[minute].tolist()) <= set(plant.pool(minute).tolist())
    pools = [plant.pool(minute).tolist() for minute in range(120)]
    assert [k for k in range(1, 120) if pools[k] != pools[k - 1]] == [3, 63]  # 18:57 and 36 s; the hours turn


def day(run: Path, days: float, **strategies: Any) -> DayConfig:
    whole = load_config(Orchestration, SMOKE).day.model_dump(mode="json")
    some = {name: whole["strategies"][name] for name in ("static", "priced_blind")}
    mine = {"days": days, "seeds": [100], "strategies": some | strategies, "attribution": {}}
    return DayConfig.model_validate(whole | mine | {"hourly": None, "oracle": None})


@pytest.mark.slow
def test_each_strategy_that_fails_says_why_and_the_others_go_on(finished: Path, tmp_path: Path) -> None:
    other = HullPolicy(
        pd.DataFrame({"tier": list("ab")}), np.array([0, 1, 2]), np.array([0, 0]), np.ones(2), np.ones((2, 2))
    )
    other.save(tmp_path / "other_world.npz")
    config = day(
        finished,
        0.01,
        steers={"kind": f"{FAILING}:Steers"},
        out_of_range={"kind": f"{FAILING}:Acts", "joint": 10_000},
        nan={"kind": f"{FAILING}:Acts", "joint": None},
        raises={"kind": f"{FAILING}:Raises"},
        nothing={"kind": f"{FAILING}:Nothing"},
        other_world={"kind": f"{FAILING}:Loads", "file": str(tmp_path / "other_world.npz")},
        missing={"kind": f"{FAILING}:Loads", "file": str(tmp_path / "none.npz")},
        not_prepared={"kind": "priced", "values": "dqn", "controller": {"name": "pi"}},
        fixed={"kind": f"{FAILING}:Acts", "joint": 3},
    )
    simulate(config, parts(finished), GROUPS, tmp_path / "day")
    failed = read_json(tmp_path / "day/failed.json")
    expected = {
        "steers": r"data centre north, seed 100: controller Fixed: step 5: ZeroDivisionError: no traffic",
        "out_of_range": "decide returned a joint action.*10000",
        "nan": "decide returned a joint action.*nan",
        "raises": "data centre south, seed 100: RuntimeError: out of ideas: none is left",
        "nothing": "TypeError: cannot unpack",
        "other_world": "state id",
        "missing": "none.npz: not a readable policy cache",
        "not_prepared": "dqn.npz: not a readable policy cache",
    }
    assert set(failed) == set(expected)
    for name, reason in failed.items():
        assert reason.startswith(f"strategy {name}, data centre ")
        assert pd.Series([reason]).str.contains(expected[name]).all(), reason
        assert "\n" not in reason
    minutes = pd.read_parquet(tmp_path / "day/minutes.parquet")
    assert list(dict.fromkeys(minutes["strategy"])) == ["static", "priced_blind", "fixed"]
    assert set(pd.read_csv(tmp_path / "day/who_gets_what.csv")["strategy"]) == {"static", "priced_blind", "fixed"}
    assert sorted(path.name for path in (tmp_path / "day").iterdir()) == [
        "failed.json",
        "minutes.parquet",
        "who_gets_what.csv",
    ]


@pytest.mark.slow
def test_without_its_baseline_a_day_is_one_line(finished: Path, tmp_path: Path) -> None:
    config = day(finished, 0.01, static={"kind": f"{FAILING}:Raises", "group": "north"})
    with pytest.raises(
        UserError, match="strategy static, data centre north, seed 100: RuntimeError: out of ideas: none"
    ):
        simulate(config, parts(finished), GROUPS, tmp_path)
    assert not [*tmp_path.iterdir()]


def what_happened(folder: Path) -> tuple[pd.DataFrame, bytes]:
    minutes = pd.read_parquet(folder / "minutes.parquet").drop(columns="step_ms")
    return minutes, (folder / "who_gets_what.csv").read_bytes()


@pytest.mark.slow
def test_a_day_whose_worker_is_killed_goes_on_where_it_was(finished: Path, tmp_path: Path) -> None:
    config = day(finished, 0.01, dies={"kind": f"{FAILING}:Dies", "once": str(tmp_path / "died")})
    config = config.model_copy(update={"workers": 1})
    stage = Stage("killed", partial(simulate, config, parts(finished), GROUPS), "the same inputs")
    with pytest.raises(BrokenProcessPool):
        Stages(tmp_path).run(stage)
    done = sorted((tmp_path / "killed").rglob("*.parquet"))
    assert [path.stem for path in done] == ["priced_blind", "static"]  # of the first data centre
    marked = pd.read_parquet(done[0])
    marked["gmv"] += 1.0
    marked.to_parquet(done[0])
    Stages(tmp_path).run(stage)
    simulate(config, parts(finished), GROUPS, tmp_path / "whole")
    minutes, who = what_happened(tmp_path / "killed")
    expected, expected_who = what_happened(tmp_path / "whole")
    kept = (minutes["strategy"] == "priced_blind") & (minutes["group"] == "north")
    minutes.loc[kept, "gmv"] -= 1.0  # it was not simulated again
    pd.testing.assert_frame_equal(minutes, expected)
    assert who == expected_who
