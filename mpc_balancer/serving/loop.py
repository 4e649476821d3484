"""Source → balancer → sink, at the pace of the source; a data centre that stays silent gets its lost step in time."""

from __future__ import annotations

import time
from collections.abc import Callable

from mpc_balancer.serving.balancer import Balancer
from mpc_balancer.serving.sinks import Sink
from mpc_balancer.serving.sources import Source

_LATE = 1.5  # intervals after the last answer at which a measurement counts as lost


def serve_loop(
    balancer: Balancer, source: Source, sink: Sink | None, now: Callable[[], float] = time.monotonic
) -> None:
    """Serve until the source ends; in shadow mode the sink is never called."""
    seconds = balancer.step_seconds
    due = dict.fromkeys(balancer.steered, now() + _LATE * seconds)
    while True:
        batch = source.read(max(min(due.values()) - now(), 0.0))
        if batch is None:
            return
        for one in batch:
            group = balancer.whose(one)
            balancer.step(one, group)
            if group in due:
                due[group] = now() + _LATE * seconds
        late = [group for group, at in due.items() if at <= now()]
        for group in late:
            balancer.step(None, group)
            due[group] += seconds
        if not (batch or late):
            continue
        if sink is not None and not balancer.config.shadow:
            sink(balancer.prices())
        balancer.outside = dict(source.troubles) | ({} if sink is None else {"sink": sink.failures})
        balancer.write_metrics()
