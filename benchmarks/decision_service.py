"""How fast and how safely decisions are served over HTTP by one process: `python -m benchmarks.decision_service [--quick]`.

`single`: one request a connection at a time; `pipelined`: 16; `batch`: Arrow batches. `half_load` is open-loop, at half of the
rate of `single` or `batch`, with latencies from when a request was due. `swap`: policies are swapped under half load.
`killed_balancer`: `mpc_balancer.serve` pushes λ, is killed under half load, and λ grows stale. The server is pinned to one
core and the load to the others, where the system can; `per_cpu_s` is per CPU second of the server. `lost` of `log`: decisions
that were answered and are not in the log.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from awrq_mixer.serving import HullPolicy
from benchmarks._http_load import Loaded, as_fast_as_answered, at_a_rate
from benchmarks._results import add_keep
from examples.decision_service.config import DecisionServiceConfig
from examples.decision_service.service import RULES
from marca_common.config import dump_yaml
from marca_common.requests import RequestSpec
from marca_common.run_folder import versions
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table

VOCABULARY = {"user_value": 100, "placement": 6, "segment": 400, "idc": 2}
PRICES, GROUPS = ["retrieval", "ranking"], ["0", "1"]
CONNECTIONS, DEPTH, BATCH, STALE_S, SWAPS = 16, 16, 5_000, 2.0, 5
BALANCER = [
    "model=null", f"services=[{', '.join(PRICES)}]", "groups=['0', '1']", "controller.name=pi",
    "controller.price_high=[1.0, 1.0]", "controller.pi.kp=0.1", "controller.pi.ki=0.1", "sink.kind=http",
]  # fmt: skip


def main() -> None:
    """Serve, load, swap, kill; write decision_service.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer states, shorter loads")
    add_keep(parser)
    arguments = parser.parse_args()
    seconds, states = (1.0, 2_000) if arguments.quick else (10.0, 50_000)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), states, seconds)
    table = pd.DataFrame(rows).assign(states=states, cpus=versions()["cpus"])
    write_table(table, arguments.results / "decision_service.csv")
    print(table.to_string(index=False))


def measured(folder: Path, states: int, seconds: float) -> list[dict[str, Any]]:
    """All rows, on one server."""
    frame = write_policy(folder / "policy.npz", states, seed=0)
    rng = numpy_generator(0, "decision_service")
    singles = [single(frame, row) for row in rng.integers(0, states, 500)]
    batches = [batch(frame.iloc[rng.integers(0, states, BATCH)]) for _ in range(8)]
    with server(folder) as (port, process):
        push(port, 1e-3)
        as_fast_as_answered(port, singles + batches, 0.5, 2, 1)  # warm
        rows, rates = [], {}
        for path, requests, links, depth, size in (
            ("single", singles, CONNECTIONS, 1, 1),
            ("pipelined", singles, CONNECTIONS, DEPTH, 1),
            ("batch", batches, 2, 1, BATCH),
        ):
            push(port, 1e-3)
            before = cpu(process)
            found = as_fast_as_answered(port, requests, seconds, links, depth)
            rates[path] = found.good / found.seconds
            rows.append(row(path, found, size, cpu(process) - before))
        for path, requests, links, size in (("single", singles, CONNECTIONS, 1), ("batch", batches, 2, BATCH)):
            push(port, 1e-3)
            before = cpu(process)
            found = at_a_rate(port, requests, seconds, rates[path] / 2, links, seed=1)
            rows.append(row(f"{path}_half_load", found, size, cpu(process) - before))
        rows.append(swapped(folder, port, singles, rates["single"] / 2, states, seconds))
        rows.append(without_balancer(folder, port, singles, rates["single"] / 2, seconds))
        decided = sum(metric(port, f'decisions_total{{rule="{rule}"}}') for rule in RULES)
    logged = sum(pq.read_metadata(part).num_rows for part in (folder / "out/log").glob("decisions_*.parquet"))
    return [*rows, {"path": "log", "sent": int(decided), "lost": int(decided) - logged}]


def row(path: str, found: Loaded, size: int, cpu_s: float, **more: Any) -> dict[str, Any]:
    """A row of the table; rates are decisions."""
    done = found.good * size
    rates = {"per_s": done / found.seconds, "per_cpu_s": done / cpu_s if cpu_s else None}
    times = {"p50_ms": found.quantile_ms(0.5), "p99_ms": found.quantile_ms(0.99)}
    return {"path": path, "decisions_a_request": size, **rates, **times, "sent": found.sent, "lost": found.lost, **more}


def swapped(
    folder: Path, port: int, requests: list[bytes], per_s: float, states: int, seconds: float
) -> dict[str, Any]:
    """Half load while policies are swapped."""
    done: list[int] = []
    for seed in range(1, SWAPS + 1):
        write_policy(folder / f"new_{seed}.npz", states, seed)

    def swap() -> None:
        for seed in range(1, SWAPS + 1):
            (folder / f"new_{seed}.npz").replace(folder / "policy.npz")
            done.append(call(port, "POST", "/reload")[0])

    push(port, 1e-3)
    swapping = threading.Thread(target=swap)
    swapping.start()
    found = at_a_rate(port, requests, seconds, per_s, CONNECTIONS, seed=2)
    swapping.join()
    return row("swap", found, 1, 0.0, events=done.count(200))


