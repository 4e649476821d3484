"""The page of a run, from a run folder made by hand."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import marca_report.waterfall
from marca_common.tables import write_table
from marca_report.day_sections import Days, result_section, result_table
from marca_report.run_page import write_run_page
from marca_report.waterfall import draw_waterfall

# name: uplift over static, controller
STRATEGIES: dict[str, tuple[float, str | None]] = {
    "static": (0.0, None),
    "static_hourly": (13.0, None),
    "priced_blind": (16.5, "pi"),
    "dcaf": (12.0, None),
    "rl_mpca": (10.0, None),
    "regression_pi": (15.0, "pi"),
    "marca_feedback": (14.0, "pi"),
    "marca_mpc": (13.5, "mpc"),
    "plus_feedback": (22.0, "pi"),
    "plus_mpc": (21.9, "mpc"),
    "true_q": (29.8, "pi"),
    "true_qc": (30.3, "pi"),
    "oracle": (31.0, None),
}
STEPS = {
    "static mixture": "static",
    "clock": "static_hourly",
    "feedback": "priced_blind",
    "who gets what": "plus_feedback",
    "horizon": "plus_mpc",
    "true Q": "true_q",
    "true C": "true_qc",
    "clairvoyant λ": "oracle",
}
ACTIONS = {"a1": {"agent": "retrieval", "kind": "channels", "levels": [["x"], ["x", "y"]], "channels": []}}


def attribution() -> pd.DataFrame:
    table = pd.DataFrame({"step": list(STEPS), "strategy": list(STEPS.values())})
    table["uplift_pct"] = [STRATEGIES[name][0] for name in STEPS.values()]
    table["gain_points"] = table["uplift_pct"].diff().fillna(0.0)
    ends = table["gain_points"].where(table["strategy"] != "static")
    return table.assign(ci_low=ends - 0.5, ci_high=ends + 0.5)


def numbers(names: list[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "revenue": 100 + STRATEGIES[name][0],
            "uplift_pct": STRATEGIES[name][0],
            "uplift_over_blind_pct": STRATEGIES[name][0] - 16.5,
            "ci_low": None,
            "ci_high": None,
            "mu": 0.9,
            "nu": 0.001,
        }
        for name in names
    }


def config(names: list[str], **day: Any) -> dict[str, Any]:
    strategies = {name: {"label": name, "controller": {"name": STRATEGIES[name][1]}} for name in names}
    world = {"name": "small", "cost": {"services": {"ranking": {}}}, "cascade": {"actions": ACTIONS}}
    settings = {"policy": "awrq", "days": 1.0, "seeds": [100], "baseline": "static", "strategies": strategies}
    return {"world": world, "logs": None, "day": settings | day}


ROLES = {"hourly": "static_hourly", "blind": "priced_blind", "oracle": "oracle", "attribution": STEPS}


def summary(found: dict[str, Any], **more: Any) -> dict[str, Any]:
    ranks = {key: {"awrq": 0.5} for key in ("spearman", "spearman_within", "return_pct", "return_pct_optimal")}
    return {
        "stage_s": {"logs": 100.0, "day": 20.0},
        "peak_rss_mb": 900.0,
        "wall_s": 1.0,
        "strategies": found,
        **ranks,
        **more,
    }


def make_run(folder: Path, settings: dict[str, Any], served: list[str]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    cells = [(model, value, choice) for model in ("truth", "awrq") for value in "ab" for choice in (0, 1)]
    mix = pd.DataFrame(cells, columns=["model", "value", "choice"])
    (folder / "offline").mkdir()
    mix.assign(allocation="price", by="user_value", sub_action="a1", requests=5, share=0.5).to_csv(
        folder / "offline/action_mix.csv", index=False
    )
    (folder / "day").mkdir()
    minute = np.arange(60)
    rows = [
        pd.DataFrame({"minute": minute, "qps": 5.0, "revenue": 1 + STRATEGIES[name][0] / 100}).assign(
            strategy=name,
            seed=100,
            group="north",
            timestamp=pd.Timestamp("2026-03-01") + pd.to_timedelta(minute, unit="min"),
            cpu_ranking=50.0,
            budget_ranking=60.0,
            lambda_ranking=0.001,
        )
        for name in served
    ]
    write_table(pd.concat(rows), folder / "day/minutes.parquet")
    kinds = [(one, by, value) for one in served for by in ("user_value", "placement", "hour") for value in "12"]
    counts = {"requests": 2.0, "revenue": 1.0, "core_ms": 8.0, "a1=0": 1.0, "a1=1": 1.0}
    table = pd.DataFrame(kinds, columns=["strategy", "dimension", "value"]).assign(**counts)
    table.to_csv(folder / "day/who_gets_what.csv", index=False)


def add_pictures(folder: Path) -> int:
    """The PNGs that the stages of a run leave for its page; returns how many."""
    stems = ("budget_curve", "return_pct", "return_vs_spearman")
    paths = [folder / "offline" / f"{stem}.png" for stem in stems]
    paths += [folder / "judged/awrq" / f"{stem}.png" for stem in ("calibration", "capture")]
    paths += [folder / "costs/maps/cost_curves.png", folder / "balancer/awrq/training.png"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG")
    return len(paths)


def words(page: Path) -> str:
    """What a reader of the page sees, pictures left out."""
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(text))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that are drawn, in place of their files."""
    kept: list[Figure] = []
    monkeypatch.setattr(marca_report.waterfall, "save_figure", lambda figure, path: kept.append(figure))
    return kept


