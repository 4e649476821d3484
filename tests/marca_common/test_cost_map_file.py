"""The shared file of cost maps: what its readers get, and one line for what it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marca_common.cost_maps import ActionsConfig, CostMaps, Curve, ServiceMap, interpolate
from marca_common.errors import UserError


@pytest.fixture
def maps(tmp_path: Path) -> Any:
    curve = Curve(np.array([0.0, 10.0]), np.array([0.0, 2.0]), np.zeros(2), np.array([0.0, 3.0]))
    one = ServiceMap(
        0.5, {"model": {"light": 0.0, "heavy": 0.25}}, {"all": {"1": 1.0, "2": 2.0}}, {"length": {"all": curve}}
    )
    actions = ActionsConfig.model_validate(
        {"switches": {"model": {"action": "a1", "values": ["light", "heavy"]}}, "elements": {"length": {}}}
    )
    made = CostMaps(("serve",), ("north",), actions, {"north": {"serve": one}})
    made.save(tmp_path / "cost_maps.json")
    return CostMaps.load(tmp_path / "cost_maps.json")


def test_costs_by_hand(maps: Any) -> None:
    # base ½, heavy ¼ more, channels 1 + 2, and 0.2 for each item, beyond the last point as well
    found = maps.cost("north", "serve", {"length": np.array([0.0, 5.0, 20.0])}, "1+2", {"model": "heavy"})
    np.testing.assert_allclose(found, [3.75, 4.75, 7.75])
    one = maps.service_map("north", "serve")
    assert maps.channel_cost(one, "2", {"model": "light"}) == 2.0
    assert maps.curve(one, "length", {})(np.array(5.0)) == pytest.approx(1.0)


def test_interpolation_goes_on_with_the_slope_of_the_end() -> None:
    x = np.array([-1.0, 0.5, 3.0])
    np.testing.assert_allclose(interpolate(x, np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 4.0])), [-1, 0.5, 7])
    np.testing.assert_allclose(interpolate(x, np.array([1.0]), np.array([4.0])), 4)


def test_what_the_map_does_not_hold_gets_one_line(maps: Any) -> None:
    one = maps.service_map("north", "serve")
    asked: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: maps.service_map("south", "serve"),
            "no service 'serve' in data centre 'south'; known are serve in north",
        ),
        (lambda: maps.channel_cost(one, "7", {}), "no cost of channel '7'"),
        (lambda: maps.curve(one, "depth", {}), "no curve of 'depth'"),
    ]
    for ask, message in asked:
        with pytest.raises(UserError, match=message):
            ask()
    switched = maps.actions.model_copy(
        update={"elements": {"length": maps.actions.elements["length"].model_copy(update={"switch": "model"})}}
    )
    other = CostMaps(maps.services, maps.idcs, switched, maps.maps)
    with pytest.raises(UserError, match="no curve of 'length' under model 'huge'; known are"):
        other.curve(one, "length", {"model": "huge"})
