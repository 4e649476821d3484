"""Exported learners: equal without this package, states encoded by hand from encoder.json, hulls as a table."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from awrq_mixer.anchoring.evidence import fit_anchor
from awrq_mixer.config import ExportConfig, TrainConfig
from awrq_mixer.export import export
from awrq_mixer.serving import HullPolicy, Predictor
from awrq_mixer.serving.hull_table import hull_table
from awrq_mixer.serving.portable import Vectors
from awrq_mixer.train import train
from marca_common.errors import UserError
from marca_common.exported import random_states
from marca_common.files import read_json
from tests.awrq_mixer.conftest import SmallWorld, tiny_config, write_priced_log
from tests.reference.loaded_alone import loaded_alone

STATES = pd.DataFrame(
    {"place": ["0", "2", "never seen", "1"], "segment": ["5", "7", "0", "never"], "price": [1.5, 8.0, 30.0, 4.0]}
)


def encoded(states: pd.DataFrame, content: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a foreign program does with encoder.json."""
    words = content["vocabularies"]
    codes = [[1 + words[name].index(one) if one in words[name] else 0 for one in states[name]] for name in words]
    numbers = [
        (states[name].clip(*content["ranges"][name]) - content["means"][name]) / content["scales"][name]
        for name in content["means"]
    ]
    return {"codes": np.array(codes).T.copy(), "numbers": np.array(numbers, np.float32).T.copy()}


