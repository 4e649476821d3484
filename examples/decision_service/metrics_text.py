"""The service's counters and gauges as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from examples.decision_service.service import RULES, DecisionService

_PREFIX = "decision_service"
_HELP = {
    "decisions_total": "decisions by rule: priced, stale (fallback prices), unknown (fallback action)",
    "explored_total": "decisions that were drawn",
    "pushes_total": "price pushes taken over",
    "refused_pushes_total": "price pushes that were not believed, by reason",
    "grown_stale_total": "times that λ of a data centre grew stale",
    "reloads_total": "policies taken over while serving",
    "failed_reloads_total": "policies that could not be read",
    "bad_requests_total": "requests answered by a status of 400 or more",
    "lost_log_rows_total": "decisions that the disk did not take",
    "lambda": "λ in force, in the policy's unit",
    "fresh": "1: λ was pushed and is not stale",
    "policy": "1, labelled with the version in force",
}
Sample = tuple[str, Mapping[str, str], float]


def metrics_text(service: DecisionService) -> str:
    """All metrics as they are now."""
    samples = list(_samples(service))
    lines = []
    for name, text in _HELP.items():
        lines += [
            f"# HELP {_PREFIX}_{name} {text}",
            f"# TYPE {_PREFIX}_{name} {'counter' if name.endswith('_total') else 'gauge'}",
        ]
        lines += [f"{_PREFIX}_{name}{_labels(labels)} {value!r}" for own, labels, value in samples if own == name]
    return "\n".join(lines) + "\n"


def _samples(service: DecisionService) -> Iterator[Sample]:
    for rule, count in zip(RULES, service.decided):
        yield "decisions_total", {"rule": rule}, count
    yield "explored_total", {}, service.explored
    for name in ("pushes", "grown_stale", "reloads", "failed_reloads", "bad_requests"):
        yield f"{name}_total", {}, service.counts[name]
    for reason in ("malformed", "unit", "group", "price", "number", "stale"):
        yield "refused_pushes_total", {"reason": reason}, service.refused[reason]
    yield "lost_log_rows_total", {}, service.log.lost
    now = service.prices()
    for group, prices in now["lambda"].items():
        for price, value in prices.items():
            yield "lambda", {"group": group, "price": price}, value
        yield "fresh", {"group": group}, int(now["rule"][group] == RULES[0])
    yield "policy", {"version": service.policy.version}, 1


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {k: v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for k, v in labels.items()}
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}" if labels else ""
