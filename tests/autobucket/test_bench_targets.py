"""Real targets: nothing is left behind, and every way to fail gives one clear line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from autobucket.bench.bench_config import AccountingConfig, TargetConfig, TestbenchConfig
from autobucket.bench.measuring.campaign import Campaign
from autobucket.bench.measuring.load import Budget, drive, schedule
from autobucket.bench.target.callable_target import CallableTarget
from autobucket.bench.target.http_target import HttpTarget, JsonClient
from autobucket.bench.target.lifecycle import Child
from autobucket.bench.target.machine import Placement, generator_on, place
from marca_common.config import load_config
from marca_common.errors import UserError
from tests.autobucket.bench_fakes import MISBEHAVING

RNG = np.random.default_rng(0)

PATIENT = {"request_timeout_s": 60, "start_timeout_s": 600}  # nothing here may depend on how fast the machine is
REQUEST = {
    "user": 7,
    "value": "mid",
    "channels": "similar+graph",
    "queue_a": 20,
    "queue_b": 10,
    "model": "heavy",
    "truncation": 8,
}


def gone(pids: Any, seconds: float = 300.0) -> Any:
    """Wait until none of the processes runs any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
        if not left:
            return True
        time.sleep(0.05)
    return False


def test_the_example_service_answers_and_accounts_two_services() -> None:
    async def use() -> Any:
        target = HttpTarget(TargetConfig(**PATIENT), AccountingConfig())
        pids = await target.start()
        try:
            before = target.clock().read()
            times = schedule("constant", 40, 0.5, RNG)
            window = await drive(target, [REQUEST], times, Budget(100), horizon_s=0.5)
            bad = await target.send({**REQUEST, "model": "huge"})
            missing = await target.send({"user": 1})
            return pids, before, window, bad, missing
        finally:
            await target.stop()

    pids, before, window, bad, missing = asyncio.run(use())
    assert set(pids) == {"retrieval", "ranking"}
    assert set(before) == set(pids)
    assert window.ok == window.sent == 20
    result = window.results[0]
    assert 10 < result["retrieved"] <= 30
    assert result["preranked"] == 8
    assert len(result["items"]) == 8
    assert all(0 < window.cpu[name] < window.seconds for name in pids)  # each is one process on one core
    assert window.switches[0] > 0
    assert len(window.latency_ms) == 20
    assert bad.status == "error"
    assert "model 'huge'" in bad.detail
    assert missing.status == "error"
    assert "HTTP 400" in missing.detail
    assert gone(pids.values())


def test_the_example_service_refuses_what_it_cannot_serve() -> None:
    command = [*TargetConfig().command, "--most-waiting", "3"]

    async def use() -> Any:
        target = HttpTarget(TargetConfig(command=command, **PATIENT), AccountingConfig())
        ranking = psutil.Process((await target.start())["ranking"])
        try:
            ranking.suspend()  # whoever is let in waits for it
            sent = [target.send(REQUEST) for _ in range(40)]
            while sum(one.done() for one in sent) < 37:
                await asyncio.sleep(0.01)
            ranking.resume()
            return await asyncio.gather(*sent)
        finally:
            await target.stop()

    replies = asyncio.run(use())
    assert sum(reply.status == "ok" for reply in replies) == 3
    assert all("503" in reply.detail and "busy: 3" in reply.detail for reply in replies if reply.status == "error")


def ask(answer: Any, requests: int = 1, timeout_s: float = 60.0, together: Any = False) -> Any:
    """Replies of the client to a server that answers each request with ``answer``, and the connections it opened."""

    async def use() -> Any:
        opened, waiting, enough = [], [], asyncio.Event()

        async def serve(reader: Any, writer: Any) -> None:
            opened.append(writer)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(2)  # {}
                    waiting.append(1)
                    if len(waiting) == requests:
                        enough.set()
                    if together:
                        await enough.wait()
                    if answer is None:
                        break
                    writer.write(answer)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024) as server:
            client = JsonClient("127.0.0.1", server.sockets[0].getsockname()[1], timeout_s)
            try:
                if together:
                    return await asyncio.gather(*(client.send("POST", "/", {}) for _ in range(requests))), opened
                return [await client.send("POST", "/", {}) for _ in range(requests)], opened
            finally:
                await client.close()
                for writer in opened:
                    writer.close()

    return asyncio.run(use())


