"""Estimators, their training and cost maps whose content is broken."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from autobucket.costs.cost_config import FitCostsConfig
from autobucket.fit_costs import fit_costs
from autobucket.results.estimator import Estimator
from autobucket.results.estimator_config import TrainConfig
from autobucket.train import train
from marca_common.cost_maps import CostMaps
from marca_common.errors import UserError
from tests.autobucket.conftest import ACTIONS, make_loadtest, make_log
from tests.reference.broken_checkpoints import (
    broken_envelopes,
    broken_files,
    broken_leaves,
    refusal,
    refused,
    save_as_is,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """A finished training on 300 rows, its folder and config."""
    folder = tmp_path_factory.mktemp("estimator")
    make_log(300).to_parquet(folder / "log.parquet", index=False)
    config = TrainConfig.model_validate(
        {
            "data": {"requests": str(folder / "log.parquet")},
            "tasks": {"retrieved": {"loss": "share"}, "preranked": {"loss": "mse"}},
            "model": {"deep": [4], "expert_units": 2, "experts": 2, "tower": [], "state_dim": 2, "action_dim": 2},
            "optimiser": {"epochs": 1, "batch_size": 64},
            "device": "cpu",
        }
    )
    train(config, folder / "run")
    return config, folder / "run"


def _serve(path: Path) -> None:
    model = Estimator.load(path)
    states = pd.DataFrame({name: ["u1", "new"] for name in model.spec.state})
    assert all(np.isfinite(values).all() for values in model.results(states).values())


def test_no_broken_part_of_an_estimator_gets_through(run: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    good = run[1] / "estimator.pt"
    content = torch.load(good, weights_only=True)
    _serve(good)
    accepted = [name for name, path in broken_files(good, tmp_path) if not refused(_serve, path)]
    for name, one in [*broken_envelopes(content), *broken_leaves(content, most=4)]:
        if not refused(_serve, save_as_is(one, tmp_path / "bad.pt")):
            accepted.append(name)
    rightly = ("config.", "encoder.ranges removed", "encoder.means = {}", "encoder.scales = {}", "encoder.ranges = {}")
    values = ("weight", "patience", "centre", "scale")  # another number is a valid one
    accepted = [name for name in accepted if not name.startswith(rightly)]
    assert [name for name in accepted if not any(f".{value} = " in name for value in values)] == []
    assert not any(odd in name for name in accepted for odd in ("None", "text", "nan", "inf", "[]", "{}"))


def test_a_resumed_training_refuses_what_it_cannot_go_on_from(run: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run[1], folder)
    (folder / "summary.json").unlink()  # as if it were not finished
    content = torch.load(folder / "last.pt", weights_only=True)
    payload = content["payload"]
    nan = {name: one * torch.nan if one.is_floating_point() else one for name, one in payload["model"].items()}
    broken = [
        *broken_envelopes(content),
        *((f"{key}={odd}", content | {"payload": payload | {key: odd}}) for key in payload for odd in (None, "text")),
        ("NaN weights", content | {"payload": payload | {"model": nan}}),
        ("NaN snapshot", content | {"payload": payload | {"snapshots": {0: nan}}}),
        ("other rows", content | {"payload": payload | {"permutation": torch.arange(7)}}),
    ]
    for name, one in broken:
        save_as_is(one, folder / "last.pt")
        text = refusal(lambda: train(run[0], folder))
        assert text is not None, name
        assert "last.pt: " in text


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Plain content of fitted cost maps."""
    folder = tmp_path_factory.mktemp("costs")
    make_loadtest(rounds=1).to_csv(folder / "loadtest.csv", index=False)
    config = {"loadtest": str(folder / "loadtest.csv"), "actions": ACTIONS, "bootstrap": 5}
    fit_costs(FitCostsConfig.model_validate(config), folder / "run")
    content: dict[str, Any] = json.loads((folder / "run" / "cost_maps.json").read_text())
    return content


def _numbers(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all numbers that a cost is made from."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key != "quality":
                yield from _numbers(value, (*path, key))
    elif isinstance(node, list):
        yield from ((*path, number) for number, value in enumerate(node) if isinstance(value, float | int))
    elif isinstance(node, float | int):
        yield path


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "null", '"dear"', "[]"])
def test_no_cost_that_is_no_number_gets_through(odd: str, maps: dict[str, Any], tmp_path: Path) -> None:
    first = maps["maps"]["north"]["retrieval"]
    places = list(_numbers({name: part for name, part in first.items() if name != "model"}))
    assert len(places) > 60
    for *parents, last in places:
        broken = copy.deepcopy(maps)
        node = broken["maps"]["north"]["retrieval"]
        for key in parents:
            node = node[key]
        node[last] = "ODD"
        (tmp_path / "maps.json").write_text(json.dumps(broken).replace('"ODD"', odd))
        assert refused(CostMaps.load, tmp_path / "maps.json"), (*parents, last)


@pytest.mark.parametrize("key", ["format", "version", "services", "idcs", "actions", "maps"])
@pytest.mark.parametrize("odd", [None, 3, "text", [], {}, [1], {"a": 1}])
def test_cost_maps_without_a_whole_part_are_refused(key: str, odd: Any, maps: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "maps.json").write_text(json.dumps(maps | {key: odd}))
    assert refused(CostMaps.load, tmp_path / "maps.json")


@pytest.mark.parametrize(
    ("part", "key", "expected"),
    [
        ("queues.retrieved", "heavy", "no curve of 'heavy'; found ['light']"),
        ("switches.model", "heavy", "no cost of 'heavy'; found ['light']"),
        ("switches.model", "light", "no cost of 'light'; found ['heavy']"),
        ("switches", "model", "no costs of 'model'; found []"),
        ("channels.heavy", "2", "no cost of '2'; found ['1', '3', '4']"),
        ("channels", "heavy", "no cost of '1'; found []"),
    ],
)
def test_a_map_without_a_part_that_its_actions_need_is_refused(
    part: str, key: str, expected: str, maps: dict[str, Any], tmp_path: Path
) -> None:
    broken = copy.deepcopy(maps)
    node = broken["maps"]["south"]["ranking"]
    for name in part.split("."):
        node = node[name]
    del node[key]
    (tmp_path / "maps.json").write_text(json.dumps(broken))
    place = f"{part}.heavy" if part == "channels" else part
    found = refusal(lambda: CostMaps.load(tmp_path / "maps.json"))
    assert found == f"{tmp_path / 'maps.json'}: south.ranking.{place}: {expected}"


def test_a_cost_that_is_not_finite_is_not_written(maps: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "maps.json").write_text(json.dumps(maps))
    good = CostMaps.load(tmp_path / "maps.json")
    good.maps["north"]["retrieval"].queues["retrieved"]["light"].cost[1] = np.nan
    with pytest.raises(UserError, match=r"not written: north\.retrieval\.queues\.retrieved\.light: got nan"):
        good.save(tmp_path / "bad.json")
    assert not (tmp_path / "bad.json").exists()
