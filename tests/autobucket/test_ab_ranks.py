"""Training the cost estimator over ranks: they agree with one process, and a killed group ends as if it had not been."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from autobucket.results.estimator_config import TaskConfig, TrainConfig
from autobucket.results.tasks import Task
from autobucket.train import _Training, train
from marca_common.checkpoint import load_checkpoint
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.ranks import Ranks
from marca_common.run_folder import RunFolder
from tests.autobucket.conftest import make_log
from tests.reference.thread_ranks import in_threads
from tests.reference.torchrun import one_error, torchrun

REPOSITORY = Path(__file__).parents[2]
TASKS = {"retrieved": {"loss": "share"}, "preranked": {"loss": "poisson", "weight": 0.5}, "clicks": {"loss": "bce"}}
DIES = """
import os, signal, sys
from autobucket.config import TrainConfig
from autobucket.train import _Training, train
from marca_common.config import load_config

config, out, rank, where, times = sys.argv[1:]
whole, calls = getattr(_Training, where), []

def dies(self, *arguments):
    calls.append(1)
    if len(calls) == int(times) and os.environ["RANK"] == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *arguments)

setattr(_Training, where, dies)
train(load_config(TrainConfig, config), out)
"""


def config(requests: Any, **optimiser: Any) -> TrainConfig:
    smoke = load_config(TrainConfig, "configs/autobucket/smoke.yaml").model_dump(mode="json")
    options = {"batch_size": 240, "epochs": 2, "evaluations_per_epoch": 2, "dropout": 0.3}
    values = {"data": smoke["data"] | {"requests": str(requests)}, "tasks": TASKS, "optimiser": options | optimiser}
    return TrainConfig.model_validate(smoke | values)


def looped(settings: TrainConfig, out: Path, ranks: Ranks) -> _Training:
    """A training whose loop has ended, in a thread or alone."""
    run = RunFolder(out, settings, resumes_from="last.pt")
    with ranks.folder(run):
        training = _Training(settings, run, ranks)
        training.loop()
    return training


def shared(settings: TrainConfig, out: Path, size: int = 2) -> list[_Training]:
    found = in_threads(size, lambda ranks: looped(settings, out, ranks))
    failed = [one for one in found if isinstance(one, BaseException)]
    assert not failed, failed
    return [one for one in found if isinstance(one, _Training)]


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "poisson", "share", "bce"])
def test_a_loss_is_the_mean_of_the_losses_of_equal_parts(loss: Any) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60).astype(np.float32) * (1 if loss == "bce" else 9)
    joint = np.repeat([0, 1], 30)  # of other caps, so that weights of the parts differ
    labels[:30] *= 1 if loss == "bce" else 3
    task = Task.fit("t", TaskConfig(loss=loss), labels, joint, 2)
    rows = (
        torch.from_numpy(rng.standard_normal(60).astype(np.float32)),
        torch.from_numpy(labels),
        torch.from_numpy(joint),
    )
    parts = [task.loss_of(*part) for part in zip(*(one.chunk(3) for one in rows))]
    assert float(torch.stack(parts).mean()) == pytest.approx(float(task.loss_of(*rows)), rel=1e-5)
    assert float(parts[0]) != pytest.approx(float(parts[2]), rel=1e-2)


@pytest.mark.parametrize(("size", "clip"), [(2, None), (3, 0.1)])
def test_one_update_of_several_ranks_is_that_of_one(log_path: str, tmp_path: Path, size: int, clip: Any) -> None:
    settings = config(log_path, batch_size=4800, epochs=1, evaluations_per_epoch=1, gradient_clip=clip)
    alone = looped(settings, tmp_path / "alone", Ranks())
    for one in shared(settings, tmp_path / "group", size):
        for (name, found), known in zip(one.model.named_parameters(), alone.model.parameters()):
            gradient, expected = one.optimiser.state[found]["exp_avg"], alone.optimiser.state[known]["exp_avg"]
            assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-8), name  # a tenth of the clipped gradient
            assert torch.allclose(found, known, rtol=1e-5, atol=1e-5), name
        assert one.best == pytest.approx(alone.best, rel=1e-5)
    pd.testing.assert_frame_equal(metrics(tmp_path / "group"), metrics(tmp_path / "alone"), rtol=1e-5)


def test_ranks_stay_alike_and_end_within_seed_noise_of_one(tmp_path: Path) -> None:
    make_log(3004).to_parquet(
        tmp_path / "log.parquet", index=False
    )  # 2403 rows to learn from: 1201 and 1202 an interval
    settings = config(tmp_path / "log.parquet", epochs=3)
    one, other = shared(settings, tmp_path / "group")
    for name, weights in one.model.state_dict().items():
        assert torch.equal(weights, other.model.state_dict()[name]), name
    assert (one.best, one.kept, one.rows_seen) == (other.best, other.kept, 3 * (1200 + 1202))
    alone = [looped(_seed(settings, seed), tmp_path / f"alone{seed}", Ranks()) for seed in range(4)]
    assert alone[0].rows_seen == 3 * 2403
    for t, name in enumerate(TASKS):
        noise = np.ptp([each.best[t] for each in alone])
        assert abs(one.best[t] - alone[0].best[t]) < noise, name


def _seed(settings: TrainConfig, seed: int) -> TrainConfig:
    return settings.model_copy(update={"seed": seed})


def test_validation_is_bit_for_bit_that_of_one(log_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobucket.train._EVALUATION_BATCH", 128)  # five batches of 600 rows
    settings = config(log_path, epochs=1)
    alone = looped(settings, tmp_path / "alone", Ranks())
    slow = alone.validation
    with torch.no_grad():
        outputs = alone.model(
            alone.model.embed_states(slow.codes, slow.numbers), alone.model.embed_actions(slow.actions)
        )
    expected = [
        float(task.loss_of(out, slow.labels[:, t], slow.joint))
        for t, (task, out) in enumerate(zip(alone.tasks, outputs))
    ]
    assert alone._validate() == pytest.approx(expected, rel=1e-5)

    def validated(ranks: Ranks) -> list[float]:
        one = copy.copy(alone)
        one.ranks = ranks
        return one._validate()

    assert in_threads(3, validated) == [alone._validate()] * 3


def test_a_loss_that_is_no_number_is_said_once(log_path: str, tmp_path: Path) -> None:
    settings = config(log_path, lr=1e30, gradient_clip=None)
    first, second = in_threads(2, lambda ranks: looped(settings, tmp_path / "run", ranks))
    assert isinstance(first, UserError)
    assert "training loss is nan in evaluation interval 1, after 1 steps" in str(first)
    assert isinstance(second, SystemExit)
    assert second.code == 2


def test_fewer_rows_than_ranks_are_refused(tmp_path: Path) -> None:
    make_log(30).to_parquet(tmp_path / "log.parquet", index=False)  # 24 to learn from, 12 an interval
    first, *_ = in_threads(13, lambda ranks: looped(config(tmp_path / "log.parquet"), tmp_path / "run", ranks))
    assert "12 rows to learn from cannot be shared among 13 ranks" in str(first)


def write_config(folder: Path, requests: Any, **optimiser: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config(requests, **optimiser).model_dump(mode="json"), sort_keys=False))
    return path


def trained(path: Path, out: Path) -> dict[str, Any]:
    done = torchrun("-m", "autobucket.train", f"--config={path}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    return load_checkpoint(out / "estimator.pt", "autobucket-estimator")


def assert_same(found: dict[str, Any], known: dict[str, Any]) -> None:
    assert found["kept"] == known["kept"]
    for moment, weights in known["snapshots"].items():
        for name, one in weights.items():
            assert torch.equal(one, found["snapshots"][moment][name]), name


def metrics(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "metrics.csv").drop(columns="rows_per_s")


@pytest.mark.slow
def test_two_ranks_of_torchrun_agree_with_one(undisturbed: Any, tmp_path: Path) -> None:
    path, whole, found = undisturbed
    alone = train(load_config(TrainConfig, path), tmp_path / "alone")
    assert found["kept"] == alone.estimator.kept
    assert np.allclose(metrics(whole), metrics(tmp_path / "alone"), rtol=1e-3)
    assert {one.name for one in whole.iterdir()} == {one.name for one in (tmp_path / "alone").iterdir()}


@pytest.fixture(scope="module")
def undisturbed(log_path: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A config, the run folder of two ranks that nobody disturbed, and what they learned."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = write_config(folder, log_path)
    return path, folder / "whole", trained(path, folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "where", "times"),
    [("0", "_step", "13"), ("1", "_step", "33"), ("1", "_validate", "2"), ("0", "finish", "1")],
)
def test_a_killed_rank_changes_nothing(undisturbed: Any, tmp_path: Path, rank: str, where: str, times: str) -> None:
    path, whole, known = undisturbed
    script = tmp_path / "dies.py"
    script.write_text(DIES, encoding="utf-8")
    killed = torchrun(str(script), str(path), str(tmp_path / "cut"), rank, where, times)
    assert "Signal 9" in killed.stderr
    assert not (tmp_path / "cut/summary.json").exists()
    words = [sys.executable, "-m", "autobucket.train", f"--config={path}", f"--out={tmp_path / 'cut'}"]
    other = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "the run was begun by 2 ranks, this group has 1; go on with as many, or choose another --out" in other.stderr
    assert_same(trained(path, tmp_path / "cut"), known)
    pd.testing.assert_frame_equal(metrics(tmp_path / "cut"), metrics(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("optimiser.batch_size=241", "optimiser.batch_size: got 241 rows; expected a multiple of the 2 ranks"),
        ("optimiser.lr=1.0e+30", "training loss is nan in evaluation interval 1"),
        ("data.requests=absent.parquet", "absent.parquet"),
    ],
)
def test_what_goes_wrong_in_a_group_is_one_line(log_path: str, tmp_path: Path, change: str, says: str) -> None:
    path = write_config(tmp_path, log_path, gradient_clip=None)
    assert says in one_error(
        "-m", "autobucket.train", f"--config={path}", f"--set={change}", f"--out={tmp_path / 'run'}"
    )
    assert not (tmp_path / "run").exists()
