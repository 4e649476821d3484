from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.html_page import Figure, Section, write_page
from marca_report.day_figures import draw_cpu, draw_lambda, draw_revenue, draw_uplifts
from marca_report.looks import BASELINE_COLOR, strategy_looks
from marca_report.who_gets_what import Choices, draw_action_mix, draw_computation, grouped

SERVICES = ["retrieval", "ranking"]
START = pd.Timestamp("2026-02-02 06:00")
CHOICES = {"a1": Choices("channels", list("abcd")), "a2": Choices("queue", list("12345"))}
STRATEGIES = {"static": {}, "marca_feedback": {"label": "feedback"}, "marca_mpc": {"color": "#0072B2"}}
LOOKS = strategy_looks(STRATEGIES, "static")


@pytest.fixture
def minutes() -> Any:
    rng = np.random.default_rng(0)
    rows = []
    for strategy, gain in {"static": 1.0, "marca_feedback": 1.1, "marca_mpc": 1.15}.items():
        for seed in (100, 101):
            for group in ("idc0", "idc1"):
                for minute in range(0, 1440, 10):
                    load = 1 - np.cos(minute / 1440 * 2 * np.pi)
                    row = {
                        "strategy": strategy,
                        "seed": seed,
                        "group": group,
                        "minute": minute,
                        "timestamp": START + pd.Timedelta(minutes=minute),
                        "qps": 50 * load + 10,
                    }
                    row |= {
                        "revenue": gain * load + rng.random() * 0.1,
                        "requests": 100,
                        "timeouts": 0,
                        "degradation": 0,
                    }
                    for service in SERVICES:
                        row |= {f"cpu_{service}": 30 * load + rng.random(), f"budget_{service}": 60}
                        row |= {f"lambda_{service}": 0.001 * load}
                    rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture
def breakdown() -> Any:
    rows = []
    for strategy in ("static", "marca_feedback", "marca_mpc"):
        for dimension, values in {
            "user_value": range(100),
            "placement": ["p0", "p1", "p10"],
            "hour": range(24),
        }.items():
            for value in values:
                row = {"strategy": strategy, "dimension": dimension, "value": str(value), "requests": 10.0}
                row |= (
                    {"revenue": 1.0, "core_ms": 40.0}
                    | {f"a1={i}": 2.5 for i in range(4)}
                    | {f"a2={i}": 2.0 for i in range(5)}
                )
                rows.append(row)
    return pd.DataFrame(rows)


def test_values_stand_in_natural_order_and_long_dimensions_in_tenths(breakdown: Any) -> None:
    assert list(grouped(breakdown, "static", "placement").index) == ["p0", "p1", "p10"]
    tenths = grouped(breakdown, "static", "user_value")
    assert list(tenths.index) == list(range(1, 11))
    assert tenths["requests"].tolist() == [100.0] * 10


def test_the_page_holds_every_figure_and_needs_no_other_file(minutes: Any, breakdown: Any, tmp_path: Path) -> None:
    figures = [
        draw_uplifts(
            {"static": {"uplift_pct": 0}, "marca_mpc": {"uplift_pct": 3}}, tmp_path / "u.png", LOOKS, "static"
        ),
        draw_revenue(minutes, tmp_path / "revenue.png", LOOKS, "static"),
        draw_cpu(minutes, SERVICES, tmp_path / "cpu.png", LOOKS),
        draw_lambda(minutes, SERVICES, tmp_path / "lambda.png", LOOKS),
        draw_computation(breakdown, tmp_path / "computation.png", LOOKS),
        draw_action_mix(breakdown, CHOICES, "marca_mpc", tmp_path / "mix.png"),
    ]
    table = pd.DataFrame({"learner": ["<b>"], "r_s": [0.5]})
    page = write_page(
        tmp_path / "r.html",
        "T",
        "lead",
        {"uplift": "+3 %"},
        [Section("S", "text", [Figure(one, f"see {one.stem}") for one in figures], {"scores": table})],
    )
    html = page.read_text()
    assert html.count("data:image/png;base64,") == len(figures)
    assert all(f"<figcaption>see {one.stem}</figcaption>" in html for one in figures)
    assert "&lt;b&gt;" in html
    assert 'src="http' not in html


def test_a_missing_figure_is_not_papered_over(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "r.html", "T", "", {}, [Section("S", "", [Figure(tmp_path / "none.png")])])
    assert not (tmp_path / "r.html").exists()


def test_every_strategy_has_a_colour_and_a_label_of_its_own() -> None:
    looks = strategy_looks({**STRATEGIES, **{f"s{i}": {} for i in range(8)}}, "static")
    assert looks["static"].color == BASELINE_COLOR
    assert (looks["marca_feedback"].label, looks["marca_mpc"].label) == ("feedback", "marca_mpc")
    assert looks["marca_mpc"].color == "#0072B2"
    assert len({one.color for one in looks.values()}) == len(looks)
