"""A log scored shard by shard and allocated: what one process does, two do, and a group that was killed goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from autobucket.costs.cost_model import CostModel
from awrq_mixer.serving.predictor import Predictor
from marca_common.errors import UserError
from marca_common.hull_shards import open_shard, shard_paths
from marca_loop.score_shards import ScoreShardsConfig, score_shards
from marca_measures.hull import chain
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.config import ShardsConfig
from revenue_sim.shards import shards

REPOSITORY = Path(__file__).parents[2]
GROUP = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
PARTS = 24

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreShardsConfig:
    """The models of a finished run, and its log in parts."""
    parts = tmp_path_factory.mktemp("log") / "parts"
    parts.mkdir()
    log = pd.read_parquet(finished / "logs/logs/requests.parquet").iloc[:4000]
    for number, rows in enumerate(np.array_split(np.arange(len(log)), PARTS)):
        log.iloc[rows].to_parquet(parts / f"{number}.parquet")
    (checkpoint,) = sorted(finished.glob("values/*/best.pt"))[:1]
    models = {
        "checkpoint": checkpoint,
        "estimator": finished / "costs/results/estimator.pt",
        "cost_maps": finished / "costs/maps/cost_maps.json",
    }
    return ScoreShardsConfig(**{name: str(path) for name, path in models.items()}, requests=str(parts))


@pytest.fixture(scope="module")
def scored(config: ScoreShardsConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of an undisturbed run in one process."""
    out = tmp_path_factory.mktemp("scored") / "run"
    score_shards(config, out)
    return out


