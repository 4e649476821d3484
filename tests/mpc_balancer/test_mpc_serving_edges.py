"""Sources and sinks of the live balancer, and the program as a whole: files, pipes, HTTP, hanging calls, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.files import read_json
from mpc_balancer.serve import ServeConfig, serve
from mpc_balancer.serving.decision_log import read_log
from mpc_balancer.serving.edge import Edge
from mpc_balancer.serving.serve_config import SinkConfig, SourceConfig, UnitsConfig
from mpc_balancer.serving.sinks import Sink, make_sink
from mpc_balancer.serving.sources import JsonLines, Polled, Prometheus, make_source

SETTINGS = ["model=null", "services=[s, t]", "controller.name=pi", "controller.price_high=[1.0, 1.0]"]
SETTINGS += ["controller.pi.kp=0.1", "controller.pi.ki=0.1"]


def line(minute: int, **more: Any) -> str:
    stamp = f"2026-03-09T00:{minute:02d}:00Z"
    values = {
        "group": "a",
        "timestamp": stamp,
        "qps": 400.0,
        "cpu": {"s": 70.0 + minute % 3, "t": 60.5},
        "lambda": [0.1, 0.2],
    }
    return json.dumps(values | more) + "\n"


def until(ready: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@contextmanager
def server(reply: Callable[[str, bytes], tuple[int, str]]) -> Iterator[str]:
    """A small HTTP server: ``reply(path, body)`` gives status and text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, text = reply(self.path, self.rfile.read(length))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        made.server_close()


def all_of(source: Any) -> list[Any]:
    found: list[Any] = []
    while (batch := source.read(5.0)) is not None:
        found += batch
    return found


# -- JSON lines --------------------------------------------------------------------------------------------------------
def test_lines_become_measurements_and_bad_ones_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(line(0) + "{\n[1]\n\nnull\n" + line(1, aggregates={"q_sum": 3.0}) + line(2).rstrip())
    source = JsonLines(str(path), follow=False)
    found = all_of(source)
    assert [one.timestamp[14:16] for one in found] == ["00", "01", "02"]
    assert source.troubles == {"line": 3}
    inside = Edge(UnitsConfig(), ["s", "t"], ["s", "t"]).inwards(found[1], "a")
    np.testing.assert_array_equal(inside.cpu, [71.0, 60.5])
    np.testing.assert_array_equal(inside.lambda_, [0.1, 0.2])
    assert inside.timestamp == np.datetime64("2026-03-09T00:01", "s")
    assert inside.aggregates == {"q_sum": 3.0}
    assert np.isnan(inside.degradation)


