"""The programs awrq_mixer.profile and awrq_mixer.anchor: what they write, what they read, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from awrq_mixer.anchor import anchor
from awrq_mixer.anchoring.evidence import Slopes
from awrq_mixer.anchoring.global_profile import read_profile, write_profile
from awrq_mixer.anchoring.profile_figure import draw_slopes
from awrq_mixer.config import AnchorConfig, ProfileConfig, TrainConfig
from awrq_mixer.profile import profile
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.train import train
from marca_common.errors import UserError
from marca_common.files import read_json
from tests.awrq_mixer.conftest import SPEC, tiny_config
from tests.reference.table_edits import with_cell, with_columns

ROWS = 1200
STATE = {**SPEC["state"], "price": "numeric"}


@pytest.fixture(scope="module")
def folder(draw_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a numeric column and a surrogate; a learner trained on it for a second; its profile."""
    folder = tmp_path_factory.mktemp("anchoring")
    world = draw_world(folder, rows=ROWS)
    rng = np.random.default_rng(1)
    frame = world.frame.assign(
        price=rng.normal(10, 2, ROWS), clicks=world.truth(world.frame)[:, 0] * rng.gamma(9, 1, ROWS)
    )
    frame.to_parquet(folder / "log.parquet", index=False)
    train(TrainConfig.model_validate(tiny_config(folder / "log.parquet", "awrq_mixer")), folder / "learner")
    profile(_profile_config(folder), folder / "profile")
    return folder


def _profile_config(folder: Path, **settings: Any) -> ProfileConfig:
    values = {"requests": str(folder / "log.parquet"), "spec": SPEC | {"state": STATE}, "surrogate": "clicks"}
    return ProfileConfig.model_validate(values | settings)


def _anchor_config(folder: Path, **settings: Any) -> AnchorConfig:
    values = {
        "checkpoint": str(folder / "learner/best.pt"),
        "requests": str(folder / "log.parquet"),
        "profile": str(folder / "profile/profile.csv"),
        "directions": 3,
        "reference_rows": 200,
    }
    return AnchorConfig.model_validate(values | settings)


def _edited(folder: Path, edit: Any, at: Path) -> str:
    edit(pd.read_parquet(folder / "log.parquet")).to_parquet(at, index=False)
    return str(at)


def _bytes(run: Path) -> dict[str, bytes]:
    """Content of the files that say what a run found."""
    return {
        one.name: one.read_bytes() for one in sorted(run.iterdir()) if one.suffix in (".csv", ".pt", ".json", ".png")
    }


def _last_tenth(frame: pd.DataFrame) -> pd.DataFrame:
    """Other states, actions and amounts in the rows that are for tests only."""
    kept, segments = frame.head(round(0.9 * len(frame))), [f"a{i % 20}" for i in frame.index]  # many, and sorted first
    other = frame.assign(place="elsewhere", segment=segments, b1=1, b2=2, b3=3, money=1e4, clicks=0.0, price=-5.0)
    return pd.concat([kept, other.iloc[len(kept) :]])


def test_the_profile_program_writes_what_it_found(folder: Path) -> None:
    run, config = folder / "profile", _profile_config(folder)
    assert {"config.yaml", "versions.json", "summary.json", "profile.csv", "profile.png"} == {
        p.name for p in run.iterdir()
    }
    table, summary = pd.read_csv(run / "profile.csv"), read_json(run / "summary.json")
    values = read_profile(run / "profile.csv", config.spec)
    assert list(table) == ["b1", "b2", "b3", "value"]
    assert len(table) == config.spec.n_joint
    best = table.loc[table["value"].idxmax()]
    log = pd.read_parquet(folder / "log.parquet").head(round(0.9 * ROWS))
    assert summary == {
        "rows": len(log),
        "mean_value": pytest.approx(values.mean()),
        "logged_mean": pytest.approx(log["money"].mean()),
        "best_value": values.max(),
        "best_action": f"{best['b1']:.0f}_{best['b2']:.0f}_{best['b3']:.0f}",
    }


