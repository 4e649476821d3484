"""The ground truth on logs that teach little or nothing, and its members' checkpoints when they are broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from marca_common.errors import UserError
from marca_common.files import read_json
from revenue_sim.judging.budget_curves import capture
from revenue_sim.judging.return_pct import return_interval, return_pct
from revenue_sim.train import GroundTruth, TrainConfig, TrainResult, train
from tests.reference.broken_checkpoints import (
    broken_envelopes,
    broken_files,
    broken_leaves,
    refusal,
    refused,
    save_as_is,
)
from tests.reference.table_edits import Edit, with_cell, with_columns

SPEC = {
    "state": {"place": "category", "segment": "category", "price": "numeric"},
    "agents": {"first": ["b1"], "second": ["b2"]},
    "sizes": {"b1": 2, "b2": 3},
    "results": [],
    "reward": "money",
    "timestamp": None,
    "propensity": None,
}


def _log() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"place": rng.integers(0, 3, 300).astype(str), "segment": rng.integers(0, 5, 300).astype(str)})
    frame["price"] = rng.normal(10, 2, 300)
    frame["b1"], frame["b2"] = rng.integers(0, 2, 300), rng.integers(0, 3, 300)
    frame["money"] = np.where(rng.random(300) < 0.5, rng.gamma(2, 1 + frame["b1"]), 0.0)
    return frame


def _fit(edit: Edit, folder: Path, **nets: Any) -> TrainResult:
    folder.mkdir(exist_ok=True)
    edit(_log()).to_parquet(folder / "log.parquet", index=False)
    values = {
        "spec": SPEC,
        "requests": [str(folder / "log.parquet")],
        "trees": {"trees": 4, "leaves": 4, "min_rows": 5},
        "nets": {"epochs": 1, "hidden": 4, "rank": 2, "embedding": 2, "batch_size": 64, **nets},
    }
    return train(TrainConfig.model_validate(values), folder / "run")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (with_columns(money=0.0), r"log\.parquet: column 'money': is 0 in all 300 rows"),
        (with_cell("money", 1e300), r"column 'money': got 1e\+300"),
        (with_cell("money", 1e20), "a million times as far"),
        (with_cell("price", 1e300), r"log\.parquet: state column 'price': got 1e\+300"),
        (with_columns(money=lambda f: np.where(f.index == 3, 5.0, 0.0)), "all revenue lies in fold . of 2"),
        (lambda f: f.head(4), "4 rows to learn from are too few for the effects of 5 choices"),
        (lambda f: f.head(3), r"3 rows; expected at least two per fold \(2\)"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(edit: Edit, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        _fit(edit, tmp_path)
    assert not (tmp_path / "run" / "truth.parquet").exists()


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (with_columns(money=7.3), "column 'money' is 7.3 in all rows"),
        (with_columns(price=14.62), "state column 'price' is 14.62 in all training rows"),
        (with_columns(b1=0), "column 'b1' is 0 in all rows"),
        (with_columns(place="x", segment="y"), None),
        (with_columns(segment=lambda f: f.index.astype(str)), None),
        (lambda f: f.head(5).assign(money=[1.0, 2.0, 3.0, 4.0, 5.0]), None),
    ],
)
def test_odd_logs_give_numbers_and_a_warning(edit: Edit, expected: str | None, tmp_path: Path) -> None:
    result = _fit(edit, tmp_path)
    assert np.isfinite(result.scores.scores["truth"]).all()
    warnings = read_json(tmp_path / "run" / "summary.json").get("warnings", [])
    assert expected is None or any(expected in note for note in warnings)


def test_equal_revenue_has_no_order_and_no_slope_of_rounding(tmp_path: Path) -> None:
    summary = _fit(with_columns(money=0.1), tmp_path).summary
    assert {judged["bucket_spearman"] for judged in summary["held_out"].values()} == {0.0}
    assert np.isnan(summary["held_out"]["trees"]["calibration_slope"])


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e12, 1e30])
def test_scores_scale_with_the_unit_of_money(scale: float, tmp_path: Path) -> None:
    plain = _fit(lambda f: f, tmp_path / "plain").scores.scores["truth"]
    scaled = _fit(with_columns(money=lambda f: f["money"] * scale), tmp_path / "scaled").scores.scores["truth"]
    np.testing.assert_allclose(scaled / scale, plain, rtol=2e-3)


def test_nine_updates_are_no_problem(tmp_path: Path) -> None:
    result = _fit(lambda f: f, tmp_path, batch_size=50, epochs=3)  # 3 passes of 3 batches over 150 rows
    assert np.isfinite(result.scores.scores["truth"]).all()


def test_a_network_that_diverges_names_its_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"net0-0: the loss is (nan|inf) at step \d+; try a smaller nets\.lr"):
        _fit(lambda f: f, tmp_path, lr=1e30, epochs=3)
    assert not list(tmp_path.rglob("fold0_net0.pt"))


@pytest.mark.parametrize("member", ["fold0_trees", "fold1_net0"])
def test_no_broken_part_of_a_member_gets_through(member: str, tmp_path: Path) -> None:
    result = _fit(lambda f: f, tmp_path)
    path = tmp_path / "run" / "members" / f"{member}.pt"
    good = tmp_path / "good.pt"
    shutil.copy(path, good)
    states = result.scores.states.head(3)

    def serve(file: Path) -> None:
        if file != path:
            path.unlink()
            path.symlink_to(file)
        assert np.isfinite(GroundTruth.load(tmp_path / "run", result.model.spec).values(states)).all()

    serve(path)
    content = torch.load(path, weights_only=True)
    accepted = []
    for name, one in [*broken_envelopes(content), *broken_leaves(content, most=3)]:
        if not refused(serve, save_as_is(one, path)):
            accepted.append(name)
    # a number of another size is one; a category may be missing from a table, as one not seen in training
    rightly = (
        "scale = ",
        "config.",
        "means.prior = 0.5",
        "means.tables.",
        "encoder.scales.price = ",
        "encoder.ranges removed",
    )
    assert [name for name in accepted if not name.startswith(rightly)] == []
    assert not any(odd in name for name in accepted for odd in ("None", "text", "nan", "inf", "= []"))
    for name, file in broken_files(good, tmp_path):
        assert refusal(partial(serve, file)) is not None, name


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("roots", lambda roots, left: roots[:-1]),  # a tree less
        ("roots", lambda roots, left: roots[[0, 0, *range(2, len(roots))]]),  # one tree twice, another not
        ("roots", lambda roots, left: torch.cat([roots, left[:1]])),  # a part of a tree besides
        ("right", lambda roots, left: left),  # both ways lead to the same part
    ],
)
def test_trees_of_which_a_part_is_lost_or_stands_twice_are_refused(
    name: str, edit: Callable[[Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    result = _fit(lambda f: f, tmp_path)
    path = tmp_path / "run" / "members" / "fold0_trees.pt"
    content = torch.load(path, weights_only=True)
    payload = content["payload"]
    assert payload["feature"][0] >= 0  # the first tree has more than a leaf
    payload[name] = edit(payload["roots"], payload["left"])
    save_as_is(content, path)
    with pytest.raises(UserError, match="trees: nodes, children and columns do not fit each other: train again"):
        GroundTruth.load(tmp_path / "run", result.model.spec)


def test_returns_of_nothing_are_no_number() -> None:
    nothing = np.zeros(3)
    assert np.isnan(return_pct(nothing, nothing))
    interval = return_interval([nothing], nothing, np.random.default_rng(0), draws=10, confidence=0.9)
    assert np.isnan(interval).all()
    assert return_pct(np.array([1.0, 2.0]), np.array([2.0, 2.0])) == 75.0


def test_an_uplift_of_rounding_has_no_share() -> None:
    assert capture(1.0 + 1e-16, 1.0, 1.0 + 4e-16) is None
    assert capture(1.5, 1.0, 2.0) == 0.5
