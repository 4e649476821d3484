"""The decision service without HTTP: look-ups, rules, exploration, swaps, and the log that the next training reads."""

from __future__ import annotations

import gc
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from decision_fixtures import NOW, SPEC, STATES, Clock, both, config, push, start, tables, write_policy

from examples.decision_service.config import JoinConfig
from examples.decision_service.decision_log import DecisionLog, read_log
from examples.decision_service.join import join
from examples.decision_service.metrics_text import metrics_text
from examples.decision_service.price_push import Refused
from examples.decision_service.served_policy import ServedPolicy
from examples.decision_service.service import DecisionService
from marca_common.errors import UserError
from marca_common.files import read_json_lines


def asked(service: DecisionService, **state: str) -> Any:
    return json.loads(service.one(urlencode(state).encode()))


def joint(answer: dict[str, Any]) -> int:
    return int(answer["actions"]["a1"] * 3 + answer["actions"]["a2"])


def metric(service: DecisionService, name: str) -> float:
    line = next(line for line in metrics_text(service).splitlines() if line.startswith(f"decision_service_{name} "))
    return float(line.rpartition(" ")[2])


def flushed(service: DecisionService) -> None:
    service.log.write(service.log.take())


@pytest.mark.parametrize("price", [(0.0, 0.0), (0.3, 0.1), (0.05, 1.2), (50.0, 50.0)])
def test_one_and_many_decide_what_a_scan_of_all_actions_does(tmp_path: Path, price: tuple[float, float]) -> None:
    service = start(tmp_path)
    service.push(push(both(*price)))
    q, c = tables()
    best = (q - c @ np.array(price)).argmax(1)
    assert [joint(asked(service, **dict(state))) for _, state in STATES.iterrows()] == best.tolist()
    answers = service.many(pa.Table.from_pandas(STATES[["idc", "user"]]))
    assert [joint({"actions": row}) for row in answers.to_pylist()] == best.tolist()


def test_each_data_centre_pays_its_own_price(tmp_path: Path) -> None:
    service = start(tmp_path)
    service.push(push({"north": {"retrieval": 0.0, "ranking": 0.0}, "elsewhere": {"x": 1}}))
    q, c = tables()
    assert joint(asked(service, user="7", idc="north")) == q[0].argmax()
    south = asked(service, user="7", idc="south")
    assert (joint(south), south["rule"]) == ((q[1] - c[1].sum(1) * 9).argmax(), "stale")


def test_order_form_and_further_parameters_do_not_matter(tmp_path: Path) -> None:
    service = start(tmp_path)
    service.push(push(both(0.1, 0.1)))
    expected = asked(service, user="7", idc="south")
    for query in ("idc=south&user=7", "user=7.0&idc=south&more=1", "idc=south&user=%37"):
        assert query.encode() not in service.policy.by_query
        answer = json.loads(service.one(query.encode()))
        assert (answer["actions"], answer["rule"]) == (expected["actions"], "priced")
    assert asked(service, idc="north", user="new & old")["rule"] == "priced"
    table = pa.table({"idc": pa.array(["south"]).dictionary_encode(), "user": pa.array([7.0])})
    assert service.many(table).to_pylist()[0]["rule"] == "priced"


def test_an_unknown_state_gets_the_fallback_action_and_is_counted(tmp_path: Path) -> None:
    service = start(tmp_path, explore_share=0.5)
    service.push(push(both(0.1, 0.1)))
    for answer in (asked(service, user="99", idc="north"), asked(service, user="8", idc="north")):
        assert answer == {
            "request": answer["request"], "rule": "unknown", "propensity": 1.0, "actions": {"a1": 1, "a2": 2},
        }  # fmt: skip
    table = pa.table({"user": ["7", "5", None], "idc": ["north", "moon", "north"]})
    assert service.many(table)["rule"].to_pylist() == ["priced", "unknown", "unknown"]
    assert metric(service, 'decisions_total{rule="unknown"}') == 4
    flushed(service)
    logged = read_log(tmp_path / "log", SPEC)
    assert logged["user"].tolist() == ["99", "8", "7", "5", ""]
    assert logged["rule"].tolist() == ["unknown", "unknown", "priced", "unknown", "unknown"]


def test_text_that_was_not_escaped_is_read_as_utf8(tmp_path: Path) -> None:
    service = start(tmp_path)
    service.one("user=é&idc=north".encode())
    service.one(b"user=\xff&idc=north")
    flushed(service)
    assert read_log(tmp_path / "log", SPEC)["user"].tolist() == ["é", "\ufffd"]


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    service = start(tmp_path)
    with pytest.raises(UserError, match="state column 'idc' is missing"):
        service.one(b"user=7")
    with pytest.raises(UserError, match="state column 'idc': expected it once; found user"):
        service.many(pa.table({"user": ["7"]}))


