"""Which actions does the log try, and where does it try none?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from own_system.coded_log import CodedLog, Grouped, declared_codes
from own_system.declaration import OwnSystem
from own_system.findings import Findings
from own_system.fitted_propensity import Foretold

_RARE_ROWS = 50  # fewer rows of a value tell nothing of it
_SURE = 0.97  # a value foretold with this probability is as good as decided
_THIN = 0.1  # share of rows that are foretold so, from which on it is said
_EXPECTED = 200  # rows of a value that a group should have had, by the value's share in the whole log


def check_declared(own: OwnSystem, frame: pd.DataFrame, findings: Findings) -> None:
    """Values of the file against those of the declaration; ``frame`` is the log as read."""
    file = own.requests.file
    for name, values in own.sub_actions.items():
        codes = declared_codes(frame[name], values)
        unknown = codes < 0
        if unknown.any():
            counts = frame[name][unknown].value_counts()
            words = ", ".join(f"{word!r} ({count:,} rows)" for word, count in counts[counts > 0].head(5).items())
            first = int(frame.index[np.argmax(unknown)])
            expected = f"expected one of {', '.join(map(repr, values))}"
            findings.add("undeclared_action", file, f"got {words}; {expected}", column=name, row=first)
        counts = np.bincount(codes[~unknown], minlength=len(values))
        if len(values) > 1 and counts.max() == len(codes):
            only = values[int(counts.argmax())]
            findings.add("one_action", file, f"all {counts.sum():,} rows took {only!r}", column=name)
            continue
        for value, count in zip(values, counts):
            if count == 0:
                findings.add("unlogged_action", file, f"{value!r} is in none of {len(codes):,} rows", column=name)
            elif count < _RARE_ROWS:
                findings.add("rare_action", file, f"{value!r} is in {count} of {len(codes):,} rows", column=name)


def check_exploration(log: CodedLog, foretold: dict[str, Foretold], findings: Findings) -> None:
    """Is the action decided by what is known before it, everywhere or in some states? ``foretold``: of the same rows."""
    for name, one in foretold.items():
        if (log.actions[name].counts > 0).sum() < 2:
            continue
        sure, columns = one.probability > _SURE, ", ".join(one.columns)
        if one.probability.mean() > _SURE:
            value = f"foretold with probability {one.probability.mean():.3f} by {columns or 'its most frequent value'}"
            findings.add("no_exploration", log.file, value, column=name)
        elif sure.mean() > _THIN:
            value = f"{sure.mean():.0%} of the rows are foretold with more than {_SURE:.0%} by {columns}"
            findings.add("thin_overlap", log.file, f"{value}; {_most_sure(log, sure)}", column=name)


def check_coverage(log: CodedLog, findings: Findings) -> None:
    """Values that a state column's group never took, though it should have seen them often."""
    for name, action in log.actions.items():
        share = action.counts / len(log)
        for column, group in log.states.items():
            table = crosstab(group, action)
            lacking = (table == 0) & (group.counts[:, None] * share > _EXPECTED)
            for g, a in np.argwhere(lacking)[:1]:
                more = f" (and {lacking.sum() - 1} more such pairs)" if lacking.sum() > 1 else ""
                value = (
                    f"{action.labels[a]!r} is in none of the {group.counts[g]:,} rows with {column} {group.labels[g]!r}"
                )
                findings.add("uncovered_group", log.file, value + more, column=name)


def crosstab(group: Grouped, action: Grouped) -> np.ndarray:
    """Rows of each pair of labels, int64 (groups, actions)."""
    size = len(action.labels)
    counts = np.bincount(group.codes * size + action.codes, minlength=len(group.labels) * size)
    return counts.reshape(len(group.labels), size)


def _most_sure(log: CodedLog, sure: np.ndarray) -> str:
    """The group of a state column that holds most of the rows that are foretold surely."""
    best = ("", "", 0.0)
    for column, group in log.states.items():
        part = np.bincount(group.codes, weights=sure, minlength=len(group.labels))
        purity = part * part / np.maximum(group.counts, 1) / max(sure.sum(), 1)
        if purity.max() > best[2]:
            best = (column, group.labels[int(purity.argmax())], float(purity.max()))
    return f"most of them with {best[0]} {best[1]!r}"
