"""The service: the same pages as in process, clean clocks, and one line for whatever cannot be answered."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.target.clocks import TreeClock
from autobucket.testbench import testbench as run_bench
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.files import read_json
from recommender.build_parts import LOAD_FILE, MODELS_FILE, Parts
from recommender.cascade.accounting import serve_accounted
from recommender.records.load_requests import setting_names
from recommender.serve import serve
from recommender.service.asked import Reader
from recommender.service.finished_build import open_build
from recommender.service.front import Front
from recommender.service.service_config import ServiceConfig
from recommender.service.worker import Answer
from recommender.truth.page_table import shown


def request_of(parts: Parts, visit: int) -> Any:
    people = parts.people
    return people.request(people.visits, visit, shown(parts.pages.kept[people.visits.user[visit]]))


def command(build: Path, out: Path, *sets: str) -> list[str]:
    words = [f"build={build}", "port=0", *sets]
    return [sys.executable, "-m", "recommender.serve", "--out", str(out), *(w for one in words for w in ("--set", one))]


@dataclass
class Running:
    process: subprocess.Popen[str]
    url: str

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, answer): a GET, or a POST of ``body``."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def started(words: list[str]) -> Running:
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://[\d.]+:\d+", line):
            one = Running(process, found.group())
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline:
                try:
                    one.ask("/health")
                    return one
                except urllib.error.URLError:
                    time.sleep(0.05)
    raise AssertionError(f"the service ended with {process.wait()}")


@pytest.fixture(scope="module")
def running(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    one = started(command(parts.folder, tmp_path_factory.mktemp("service") / "out"))
    yield one
    one.process.kill()
    one.process.wait()


def test_an_accounted_answer_is_the_cascades(parts: Parts) -> None:
    for setting in parts.space.settings[:: max(len(parts.space.settings) // 12, 1)]:
        request = request_of(parts, 3)
        page, retrieved, preranked = parts.cascade.serve(request, setting)
        one = serve_accounted(parts.cascade, request, setting)
        assert (one.page.tolist(), one.retrieved, one.preranked) == (page.tolist(), retrieved, preranked)
        assert one.cpu_ms[0] > 0
        assert (one.cpu_ms[1] > 0) != setting.cached  # the kept answer needs no ranking


def test_what_is_asked_is_read(parts: Parts) -> None:
    read, space, spec = Reader(parts.people, parts.space, parts.config.spec), parts.space, parts.config.spec
    visits, users = parts.people.visits, parts.people.ratings.users
    for joint in range(0, len(space.distinct), 37):
        choice = dict(zip(spec.sub_actions, map(int, np.unravel_index(joint, spec.shape))))
        assert read({"visit": 4, "joint": str(joint)}) == (4, space.distinct[joint])
        assert read({"visit": "4", **choice, "note": "ignored"}) == (4, space.distinct[joint])
    row = 5
    one = {"user": users[visits.user[row]], "joint": 0}
    assert read({**one, "time": int(visits.time[row])})[0] == row  # the visit begins then
    assert read({**one, "time": int(visits.time[row]) + 1})[0] in (row, row + 1)
    last = int(np.flatnonzero(visits.user == visits.user[row])[-1])
    assert read({**one, "time": 10**12})[0] == last


@pytest.mark.parametrize(
    "fields, line",
    [
        ({"joint": 0}, "visit: got none; expected a visit, or user and time"),
        ({"visit": -1, "joint": 0}, "visit: got '-1'; expected a whole number from 0 to"),
        ({"visit": 1.5, "joint": 0}, "visit: got '1.5'"),
        ({"visit": True, "joint": 0}, "visit: got 'True'"),
        ({"user": "nobody", "time": 1, "joint": 0}, "user: got 'nobody'; expected one of the"),
        ({"user": "1", "time": 1, "joint": 0}, "the user's first visit, or later"),
        ({"user": "1", "time": "noon", "joint": 0}, "time: got 'noon'"),
        ({"visit": 1}, "a1: got none; expected joint, or all of a1"),
        ({"visit": 1, "joint": 810}, "joint: got '810'; expected a whole number from 0 to 809"),
        ({"visit": 1, "joint": 3, "a2": 1}, "joint: given beside a2"),
        ({"visit": 1, "a1": 9, "a2": 0, "a3": 0, "a4": 0, "a5": 0, "a6": 0}, "a1: got '9'; expected a whole number from 0 to 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_gets_one_line(parts: Parts, fields: Any, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as found:
        Reader(parts.people, parts.space, parts.config.spec)(fields)
    assert "\n" not in str(found.value)


def test_load_requests_name_what_really_runs(parts: Parts) -> None:
    frame = parts.load_requests()
    assert (frame["visit"].to_numpy() == np.arange(len(parts.people.visits))).all()
    joint = np.ravel_multi_index([frame[name] for name in parts.config.spec.sub_actions], parts.config.spec.shape)
    for row, one in frame.head(200).iterrows():
        setting = parts.space.settings[parts.space.distinct[joint[row]]]
        opened = [name for name, n in zip(("als", "knn", "popular", "content"), setting.lengths) if n]
        assert one["channels"] == ("+".join(opened) if opened else "cached")
        assert (one["model"], one["ranker"]) == (setting.model, setting.ranker)
    assert len(setting_names(parts.space)) == len(parts.space.settings)
    assert (parts.folder / LOAD_FILE).is_file()


def test_pages_are_those_of_the_cascade(parts: Parts, running: Running) -> None:
    films = parts.people.ratings.films
    for visit, joint in ((0, 0), (3, 500), (7, 809), (7, 200)):
        expected = parts.cascade.serve(request_of(parts, visit), parts.space.settings[parts.space.distinct[joint]])
        for status, answer in (
            running.ask(f"/serve?visit={visit}&joint={joint}"),
            running.ask("/serve", {"visit": visit, "joint": joint}),
        ):
            assert status == 200
            assert answer["page"] == [films[film] for film in expected[0]]
            assert (answer["retrieved"], answer["preranked"]) == expected[1:]
            assert answer["visit"] == visit
            assert answer["cpu_ms"]["retrieval"] > 0
            assert answer["queue_ms"] >= 0


def test_clocks_see_two_processes(parts: Parts, running: Running) -> None:
    services = running.ask("/health")[1]["services"]
    assert services["http"] == running.process.pid
    clock = TreeClock(services)
    before = clock.read()
    told = sum(sum(running.ask("/serve?visit=2&joint=809")[1]["cpu_ms"].values()) for _ in range(30)) / 1000
    spent = {name: seconds - before[name] for name, seconds in clock.read().items()}
    assert spent["http"] > 0
    assert told < spent["cascade"]  # reading and answering are not in what it says
    assert running.ask("/noop", {}) == (200, {})


def test_who_comes_while_too_many_wait_is_refused_and_all_is_counted(parts: Parts, monkeypatch: Any) -> None:
    asked: list[tuple[int, int, asyncio.Future[Answer]]] = []

    class Worker:
        def __init__(self, build: Path) -> None: ...

        def ask(self, visit: int, setting: int) -> asyncio.Future[Answer]:
            asked.append((visit, setting, asyncio.get_running_loop().create_future()))
            return asked[-1][2]

    def request(visit: int) -> Any:
        return SimpleNamespace(method="GET", query={"visit": str(visit), "joint": "7"})

    async def visitors() -> list[Any]:
        first = asyncio.create_task(front.serve(request(2)))
        await asyncio.sleep(0)
        refused = await front.serve(request(3))
        asked[0][2].set_result(Answer([4, 0], 9, 5, time.monotonic() + 0.25, 2.0, 30.0))
        done = [await first, refused, await front.serve(request(-1))]
        last = asyncio.create_task(front.serve(request(3)))
        await asyncio.sleep(0)
        asked[1][2].set_result(Answer([], 1, 1, 0.0, 1.0, 0.0))
        return [*done, await last]

    monkeypatch.setattr("recommender.service.front.Worker", Worker)
    front = Front(ServiceConfig(most_waiting=1), parts)
    answers = asyncio.run(visitors())
    assert [one.status for one in answers] == [200, 503, 400, 200]
    assert [one[:2] for one in asked] == [(2, parts.space.distinct[7]), (3, parts.space.distinct[7])]
    served, refused = (json.loads(one.text) for one in answers[:2])
    assert refused == {"error": "busy: 1 requests are waiting"}
    assert served.pop("queue_ms") == pytest.approx(250, abs=50)
    films = parts.people.ratings.films
    assert served == {
        "visit": 2,
        "page": [films[4], films[0]],
        "retrieved": 9,
        "preranked": 5,
        "cpu_ms": {"retrieval": 2.0, "ranking": 30.0},
    }
    summary = front.summary()
    assert (summary["answered"], summary["bad_requests"], summary["refused_busy"]) == (2, 1, 1)
    assert (summary["cpu_s"]["retrieval"], summary["cpu_s"]["ranking"]) == (0.003, 0.03)
    assert summary["queue_ms"]["p50"] == pytest.approx(125, abs=25)


def test_bad_requests_are_400(running: Running) -> None:
    for status, answer in (
        running.ask("/serve?visit=99999999&joint=1"),
        running.ask("/serve?visit=1&joint=x"),
        running.ask("/serve", [1, 2]),
        running.ask("/serve", b"{no json"),
        running.ask("/serve", b"a" * 70_000),
    ):
        assert status == 400
        assert "expected" in answer["error"]
        assert "\n" not in answer["error"]
    assert running.ask("/serve?visit=1&joint=1")[0] == 200


@pytest.mark.slow
def test_a_service_that_is_told_to_end_says_what_it_did(parts: Parts, tmp_path: Path) -> None:
    one = started(command(parts.folder, tmp_path / "out", "most_waiting=1"))
    worker = one.ask("/health")[1]["services"]["cascade"]
    assert one.ask("/serve?visit=1&joint=1")[0] == 200
    assert one.ask("/serve?visit=-1&joint=1")[0] == 400
    os.kill(worker, signal.SIGKILL)
    for _ in range(1000):
        status, answer = one.ask("/serve?visit=1&joint=1")
        if status == 503:
            break
    assert (status, answer["error"]) == (503, "the cascade's process has ended")
    assert one.ask("/health")[0] == 503
    one.process.terminate()
    assert one.process.wait(timeout=120) == 0
    summary = read_json(tmp_path / "out/summary.json")
    assert summary["answered"] >= 1
    assert (summary["bad_requests"], summary["refused_busy"]) == (1, 1)
    assert summary["cpu_s"]["http"] > 0


def test_a_port_in_use_and_no_build_get_one_line(parts: Parts, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            command(parts.folder, tmp_path / "out", f"port={port}"), capture_output=True, text=True, check=False
        )
    expected = f"error: port: cannot listen on 127.0.0.1:{port}: Address already in use; choose another"
    assert (done.returncode, done.stderr.strip()) == (2, expected)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"^address: cannot listen on ::1:0: Address family .*; choose another$"):
        serve(ServiceConfig(build=parts.folder, address="::1", port=0), tmp_path / "out")
    with pytest.raises(UserError, match=f"build: {tmp_path} has no summary.json; expected a finished build"):
        open_build(tmp_path)
    for name in ("summary.json", "config.yaml"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=MODELS_FILE):
        open_build(tmp_path)


@pytest.mark.slow
def test_the_bench_measures_it_by_configuration(parts: Parts, tmp_path: Path) -> None:
    words = command(parts.folder, tmp_path / "service")
    words[words.index("port=0")] = "port={port}"
    overrides = [
        f"target.command={json.dumps(words)}", "target.request_timeout_s=60", "target.start_timeout_s=600",
        f"traffic.table={parts.folder / LOAD_FILE}", "traffic.requests=300", 'buckets.values=[["0","1","2"]]', "buckets.most=24",
        "buckets.min_count=1", "load.rates=[40]", "load.window_s=0.5", "load.min_rounds=2", "load.max_rounds=2", "load.replay_s=2",
        "validity.slow_pct=100", "max_seconds=600",
    ]  # fmt: skip
    config = load_config(TestbenchConfig, "configs/recommender/testbench_quick.yaml", overrides)
    result = run_bench(config, tmp_path / "bench")
    assert result.summary["lost"] == 0
    assert result.maps is not None
    assert result.maps.services == ("http", "cascade")
    part = result.buckets.groupby("ranker")["cost_cascade_ms"].mean()
    assert part["large"] > part["small"] > part["none"]
