"""Where measurements come from: JSON lines, Prometheus, or any function. A source never raises and never waits too long.

``read(seconds)`` gives the measurements that came within that time (none: an empty list), or None when there will be no more.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Protocol

from marca_common.dotted_path import load_by_path
from marca_common.errors import UserError
from mpc_balancer.serving.answering import Answering
from mpc_balancer.serving.serve_config import SourceConfig

log = logging.getLogger(__name__)
_END = object()
_MOST_LINES, _MOST_AT_ONCE = 10_000, 1000  # read ahead of the loop; handed over at once


class Source(Protocol):
    """Gives measurements, or things that look like some: the edge checks what is in them."""

    troubles: Counter[str]  # what went wrong, how often

    def read(self, seconds: float) -> list[Any] | None:
        """What came within so many seconds; None: the end."""
        ...


def make_source(config: SourceConfig, step_seconds: int, groups: Sequence[str]) -> Source:
    """The configured source; a UserError where it can't be opened or found."""
    if config.kind == "json_lines":
        return JsonLines(config.path, config.follow)
    if config.kind == "prometheus":
        ask: Callable[[], Any] = Prometheus(config, step_seconds, groups)
    else:
        ask = load_by_path(str(config.function), "source.function")
    return Polled(ask, step_seconds, config.timeout_s)


class JsonLines:
    """One measurement a line, from a file (``follow``: and what is appended to it) or standard input (path ``-``).

    Keys: group, timestamp, qps, cpu, lambda, arrivals, degradation, aggregates; cpu and lambda are rows, or mappings from names.
    """

    def __init__(self, path: str, follow: bool) -> None:
        self.path, self.follow, self.troubles = path, follow, Counter[str]()
        self._lines: queue.Queue[Any] = queue.Queue(_MOST_LINES)
        if path != "-" and not Path(path).is_file():
            raise UserError(f"{path}: no such file; expected one measurement a line, or - for standard input")
        threading.Thread(target=self._fill, daemon=True).start()

    def read(self, seconds: float) -> list[Any] | None:
        """See Source."""
        found: list[Any] = []
        try:
            line = self._lines.get(timeout=max(seconds, 0.001))
            while line is not _END:
                found += self._parsed(line)
                if len(found) >= _MOST_AT_ONCE:
                    return found
                line = self._lines.get_nowait()
        except queue.Empty:
            return found
        if found:
            self._lines.put(_END)
        return found or None

    def _fill(self) -> None:
        try:
            for line in _standard_input() if self.path == "-" else _followed(Path(self.path), self.follow):
                self._lines.put(line)
        except (OSError, ValueError) as error:
            self._trouble("source", f"{self.path}: {error}")
        self._lines.put(_END)

    def _parsed(self, line: str) -> list[Any]:
        try:
            return [_measurement(json.loads(line))] if line.strip() else []
        except (ValueError, TypeError, RecursionError) as error:
            self._trouble("line", f"{self.path}: not a measurement: {line.strip()[:80]!r}: {error}")
            return []

    def _trouble(self, kind: str, text: str) -> None:
        self.troubles[kind] += 1
        log.warning("%s", text)


def _measurement(values: Any) -> Any:
    if not isinstance(values, dict):
        raise TypeError(f"got a {type(values).__name__}; expected an object")
    known = {name: values.get(name) for name in ("group", "timestamp", "qps", "cpu", "arrivals")}
    more = {"degradation": values.get("degradation", float("nan")), "aggregates": values.get("aggregates", {})}
    return SimpleNamespace(**known, **more, lambda_=values.get("lambda"))


def _standard_input() -> Iterator[str]:
    """Its lines, read below Python's buffers: a thread that waits in those would not let the program end."""
    rest = b""
    while piece := os.read(0, 65_536):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    yield rest.decode(errors="replace")


def _followed(path: Path, follow: bool, pause: float = 0.2) -> Iterator[str]:
    """Lines of a file, whole ones only while it may still grow; one that was cut or replaced is read from its start."""
    file, rest, gone = path.open(encoding="utf-8", errors="replace"), "", False
    while True:
        for piece in file:
            rest += piece
            if rest.endswith("\n"):
                yield rest
                rest = ""
        if not follow:
            yield rest
            return
        if gone:  # seen before the last reading: nothing more is written to the old one
            file.close()
            file, rest, gone = path.open(encoding="utf-8", errors="replace"), "", False
            continue
        time.sleep(pause)
        gone = _replaced(path, file)


