"""Whose Q and C decide: what is prepared, which joint actions remain, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.errors import UserError
from marca_loop import deciders
from marca_loop.deciders import Decider, Sources
from marca_loop.families import best_family
from marca_loop.scene import Profile
from marca_loop.settings import DayConfig, Orchestration
from marca_measures.hull import candidates

TABLE = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # joint actions of two sub-actions, x and y
QPS = pd.Series(np.ones(20), pd.date_range("2026-01-05", periods=20, freq="min"))


def scene(values: Any, costs: Any, allowed: Any) -> Any:
    """As much of a scene as the choice of a family looks at; ``allowed`` is called with a traffic."""
    spec = SimpleNamespace(sub_actions=["x", "y"], joint_table=lambda: TABLE)
    return SimpleNamespace(
        parts=SimpleNamespace(spec=spec),
        world=SimpleNamespace(groups=("north", "south")),
        profile=lambda group: Profile(QPS, np.array(values, float), np.array(costs, float)),
        allowed=lambda group, qps: np.array(allowed(qps), float),
    )


@pytest.mark.parametrize(
    ("budget", "free", "expected"),
    [
        (2.0, ["y"], [0, 1]),  # x = 0 earns 4 within 2 core-ms; x = 1 mixes 2 and 9 to 2.8
        (5.0, ["y"], [2, 3]),  # 4 against 7.4
        (2.0, ["x"], [1, 3]),  # y = 0 earns 2; y = 1 earns 4
        (1.6, ["x"], [0, 2]),  # y = 1 does not fit
        (5.0, ["x", "y"], [0, 1, 2, 3]),
    ],
)
def test_the_best_family_by_hand(budget: float, free: list[str], expected: list[int]) -> None:
    one = scene([1, 4, 2, 9], [[1], [2], [1.5], [6]], lambda qps: [budget])
    assert best_family(one, free).tolist() == expected


def test_every_traffic_of_the_log_must_be_borne() -> None:
    one = scene([1, 4, 2, 9], [[1], [2], [3], [6]], lambda qps: [10 / qps])
    assert best_family(one, ["y"]).tolist() == [2, 3]
    busy = pd.Series(np.r_[np.ones(99), 4.0], pd.date_range("2026-01-05", periods=100, freq="min"))
    one.profile = lambda group: Profile(busy, np.array([1, 4, 2, 9.0]), np.array([[1], [2], [3], [6.0]]))
    assert best_family(one, ["y"]).tolist() == [0, 1]  # in the busiest minute 2.5 core-ms are left for each request


def test_a_family_must_keep_all_budgets_at_once() -> None:
    # in x = 0 each service alone fits 1.5, but one action overruns a and the other b
    one = scene([8, 9, 1, 2], [[1, 3], [3, 1], [1, 1], [1.2, 1.2]], lambda qps: [1.5, 1.5])
    assert best_family(one, ["y"]).tolist() == [2, 3]


def test_nothing_fits_is_one_line() -> None:
    with pytest.raises(UserError, match=r"free \['y'\]: no choice of the other sub-actions fits the budget at peak"):
        best_family(scene([1, 4, 2, 9], [[1], [2], [1.5], [6]], lambda qps: [0.5]), ["y"])


def test_a_block_keeps_the_candidates_of_the_actions_allowed() -> None:
    generator = np.random.default_rng(0)
    q, c = generator.uniform(0, 9, (40, 12)), generator.uniform(0.1, 5, (40, 12, 2))
    allowed = np.array([1, 4, 5, 11])
    counts, joint, worth, cost = deciders._candidates(q, c, allowed)
    expected = candidates(q[:, allowed].copy(), c[:, allowed].copy())
    rows = np.repeat(np.arange(40), counts)
    assert counts.tolist() == expected[0].tolist()
    assert joint.tolist() == allowed[expected[1]].tolist()
    assert worth.tolist() == q[rows, joint].tolist()
    assert cost.tolist() == c[rows, joint].tolist()


def test_a_value_that_is_no_number_names_the_learner_and_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.ones((3, 4), np.float32)
    table[1, 2] = np.nan
    monkeypatch.setattr(deciders, "_learner", lambda path: SimpleNamespace(values=lambda states: table))
    sources: Any = Sources({"mine": "anywhere"}, ("", ""), "world")  # type: ignore[dict-item,arg-type]
    with pytest.raises(UserError, match=r"mine: a value of state \['b'\] is no number"):
        deciders._values(sources, "mine", pd.DataFrame({"tier": list("abc")}))


PI = {"controller": {"name": "pi"}}


def day(**strategies: Any) -> DayConfig:
    return DayConfig.model_validate({"strategies": {"static": {"kind": "static"}, **strategies}})


def test_deciders_are_listed_once_and_none_is_prepared_for_mixtures() -> None:
    config = day(
        hourly={"kind": "static_hourly", "values": "truth"},
        blind={**PI, "values": "profile"},
        one=PI,
        same={**PI, "values": "awrq_mixer", "label": "the same decider under another name"},
        other={**PI, "values": "dqn", "free": ["a1"]},
        knows={**PI, "values": "truth", "costs": "true"},
        oracle={"kind": "oracle"},
    )
    keys = ["profile", "awrq_mixer", "dqn-a1", "truth-true-costs"]
    assert [one.key for one in config.deciders] == keys
    assert [one.key for one in config.steered] == keys
    assert config.learners == ["awrq_mixer", "dqn"]
    assert [one.key for one in day(oracle={"kind": "oracle"}).steered] == []  # hindsight needs no system model
    assert [one.blind for one in config.deciders] == [True, False, False, False]


def test_rivals_are_some_of_the_strategies() -> None:
    for key in ("hourly", "blind", "oracle"):
        with pytest.raises(ValueError, match=f"{key}: got 'gone'; expected one of"):
            DayConfig.model_validate({"strategies": {"static": {"kind": "static"}}, key: "gone"})
    with pytest.raises(ValueError, match=r"attribution.clock: got 'gone'; expected one of \['static'\]"):
        DayConfig.model_validate({"strategies": {"static": {"kind": "static"}}, "attribution": {"clock": "gone"}})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("day.strategies.dcaf.free=[a1, a9]", "free: got 'a9'; expected some of"),
        ("day.strategies.dcaf.costs=maybe", "costs: got 'maybe'"),
        ("day.strategies.priced_blind.free=[a1]", "'profile' knows no states; free, costs and policy cannot"),
        ("day.strategies.priced_blind.costs='true'", "'profile' knows no states; free, costs and policy cannot"),
        ("day.strategies.priced_blind.policy=json:loads", "'profile' knows no states; free, costs and policy cannot"),
        ("day.strategies.dcaf.policy=json:loads", "free: goes with policy: hull only"),
        ("day.strategies.static.values=dqn", "a static mixture is chosen by 'profile' or by 'truth'"),
        ("day.strategies.static_hourly.quantile=1.5", "quantile: got 1.5"),
        ("learners.truth={}", "'truth' is the name of no learner's values"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        load_config(Orchestration, "configs/smoke.yaml", [override])
    assert "\n" not in str(refused.value)


def test_own_logs_have_no_truth_that_could_decide() -> None:
    own = ["world=null", "logs={requests: a.csv, loadtest: b.csv, system: c.csv}", "day.policy=truth"]
    with pytest.raises(UserError, match="uses the learner 'truth'; expected one of"):
        load_config(Orchestration, "configs/smoke.yaml", own)


def test_own_logs_need_not_know_the_sub_actions_of_strategies_that_never_serve() -> None:
    spec = "logs.spec={agents: {all: [depth]}, sizes: {depth: 3}}"
    own = ["world=null", "logs={requests: a.csv, loadtest: b.csv, system: c.csv}", spec]
    assert load_config(Orchestration, "configs/smoke.yaml", own).spec.sub_actions == ("depth",)


def test_keys_tell_deciders_apart() -> None:
    made = [Decider("a"), Decider("a", "true"), Decider("a", free=("a1",)), Decider("a", free=("a1", "a2"))]
    assert len({one.key for one in made}) == 4