def test_a_file_is_followed_through_halves_of_lines_and_rotation(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(line(0) + line(1)[:20])
    source, found = JsonLines(str(path), follow=True), list[Any]()

    def read(count: int) -> bool:
        found.extend(source.read(0.05) or [])
        return len(found) == count

    until(lambda: read(1))
    with path.open("a") as file:
        file.write(line(1)[20:])
    until(lambda: read(2))
    (tmp_path / "next").write_text("".join(map(line, (2, 3, 4))))  # longer than the one it replaces
    os.replace(tmp_path / "next", path)
    until(lambda: read(5))
    path.write_text(line(5))  # cut and begun anew
    until(lambda: read(6))
    assert [one.timestamp[14:16] for one in found] == ["00", "01", "02", "03", "04", "05"]
    assert source.troubles == {}
    assert source.read(0.01) == []


# -- functions that hang -------------------------------------------------------------------------------------------------
def test_a_function_that_hangs_or_fails_is_silent_until_it_answers_again() -> None:
    hang, clock, calls = threading.Event(), [0.0], list[int]()

    def ask() -> Any:
        calls.append(len(calls))
        if len(calls) == 2:
            hang.wait(20)
        if len(calls) == 3:
            raise RuntimeError("no")
        return {1: "one", 4: ["two", "three"]}.get(len(calls))

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    source = Polled(ask, 60, 0.1, now=lambda: clock[0], sleep=sleep)
    assert source.read(5) == ["one"]
    assert source.read(5) == []  # not yet due
    assert clock[0] == 5
    assert source.read(60) == []  # hangs
    assert source.read(60) == []  # still busy: not called again
    assert len(calls) == 2
    hang.set()
    until(lambda: not source.ask._thread.is_alive())  # type: ignore[union-attr]
    assert source.read(60) == []  # raises
    assert source.read(60) == ["two", "three"]
    assert source.read(60) == []  # None
    assert source.troubles == {"source": 3}


def test_a_sink_that_hangs_or_fails_is_counted_and_gets_the_next_prices(caplog: pytest.LogCaptureFixture) -> None:
    got, hang = list[Any](), threading.Event()

    def deliver(content: Any) -> None:
        if content["lambda"] == {"a": {"s": 1.0}}:
            hang.wait(20)
        got.append(content["lambda"]["a"]["s"])

    sink = Sink(deliver, 0.1, "money per core-ms")
    for price in (0.0, 1.0, 2.0):
        sink({"a": {"s": price}})
    hang.set()
    until(lambda: got == [0.0, 1.0])
    sink({"a": {"s": 3.0}})
    assert got == [0.0, 1.0, 3.0]
    assert sink.failures == 2
    assert caplog.text.count("not delivered") == 1
    assert caplog.text.count("delivered again") == 1


# -- HTTP ----------------------------------------------------------------------------------------------------------------
ANSWERS: dict[str, Any] = {
    "traffic": {"resultType": "vector", "result": [
        {"metric": {"idc": "a"}, "value": [1, "24000"]}, {"metric": {"idc": "b"}, "value": [1, "NaN"]},
        {"metric": {"idc": "other"}, "value": [1, "5"]},
    ]},
    "cpu": {"resultType": "vector", "result": [
        {"metric": {"idc": "a", "service": "t"}, "value": [1, "0.6"]},
        {"metric": {"idc": "a", "service": "s"}, "value": [1, "0.7"]},
    ]},
    "price": {"resultType": "vector", "result": [{"metric": {"idc": "a", "service": "t"}, "value": [1, "2000"]}]},
    "value": {"resultType": "scalar", "result": [1, "3"]},
}  # fmt: skip


def prometheus(url: str, **more: Any) -> Prometheus:
    settings = {"kind": "prometheus", "url": url, "qps": "traffic", "cpu": "cpu", "price": "price"} | more
    return Prometheus(SourceConfig(**settings), 60, ["a", "b", "c"], now=lambda: 1773014465.0)


def test_prometheus_answers_become_measurements_in_our_units() -> None:
    asked: list[dict[str, list[str]]] = []

    def reply(path: str, _: bytes) -> tuple[int, str]:
        asked.append(urllib.parse.parse_qs(urllib.parse.urlsplit(path).query))
        query = asked[-1]["query"][0]
        if query == "broken":
            return 400, '{"status": "error", "error": "parse error"}'
        return 200, json.dumps({"status": "success", "data": ANSWERS[query]})

    with server(reply) as url:
        found = {one.group: one for one in prometheus(url, degradation="broken", aggregates={"q_sum": "value"})()}
    assert set(found) == {"a", "b"}  # c has neither traffic nor CPU, "other" is not served
    assert {one["time"][0] for one in asked} == {"1773014460"}
    units = UnitsConfig(price="money per core-s", traffic="per minute", cpu="fraction")
    inside = Edge(units, ["s", "t"], ["s", "t"]).inwards(found["a"], "a")
    assert inside.qps == 400.0
    np.testing.assert_allclose(inside.cpu, [70.0, 60.0])
    np.testing.assert_array_equal(inside.lambda_, [np.nan, 2.0])
    assert inside.timestamp == np.datetime64("2026-03-09T00:00", "s")
    assert np.isnan(inside.degradation)
    assert np.isnan(found["b"].qps)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"status": "error"}', '{"status": "success", "data": {"resultType": "x"}}']
)
def test_a_prometheus_that_answers_nonsense_is_silent(text: str) -> None:
    with server(lambda path, body: (200, text)) as url:
        source = Polled(prometheus(url), 60, 5.0)
        assert source.read(1.0) == []
    assert source.troubles == {"source": 1}