def without_balancer(folder: Path, port: int, requests: list[bytes], per_s: float, seconds: float) -> dict[str, Any]:
    """Half load while the balancer that pushes λ is killed; events: decisions at the fallback prices afterwards."""
    words = [sys.executable, "-m", "mpc_balancer.serve", "--out", str(folder / "balancer")]
    words += [word for one in [*BALANCER, f"sink.url=http://127.0.0.1:{port}/lambda"] for word in ("--set", one)]
    balancer = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    assert balancer.stdin is not None
    before, pushes = metric(port, 'decisions_total{rule="stale"}'), metric(port, "pushes_total")
    for minute in range(3):
        stamp = (datetime(2026, 3, 9, tzinfo=UTC) + timedelta(minutes=minute)).isoformat()
        for group in GROUPS:
            line = {"group": group, "timestamp": stamp, "qps": 400.0, "cpu": [70.0, 70.0], "lambda": [1e-3, 1e-3]}
            balancer.stdin.write(json.dumps(line) + "\n")
        balancer.stdin.flush()
    while metric(port, "pushes_total") == pushes:
        time.sleep(0.01)
    balancer.kill()
    balancer.wait()
    found = at_a_rate(port, requests, max(seconds, 2 * STALE_S), per_s, CONNECTIONS, seed=3)
    stale = metric(port, 'decisions_total{rule="stale"}') - before
    return row("killed_balancer", found, 1, 0.0, events=int(stale))


@contextmanager
def server(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The program, its port and its process."""
    config = DecisionServiceConfig(
        policy=str(folder / "policy.npz"), prices=PRICES, groups=GROUPS, group_column="idc", stale_s=STALE_S, port=0,
        fallback_prices=dict.fromkeys(PRICES, 2e-3), fallback_action=dict.fromkeys(RequestSpec().sizes, 0),
        explore_share=0.02, seed=0,
    )  # fmt: skip
    (folder / "serve.yaml").write_text(dump_yaml(config), encoding="utf-8")
    words = ["-m", "examples.decision_service.serve", "--config", f"{folder}/serve.yaml", "--out", f"{folder}/out"]
    with one_core_for_a_child():
        one = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert one.stderr is not None
    said = one.stderr.readline()
    found = re.search(r":(\d+)$", said.strip())
    if found is None:
        raise SystemExit(f"the server did not start: {said}{one.stderr.read()}")
    try:
        yield int(found.group(1)), psutil.Process(one.pid)
    finally:
        one.terminate()
        one.wait()


def write_policy(path: Path, states: int, seed: int) -> pd.DataFrame:
    """A policy with a dozen candidates a state, and its states."""
    rng = numpy_generator(seed, "decision_service_policy")
    digits = np.unravel_index(
        np.linspace(0, np.prod(list(VOCABULARY.values())) - 1, states).astype(int), tuple(VOCABULARY.values())
    )
    frame = pd.DataFrame({name: part.astype(str) for name, part in zip(VOCABULARY, digits)})
    joint = np.sort(rng.choice(RequestSpec().n_joint, 12, replace=False))
    c = (1 + joint[:, None] * np.array([0.01, 0.02])) * (1 + 0.1 * rng.random((states, 1, 1)))
    q = np.log1p(c.sum(2)) * (0.02 + 0.02 * rng.random((states, 1)))
    first = np.arange(0, 12 * states + 1, 12)
    HullPolicy(frame, first, np.tile(joint, states), q.ravel(), c.reshape(-1, 2)).save(path)
    return frame


def single(frame: pd.DataFrame, place: int) -> bytes:
    """A request for one state."""
    query = "&".join(f"{name}={value}" for name, value in frame.iloc[place].items())
    return f"GET /decide?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def batch(frame: pd.DataFrame) -> bytes:
    """A request for many, dictionary-encoded as columns of few values are."""
    table = pa.table({name: pa.array(frame[name].to_numpy(object)).dictionary_encode() for name in frame})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    head = f"POST /decide HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/vnd.apache.arrow.stream\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def push(port: int, price: float) -> None:
    """What the balancer would do."""
    body = {"unit": "money per core-ms", "lambda": {group: dict.fromkeys(PRICES, price) for group in GROUPS}}
    status, text = call(port, "POST", "/lambda", json.dumps(body))
    if status != 200:
        raise SystemExit(f"λ refused: {text}")


def metric(port: int, name: str) -> float:
    """A counter of the service."""
    line = next(
        one for one in call(port, "GET", "/metrics")[1].splitlines() if one.startswith(f"decision_service_{name} ")
    )
    return float(line.rpartition(" ")[2])


def call(port: int, method: str, path: str, body: str = "") -> tuple[int, str]:
    """Status and text of one request on a connection of its own."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    link.request(method, path, body)
    reply = link.getresponse()
    text = reply.read().decode()
    link.close()
    return reply.status, text


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def one_core_for_a_child() -> Iterator[None]:
    """Processes started inside get one core, with all their threads, and this one the others from then on; where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores[1:] or cores)


if __name__ == "__main__":
    main()
