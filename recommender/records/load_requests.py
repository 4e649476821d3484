"""What the service is asked in a load test: visits, actions at random, and what those actions are called in cost maps."""

from __future__ import annotations

import numpy as np
import pandas as pd

from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from recommender.cascade.action_space import ActionSpace
from recommender.config import CACHED, CHANNELS


def load_requests(states: pd.DataFrame, space: ActionSpace, spec: RequestSpec, seed: int) -> pd.DataFrame:
    """One request per visit (V rows), with a uniformly drawn joint action."""
    joint = numpy_generator(seed, "load requests").integers(0, len(space.distinct), len(states))
    return requests_for(np.arange(len(states)), joint, states, space, spec)


def requests_for(
    visit: np.ndarray, joint: np.ndarray, states: pd.DataFrame, space: ActionSpace, spec: RequestSpec
) -> pd.DataFrame:
    """Requests (M rows) for visits and joint actions, both (M,): ``visit``, ``history``, sub-actions and their settings.

    ``channels``, ``model`` and ``ranker`` are those of the distinct setting: where a choice is void, the first one.
    """
    frame = pd.DataFrame({"visit": visit, "history": states["history"].to_numpy()[visit]})
    for name, choice in zip(spec.sub_actions, np.unravel_index(joint, spec.shape)):
        frame[name] = choice.astype(np.int64)
    settings = setting_names(space)
    return pd.concat([frame, settings.iloc[space.distinct[joint]].reset_index(drop=True)], axis=1)


def setting_names(space: ActionSpace) -> pd.DataFrame:
    """``channels`` (joined by +), ``model`` and ``ranker`` of each distinct setting (D rows)."""
    return pd.DataFrame(
        {
            "channels": ["+".join(c for c, n in zip(CHANNELS, one.lengths) if n) or CACHED for one in space.settings],
            "model": [one.model for one in space.settings],
            "ranker": [one.ranker for one in space.settings],
        }
    )
