"""Do the state columns tell requests apart, and only by what was known when they came?"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from own_system.coded_log import CodedLog, Grouped, joined
from own_system.findings import Findings

_IDENTIFIER = 0.5  # distinct values per row
_STATES = 0.7  # distinct states per row
_KNOWN = 20  # rows of a value from which on its share of paying requests is known
_LEAK = 0.9  # share of the variance of paying that a column explains
_PLACEHOLDER = 0.002  # share of rows with one far value
_FAR = 3.0  # distance from the others, in widths of theirs


def check_states(log: CodedLog, findings: Findings) -> None:
    """Each column by itself, and pairs of them."""
    odd = False
    for name, group in log.states.items():
        distinct = log.frame[name].nunique()
        if distinct < 2:
            findings.add("constant_column", log.file, f"{log.frame[name].iloc[0]!s} in all rows", column=name)
            odd = True
        elif name not in log.numeric and distinct > max(100, _IDENTIFIER * len(log)):
            findings.add("identifier_column", log.file, f"{distinct:,} values in {len(log):,} rows", column=name)
            odd = True
        elif name in log.numeric:
            _check_placeholder(log, name, findings)
        else:
            _check_spellings(log, name, group, findings)
        _check_leak(log, name, group, findings)
    states = len(np.unique(log.state))
    if not odd and not log.numeric and states > max(100, _STATES * len(log)):
        findings.add("too_many_states", log.file, f"{states:,} distinct states in {len(log):,} rows")
    _check_redundant(log, findings)


def _check_spellings(log: CodedLog, name: str, group: Grouped, findings: Findings) -> None:
    folded: dict[str, list[str]] = {}
    for label in group.labels:
        folded.setdefault("".join(label.casefold().split()), []).append(label)
    for labels in folded.values():
        if len(labels) > 1:
            counts = dict(zip(group.labels, group.counts))
            words = ", ".join(f"{one!r} ({counts[one]:,} rows)" for one in labels)
            row = log.row(int(np.argmax(group.codes == group.labels.index(min(labels, key=lambda one: counts[one])))))
            findings.add("variant_spellings", log.file, words, column=name, row=row)
            return


def _check_placeholder(log: CodedLog, name: str, findings: Findings) -> None:
    numbers = log.frame[name].to_numpy(np.float64)
    for value in (numbers.min(), numbers.max()):
        at = numbers == value
        if at.mean() < _PLACEHOLDER or at.mean() > 0.5:
            continue
        low, high = np.quantile(numbers[~at], [0.01, 0.99])
        if max(low - value, value - high) > _FAR * max(high - low, 1e-12):
            text = f"{value:g} in {at.sum():,} rows; 98 % of the others lie between {low:g} and {high:g}"
            findings.add("placeholder_value", log.file, text, column=name, row=log.row(int(np.argmax(at))))


def _check_leak(log: CodedLog, name: str, group: Grouped, findings: Findings) -> None:
    paid = (log.revenue > 0).astype(np.float64)
    if not 0 < paid.mean() < 1:
        return
    codes, rows = group.codes, group.counts
    if name in log.numeric:
        codes = (log.frame[name].to_numpy(np.float64) > 0).astype(np.int64)
        rows = np.bincount(codes, minlength=2)
    share = np.bincount(codes, weights=paid, minlength=len(rows)) / np.maximum(rows, 1)
    known = rows >= _KNOWN
    if rows[known].sum() < 0.5 * len(log):
        return
    here = known[codes]
    spread = float(((share[codes][here] - paid[here].mean()) ** 2).mean() / max(paid[here].var(), 1e-300))
    if spread > _LEAK:
        findings.add("leaking_state", log.file, f"explains {spread:.0%} of whether requests paid", column=name)


def _check_redundant(log: CodedLog, findings: Findings) -> None:
    codes = {name: pd.factorize(log.frame[name])[0] for name in log.states}
    size = {name: int(one.max()) + 1 for name, one in codes.items()}
    for one, other in itertools.combinations(codes, 2):
        if size[one] == size[other] > 1 and len(np.unique(joined([codes[one], codes[other]]))) == size[one]:
            value = f"each of its {size[one]:,} values goes with one value of {one!r}"
            findings.add("redundant_columns", log.file, value, column=other)