@pytest.mark.parametrize(
    "answer,status,detail",
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}', "ok", ""),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n0\r\n\r\n', "ok", ""),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull", "error", "HTTP 503: full"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]", "error", "the answer is not a JSON object"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "error", "the answer is not JSON: b'hi'"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "error", "Expected HTTP"),
        (None, "error", "Server disconnected"),
    ],
)
def test_whatever_a_server_answers_is_a_reply(answer: Any, status: Any, detail: Any) -> None:
    (reply,), _ = ask(answer)
    assert reply.status == status
    assert detail in reply.detail
    assert reply.results == ({"a": 1} if status == "ok" else {})


def test_a_server_that_is_silent_loses_the_request() -> None:
    (reply,), _ = ask(b"", timeout_s=0.2)
    assert (reply.status, reply.detail) == ("lost", "no answer within 0.2 s")


def test_a_connection_is_kept_alive_and_none_waits_for_a_free_one() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    replies, opened = ask(answer, requests=20)
    assert len(opened) == 1
    assert {reply.status for reply in replies} == {"ok"}
    replies, opened = ask(answer, requests=300, together=True)  # no answer before all 300 have come
    assert len(opened) == 300
    assert {reply.status for reply in replies} == {"ok"}


def misbehaving(mode: Any, **options: Any) -> Any:
    config = TargetConfig(command=["{python}", "-c", MISBEHAVING, mode, "{port}"], **{**PATIENT, **options})
    return HttpTarget(config, AccountingConfig())


@pytest.mark.parametrize(
    "mode,message",
    [
        ("exit", r"the target ended \(exit status 3\); its last line: no model file; expected a service on 127.0.0.1"),
        ("silent", r"did not answer /health on 127.0.0.1:\d+ within 0.5 s"),
        ("claims", r"must map names to process ids of the started command"),
    ],
)
def test_a_target_that_does_not_start(mode: Any, message: str) -> None:
    target = misbehaving(mode, **({"start_timeout_s": 0.5} if mode == "silent" else {}))
    with pytest.raises(UserError, match=message):
        asyncio.run(target.start())
    assert gone([target.child.pid])


def test_a_command_that_does_not_exist() -> None:
    target = HttpTarget(TargetConfig(command=["no-such-program-here"]), AccountingConfig())
    with pytest.raises(UserError, match="cannot start 'no-such-program-here': No such file"):
        asyncio.run(target.start())


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        target = HttpTarget(TargetConfig(port=port), AccountingConfig())
        with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be used: Address already in use; choose another"):
            asyncio.run(target.start())
    assert target.child is None


def small_config(mode: Any) -> Any:
    command = ["{python}", "-c", MISBEHAVING, mode, "{port}"]
    patience = {**PATIENT, **({"request_timeout_s": 0.4} if mode == "hangs" else {})}
    return TestbenchConfig(
        target=TargetConfig(command=command, **patience),
        traffic={"requests": 12},
        load={"warmup_s": 0.2, "rates": [30], "idle_s": 0.05, "noop_s": 0.1, "min_rounds": 2, "max_rounds": 2},
        buckets={"strata": ["model"], "min_count": 1},
        validity={"abort_errors": 6},
    )


@pytest.mark.parametrize(
    "mode,message",
    [
        ("noop", r"target.noop_path: /noop failed: HTTP 404"),
        ("errors", r"6 requests in a row failed; the last: HTTP 500: .*out of order"),
        ("hangs", r"requests in a row failed; the last: no answer within 0.4 s"),
        ("dies", r"the target ended \(exit status 9\)"),
        ("text", r"requests in a row failed; the last: the answer is not JSON: b'hello'"),
        ("partial", r"the target's answers have no 'preranked'; found retrieved"),
    ],
)
def test_a_target_that_fails_under_load(mode: Any, message: str, tmp_path: Path) -> None:
    config = small_config(mode)
    campaign = Campaign(config, tmp_path, Placement(None, None, 1), resume=False)
    with pytest.raises(UserError, match=message):
        campaign.run()
    assert (tmp_path / "scouted.json").exists() == (mode == "noop")
    assert not (tmp_path / "windows.jsonl").exists() or mode == "noop"