def test_prices_are_posted_and_a_refusal_is_a_failure() -> None:
    got: list[Any] = []

    def reply(path: str, body: bytes) -> tuple[int, str]:
        got.append((path, json.loads(body)))
        return (200, "") if len(got) > 1 else (503, "")

    with server(reply) as url:
        sink = make_sink(SinkConfig(kind="http", url=f"{url}/lambda"), UnitsConfig(), Path())
        assert sink is not None
        for price in (1.0, 2.0):
            sink({"a": {"s": price}})
    assert sink.failures == 1
    path, content = got[1]
    decided = datetime.fromisoformat(content.pop("decided"))
    assert (path, content) == ("/lambda", {"unit": "money per core-ms", "lambda": {"a": {"s": 2.0}}})
    assert abs((datetime.now(UTC) - decided).total_seconds()) < 60


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["source.kind=prometheus"], "url: is empty; expected one for kind prometheus"),
        (["source.kind=function"], "function: is empty"),
        (["source.kind=function", "source.function=nowhere:f"], "source.function: got 'nowhere:f'"),
        (["source.path=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["source.kind=prometheus", "source.url=ftp://x", "source.qps=a", "source.cpu=b"], "source.url: got 'ftp://x'"),
        (["sink.kind=http"], "url: is empty"),
        (["sink.kind=http", "sink.url=x"], "sink.url: got 'x'; expected http"),
        (["sink.kind=function", "sink.function=math:pi"], "is not callable"),
        (["groups=[]"], "groups"),
        (["replay=nowhere"], r"nowhere: no decisions_\*.parquet"),
    ],
)
def test_bad_sources_and_sinks_are_refused_in_one_line(sets: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        serve(load_config(ServeConfig, None, [*SETTINGS, "groups=[a]", *sets]), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# -- the program -----------------------------------------------------------------------------------------------------------
def test_a_file_is_served_replayed_and_served_on(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(line(minute) for minute in range(10)) + line(10, group="elsewhere"))
    sets = [*SETTINGS, "groups=[a, b]", f"source.path={path}", "source.follow=false"]
    summary = serve(load_config(ServeConfig, None, sets), tmp_path / "out").summary
    assert (summary["measured"], summary["troubles"]) == (10, {"unknown_group": 1})
    delivered = read_json(tmp_path / "out/lambda.json")
    last = read_log(tmp_path / "out/log").iloc[-1]
    assert delivered["unit"] == "money per core-ms"
    assert delivered["lambda"]["a"] == {"s": last["price_s"], "t": last["price_t"]}
    again = serve(
        load_config(ServeConfig, tmp_path / "out/config.yaml", [f"replay={tmp_path}/out/log"]), tmp_path / "again"
    )
    assert again.summary == {"replayed_rows": 10, "differing_rows": 0}
    assert len(pd.read_csv(tmp_path / "again/replay.csv")) == 10
    with path.open("a") as file:
        file.write(line(11))
    summary = serve(load_config(ServeConfig, None, sets), tmp_path / "out").summary
    assert (summary["measured"], summary["gap"], summary["troubles"]["answered"]) == (11, 1, 10)


def start_program(out: Path) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "mpc_balancer.serve",
        "--out",
        str(out),
        "--config",
        "configs/mpc_balancer/serve.yaml",
    ]
    words += [word for one in [*SETTINGS, "groups=[a]"] for word in ("--set", one)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_and_started_again_the_program_goes_on(tmp_path: Path) -> None:
    def feed(one: subprocess.Popen[str], out: Path, minutes: range) -> None:
        assert one.stdin is not None
        for minute in minutes:
            one.stdin.write(line(minute))
            one.stdin.flush()
            until(lambda: f'kind="measured"}} {minute + 1}.0' in text(out / "metrics.prom"))  # noqa: B023

    def text(path: Path) -> str:
        return path.read_text() if path.exists() else ""

    one = start_program(tmp_path / "killed")
    feed(one, tmp_path / "killed", range(4))
    second = start_program(tmp_path / "killed")
    assert second.wait(60) == 2
    assert second.stderr is not None
    assert "another process sets λ from this folder" in second.stderr.read()
    one.send_signal(signal.SIGKILL)
    one.wait()
    two, never = start_program(tmp_path / "killed"), start_program(tmp_path / "never")
    feed(two, tmp_path / "killed", range(4, 8))
    feed(never, tmp_path / "never", range(8))
    for program in (two, never):
        assert program.communicate()[1].count("\n") <= 3
        assert program.returncode == 0
    prices = [read_json(tmp_path / name / "lambda.json")["lambda"] for name in ("killed", "never")]
    assert prices[0] == prices[1] != {}


@pytest.mark.slow
def test_interrupted_while_it_waits_the_program_ends_quietly(tmp_path: Path) -> None:
    one = start_program(tmp_path)
    until(lambda: (tmp_path / "config.yaml").exists())
    time.sleep(0.3)
    one.send_signal(signal.SIGINT)
    assert one.wait(20) == 130
    assert one.stderr is not None
    assert "the same command goes on" in one.stderr.read()


def test_source_by_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probe.py").write_text("def ask():\n    return 'measured'\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = make_source(SourceConfig(kind="function", function="probe:ask"), 60, ["a"])
    assert source.read(1.0) == ["measured"]


def test_the_edge_survives_anything() -> None:
    edge = Edge(UnitsConfig(cpu="fraction"), ["s", "t"], ["0"])
    for bad in (None, 3, SimpleNamespace(cpu={"s": 0.5}, aggregates=[1], arrivals="x", degradation=None)):
        one: Any = edge.inwards(bad, "a")
        assert one.cpu.shape == (2,)
        assert one.lambda_.shape == (1,)
    assert one.cpu[0] == 50.0
    assert one.aggregates is None
    assert one.degradation is None
    np.testing.assert_array_equal(one.arrivals, [np.nan])