def test_the_anchor_program_writes_what_it_found(folder: Path, tmp_path: Path) -> None:
    found = anchor(_anchor_config(folder), tmp_path / "run")
    names = {"config.yaml", "versions.json", "summary.json", "anchored.pt", "slopes.csv", "slopes.png"}
    assert names == {one.name for one in (tmp_path / "run").iterdir()}
    table, summary = pd.read_csv(tmp_path / "run/slopes.csv"), read_json(tmp_path / "run/summary.json")
    assert list(table) == ["direction", "slope", "se", "share"]
    assert table["direction"].tolist() == ["1", "2", "3", "rest"]
    assert table["share"].between(0, 1).all()
    assert summary["learner"] == "awrq_mixer"
    assert summary["held_out_rows"] == ROWS // 10
    assert summary["directions_kept"] == (table["share"] > 0).sum()
    states = pd.read_parquet(folder / "log.parquet").head(50)
    model, plain = (Predictor.load(one) for one in (tmp_path / "run/anchored.pt", folder / "learner/best.pt"))
    assert np.array_equal(model.values(states), found.model.values(states))
    assert model.anchor is not None
    assert np.allclose(model.values(states), model.anchor.apply(plain.values(states)), rtol=1e-5)


def test_the_mean_over_logged_states_is_the_profile(folder: Path, tmp_path: Path) -> None:
    anchor(_anchor_config(folder, reference_rows=10**6), tmp_path / "run")
    model = Predictor.load(tmp_path / "run/anchored.pt")
    logged = pd.read_parquet(folder / "log.parquet").head(round(0.8 * ROWS))  # the training rows
    expected = read_profile(folder / "profile/profile.csv", model.spec)
    assert np.allclose(model.values(logged).mean(axis=0), expected, rtol=1e-3)


@pytest.mark.parametrize("surrogate", [None, "clicks"])
def test_test_rows_do_not_touch_the_profile(folder: Path, surrogate: str | None, tmp_path: Path) -> None:
    log = _edited(folder, _last_tenth, tmp_path / "log.parquet")
    for name, path in (("one", str(folder / "log.parquet")), ("other", log)):
        profile(_profile_config(folder, requests=path, surrogate=surrogate), tmp_path / name)
    assert _bytes(tmp_path / "one")["profile.csv"] == _bytes(tmp_path / "other")["profile.csv"]


def test_test_rows_do_not_touch_the_anchor(folder: Path, tmp_path: Path) -> None:
    log = _edited(folder, _last_tenth, tmp_path / "log.parquet")
    one = anchor(_anchor_config(folder), tmp_path / "one")
    other = anchor(_anchor_config(folder, requests=log), tmp_path / "other")
    pd.testing.assert_frame_equal(one.slopes, other.slopes)
    assert _bytes(tmp_path / "one")["anchored.pt"] == _bytes(tmp_path / "other")["anchored.pt"]


def test_validation_rows_touch_the_anchor(folder: Path, tmp_path: Path) -> None:
    def dearer(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(money=frame["money"] * np.where((frame.index >= 960) & (frame["b1"] == 1), 30, 1))

    one = anchor(_anchor_config(folder), tmp_path / "one")
    other = anchor(_anchor_config(folder, requests=_edited(folder, dearer, tmp_path / "log.parquet")), tmp_path / "two")
    assert not np.allclose(one.slopes["slope"], other.slopes["slope"])


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        profile(_profile_config(folder), tmp_path / f"profile-{name}")
        anchor(_anchor_config(folder), tmp_path / f"anchor-{name}")
    assert _bytes(tmp_path / "profile-one") == _bytes(tmp_path / "profile-other")
    assert _bytes(tmp_path / "anchor-one") == _bytes(tmp_path / "anchor-other")
    another = anchor(_anchor_config(folder, seed=1), tmp_path / "seed-1").model.anchor
    first = Predictor.load(tmp_path / "anchor-one/anchored.pt").anchor
    assert first is not None
    assert another is not None
    assert not np.array_equal(another.centre, first.centre)


def _refused(call: Any, out: Path) -> str:
    with pytest.raises(UserError) as refused:
        call(out)
    assert not out.exists()
    return str(refused.value)


def test_a_checkpoint_is_anchored_once(folder: Path, tmp_path: Path) -> None:
    anchor(_anchor_config(folder), tmp_path / "run")
    again = _anchor_config(folder, checkpoint=str(tmp_path / "run/anchored.pt"))
    text = _refused(lambda out: anchor(again, out), tmp_path / "again")
    assert text == f"{tmp_path / 'run/anchored.pt'}: anchored already; expected a checkpoint of awrq_mixer.train"


def test_validation_rows_without_revenue_are_refused(folder: Path, tmp_path: Path) -> None:
    edit = with_columns(money=lambda f: f["money"].where((f.index < 960) | (f.index >= 1080), 0.0))
    config = _anchor_config(folder, requests=_edited(folder, edit, tmp_path / "log.parquet"))
    text = _refused(lambda out: anchor(config, out), tmp_path / "run")
    assert text.startswith(f"{tmp_path / 'log.parquet'}: 120 validation rows with 0 of revenue; expected at least 20")


def test_too_few_validation_rows_are_refused(folder: Path, tmp_path: Path) -> None:
    config = _anchor_config(folder, requests=_edited(folder, lambda f: f.head(190), tmp_path / "log.parquet"))
    assert "19 validation rows with" in _refused(lambda out: anchor(config, out), tmp_path / "run")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (with_columns(money=0.0), "column 'money': is 0 in all 1080 rows"),
        (with_columns(clicks=0.0), "column 'clicks': is 0 in all 1080 rows"),
        (lambda f: f.drop(columns="clicks"), "column 'clicks' is missing"),
        (with_cell("clicks", -1.0), "column 'clicks': got -1.0; expected a number of at least 0"),
        (with_cell("money", 1e300), "column 'money': got 1e+300; expected numbers below"),
        (with_cell("clicks", 1e30), "column 'clicks': got 1e+30, a million times as far"),
    ],
)
def test_a_log_without_a_profile_is_one_line(edit: Any, expected: str, folder: Path, tmp_path: Path) -> None:
    config = _profile_config(folder, requests=_edited(folder, edit, tmp_path / "log.parquet"))
    text = _refused(lambda out: profile(config, out), tmp_path / "run")
    assert text.startswith(str(tmp_path / "log.parquet"))
    assert expected in text


