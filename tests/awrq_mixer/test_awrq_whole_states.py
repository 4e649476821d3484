"""Learners that remember rows over a log in shards: states whole in every batch, and a memory in files that equals one in memory."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.row_shards import KeyedRows, RowShards
from awrq_mixer.learners.state_memory import StateMemory, state_keys
from awrq_mixer.serving import Predictor
from awrq_mixer.train import make_learner, train
from awrq_mixer.training.sampled_rows import sampled
from awrq_mixer.training.shards import load_shards
from awrq_mixer.training.training_log import load_log, make_batch
from awrq_mixer.training.whole_states import StateRows, sorted_by_state, stretches
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.ranks import Ranks

STATES = pd.DataFrame(
    {"place": ["0", "2", "1", "1"], "segment": ["3", "7", "0", "never seen"], "user": ["5", "77", "never seen", "400"]}
)


@pytest.fixture(scope="module")
def hinted(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config values over shards with a side column, and the same over one file of it in memory."""
    folder = tmp_path_factory.mktemp("hinted")
    frame, spec = small_world.frame, small_world.spec
    joint = np.ravel_multi_index([frame[name] for name in spec["sizes"]], tuple(spec["sizes"].values()))
    truth = small_world.truth(frame)[np.arange(len(frame)), joint]
    rng = np.random.default_rng(7)
    hint = truth * np.exp(rng.normal(0, 0.4, len(frame)))
    frame = frame.assign(hint=hint, user=rng.integers(0, 600, len(frame)).astype(str))
    spec = spec | {"state": spec["state"] | {"user": "category"}}
    frame.to_parquet(folder / "log.parquet", index=False)
    (folder / "parts").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[rows].to_parquet(folder / f"parts/{number}.parquet", index=False, row_group_size=700)
    network = {"embedding": 4, "hidden": 8, "dropout": 0.3, "oov_rate": 0.1}
    values = {
        "spec": spec,
        "network": network,
        "batch_size": 240,
        "epochs": 3,
        "eval_every": 10,
        "validation_rows": 300,
    }
    values |= {"learner": "latent_classes", "optimiser": {"lr": 0.02}}
    values |= {"plus": {"surrogate": "hint", "history": ["user"], "classes": 6, "rank": 3, "members": 2}}
    over_shards = {"requests": str(folder / "parts"), "stream": {"buffer_rows": 1200, "lanes": 4}}
    return values | over_shards, values | {"requests": str(folder / "log.parquet")}


@pytest.fixture(scope="module")
def rows(hinted: Any, tmp_path_factory: pytest.TempPathFactory) -> StateRows:
    config = TrainConfig.model_validate(hinted[0])
    log = load_shards(config, Ranks())
    shards = sorted_by_state(log, config, Ranks(), tmp_path_factory.mktemp("rows"))
    return StateRows(log, shards, config, torch.device("cpu"), Ranks())


def lines(*batches: Batch) -> list[tuple[float, ...]]:
    """Rows as plain numbers, sorted."""
    found = []
    for one in batches:
        columns = [one.codes, one.actions, one.reward[:, None], one.surrogate[:, None]]
        found += [tuple(row) for row in torch.cat([column.double() for column in columns], 1).tolist()]
    return sorted(found)


def test_every_training_row_lies_in_the_shard_of_its_state(hinted: Any, rows: StateRows) -> None:
    log = load_log(TrainConfig.model_validate(hinted[1]))
    expected = make_batch(log.train, log.spec, log.encoder, "hint")
    shards = rows.shards
    assert len(shards.shards) == 16  # 4800 rows, 4 lanes, 1200 at hand
    assert lines(*(one.rows(slice(None)) for one in shards.shards)) == lines(expected)
    held = [set(one.key.tolist()) for one in shards.shards]
    assert sum(map(len, held)) == len(set().union(*held))
    assert all((np.diff(one.key) >= 0).all() for one in shards.shards)


def test_an_epoch_has_every_row_once_and_states_whole(rows: StateRows) -> None:
    per_epoch = len(rows) // 240
    batches = [one.rows for one in itertools.islice(rows.batches(240, 5, 0), 2 * per_epoch)]
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        assert lines(*epoch) == lines(*(one.rows(slice(None)) for one in rows.shards.shards))
    sizes = rows.log.space.categories
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        keys = [state_keys(one.codes, rows.history, sizes) for one in epoch]
        every = torch.unique(torch.cat(keys))
        assert len(every) > 500
        assert sum(len(torch.unique(one)) for one in keys) == len(every)
    assert not torch.equal(batches[0].reward, batches[per_epoch].reward)


@pytest.mark.parametrize("start", [1, 7, 19, 20, 33])
def test_a_run_that_goes_on_reads_what_it_would_have(rows: StateRows, start: int) -> None:
    known = list(itertools.islice(rows.batches(240, 5, 0), start + 3))[start:]
    for one, again in zip(known, rows.batches(240, 5, start)):
        assert torch.equal(one.rows.reward, again.rows.reward)