@pytest.mark.parametrize(
    "columns",
    [
        {"user": pa.array([], pa.string()), "idc": pa.array([], pa.string())},
        {"user": pa.nulls(2), "idc": pa.array(["north", None])},
        {"user": pa.array([7, 7]), "idc": pa.array([b"north", b"south"])},
        {"user": pa.array([float("nan"), 7.5]), "idc": pa.array([True, False])},
        {
            "user": pa.chunked_array([pa.array(["7"]).dictionary_encode(), pa.array(["x", "7"]).dictionary_encode()]),
            "idc": pa.chunked_array([["south"], ["north", "north"]]),
        },
        {  # as many words as its codes can count
            "user": pa.DictionaryArray.from_arrays(pa.array([7, None], pa.int8()), [str(i) for i in range(128)]),
            "idc": ["north", "north"],
        },
    ],
)
def test_columns_of_any_plain_type_are_taken(tmp_path: Path, columns: dict[str, Any]) -> None:
    service = start(tmp_path)
    table = pa.table(columns)
    answers = service.many(table).to_pylist()
    for row, state in zip(answers, table.to_pylist()):
        known = str(state["user"]) == "7" and state["idc"] in ("north", "south", b"north", b"south")
        assert row["rule"] == ("stale" if known else "unknown")
    flushed(service)
    assert len(answers) == len(table)


def test_columns_that_hold_no_categories_are_refused(tmp_path: Path) -> None:
    service = start(tmp_path)
    before = service.log.next
    for user in (pa.array([[7]]), pa.array([{"a": 7}]), pa.array([b"0123456789abcdef"], pa.uuid())):
        with pytest.raises(UserError, match="state column 'user': expected text, numbers or booleans"):
            service.many(pa.table({"user": user, "idc": ["north"]}))
    assert service.log.next == before
    with pytest.raises(UserError, match="state column 'user': expected text; got bytes"):
        service.many(pa.table({"user": [b"\xff"], "idc": ["north"]}))


def test_a_price_grows_stale_without_a_balancer_and_comes_back_with_it(tmp_path: Path) -> None:
    clock = Clock()
    service = start(tmp_path, clock, explore_share=0.5)
    rules = [asked(service, user="7", idc="north")["rule"]]
    service.push(push(both(0.0, 0.0)))
    for second in (0.0, 99.9, 100.0):
        clock.seconds = second
        rules.append(asked(service, user="7", idc="north")["rule"])
    q, c = tables()
    stale = service.many(pa.table({"user": ["7"] * 50, "idc": ["north"] * 50}))  # without exploration
    assert {joint({"actions": row}) for row in stale.to_pylist()} == {(q[0] - c[0].sum(1) * 9).argmax()}
    service.push(push(both(0.0, 0.0)))
    rules.append(asked(service, user="7", idc="north")["rule"])
    assert rules == ["stale", "priced", "priced", "stale", "priced"]
    assert metric(service, "grown_stale_total") == 2  # two data centres
    assert metric(service, 'fresh{group="north"}') == 1


def test_the_age_of_a_push_counts_from_its_decision(tmp_path: Path) -> None:
    clock = Clock()
    service = start(tmp_path, clock)
    service.push(push(both(0.0, 0.0), decided=datetime.fromtimestamp(NOW - 60, UTC).isoformat()))
    clock.seconds = 39
    assert asked(service, user="7", idc="north")["rule"] == "priced"
    clock.seconds = 41
    assert asked(service, user="7", idc="north")["rule"] == "stale"


def test_two_balancers_may_set_a_data_centre_each(tmp_path: Path) -> None:
    service = start(tmp_path)
    one = {"retrieval": 1.0, "ranking": 1.0}
    service.push(push({"north": one}, decided=stamp(-1)))
    service.push(push({"south": one}, decided=stamp(-2)))  # decided earlier, arrived later
    assert set(service.prices()["rule"].values()) == {"priced"}
    with pytest.raises(Refused, match=r"2\.000 seconds before the λ in force"):
        service.push(push({"north": one, "south": one}, decided=stamp(-3)))


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


