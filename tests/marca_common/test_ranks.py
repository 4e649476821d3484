"""Work over shards: one process and several return the same, and what goes wrong in a group is one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from benchmarks._scale_nodes import SimulatedRanks
from marca_common.compute import take_own_gpu
from marca_common.errors import UserError
from marca_common.ranks import Ranks

REPOSITORY = Path(__file__).parents[2]
GROUP = """
import sys
import numpy as np
from marca_common.errors import UserError
from marca_common.ranks import Ranks
import torch  # after the package, which quiets it

def square(shard):
    if shard == int(sys.argv[1]):
        raise UserError(f"shard {shard}: bad")
    return shard * shard

try:
    with Ranks(float(sys.argv[2])) as ranks:
        if "sum" in sys.argv:
            print(ranks.sum(square, range(3)), flush=True)
            sys.exit()
        squares, total = ranks.map(square, range(5)), ranks.sum(lambda shard: np.array([shard, 1]), range(3))
        summed = ranks.summed(torch.tensor([ranks.rank + 1.0])).tolist()
        print(squares, total.tolist(), ranks.sum(int, [7]), ranks.map(square, []), ranks.lead(lambda: ranks.rank), summed, flush=True)
except UserError as error:
    print("error:", error, flush=True)
    sys.exit(2)
"""


def start(rank: int, port: int, *arguments: str, size: int = 2) -> subprocess.Popen[str]:
    place = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-c", GROUP, *arguments], cwd=REPOSITORY, env=os.environ | place | {"PYTHONPATH": "."},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def group(*arguments: str, size: int = 2) -> list[tuple[int, str, str]]:
    port = free_port()
    ranks = [start(rank, port, *arguments, size=size) for rank in range(size)]
    return [(one.wait(120), *one.communicate()) for one in ranks]


def test_one_process_is_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Ranks() as ranks:
        assert ranks.map(lambda shard: shard * shard, range(5)) == [0, 1, 4, 9, 16]
        assert ranks.sum(lambda shard: np.array([shard, 1]), [3, 4]).tolist() == [7, 2]
        assert ranks.lead(lambda: "told") == "told"
        assert ranks.summed(one := torch.tensor([2.0])) is one
        assert ranks.map(int, []) == []
    assert ranks.gathered_bytes == 0


def test_simulated_ranks_return_what_one_process_does() -> None:
    ranks = SimulatedRanks(3)
    assert ranks.map(lambda shard: shard * shard, range(5)) == [0, 1, 4, 9, 16]
    assert ranks.sum(lambda shard: np.array([shard, 1]), [3, 4]).tolist() == [7, 2]
    assert ranks.lead(lambda: ranks.rank) == 0
    assert ranks.gathered_bytes > 0


def test_an_error_of_a_shard_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(shard: Any) -> None:
        raise UserError(f"shard {shard}: bad")

    with pytest.raises(UserError, match="shard 0: bad"), Ranks() as ranks:
        ranks.map(refuse, range(2))


@pytest.mark.parametrize(("local_rank", "gpu"), [(None, 0), ("1", 1), ("4", 1)])
def test_each_rank_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, local_rank: str | None, gpu: int) -> None:
    taken: list[int] = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    for name, answer in (("is_available", True), ("device_count", 3)):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    take_own_gpu()
    assert taken == [gpu]


@pytest.mark.slow
def test_two_ranks_hold_all_results_in_the_order_of_the_shards() -> None:
    expected = "[0, 1, 4, 9, 16] [3, 3] 7 [] 0 [3.0]\n"
    assert [done[:2] for done in group("-1", "60")] == [(0, expected), (0, expected)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 6])  # more ranks than a sum has shards, and no power of two
def test_a_sum_over_any_number_of_ranks(size: int) -> None:
    summed = float(size * (size + 1) / 2)
    expected = f"[0, 1, 4, 9, 16] [3, 3] 7 [] 0 [{summed}]\n"
    assert [done[:2] for done in group("-1", "60", size=size)] == [(0, expected)] * size


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["0", "1", "2"])  # each of a rank of its own
def test_a_bad_shard_of_a_sum_ends_all_with_one_line(shard: str) -> None:
    said = [done[:2] for done in group(shard, "60", "sum", size=3)]
    assert said == [(2, f"error: shard {shard}: bad\n"), (2, ""), (2, "")]


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["2", "3"])  # of rank 0 and of rank 1
def test_a_bad_shard_of_any_rank_ends_all_with_one_line(shard: str) -> None:
    assert [done[:2] for done in group(shard, "60")] == [(2, f"error: shard {shard}: bad\n"), (2, "")]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_rank_is_one_line(rank: int) -> None:
    alone = start(rank, free_port(), "-1", "2")
    said, noise = alone.communicate(timeout=120)
    assert alone.returncode == 2
    assert said.count("\n") == 1
    assert f"rank {rank} of 2: the group did not meet at 127.0.0.1:" in said
    assert not noise


@pytest.mark.slow
def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = start(0, taken.getsockname()[1], "-1", "20")
        said, _ = first.communicate(timeout=120)
    assert first.returncode == 2
    assert said.count("\n") == 1
    assert "address already in use" in said


@pytest.mark.slow
def test_a_rank_that_dies_is_noticed_at_once() -> None:
    port = free_port()
    killer = GROUP.replace(
        "return shard * shard", "import os, signal; shard == 1 and os.kill(os.getpid(), signal.SIGKILL)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", killer, "-1", "600"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            | {"PYTHONPATH": "."},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said, _ = both[0].communicate(timeout=120)  # far less than the 600 s that it would wait for a silent one
    assert both[1].wait(60) == -9
    assert both[0].returncode == 2
    assert "another rank is gone" in said
    assert said.count("\n") == 1


def test_a_group_that_meets_by_half_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = dist.init_process_group

    def fails(**_: Any) -> None:
        raise RuntimeError("no second group")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    alone: dict[str, Any] = {"init_method": f"file://{tmp_path}/meet", "rank": 0, "world_size": 1}
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: first(backend, **alone))
    monkeypatch.setattr(dist, "new_group", fails)
    with pytest.raises(UserError, match="rank 0 of 2: the group did not meet"), Ranks(5.0):
        pass
    assert not dist.is_initialized()
