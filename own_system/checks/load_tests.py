"""Do the load tests measure every declared service and setting, well enough to know what requests cost?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from autobucket.costs.measured_costs import cost_per_request, round_cv
from marca_common.cost_maps import channel_names
from own_system.checks.cpu import check_cpu_unit
from own_system.declaration import OwnSystem
from own_system.findings import Findings
from own_system.translated import load_test_frame

_WEAK = 0.5  # percent CPU above idle that a measurement needs
_ROWS = 8  # measurements per data centre and service
_CV = 25.0  # percent, median coefficient of variation between repetitions


def check_load_tests(own: OwnSystem, frame: pd.DataFrame, findings: Findings) -> pd.DataFrame | None:
    """Names, settings, units, repetitions. The loaded rows of declared services with their ``cost``; None without any."""
    file, columns = own.load_tests.file, own.load_tests.columns
    if not check_cpu_unit(frame["cpu_percent"], own.load_tests.cpu, file, columns.cpu, findings):
        return None
    known = [one.load_test or name for name, one in own.services.items()]
    unknown = ~frame["service"].astype(str).isin(known).to_numpy()
    if unknown.any():
        at = int(np.argmax(unknown))
        value = f"got {frame['service'].iloc[at]!s} in {unknown.sum():,} rows; declared are {', '.join(known)}"
        findings.add("unknown_service", file, value, column=columns.service, row=int(frame.index[at]))
    _check_settings(own, frame, findings)
    table = load_test_frame(own, frame)
    costs = [
        _check_measured(own, table, str(idc), name, findings) for idc in frame["idc"].unique() for name in own.services
    ]
    found = [one for one in costs if one is not None]
    if not found:
        return None
    measured = pd.concat(found, ignore_index=True)
    spread = round_cv(measured.drop(columns="idle"))
    if spread > _CV:
        value = f"the median deviation between repetitions is {spread:.0f} % of the cost"
        findings.add("unrepeatable", file, value, column=columns.cpu)
    return measured


def _check_settings(own: OwnSystem, frame: pd.DataFrame, findings: Findings) -> None:
    """Values of the settings on both sides; channels are compared one by one, idle rows have none."""
    tests = own.load_tests
    loaded = frame[frame["qps"] > 0]
    pairs = {
        column: (set(loaded[name].astype(str)), set(own.sub_actions[name])) for name, column in tests.switches.items()
    }
    if tests.channels is not None:
        measured, declared = loaded["channels"].astype(str).unique(), own.sub_actions[tests.channels.action]
        pairs[tests.channels.column] = _channels(measured), _channels(declared)
    for column, (seen, wanted) in pairs.items():
        for kind, odd in (("unmeasured_setting", wanted - seen), ("unknown_setting", seen - wanted)):
            if odd:
                value = f"{', '.join(map(repr, sorted(odd)))}; measured are {', '.join(sorted(seen)) or 'none'}"
                findings.add(kind, tests.file, value, column=column)


def _channels(sets: list[str] | np.ndarray) -> set[str]:
    return {channel for one in sets for channel in channel_names(one)}


def _check_measured(
    own: OwnSystem, table: pd.DataFrame, idc: str, service: str, findings: Findings
) -> pd.DataFrame | None:
    file, called = own.load_tests.file, own.services[service].load_test or service
    rows = table[(table["idc"] == idc) & (table["service"] == service)]
    idle, loaded = rows[rows["qps"] == 0], rows[rows["qps"] > 0]
    place = f"{called!r} in data centre {idc!r}"
    if not len(loaded):
        findings.add("unmeasured_service", file, f"no row under load of {place}", column=own.load_tests.columns.service)
        return None
    if not len(idle):
        findings.add("no_idle_rows", file, place, column=own.load_tests.columns.qps)
    rest = float(idle["cpu_percent"].median()) if len(idle) else 0.0
    strong = loaded[loaded["cpu_percent"] - rest > _WEAK]
    if len(strong) < _ROWS:
        findings.add(
            "few_load_tests",
            file,
            f"{place}: {len(strong)} rows use {_WEAK:g} % more CPU than idle; needed are {_ROWS}",
        )
        return None
    for name, length in own.load_tests.lengths.items():
        if strong[name].isna().any():
            findings.add("empty_value", file, f"{place}: a row under load has no length", column=length.column)
            return None
    cpu, machines, cores, qps = (strong[name].to_numpy() for name in ("cpu_percent", "machines", "cores", "qps"))
    return strong.assign(cost=cost_per_request(cpu, machines, cores, qps, rest), idle=rest)
