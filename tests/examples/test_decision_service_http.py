"""The decision service over HTTP: bodies and status codes, prices from the balancer's own sink, swaps under load, the program."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import uvicorn
from decision_fixtures import SPEC, STATES, both, config, push, write_policy

from examples.decision_service.app import App
from examples.decision_service.config import DecisionServiceConfig
from examples.decision_service.decision_log import DecisionLog, read_log
from examples.decision_service.serve import serve
from examples.decision_service.served_policy import ServedPolicy
from examples.decision_service.service import DecisionService
from marca_common.config import dump_yaml
from marca_common.errors import UserError
from mpc_balancer.serving.serve_config import SinkConfig, UnitsConfig
from mpc_balancer.serving.sinks import make_sink

REPOSITORY = Path(__file__).parents[2]
ARROW = "application/vnd.apache.arrow.stream"
QUERY = "/decide?user=7&idc=north"


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


_CODES = pa.DictionaryArray.from_arrays(pa.array([2, -2], pa.int32()), pa.array(["7", "8"]), safe=False)
OUTSIDE = stream(pa.table({"user": _CODES, "idc": ["north", "south"]}))  # codes of no word


@contextmanager
def serving(folder: Path, **more: Any) -> Iterator[int]:
    """The port of a service in a thread of its own."""
    settings = config(folder, **more)
    policy, log = ServedPolicy(settings), DecisionLog(folder / "log")
    log.keep_states(policy.version, policy.states)
    app: Any = App(DecisionService(settings, policy, log))
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", access_log=False, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def until(true: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def ask(port: int, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    link.request(method, path, body, {"content-type": kind})
    reply = link.getresponse()
    content = reply.read()
    link.close()
    return reply.status, content


def test_single_json_and_arrow_requests_agree_and_are_logged(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        assert ask(port, "POST", "/lambda", push(both(0.1, 0.1)))[0] == 200
        ones = [
            json.loads(ask(port, "GET", f"/decide?user={state.user}&idc={state.idc}")[1])
            for state in STATES[:2].itertuples()
        ]
        rows = json.loads(ask(port, "POST", "/decide", STATES[:2].to_json(orient="records").encode())[1])
        body = ask(port, "POST", "/decide", stream(pa.Table.from_pandas(STATES[:2])), ARROW)[1]
        columns = pa.ipc.open_stream(body).read_all().to_pylist()
        health = json.loads(ask(port, "GET", "/health")[1])
    assert [one["actions"] for one in ones] == [row["actions"] for row in rows]
    assert [row["actions"] for row in rows] == [{name: row[name] for name in ("a1", "a2")} for row in columns]
    assert (health["states"], health["rule"]) == (4, {"north": "priced", "south": "priced"})
    logged = read_log(tmp_path / "log", SPEC)
    assert logged["request"].tolist() == [one["request"] for one in [*ones, *rows, *columns]]


def test_the_balancers_own_sink_sets_the_price_and_without_it_the_fallback_holds(tmp_path: Path) -> None:
    with serving(tmp_path, stale_s=0.5) as port:
        sink = make_sink(SinkConfig(kind="http", url=f"http://127.0.0.1:{port}/lambda"), UnitsConfig(), tmp_path)
        assert sink is not None
        assert json.loads(ask(port, "GET", QUERY)[1])["rule"] == "stale"
        sink(both(0.25, 0.5))
        health = json.loads(ask(port, "GET", "/health")[1])
        assert health["lambda"] == both(0.25, 0.5)
        sink(both(float("nan"), 0.5))
        assert sink.failures == 1
        until(lambda: json.loads(ask(port, "GET", QUERY)[1])["rule"] == "stale")
        metrics = ask(port, "GET", "/metrics")[1].decode()
    assert 'decision_service_refused_pushes_total{reason="number"} 1' in metrics
    assert 'decision_service_lambda{group="north",price="ranking"} 9.0' in metrics


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "message"),
    [
        ("GET", "/nowhere", b"", "", 404, "GET /nowhere: no such address"),
        ("PUT", "/decide", b"", "", 404, "PUT /decide"),
        ("GET", "/decide?user=7", b"", "", 400, "state column 'idc' is missing"),
        ("POST", "/decide", b"{}", "", 400, "expected a JSON list of states"),
        ("POST", "/decide", b"\xff", "", 400, "expected a JSON list of states"),
        ("POST", "/decide", b'[{"user": 7}]', "", 400, "state column 'idc'"),
        ("POST", "/decide", b"no arrow", ARROW, 400, "body: not an Arrow stream"),
        ("POST", "/decide", OUTSIDE, ARROW, 400, "body: not an Arrow stream: Column 0"),
        ("POST", "/decide", b"[" + b" " * 20_000 + b"]", "", 413, "more than 10000 bytes"),
        ("POST", "/lambda", push(both(1, -1)), "", 400, "expected a finite number from 0"),
    ],
)
def test_bad_requests_are_answered_in_one_line(
    tmp_path: Path, method: str, path: str, body: bytes, kind: str, status: int, message: str
) -> None:
    with serving(tmp_path, body_mb=0.01) as port:
        found, content = ask(port, method, path, body, kind)
        assert found == status
        assert message in json.loads(content)["error"]
        assert b"decision_service_bad_requests_total 1" in ask(port, "GET", "/metrics")[1]


def test_damaged_arrow_bodies_never_end_the_service(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        rng, sound = np.random.default_rng(0), stream(pa.Table.from_pandas(STATES))
        for _ in range(200):
            body = bytearray(sound)
            for place in rng.integers(len(body), size=3):
                body[place] = rng.integers(256)
            assert ask(port, "POST", "/decide", bytes(body), ARROW)[0] in (200, 400)


def test_no_request_is_lost_while_policies_are_swapped(tmp_path: Path) -> None:
    answers: list[Any] = []
    with serving(tmp_path) as port:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)  # one connection all along
        done = threading.Event()

        def keep_asking() -> None:
            while not done.is_set():
                link.request("GET", QUERY)
                reply = link.getresponse()
                answers.append((reply.status, json.loads(reply.read())))

        asking = threading.Thread(target=keep_asking)
        asking.start()
        versions = [json.loads(ask(port, "GET", "/health")[1])["policy"]]
        for seed in (1, 2):
            write_policy(tmp_path / "policy.npz", seed)
            status, content = ask(port, "POST", "/reload")
            assert status == 200
            versions.append(json.loads(content)["policy"])
        (tmp_path / "policy.npz").write_bytes(b"damaged")
        status, content = ask(port, "POST", "/reload")
        assert status == 400
        assert "not a readable policy cache" in json.loads(content)["error"]
        assert json.loads(ask(port, "GET", "/health")[1])["policy"] == versions[-1]
        before = len(answers)
        until(lambda: len(answers) > before)
        done.set()
        asking.join()
    assert {status for status, _ in answers} == {200}
    logged = read_log(tmp_path / "log", SPEC)
    assert logged["request"].tolist() == [one["request"] for _, one in answers]
    assert len(set(versions)) == 3


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as port, pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{port}"):
        serve(config(tmp_path, port=port), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_program_answers_writes_its_log_and_ends_when_told_to(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "c.yaml").write_text(dump_yaml(config(tmp_path, log_s=1000)))
    words = ["-m", "examples.decision_service.serve", "--config", f"{tmp_path}/c.yaml", "--out", f"{tmp_path}/out"]
    one = subprocess.Popen(
        [sys.executable, *words], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert one.stderr is not None
    line = one.stderr.readline()
    port = int(line.rpartition(":")[2])
    numbers = [json.loads(ask(port, "GET", QUERY)[1])["request"] for _ in range(3)]
    one.send_signal(end)
    printed, said = one.communicate(timeout=60)
    assert one.returncode == 0, said
    assert "decisions.stale" in printed
    assert read_log(tmp_path / "out/log", SPEC)["request"].tolist() == numbers
    assert (tmp_path / "out/config.yaml").exists()


def test_the_shipped_config_is_the_worlds() -> None:
    from marca_common.config import load_config

    found = load_config(DecisionServiceConfig, REPOSITORY / "configs/decision_service/serve.yaml")
    assert pd.Series(found.prices).tolist() == ["retrieval", "ranking"]
    assert found.fallback_joint == 0
