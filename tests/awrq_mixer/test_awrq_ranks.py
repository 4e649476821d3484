"""Training under torchrun: two ranks agree with one, and a group that lost a rank by SIGKILL ends as if it had not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from awrq_mixer.config import TrainConfig
from awrq_mixer.serving import Predictor
from awrq_mixer.train import train
from marca_common.checkpoint import load_checkpoint
from tests.reference.torchrun import REPOSITORY, one_error, torchrun

DIES = """
import os, signal, sys
from awrq_mixer.config import TrainConfig
from awrq_mixer.train import train
from awrq_mixer.training.training_state import TrainingState
from marca_common.config import load_config

config, out, rank, update = sys.argv[1:]
count, done = TrainingState.count, []

def dies(state, *logged):
    count(state, *logged)
    done.append(state.step)
    if len(done) == int(update) and os.environ["RANK"] == rank:
        os.kill(os.getpid(), signal.SIGKILL)

TrainingState.count = dies
train(load_config(TrainConfig, config), out)
"""


def trained(config: Path, out: Path) -> dict[str, torch.Tensor]:
    done = torchrun("-m", "awrq_mixer.train", f"--config={config}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    return weights(out)


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(out / "best.pt", "awrq_mixer")["weights"]
    return found


def write_config(small_world: Any, folder: Path, **changes: Any) -> Path:
    """Over two shards, with all the noise there is; no validation, so that the last weights are kept."""
    (folder / "parts").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(6000), 2)):
        table = pa.Table.from_pandas(small_world.frame.iloc[rows], preserve_index=False)
        pq.write_table(table, folder / f"parts/{number}.parquet", row_group_size=700)
    network = {"embedding": 4, "hidden": 8, "heads": 3, "head_layers": [8], "dropout": 0.3, "oov_rate": 0.1}
    values = {"spec": small_world.spec, "network": network, "mixer": {"embed": 4, "hyper_layers": [4]}}
    values |= {"requests": str(folder / "parts"), "stream": {"buffer_rows": 1000, "lanes": 4}}
    values |= {"batch_size": 240, "epochs": 1, "eval_every": 5, "optimiser": {"lr": 0.01}}
    values |= {"split": {"train": 0.8, "validation": 0.0, "test": 0.2}, **changes}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def alone(config: Path, out: Path) -> dict[str, torch.Tensor]:
    train(TrainConfig.model_validate(yaml.safe_load(config.read_text())), out)
    return weights(out)


def assert_close(found: dict[str, torch.Tensor], known: dict[str, torch.Tensor], rtol: float, atol: float) -> None:
    assert found.keys() == known.keys()
    for name, one in found.items():
        assert torch.allclose(one.double(), known[name].double(), rtol=rtol, atol=atol), name


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["awrq_mixer", "awrq_no_aw", "awrq_residual"])
def test_two_ranks_agree_with_one(small_world: Any, tmp_path: Path, learner: str) -> None:
    config = write_config(small_world, tmp_path, learner=learner)
    known = alone(config, tmp_path / "alone")
    found = trained(config, tmp_path / "group")
    assert_close(found, known, rtol=1e-3, atol=1e-4)  # 20 updates, with dropout and hidden categories
    one, other = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("alone", "group"))
    assert np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


@pytest.mark.slow
def test_one_update_of_two_ranks_is_that_of_one_in_memory_too(small_world: Any, tmp_path: Path) -> None:
    config = write_config(small_world, tmp_path, stream=None, epochs=0.01, optimiser={"name": "sgd", "lr": 0.1})
    known = alone(config, tmp_path / "alone")
    assert_close(trained(config, tmp_path / "group"), known, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_changes_nothing(small_world: Any, tmp_path: Path, rank: str) -> None:
    config, script = write_config(small_world, tmp_path), tmp_path / "dies.py"
    script.write_text(DIES, encoding="utf-8")
    whole = trained(config, tmp_path / "whole")
    killed = torchrun(str(script), str(config), str(tmp_path / "cut"), rank, "13")
    assert "Signal 9" in killed.stderr
    assert not (tmp_path / "cut/summary.json").exists()
    other = group_of_one(config, tmp_path / "cut")
    assert other.returncode == 2
    assert "the run was begun by 2 ranks, this group has 1; go on with as many, or choose another --out" in other.stderr
    resumed = trained(config, tmp_path / "cut")
    for name, one in whole.items():
        assert torch.equal(one, resumed[name]), name
    assert (tmp_path / "whole/metrics.csv").read_text() == (tmp_path / "cut/metrics.csv").read_text()


def group_of_one(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "awrq_mixer.train", f"--config={config}", f"--out={out}"]
    place = os.environ | {"PYTHONPATH": "."}
    return subprocess.run(words, cwd=REPOSITORY, env=place, capture_output=True, text=True, check=False)


@pytest.fixture
def hinted(small_world: Any, tmp_path: Path) -> Any:
    """Config values of learners that remember rows, over a log with a side column, with all the noise there is."""
    frame, spec = small_world.frame, small_world.spec
    joint = np.ravel_multi_index([frame[name] for name in spec["sizes"]], tuple(spec["sizes"].values()))
    truth = small_world.truth(frame)[np.arange(len(frame)), joint]
    noise = np.exp(np.random.default_rng(7).normal(0, 0.4, len(frame)))
    frame = frame.assign(hint=truth * noise)
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    (tmp_path / "parts").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[rows].to_parquet(tmp_path / f"parts/{number}.parquet", index=False, row_group_size=700)
    network = {"embedding": 4, "hidden": 8, "dropout": 0.3, "oov_rate": 0.1}
    values = {"spec": spec, "requests": str(tmp_path / "log.parquet"), "network": network, "batch_size": 300}
    return values | {"plus": {"surrogate": "hint", "classes": 6, "rank": 3, "members": 2}}


def written(values: Any, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def over_shards(tmp_path: Path) -> dict[str, Any]:
    return {"requests": str(tmp_path / "parts"), "stream": {"buffer_rows": 1200, "lanes": 4}}


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("learner", ["latent_classes", "low_rank", "neural_process"])
def test_one_update_by_whole_states_is_that_of_one_process(
    hinted: Any, tmp_path: Path, learner: str, streamed: bool
) -> None:
    values = hinted | {"learner": learner, "epochs": 0.01, "optimiser": {"name": "sgd", "lr": 0.1}}
    values |= over_shards(tmp_path) if streamed else {}
    config = written(values | {"split": {"train": 0.8, "validation": 0.0, "test": 0.2}}, tmp_path)
    assert_close(trained(config, tmp_path / "group"), alone(config, tmp_path / "alone"), rtol=1e-4, atol=1e-6)


def stack_of(hinted: Any) -> Any:
    """Members with and without a memory, and trees; the last ones on rank 0 alone."""
    fit = {name: hinted[name] for name in ("network", "batch_size", "plus")} | {"epochs": 1, "eval_every": 4}
    members = {
        "classes": fit | {"learner": "latent_classes"},
        "regression": {"learner": "regression", "network": hinted["network"], "batch_size": 300, "epochs": 1},
        "trees": {"learner": "lightgbm", "boost": {"trees": 20, "leaves": 7}},
    }
    shrink = {"directions": 4, "reference_rows": 300}
    stack = {"side_columns": ["hint"], "revenue_alone": ["classes"], "members": members, "shrink": shrink}
    split = {"train": 0.6, "validation": 0.3, "test": 0.1}
    shared = {name: hinted[name] for name in ("spec", "requests")}
    return shared | {"learner": "awrq_plus", "split": split, "stack": stack}


SORTING = """
import os, signal, sys
from awrq_mixer.config import TrainConfig
from awrq_mixer.learners.row_shards import KeyedRows
from awrq_mixer.train import train
from marca_common.config import load_config

