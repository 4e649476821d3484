"""The exported cost model: equal without this package, also where curves go on beyond their ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobucket.config import ExportConfig
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.cost_model import CostModel
from autobucket.costs.portable import _hinges
from autobucket.export import export
from autobucket.fit_costs import fit_costs
from autobucket.train import train
from marca_common.cost_maps import ActionsConfig, interpolate
from marca_common.exported import random_states
from tests.autobucket.conftest import ACTIONS, make_loadtest
from tests.autobucket.test_ab_estimator import config as estimator_config
from tests.reference.loaded_alone import loaded_alone


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(-5, 5)), min_size=1, max_size=6), st.floats(-20, 80))
def test_hinges_are_the_curve(points: list[tuple[float, float]], at: float) -> None:
    x, y = np.cumsum([one for one, _ in points]), np.array([one for _, one in points])
    padded = np.zeros((2, 8))
    padded[0, : len(x)], padded[1, : len(y)] = x, y
    start, value, slope, knots, bends = (one[0] for one in _hinges(padded[:1], padded[1:], np.array([len(x)])))
    found = value + slope * (at - start) + (bends * np.maximum(at - knots, 0)).sum()
    if len(x) == 1:
        assert found == y[0]
    else:
        inside = float(interpolate(np.array([at]), x, y)[0])
        assert found == pytest.approx(inside, rel=1e-6, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_an_exported_cost_model_is_equal_without_this_package(log_path: str, tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    train(estimator_config(log_path), tmp_path / "results")
    make_loadtest().to_csv(tmp_path / "loadtest.csv", index=False)
    actions = ActionsConfig.model_validate(ACTIONS)
    fit_costs(FitCostsConfig(loadtest=tmp_path / "loadtest.csv", actions=actions, bootstrap=0), tmp_path / "costs")
    files = (tmp_path / "results/estimator.pt", tmp_path / "costs/cost_maps.json")
    config = ExportConfig(estimator=str(files[0]), cost_maps=str(files[1]), onnx=kind == "onnx")
    assert export(config, tmp_path / "out").summary["difference"][kind] <= 1e-5
    model = CostModel.load(*files)
    codes, numbers = random_states(model.estimator.encoder, 5)
    idc = np.arange(5) % len(model.maps.idcs)
    expected = model.from_results(model.estimator.encoded_results(codes, numbers, model.tasks), idc)
    inputs = {"codes": codes.numpy(), "numbers": numbers.numpy(), "idc": idc}
    np.testing.assert_allclose(loaded_alone(tmp_path / f"out/c.{kind}", inputs), expected, rtol=1e-5)
    assert len(set(idc)) > 1