def test_each_bar_of_the_waterfall_begins_where_the_one_above_ends(drawn: Any, tmp_path: Path) -> None:
    draw_waterfall(attribution(), tmp_path / "w.png")
    axis = drawn[0].axes[0]
    bars = [bar[0] for bar in axis.containers if hasattr(bar, "patches")]
    assert len(bars) == len(STEPS)
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    np.testing.assert_allclose(ends, [0, 13, 16.5, 22, 21.9, 29.8, 30.3, 31])
    np.testing.assert_allclose([bar.get_x() for bar in bars[1:]], ends[:-1])
    assert [bar.get_hatch() is not None for bar in bars] == [False] * 5 + [True] * 3
    gain, loss = to_hex(bars[3].get_facecolor()), to_hex(bars[4].get_facecolor())
    assert gain != loss
    said = [text.get_text() for text in axis.texts]
    assert {"0 %", "+13.0 → +13.0 %", "−0.1 → +21.9 %", "Only the truth can reach this"} <= set(said)


def test_intervals_are_drawn_where_they_are_known_and_at_the_level_reached(drawn: Any, tmp_path: Path) -> None:
    table = attribution()
    table.loc[3:, ["ci_low", "ci_high"]] = np.nan
    draw_waterfall(table, tmp_path / "w.png")
    whiskers = [one.lines[2][0].get_segments()[0][:, 0] for one in drawn[0].axes[0].containers if hasattr(one, "lines")]
    np.testing.assert_allclose(whiskers, [[12.5, 13.5], [16.0, 17.0]])


def test_a_waterfall_without_steps_of_the_truth_does_not_speak_of_it(drawn: Any, tmp_path: Path) -> None:
    draw_waterfall(attribution().iloc[:4], tmp_path / "w.png")
    assert not any("truth" in text.get_text() for text in drawn[0].axes[0].texts)


def test_of_thirteen_strategies_five_are_drawn_and_all_are_in_the_table(tmp_path: Path) -> None:
    names = list(STRATEGIES)
    served = [name for name in names if name != "dcaf"]
    make_run(tmp_path, config(names, **ROLES), served)
    attribution().to_csv(tmp_path / "day/attribution.csv", index=False)
    found = summary(numbers(served), failed={"dcaf": "no checkpoint"})
    days = Days.read(tmp_path / "day", config(names, **ROLES), found)
    assert list(days.shown()) == ["static", "static_hourly", "priced_blind", "plus_feedback", "plus_mpc"]
    table = result_table(days).set_index("strategy")
    assert list(table.index) == ["dcaf, failed: no checkpoint" if name == "dcaf" else name for name in names]
    assert table.loc["plus_mpc", "over static, %"] == "+21.9"
    assert table.loc["rl_mpca", "over priced_blind, %"] == "−6.5"
    assert "its 95 % interval" not in table
    files = write_run_page(tmp_path, found, tmp_path)
    assert "figures/waterfall.png" in files
    text = words(tmp_path / "report.html")
    assert "+22.0 % revenue of plus_feedback over static" in text
    assert "120 s time of all stages" in text
    assert "900 MB" in text


def test_every_figure_has_its_sentence(tmp_path: Path) -> None:
    names = ["static", "marca_mpc"]
    make_run(tmp_path, config(names), names)
    others = add_pictures(tmp_path)
    write_run_page(tmp_path, summary(numbers(names)), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, flags=re.DOTALL)
    assert len(captions) == page.count("<img ") == 7 + others
    assert all(caption.strip().endswith(".") for caption in captions)


def test_a_run_without_attribution_compares_with_bars(tmp_path: Path) -> None:
    names = ["static", "marca_feedback", "marca_mpc"]
    make_run(tmp_path, config(names), names)
    files = write_run_page(tmp_path, summary(numbers(names)), tmp_path)
    assert "figures/result.png" in files
    assert "figures/waterfall.png" not in files


def test_the_baseline_goes_by_its_label_in_the_waterfall(drawn: Any, tmp_path: Path) -> None:
    settings = config(list(STRATEGIES), **ROLES)
    settings["day"]["strategies"]["static"]["label"] = "static mixture"
    table = attribution().replace({"step": {"static mixture": "static"}})
    nothing = pd.DataFrame()
    days = Days(settings, numbers(list(STRATEGIES)), {}, nothing, nothing, table)
    result_section(days, tmp_path)
    assert drawn[0].axes[0].get_xlabel() == "revenue over the static mixture, %"


def test_a_run_on_own_logs_never_speaks_of_truth_or_commissioning(tmp_path: Path) -> None:
    settings = config(["static", "marca_mpc"])
    make_run(tmp_path, settings, ["static", "marca_mpc"])
    settings |= {"world": None, "logs": {"requests": "requests.csv", "spec": {"sizes": {"a1": 2}}}, "uplift": None}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    found = summary({})
    del found["strategies"]
    add_pictures(tmp_path)
    write_run_page(tmp_path, found, tmp_path)
    text = words(tmp_path / "report.html")
    assert not re.search(r"\btru(e|th)|world|commission|simulat", text, flags=re.IGNORECASE)
    assert text.count("What a request earns at each budget") == 1
