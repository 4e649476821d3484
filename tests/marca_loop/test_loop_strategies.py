"""Strategies as configs: kinds, somebody else's class, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from marca_common.config import load_config, to_dict
from marca_common.errors import UserError
from marca_loop.settings import DayConfig, Orchestration
from marca_loop.strategies import PricedStrategy, StaticStrategy, Strategy


class Eager(StaticStrategy):
    """Somebody else's kind, with a setting of its own."""

    eagerness: float = 2.0


STATIC = {"static": {"kind": "static", "patience": 3}}


def day(**strategies: Any) -> Any:
    return DayConfig.model_validate({"strategies": {**STATIC, **strategies}})


def test_a_strategy_is_read_as_its_kind_and_survives_writing() -> None:
    config = day(mine={"kind": f"{__name__}:Eager", "eagerness": 5}, priced={"controller": {"name": "pi"}})
    kinds = [type(one) for one in config.strategies.values()]
    assert kinds == [StaticStrategy, Eager, PricedStrategy]
    again = DayConfig.model_validate(to_dict(config))
    assert again == config
    assert to_dict(again)["strategies"]["mine"]["eagerness"] == 5


def test_learners_in_use_are_listed_once() -> None:
    config = day(a={"controller": {}, "values": "dqn"}, b={"controller": {}, "values": "dqn"})
    assert config.learners == ["awrq_mixer", "dqn"]


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"kind": "sttaic"}, "did you mean 'static'"),
        ({"kind": "no.such.module:Thing"}, "expected module:name that can be imported"),
        ({"kind": "json:dumps"}, "expected a class derived from Strategy"),
        ({"kind": "json:JSONDecoder"}, "expected a class derived from Strategy"),
        ({"kind": "static", "patient": 3}, "patient: unknown key; did you mean 'patience'"),
        ({"kind": "static", "patience": 0}, "patience: got 0"),
        ({"controller": {"pi": {"kp": True}}}, "controller.pi.kp: got True; expected a number"),
        ({"controller": {"name": "mcp"}}, "controller.name: got 'mcp'.*did you mean 'mpc'"),
        ({"controller": {}, "policy": "hul"}, "policy: got 'hul'.*did you mean 'hull'"),
        ({"controller": {"name": "mylab.no:Such"}}, "expected module:name that can be imported"),
        ({"kind": "priced"}, "controller: missing, a value is required"),
        (["static"], "expected a mapping"),
    ],
)
def test_a_bad_strategy_is_one_line_that_names_it(strategy: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "day.yaml"
    import yaml

    path.write_text(yaml.safe_dump({"strategies": {**STATIC, "mine": strategy}}))
    with pytest.raises(UserError, match=message) as refused:
        load_config(DayConfig, path)
    assert "strategies.mine" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_baseline_is_one_of_the_strategies() -> None:
    with pytest.raises(ValueError, match=r"baseline: got 'fixed'; expected one of \['static'\]"):
        DayConfig.model_validate({"strategies": STATIC, "baseline": "fixed"})


def test_a_strategy_asks_for_a_learner_that_is_trained() -> None:
    other = "day.strategies.marca_mpc.values=qmix"
    with pytest.raises(UserError, match="uses the learner 'qmix'; expected one of"):
        load_config(Orchestration, "configs/smoke.yaml", [other])


def test_the_common_part_cannot_serve() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Strategy.model_validate({})
