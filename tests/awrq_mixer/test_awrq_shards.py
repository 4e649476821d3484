"""Training over shards: the same as in memory up to order, whatever the row groups; bad shards are one line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners.base import Batch
from awrq_mixer.train import train
from awrq_mixer.training.shards import ShardedLog, StreamedRows, load_shards
from awrq_mixer.training.survey import Cut
from awrq_mixer.training.training_log import load_log, make_batch
from awrq_mixer.training.training_rows import MemoryRows, share_of_states
from awrq_mixer.training.validation import make_validation_set
from awrq_mixer.training.validation_rows import ValidationRows
from marca_common.errors import UserError
from marca_common.ranks import Ranks
from marca_common.seeding import torch_generator
from marca_common.shared_batches import averaged
from marca_common.torch_seeding import SeededDropout, use_generator, use_places


class OneOf(Ranks):
    """Some rank of a group that isn't there: enough for what a rank does alone."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size


def write_shards(
    frame: pd.DataFrame, folder: Path, sizes: tuple[int, ...] = (2500, 700, 2800), group: int = 333
) -> Path:
    """Shards of these numbers of rows, in row groups of ``group``."""
    folder.mkdir(exist_ok=True)
    start = 0
    for number, size in enumerate(sizes):
        table = pa.Table.from_pandas(frame.iloc[start : start + size], preserve_index=False)
        pq.write_table(table, folder / f"{number:03}.parquet", row_group_size=group)
        start += size
    assert start == len(frame)
    return folder


