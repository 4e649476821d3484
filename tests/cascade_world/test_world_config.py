"""Every shipped world loads; what does not fit is refused in one line that names the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_world.config import WorldConfig
from cascade_world.mechanism.true_costs import build_costs
from cascade_world.mechanism.world_actions import compile_actions
from marca_common.config import load_config
from marca_common.cost_maps import ActionsConfig, CostMaps, Curve, ServiceMap
from marca_common.errors import UserError

WORLDS = sorted(Path("configs/cascade_world").glob("*.yaml"))


@pytest.mark.parametrize("path", WORLDS, ids=lambda path: path.stem)
def test_shipped_worlds_load(path: Any) -> None:
    config = load_config(WorldConfig, path)
    assert config.name == path.stem
    spec = config.request_spec
    assert spec.n_joint == {"three_stage": 400, "manifold": 512}.get(path.stem, 1000)
    assert len(spec.agents) == (3 if path.stem == "three_stage" else 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cascade.actions.a2.levels=[1, 3, 2, 4, 5]", "whole numbers of at least 1 that rise"),
        ("cascade.actions.a2.channels=[similar, nowhere]", "channels must name some of"),
        (
            "cascade.actions.a2.channels=[similar]",
            "no sub-action of kind 'queue' sets the length of channel 'behaviour'",
        ),
        ("cascade.actions.a4.levels=[light, huge]", "unknown model 'huge'"),
        ("cascade.actions.a4.kind=truncation", "at least 1 that rise"),
        ("traffic.peak_qps=-5", "greater than 0"),
        ("cascade.models.light=-1", "standard deviation of at least 0"),
        ("states.idcs={north: -1, south: 1}", "positive share"),
        ("states.idcs={no_rth: 1, south: 1}", "contains '_'"),
        ("plant.machines={north: {retrieval: 1, ranking: 1}}", "plant.machines must name the data centres"),
        ("plant.machines.north.ranking=0", "at least one machine"),
        ("cost.services.ranking.base=-0.1", "greater than or equal to 0"),
        ("cost.services.ranking.preranked.ranker=[[0, 1.0], [50, 0.5]]", "costs of at least 0 that never fall"),
        ("cost.hardware={east: 1.0}", "unknown data centre 'east'"),
        ("traffic.peek_qps=5", "did you mean 'peak_qps'"),
        ("users.count=1", "users.count: .*greater than or equal to 2"),
        ("users.late=1", "users.late: .*less than 1"),
    ],
)
def test_bad_values_are_refused(override: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(WorldConfig, "configs/cascade_world/small.yaml", [override])


def test_joint_actions_are_what_they_say(make_config: Any) -> None:
    config = make_config()
    space = compile_actions(config.cascade, config.request_spec, 4)
    joint = 0
    for j, choice in enumerate([2, 3, 1, 1, 4]):  # similar+popular+graph, A 30, B 3, heavy, truncation 150
        joint = joint * config.request_spec.shape[j] + choice
    r, t, _ = space.joint[joint]
    assert space.lengths[r].tolist() == [30, 3, 0, 3]
    assert space.model[r] == 1
    assert space.truncations[t] == 150
    assert space.cell[tuple(space.joint[joint])] == joint
    one_level = config.request_spec.joint_table()[space.degraded[1, joint]]
    assert one_level.tolist() == [2, 2, 0, 1, 3]
    assert (space.degraded[0] == range(space.n_joint)).all()


def _cost_map(services: Any, groups: Any) -> Any:
    x, flat = np.array([0.0, 100.0]), {"model": {"light": 0.0, "heavy": 0.1}}
    curves = {name: Curve(x, top * x / 100, x, x) for name, top in (("light", 1.0), ("heavy", 2.0))}
    channels = {"all": dict.fromkeys(["similar", "popular", "behaviour", "graph"], 0.25)}
    one = ServiceMap(0.5, flat, channels, {"retrieved": curves, "preranked": curves})
    actions = ActionsConfig.model_validate(
        {
            "switches": {"model": {"action": "a4", "values": ["light", "heavy"]}},
            "elements": {"retrieved": {"switch": "model"}, "preranked": {"switch": "model"}},
        }
    )
    return CostMaps(tuple(services), tuple(groups), actions, {idc: dict.fromkeys(services, one) for idc in groups})


def test_costs_come_from_a_measured_map(make_config: Any, tmp_path: Path) -> None:
    path = tmp_path / "cost_maps.json"
    _cost_map(["retrieval", "ranking"], ["north", "south"]).save(path)
    costs = build_costs(make_config(f"cost.map={path}"))
    heavy = costs.cost(1, 1, 0, [0, 2], retrieved=50, preranked=20)
    assert heavy == pytest.approx([0.5 + 0.1 + 0.5 + 1.0 + 0.4] * 2)
    _cost_map(["retrieval"], ["north", "south"]).save(path)
    with pytest.raises(UserError, match="no service 'ranking' in data centre 'north'"):
        build_costs(make_config(f"cost.map={path}"))
    path.write_text("{}")
    with pytest.raises(UserError, match="not a cost map"):
        build_costs(make_config(f"cost.map={path}"))
