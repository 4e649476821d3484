"""Which members of a stack does held-out revenue bear out, and with what weight? And which global profile fits it best?

The log mean of held-out revenue is a level, the log profile, and the members' departures from it with a weight of 0 or more.
A member is taken where it raises the quasi-likelihood by more than chance would, the most useful one first; where nothing can be
told the stack stays with fewer members, at the end with the profile alone. Levels are weighed likewise, on their own: who
knows what a state earns need not know which action it earns it by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.evidence import Values, Work, in_turn, tweedie_losses, tweedie_regression
from awrq_mixer.anchoring.logged_mix import LoggedMix
from awrq_mixer.serving.stack_scorer import Member
from marca_common.requests import RequestSpec

_CHUNK = 512
_Fit = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights of some members, their errors, each row's loss


@dataclass(frozen=True)
class HeldOut:
    """What members say of rows that they were not trained on."""

    levels: np.ndarray  # log level by each member, around its mean (M, members)
    departures: (
        np.ndarray
    )  # of the row's joint action, less what its group's mix foresees; a column per member (M, members)
    foreseen: np.ndarray  # what the mix foresees (M, members)
    joint: np.ndarray  # (M,)
    reward: np.ndarray  # over its mean (M,)
    mixes: Sequence[LoggedMix] = ()  # of the rows' parts, one after the other

    def fit(self, log_profile: np.ndarray, members: list[int]) -> _Fit:
        """Weights of the departures of ``members`` and their standard errors, and each row's loss (M,); ``log_profile`` (A,).

        What a group's mix foresees of the profile is free, like what it foresees of the members.
        """
        expected = self.expected(log_profile)
        columns = [
            np.ones(len(self.levels)),
            self.levels.mean(axis=1),
            expected,
            self.foreseen[:, members],
            self.departures[:, members],
        ]
        design, offset = np.column_stack(columns), log_profile[self.joint] - expected
        found, errors = tweedie_regression(design, offset, self.reward)
        first = 3 + len(members)
        return found[first:], errors[first:], tweedie_losses(offset + design @ found, self.reward)

    def fit_levels(self, log_profile: np.ndarray, weights: np.ndarray, members: list[int]) -> _Fit:
        """As ``fit``, of the levels of ``members``; ``weights`` (members,) of all departures."""
        expected = self.expected(log_profile)
        design = np.column_stack([np.ones(len(expected)), expected, self.foreseen @ weights, self.levels[:, members]])
        offset = log_profile[self.joint] - expected + self.departures @ weights
        found, errors = tweedie_regression(design, offset, self.reward)
        return found[3:], errors[3:], tweedie_losses(offset + design @ found, self.reward)

    def expected(self, values: np.ndarray) -> np.ndarray:
        """Mean of ``values`` (A,) over the mix of each row's group, (M,); 0 where no mixes are known."""
        parts = [mix.expected(values) for mix in self.mixes]
        return np.concatenate(parts) if parts else np.zeros(len(self.levels))

    @classmethod
    def joined(cls, parts: Sequence[HeldOut]) -> HeldOut:
        """Rows of several parts, one after the other."""

        def rows(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        mixes = [mix for part in parts for mix in part.mixes]
        return cls(rows("levels"), rows("departures"), rows("foreseen"), rows("joint"), rows("reward"), mixes)


def held_out(
    members: Mapping[str, Member],
    values: Mapping[str, Values],
    rows: pd.DataFrame,
    spec: RequestSpec,
    work: Work = in_turn,
) -> HeldOut:
    """Levels and departures of members (name → its values of states) on ``rows``; reward in money over its mean.

    ``work`` goes through the chunks of states, one by one or as ``Ranks.map`` does.
    """
    states, ids, _ = spec.distinct_states(rows)
    joint, reward = spec.joint_index(rows), rows[spec.reward].to_numpy(np.float64)
    order = np.argsort(ids, kind="stable")
    mix = LoggedMix.of(rows, spec, np.mean([member.centre for member in members.values()], axis=0))

    def said(start: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a chunk, and level, departure and foreseen departure by each member there, (3, m, members)."""
        mine = order[slice(*np.searchsorted(ids, [start, start + _CHUNK], sorter=order))]
        at, (expected, group) = ids[mine] - start, mix.among(mine)
        found = np.empty((3, len(mine), len(members)))
        for j, (name, member) in enumerate(members.items()):
            level, departure = member.shapes(values[name](states.iloc[start : start + _CHUNK]))
            found[0, :, j], found[2, :, j] = level[at], (departure @ expected.T)[at, group]
            found[1, :, j] = departure[at, joint[mine]] - found[2, :, j]
        return mine, found

    whole = np.empty((3, len(rows), len(members)))
    for mine, found in work(said, range(0, len(states), _CHUNK)):
        whole[:, mine] = found
    levels, departures, foreseen = whole
    return HeldOut(levels - levels.mean(axis=0), departures, foreseen, joint, reward / reward.mean(), [mix])


def best_profile(candidates: Sequence[Mapping[str, np.ndarray]], parts: Sequence[HeldOut], confidence: float) -> str:
    """Name of the profile that held-out revenue fits best; the first one unless another is better beyond chance.

    ``candidates``: for each part the profiles (A,) as learned without its rows. ``confidence``: standard errors, over the
    rows of all parts, that the difference must be worth.
    """
    losses = {
        name: np.concatenate([rows.fit(_log(one[name]), [])[2] for one, rows in zip(candidates, parts)])
        for name in candidates[0]
    }
    first, best = next(iter(losses)), min(losses, key=lambda name: float(losses[name].sum()))
    gain = losses[first] - losses[best]
    return best if gain.mean() > confidence * gain.std() / np.sqrt(len(gain)) else first


def weigh(rows: HeldOut, profile: np.ndarray, confidence: float) -> np.ndarray:
    """Weights of the members, (members,): 0 for those that are not taken.

    ``confidence``: standard errors above 0 that the weight of a member must be when it is taken.
    """
    log_profile = _log(profile)
    return _forward(lambda members: rows.fit(log_profile, members), rows.departures.shape[1], confidence)


def weigh_levels(rows: HeldOut, profile: np.ndarray, weights: np.ndarray, confidence: float) -> np.ndarray:
    """Weights of the members' levels, (members,), beside departures of ``weights``: their mean, where none is borne out."""
    log_profile = _log(profile)
    found = _forward(lambda members: rows.fit_levels(log_profile, weights, members), len(weights), confidence)
    return found if found.any() else np.full(len(weights), 1 / len(weights))


def _forward(fit: Callable[[list[int]], _Fit], members: int, confidence: float) -> np.ndarray:
    """Weights (members,) above 0 of members taken one by one, the most useful one first, as long as one is borne out."""
    taken: list[int] = []
    weights = np.zeros(members)
    while True:
        tried = {j: fit([*taken, j]) for j in range(members) if j not in taken}
        able = {j: one for j, one in tried.items() if (one[0] > 0).all() and one[0][-1] > confidence * one[1][-1]}
        if not able:
            return weights
        best = min(able, key=lambda j: float(able[j][2].sum()))
        taken.append(best)
        weights[taken] = able[best][0]


def judged(
    rows: HeldOut, profile: np.ndarray, weights: np.ndarray, levels: np.ndarray, names: list[str], confidence: float
) -> pd.DataFrame:
    """A row per member: its weight, that of its level, its slope on its own with the standard error, and the verdict."""
    log_profile = _log(profile)
    records = []
    for j, name in enumerate(names):
        (slope,), (se,), _ = rows.fit(log_profile, [j])
        borne_out = slope > confidence * se
        verdict = (
            "kept" if weights[j] > 0 else "adds nothing to the others" if borne_out else "not borne out by revenue"
        )
        records.append(
            {
                "member": name,
                "weight": weights[j],
                "level": levels[j],
                "slope": slope,
                "slope_se": se,
                "verdict": verdict,
            }
        )
    return pd.DataFrame(records)


def _log(profile: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(profile / profile.mean()))