def test_a_child_is_put_into_the_cgroup_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("")
    child = Child([sys.executable, "-c", "pass"], cgroup=tmp_path)
    child.process.wait(timeout=300)
    child.stop()
    assert (tmp_path / "cgroup.procs").read_text() == str(child.pid)
    with pytest.raises(UserError, match="cannot start"):
        Child([sys.executable, "-c", "pass"], cgroup=tmp_path / "absent")


def test_a_child_takes_its_whole_group_along(tmp_path: Path) -> None:
    script = "import subprocess,sys,time; p=subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)']); print(p.pid,flush=True); time.sleep(60)"
    child = Child([sys.executable, "-c", script], log=tmp_path / "log")
    while not child.last_words():
        time.sleep(0.02)
    grandchild = int(child.last_words())
    child.stop(grace_s=1.0)
    child.stop()
    assert child.guard is not None
    assert gone([child.pid, grandchild, child.guard.pid])


BENCH = """
import sys
from autobucket.bench.measuring.campaign import Campaign
from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.target.machine import Placement
from pathlib import Path
config = TestbenchConfig(load={"warmup_s": 60, "rates": [20]}, target={"start_timeout_s": 600, "request_timeout_s": 60})
Campaign(config, Path(sys.argv[1]), Placement(None, None, 1), resume=False).run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind_when_the_bench_is_killed(number: Any, tmp_path: Path) -> None:
    bench = subprocess.Popen([sys.executable, "-c", BENCH, str(tmp_path)], stderr=subprocess.PIPE, cwd=os.getcwd())
    family: list[int] = []
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and len(family) < 3:  # front, ranking, guard
            family = [one.pid for one in psutil.Process(bench.pid).children(recursive=True)]
            time.sleep(0.05)
        assert len(family) >= 3
        bench.send_signal(number)
        bench.communicate(timeout=300)
        assert gone(family)
    finally:
        bench.kill()
        bench.communicate()


def test_an_in_process_target_is_accounted_by_its_thread() -> None:
    async def use() -> Any:
        config = TargetConfig(kind="callable", callable="tests.autobucket.bench_fakes:burn", **PATIENT)
        target = CallableTarget(config)
        await target.start()
        try:
            small = await drive(target, [{"size": 4}], schedule("constant", 100, 0.2, RNG), Budget(100), horizon_s=0.2)
            large = await drive(
                target, [{"size": 400}], schedule("constant", 100, 0.2, RNG), Budget(100), horizon_s=0.2
            )
            unlucky = await target.send({"size": 13})
            return small, large, unlucky
        finally:
            await target.stop()

    small, large, unlucky = asyncio.run(use())
    assert small.ok == large.ok == 20
    assert large.cpu_total > 2 * small.cpu_total > 0
    assert unlucky.status == "error"
    assert unlucky.detail == "ValueError: unlucky"


def test_a_callable_that_cannot_be_found() -> None:
    with pytest.raises(UserError, match=r"target.callable: got 'nowhere:burn'; expected module:name"):
        CallableTarget(TargetConfig(kind="callable", callable="nowhere:burn"))


def test_the_budget_is_kept() -> None:
    budget = Budget(10)
    budget.take(8)
    with pytest.raises(UserError, match="max_requests: 5 more requests wanted, 2 left"):
        budget.take(5)


def test_cores_are_checked() -> None:
    with pytest.raises(UserError, match="target_cores"):
        place(AccountingConfig(target_cores=[4096]), "http")
    assert place(AccountingConfig(pin=False), "http").target is None
    assert place(AccountingConfig(), "callable").declared_cores == 1


def test_the_shipped_configs_load() -> None:
    for name in ("testbench", "testbench_quick"):
        config = load_config(TestbenchConfig, f"configs/autobucket/{name}.yaml")
        assert json.dumps(config.model_dump(mode="json"))


def test_a_system_that_cannot_pin_runs_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    unpinned = place(AccountingConfig(), "http")
    assert unpinned.target is None
    with pytest.raises(UserError, match="expected null: processes cannot be pinned on this system"):
        place(AccountingConfig(target_cores=[0]), "http")
    with generator_on(Placement([0], [1], 1)):  # from a machine that could
        pass