def command(config: Any, module: str, out: Path) -> list[str]:
    return [module, *(f"--set={name}={value}" for name, value in config.model_dump().items()), f"--out={out}"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rank_of(process: psutil.Process) -> str | None:
    """Of a process that may be starting or gone."""
    try:
        found: str | None = process.environ().get("RANK")
    except psutil.Error:
        return None
    return found


def killed(words: list[str], rank: int, ready: Any) -> None:
    """Start two ranks, SIGKILL one once ``ready``, and wait until the group has ended."""
    group = subprocess.Popen(
        [*GROUP, *words], cwd=REPOSITORY, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."}
    )
    victim: psutil.Process | None = None
    while victim is None or not ready():
        assert group.poll() is None, "the group ended before it was to be killed"
        if victim is None:
            victim = next((one for one in psutil.Process(group.pid).children() if rank_of(one) == str(rank)), None)
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    group.communicate(timeout=120)
    assert group.returncode != 0


def test_shards_hold_the_hulls_of_q_and_c(config: ScoreShardsConfig, scored: Path) -> None:
    model, costs = Predictor.load(config.checkpoint), CostModel.load(config.estimator, config.cost_maps)
    paths = shard_paths(scored / "hulls")
    assert len(paths) == PARTS
    shard = open_shard(paths[0])
    states, hulls = shard.states(), shard.hulls
    q, c = model.values(states).astype(float), costs.costs(states).sum(axis=2, dtype=np.float32).astype(float)
    for row in range(0, len(states), 37):
        kept = hulls.action[hulls.first[row] : hulls.first[row + 1]].tolist()
        assert kept == chain(q[row], c[row]).tolist()
    assert sum(open_shard(path).sums.requests for path in paths) == 4000


def test_the_allocation_is_the_one_in_memory(config: ScoreShardsConfig, scored: Path, tmp_path: Path) -> None:
    solved = shards(ShardsConfig(hulls=str(scored / "hulls")), tmp_path / "run").allocation
    paths = shard_paths(scored / "hulls")
    states = [open_shard(path).states() for path in paths]  # scored in the same blocks: others round differently
    count = np.concatenate([open_shard(path).count for path in paths])
    model, costs = Predictor.load(config.checkpoint), CostModel.load(config.estimator, config.cost_maps)
    q = np.concatenate([model.values(some) for some in states])
    c = np.concatenate([costs.costs(some).sum(axis=2, dtype=np.float32) for some in states])
    known = allocate(q, c, solved.budget, count)
    assert solved.lambda_ == known.lambda_
    assert solved.bound == pytest.approx(known.bound, rel=1e-13)
    chosen = np.concatenate([np.load(tmp_path / f"run/choices/{path.stem}.npy") for path in paths])
    assert (chosen != known.choice).sum() <= 5  # those that fill what is left of the budget


def test_a_group_killed_while_scoring_goes_on_with_any_number_of_ranks(
    config: ScoreShardsConfig, scored: Path, tmp_path: Path
) -> None:
    out, words = tmp_path / "run", command(config, "marca_loop.score_shards", tmp_path / "run")

    def finished() -> list[Path]:
        return [*out.glob("unfinished-*/hulls/[0-9]*.arrow")]

    for rank, some in ((0, 1), (1, 3)):
        killed(words, rank, lambda some=some: len(finished()) >= some)
    kept = {path.name: path.stat().st_ino for path in finished()}
    assert 3 <= len(kept) < PARTS
    assert not (out / "summary.json").exists()
    score_shards(config, out)  # alone
    assert contents(out / "hulls") == contents(scored / "hulls")
    assert kept.items() <= {path.name: path.stat().st_ino for path in (out / "hulls").iterdir()}.items()


def test_a_shard_is_made_again_only_where_its_rows_or_models_changed(
    config: ScoreShardsConfig, scored: Path, tmp_path: Path
) -> None:
    parts, out = tmp_path / "parts", tmp_path / "run"
    parts.mkdir()
    for name in ("0.parquet", "1.parquet", "2.parquet"):
        (parts / name).write_bytes((Path(config.requests) / name).read_bytes())
    maps = tmp_path / "cost_maps.json"
    maps.write_bytes(Path(config.cost_maps).read_bytes())
    mine = config.model_copy(update={"requests": str(parts), "cost_maps": str(maps)})
    score_shards(mine, out)
    before = {path.name: path.stat().st_ino for path in (out / "hulls").iterdir()}
    (parts / "1.parquet").write_bytes((Path(config.requests) / "5.parquet").read_bytes())
    (parts / "2.parquet").unlink()
    score_shards(mine, out)
    after = {path.name: path.stat().st_ino for path in (out / "hulls").iterdir()}
    assert after.keys() == {"0.parquet.arrow", "1.parquet.arrow"}
    assert after["0.parquet.arrow"] == before["0.parquet.arrow"]
    again = open_shard(out / "hulls/1.parquet.arrow")
    assert again.hulls.q.tolist() == open_shard(scored / "hulls/5.parquet.arrow").hulls.q.tolist()
    maps.write_bytes(maps.read_bytes() + b"\n")
    score_shards(mine, out)
    last = {path.name: path.stat().st_ino for path in (out / "hulls").iterdir()}
    assert last.keys() == after.keys()
    assert all(last[name] != after[name] for name in last)


def test_models_of_other_sub_actions_are_refused(
    config: ScoreShardsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(estimator=SimpleNamespace(spec=SimpleNamespace(sizes={"a1": 2})))
    monkeypatch.setattr(CostModel, "load", lambda *_: other)
    with pytest.raises(UserError, match=r"estimator\.pt: sub-actions {'a1': 2}; expected the learner's, {'a1': "):
        score_shards(config, tmp_path / "run")
    assert not (tmp_path / "run/hulls").exists()


def test_a_bad_part_is_named_and_the_others_are_kept(config: ScoreShardsConfig, tmp_path: Path) -> None:
    parts, out = tmp_path / "parts", tmp_path / "run"
    parts.mkdir()
    for name in ("0.parquet", "1.parquet"):
        (parts / name).write_bytes((Path(config.requests) / name).read_bytes())
    (parts / "1.parquet").write_bytes((parts / "0.parquet").read_bytes()[:-500])
    with pytest.raises(UserError, match=r"1\.parquet: not a readable Parquet file \(truncated\?\)"):
        score_shards(config.model_copy(update={"requests": str(parts)}), out)
    assert [path.name for path in out.glob("unfinished-*/hulls/*")] == ["0.parquet.arrow"]
    pd.read_parquet(parts / "0.parquet").iloc[:0].to_parquet(parts / "1.parquet")
    with pytest.raises(UserError, match=r"1\.parquet: the file has no rows"):
        score_shards(config.model_copy(update={"requests": str(parts)}), out)
