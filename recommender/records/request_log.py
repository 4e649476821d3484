"""The request log: visits as they were served, with rewards from the logged half of later likes only."""

from __future__ import annotations

import numpy as np
import pandas as pd

from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from recommender.cascade.all_pages import NOTHING
from recommender.config import LogConfig
from recommender.histories.people import People
from recommender.histories.split import LOGGED
from recommender.records.logging_policy import LoggingPolicy
from recommender.truth.page_table import PageTable
from recommender.truth.worth import Worth, discounts


def request_log(
    people: People, states: pd.DataFrame, pages: PageTable, distinct: np.ndarray, worth: Worth, spec: RequestSpec,
    config: LogConfig, tiers: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """``config.draws`` rows per visit in time order; ``states`` (V rows), ``distinct`` joint action → setting (A,)."""
    visit = np.repeat(np.arange(len(people.visits)), config.draws)
    logged = states.iloc[visit].reset_index(drop=True)
    policy = LoggingPolicy(spec, config.exploration, tiers)
    joint, propensity = policy.act(
        logged["user_value"].to_numpy(), logged["activity"].to_numpy(), numpy_generator(seed, "logged actions")
    )
    setting = distinct[joint]
    clicks, revenue = _earned(people, visit, pages.films[visit, setting], worth, seed)
    user = people.visits.user[visit]
    frame = pd.DataFrame({"timestamp": people.visits.time[visit].astype("datetime64[s]")})
    frame = pd.concat([frame, logged[list(spec.state)]], axis=1).assign(user=people.ratings.users[user], visit=visit)
    for name, choice in zip(spec.sub_actions, np.unravel_index(joint, spec.shape)):
        frame[name] = choice.astype(np.int64)
    return frame.assign(
        retrieved=pages.retrieved[visit, setting].astype(np.int64),
        preranked=pages.preranked[visit, setting].astype(np.int64),
        impressions=(pages.films[visit, setting] != NOTHING).sum(axis=1),
        clicks=clicks,
        revenue=revenue.round(6),
        propensity=propensity,
    )


def _earned(
    people: People, visit: np.ndarray, pages: np.ndarray, worth: Worth, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Clicks int64 (M,) and revenue float64 (M,) of pages (M, slots) shown at visits (M,), in order of visits."""
    luck = numpy_generator(seed, "clicks").random(pages.shape)
    clicks, revenue = np.zeros(len(visit), np.int64), np.zeros(len(visit))
    money = np.append(worth.film, 0.0)
    for rows in np.split(np.arange(len(visit)), np.flatnonzero(np.diff(visit)) + 1):
        rates = np.append(worth.click_rates(people.later_likes(people.visits, visit[rows[0]], LOGGED)), 0.0)
        clicked = luck[rows] < rates[pages[rows]] * discounts(pages.shape[1])
        clicks[rows] = clicked.sum(axis=1)
        revenue[rows] = (clicked * money[pages[rows]]).sum(axis=1) * worth.user[people.visits.user[visit[rows[0]]]]
    return clicks, revenue
