"""Training the system model over ranks: they agree with one process, rank 0's clock counts, and what fails is one line."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from marca_common.checkpoint import load_checkpoint
from marca_common.errors import UserError
from marca_common.ranks import Ranks
from marca_common.seeding import torch_generator
from mpc_balancer.config import SystemModelConfig
from mpc_balancer.system_model import training_loop
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.system_model.training_loop import _loss, fit_network
from mpc_balancer.system_model.training_windows import Windows
from mpc_balancer.train import train
from tests.reference.thread_ranks import in_threads
from tests.reference.torchrun import one_error, torchrun

SMALL = {"hidden": [16], "commission_days": 1.1, "epochs": 3, "rollout_steps": 3, "forecast_horizon": 4} | {
    "tune_candidates": 2, "tune_days": 0.05, "max_minutes": 60.0
}  # fmt: skip
_SEEDING = threading.Lock()  # PyTorch's own generator is one for all threads
DIES = """
import os, signal, sys
from marca_common.config import load_config
from mpc_balancer.config import SystemModelConfig
from mpc_balancer import train as training
from mpc_balancer.system_model import training_loop

config, out, rank, where = sys.argv[1:]
module = training if hasattr(training, where) else training_loop
whole, calls = getattr(module, where), []

def dies(*arguments, **named):
    calls.append(1)
    if len(calls) == (9 if module is training_loop else 1) and os.environ["RANK"] == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **named)

setattr(module, where, dies)
training.train(load_config(SystemModelConfig, config), out)
"""


def windows(count: int, seed: int) -> Windows:
    """Random windows of three minutes; the CPU of the last half of them is mostly unknown."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return rng.random((count, *shape), dtype=np.float32)

    known = np.where(np.arange(count) < count / 2, 0.95, 0.2).astype(np.float32)
    mask = (drawn(3, 2) < known[:, None, None]).astype(np.float32)
    return Windows(
        60 * drawn(2), drawn(3, 2), drawn(3, 4), 0.5 + drawn(3), 80 * drawn(3, 2) * mask, mask, np.arange(count)
    )


def network(head: str = "utilisation_law") -> SystemNetwork:
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SystemNetwork(2, 2, 4, [8], head)


def tensors(part: Windows) -> list[torch.Tensor]:
    return [
        torch.from_numpy(one) for one in (part.cpu, part.unit, part.exogenous, part.traffic, part.target, part.mask)
    ]