@pytest.fixture(scope="module")
def priced(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config values over shards of the small log with a numeric column, and the same for one file of it."""
    folder = tmp_path_factory.mktemp("shards")
    frame = small_world.frame.assign(price=np.linspace(1, 9, 6000) ** 2)
    frame.to_parquet(folder / "log.parquet", index=False)
    write_shards(frame, folder / "parts")
    spec = {**small_world.spec, "state": {**small_world.spec["state"], "price": "numeric"}}
    values: dict[str, Any] = {
        "spec": spec,
        "network": {"embedding": 4, "hidden": 8, "heads": 3},
        "mixer": {"embed": 4, "hyper_layers": [4]},
    }
    values |= {"batch_size": 96, "epochs": 1, "eval_every": 20, "validation_rows": 200}
    stream = {"stream": {"buffer_rows": 1000, "lanes": 4}, "requests": str(folder / "parts")}
    return frame, values | stream, values | {"requests": str(folder / "log.parquet")}


def sharded(values: Any) -> tuple[TrainConfig, ShardedLog]:
    config = TrainConfig.model_validate(values)
    return config, load_shards(config, Ranks())


def streamed(values: Any, ranks: Ranks | None = None) -> StreamedRows:
    config, log = sharded(values)
    return StreamedRows(log, config, torch.device("cpu"), ranks or Ranks())


def test_one_pass_finds_what_memory_finds(priced: Any) -> None:
    _, over_shards, in_memory = priced
    config, log = sharded(over_shards)
    known = load_log(TrainConfig.model_validate(in_memory))
    assert log.encoder.vocabularies == known.encoder.vocabularies
    for found, expected in ((log.encoder.means, known.encoder.means), (log.encoder.scales, known.encoder.scales)):
        assert found == pytest.approx(expected, rel=1e-12)
    assert log.encoder.ranges == known.encoder.ranges
    assert np.array_equal(log.profile, known.profile)
    assert log.reward_range == pytest.approx(known.reward_range, rel=1e-6)
    rows = make_batch(known.train, known.spec, known.encoder)
    assert len(log.totals) == len(rows)
    assert log.totals.mean("reward") == pytest.approx(rows.mean("reward"), rel=1e-12)
    scale = torch.tensor(2.5)
    mine, theirs = (one.by_choice("reward", scale, config.spec.shape) for one in (log.totals, rows))
    assert torch.equal(mine[0], theirs[0])
    assert torch.allclose(mine[1], theirs[1], rtol=1e-4)


def test_validation_is_that_of_memory_where_all_its_rows_are_kept(priced: Any) -> None:
    _, over_shards, in_memory = priced
    _, log = sharded(over_shards | {"validation_rows": 10_000})
    known = load_log(TrainConfig.model_validate(in_memory))
    sets = [make_validation_set(one.validation, one.spec, 300, seed=0) for one in (log, known)]
    assert sets[0] is not None
    assert sets[1] is not None
    for name in ("state_id", "joint", "reward", "group"):
        assert np.array_equal(getattr(sets[0], name), getattr(sets[1], name)), name
    assert sets[0].states.astype(str).equals(sets[1].states.astype(str))


def test_validation_rows_kept_are_few_and_of_whole_states_however_the_log_is_cut(small_world: Any) -> None:
    config = TrainConfig.model_validate({"spec": small_world.spec, "requests": "unused"})
    rng = np.random.default_rng(1)
    frame = small_world.frame.assign(segment=rng.integers(0, 900, 6000).astype(str))
    frame.loc[frame["segment"].astype(int) > 870, "segment"] = "large"

    def kept(*places: int) -> ValidationRows:
        parts = np.split(np.arange(len(frame)), places)
        found = [ValidationRows.of(frame.iloc[rows], config.spec, 100, seed=3) for rows in parts]
        return sum(found[1:], found[0])

    whole = kept()
    assert len(whole.rows) == 400
    for places in ((1,), (1000, 1010, 4000), tuple(range(10, 6000, 500))):
        assert kept(*places).frame().equals(whole.frame())
    counts = whole.rows.groupby(["place", "segment"]).size()
    known = frame.groupby(["place", "segment"]).size()[counts.index]
    partly = counts[counts < known]
    assert (partly == 5).sum() >= len(partly) - 1  # 5 % of 100 from a large one, and the last one is cut off


def test_an_epoch_has_every_row_once_and_begins_anywhere(priced: Any) -> None:
    _, over_shards, _ = priced
    rows = streamed(over_shards)
    assert len(rows) == 4800
    per_epoch = len(rows) // 96
    some = [one.rows for one in itertools.islice(rows.batches(96, 5, 0), 2 * per_epoch + 3)]
    prices = [Batch.joined(some[k * per_epoch : (k + 1) * per_epoch]).numbers[:, 0] for k in (0, 1)]
    assert not torch.equal(*prices)
    for one in prices:
        assert len(torch.unique(one)) == 4800  # no row twice: all have a price of their own
    for start in (1, 7, per_epoch - 1, per_epoch, per_epoch + 13):
        again = [one.rows for one in itertools.islice(rows.batches(96, 5, start), 3)]
        for mine, known in zip(again, some[start:]):
            assert torch.equal(mine.numbers, known.numbers)
            assert torch.equal(mine.reward, known.reward)
    another_seed = next(rows.batches(96, 6, 0)).rows
    assert not torch.equal(another_seed.numbers, some[0].numbers)


def test_every_batch_draws_alike_from_all_of_the_log(priced: Any) -> None:
    frame, over_shards, _ = priced
    rows = streamed(over_shards)
    edges = torch.tensor(frame["price"].to_numpy()[[1200, 2400, 3600]])
    for batch in (one.rows for one in itertools.islice(rows.batches(96, 0, 0), 10)):
        price = batch.numbers[:, 0] * rows.log.encoder.scales["price"] + rows.log.encoder.means["price"]
        assert torch.bucketize(price.double() + 1e-4, edges).bincount().tolist() == [24] * 4


def test_ranks_share_a_batch_whose_rows_do_not_depend_on_their_number(priced: Any) -> None:
    _, over_shards, _ = priced
    whole = list(itertools.islice(streamed(over_shards).batches(96, 0, 3), 4))
    for size in (2, 4):
        ranks = [itertools.islice(streamed(over_shards, OneOf(k, size)).batches(96, 0, 3), 4) for k in range(size)]
        for one, *parts in zip(whole, *ranks):
            joined = Batch.joined([part.rows for part in parts])
            assert torch.equal(one.rows.numbers, joined.numbers)
            assert torch.equal(one.rows.actions, joined.actions)


def test_rows_at_hand_are_bounded(priced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, over_shards, _ = priced
    rows = streamed(over_shards)
    read, seen = rows._read, []

    def counting(*arguments: Any) -> Batch:
        window = read(*arguments)
        seen.append(len(window))
        return window

    monkeypatch.setattr(rows, "_read", counting)
    list(itertools.islice(rows.batches(96, 0, 0), 100))
    assert max(seen) <= 1000 / 4 + 333  # a lane's share of buffer_rows, and one row group more
    assert sum(seen) >= 9600


@pytest.mark.parametrize("learner", ["awrq_mixer", "awrq_residual", "qmix", "regression"])
@pytest.mark.parametrize("scope", ["batch", "train"])
def test_one_update_with_all_rows_is_that_of_memory(priced: Any, tmp_path: Path, learner: str, scope: str) -> None:
    _, *both = priced
    weights = []
    for number, values in enumerate(both):
        changes = {"learner": learner, "batch_size": 4800, "td": {"vgca_scope": scope}, "loss": {"kind": "mse"}}
        changes |= {"network": {**values["network"], "oov_rate": 0.0}, "optimiser": {"name": "sgd", "lr": 0.1}}
        model = train(TrainConfig.model_validate(values | changes), tmp_path / str(number)).model
        assert isinstance(model.scorer, torch.nn.Module)
        weights.append(model.scorer.state_dict())
    for name, one in weights[0].items():
        assert torch.allclose(one.double(), weights[1][name].double(), rtol=1e-3, atol=1e-5), name


def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    priced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, values, _ = priced
    config = TrainConfig.model_validate(values | {"epochs": 2})
    whole = train(config, tmp_path / "whole")
    plain, calls = Batch.joined, []

    def killed(parts: Any) -> Batch:
        calls.append(1)
        if len(calls) == 90:
            raise KeyboardInterrupt
        return plain(parts)

    monkeypatch.setattr(Batch, "joined", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut")
    monkeypatch.setattr(Batch, "joined", plain)
    resumed = train(config, tmp_path / "cut")
    assert resumed.summary["steps"] == whole.summary["steps"]
    one, other = ((tmp_path / name / "metrics.csv").read_text() for name in ("whole", "cut"))
    assert one == other
    assert (
        resumed.model.values(sample := whole.model.spec.read(config.requests).head(5)).tolist()
        == whole.model.values(sample).tolist()
    )


def test_parts_of_a_batch_have_the_noise_of_the_whole() -> None:
    x, whole = torch.ones(12, 5), SeededDropout(0.4).train()
    use_generator(whole, torch_generator(0, "noise"))
    expected = [whole(x) for _ in range(2)]
    for rank in range(3):
        part = SeededDropout(0.4).train()
        use_generator(part, torch_generator(0, "noise"), rank, 3)
        for one in expected:
            assert torch.equal(part(x[:4]), one[4 * rank : 4 * rank + 4])


def test_gradients_of_parts_become_those_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online = torch.nn.Linear(2, 1)

    learner: Any = Line()
    x = torch.randn(8, 2, generator=torch_generator(0, "x"))

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        learner.zero_grad()
        loss: torch.Tensor = learner.online(rows).square().mean()
        torch.autograd.backward(loss)
        return loss

    whole = float(loss_of(x).detach())
    expected = [one.grad.clone() for one in learner.parameters()]
    first = loss_of(x[:3])
    theirs = torch.cat(
        [*(one.grad.flatten() for one in learner.parameters()), first.detach().reshape(1), torch.tensor([3.0])]
    )
    mine = loss_of(x[3:])
    ranks = OneOf(1, 2)
    monkeypatch.setattr(ranks, "summed", lambda tensor: tensor + 3 / 8 * theirs)
    loss, eta = averaged(learner.parameters(), [mine, torch.tensor(1.0)], ranks, 5 / 8)
    assert float(loss) == pytest.approx(whole)
    assert float(eta) == 1.75
    for one, known in zip(learner.parameters(), expected):
        assert torch.allclose(one.grad, known)


def test_a_batch_in_memory_is_shared_evenly_or_refused(priced: Any) -> None:
    _, _, in_memory = priced
    log = load_log(TrainConfig.model_validate(in_memory))
    data = make_batch(log.train, log.spec, log.encoder)
    whole = next(MemoryRows(data, Ranks()).batches(90, 0, 0)).rows
    parts = [next(MemoryRows(data, OneOf(rank, 3)).batches(90, 0, 0)).rows for rank in range(3)]
    assert torch.equal(whole.reward, Batch.joined(parts).reward)
    with pytest.raises(UserError, match="batch_size: got 100 rows; expected a multiple of the 3 ranks"):
        MemoryRows(data, OneOf(0, 3)).batch_size(100)
    few = MemoryRows(data.take(slice(0, 100)), OneOf(0, 3))
    assert few.batch_size(300) == 99  # what three ranks can share of 100 rows
    few.groups = data.codes[:100, 0]
    assert few.batch_size(300) == 100


def test_whole_states_are_shared_about_evenly() -> None:
    assert [share_of_states(np.array([3, 4, 1, 2]), rank, 2) for rank in range(2)] == [(0, 3), (3, 10)]
    assert [share_of_states(np.array([1, 1, 7]), rank, 3) for rank in range(3)] == [(0, 3), (3, 6), (6, 9)]  # cut


def test_a_rank_draws_the_noise_of_its_rows_and_states() -> None:
    groups = torch.tensor(np.random.default_rng(0).integers(0, 9, 40))
    data = Batch(groups[:, None], torch.zeros(40, 0), groups[:, None], torch.arange(40.0), torch.zeros(40))

    def noise(ranks: Ranks) -> tuple[torch.Tensor, ...]:
        """Rows and states of a rank, and what their dropout leaves."""
        rows = MemoryRows(data, ranks)
        rows.groups = groups
        part, dropout = next(rows.batches(30, 0, 0)), SeededDropout(0.4).train()
        use_generator(dropout, torch_generator(0, "noise"))
        use_places(dropout, part.places)
        states = torch.unique(part.rows.codes)
        kept = dropout(torch.ones(len(part.rows), 4)), dropout(torch.ones(2, len(states), 4), 1, "states")
        return part.rows.reward.long(), states, *kept

    rows, states, by_row, by_state = noise(Ranks())
    parts = [noise(OneOf(rank, 3)) for rank in range(3)]
    assert sorted(torch.cat([part[0] for part in parts]).tolist()) == sorted(rows.tolist())
    assert torch.cat([part[1] for part in parts]).tolist() == states.tolist()  # every state whole, in one rank
    for mine, own, of_rows, of_states in parts:
        assert torch.equal(of_rows, by_row[(rows[None] == mine[:, None]).int().argmax(1)])
        assert torch.equal(of_states, by_state[:, torch.searchsorted(states, own)])


def shards_of(small_world: Any, folder: Path) -> tuple[Path, dict[str, Any]]:
    parts = write_shards(small_world.frame, folder / "parts", (2000, 2000, 2000))
    return parts, {"spec": small_world.spec, "requests": str(parts), "stream": {}}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda one: one.write_bytes(b""), r"001\.parquet: the shard is empty"),
        (lambda one: one.write_bytes(one.read_bytes()[:-50]), r"001\.parquet: not a readable Parquet file \(truncated\?\)"),
        (lambda one: edit(one, lambda f: f.iloc[:0]), r"001\.parquet: the shard has no rows"),
        (lambda one: edit(one, lambda f: f.drop(columns="b2")), r"001\.parquet: column 'b2' stands in only one of this shard and 000"),
        (lambda one: edit(one, lambda f: f.assign(money=-f["money"])), r"001\.parquet: row \d+, column 'money': got -"),
        (lambda one: edit(one, lambda f: f.assign(money=f["money"].where(f.index != 7, 1e15))), r"001\.parquet: column 'money': got 1e\+15"),
        (lambda one: edit(one, lambda f: f.assign(timestamp=f["timestamp"] - pd.Timedelta("1h"))), r"row 2001 and those after it begin at"),
        (lambda one: one.rename(one.with_suffix(".csv")), "are of different formats"),
    ],
)  # fmt: skip
def test_a_bad_shard_is_one_line(small_world: Any, tmp_path: Path, damage: Any, says: str) -> None:
    parts, values = shards_of(small_world, tmp_path)
    damage(parts / "001.parquet")
    with pytest.raises(UserError, match=says) as found:
        train(TrainConfig.model_validate(values), tmp_path / "run")
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def edit(path: Path, change: Any) -> None:
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def test_rows_that_teach_nothing_are_refused_as_in_memory(small_world: Any, tmp_path: Path) -> None:
    parts, values = shards_of(small_world, tmp_path)
    for path in parts.iterdir():
        edit(path, lambda f: f.assign(b2=1))
    with pytest.raises(UserError, match=r"column 'b2': the only value in the training rows is 1"):
        load_shards(TrainConfig.model_validate(values), Ranks())
    for path in parts.iterdir():
        edit(path, lambda f: f.assign(b2=np.arange(len(f)) % 3, money=0.0))
    with pytest.raises(UserError, match=r"column 'money' in the training rows: is 0 in all 4800 rows"):
        load_shards(TrainConfig.model_validate(values), Ranks())


def test_an_identifier_is_left_out_as_in_memory(priced: Any, tmp_path: Path) -> None:
    frame, values, _ = priced
    named = frame.assign(request=np.arange(len(frame)).astype(str))
    named.to_parquet(tmp_path / "log.parquet", index=False)
    write_shards(named, tmp_path / "parts")
    spec = {**values["spec"], "state": {**values["spec"]["state"], "request": "category"}}
    _, found = sharded(values | {"spec": spec, "requests": str(tmp_path / "parts")})
    memory = load_log(
        TrainConfig.model_validate(values | {"spec": spec, "requests": str(tmp_path / "log.parquet"), "stream": None})
    )
    assert found.identifiers == memory.identifiers == ["request"]
    assert found.spec == memory.spec == TrainConfig.model_validate(values).spec
    assert found.encoder.vocabularies == memory.encoder.vocabularies


def test_half_of_the_training_rows_is_cut_as_in_memory() -> None:
    split = {"train": 0.5, "validation": 0.3, "test": 0.2}
    for half, rows in ((None, (10, 60)), ("first", (10, 35)), ("second", (35, 60))):
        cut = Cut.of(110, TrainConfig.model_validate({"max_rows": 100, "split": split | {"half": half}}))
        assert (cut.train, cut.train_end) == rows
        assert (cut.validation, cut.test, cut.end) == (60, 90, 110)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learner": "lightgbm"}, "stream: learner 'lightgbm' needs its rows in memory; expected null"),
        (
            {"learner": "awrq_plus", "stack": {"members": {"trees": {"learner": "lightgbm_history"}}}},
            "stream: learner 'lightgbm_history' needs its rows in memory",
        ),
        ({"learner": "low_rank", "batch_size": 8}, "and two rows of each where states stay whole"),
        ({"batch_size": 100}, "batch_size: got 100; expected a multiple of stream.lanes, 8"),
        ({"spec": {"negative": {"revenue": "drop"}}}, "stream: spec.negative drops rows by 'revenue'; expected clip"),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_any_work(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainConfig.model_validate({"stream": {}} | changes)


def test_a_stack_needs_no_batch_size_that_fits_the_lanes() -> None:
    members = {"one": {"learner": "glm", "batch_size": 240}}
    TrainConfig.model_validate({"learner": "awrq_plus", "stream": {"lanes": 24}, "stack": {"members": members}})


def test_ranks_that_do_not_fit_the_lanes_are_refused(priced: Any) -> None:
    _, values, _ = priced
    with pytest.raises(UserError, match=r"stream\.lanes: got 4; expected a multiple of the 3 ranks"):
        load_shards(TrainConfig.model_validate(values), OneOf(0, 3))