def trained(world: SmallWorld, folder: Path, learner: str) -> Path:
    write_priced_log(world, folder / "log.parquet")
    values = tiny_config(folder / "log.parquet", learner)
    if learner == "awrq_plus":
        own = {"plus": {"classes": 3, "rank": 2, "members": 2}, "batch_size": 256, "epochs": 1}
        members = {"classes": {"learner": "latent_classes", **own}, "vectors": {"learner": "low_rank", **own}}
        stack = {"side_columns": ["clicks"], "members": members, "shrink": {"directions": 3, "reference_rows": 300}}
        values = {name: values[name] for name in ("learner", "requests", "spec")} | {"stack": stack}
    train(TrainConfig.model_validate(values), folder / "run")
    return folder / "run/best.pt"


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["awrq_mixer", "latent_classes", "low_rank", "awrq_plus"])
def test_an_exported_learner_is_equal_without_this_package(
    small_world: SmallWorld, tmp_path: Path, learner: str
) -> None:
    checkpoint = trained(small_world, tmp_path, learner)
    summary = export(ExportConfig(checkpoint=str(checkpoint)), tmp_path / "out").summary
    assert summary["difference"]["pt2"] <= 1e-5
    inputs = encoded(STATES, read_json(tmp_path / "out/encoder.json"))
    expected = Predictor.load(checkpoint).values(STATES)
    found = loaded_alone(tmp_path / "out/q.pt2", inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one = {name: rows[:1] for name, rows in inputs.items()}  # any number of states
    np.testing.assert_allclose(loaded_alone(tmp_path / "out/q.pt2", one), expected[:1], rtol=1e-5)


@pytest.mark.slow
def test_an_anchored_learner_is_exported_with_its_anchor(small_world: SmallWorld, tmp_path: Path) -> None:
    plain = Predictor.load(trained(small_world, tmp_path, "awrq_mixer"))
    config = plain.config
    rows, profile = config.spec.read(config.requests), np.linspace(1, 2, config.spec.n_joint)
    anchor, _ = fit_anchor(plain.values, profile, rows, [(plain.values, rows)], config.spec, 3, 0.5)
    anchor = replace(anchor, slope=0.7, shares=np.linspace(0.9, 0.2, len(anchor.shares)))
    anchored = Predictor(plain.scorer, config, plain.encoder, plain.device, anchor)
    anchored.save(tmp_path / "anchored.pt")
    export(ExportConfig(checkpoint=f"{tmp_path}/anchored.pt"), tmp_path / "out")
    expected = anchored.values(STATES)
    found = loaded_alone(tmp_path / "out/q.pt2", encoded(STATES, read_json(tmp_path / "out/encoder.json")))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(expected / plain.values(STATES) - 1).max() > 0.1


def test_what_a_learner_remembers_is_checked(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = trained(small_world, tmp_path, "low_rank")
    model = Predictor.load(checkpoint)
    unknown = torch.zeros(64, len(model.encoder.sizes), dtype=torch.int64)  # no random state is among the remembered
    numbers = random_states(model.encoder, 64)[1]
    monkeypatch.setattr("awrq_mixer.export.random_states", lambda *_: (unknown.clone(), numbers))
    monkeypatch.setattr(Vectors, "rows", lambda self, codes: torch.full_like(codes[:, 0], len(self.key)))
    with pytest.raises(UserError, match=r"q\.pt2: differs by .* expected at most 1e-05"):
        export(ExportConfig(checkpoint=str(checkpoint)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["awrq_mixer", "awrq_plus"])
def test_an_onnx_file_is_equal_without_this_package(small_world: SmallWorld, tmp_path: Path, learner: str) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint = trained(small_world, tmp_path, learner)
    export(ExportConfig(checkpoint=str(checkpoint), onnx=True), tmp_path / "out")
    inputs = encoded(STATES, read_json(tmp_path / "out/encoder.json"))
    found = loaded_alone(tmp_path / "out/q.onnx", inputs)
    np.testing.assert_allclose(found, Predictor.load(checkpoint).values(STATES), rtol=1e-5)


def test_trees_and_a_missing_runtime_are_one_line(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trees").mkdir()
    trees = trained(small_world, tmp_path / "trees", "lightgbm")
    with pytest.raises(UserError, match="learner 'lightgbm' can't be exported; expected a network"):
        export(ExportConfig(checkpoint=str(trees)), tmp_path / "out")
    network = trained(small_world, tmp_path, "glm")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnx: onnxruntime is not installed; expected: pip install"):
        export(ExportConfig(checkpoint=str(network), onnx=True), tmp_path / "out")
    assert not (tmp_path / "out/q.pt2").exists()


def policy(services: int) -> HullPolicy:
    rng = np.random.default_rng(services)
    c = 1 + rng.random((5, 24, services)).cumsum(1)
    q = 3 * c.sum(2) ** 0.5 * (1 + 0.02 * rng.random((5, 24)))
    states = pd.DataFrame({"place": list("01201"), "segment": list("01234"), "price": 1.0})
    return HullPolicy.build(states, lambda f: q[f.index], lambda f: c[f.index], quiet=True)


@pytest.mark.parametrize("price", [0.0, 0.21, 0.4, 0.9, 99.0])
def test_a_decision_is_the_row_between_its_breakpoints(small_world: SmallWorld, price: float) -> None:
    one, spec = policy(1), TrainConfig.model_validate(tiny_config(small_world.path, "glm")).spec
    frame = hull_table(one, spec).to_pandas()
    chosen = frame[(frame["lambda_low"] <= price) & (price < frame["lambda_high"])]
    assert chosen["state"].tolist() == [0, 1, 2, 3, 4]
    assert chosen["joint"].tolist() == one.decide(np.arange(5), price).tolist()
    assert chosen[["b1", "b2", "b3"]].to_numpy().tolist() == spec.joint_table()[chosen["joint"]].tolist()
    assert len(frame) > 10


def test_a_policy_of_more_actions_is_refused(small_world: SmallWorld) -> None:
    spec = TrainConfig.model_validate(tiny_config(small_world.path, "glm")).spec
    smaller = spec.model_copy(update={"sizes": {"b1": 2, "b2": 3, "b3": 3}})
    with pytest.raises(UserError, match=r"policy: joint action \d+; the learner's has 18 joint actions"):
        hull_table(policy(1), type(spec).model_validate(smaller.model_dump()))


def test_hulls_are_written_with_units(small_world: SmallWorld, tmp_path: Path) -> None:
    checkpoint = trained(small_world, tmp_path, "glm")
    policy(2).save(tmp_path / "policy.npz")
    summary = export(
        ExportConfig(checkpoint=str(checkpoint), policy=f"{tmp_path}/policy.npz"), tmp_path / "out"
    ).summary
    table = pq.read_table(tmp_path / "out/hulls.parquet")
    assert len(table) == summary["candidates"]
    assert table.column_names == ["state", "place", "segment", "price", "joint", "b1", "b2", "b3", "q", "c_0", "c_1"]
    assert table.schema.metadata[b"lambda"] == b"money per core-ms"
    assert table.schema.metadata[b"price_of_service"] == b"0,1"
