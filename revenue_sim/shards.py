"""Exact allocation from hull shards, in one process or under ``torchrun`` (Eqs. 2–6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marca_common.cli import run_cli
from marca_common.hull_shards import shard_paths
from marca_common.ranks import Ranks
from marca_common.run_folder import RunFolder
from revenue_sim.allocation.from_shards import ShardedAllocation, allocate_shards
from revenue_sim.config import ShardsConfig

THIRD = 1.0 / 3.0  # of the way from the least cost to where λ is 0: the budget where none is given


@dataclass
class ShardsResult:
    """The allocation; its choices lie in ``choices/<shard>.npy`` of the run folder."""

    allocation: ShardedAllocation
    summary: dict[str, Any]


def shards(config: ShardsConfig, out: str | Path) -> ShardsResult:
    """The price λ that meets one budget over all states of a folder of hull shards, and each state's joint action.

    Writes summary.json and ``choices/<shard>.npy``: the joint action of each state, in the order of the shard's rows. Start it with
    ``torchrun --standalone --nproc-per-node N -m revenue_sim.shards …`` to share the shards among N processes; λ, value and
    choices are the same, bit for bit.
    """
    with Ranks(config.wait_s) as ranks, ranks.folder(RunFolder(out, config)) as run:
        paths = ranks.lead(lambda: shard_paths(config.hulls))
        target = {"share": THIRD} if config.budget is None else {"per_request": config.budget}
        solved = allocate_shards(paths, run.path / "choices", ranks, **target)
        summary = _summary(solved, len(paths))
        if ranks.rank == 0:
            run.write_summary(summary)
    return ShardsResult(solved, summary)


def _summary(solved: ShardedAllocation, files: int) -> dict[str, Any]:
    return {
        "lambda": solved.lambda_,
        "budget_per_request": solved.budget / solved.requests,
        "value_per_request": solved.value / solved.requests,
        "cost_per_request": solved.cost / solved.requests,
        "gap": max(0.0, 1.0 - solved.value / solved.bound) if solved.bound > 0 else None,
        "states": solved.states,
        "requests": solved.requests,
        "shards": files,
        "edges_in_question": solved.edges,
        "passes": solved.passes,
    }


if __name__ == "__main__":
    run_cli(shards, ShardsConfig, default_config="configs/revenue_sim/shards.yaml", default_out="runs/shards")
