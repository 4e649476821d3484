"""Work over shards, in one process or in the group that ``torchrun`` started: the same code, the same results.

Shard i belongs to rank i mod size. Each rank works through its own shards; their small results are then gathered, so that
every rank holds all of them in the order of the shards. What ``map`` returns depends on the shards alone, not on the number
of ranks. A function that writes does so atomically and returns at once where its output is finished; a group that was
killed and is started again, with any number of ranks, then redoes at most the shards that were in hand.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from marca_common.errors import UserError
from marca_common.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S")
T = TypeVar("T")
MEET_S = 300.0  # seconds that a group waits at the start for ranks that have not come


def own_rank() -> int:
    """Place of this process in its group; 0 where there is none."""
    return int(os.environ.get("RANK", "0"))


class Ranks:
    """The processes that ``torchrun`` started together, or this one alone; a context manager.

    ``wait_s``: seconds that ranks wait for one another after their shards; a rank that is gone is noticed at once.
    ``gathered_bytes`` counts the small results that have reached this rank, its own included.
    """

    def __init__(self, wait_s: float = 1800.0) -> None:
        self.rank, self.size, self.wait_s = own_rank(), int(os.environ.get("WORLD_SIZE", "1")), wait_s
        self.gathered_bytes = 0
        self._group: Any = None

    def __enter__(self) -> Ranks:
        if self.size > 1:
            import torch.distributed as dist

            meet_s = min(MEET_S, self.wait_s)
            try:  # results are small and lie in main memory, so gloo carries them from GPU ranks, too
                dist.init_process_group("gloo", timeout=timedelta(seconds=meet_s))
                self._group = dist.new_group(timeout=timedelta(seconds=self.wait_s))
            except (RuntimeError, ValueError) as error:
                self.__exit__()
                place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                raise UserError(
                    f"rank {self.rank} of {self.size}: the group did not meet at {place} within {meet_s:g} s "
                    f"(a rank is missing, or the port is in use): {_first_line(error)}"
                ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1:  # after an error, too: threads of a group that nobody ends can abort the process
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()

    def map(self, function: Callable[[S], T], shards: Sequence[S]) -> list[T]:
        """``function`` of every shard, in their order; a UserError of any shard is raised on all ranks."""
        parts = self._together(lambda: [function(one) for one in shards[self.rank :: self.size]])
        results: dict[int, T] = {}
        for rank, part in enumerate(parts):
            results |= zip(range(rank, len(shards), self.size), part)
        return [results[place] for place in range(len(shards))]

    def sum(self, function: Callable[[S], Any], shards: Sequence[S]) -> Any:
        """Σ ``function`` over at least one shard, of what adds up to the same in any order, such as whole numbers.

        Each rank adds up its own as it goes, and pairs of ranks add up theirs. So memory does not grow with the number of shards, and
        what reaches a rank grows with the logarithm of the number of ranks.
        """
        return self._added_up(lambda: _added(function(one) for one in shards[self.rank :: self.size]))

    def lead(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on rank 0, told to all."""
        return self._together(work if self.rank == 0 else lambda: None)[0]  # type: ignore[return-value]

    def each(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on this rank; all do it. The first rank's UserError, if any, ends all; only rank 0 says it."""
        own: list[T] = []
        self._together(lambda: own.append(work()))
        return own[0]

    def summed(self, tensor: Tensor) -> Tensor:
        """Σ over ranks of a tensor that each of them has, bit for bit the same on all; itself where there is one rank."""
        if self.size == 1:
            return tensor
        import torch.distributed as dist

        total = tensor.clone()
        with self._noticing():
            dist.all_reduce(total, group=self._group)
        return total

    def refusal(self, text: str) -> BaseException:
        """What to raise where all ranks find the same fault: rank 0 says it."""
        return UserError(text) if self.rank == 0 else SystemExit(2)

    @contextmanager
    def folder(self, run: RunFolder) -> Iterator[RunFolder]:
        """One run folder for the group: rank 0 owns it, the others work in its ``path``."""
        with ExitStack() as stack:

            def enter() -> tuple[Any, bool]:
                stack.enter_context(run)
                return run.path, run.resuming

            run.path, run.resuming = self.lead(enter)
            yield run

    def _together(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` returns on every rank. The first rank's UserError, if any, ends all; only rank 0 says it."""
        if self.size == 1:
            return [work()]
        results = self._gathered(_tried(work))
        failed = next((text for _, text in results if text is not None), None)
        if failed is not None:
            raise self.refusal(failed)
        return [result for result, _ in results]

    def _added_up(self, work: Callable[[], Any]) -> Any:
        """Σ over ranks of what ``work`` returns, told to all; None counts for nothing. Errors as in ``_together``."""
        if self.size == 1:
            return work()
        mine, step = _tried(work), 1
        self.gathered_bytes += len(pickle.dumps(mine))
        while step < self.size and self.rank % (2 * step) == 0:  # a tree: pairs, then pairs of pairs, …
            if self.rank + step < self.size:
                mine = _both(mine, self._received(self.rank + step))
            step *= 2
        total, failed = self._passed_on(mine, self.rank - step)
        if failed is not None:
            raise self.refusal(failed)
        return total

    def _received(self, sender: int) -> Any:
        import torch.distributed as dist

        packed: list[Any] = [None]
        with self._noticing():
            dist.recv_object_list(packed, sender, self._group)
        self.gathered_bytes += len(packed[0])
        return pickle.loads(packed[0])

    def _passed_on(self, mine: Any, receiver: int) -> Any:
        """What rank 0 holds in the end; the others send theirs to ``receiver`` first."""
        import torch.distributed as dist

        packed = [pickle.dumps(mine)]
        with self._noticing():
            if self.rank > 0:
                dist.send_object_list(packed, receiver, self._group)
            dist.broadcast_object_list(packed, 0, self._group)
        self.gathered_bytes += len(packed[0]) if self.rank > 0 else 0
        return pickle.loads(packed[0])

    def _gathered(self, mine: Any) -> list[Any]:
        import torch.distributed as dist

        packed: list[Any] = [None] * self.size
        with self._noticing():
            dist.all_gather_object(packed, pickle.dumps(mine), self._group)
        self.gathered_bytes += sum(map(len, packed))
        return [pickle.loads(one) for one in packed]

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """A rank that is gone is one line."""
        try:
            yield
        except RuntimeError as error:
            raise UserError(
                f"rank {self.rank} of {self.size}: another rank is gone, or silent for {self.wait_s:g} s; "
                f"the same command goes on from what is finished: {_first_line(error)}"
            ) from None


def _tried(work: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return work(), None
    except UserError as error:
        return None, str(error)


def _both(mine: tuple[Any, str | None], other: tuple[Any, str | None]) -> tuple[Any, str | None]:
    """The sum of two, or the first one's error."""
    failed = mine[1] if mine[1] is not None else other[1]
    return (_added(one for one, _ in (mine, other) if one is not None) if failed is None else None), failed


def _added(parts: Iterable[Any]) -> Any:
    rest = iter(parts)
    first: Any = next(rest, None)
    return sum(rest, first)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
