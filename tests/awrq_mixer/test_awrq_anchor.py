"""Anchored values: on the profile on average, as learned where all is kept; and the checkpoints that carry them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from awrq_mixer.anchoring.anchor import LEAST, Anchor
from awrq_mixer.anchoring.evidence import fit_anchor
from awrq_mixer.config import TrainConfig
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.train import train
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from tests.awrq_mixer.conftest import tiny_config
from tests.reference.broken_checkpoints import broken_leaves, refused, save_as_is

SPEC = RequestSpec.model_validate(
    {
        "state": {"s": "category"},
        "agents": {"all": ["b1", "b2"]},
        "sizes": {"b1": 2, "b2": 3},
        "results": [],
        "reward": "money",
        "timestamp": None,
        "propensity": None,
    }
)


def _log(states: int) -> pd.DataFrame:
    """One row per state and joint action, of revenue 1."""
    s, joint = np.indices((states, 6)).reshape(2, -1)
    return pd.DataFrame(SPEC.joint_table()[joint], columns=["b1", "b2"]).assign(s=s.astype(str), money=1.0)


def _anchored(learned: np.ndarray, profile: np.ndarray, directions: int = 2, confidence: float = 2.0) -> Anchor:
    """Anchor learned values (S, 6); every state is a reference state as often as any other."""
    log = _log(len(learned))

    def values(states: pd.DataFrame) -> np.ndarray:
        return np.asarray(learned[states["s"].astype(int)])

    return fit_anchor(values, profile, log, [(values, log)], SPEC, directions, confidence)[0]


def _put_on(anchor: Anchor, learned: np.ndarray, profile: np.ndarray) -> Anchor:
    """The anchor's definition of its shift, by hand."""
    mean = np.exp(anchor.unshifted(learned)).mean(axis=0)
    return replace(anchor, shift=np.log(profile / mean).astype(np.float32))


def _drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Learned values (S, 6), float32, and a profile (6,)."""
    rng = np.random.default_rng(seed)
    learned = np.exp(rng.normal(0, 1, (12, 1)) + rng.normal(0, 0.5, 6) + rng.normal(0, 0.4, (12, 6)))
    return (10.0 ** rng.integers(-6, 6) * learned).astype(np.float32), np.exp(rng.normal(3, 0.6, 6))


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 4))
def test_the_mean_over_reference_states_is_the_profile(seed: int, directions: int, confidence: float) -> None:
    learned, profile = _drawn(seed)
    found = _anchored(learned, profile, directions, confidence)
    assert found.apply(learned).dtype == np.float32
    assert np.allclose(found.apply(learned).mean(axis=0), profile, rtol=1e-4)


@given(st.integers(0, 10**6))
def test_nothing_kept_is_the_profile_times_a_power_of_the_level(seed: int) -> None:
    learned, profile = _drawn(seed)
    found = replace(_anchored(learned, profile), shares=np.zeros(3, np.float32), slope=0.7)
    found = _put_on(found, learned, profile)
    power = learned.mean(axis=1) ** 0.7
    assert np.allclose(found.apply(learned), profile * (power / power.mean())[:, None], rtol=1e-4)


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_all_kept_and_the_own_mean_as_profile_leave_values_as_they_are(seed: int, directions: int) -> None:
    learned, _ = _drawn(seed)
    own = learned.astype(np.float64).mean(axis=0)
    found = _anchored(learned, own, directions)
    found = replace(found, shares=np.ones_like(found.shares), slope=1.0)
    assert np.allclose(_put_on(found, learned, own).apply(learned), learned, rtol=1e-3)


def test_a_share_by_hand_shrinks_its_direction_only() -> None:
    up = np.array([[1.0, -1.0]], np.float32) / np.sqrt(2)
    anchor = Anchor(1e-9, np.zeros(2, np.float32), up, np.array([0.5, 1.0]), 1.0, 0.0, np.zeros(2))
    a = np.exp(np.float32(0.4))
    level = np.log((a + 1 / a) / 2)
    # shapes: (.4 - level, -.4 - level); half of (.4, -.4) goes, all of (-level, -level) stays
    assert np.allclose(anchor.unshifted(np.array([[a, 1 / a]], np.float32)), [[0.2, -0.2]], atol=1e-6)
    assert anchor.shapes(np.array([[a, 1 / a]], np.float32))[0] == pytest.approx(level)


def test_values_at_or_below_zero_are_lifted() -> None:
    learned, profile = _drawn(3)
    broken = learned.copy()
    broken[0], broken[1, :3], broken[2, 2] = 0.0, -1e6 * learned.mean(), np.float32(1e-38)
    found = _anchored(broken, profile)
    assert found.floor == pytest.approx(LEAST * np.abs(broken).mean())
    values = found.apply(broken)
    assert np.isfinite(values).all()
    assert (values > 0).all()
    lifted = np.maximum(broken, np.float32(found.floor))
    assert np.array_equal(values, found.apply(lifted))


def test_a_share_is_no_larger_where_more_confidence_is_asked() -> None:
    learned, profile = _drawn(8)
    loose, strict = (_anchored(learned, profile, 3, one) for one in (0.0, 3.0))
    assert (strict.shares <= loose.shares + 1e-6).all()


# ---- what a checkpoint holds


def _payload() -> dict[str, Any]:
    return _anchored(*_drawn(1)).to_payload()


def test_a_payload_makes_the_same_anchor_again() -> None:
    learned, profile = _drawn(1)
    found = _anchored(learned, profile)
    again = Anchor.from_payload(found.to_payload(), 6)
    assert np.array_equal(again.apply(learned), found.apply(learned))
    assert all(np.array_equal(getattr(again, name), getattr(found, name)) for name in found.to_payload())


DAMAGE: list[tuple[str, Any, str]] = [
    ("floor", 0.0, "anchor: floor is 0; expected more than 0"),
    ("floor", -1.0, "anchor: floor is -1; expected more than 0"),
    ("slope", float("nan"), "no finite number"),
    ("level", None, "no finite number"),
    ("shift", torch.full((6,), torch.nan), "no finite number"),
    ("centre", torch.full((6,), torch.inf), "no finite number"),
    ("centre", torch.zeros(5), r"anchor: centre has the shape \(5,\); expected \(6,\)"),
    ("shift", torch.zeros(6, 1), r"anchor: shift has the shape \(6, 1\); expected \(6,\)"),
    ("directions", torch.zeros(2, 7), r"anchor: directions has the shape \(2, 7\); expected \(2, 6\)"),
    ("directions", torch.zeros(6), r"anchor: directions has the shape \(6,\); expected \(1, 6\)"),
    ("shares", torch.zeros(2), r"anchor: shares has the shape \(2,\); expected \(3,\)"),
    ("level", torch.zeros(1), r"anchor: level has the shape \(1,\); expected \(\)"),
    ("slope", "steep", "no finite number"),
]


@pytest.mark.parametrize(("name", "value", "expected"), DAMAGE)
def test_a_damaged_payload_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Anchor.from_payload(_payload() | {name: value}, 6)


def test_a_payload_with_a_part_missing_or_too_many_is_refused() -> None:
    payload = _payload()
    for name in payload:
        with pytest.raises(UserError, match=f"anchor: the part '{name}' is missing"):
            Anchor.from_payload({key: value for key, value in payload.items() if key != name}, 6)
    with pytest.raises(UserError, match="anchor: the part 'more' is not known"):
        Anchor.from_payload(payload | {"more": 1.0}, 6)


@pytest.fixture(scope="module", params=["awrq_mixer", "lightgbm"])
def checkpoint(request: Any, draw_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learner trained for a second, anchored, and saved beside the plain one."""
    folder = tmp_path_factory.mktemp(request.param)
    world = draw_world(folder, rows=400)
    frame = world.frame.assign(price=np.linspace(1, 9, 400), clicks=world.frame["money"] + 1)
    frame.to_parquet(folder / "log.parquet", index=False)
    config = TrainConfig.model_validate(tiny_config(folder / "log.parquet", request.param))
    plain = train(config, folder / "run").model
    rows = config.spec.read(config.requests)
    profile = np.linspace(1, 2, config.spec.n_joint)
    anchor, _ = fit_anchor(plain.values, profile, rows, [(plain.values, rows)], config.spec, 3, 0.5)
    Predictor(plain.scorer, config, plain.encoder, plain.device, anchor).save(folder / "anchored.pt")
    return folder / "anchored.pt"


