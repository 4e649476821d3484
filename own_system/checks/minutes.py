"""Can a system model be learned from the minute table, and does it say what λ does?"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from marca_common.errors import UserError
from mpc_balancer.config import ColumnsConfig
from mpc_balancer.price_scale import PriceScale, without_outliers
from mpc_balancer.system_model.identifiability import unidentified
from mpc_balancer.system_model.minute_table import SystemData, from_frame
from mpc_balancer.system_model.price_effects import PriceEffects, price_effects
from mpc_balancer.system_model.table_checks import require_learnable
from own_system.checks.cpu import check_cpu_unit
from own_system.declaration import OwnSystem
from own_system.findings import Findings
from own_system.translated import minute_columns, system_frame

_STUCK = 20  # minutes in which a reading repeats itself
_LOST = 0.1  # share of readings that are empty
_MISSING = 0.001  # share of minutes
_OUTLIER = 10.0  # times the largest λ that is none
_CERTAIN = 3.0  # standard errors at which prices count as exchanged


def check_minutes(own: OwnSystem, frame: pd.DataFrame, findings: Findings) -> SystemData | None:
    """Rows, readings, then λ. The table as the balancer reads it; None where it would not."""
    file, columns = own.minutes.file, own.minutes.columns
    if not (frame["qps"] > 0).any():
        findings.add("no_traffic", file, f"0 in all {len(frame):,} rows", column=columns.traffic)
        return None
    sound = _check_units(own, frame, findings)
    if _has_duplicates(own, frame, findings) or not sound:
        return None
    table = system_frame(own, frame)
    _check_steps(own, table, findings)
    for name, service in own.services.items():
        _check_readings(own, table, f"cpu_{name}", service.cpu, findings)
    try:
        data = from_frame(table, ColumnsConfig(**minute_columns(own)), list(own.services), file)
    except UserError as error:
        findings.add("unreadable_file", file, str(error).removeprefix(f"{file}: "))
        return None
    try:
        require_learnable(data)
    except UserError as error:
        findings.add("unusable_numbers", file, _theirs(own, str(error).removeprefix("system table: ")))
        return None
    _check_prices(own, table, data, findings)
    return data


def _check_units(own: OwnSystem, frame: pd.DataFrame, findings: Findings) -> bool:
    sound = True
    for name, service in own.services.items():
        cpu = frame[f"cpu_{name}"]
        if cpu.isna().all():
            findings.add("lost_readings", own.minutes.file, f"all {len(cpu):,} are empty", column=service.cpu)
            sound = False
        else:
            sound &= check_cpu_unit(cpu, own.minutes.cpu, own.minutes.file, service.cpu, findings)
    return sound


def _has_duplicates(own: OwnSystem, frame: pd.DataFrame, findings: Findings) -> bool:
    again = frame.duplicated(["idc", "timestamp"]).to_numpy()
    if again.any():
        at = int(np.argmax(again))
        value = f"{frame['timestamp'].iloc[at]} (UTC) of {frame['idc'].iloc[at]!s} ({again.sum():,} such rows)"
        column = own.minutes.columns.timestamp
        findings.add("duplicate_minutes", own.minutes.file, value, column=column, row=int(frame.index[at]))
    return bool(again.any())


def _check_steps(own: OwnSystem, table: pd.DataFrame, findings: Findings) -> None:
    step = table.groupby("idc", sort=False)["timestamp"].diff().dt.total_seconds()
    if not step.notna().any():
        return
    usual, column = float(step.median()), own.minutes.columns.timestamp
    if usual != 60:
        findings.add("not_minutes", own.minutes.file, f"rows are {usual:g} s apart", column=column)
    missing = (step / usual - 1).clip(lower=0).fillna(0).to_numpy()
    if missing.sum() > _MISSING * len(table):
        at = int(missing.argmax())
        value = f"{missing.sum():,.0f} rows are missing, most of them before {table['timestamp'].iloc[at]} (UTC)"
        findings.add("missing_minutes", own.minutes.file, value, column=column, row=int(table.index[at]))


def _check_readings(own: OwnSystem, table: pd.DataFrame, name: str, column: str, findings: Findings) -> None:
    cpu = table[name].to_numpy()
    lost = np.isnan(cpu)
    if lost.mean() > _LOST:
        findings.add("lost_readings", own.minutes.file, f"{lost.mean():.0%} of {len(cpu):,} are empty", column=column)
    same = np.append(
        False, (np.diff(cpu) == 0) & (cpu[1:] > 0) & (table["idc"].to_numpy()[1:] == table["idc"].to_numpy()[:-1])
    )
    run = np.arange(len(same)) - np.maximum.accumulate(np.where(same, -1, np.arange(len(same))))
    longest = int(run.argmax())
    if run[longest] + 1 >= _STUCK:
        row = int(table.index[longest - run[longest]])
        value = f"{cpu[longest]:g} % in {run[longest] + 1} minutes one after another"
        findings.add("stuck_sensor", own.minutes.file, value, column=column, row=row)


def _check_prices(own: OwnSystem, table: pd.DataFrame, data: SystemData, findings: Findings) -> None:
    file, flat = own.minutes.file, False
    for yours, ours in own.prices.items():
        price = table[ours].to_numpy()
        kept = without_outliers(price)
        if np.ptp(price) == 0:
            value = f"{price[0] / own.price_factor:g} in all {len(price):,} rows"
            findings.add("price_never_moves", file, value, column=yours)
            flat = True
        elif _OUTLIER * kept < price.max():
            at = int(price.argmax())
            value = f"got {price.max() / own.price_factor:g}; the largest of the others is {kept / own.price_factor:g}"
            findings.add("price_outlier", file, value, column=yours, row=int(table.index[at]))
    if flat:
        return
    effects = price_effects(data, PriceScale.from_data(data.price))
    crossed = _crossed(effects)
    for one, other in crossed:
        names, cpu = list(own.prices), [service.cpu for service in own.services.values()]
        value = f"{names[one]!r} acts on {cpu[other]!r} and {names[other]!r} on {cpu[one]!r}, more than each on its own service's CPU"
        findings.add("prices_swapped", file, value, column=names[one])
    for note in [] if crossed else unidentified(data, effects):
        findings.add("price_effect_unknown", file, _theirs(own, note))


def _crossed(effects: PriceEffects) -> list[tuple[int, int]]:
    """Pairs of prices whose effects on each other's service are larger, as a product, than those on their own.

    The product knows nothing of a service that answers any price more than another one does. Effects are positive here,
    and the logarithm of the ratio is certain to three standard errors.
    """
    slope, error = effects.slope, effects.error
    if slope.shape[0] != slope.shape[1]:
        return []
    found = []
    for i, j in itertools.combinations(range(len(slope)), 2):
        own, cross = [(i, i), (j, j)], [(i, j), (j, i)]
        if all(effects.sure[at] for at in cross) and all(slope[at] > 0 for at in own):
            ratio = sum(np.log(slope[at]) for at in cross) - sum(np.log(slope[at]) for at in own)
            spread = np.sqrt(sum((error[at] / slope[at]) ** 2 for at in [*own, *cross]))
            if ratio > _CERTAIN * spread:
                found.append((i, j))
    return found


def _theirs(own: OwnSystem, note: str) -> str:
    """A sentence about the translated table with the platform's column names."""
    names = {ours: yours for yours, ours in own.prices.items()}
    names |= {f"cpu_{name}": one.cpu for name, one in own.services.items()}
    for ours, yours in names.items():
        note = note.replace(f"{ours!r}", f"{yours!r}")
    return note
