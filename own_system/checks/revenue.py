"""Is there enough revenue, in sound payments, to learn from, and do results and side columns fit it?"""

from __future__ import annotations

import itertools

import numpy as np

from marca_common.errors import UserError
from marca_common.spread import is_flat, require_usable
from own_system.coded_log import CodedLog
from own_system.declaration import OwnSystem
from own_system.findings import Findings
from revenue_sim.off_policy.intervals import tail_index
from revenue_sim.off_policy.support import LEAST_TAIL_INDEX

_PAYING = 200  # requests that paid, at least
_SHARE = 0.001  # of the requests
_DOMINANT = 0.05  # share of all revenue in one payment
_MORE = 0.05  # share of rows in which a later stage passes on more than the one before it
_SAME = 0.999  # share of rows in which two columns agree, from which on they are one


def check_revenue(own: OwnSystem, log: CodedLog, findings: Findings) -> None:
    """Payments: how many, and how heavy their tail."""
    column, revenue = own.requests.columns.revenue, log.revenue
    paying = revenue[revenue > 0]
    if is_flat(revenue):
        findings.add("flat_revenue", log.file, f"{revenue[0] / own.money:g} in all {len(log):,} rows", column=column)
        return
    if len(paying) < max(_PAYING, _SHARE * len(log)):
        value = f"{len(paying):,} of {len(log):,} requests paid"
        findings.add("sparse_revenue", log.file, value, column=column)
        return
    largest = int(revenue.argmax())
    if revenue[largest] > _DOMINANT * revenue.sum():
        share = revenue[largest] / revenue.sum()
        value = f"{revenue[largest] / own.money:g} is {share:.0%} of all revenue"
        findings.add("dominant_payment", log.file, value, column=column, row=log.row(largest))
        return
    tail = tail_index(revenue)
    if tail is not None and tail < LEAST_TAIL_INDEX:
        value = f"the tail index of payments is {tail:.2f}; means need one above {LEAST_TAIL_INDEX:.2f}"
        findings.add("heavy_tail", log.file, value, column=column)


def check_usable(own: OwnSystem, log: CodedLog, findings: Findings) -> None:
    """Numbers that learners take: state, results and side columns, and revenue unless one payment is named already."""
    names = {name: name for name in [*log.numeric, *own.side_columns]} | own.results
    if not any(one.kind == "dominant_payment" for one in findings):
        names["revenue"] = own.requests.columns.revenue
    for ours, yours in names.items():
        try:
            require_usable(log.frame[ours].to_numpy(np.float64), "numbers")
        except UserError as error:
            findings.add("unusable_numbers", log.file, str(error).removeprefix("numbers: "), column=yours)


def check_results(own: OwnSystem, log: CodedLog, findings: Findings) -> None:
    """Results vary and shrink from stage to stage; side columns are not revenue itself."""
    values = {name: log.frame[name].to_numpy(np.float64) for name in [*own.results, *own.side_columns]}
    for name, numbers in values.items():
        if is_flat(numbers):
            findings.add("flat_result", log.file, f"{numbers[0]:g} in all rows", column=own.results.get(name, name))
    for first, later in itertools.pairwise(own.results):
        more = values[later] > values[first]
        if more.mean() > _MORE and not (is_flat(values[first]) or is_flat(values[later])):
            value = f"exceeds {own.results[first]!r} in {more.mean():.0%} of the rows"
            row = log.row(int(np.argmax(more)))
            findings.add("results_swapped", log.file, value, column=own.results[later], row=row)
    money = log.revenue / own.money
    for name in own.side_columns:
        same = np.isclose(values[name], money, rtol=1e-6, atol=0.0)
        if same.mean() > _SAME and not is_flat(money):
            value = f"equals {own.requests.columns.revenue!r} in {same.mean():.1%} of the rows"
            findings.add("side_column_is_revenue", log.file, value, column=name)
