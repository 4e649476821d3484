"""How ranks share batches: gradients by hand, what cannot be shared, and errors that one rank says for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from marca_common.errors import UserError
from marca_common.ranks import Ranks
from marca_common.shared_batches import averaged, require_as_many, require_shareable, shareable
from tests.reference.thread_ranks import in_threads


def test_gradients_and_numbers_of_a_batch_are_the_means_of_its_parts() -> None:
    def work(ranks: Ranks) -> Any:
        weight, unused = nn.Parameter(torch.zeros(1, 2)), nn.Parameter(torch.zeros(3))
        weight.grad = torch.tensor([[1.0, 2.0]]) + 4 * ranks.rank
        numbers = averaged([unused, weight], [torch.tensor(3.0 * ranks.rank), torch.tensor(1.0)], ranks)
        return weight.grad.tolist(), unused.grad, [float(one) for one in numbers]

    # gradients (1, 2), (5, 6), (9, 10); numbers 0, 3, 6 and 1, 1, 1
    assert in_threads(3, work) == [([[5.0, 6.0]], None, [3.0, 1.0])] * 3


def test_one_rank_keeps_its_own() -> None:
    weight, numbers = nn.Parameter(torch.zeros(2)), [torch.tensor(7.0)]
    weight.grad = gradient = torch.tensor([1.0, 2.0])
    assert averaged([weight], numbers, Ranks()) is numbers
    assert weight.grad is gradient
    assert shareable(torch.arange(0), Ranks()).tolist() == []
    require_shareable("batch_size", 7, Ranks())
    require_as_many(1, Ranks())


def test_rows_that_cannot_be_shared_evenly_are_left_out() -> None:
    shared = in_threads(3, lambda ranks: [shareable(torch.arange(n), ranks).tolist() for n in (8, 6, 0)])
    assert shared == [[[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], []]] * 3


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (lambda ranks: shareable(torch.arange(2), ranks), "2 rows to learn from cannot be shared among 3 ranks"),
        (lambda ranks: require_shareable("size", 8, ranks), "size: got 8 rows; expected a multiple of the 3 ranks"),
        (lambda ranks: ranks.each(lambda: require_as_many(2, ranks)), "begun by 2 ranks, this group has 3; go on with"),
        (lambda ranks: ranks.each(lambda: require_as_many(4 - ranks.rank, ranks)), "begun by 4 ranks, this group has"),
    ],
)
def test_a_group_that_cannot_go_on_says_it_once(work: Any, says: str) -> None:
    first, *others = in_threads(3, work)
    assert isinstance(first, UserError)
    assert says in str(first)
    assert [(type(one), one.code) for one in others if isinstance(one, SystemExit)] == [(SystemExit, 2)] * 2


def test_what_each_rank_does_is_its_own() -> None:
    assert in_threads(2, lambda ranks: ranks.each(lambda: ranks.rank)) == [0, 1]
    assert Ranks().each(lambda: "alone") == "alone"
