"""Score a log shard by shard, Q and C together, and keep only what an allocation can ever choose."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from autobucket.costs.cost_model import CostModel
from awrq_mixer.serving.predictor import Predictor
from marca_common.cli import run_cli
from marca_common.compute import set_threads, take_own_gpu
from marca_common.config import Config, content_hash
from marca_common.errors import UserError
from marca_common.files import file_hash
from marca_common.hull_shards import SUFFIX, ShardSums, open_shard, write_shard
from marca_common.ranks import Ranks
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.table_files import parts
from revenue_sim.allocation.row_hulls import joined, row_hulls

log = logging.getLogger(__name__)
BLOCK = 512  # states that are scored at a time


class ScoreShardsConfig(Config):
    """What ``python -m marca_loop.score_shards`` needs."""

    checkpoint: str = Field(description="checkpoint of a trained learner: Q, money per request")
    estimator: str = Field(description="checkpoint of the results' estimator, as autobucket.train writes it")
    cost_maps: str = Field(description="cost maps, as autobucket.fit_costs writes them: C, core-ms per request")
    requests: str = Field(description="table with the state columns, CSV or Parquet, or a folder of such part files")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where the learner and estimator compute")
    threads: int = Field(default=1, ge=1, description="threads of torch and of the compiled loops, per rank")
    wait_s: float = Field(default=86400.0, gt=0, description="seconds that ranks wait for one another before giving up")


@dataclass
class ScoreShardsResult:
    """How much was scored."""

    summary: dict[str, Any]


class Scoring:
    """The models of one run, and how they score a part of the log."""

    def __init__(self, config: ScoreShardsConfig) -> None:
        self.predictor = Predictor.load(config.checkpoint, config.device)
        self.costs = CostModel.load(config.estimator, config.cost_maps, config.device)
        self.spec = self.predictor.spec.model_copy(update={"timestamp": None})
        self.threads = config.threads
        self.made_by = content_hash([file_hash(one) for one in (config.checkpoint, config.estimator, config.cost_maps)])
        if self.spec.sizes != self.costs.estimator.spec.sizes:
            raise UserError(
                f"{config.estimator}: sub-actions {self.costs.estimator.spec.sizes}; expected the learner's, {self.spec.sizes}"
            )

    def shard(self, folder: Path, part: Path) -> tuple[int, int]:
        """Write the hull shard of one part unless it is finished; its number of states and of bytes."""
        target, source = shard_path(folder, part), file_hash(part)
        if not self._finished(target, source):
            states, _, counts = self.spec.distinct_states(self.spec.read(part, actions=False, reward=False))
            blocks = []
            for start in range(0, len(states), BLOCK):
                some = states.iloc[start : start + BLOCK]
                costs = self.costs.costs(some).sum(axis=2, dtype=np.float32)
                blocks.append(row_hulls(self.predictor.values(some), costs, self.threads))
            hulls, count = joined(blocks), counts.astype(np.float64)
            sums = ShardSums.of(hulls, count, vocabulary(self.spec), self.made_by, source)
            write_shard(target, states, count, hulls, sums)
        return open_shard(target).batch.num_rows, target.stat().st_size

    def _finished(self, target: Path, source: str) -> bool:
        """Whether the shard is there, from the same rows and models."""
        if not target.exists():
            return False
        sums = open_shard(target).sums
        return (sums.made_by, sums.source) == (self.made_by, source)


def vocabulary(spec: RequestSpec) -> dict[str, Any]:
    """What two shards must share to be allocated together."""
    return {"state": spec.state, "agents": spec.agents, "sizes": spec.sizes}


def shard_path(folder: Path, part: Path) -> Path:
    """Where the hull shard of a part lies."""
    return folder / f"{part.name}{SUFFIX}"


def score_shards(config: ScoreShardsConfig, out: str | Path) -> ScoreShardsResult:
    """Write a hull shard per part of a log: of its distinct states, the joint actions that some price λ ≥ 0 makes best.

    A finished shard is kept while its part and the models are the same, so that the same command goes on after an
    interruption, with any number of ranks. Start it with ``torchrun --standalone --nproc-per-node N -m marca_loop.score_shards …``
    to share the parts among N processes.
    """
    set_threads(config.threads)
    take_own_gpu()
    with Ranks(config.wait_s) as ranks, ranks.folder(RunFolder(out, config, resumes_from="hulls")) as run:
        folder, files = run.path / "hulls", ranks.lead(lambda: parts(Path(config.requests)))
        ranks.lead(partial(_remove_others, folder, files))
        scoring, started = Scoring(config), time.perf_counter()
        found = ranks.map(partial(scoring.shard, folder), files)
        states, size = (sum(one[k] for one in found) for k in (0, 1))
        summary = {
            "shards": len(found),
            "states": states,
            "pairs": states * scoring.spec.n_joint,
            "hull_mb": size / 1e6,
            "score_s": time.perf_counter() - started,
        }
        if ranks.rank == 0:
            run.write_summary(summary)
    return ScoreShardsResult(summary)


def _remove_others(folder: Path, files: list[Path]) -> None:
    """Shards of parts that are no longer there would be allocated, too."""
    for path in set(folder.glob(f"*{SUFFIX}")) - {shard_path(folder, part) for part in files}:
        path.unlink()


if __name__ == "__main__":
    run_cli(score_shards, ScoreShardsConfig, default_config="configs/score_shards.yaml", default_out="runs/hulls")
