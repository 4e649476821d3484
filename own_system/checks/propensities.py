"""Are the logged propensities those of the logged joint actions?

Four things hold of right ones, whatever the policy was. In one state those of different joint actions sum to at most 1.
The mean of 1/propensity is at most the number of joint actions. They foretell actions no worse than counting does. They are
high where counting says that they are.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from own_system.coded_log import CodedLog
from own_system.findings import Findings
from own_system.fitted_propensity import Foretold
from revenue_sim.off_policy.support import missing_support

_SUM = 1.01  # largest sum over the joint actions of a state
_WORSE = 0.2  # nats a row by which counting may foretell better
_RANKS = 0.1  # least rank correlation with the fitted ones, where those vary
_VARIES = 0.2  # deviation of the log of the fitted ones, from which on they vary
_EXCESS = 1.25  # of a mean weight that should be 1


def check_propensities(log: CodedLog, column: str, findings: Findings) -> None:
    """What holds over the whole log; ``column``: the propensities' name in the file."""
    propensity = log.frame["propensity"].to_numpy(np.float64)
    _check_sums(log, column, propensity, findings)
    weight = 1.0 / (log.n_joint * propensity)
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    mean, error = float(weight.mean()), float(weight.std() / np.sqrt(len(weight)))
    if mean - 4 * error > _EXCESS:
        value = f"the mean of 1/propensity is {mean * log.n_joint:,.0f}; expected at most {log.n_joint:,} joint actions"
        findings.add("propensity_too_small", log.file, value, column=column)
    elif (reason := missing_support(weight, effective, 0.0)) is not None and mean < 1:
        told = reason.replace("the policy's probability", "the joint actions")
        findings.add("missing_support", log.file, told, column=column)


def check_against_counts(log: CodedLog, column: str, foretold: dict[str, Foretold], findings: Findings) -> None:
    """Logged against fitted propensities, on the same rows."""
    logged = np.log(log.frame["propensity"].to_numpy(np.float64))
    fitted = np.sum([np.log(one.probability) for one in foretold.values()], axis=0)
    lead = float((fitted - logged).mean())
    if lead > _WORSE:
        value = f"counts foretell the logged actions better by {lead:.2f} nats a row (mean log of the probability)"
        findings.add("propensity_uninformative", log.file, value, column=column)
    elif fitted.std() > _VARIES and logged.std() > 0:
        ranks = float(spearmanr(logged, fitted).statistic)
        if ranks < _RANKS:
            value = f"rank correlation with fitted propensities is {ranks:.2f}"
            findings.add("propensity_misplaced", log.file, value, column=column)


def _check_sums(log: CodedLog, column: str, propensity: np.ndarray, findings: Findings) -> None:
    """Over time a policy may change, but in no minute can a state's propensities sum to more than 1: take the smallest."""
    key = log.state * log.n_joint + log.joint
    order = np.lexsort((propensity, key))
    first = np.append(True, np.diff(key[order]) != 0)
    rows = order[first]
    sums = np.bincount(log.state[rows], weights=propensity[rows])
    worst = int(sums.argmax())
    if sums[worst] > _SUM:
        seen = int((log.state[rows] == worst).sum())
        value = f"{seen} joint actions of one state have propensities that sum to {sums[worst]:.3g}"
        row = log.row(int(np.argmax(log.state == worst)))
        findings.add("propensity_sum", log.file, value, column=column, row=row)