config, out, rank, files = sys.argv[1:]
write, done = KeyedRows.write, []

def dies(rows, path):
    if len(done) == int(files) and os.environ["RANK"] == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    write(rows, path)
    done.append(path)

KeyedRows.write = dies
train(load_config(TrainConfig, config), out)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("program", "when"), [(SORTING, "3"), (SORTING, "9"), (DIES, "13")])
def test_a_rank_killed_while_rows_are_sorted_or_learned_changes_nothing(
    hinted: Any, tmp_path: Path, program: str, when: str
) -> None:
    values = hinted | over_shards(tmp_path) | {"learner": "low_rank", "epochs": 2, "eval_every": 5}
    config, script = written(values, tmp_path), tmp_path / "dies.py"
    script.write_text(program, encoding="utf-8")
    whole = trained(config, tmp_path / "whole")
    killed = torchrun(str(script), str(config), str(tmp_path / "cut"), "1", when)
    assert "Signal 9" in killed.stderr
    kept = {path.name: path.stat().st_ino for path in (tmp_path / "cut").glob("unfinished-*/rows/*/*.arrow")}
    assert bool(kept) == (when != "3")
    resumed = trained(config, tmp_path / "cut")
    for name, one in whole.items():
        assert torch.equal(one, resumed[name]), name
    found = {path.name: path.stat().st_ino for path in (tmp_path / "cut/rows").glob("*/*.arrow")}
    assert {name: found[name] for name in kept} == kept  # what was finished is not made again
    rows = [sorted((tmp_path / name / "rows").rglob("*.arrow")) for name in ("whole", "cut")]
    assert [one.name for one in rows[0]] == [one.name for one in rows[1]]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*rows))


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_a_stack_over_ranks_is_that_of_one_process_and_a_killed_rank_changes_nothing(
    hinted: Any, tmp_path: Path, streamed: bool
) -> None:
    values = stack_of(hinted)
    if streamed:
        values |= over_shards(tmp_path)
        del values["stack"]["members"]["trees"]  # grown in memory
    config, script = written(values, tmp_path), tmp_path / "dies.py"
    script.write_text(DIES, encoding="utf-8")
    train(TrainConfig.model_validate(yaml.safe_load(config.read_text())), tmp_path / "alone")
    whole = torchrun("-m", "awrq_mixer.train", f"--config={config}", f"--out={tmp_path / 'group'}")
    assert whole.returncode == 0, whole.stderr
    states = pd.DataFrame({"place": ["0", "2", "1"], "segment": ["3", "7", "never seen"]})
    one, two = (Predictor.load(tmp_path / name / "best.pt").values(states) for name in ("alone", "group"))
    assert np.allclose(one, two, rtol=0.02)
    tables = [pd.read_csv(tmp_path / name / "members.csv") for name in ("alone", "group")]
    assert tables[0]["verdict"].tolist() == tables[1]["verdict"].tolist()
    killed = torchrun(str(script), str(config), str(tmp_path / "cut"), "1", "30")  # in a half of the rows
    assert "Signal 9" in killed.stderr
    assert list((tmp_path / "cut").glob("unfinished-*/members/half_*"))
    resumed = torchrun("-m", "awrq_mixer.train", f"--config={config}", f"--out={tmp_path / 'cut'}")
    assert resumed.returncode == 0, resumed.stderr
    assert np.array_equal(Predictor.load(tmp_path / "cut/best.pt").values(states), two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"requests": "{parts}/1.parquet", "damage": True}, "1.parquet: not a readable Parquet file"),
        ({"learner": "lightgbm", "stream": None}, "learner: 'lightgbm' is trained by one process; got 2"),
        ({"stream": {"lanes": 3}}, "stream.lanes: got 3; expected a multiple of the 2 ranks"),
        ({"optimiser": {"name": "sgd", "lr": 1e20, "clip": None}, "loss": {"kind": "mse"}}, "expected finite numbers"),
    ],
)
def test_what_goes_wrong_in_a_group_is_one_line(
    small_world: Any, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    damaged = "damage" in changes
    changes = {
        k: v.format(parts=tmp_path / "parts") if isinstance(v, str) else v for k, v in changes.items() if k != "damage"
    }
    config = write_config(small_world, tmp_path, **changes)
    if damaged:
        path = tmp_path / "parts/1.parquet"
        path.write_bytes(path.read_bytes()[:-100])
    assert says in one_error("-m", "awrq_mixer.train", f"--config={config}", f"--out={tmp_path / 'run'}")
