"""What a request asks for: which visit, and which joint action. Whatever is wrong with it gets one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from marca_common.requests import RequestSpec
from recommender.cascade.action_space import ActionSpace
from recommender.histories.people import People


class Reader:
    """Reads the fields of requests: ``visit``, or ``user`` and ``time``; ``joint``, or every sub-action. Others are ignored."""

    def __init__(self, people: People, space: ActionSpace, spec: RequestSpec) -> None:
        self.visits, self.space, self.spec = people.visits, space, spec
        users = people.ratings.users
        self._rows: dict[str, list[int]] = {}  # name of a user → its visits, in order of time
        for row, user in enumerate(self.visits.user):
            self._rows.setdefault(str(users[user]), []).append(row)
        self._shape = tuple(self.spec.shape)

    def __call__(self, fields: Mapping[str, Any]) -> tuple[int, int]:
        """(visit, distinct setting); a ValueError of one line that names field, value and expectation."""
        return self._visit(fields), int(self.space.distinct[self._joint(fields)])

    def _visit(self, fields: Mapping[str, Any]) -> int:
        if "visit" in fields:
            return _whole(fields, "visit", len(self.visits))
        if "user" not in fields or "time" not in fields:
            raise ValueError("visit: got none; expected a visit, or user and time (seconds since 1970)")
        user, time = str(fields["user"]), _whole(fields, "time", 2**62)
        rows = self._rows.get(user)
        if rows is None:
            raise ValueError(f"user: got {user[:40]!r}; expected one of the {len(self._rows)} users who visit")
        place = int(np.searchsorted(self.visits.time[rows], time, side="right"))
        if place == 0:
            raise ValueError(
                f"time: got {time}; expected {self.visits.time[rows[0]]}, the user's first visit, or later"
            )
        return int(rows[place - 1])

    def _joint(self, fields: Mapping[str, Any]) -> int:
        names = self.spec.sub_actions
        if "joint" in fields:
            beside = next((name for name in names if name in fields), None)
            if beside is not None:
                raise ValueError(
                    f"joint: given beside {beside}; expected the joint action or its sub-actions, not both"
                )
            return _whole(fields, "joint", len(self.space.distinct))
        missing = next((name for name in names if name not in fields), None)
        if missing is not None:
            raise ValueError(f"{missing}: got none; expected joint, or all of {', '.join(names)}")
        choice = [_whole(fields, name, size) for name, size in zip(names, self._shape)]
        return int(np.ravel_multi_index(choice, self._shape))


def _whole(fields: Mapping[str, Any], name: str, size: int) -> int:
    """A whole number, or its text, from 0 to ``size`` − 1."""
    try:
        number = int(str(fields[name]))
    except ValueError:
        number = -1
    if not 0 <= number < size:
        raise ValueError(f"{name}: got {str(fields[name])[:40]!r}; expected a whole number from 0 to {size - 1}")
    return number
