"""A command that serves HTTP, as a target."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from autobucket.bench.bench_config import AccountingConfig, TargetConfig
from autobucket.bench.target.clocks import CgroupClock, CpuClock, TreeClock
from autobucket.bench.target.interface import Reply
from autobucket.bench.target.lifecycle import Child
from marca_common.errors import UserError

_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class JsonClient:
    """Sends JSON requests over kept-alive connections, as many as it takes: a limit would hold back an open-loop load."""

    def __init__(self, address: str, port: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        host = f"[{address}]" if ":" in address else address
        self._root = f"http://{host}:{port}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._tasks: set[asyncio.Task[Reply]] = set()

    def send(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> asyncio.Task[Reply]:
        """Start a request at once; the task ends with a Reply, whatever happens."""
        task = asyncio.ensure_future(self._exchange(method, path, content))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Drop everything that is on the way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def _exchange(self, method: str, path: str, content: Mapping[str, Any] | None) -> Reply:
        try:
            url = self._root + path
            async with self._session.request(method, url, json=content, allow_redirects=False) as response:
                body, status = await response.read(), response.status
        except TimeoutError:
            return Reply("lost", time.monotonic(), detail=f"no answer within {self.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply("error", time.monotonic(), detail=str(error) or type(error).__name__)
        finished = time.monotonic()
        if not 200 <= status < 300:
            return Reply("error", finished, detail=f"HTTP {status}: {body[:120].decode(errors='replace')}")
        try:
            results = json.loads(body, parse_constant=_no_number) if body else {}
        except (ValueError, RecursionError):
            return Reply("error", finished, detail=f"the answer is not JSON: {body[:60]!r}")
        if not isinstance(results, dict):
            return Reply("error", finished, detail="the answer is not a JSON object")
        return Reply("ok", finished, results)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class HttpTarget:
    """Starts the command, waits for its health page, sends JSON requests; stops its whole process group."""

    def __init__(self, config: TargetConfig, accounting: AccountingConfig, cores: Sequence[int] | None = None) -> None:
        self.config, self.accounting, self.cores = config, accounting, cores
        self.child: Child | None = None
        self.client: JsonClient | None = None
        self.port = 0
        self._clock: CpuClock | None = None
        self._tree: TreeClock | None = None
        self._logs = tempfile.TemporaryDirectory(prefix="bench-target-")

    async def start(self) -> dict[str, int]:
        """Start it and wait until health answers; UserError when the port is taken, it ends, or it stays silent."""
        config = self.config
        self.port = config.port or free_port(config.address)
        _require_free(config.address, self.port)
        words = {"{python}": sys.executable, "{port}": str(self.port), "{address}": config.address}
        command = [_fill(word, words) for word in config.command]
        environment = {name: str(config.threads) for name in _BLAS} | config.environment
        log_path = Path(self._logs.name) / "target.log"
        self.child = Child(
            command, environment=environment, cores=self.cores, cgroup=self.accounting.cgroup, log=log_path
        )
        self.client = JsonClient(config.address, self.port, config.request_timeout_s)
        try:
            pids = self._pids(await self._healthy())
            self._tree = TreeClock(pids)
            cgroup = self.accounting.cgroup
            self._clock = CgroupClock(cgroup, config.service) if cgroup is not None else self._tree
        except BaseException:
            await self.stop()
            raise
        return pids

    def send(self, request: Mapping[str, Any]) -> asyncio.Future[Reply]:
        """POST the request's fields to the serve path."""
        assert self.client is not None
        return self.client.send("POST", self.config.serve_path, request)

    def send_noop(self) -> asyncio.Future[Reply] | None:
        """POST nothing to the no-op path."""
        if self.config.noop_path is None:
            return None
        assert self.client is not None
        return self.client.send("POST", self.config.noop_path, {})

    def clock(self) -> CpuClock:
        """CPU of its process trees, or of its cgroup."""
        assert self._clock is not None
        return self._clock

    def switches(self) -> tuple[int, int]:
        """Context switches of its process trees."""
        return self._tree.switches() if self._tree is not None else (0, 0)

    def ended(self) -> str | None:
        """How it ended, with the last line that it printed."""
        status = self.child.ended() if self.child is not None else None
        if status is None:
            return None
        assert self.child is not None
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        words = self.child.last_words()
        return f"the target ended ({how}){f'; its last line: {words}' if words else ''}"

    async def stop(self) -> None:
        """Close connections and end the process group."""
        if self.client is not None:
            await self.client.close()
        if self.child is not None:
            self.child.stop()

    async def _healthy(self) -> Mapping[str, Any]:
        assert self.client is not None
        deadline, last = time.monotonic() + self.config.start_timeout_s, "no connection"
        while time.monotonic() < deadline:
            ended = self.ended()
            if ended is not None:
                raise UserError(f"target.command: {ended}; expected a service on {self.config.address}:{self.port}")
            reply = await self.client.send("GET", self.config.health_path)
            if reply.status == "ok":
                return reply.results
            last = reply.detail
            await asyncio.sleep(0.05)
        raise UserError(
            f"target.start_timeout_s: the target did not answer {self.config.health_path} on "
            f"{self.config.address}:{self.port} within {self.config.start_timeout_s:g} s ({last})"
        )

    def _pids(self, health: Mapping[str, Any]) -> dict[str, int]:
        """Service → root process; what health claims must lie inside the tree that was started."""
        assert self.child is not None
        claimed = health.get("services")
        if claimed is None or self.accounting.cgroup is not None:
            return {self.config.service: self.child.pid}
        root = psutil.Process(self.child.pid)
        tree = {one.pid for one in [root, *root.children(recursive=True)]}
        if not isinstance(claimed, dict) or not claimed or not set(claimed.values()) <= tree:
            raise UserError(
                f"target.health_path: services {claimed!r} must map names to process ids of the started command ({sorted(tree)})"
            )
        return {str(name): int(pid) for name, pid in claimed.items()}


def free_port(address: str) -> int:
    """A port that was free a moment ago."""
    with socket.socket(_family(address)) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise UserError(f"target.address: cannot listen on {address}: {error.strerror}") from None
        return int(probe.getsockname()[1])


def _require_free(address: str, port: int) -> None:
    with socket.socket(_family(address)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise UserError(
                f"target.port: {address}:{port} cannot be used: {error.strerror}; choose another, or 0"
            ) from None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _fill(word: str, words: Mapping[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(name, value)
    return word