@pytest.mark.parametrize(
    ("body", "reason", "message"),
    [
        (b"", "malformed", "expected JSON"),
        (b"[" * 100_000, "malformed", "expected JSON"),
        (b"[1]", "malformed", "expected JSON"),
        (push(3), "malformed", "expected JSON"),
        (push({"north": 3}), "malformed", "expected JSON"),
        (push(both(1, 1), unit="money per core-s"), "unit", "got 'money per core-s'; expected 'money per core-ms'"),
        (push({"moon": {"retrieval": 1, "ranking": 1}}), "group", "expected one of the data centres north, south"),
        (push({"north": {"retrieval": 1}}), "price", "expected prices retrieval, ranking"),
        (push(both(float("nan"), 1)), "number", "lambda of north, retrieval: got nan; expected a finite number from 0"),
        (push(both(float("inf"), 1)), "number", "got inf"),
        (push(both(1, -1e-9)), "number", "ranking: got -1e-09"),
        (push({"north": {"retrieval": "1", "ranking": 1}}), "number", "got 1;"),
        (push({"north": {"retrieval": True, "ranking": 1}}), "number", "got True"),
        (push({"north": {"retrieval": 10**400, "ranking": 1}}), "number", "got 1000"),
        (push(both(1, 1), decided=stamp(-101)), "stale", "101 seconds ago; expected at most 100"),
        (push(both(1, 1), decided=stamp(101)), "stale", "expected a clock that agrees"),
        (push(both(1, 1), decided=stamp(-11)), "stale", "before the λ in force"),
        (push(both(1, 1), decided="yesterday"), "malformed", "expected a time with its offset"),
        (push(both(1, 1), decided="2026-03-09T00:00:00"), "malformed", "expected a time with its offset"),
    ],
)
def test_a_bad_push_is_refused_counted_and_changes_nothing(
    tmp_path: Path, body: bytes, reason: str, message: str
) -> None:
    service = start(tmp_path)
    service.push(push(both(0.25, 0.5), decided=stamp(-10)))
    before = service.prices()
    with pytest.raises(Refused, match=message) as caught:
        service.push(body)
    assert (caught.value.reason, "\n" in str(caught.value)) == (reason, False)
    assert service.prices() == before
    assert metric(service, f'refused_pushes_total{{reason="{reason}"}}') == 1


def test_propensities_are_the_frequencies_of_the_draws(tmp_path: Path) -> None:
    service = start(tmp_path, explore_share=0.4)
    service.push(push(both(0.02, 0.02)))
    count = int(service.policy.counts[0])
    assert count > 2
    size = 20_000
    many = service.many(pa.table({"user": ["7"] * size, "idc": ["north"] * size})).to_pylist()
    ones = [asked(service, user="7", idc="north") for _ in range(size)]
    for answers in ([{**row, "actions": row} for row in many], ones):
        said = {joint(one): one["propensity"] for one in answers}
        found = pd.Series([joint(one) for one in answers]).value_counts(normalize=True)
        assert sorted(said) == sorted(service.policy.candidates[:count].tolist())
        assert sum(said.values()) == pytest.approx(1, abs=1e-6)
        assert max(said.values()) == pytest.approx(0.6 + 0.4 / count)
        for action, share in found.items():
            assert share == pytest.approx(said[int(action)], abs=4 * (0.25 / size) ** 0.5)
    assert service.explored == pytest.approx(0.4 * 2 * size, rel=0.05)


def test_a_swap_decides_by_the_new_policy_and_the_log_tells_them_apart(tmp_path: Path) -> None:
    service = start(tmp_path)
    service.push(push(both(0.1, 0.1)))
    asked(service, user="7", idc="north")
    write_policy(tmp_path / "policy.npz", seed=1)
    new = ServedPolicy(service.config)
    service.log.keep_states(new.version, new.states)
    service.swap(new)
    q, c = tables(1)
    answer = asked(service, user="7", idc="north")
    assert (joint(answer), answer["rule"]) == ((q[0] - 0.1 * c[0].sum(1)).argmax(), "priced")
    flushed(service)
    logged = read_log(tmp_path / "log", SPEC)
    assert logged["policy"].nunique() == 2
    assert logged["user"].tolist() == ["7", "7"]


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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prices": ["one"], "fallback_prices": {"one": 1}}, "2 prices; expected those named: one"),
        ({"groups": ["north", "east"]}, "states of data centre 'south'; expected those of groups"),
        ({"spec": SPEC.model_copy(update={"state": {"user": "category", "x": "category", "idc": "category"}})}, "states of user, idc; expected user, x, idc"),
    ],
)  # fmt: skip
def test_a_policy_that_does_not_fit_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServedPolicy(config(tmp_path, **more))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"group_column": None}, "null serves one data centre"),
        ({"group_column": "city"}, "got 'city'; expected one of user, idc"),
        ({"fallback_prices": {"retrieval": 1.0}}, "expected one of each of retrieval, ranking"),
        ({"fallback_prices": {"retrieval": 1.0, "ranking": float("nan")}}, "finite"),
        ({"fallback_action": {"a1": 2, "a2": 0}}, "expected each sub-action below its size"),
        ({"groups": ["north", "north"]}, "groups: expected each name once"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **more)


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
