"""Counters and gauges as Prometheus text, for a file that the node exporter's textfile collector picks up.

A file needs no port, no thread and no permission, and what it says last is still there after a crash; its age says that too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import numpy as np

from mpc_balancer.serving.edge import Edge
from mpc_balancer.serving.steered import Steered

_PREFIX = "mpc_balancer"
_HELP = {
    "lambda": "λ last set, in the declared unit",
    "steps_total": "control steps by kind: measured, lost (no measurement), gap (left out by the time stamps)",
    "rungs_total": "which rule answered",
    "refused_total": "parts of measurements that were not believed",
    "alarm_steps_total": "control steps that an alarm stood",
    "silent_steps": "steps in a row without any CPU",
    "foreign_steps": "steps in a row whose λ in force was none of ours",
    "controller_failed_total": "steps at which the controller raised or gave no prices, and λ was held",
    "expected_qps": "traffic expected of the coming interval, requests per second",
    "shadow": "1: λ is advised, not applied",
    "decision_seconds": "duration of the last decision",
    "last_step_timestamp_seconds": "when the last step was made",
    "troubles_total": "what else went wrong, all data centres: source, line, sink, disk, unknown_group, answered",
}
_COUNTED = {"rungs_total": "rung", "refused_total": "part", "alarm_steps_total": "alarm"}
Sample = tuple[str, dict[str, str], float]


def metrics_text(steered: Mapping[str, Steered], edge: Edge, troubles: Mapping[str, int], now: datetime) -> str:
    """All metrics, as they are ``now``."""
    samples: list[Sample] = [("troubles_total", {"kind": kind}, count) for kind, count in sorted(troubles.items())]
    samples.append(("last_step_timestamp_seconds", {}, now.timestamp()))
    for group, one in steered.items():
        samples += _of_group(group, one, edge)
    lines = []
    for name, text in _HELP.items():
        own = [sample for sample in samples if sample[0] == name]
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {_PREFIX}_{name} {text}", f"# TYPE {_PREFIX}_{name} {kind}"] if own else []
        lines += [f"{_PREFIX}_{name}{_labels(labels)} {_number(value)}" for _, labels, value in own]
    return "\n".join(lines) + "\n"


def _of_group(group: str, one: Steered, edge: Edge) -> Iterator[Sample]:
    of = {"group": group}
    for name, price in edge.outwards(one.lambda_).items():
        yield "lambda", {**of, "price": name}, price
    for kind in ("measured", "lost", "gap"):
        yield "steps_total", {**of, "kind": kind}, one.counts[kind]
    for (name, label), counts in zip(_COUNTED.items(), one.said):
        for key, count in sorted(counts.items()):
            yield name, {**of, label: key}, count
    yield "silent_steps", of, one.silent
    yield "foreign_steps", of, one.foreign
    yield "controller_failed_total", of, one.counts["controller_failed"]
    yield "expected_qps", of, float(getattr(one.controller, "expected_qps", np.nan))
    yield "shadow", of, one.shadow
    yield "decision_seconds", of, one.seconds


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {k: v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for k, v in labels.items()}
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}" if labels else ""


def _number(value: float) -> str:
    return "NaN" if np.isnan(value) else repr(float(value))
