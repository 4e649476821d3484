"""The exported system model: equal without this package, and able to roll a plan out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mpc_fixtures import random_model

from mpc_balancer.config import ExportConfig
from mpc_balancer.export import export, random_minutes
from tests.reference.loaded_alone import loaded_alone


@pytest.mark.slow
@pytest.mark.parametrize("head", ["utilisation_law", "plain"])
def test_an_exported_system_model_is_equal_without_this_package(tmp_path: Path, head: str) -> None:
    model = random_model(head)
    model.save(tmp_path / "model.pt")
    summary = export(ExportConfig(model=f"{tmp_path}/model.pt"), tmp_path / "out").summary
    assert summary["difference"]["pt2"] <= 1e-5
    rows = {name: one[:3].astype(np.float32) for name, one in random_minutes(model, 3).items()}
    found = loaded_alone(tmp_path / "out/g.pt2", rows)
    np.testing.assert_allclose(found, model.step_rows(*rows.values()), rtol=1e-5)
    assert found.std() > 0


@pytest.mark.slow
def test_an_onnx_file_is_equal_without_this_package(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = random_model()
    model.save(tmp_path / "model.pt")
    export(ExportConfig(model=f"{tmp_path}/model.pt", onnx=True), tmp_path / "out")
    rows = {name: one[:3].astype(np.float32) for name, one in random_minutes(model, 3).items()}
    np.testing.assert_allclose(loaded_alone(tmp_path / "out/g.onnx", rows), model.step_rows(*rows.values()), rtol=1e-5)
