"""The decision service without HTTP: look-ups, rules, exploration, pushes and swaps."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from decision_fixtures import (
    NOW,
    SPEC,
    STATES,
    Clock,
    asked,
    both,
    config,
    flushed,
    joint,
    metric,
    push,
    start,
    tables,
    write_policy,
)

from examples.decision_service.decision_log import read_log
from examples.decision_service.price_push import Refused
from examples.decision_service.served_policy import ServedPolicy
from marca_common.errors import UserError


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
