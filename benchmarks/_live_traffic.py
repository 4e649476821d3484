"""Traffic of the live run: the day of the data's own users, and who of them asks when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marca_common.seeding import numpy_generator
from recommender.histories.people import People

LEAST = 0.4  # hours whose traffic in the past is below this share of the busiest hour's are left out


@dataclass(frozen=True)
class Day:
    """Busy hours of a day in order, and their traffic relative to the mean, as it used to be and as it comes."""

    hours: np.ndarray  # of the clock, UTC, int64 (H,)
    past: np.ndarray  # float64 (H,), mean 1
    present: np.ndarray  # the same of the later half of the record
    by_hour: list[np.ndarray]  # visits of each hour

    @classmethod
    def of(cls, people: People) -> Day:
        """Users who rate something in an hour are the record's traffic; its earlier half is the past.

        The quiet hours of the night are left out: even the dearest actions would leave the CPU below its target there.
        """
        ratings, visits = people.ratings, people.visits
        seen = np.unique(np.stack([ratings.time // 3600, ratings.user]), axis=1)[0]  # one entry per user and hour
        early = seen < np.median(seen)
        past, present = (np.bincount(one % 24, minlength=24).astype(float) for one in (seen[early], seen[~early]))
        order = (int(np.argmin(past)) + np.arange(24)) % 24
        hours = order[past[order] >= LEAST * past.max()]
        clock = visits.time // 3600 % 24
        by_hour = [np.flatnonzero(clock == hour) for hour in hours]
        everyone = np.arange(len(visits))
        return cls(
            hours, _relative(past[hours]), _relative(present[hours]), [one if len(one) else everyone for one in by_hour]
        )

    def rate(self, share: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """Relative traffic at shares of the day, linear between the middles of hours."""
        return np.asarray(np.interp(np.asarray(share) * len(shape), np.arange(len(shape)) + 0.5, shape))

    def hour(self, share: np.ndarray | float) -> np.ndarray:
        """Which of the hours a share of the day lies in."""
        return np.minimum((np.asarray(share) * len(self.hours)).astype(np.int64), len(self.hours) - 1)


def _relative(counts: np.ndarray) -> np.ndarray:
    counts = np.maximum(counts, 1.0)  # a tiny set has hours without anybody
    return np.asarray(counts / counts.mean())


@dataclass(frozen=True)
class Block:
    """Requests of a stretch of the day: the same for every strategy that serves it."""

    seconds: float
    start: float  # share of the day
    end: float
    times: np.ndarray  # since the block's start, seconds, rising (n,)
    visit: np.ndarray  # int64 (n,)

    def share(self, second: float) -> float:
        """Share of the day at a second of the block."""
        return self.start + (self.end - self.start) * min(second / self.seconds, 1.0)


def make_block(
    day: Day, shape: np.ndarray, mean_qps: float, seconds: float, start: float, end: float, seed: int, name: str
) -> Block:
    """Poisson arrivals whose rate follows the day; each is a visit of its hour, drawn at random."""
    generator = numpy_generator(seed, "live", name)
    most = mean_qps * float(shape.max())
    times = np.sort(generator.uniform(0, seconds, generator.poisson(most * seconds)))
    share = start + (end - start) * times / seconds
    times = times[generator.uniform(0, most, len(times)) < mean_qps * day.rate(share, shape)]
    share = start + (end - start) * times / seconds
    luck = generator.random(len(times))
    visit = [day.by_hour[h][int(u * len(day.by_hour[h]))] for h, u in zip(day.hour(share), luck)]
    return Block(seconds, start, end, times, np.array(visit, np.int64))
