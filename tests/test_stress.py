"""The table of stressed logs: leads seed by seed, what is said of a condition, and edits that change what they say they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.stress import CONDITIONS, draw, markdown, sparse, summarise, unique, wrong
from marca_common.requests import RequestSpec

SPEC = RequestSpec()


def _run(condition: str, learner: str, seed: int, capture: float, warned: float | str = np.nan) -> dict[str, object]:
    known = {"condition": condition, "learner": learner, "seed": seed, "warned": warned}
    return known | {"spearman_within": 0.9, "capture": capture, "capture_0.04": capture - 0.1, "capture_0.3": capture}


def test_a_lead_is_a_mean_over_common_seeds(tmp_path: Path) -> None:
    rows = [
        ("awrq_plus", 0, 0.5),
        ("awrq_plus", 1, 0.7),
        ("low_rank", 0, 0.4),
        ("low_rank", 1, 0.2),
        ("low_rank", 2, 0.9),
    ]
    runs = pd.DataFrame([_run("30000_rows", *row, warned="one" if row[1] else np.nan) for row in rows])
    table = summarise(runs).set_index("learner")
    rival = table.loc["low_rank"]
    assert rival["awrq_plus_ahead"] == pytest.approx(0.3)  # .1 and .5
    assert rival["awrq_plus_ahead_se"] == pytest.approx(0.2)
    assert rival["least_capture"] == pytest.approx(0.1)
    assert (table["seeds"].tolist(), table["warned"].tolist()) == ([2, 3], ["one", "one"])
    assert "| 30,000 rows | .60 ± .10 | .50 ± .21 (+.30 ± .20) |" in markdown(summarise(runs))
    draw(summarise(runs), tmp_path / "stress.png")
    assert (tmp_path / "stress.png").read_bytes().startswith(b"\x89PNG")


def test_edits_change_the_side_column_or_add_a_session() -> None:
    rng = np.random.default_rng(0)
    joint = SPEC.joint_table()[rng.integers(0, SPEC.n_joint, 4000)]
    log = pd.DataFrame(joint, columns=list(SPEC.sub_actions)).assign(predicted_value=2.0)
    assert (sparse(log, SPEC, rng)["predicted_value"] == 0).mean() == pytest.approx(0.8, abs=0.03)
    error = np.log(wrong(log, SPEC, rng)["predicted_value"] / 2)
    assert error.std() == pytest.approx(0.5, abs=0.05)
    assert error.groupby(SPEC.joint_index(log)).std().dropna().max() == pytest.approx(0, abs=1e-9)
    assert unique(log, SPEC, rng)["session"].nunique() == len(log)
    assert [name for name, one in CONDITIONS.items() if one.session] == ["every_state_unique"]
