"""What a checkpoint may hold, whoever reads it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from marca_common.checkpoint import (
    check_weights,
    content_of,
    first_not_finite,
    load_checkpoint,
    load_optimiser,
    load_weights,
    require_keys,
    restore_plain,
    save_checkpoint,
)
from marca_common.errors import UserError
from tests.reference.broken_checkpoints import broken_envelopes, broken_files, refused, save_as_is

PAYLOAD: dict[str, Any] = {"weights": {"a": torch.ones(3)}, "step": 3, "names": ["x"], "best": 0.5}


def _load(path: Path) -> Any:
    return load_checkpoint(path, "kind", ["a"])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A checkpoint that loads."""
    save_checkpoint(tmp_path / "good.pt", "kind", ["a"], PAYLOAD)
    return tmp_path / "good.pt"


def test_no_broken_file_gets_through(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    accepted = [name for name, path in broken_files(good, tmp_path) if not refused(_load, path)]
    assert accepted == []
    assert not (tmp_path / "exploded").exists()


def test_no_broken_envelope_gets_through(good: Path, tmp_path: Path) -> None:
    content = torch.load(good, weights_only=True)
    broken = [*broken_envelopes(content), ("other columns", content | {"columns": ["b"]})]
    accepted = [name for name, one in broken if not refused(_load, save_as_is(one, tmp_path / "b.pt"))]
    assert accepted == ["payload with an extra part"]  # for the reader of the payload to refuse


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor([[1.0, math.nan], [math.inf, 0.0]]), r"holds nan \(2 of 4 numbers\)"),
        (torch.tensor(-math.inf, dtype=torch.float64), r"holds -inf \(1 of 1 numbers\)"),
        (torch.zeros(1).expand(10**12), "is no ordinary tensor"),
        (torch.ones(3).to_sparse(), "is no ordinary tensor"),
        (math.nan, "is nan"),
        ([0.0, -math.inf], r"\.1 is -inf"),
    ],
)
def test_what_is_not_finite_is_neither_written_nor_read(value: Any, expected: str, tmp_path: Path) -> None:
    payload = {"model": {"layer": value}}
    with pytest.raises(UserError, match=rf"a\.pt: not written: model\.layer.*{expected}.*smaller learning rate"):
        save_checkpoint(tmp_path / "a.pt", "kind", ["a"], payload)
    assert not list(tmp_path.iterdir())
    save_as_is({"format": 1, "kind": "kind", "columns": ["a"], "payload": payload}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a\.pt: model\.layer.*{expected}.*train again"):
        _load(tmp_path / "a.pt")


def test_plain_values_of_any_kind_are_looked_through() -> None:
    assert first_not_finite({"a": [1, "nan", None, np.float64(2), (3.0, {"b": torch.ones(2)})], 5: b""}) is None
    assert first_not_finite({"a": [1, (2, {5: np.float64("nan")})]}) == "a.1.1.5 is nan, expected a finite number"
    assert first_not_finite({"codes": torch.tensor([1, 2])}) is None


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda w: w.pop("bias"), "the part 'bias' is missing"),
        (lambda w: w.update(more=torch.ones(1)), "the part 'more' is not known"),
        (lambda w: w.update(bias=torch.ones(3)), r"bias has shape \(3,\); expected \(2,\)"),
        (
            lambda w: w.update(bias=torch.ones(2, dtype=torch.float64)),
            "bias holds torch.float64; expected torch.float32",
        ),
        (lambda w: w.update(bias=[1.0, 2.0]), "bias is a list; expected a tensor"),
    ],
)
def test_weights_of_another_module_are_refused_and_change_nothing(edit: Any, expected: str) -> None:
    module, weights = nn.Linear(3, 2), dict(nn.Linear(3, 2).state_dict())
    before = {name: one.clone() for name, one in module.state_dict().items()}
    load_weights(nn.Linear(3, 2), weights)
    edit(weights)
    with pytest.raises(UserError, match=expected):
        load_weights(module, weights)
    assert all(torch.equal(module.state_dict()[name], one) for name, one in before.items())
    with pytest.raises(UserError, match="got a list; expected a dictionary"):
        check_weights(module, [1])


def test_whole_numbers_that_follow_from_the_config_are_compared() -> None:
    module = nn.Linear(2, 1)
    module.register_buffer("offsets", torch.tensor([0, 3]))
    weights = module.state_dict()
    load_weights(module, weights)
    with pytest.raises(UserError, match="offsets does not follow from the config"):
        load_weights(module, weights | {"offsets": torch.tensor([0, 10**6])})
    load_weights(module, weights | {"offsets": torch.tensor([0, 4])}, any_size=["offsets"])


def test_an_optimiser_of_other_sizes_is_refused() -> None:
    def stepped(width: int) -> torch.optim.Optimizer:
        module = nn.Linear(width, 2)
        optimiser = torch.optim.AdamW(module.parameters())
        module(torch.ones(1, width)).sum().backward()
        optimiser.step()
        return optimiser

    load_optimiser(stepped(3), stepped(3).state_dict())
    with pytest.raises(UserError, match=r"exp_avg has shape \(2, 4\); expected \(2, 3\)"):
        load_optimiser(stepped(3), stepped(4).state_dict())


def test_plain_values_keep_their_types() -> None:
    class Run:
        step, best = 0, -math.inf

    run = Run()
    restore_plain(run, {"step": 3, "best": 0.5}, ["step", "best"])
    assert (run.step, run.best) == (3, 0.5)
    with pytest.raises(UserError, match="step is a str; expected a int"):
        restore_plain(run, {"step": "3"}, ["step"])


def test_any_fault_inside_becomes_one_line_with_the_path() -> None:
    with (
        pytest.raises(UserError, match=r"^a\.pt: damaged, or of another version; train again \(KeyError: 'x'\)$"),
        content_of("a.pt"),
    ):
        PAYLOAD["x"]
    with pytest.raises(UserError, match=r"^a\.pt: said so$"), content_of("a.pt"):
        raise UserError("said so")
    with pytest.raises(UserError, match="'b' is not known"):
        require_keys({"a": 1, "b": 2}, {"a"})
    require_keys({"a": 1}, {"a"}, {"b"})