def test_stretches_hold_about_as_many_rows_however_the_row_groups_lie() -> None:
    rng = np.random.default_rng(0)
    groups = [np.sort(rng.integers(0, 1000, size)) for size in (5000, 300, 1200)]
    marks = [(one[np.arange(256) * len(one) // 256], len(one)) for one in groups]
    edges = stretches(marks, 8)
    counts = np.histogram(np.concatenate(groups), [*edges, 1001])[0]
    assert counts.sum() == 6500
    assert np.abs(counts - 6500 / 8).max() < 100


def test_lookups_are_those_of_a_memory(rows: StateRows) -> None:
    everything = Batch.joined([one.rows(slice(None)) for one in rows.shards.shards])
    keys = state_keys(everything.codes, rows.history, rows.log.space.categories).numpy()
    asked = np.array([keys[-1], -5, keys[0], 10**12, keys[100], keys[0]])
    places, owner = rows.shards.places(asked)
    found = rows.shards.take(places)
    for number, key in enumerate(asked):
        assert lines(found.take(torch.from_numpy(owner == number))) == lines(
            everything.take(torch.from_numpy(keys == key))
        )
    again = np.random.default_rng(0).permutation(len(places))
    assert torch.equal(rows.shards.take(places[again]).reward, found.reward[torch.from_numpy(again)])
    assert len(rows.shards.take(places[:0])) == 0


@pytest.mark.parametrize("learner", ["latent_classes", "low_rank", "neural_process"])
def test_a_learner_with_rows_in_shards_says_what_it_would_with_them_in_memory(
    hinted: Any, tmp_path: Path, learner: str
) -> None:
    over_shards, in_memory = (
        TrainConfig.model_validate(values | {"learner": learner, "epochs": 1}) for values in hinted
    )
    model = train(over_shards, tmp_path / "run").model
    assert isinstance(model.scorer, StateMemory)
    assert model.scorer.shards
    log = load_log(in_memory)
    remembering = make_learner(in_memory, log, make_batch(log.train, log.spec, log.encoder, "hint"))
    remembering.load_state_dict(remembering.with_rows(model.scorer.learned()))
    known = Predictor(remembering, in_memory, log.encoder).values(STATES)
    assert model.values(STATES) == pytest.approx(known, rel=1e-4)
    assert np.array_equal(Predictor.load(tmp_path / "run/best.pt").values(STATES), model.values(STATES))


def test_rows_travel_with_the_checkpoint(hinted: Any, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(hinted[0] | {"epochs": 1})
    model = train(config, tmp_path / "run").model
    values = model.values(STATES)
    model.save(tmp_path / "elsewhere/copy.pt")
    shutil.rmtree(tmp_path / "run/rows")
    assert np.array_equal(Predictor.load(tmp_path / "elsewhere/copy.pt").values(STATES), values)
    with pytest.raises(
        UserError, match=r"best\.pt: its training rows are missing: expected the folder rows/\w+ beside it"
    ):
        Predictor.load(tmp_path / "run/best.pt")


def damaged(folder: Path, how: str) -> None:
    first = sorted(folder.glob("*.arrow"))[0]
    if how == "truncated":
        first.write_bytes(first.read_bytes()[:-300])
    elif how == "swapped":
        other = sorted(folder.glob("*.arrow"))[1]
        KeyedRows.open(other).stretch(0, 3).write(first)
    elif how == "columns":
        KeyedRows(KeyedRows.open(first).table.select(["key"])).write(first)
    else:
        (folder / "rows.json").write_text(how)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("truncated", "not a readable shard of rows"),
        ("swapped", "3 rows of key, code_0"),
        ("columns", r"rows of key; expected \d+ of key, code_0"),
        ('{"version": 1}', "damaged, or of another version of this software"),
        ('{"version": 0, "first_key": [0], "rows": [1]}', "damaged, or of another version of this software"),
        ('{"version": 1, "first_key": [0], "rows": [1, 2]}', "damaged, or of another version of this software"),
        ('{"version": 1, "first_key": ["x"], "rows": [1]}', "damaged, or of another version of this software"),
        ("[]", "damaged, or of another version of this software"),
    ],
)
def test_damaged_rows_are_one_line(rows: StateRows, tmp_path: Path, how: str, says: str) -> None:
    folder = tmp_path / "rows"
    shutil.copytree(rows.shards.folder, folder)
    damaged(folder, how)
    with pytest.raises(UserError, match=says):
        RowShards(folder, rows.log.space)


def test_codes_that_the_learner_does_not_know_are_one_line(rows: StateRows, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    shutil.copytree(rows.shards.folder, folder)
    first = KeyedRows.open(folder / "000000.arrow")
    code = pa.array(np.full(len(first), 10**6, np.int32))
    KeyedRows(first.table.set_column(1, "code_0", code)).write(folder / "000000.arrow")
    found = RowShards(folder, rows.log.space)
    with pytest.raises(UserError, match="rows and learner do not fit each other: train again"):
        found.take(np.arange(3))


def test_one_large_state_needs_fewer_lanes(hinted: Any, tmp_path: Path) -> None:
    plus = hinted[0]["plus"] | {"history": ["place"]}
    with pytest.raises(
        UserError, match=r"stream\.lanes: of 4800 training rows a lane of 4 has \d+, since states lie in one"
    ):
        train(TrainConfig.model_validate(hinted[0] | {"plus": plus}), tmp_path)


def test_files_of_sorted_rows_are_not_too_many(hinted: Any, tmp_path: Path) -> None:
    stream = {"buffer_rows": 1, "lanes": 4}
    with pytest.raises(UserError, match=r"stream\.buffer_rows: 1 rows at hand in 4 lanes make 19200 files"):
        train(TrainConfig.model_validate(hinted[0] | {"stream": stream}), tmp_path)


def test_another_side_column_at_the_same_place_is_sorted_anew(hinted: Any, tmp_path: Path) -> None:
    shutil.copytree(hinted[0]["requests"], tmp_path / "parts")
    config = TrainConfig.model_validate(hinted[0] | {"requests": str(tmp_path / "parts"), "epochs": 1})
    train(config, tmp_path / "run")
    before = list((tmp_path / "run/rows").iterdir())
    path = tmp_path / "parts/0.parquet"
    pd.read_parquet(path).assign(hint=lambda f: 3 * f["hint"]).to_parquet(path, index=False, row_group_size=700)
    again = train(config, tmp_path / "run").model
    after = list((tmp_path / "run/rows").iterdir())
    assert len(before) == len(after) == 1  # what is no longer used is gone
    assert before != after
    whole = train(config, tmp_path / "whole").model
    assert np.array_equal(again.values(STATES), whole.values(STATES))


def test_a_sample_is_the_same_whatever_the_row_groups(hinted: Any) -> None:
    stack = {"members": {"one": {"learner": "glm"}}, "side_columns": ["hint"]}
    shared = {name: hinted[0][name] for name in ("spec", "requests")} | {"learner": "awrq_plus", "stack": stack}
    found = []
    for rows in (300, 300, 10**6):
        config = TrainConfig.model_validate(shared | {"stream": {"evidence_rows": rows}})
        found.append(sampled(load_shards(config, Ranks()), config, Ranks()))
    few, again, every = found
    assert (len(few.train), len(few.validation)) == (300, 300)
    assert few.train.equals(again.train)
    assert (len(every.train), len(every.validation), every.earlier) == (4800, 600, 2400)
    assert abs(few.earlier - 150) < 30
    money = every.train["money"].tolist()
    assert money == load_log(TrainConfig.model_validate(hinted[1])).train["money"].tolist()


@pytest.mark.slow
def test_a_stack_over_shards_keeps_what_one_in_memory_keeps(hinted: Any, small_world: Any, tmp_path: Path) -> None:
    fit = {"batch_size": 240, "epochs": 4, "eval_every": 20, "optimiser": {"lr": 0.02}, "plus": hinted[0]["plus"]}
    members = {
        "classes": fit | {"learner": "latent_classes", "network": {"embedding": 4, "hidden": 8}},
        "regression": fit | {"learner": "regression", "plus": {}, "network": {"embedding": 4, "hidden": 16}},
    }
    stack = {
        "side_columns": ["hint"],
        "history": ["place", "segment"],
        "members": members,
        "shrink": {"directions": 4, "reference_rows": 300},
    }
    found = {}
    for name, values in zip(("shards", "memory"), hinted):
        shared = {one: values[one] for one in ("spec", "requests", "stream") if one in values}
        split = {"train": 0.6, "validation": 0.3, "test": 0.1}
        config = TrainConfig.model_validate(shared | {"learner": "awrq_plus", "split": split, "stack": stack})
        found[name] = train(config, tmp_path / name).model
    tables = {name: pd.read_csv(tmp_path / name / "members.csv") for name in found}
    assert tables["shards"]["verdict"].tolist() == tables["memory"]["verdict"].tolist()
    states, _, _ = found["memory"].spec.distinct_states(pd.read_parquet(hinted[1]["requests"]))
    one, other = (np.log(found[name].values(states)).ravel() for name in ("shards", "memory"))
    assert np.corrcoef(one, other)[0, 1] > 0.97
    assert len(list((tmp_path / "shards/rows").iterdir())) == 1  # of all training rows; those of halves are gone
    assert np.array_equal(Predictor.load(tmp_path / "shards/best.pt").values(STATES), found["shards"].values(STATES))
    assert read_json(tmp_path / "shards/summary.json")["members_kept"]