def _states(rows: int = 150) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "place": rng.integers(0, 4, rows).astype(str),  # the last was never seen
            "segment": rng.integers(0, 9, rows).astype(str),
            "price": rng.uniform(0, 12, rows),
        }
    )


def test_an_anchored_checkpoint_loads_and_gives_anchored_values(checkpoint: Path) -> None:
    plain, anchored = (Predictor.load(one) for one in (checkpoint.parent / "run/best.pt", checkpoint))
    assert plain.anchor is None
    assert anchored.anchor is not None
    expected = anchored.anchor.apply(plain.values(_states()))
    assert np.allclose(anchored.values(_states()), expected, rtol=1e-6)
    assert not np.allclose(anchored.values(_states()), plain.values(_states()), rtol=0.01)


def test_chosen_pairs_have_the_values_of_the_whole_table(checkpoint: Path) -> None:
    model, rng = Predictor.load(checkpoint), np.random.default_rng(1)
    rows, joint = rng.integers(0, 150, 400), rng.integers(0, model.spec.n_joint, 400)
    assert np.allclose(model.at(_states(), rows, joint), model.values(_states())[rows, joint], rtol=1e-6)


def test_saving_again_changes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    Predictor.load(checkpoint).save(tmp_path / "again.pt")
    first, again = (
        torch.load(one, weights_only=True)["payload"]["anchor"] for one in (checkpoint, tmp_path / "again.pt")
    )
    assert first.keys() == again.keys()
    assert all(np.array_equal(np.asarray(first[name]), np.asarray(again[name])) for name in first)


def test_a_checkpoint_from_before_anchors_still_loads(checkpoint: Path) -> None:
    content = torch.load(checkpoint.parent / "run/best.pt", weights_only=True)
    assert "anchor" not in content["payload"]
    assert Predictor.load(checkpoint.parent / "run/best.pt").anchor is None


def test_no_broken_part_of_an_anchor_gets_through(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)

    def serve(path: Path) -> None:
        assert np.isfinite(Predictor.load(path).values(_states(4))).all()

    inside = content | {"payload": {"anchor": content["payload"]["anchor"]}}
    accepted = []
    for name, one in broken_leaves(inside):
        whole = one | {"payload": content["payload"] | one["payload"]}
        if not refused(serve, save_as_is(whole, tmp_path / "bad.pt")):
            accepted.append(name)
    # half-precision numbers are numbers, and without an anchor a checkpoint is a plain one
    rightly = ("anchor removed", "anchor = None", "anchor.floor = 0.5", "anchor.slope = 0.5", "anchor.level = 0.5")
    assert [name for name in accepted if not name.startswith(rightly) and "float16" not in name] == []


def test_an_anchor_of_another_action_space_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["payload"]["anchor"] = _payload()
    with pytest.raises(UserError, match=r"bad\.pt: anchor: centre has the shape \(6,\); expected \(24,\)"):
        Predictor.load(save_as_is(content, tmp_path / "bad.pt"))
