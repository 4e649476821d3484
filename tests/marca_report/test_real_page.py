"""The page of the real cascade, from a build and tables made by hand; and from a real tiny build (slow)."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from marca_common.cli import run_cli
from marca_common.errors import UserError
from marca_common.figures import new_figure, save_figure
from marca_report.real_data import RealPageConfig, real_data
from recommender.build import build
from recommender.movielens.wheel import LICENCE
from tests.recommender.conftest import tiny_config
from tests.recommender.tiny_movielens import tiny_ratings, write_100k

SUMMARY: dict[str, Any] = {
    "licence": "Cite <Harper & Konstan>",
    "users": 24, "films": 60, "ratings": 960, "visits": 1234, "joint_actions": 810, "distinct_actions": 298,
    "cost_ms": {"least": 0.1, "most": 1.5, "between_round_cv_pct": 2.25},
    "value": {"least": 0.2, "best": 0.5, "kept_answer": 0.3, "best_with": {"none": 0.4, "small": 0.5}, "split_half_best": 0.35,
              "own_half_best": 0.9},
    "variance_share": {"between_visits": 0.8, "profile": 0.01, "level": {"user_value": 0.05, "hour": -0.01, "all": 0.0},
                       "departure": {"user_value": 0.0001, "hour": 0.0, "all": 0.0}},
    "rewarded_share": 0.17, "revenue_cv": 3.1, "cpu_seconds": {"models": 9.4, "costs": 100.2}, "peak_rss_mb": 966.4,
}  # fmt: skip


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(new_figure(width=2, height=1)[0], path)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A build's folder by hand, and two folders for results that are empty."""
    folder = tmp_path / "build"
    for name in ("values", "costs"):
        picture(folder / f"{name}.png")
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    for name in ("own", "stored"):
        (tmp_path / name).mkdir()
    return folder


def page(build_folder: Path) -> tuple[str, dict[str, Any]]:
    """Its text without tags and pictures, and its summary."""
    root = build_folder.parent
    found = real_data(RealPageConfig(build=build_folder, results=[root / "own", root / "stored"]), root / "page")
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", found.page.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(text).split()), found.summary


def budgets(lead: float) -> pd.DataFrame:
    rows = [("awrq_mixer", 0.36, lead), ("static", 0.333, 0.0)]
    return pd.DataFrame(
        [
            (b, name, value, one, one - 1.0, one + 1.0, "100+", "x86 x2")
            for b in (0.1, 0.35)
            for name, value, one in rows
        ],
        columns=["budget", "strategy", "value", "lead", "lead_low", "lead_high", "seed", "machine"],
    )


def live() -> pd.DataFrame:
    row = {"strategy": "static_hourly", "cpu_mean": 53.44, "cpu_over_target": 6.28, "value": 0.3288, "lead_pct": 0.0}
    return pd.DataFrame([row | {"lead_low": 0.0, "lead_high": 0.0, "p99_ms": 48.74, "lost": 3}])


def test_a_build_alone_makes_a_page_that_names_what_is_not_measured(made: Path) -> None:
    text, summary = page(made)
    assert summary == {"report": "report.html", "shown": []}
    for name in ("movielens", "real_costs", "live_ab"):
        assert f"Not measured yet: python -m benchmarks.{name}." in text
    assert "1,234 visits" in text
    assert "110 core-seconds of the build" in text
    assert "Fixed actions cost 0.100 to 1.500 core-ms per request" in text
    assert "one half and judging it by the other earns 0.350; the best fixed action earns 0.500" in text
    assert "user_value +5.0 +0.01 hour −1.0 +0.00" in text
    assert "Cite <Harper & Konstan>" in text  # escaped in the page
    assert (made.parent / "page/figures/limits.png").stat().st_size > 5000
    assert (made.parent / "page/report.html").read_text(encoding="utf-8").count("data:image/png") == 3


