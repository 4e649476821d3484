"""Rollouts and Jacobians against a slow version, the torch network and differences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mpc_fixtures import random_model, random_problem, reference_module, trained_model

from marca_common.errors import UserError
from mpc_balancer.config import ColumnsConfig
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.system_model.tuned import Tuned


@pytest.mark.parametrize("head", ["utilisation_law", "plain"])
@pytest.mark.parametrize("batch", [1, 3, 12])
def test_rollout_matches_the_slow_one(head: Any, batch: Any) -> None:
    problem = random_problem(3, head, hidden=(17, 13))
    plans = np.random.default_rng(1).random((batch, *problem.shape))
    fast = problem.model.rollout(problem.start.cpu, plans, problem.exogenous, problem.traffic, problem.gain)
    slow = reference_module("slow_rollout").slow_rollout
    for b in range(batch):
        expected = slow(problem.model, problem.start.cpu, plans[b], problem.exogenous, problem.traffic, problem.gain)
        np.testing.assert_allclose(fast[b], expected, rtol=2e-4)


@pytest.mark.parametrize("head", ["utilisation_law", "plain"])
def test_rollout_matches_torch_and_survives_a_checkpoint(head: Any, tmp_path: Path) -> None:
    model = random_model(head)
    torch.manual_seed(0)
    net = SystemNetwork(2, 2, model.features.size, [300, 40], head)
    model = SystemModel.from_network(net, model.services, model.features, model.prices, ColumnsConfig())
    model.save(tmp_path / "m.pt")
    model = SystemModel.load(tmp_path / "m.pt", ["x", "y"])
    generator = np.random.default_rng(0)
    unit, inputs = generator.random((11, 4, 2)), generator.standard_normal((4, model.features.size)).astype(np.float32)
    traffic, cpu = generator.random(4) + 0.5, np.array([50.0, 70.0])
    with torch.no_grad():
        expected = net.rollout(
            *(
                torch.tensor(x, dtype=torch.float32)
                for x in (np.tile(cpu, (11, 1)), unit, np.tile(inputs, (11, 1, 1)), np.tile(traffic, (11, 1)))
            )
        ).numpy()
    np.testing.assert_allclose(model.rollout(cpu, unit, inputs, traffic), expected, rtol=1e-4)


@pytest.mark.parametrize("head", ["utilisation_law", "plain"])
def test_sensitivities_match_differences(head: Any) -> None:
    problem = random_problem(5, head)
    plan = np.random.default_rng(2).random((1, *problem.shape))
    path, tape = problem.model.rollout_with_tape(
        problem.start.cpu, plan, problem.exogenous, problem.traffic, problem.gain
    )
    chain = problem.model.sensitivities(*problem.model.jacobians(tape, problem.gain))[0]
    for i, j in np.ndindex(*problem.shape):
        up = plan.copy()
        up[0, i, j] += 2e-3
        down = plan.copy()
        down[0, i, j] -= 2e-3
        difference = (problem.path(up[0]) - problem.path(down[0])) / 4e-3
        np.testing.assert_allclose(chain[:, :, i, j], difference, rtol=0.03, atol=0.03)
    assert path.shape == (1, *problem.shape)


@pytest.mark.parametrize(
    "mode", [{"mode": "paper", "beta": 3.0}, {"mode": "asymmetric", "rise_weight": 1.0, "move_weight": 0.01}]
)
def test_adjoint_gradient_matches_differences(mode: Any) -> None:
    problem = random_problem(8, **mode)
    plan = np.random.default_rng(3).random(problem.shape)
    _, gradient = problem.gradient(plan)
    for i, j in np.ndindex(*problem.shape):
        shift = np.zeros(problem.shape)
        shift[i, j] = 1e-3
        difference = (problem.values((plan + shift)[None])[0] - problem.values((plan - shift)[None])[0]) / 2e-3
        assert gradient[i, j] == pytest.approx(difference, rel=0.03, abs=0.3)


def test_trained_model_knows_the_plant() -> None:
    model = trained_model()
    assert np.sqrt((model.noise**2).mean()) < 3.0  # CPU points, true traffic; CPU itself moves by 12
    unit = np.full((2, 6, 2), 0.5)
    unit[1] = 0.8
    inputs = np.tile(model.features.typical_row(0, 400.0, 400.0, np.datetime64("2026-03-02T12:00:00")), (6, 1))
    path = model.rollout(np.array([65.0, 65.0]), unit, inputs, np.ones(6))
    assert (path[1, -1] < path[0, -1] - 2).all()  # dearer means less CPU


def test_what_was_tuned_survives_a_checkpoint(tmp_path: Path) -> None:
    model = trained_model()
    model.save(tmp_path / "m.pt")
    again = SystemModel.load(tmp_path / "m.pt")
    assert again.tuned.to_dict() == model.tuned.to_dict()
    assert again.tuned.pi_gains == model.tuned.pi_gains
    np.testing.assert_array_equal(again.noise, model.noise)


def test_a_checkpoint_without_gains_of_pi_forecast_takes_those_of_pi_feedforward() -> None:
    before = trained_model().tuned.to_dict()
    del before["pi_gains"]["pi_forecast"]
    gains = Tuned.from_dict(before).pi_gains
    assert gains["pi_forecast"] == gains["pi_feedforward"]
    assert Tuned.from_dict({}) == Tuned()


@pytest.mark.parametrize("spoil", [{"pi_gains": {"pi": {"gain": 1.0}}}, {"observer": {"rate": 0.1}}, {"forecasts": 3}])
def test_a_checkpoint_of_another_version_says_what_to_do(
    spoil: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuned, "to_dict", lambda _: spoil)
    random_model().save(tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"m\.pt: damaged, or of another version; train again"):
        SystemModel.load(tmp_path / "m.pt")


def test_bad_checkpoints(tmp_path: Path) -> None:
    model = random_model()
    model.save(tmp_path / "m.pt")
    with pytest.raises(UserError, match="fitted on columns"):
        SystemModel.load(tmp_path / "m.pt", ["other", "services"])
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        SystemModel.load(tmp_path / "junk.pt")
    with pytest.raises(UserError, match="not among those"):
        model.features.group_index("elsewhere")
