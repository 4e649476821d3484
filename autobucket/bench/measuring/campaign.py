"""The measuring itself: scouting, then short interleaved rounds in random order, a fresh target in each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.bench.bench_config import AccountingConfig, TargetConfig, TestbenchConfig
from autobucket.bench.measuring.bench_requests import make_requests, payloads
from autobucket.bench.measuring.buckets import RequestBucket, choose_buckets, make_buckets, replay_sample
from autobucket.bench.measuring.load import Budget, LoadWindow, drive, one_by_one, rest, schedule
from autobucket.bench.measuring.records import (
    Cell,
    Record,
    append_journal,
    costs_by_cell,
    read_journal,
    standard_error_pct,
)
from autobucket.bench.measuring.run_async import run_async
from autobucket.bench.target.callable_target import CallableTarget
from autobucket.bench.target.http_target import HttpTarget
from autobucket.bench.target.interface import Target
from autobucket.bench.target.machine import Placement
from marca_common.errors import UserError
from marca_common.files import read_json, write_json
from marca_common.progress import progress
from marca_common.seeding import numpy_generator

log = logging.getLogger(__name__)
SERVICE_MS = "service_ms"  # seen in scouting; target-aware edges explain it
COLD = 1.5  # one by one, with cold caches, requests cost up to so many times what they cost under load


@dataclass
class Measured:
    """All that a campaign found out."""

    buckets: list[RequestBucket]
    n_found: int  # buckets before the choice
    records: list[Record]
    scouted: pd.DataFrame
    note: str = ""  # why it ended early


class Campaign:
    """Runs the plan on a target and writes every measurement down at once, so that an interrupted bench goes on."""

    def __init__(
        self,
        config: TestbenchConfig,
        folder: Path,
        placement: Placement,
        *,
        resume: bool,
        make_target: Callable[[], Target] | None = None,
    ) -> None:
        self.config, self.folder, self.placement = config, folder, placement
        self.make_target = make_target or (lambda: build_target(config.target, config.accounting, placement))
        self.budget = Budget(config.max_requests, abort_errors=config.validity.abort_errors)
        self.journal = folder / "windows.jsonl"
        if not resume:
            self.journal.unlink(missing_ok=True)
            (folder / "scouted.json").unlink(missing_ok=True)
        self.records = read_journal(self.journal)
        self.note = ""

    def run(self) -> Measured:
        """Scout, measure, and return what was found; stops the target whatever happens."""
        return run_async(self._run)

    async def _run(self) -> Measured:
        load, buckets = self.config.load, self.config.buckets
        self.budget.deadline = asyncio.get_running_loop().time() + self.config.max_seconds
        scouted = await self._scout()
        found = make_buckets(buckets, scouted, self.config.traffic.value, SERVICE_MS)
        chosen = choose_buckets(found, buckets.most, buckets.strata)
        cells = self._cells(chosen)
        plan = load.min_rounds * (len(cells) * (load.window_s + load.pause_s) + load.replay_s)
        log.info("%d buckets of %d, %d cells, about %.0f s of load", len(chosen), len(found), len(cells), plan)
        total = load.min_rounds * (len(cells) + 1)
        with progress(total=total, what="autobucket.testbench", unit="window") as bar:
            bar.update(min(len([one for one in self.records if one.kind in ("cell", "replay")]), total))
            for number in range(load.max_rounds):
                left = self.unsettled(cells)
                if not left or not self._time_left():
                    break
                bar.total = max(bar.total, bar.n + len(left) if number >= load.min_rounds else 0)
                await self._round(number, left, {bucket.name: bucket for bucket in chosen}, scouted, bar)
        return Measured(chosen, len(found), self.records, scouted, self.note)

    def unsettled(self, cells: Sequence[Cell]) -> list[Cell]:
        """Cells with too few rounds or too large a standard error."""
        load = self.config.load
        costs = costs_by_cell(self.records)
        return [
            cell
            for cell in cells
            if len(costs.get(cell, ())) < load.min_rounds or standard_error_pct(costs[cell]) >= load.stop_se_pct
        ]

    def _cells(self, chosen: list[RequestBucket]) -> list[Cell]:
        load, strata = self.config.load, self.config.buckets.strata
        cells = [Cell(bucket.name, load.rates[0]) for bucket in chosen]
        for rate in load.rates[1:]:
            cells += [Cell(bucket.name, rate) for bucket in choose_buckets(chosen, load.second_rate_buckets, strata)]
        for level in load.degradations[1:]:
            part = choose_buckets(chosen, load.degradation_buckets, strata)
            cells += [Cell(bucket.name, load.rates[0], level) for bucket in part]
        return cells

    async def _scout(self) -> pd.DataFrame:
        """One pass of simulated traffic: what do requests result in? Bucketing needs realised lengths."""
        path = self.folder / "scouted.json"
        if path.exists():
            return pd.DataFrame(read_json(path))
        requests = make_requests(self.config.traffic, self.config.seed, "scout")
        async with self._target() as target:
            await self._warm(target, "scout")
            before = sum(target.clock().read().values())
            replies, took = await one_by_one(target, payloads(requests), self.budget)
            spent = sum(target.clock().read().values()) - before
        bad = [reply for reply in replies if reply.status != "ok"]
        if bad:
            raise UserError(f"target: request {len(replies)} of {len(requests)} failed in scouting: {bad[-1].detail}")
        if len(replies) < len(requests):
            raise UserError(
                f"max_seconds: {len(replies)} of {len(requests)} requests were scouted when time was up; allow more"
            )
        self._require_fast_enough(1000 * spent / len(replies))
        names = list(self.config.buckets.lengths)
        missing = [name for name in names if any(name not in one.results for one in replies)]
        if missing:
            raise UserError(
                f"buckets.lengths: the target's answers have no {missing[0]!r}; found {', '.join(replies[0].results) or 'nothing'}"
            )
        for name in names:
            requests[name] = [one.results[name] for one in replies]
        requests[SERVICE_MS] = took
        write_json(path, requests.to_dict("records"))
        return pd.DataFrame(read_json(path))

    def _require_fast_enough(self, core_ms: float) -> None:
        """A UserError where the cores cannot serve the highest rate, at ``core_ms`` per scouted request."""
        rate, cores = max(self.config.load.rates), self.placement.declared_cores
        needed = rate * core_ms / 1000 / COLD
        if needed > cores:
            raise UserError(
                f"load.rates: got {rate:g} requests/s; at {core_ms:.3g} core-ms for each scouted request that takes {needed:.2g} "
                f"cores or more, the target has {cores}; expected at most {1000 * COLD * cores / core_ms:.0f}"
            )

    async def _round(
        self, number: int, cells: list[Cell], buckets: dict[str, RequestBucket], scouted: pd.DataFrame, bar: Any
    ) -> None:
        config, load = self.config, self.config.load
        done = {(one.kind, one.cell) for one in self.records if one.round == number}
        jobs: list[Cell | str] = [cell for cell in cells if ("cell", cell) not in done]
        if load.replay_s and ("replay", None) not in done and (number < load.min_rounds):
            jobs.append("replay")
        if not jobs:
            return
        order = numpy_generator(config.seed, "autobucket", "bench", "order", number).permutation(len(jobs))
        async with self._target() as target:
            await self._warm(target, str(number))
            self._note(Record(number, "idle", await rest(target, load.idle_s, self.placement.target)))
            await self._noop(target, number)
            for i in order:
                if not self._time_left():
                    return
                job = jobs[i]
                if isinstance(job, str):
                    await self._replay(target, number)
                else:
                    await self._measure(target, number, job, buckets[job.bucket], scouted)
                bar.update(1)
                await asyncio.sleep(load.pause_s)

    async def _measure(
        self, target: Target, number: int, cell: Cell, bucket: RequestBucket, scouted: pd.DataFrame
    ) -> None:
        """Replay the bucket's sample a whole number of times, so that every window at every rate holds the same mix."""
        load, lengths = self.config.load, list(self.config.buckets.lengths)
        most = min(self.config.buckets.replay, max(int(round(min(load.rates) * load.window_s)), 1))
        rows = replay_sample(bucket, scouted[lengths], most, self.config.seed)
        fields = [name for name in scouted if name not in (*lengths, SERVICE_MS)]
        requests = payloads(scouted.loc[rows, fields])
        if cell.degradation:
            requests = [{**request, load.degradation_field: cell.degradation} for request in requests]
        passes = max(int(round(cell.rate * load.window_s / len(rows))), 1)
        window = await self._drive(target, requests, cell.rate, passes * len(rows) / cell.rate, f"{number}/{cell}")
        self._note(Record(number, "cell", window, cell, self._means(window)))

    async def _replay(self, target: Target, number: int) -> None:
        """Mixed actions at the main rate; its answers are kept, since the prediction is made request by request."""
        rate, seconds = self.config.load.rates[0], self.config.load.replay_s
        requests = replay_requests(self.config, number)
        window = await self._drive(target, payloads(requests), rate, seconds, f"{number}/replay", keep=True)
        self._note(Record(number, "replay", window, None, self._means(window)))

    async def _noop(self, target: Target, number: int) -> None:
        load = self.config.load
        if load.noop_s <= 0 or self.config.target.noop_path is None or self.config.target.kind == "callable":
            return
        times = self._times(load.rates[0], load.noop_s, f"{number}/noop")
        window = await drive(
            target, [{}], times, self.budget, horizon_s=load.noop_s, cores=self.placement.target, noop=True
        )
        if window.ok < window.sent:
            path = self.config.target.noop_path
            raise UserError(
                f"target.noop_path: {path} failed: {window.detail}; expected an answer without work, or null"
            )
        self._note(Record(number, "noop", window))

    async def _warm(self, target: Target, name: str) -> None:
        load = self.config.load
        if load.warmup_s > 0:
            rate = load.rates[0]
            count = max(int(rate * load.warmup_s), 1)
            requests = payloads(make_requests(self.config.traffic, self.config.seed, "warm", name, count=count))
            times = self._times(rate, load.warmup_s, f"{name}/warm")
            await drive(target, requests, times, self.budget, horizon_s=load.warmup_s)

    async def _drive(
        self, target: Target, requests: list[dict[str, Any]], rate: float, seconds: float, name: str, keep: bool = False
    ) -> LoadWindow:
        times = self._times(rate, seconds, name)
        window = await drive(target, requests, times, self.budget, horizon_s=seconds, cores=self.placement.target)
        if keep:
            names = [*self.config.buckets.lengths]
            short = [{name: one[name] for name in names if name in one} for one in window.results]
            return replace(window, results=short)
        return window

    def _times(self, rate: float, seconds: float, name: str) -> np.ndarray:
        load = self.config.load
        generator = numpy_generator(self.config.seed, "autobucket", "bench", "times", name)
        return schedule(load.arrivals, rate, seconds, generator, load.jitter)

    def _means(self, window: LoadWindow) -> dict[str, float]:
        answered = [one for one in window.results if one]
        names = self.config.buckets.lengths
        return {name: float(np.mean([one[name] for one in answered])) if answered else float("nan") for name in names}

    def _note(self, record: Record) -> None:
        self.records.append(append_journal(self.journal, record))

    def _time_left(self) -> bool:
        if self.budget.left_s() > self.config.load.window_s + self.config.load.replay_s:
            return True
        self.note = f"stopped after max_seconds = {self.config.max_seconds:g}"
        return False

    @asynccontextmanager
    async def _target(self) -> AsyncIterator[Target]:
        target = self.make_target()
        try:
            await target.start()
            yield target
        finally:
            await target.stop()


def build_target(target: TargetConfig, accounting: AccountingConfig, placement: Placement) -> Target:
    """The target that the config names."""
    if target.kind == "callable":
        return CallableTarget(target)
    return HttpTarget(target, accounting, placement.target)


def replay_requests(config: TestbenchConfig, number: int) -> pd.DataFrame:
    """The mixed requests of a round's replay."""
    count = max(int(round(config.load.rates[0] * config.load.replay_s)), 1)
    return make_requests(config.traffic, config.seed, "replay", str(number), count=count)