def test_own_results_go_before_stored_ones_with_the_figure_of_the_same_run(made: Path) -> None:
    own, stored = made.parent / "own", made.parent / "stored"
    budgets(7.0).to_csv(stored / "movielens.csv", index=False)
    picture(stored / "movielens.png")
    assert "awrq_mixer +7.0 (+6.0 to +8.0) +7.0 (+6.0 to +8.0)" in page(made)[0]
    assert (made.parent / "page/report.html").read_text(encoding="utf-8").count("data:image/png") == 4
    budgets(-2.0).to_csv(own / "movielens.csv", index=False)
    text, summary = page(made)
    assert "strategy 0.1 0.35 static 0.333 money 0.333 money awrq_mixer −2.0 (−3.0 to −1.0)" in text
    assert f"Shown: {own / 'movielens.csv'}, seed 100+, machine x86 x2." in text
    assert summary["shown"] == [str(own / "movielens.csv")]
    assert (made.parent / "page/report.html").read_text(encoding="utf-8").count("data:image/png") == 3


def test_learners_costs_and_the_live_run_are_shown(made: Path) -> None:
    own = made.parent / "own"
    learner = {"learner": "glm", "seeds": 1, "lead": 1.084, "spearman_visits": 0.27, "spearman_actions": 0.85}
    pd.DataFrame([learner | {"lead_se": 0.5, "spearman_visits_se": None}]).to_csv(
        own / "table1_movielens.csv", index=False
    )
    costs = (
        "cv_median_pct",
        "fit_error_pct",
        "left_out_error_pct",
        "replay_error_pct",
        "mix_error_pct",
        "worst_mix_error_pct",
    )
    pd.DataFrame([dict.fromkeys(costs, 4.4671) | {"lost": 0.0}]).to_csv(own / "real_costs_summary.csv", index=False)
    picture(own / "real_costs.png")
    live().to_csv(own / "live_ab.csv", index=False)
    text, summary = page(made)
    assert "glm 1 1.08 ± 0.50 0.27 0.85" in text
    assert "all mixes of actions that budgets choose, % 4.467" in text
    assert "requests lost 0" in text
    assert "static_hourly 53.4 6.3 0.329 +0.0 (+0.0 to +0.0) 49 3" in text
    assert len(summary["shown"]) == 3
    assert (made.parent / "page/report.html").read_text(encoding="utf-8").count("data:image/png") == 4


@pytest.mark.parametrize(
    "frame, said",
    [
        (
            live().drop(columns="p99_ms"),
            r"live_ab.csv: has no column 'p99_ms'; expected a table as its benchmark writes it",
        ),
        (live().head(0), r"live_ab.csv: has no rows"),
    ],
)
def test_a_table_of_another_kind_is_refused(made: Path, frame: pd.DataFrame, said: str) -> None:
    frame.to_csv(made.parent / "own/live_ab.csv", index=False)
    with pytest.raises(UserError, match=said):
        page(made)
    assert not (made.parent / "page").exists()


def test_without_a_finished_build_the_program_leaves_with_2_and_one_line(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def left(*sets: str) -> str:
        with pytest.raises(SystemExit) as end:
            run_cli(
                real_data, RealPageConfig, default_config="configs/recommender/page.yaml", default_out="runs/real",
                argv=[*sets, "--out", str(made.parent / "page")],
            )  # fmt: skip
        assert end.value.code == 2
        return capsys.readouterr().err

    said = left("--set", f"build={made / 'none'}")
    assert re.fullmatch(
        r"error: build: .*none has no summary.json; expected a finished build \(.*recommender.build\)\n", said
    )
    (made / "summary.json").write_text(json.dumps({key: one for key, one in SUMMARY.items() if key != "licence"}))
    said = left("--set", f"build={made}")
    assert re.fullmatch(r"error: .*summary.json: has no 'licence'; expected the summary of .*, run it again\n", said)
    assert not (made.parent / "page").exists()


@pytest.mark.slow
def test_what_make_real_does_on_a_tiny_set(tmp_path: Path) -> None:
    """The build of a synthetic set, then its page."""
    built = build(tiny_config(write_100k(tmp_path / "data", tiny_ratings())), tmp_path / "recommender")
    found = real_data(RealPageConfig(build=built.folder, results=[tmp_path]), tmp_path / "page")
    text = html.unescape(found.page.read_text(encoding="utf-8"))
    assert LICENCE in text
    assert text.count("data:image/png") == 3
    assert f"{built.summary['value']['own_half_best']:.3f}" in text