@pytest.mark.parametrize("monotone_weight", [0.0, 3.0])
@pytest.mark.parametrize("size", [2, 3])
def test_the_mean_of_the_parts_of_a_loss_is_that_of_the_batch(size: int, monotone_weight: float) -> None:
    config = SystemModelConfig(monotone_weight=monotone_weight)
    data, rows = tensors(windows(120, 0)), torch.arange(96)  # the first rank knows the most CPU
    net = network()

    def gradient(rank: int, size: int) -> torch.Tensor:
        ranks: Any = SimpleNamespace(rank=rank, size=size)
        net.zero_grad()
        loss = _loss(net, data, rows, config, torch_generator(0, "hint"), ranks)
        torch.autograd.backward(loss)
        return torch.cat(
            [loss.detach().reshape(1), *(one.grad.flatten() for one in net.parameters() if one.grad is not None)]
        )

    parts = [gradient(rank, size) for rank in range(size)]
    torch.testing.assert_close(sum(parts) / size, gradient(0, 1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(parts[0], parts[1], rtol=0.1)


def test_the_loss_of_a_batch_by_hand() -> None:
    part = windows(40, 1)
    net, rows = network("plain"), torch.tensor([3, 30, 5])
    alone: Any = SimpleNamespace(rank=0, size=1)
    found = _loss(net, tensors(part), rows, SystemModelConfig(monotone_weight=0), torch_generator(0), alone)
    with torch.no_grad():
        path = net.rollout(*tensors(part)[:4]).numpy()[rows]
    error = np.abs(path - part.target[rows])
    huber = np.where(error < 5, error**2 / 2, 5 * (error - 2.5))
    expected = huber[part.mask[rows] == 1].mean()
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def fitted(ranks: Ranks, count: int = 301, **changes: Any) -> tuple[SystemNetwork, list[float]]:
    """A network after training on ``count`` windows, and each epoch's validation error."""
    net, errors = network(), []
    config = SystemModelConfig.model_validate({"epochs": 3, "batch_size": 60, "lr": 0.01} | changes)
    fit_network(
        net, windows(count, 2), windows(80, 3), config, lambda epoch, loss, error, seconds: errors.append(error), ranks
    )
    return net, errors


def test_ranks_stay_alike_and_agree_with_one() -> None:
    alone, known = fitted(Ranks(), count=300)
    for net, errors in _all_fitted(in_threads(3, lambda ranks: fitted(ranks, count=300))):
        assert errors == pytest.approx(known, rel=1e-4)
        for found, expected in zip(net.parameters(), alone.parameters()):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    (one, _), (other, _) = _all_fitted(in_threads(2, lambda ranks: fitted(ranks, count=301)))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


def _all_fitted(found: list[Any]) -> list[tuple[SystemNetwork, list[float]]]:
    failed = [one for one in found if isinstance(one, BaseException)]
    assert not failed, failed
    return found


@pytest.mark.parametrize(("late", "epochs"), [(0, 1), (1, 3)])
def test_the_clock_of_rank_0_ends_training_for_all(monkeypatch: pytest.MonkeyPatch, late: int, epochs: int) -> None:
    own, times = threading.local(), iter(range(10**9))

    def clock() -> float:
        return 1e6 * next(times) if own.rank == late else 0.0

    monkeypatch.setattr(training_loop, "time", SimpleNamespace(monotonic=clock))

    def timed(ranks: Ranks) -> int:
        own.rank = ranks.rank
        return len(fitted(ranks, max_minutes=60.0)[1])

    assert in_threads(2, timed) == [epochs, epochs]


def test_windows_that_cannot_be_shared_are_left_out_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    whole = copy.copy(training_loop._loss)

    def counted(net: Any, data: Any, rows: Any, *rest: Any) -> Any:
        taken.append(len(rows))
        return whole(net, data, rows, *rest)

    monkeypatch.setattr(training_loop, "_loss", counted)
    in_threads(2, lambda ranks: fitted(ranks, count=301, epochs=1))  # the last batch would have one window
    assert taken == [60] * 10
    taken.clear()
    in_threads(
        2, lambda ranks: fitted(ranks, count=387, epochs=1, batch_size=2)
    )  # a batch of the table would have three
    assert taken == [2] * 386


def test_a_loss_that_is_no_number_is_said_once() -> None:
    with pytest.raises(UserError, match="system model: the error is nan at update") as alone:
        fitted(Ranks(), count=300, lr=1e30)
    first, second = in_threads(2, lambda ranks: fitted(ranks, count=300, lr=1e30))
    assert isinstance(first, UserError)
    assert str(first) == str(alone.value)
    assert isinstance(second, SystemExit)
    assert second.code == 2


def write_config(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


def trained(path: Path, out: Path) -> list[tuple[str, np.ndarray]]:
    done = torchrun("-m", "mpc_balancer.train", f"--config={path}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    return numbers(out)


def numbers(out: Path) -> list[tuple[str, np.ndarray]]:
    """Every array and number of a run's checkpoint, with its place."""
    return list(_numbers(load_checkpoint(out / "system_model.pt", "mpc_balancer.system_model"), ""))


def _numbers(part: Any, place: str) -> Any:
    if isinstance(part, dict):
        part = list(part.items())
    elif isinstance(part, list | tuple):
        part = list(enumerate(part))
    if isinstance(part, list):
        for name, one in part:
            yield from _numbers(one, f"{place}.{name}")
    elif isinstance(part, torch.Tensor | float | int):
        yield place, np.asarray(part, dtype=np.float64)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config and the run folder of two ranks that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = write_config(folder)
    trained(path, folder / "whole")
    return path, folder / "whole"


@pytest.mark.slow
def test_two_ranks_of_torchrun_agree_with_one(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    whole = undisturbed[1]
    train(SystemModelConfig.model_validate(SMALL), tmp_path / "alone")
    found, known = dict(numbers(whole)), dict(numbers(tmp_path / "alone"))
    network = [name for name in known if name.split(".")[1] in ("weights", "biases", "carry", "idle", "level")]
    assert len(network) == 7
    for name in network:
        np.testing.assert_allclose(found[name], known[name], rtol=1e-2, atol=1e-3, err_msg=name)
    assert {one.name for one in whole.iterdir()} == {one.name for one in (tmp_path / "alone").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "where"), [("0", "_loss"), ("1", "_loss"), ("0", "tune_observer"), ("0", "_write")])
def test_a_killed_rank_changes_nothing(undisturbed: Any, tmp_path: Path, rank: str, where: str) -> None:
    path, whole = undisturbed
    script = tmp_path / "dies.py"
    script.write_text(DIES, encoding="utf-8")
    killed = torchrun(str(script), str(path), str(tmp_path / "cut"), rank, where)
    assert "Signal 9" in killed.stderr
    assert not (tmp_path / "cut/summary.json").exists()
    for (name, one), (_, known) in zip(trained(path, tmp_path / "cut"), numbers(whole), strict=True):
        np.testing.assert_array_equal(one, known, err_msg=name)
    assert {one.name for one in (tmp_path / "cut").iterdir()} == {one.name for one in whole.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("batch_size=255", "batch_size: got 255 rows; expected a multiple of the 2 ranks"),
        ("lr=1.0e+30", "system model: the error is nan at update"),
        ("table=absent.csv", "absent.csv"),
        ("commission_dither=0.0", "allow_unidentified"),
    ],
)
def test_what_goes_wrong_in_a_group_is_one_line(tmp_path: Path, change: str, says: str) -> None:
    path = write_config(tmp_path)
    assert says in one_error(
        "-m", "mpc_balancer.train", f"--config={path}", f"--set={change}", f"--out={tmp_path / 'run'}"
    )
    assert not (tmp_path / "run").exists()
