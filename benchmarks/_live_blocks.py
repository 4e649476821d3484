"""Serves a block of requests on a live service under a strategy, open loop, and keeps what became of every request."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from autobucket.bench.measuring.load import require_cpu
from autobucket.bench.target.interface import Reply, Target
from benchmarks._live_traffic import Block
from marca_common.errors import UserError
from marca_common.protocols import Measurement

GROUP, SERVICE = "live", "service"
_BEGIN = np.datetime64("2026-01-05T00:00:00")


class Strategy(Protocol):
    """Decides requests, and hears of the CPU once an interval."""

    @property
    def price(self) -> np.ndarray:
        """λ in force, (1,)."""
        ...

    def choose(self, visit: int, share: float) -> int:
        """Distinct action for a visit at a share of the day."""
        ...

    def step(self, measurement: Measurement) -> None:
        """An interval has ended."""
        ...


@dataclass
class Served:
    """One block: arrays over its requests, and a row per control interval."""

    setting: np.ndarray  # int64 (n,)
    ok: np.ndarray  # bool (n,)
    latency_ms: np.ndarray  # from the intended send time, (n,), NaN where lost
    pages: list[list[str]]  # film ids, [] where lost
    rows: pd.DataFrame  # share, qps, cpu, lambda of each interval
    cpu_s: float  # all that the service spent on the block
    core_seconds: float  # that its cores had in the block's time
    failure: str = ""  # the last one


@dataclass
class Server:
    """A started target, and the clock that all strategies share."""

    target: Target
    joint: np.ndarray  # distinct action → joint action that is sent
    cores: int
    interval_s: float
    steps: dict[int, int] = field(default_factory=dict)  # id of a strategy → intervals that it has seen

    async def serve(self, block: Block, strategy: Strategy) -> Served:
        """Send the block's requests at their times, whatever became of earlier ones; a UserError where the service ends."""
        gc.collect()  # now rather than between requests
        loop, clock = asyncio.get_running_loop(), self.target.clock()
        before, start = sum(clock.read().values()), loop.time()
        settings = np.zeros(len(block.times), np.int64)
        sent = [0]
        watch = asyncio.create_task(self._watch(block, strategy, sent, start))
        replies: list[asyncio.Future[Reply]] = []
        for i, (visit, at) in enumerate(zip(block.visit.tolist(), block.times.tolist())):
            await asyncio.sleep(max(start + at - loop.time(), 0))
            settings[i] = strategy.choose(visit, block.share(at))
            replies.append(self.target.send({"visit": visit, "joint": int(self.joint[settings[i]])}))
            sent[0] += 1
        rows = await watch
        answers = list(await asyncio.gather(*replies))
        ended = self.target.ended()
        if ended is not None:
            raise UserError(f"target: {ended}, in the live run")
        spent = sum(clock.read().values()) - before
        require_cpu({SERVICE: spent}, sum(one.status == "ok" for one in answers))
        return self._served(block, settings, answers, start, rows, spent)

    async def _watch(self, block: Block, strategy: Strategy, sent: list[int], start: float) -> list[dict[str, Any]]:
        loop, clock = asyncio.get_running_loop(), self.target.clock()
        last, cpu, seen, rows = loop.time(), sum(clock.read().values()), 0, []
        for k in range(max(round(block.seconds / self.interval_s), 1)):
            await asyncio.sleep(max(start + (k + 1) * self.interval_s - loop.time(), 0))
            now, total, count = loop.time(), sum(clock.read().values()), sent[0]
            span, price = now - last, strategy.price
            percent = 100 * (total - cpu) / (span * self.cores)
            qps = (count - seen) / span
            number = self.steps[id(strategy)] = self.steps.get(id(strategy), -1) + 1
            strategy.step(measurement(number, qps, percent, price))
            share = block.share((k + 0.5) * self.interval_s)
            rows.append({"share": share, "qps": qps, "cpu": percent, "lambda": float(price[0])})
            last, cpu, seen = now, total, count
        return rows

    def _served(
        self, block: Block, settings: np.ndarray, answers: list[Reply], start: float, rows: list[dict[str, Any]], spent: float
    ) -> Served:  # fmt: skip
        ok = np.array([one.status == "ok" for one in answers], bool)
        finished = np.array([one.finished - start for one in answers])
        latency = np.where(ok, 1000 * (finished - block.times), np.nan)
        pages = [list(map(str, one.results["page"])) if one.status == "ok" else [] for one in answers]
        failure = next((one.detail for one in reversed(answers) if one.status != "ok"), "")
        return Served(settings, ok, latency, pages, pd.DataFrame(rows), spent, block.seconds * self.cores, failure)


def measurement(number: int, qps: float, percent: float, price: np.ndarray) -> Measurement:
    """What a controller is told; an interval stands for a minute. Clocks may read a little over 100 %."""
    return Measurement(
        minute=number,
        timestamp=_BEGIN + np.timedelta64(number, "m"),
        group=GROUP,
        qps=qps,
        cpu=np.array([min(percent, 100.0)]),
        degradation=0.0,
        lambda_=np.asarray(price, np.float64),
    )
