"""The decision log: what was answered, whatever stops or fails, joined with outcomes for the next training."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from decision_fixtures import SPEC, STATES, asked, both, flushed, joint, metric, push, start

from examples.decision_service.config import JoinConfig
from examples.decision_service.decision_log import DecisionLog, read_log
from examples.decision_service.join import join
from marca_common.errors import UserError
from marca_common.files import read_json_lines


def test_the_log_says_what_was_answered_also_after_a_restart(tmp_path: Path) -> None:
    service = start(tmp_path, explore_share=0.5)
    answers = []
    for restart in range(2):
        service.push(push(both(0.02, 0.02 * restart)))
        answers += [asked(service, **dict(state)) for _, state in STATES.iterrows()]
        rows = service.many(pa.Table.from_pandas(STATES)).to_pylist()
        answers += [{**row, "actions": {name: row.pop(name) for name in ("a1", "a2")}} for row in rows]
        flushed(service)
        service.log.close()
        service = start(tmp_path, explore_share=0.5)
    logged = read_log(tmp_path / "log", SPEC).sort_values("request", ignore_index=True)
    said = pd.DataFrame([{**one, **one["actions"]} for one in answers])
    for name in ("request", "rule", "a1", "a2"):
        assert logged[name].tolist() == said[name].tolist(), name
    np.testing.assert_allclose(logged["propensity"], said["propensity"], rtol=1e-6)
    assert logged["user"].tolist() == STATES["user"].tolist() * 4
    assert logged["request"].is_unique


def test_a_disk_that_takes_no_more_is_counted(tmp_path: Path) -> None:
    service = start(tmp_path)
    for path in (tmp_path / "log").iterdir():
        path.unlink()
    (tmp_path / "log").rmdir()
    (tmp_path / "log").write_text("in the way")
    asked(service, user="7", idc="north")
    flushed(service)
    assert asked(service, user="7", idc="north")["rule"] == "stale"
    assert metric(service, "lost_log_rows_total") == 1


def test_noted_decisions_are_no_objects_that_would_hold_up_requests(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    gc.disable()
    try:
        before = gc.get_count()[0]
        for row in range(1000):
            log.one(row, 1, 0.5)
        assert gc.get_count()[0] - before < 10
    finally:
        gc.enable()
    log.write(log.take())
    assert pd.read_parquet(next(tmp_path.glob("*.parquet")))["state"].tolist() == list(range(1000))


def test_a_line_that_the_disk_did_not_take_is_written_with_the_next(tmp_path: Path) -> None:
    service = start(tmp_path)
    lines = tmp_path / "log/pricings.jsonl"
    kept = lines.read_text()
    lines.unlink()
    lines.mkdir()  # in the way
    service.push(push(both(0.25, 0.25)))
    asked(service, user="7", idc="north")
    lines.rmdir()
    lines.write_text(kept + '{"pricing": 9, "po')  # and one that a full disk cut off
    service.push(push(both(0.5, 0.5)))
    asked(service, user="7", idc="north")
    flushed(service)
    assert read_log(tmp_path / "log", SPEC)["pricing"].tolist() == [2, 3]


def test_a_pricing_whose_line_was_cut_off_is_not_numbered_again(tmp_path: Path) -> None:
    service = start(tmp_path)
    service.push(push(both(0.25, 0.25)))
    asked(service, user="7", idc="north")
    flushed(service)
    service.log.close()
    lines = tmp_path / "log/pricings.jsonl"
    lines.write_text(lines.read_text()[:-30])
    assert start(tmp_path).log.pricing == 3
    with pytest.raises(UserError, match="pricing 2 is missing"):
        read_log(tmp_path / "log", SPEC)


def test_a_second_writer_of_a_log_is_refused(tmp_path: Path) -> None:
    first = DecisionLog(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}: another process is writing"):
        DecisionLog(tmp_path)
    first.close()
    DecisionLog(tmp_path).close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda log: (log / "pricings.jsonl").unlink(), "pricing 1 is missing"),
        (lambda log: (log / "pricings.jsonl").write_text("3\n{}\n[]\n"), "pricing 1 is missing"),
        (lambda log: only(log, "states_*").unlink(), "expected the states of policy"),
        (lambda log: only(log, "states_*").write_bytes(b"PAR1"), "not a readable part of a decision log"),
        (lambda log: STATES[:1].to_parquet(only(log, "states_*")), "state: got 1 at position 1; expected 0 to 0"),
        (lambda log: STATES[["idc"]].to_parquet(only(log, "states_*")), "states of idc; expected user, idc"),
        (lambda log: only(log, "decisions_*").write_bytes(b""), "not a readable part of a decision log"),
        (lambda log: STATES.to_parquet(only(log, "decisions_*")), "not a part of a decision log; expected columns"),
    ],
)
def test_a_damaged_log_is_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    service = start(tmp_path)
    for _, state in STATES.iterrows():
        asked(service, **dict(state))
    flushed(service)
    damage(tmp_path / "log")
    with pytest.raises(UserError, match=message) as caught:
        read_log(tmp_path / "log", SPEC)
    assert "\n" not in str(caught.value)


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def outcomes(path: Path, requests: list[int]) -> str:
    pd.DataFrame({"request": requests, "retrieved": 3.0, "preranked": 2.0, "revenue": 1.5}).to_parquet(path)
    return str(path)


def test_joined_with_outcomes_the_log_is_a_request_log(tmp_path: Path) -> None:
    service = start(tmp_path, explore_share=0.3)
    service.push(push(both(0.02, 0.02)))
    answers = [asked(service, **dict(state)) for _, state in STATES.iterrows()]
    flushed(service)
    numbers = [one["request"] for one in answers[:3]]
    settings = JoinConfig(log=f"{tmp_path}/log", outcomes=outcomes(tmp_path / "o.parquet", [*numbers, 5]), spec=SPEC)
    summary = join(settings, tmp_path / "joined").summary
    assert {key: summary[key] for key in ("joined", "without_outcome", "outcomes_of_other_requests")} == {
        "joined": 3, "without_outcome": 1, "outcomes_of_other_requests": 1,
    }  # fmt: skip
    found = SPEC.read(tmp_path / "joined/requests.parquet", results=True)
    assert SPEC.joint_index(found).tolist() == [joint(one) for one in answers[:3]]
    assert found["propensity"].tolist() == pytest.approx([one["propensity"] for one in answers[:3]])
    assert found["user"].tolist() == STATES["user"].tolist()[:3]


def test_states_that_no_program_reads_are_left_out_and_counted(tmp_path: Path) -> None:
    service = start(tmp_path)
    users = ["7", "8.5", "", "\x1f", "x", "inf"]
    numbers = [asked(service, user=user, idc="north")["request"] for user in users]
    flushed(service)
    for kind, kept in (("category", ["7", "8.5", "x", "inf"]), ("numeric", [7.0, 8.5])):
        spec = SPEC.model_copy(update={"state": {"user": kind, "idc": "category"}})
        settings = JoinConfig(log=f"{tmp_path}/log", outcomes=outcomes(tmp_path / "o.parquet", numbers), spec=spec)
        summary = join(settings, tmp_path / kind).summary
        assert (summary["joined"], summary["unreadable_states"]) == (len(kept), len(users) - len(kept))
        assert spec.read(tmp_path / kind / "requests.parquet", results=True)["user"].tolist() == kept


def test_outcomes_of_other_requests_or_with_the_logs_columns_are_refused(tmp_path: Path) -> None:
    service = start(tmp_path)
    number = asked(service, user="7", idc="north")["request"]
    flushed(service)
    other = JoinConfig(log=f"{tmp_path}/log", outcomes=outcomes(tmp_path / "o.parquet", [number + 1]), spec=SPEC)
    with pytest.raises(UserError, match=r"no request of .* stands in it"):
        join(other, tmp_path / "out")
    pd.read_parquet(tmp_path / "o.parquet").assign(request=number, rule=1.0).to_parquet(tmp_path / "o.parquet")
    with pytest.raises(UserError, match="column 'rule' is one of the decision log's own"):
        join(other.model_copy(update={"extra": ["rule"]}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shadow_logs_double_outcomes_and_empty_folders_are_not_joined(tmp_path: Path) -> None:
    service = start(tmp_path, shadow=True)
    number = asked(service, user="7", idc="north")["request"]
    flushed(service)
    shadow = JoinConfig(log=f"{tmp_path}/log", outcomes=outcomes(tmp_path / "o.parquet", [number]), spec=SPEC)
    with pytest.raises(UserError, match="shadow mode"):
        join(shadow, tmp_path / "out")
    double = shadow.model_copy(update={"outcomes": outcomes(tmp_path / "p.parquet", [number, number])})
    with pytest.raises(UserError, match=f"request {number} stands in it twice"):
        join(double, tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"no decisions_\*.parquet"):
        join(shadow.model_copy(update={"log": f"{tmp_path}/none"}), tmp_path / "out")


def test_request_numbers_rise_over_restarts_also_when_the_clock_goes_back(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.next += 10**12  # as if the clock stood far ahead
    number = log.one(0, 0, 1.0)
    log.write(log.take())
    log.close()
    assert DecisionLog(tmp_path).next == number + 1


def test_a_price_cut_off_by_a_crash_takes_neither_its_number_nor_the_next_one_with_it(tmp_path: Path) -> None:
    service = start(tmp_path)
    service.push(push(both(0.02, 0.0)))
    asked(service, **dict(STATES.iloc[0]))
    flushed(service)
    path = tmp_path / "log/pricings.jsonl"
    whole = path.read_text()
    path.write_text(whole[: whole.rindex('"time"')])  # the line of the push's price, half written
    number = service.log.pricing
    service.log.close()
    service = start(tmp_path)
    assert read_json_lines(path)[-1]["pricing"] == service.log.pricing == number + 1
    path.unlink()
    with pytest.raises(UserError, match=r"pricings\.jsonl: pricing \d+ is missing"):
        read_log(tmp_path / "log", SPEC)