def test_a_bad_profile_is_one_line_and_leaves_with_2(folder: Path, tmp_path: Path) -> None:
    table = pd.read_csv(folder / "profile/profile.csv")
    table.iloc[:-1].to_csv(tmp_path / "short.csv", index=False)
    sets = [
        f"{key}={value}"
        for key, value in _anchor_config(folder, profile=str(tmp_path / "short.csv")).model_dump().items()
    ]
    command = [
        sys.executable,
        "-m",
        "awrq_mixer.anchor",
        *(f"--set={one}" for one in sets),
        "--out",
        str(tmp_path / "run"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    expected = f"error: {tmp_path / 'short.csv'}: 23 rows; expected each of 24 joint actions once\n"
    assert ended.stderr == expected
    assert not (tmp_path / "run").exists()


def test_a_learner_that_is_flat_is_anchored_to_the_profile_alone(folder: Path, tmp_path: Path) -> None:
    plain = Predictor.load(folder / "learner/best.pt")
    plain.scorer = _Flat(plain.scorer)
    plain.save(tmp_path / "flat.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("awrq_mixer.anchor.Predictor.load", lambda _: plain)
        found = anchor(_anchor_config(folder), tmp_path / "run")
    assert found.slopes["share"].eq(0).all()
    table, summary = pd.read_csv(tmp_path / "run/slopes.csv"), read_json(tmp_path / "run/summary.json")
    assert table["se"].isna().all()
    assert summary["level_slope_se"] is None
    states, expected = (
        pd.read_parquet(folder / "log.parquet").head(5),
        read_profile(folder / "profile/profile.csv", plain.spec),
    )
    assert np.allclose(found.model.values(states), expected, rtol=1e-4)


class _Flat:
    """The same number for every state and joint action; saved as what it stands in for."""

    def __init__(self, scorer: Any) -> None:
        self.scorer, self.to_payload = scorer, scorer.to_payload

    def values(self, codes: Any, numbers: Any) -> Any:
        return self.scorer.values(codes, numbers) * 0 + 3


def test_figures_of_odd_slopes_are_drawn(folder: Path, tmp_path: Path) -> None:
    anchored = anchor(_anchor_config(folder), tmp_path / "run").model.anchor
    assert anchored is not None
    odd = Slopes(1.0, np.inf, np.array([0.0, 7.0, -9.0, 0.4]), np.array([np.inf, 0.1, 0.0, 3.0]))
    assert draw_slopes(odd, anchored, 2.0, "awrq_mixer", tmp_path / "slopes.png").stat().st_size > 5000


def test_a_profile_of_another_log_is_refused(folder: Path, tmp_path: Path) -> None:
    other = _profile_config(folder, spec=SPEC | {"state": STATE, "sizes": {"b1": 2, "b2": 3, "b3": 5}}).spec
    write_profile(np.ones(30), other, tmp_path / "profile.csv")
    text = _refused(
        lambda out: anchor(_anchor_config(folder, profile=str(tmp_path / "profile.csv")), out), tmp_path / "run"
    )
    assert "column 'b3': got 4; expected a whole number from 0 to 3" in text
