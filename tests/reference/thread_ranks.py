"""Ranks as threads of one process: what ``torchrun`` starts, without its seconds. They exchange objects, not bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch import Tensor

from marca_common.ranks import Ranks

T = TypeVar("T")


class ThreadRanks(Ranks):
    """One rank of a group of threads."""

    def __init__(self, rank: int, board: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.size, self.board, self.barrier = rank, len(board), board, barrier

    def summed(self, tensor: Tensor) -> Tensor:
        """Σ over ranks, in their order."""
        total = sum(self._gathered(tensor.clone()))
        assert isinstance(total, Tensor)
        return total

    def _gathered(self, mine: Any) -> list[Any]:
        self.board[self.rank] = mine
        self.barrier.wait(30)
        found = list(self.board)
        self.barrier.wait(30)
        return found


def in_threads(size: int, work: Callable[[Ranks], T]) -> list[T | BaseException]:
    """What ``work`` returns or raises on each of ``size`` ranks, in their order."""
    board: list[Any] = [None] * size
    barrier = threading.Barrier(size)

    def done(rank: int) -> T | BaseException:
        try:
            return work(ThreadRanks(rank, board, barrier))
        except BaseException as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(done, range(size)))
