"""Time from stamps that may be wrong: one bad stamp is passed over, a clock that was really set is followed.

Right stamps rise. One that does not, or that leaps by more than a day, is refused at first and time runs on by a step.
It starts a second reckoning; as soon as another stamp continues that one, it was right and is taken over. The reckoning left
is kept the same way: after one stamp that was hours ahead, the next right one leads back.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd

from mpc_balancer.stateful import Stateful

_DAY = np.timedelta64(86_400, "s")
_ROW = np.timedelta64(600, "s")  # stamps at most this far apart continue one another
_FIRST, _LAST = np.datetime64("1900-01-01", "s"), np.datetime64("2200-01-01", "s")
_EPOCH = np.datetime64("1970-01-01", "s")
_NONE = np.datetime64("NaT", "s")


class Clock(Stateful):
    """The start of each interval, in UTC; a stamp without a zone is UTC."""

    STATE = ["time", "_other", "_leapt"]

    def __init__(self, step_seconds: int = 60) -> None:
        self.step = np.timedelta64(step_seconds, "s")
        self.time: np.datetime64 = _NONE  # the reckoning in use
        self._other: np.datetime64 = _NONE  # the last stamp of the other one
        self._leapt = False  # the other one was left by a leap that may have been wrong

    def read(self, stamp: Any) -> tuple[np.datetime64, bool]:
        """Time (datetime64[s]) of an interval that is said to start at ``stamp``, and whether nothing was amiss."""
        found = instant(stamp)
        if np.isnat(self.time):
            self.time = found
            return (found, True) if not np.isnat(found) else (_EPOCH, False)
        due = self.time + self.step
        if self.time < found <= due + _DAY:
            if found > due + self.step:  # an outage, or a wrong stamp: the next one tells
                self._other, self._leapt = self.time, True
            self.time = found
            return found, True
        if self._continues_other(found):
            astray, self._leapt = self._leapt, False
            self.time, self._other = found, self.time
            return found, not astray
        if not np.isnat(found):
            self._other, self._leapt = found, False
        self.time = due
        return due, False

    def _continues_other(self, found: np.datetime64) -> bool:
        return bool(self._other < found <= self._other + max(_ROW, 2 * self.step))


def instant(stamp: Any) -> np.datetime64:
    """A stamp as datetime64[s] in UTC; NaT for what is none, bare numbers included, and for years outside 1900 to 2199."""
    try:
        if isinstance(stamp, str):
            stamp = datetime.datetime.fromisoformat(stamp)
        if isinstance(stamp, datetime.datetime):  # pandas' Timestamp, too
            moment = pd.Timestamp(stamp)
            stamp = (moment if moment.tzinfo is None else moment.tz_convert(None)).to_datetime64()
        found = stamp.astype("datetime64[s]") if isinstance(stamp, np.datetime64) else _NONE
    except Exception:  # a text that is no time, an object that raises
        return _NONE
    return found if _FIRST <= found < _LAST else _NONE
