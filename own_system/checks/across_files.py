"""Do the three files speak of the same data centres, times, lengths and money?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from marca_common.spread import is_flat
from mpc_balancer.system_model.minute_table import SystemData
from own_system.coded_log import CodedLog
from own_system.declaration import OwnSystem
from own_system.findings import Findings

_LONGER = 1.5  # length of requests over the longest measured
_PROPORTION = (0.002, 50.0)  # of λ times the cost of a request to its revenue
_MISMATCH = 2.0  # factor beyond the range of measured costs
_BETTER = 0.25  # correlation of the daily shapes that another hour must add
_SHAPE_ROWS = 2000  # requests that make a daily shape


def check_data_centres(own: OwnSystem, frames: dict[str, pd.DataFrame | None], findings: Findings) -> None:
    """The same names in all files; ``frames``: requests, minutes and load tests as read."""
    if own.data_centre is None:
        return
    columns = own.data_centre.model_dump()
    files = {"requests": own.requests.file, "minutes": own.minutes.file, "load_tests": own.load_tests.file}
    key = {"requests": columns["requests"], "minutes": "idc", "load_tests": "idc"}
    names = {role: set(frame[key[role]].astype(str).unique()) for role, frame in frames.items() if frame is not None}
    declared = [set(one.cores) for one in own.services.values() if one.cores is not None]
    everywhere = set().union(*names.values(), *declared)
    for role, found in names.items():
        lacking = everywhere - found
        if lacking:
            value = f"has {', '.join(sorted(found))}; lacks {', '.join(sorted(lacking))}"
            findings.add("unknown_data_centre", files[role], value, column=columns[role])


def check_times(own: OwnSystem, log: CodedLog, minutes: pd.DataFrame, findings: Findings) -> None:
    """Log and minutes overlap in time, and have their peaks at the same hour."""
    if "timestamp" not in log.frame:
        return
    when, minute = log.frame["timestamp"], minutes["timestamp"]
    if when.min() > minute.max() or when.max() < minute.min():
        value = f"minutes from {minute.min()} to {minute.max()}, requests from {when.min()} to {when.max()} (UTC)"
        findings.add("times_apart", own.minutes.file, value, column=own.minutes.columns.timestamp)
    if len(log) < _SHAPE_ROWS or minute.dt.hour.nunique() < 24 or when.dt.hour.nunique() < 24:
        return
    requests = np.bincount(when.dt.hour, minlength=24).astype(np.float64)
    traffic = minutes.groupby(minute.dt.hour)["qps"].mean().to_numpy()
    if is_flat(requests) or is_flat(traffic):
        return
    shapes = [float(np.corrcoef(np.roll(requests, lag), traffic)[0, 1]) for lag in range(24)]
    best = int(np.argmax(shapes))
    if best not in (0, 1, 23) and shapes[best] > shapes[0] + _BETTER:
        value = f"requests follow the minutes' daily shape when moved by {best if best <= 12 else best - 24:+d} hours"
        findings.add("zone_mismatch", own.requests.file, value, column=own.requests.columns.timestamp)


def check_lengths(own: OwnSystem, log: CodedLog, measured: pd.DataFrame, findings: Findings) -> None:
    """Lengths of requests lie within those of the load tests."""
    for name, length in own.load_tests.lengths.items():
        seen, longest = float(np.quantile(log.frame[name], 0.99)), float(measured[name].max())
        if seen > _LONGER * longest:
            value = f"the longest is {longest:g}; 1 % of the requests have {own.results[name]!r} above {seen:g}"
            findings.add("length_not_measured", own.load_tests.file, value, column=length.column)


def check_costs(own: OwnSystem, data: SystemData, measured: pd.DataFrame, findings: Findings) -> None:
    """What minutes say of the cost of a request against the load tests, where the cores are known."""
    for j, (name, service) in enumerate(own.services.items()):
        for idc, cores in (service.cores or {}).items():
            rows = np.array([data.groups[g] == idc for g in data.group]) & (data.qps > 0)
            tests = measured[(measured["service"] == name) & (measured["idc"] == idc)]
            if not rows.any() or not len(tests):
                continue
            cpu = data.cpu[rows, j] - float(tests["idle"].iloc[0])
            cost = float(np.nanmedian(10 * cpu * cores / data.qps[rows]))
            low, high = np.quantile(tests["cost"], [0.02, 0.98])
            if not low / _MISMATCH <= cost <= high * _MISMATCH:
                value = (
                    f"{cost:.3g} core-ms a request in {idc!r} by the minutes; load tests say {low:.3g} to {high:.3g}"
                )
                findings.add("cost_mismatch", own.minutes.file, value, column=service.cpu)


def check_money(own: OwnSystem, log: CodedLog, data: SystemData, measured: pd.DataFrame, findings: Findings) -> None:
    """λ times the cost of a request has the order of its revenue."""
    typical = {name: float(measured.loc[measured["service"] == name, "cost"].median()) for name in own.services}
    prices = dict(zip(own.prices.values(), np.median(data.price, axis=0)))
    spent = sum(prices[own.prices[service.price]] * typical[name] for name, service in own.services.items())
    earned = float(log.revenue.mean())
    if not (earned > 0 and spent > 0):
        return
    if not _PROPORTION[0] <= spent / earned <= _PROPORTION[1]:
        value = f"the computation of a request costs about {spent:.3g} at the median λ; it earns {earned:.3g}"
        findings.add("price_unit", own.minutes.file, value, column=next(iter(own.prices)))