def _replaced(path: Path, file: IO[str]) -> bool:
    """Whether another file stands at the path, or this one was cut."""
    try:
        own, there = os.fstat(file.fileno()), path.stat()
    except OSError:  # between a removal and the next file
        return False
    return there.st_ino != own.st_ino or there.st_size < file.tell()


class Polled:
    """Calls a function once an interval, just after each full step of the clock; several measurements, one, or None."""

    def __init__(
        self,
        ask: Callable[[], Any],
        step_seconds: int,
        timeout_s: float,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ask, self.step, self.now, self.sleep = Answering(ask, timeout_s), step_seconds, now, sleep
        self.troubles = Counter[str]()
        self._due = now()  # the first time at once

    def read(self, seconds: float) -> list[Any] | None:
        """See Source."""
        wait = self._due - self.now()
        if wait > 0:
            self.sleep(min(wait, max(seconds, 0.001)))
        if self.now() < self._due:
            return []
        self._due = (self.now() // self.step + 1) * self.step
        try:
            found = self.ask()
        except Exception as error:  # somebody's function: a source that fails is silent
            self.troubles["source"] += 1
            log.warning("source: %s: %s", type(error).__name__, error)
            return []
        return [] if found is None else list(found) if isinstance(found, list | tuple) else [found]


class Prometheus:
    """Instant queries at the end of the last full interval; a query that fails leaves its field unknown."""

    def __init__(
        self,
        config: SourceConfig,
        step_seconds: int,
        groups: Sequence[str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.step, self.groups, self.now = config, step_seconds, tuple(groups), now
        if not str(config.url).startswith(("http://", "https://")):
            raise UserError(f"source.url: got {config.url!r}; expected http://host:port")

    def __call__(self) -> list[Any]:
        """One measurement per data centre that traffic or CPU is known of; raises where no query was answered."""
        end = int(self.now() // self.step) * self.step
        own = self.config
        fields = {"qps": own.qps, "cpu": own.cpu, "lambda_": own.price, "degradation": own.degradation}
        queries = {name: query for name, query in fields.items() if query} | {
            f"aggregates.{name}": query for name, query in own.aggregates.items()
        }
        found: dict[str, dict[str, dict[str, float]]] = {group: {} for group in self.groups}
        failed: list[Exception] = []
        for name, query in queries.items():
            try:
                self._put(found, name, self._ask(query, end))
            except Exception as error:  # another answer than Prometheus gives, or none
                failed.append(error)
                log.warning("source: query for %s: %s: %s", name, type(error).__name__, error)
        if len(failed) == len(queries):
            raise failed[-1]
        known = (group for group, fields in found.items() if fields.keys() & {"qps", "cpu"})
        return [self._measurement(group, found[group], end) for group in known]

    def _ask(self, query: str, end: int) -> Any:
        words = urllib.parse.urlencode({"query": query, "time": end})
        address = f"{str(self.config.url).rstrip('/')}/api/v1/query?{words}"
        with urllib.request.urlopen(address, timeout=self.config.timeout_s) as reply:
            content = json.loads(reply.read())
        if content["status"] != "success":
            raise ValueError(content.get("error", "no success"))
        return content["data"]

    def _put(self, found: dict[str, dict[str, dict[str, float]]], name: str, data: Any) -> None:
        """Sort an answer's numbers by data centre and service; without a label they are the only one's."""
        scalar = data["resultType"] == "scalar"
        rows = [{"metric": {}, "value": data["result"]}] if scalar else data["result"]
        for row in rows:
            group = row["metric"].get(self.config.group_label, self.groups[0] if len(self.groups) == 1 else None)
            if group in found:
                service = row["metric"].get(self.config.service_label, "")
                found[group].setdefault(name, {})[service] = float(row["value"][1])

    def _measurement(self, group: str, fields: dict[str, dict[str, float]], end: int) -> Any:
        def one(name: str) -> float:
            return next(iter(fields.get(name, {}).values()), float("nan"))

        def many(name: str) -> Any:
            values = fields.get(name, {})
            return list(values.values()) if "" in values else values

        return SimpleNamespace(
            group=group,
            timestamp=datetime.fromtimestamp(end, UTC) - timedelta(seconds=self.step),
            qps=one("qps"),
            cpu=many("cpu"),
            lambda_=many("lambda_"),
            arrivals=None,
            degradation=one("degradation"),
            aggregates={name: one(f"aggregates.{name}") for name in self.config.aggregates},
        )
