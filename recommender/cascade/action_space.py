"""Joint actions and what they really ask for: many of them are the same cascade, which then runs only once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recommender.config import CACHED, CHANNELS, MODELS, RANKERS, RecommenderConfig

PERSONAL = ("als", "knn")  # the channels that differ between retrieval models


@dataclass(frozen=True)
class Setting:
    """One distinct way to answer a request. No channel open: the kept answer."""

    lengths: tuple[int, ...]  # films asked of each of CHANNELS, 0: closed
    model: str
    truncation: int
    ranker: str

    @property
    def retrieval(self) -> tuple[tuple[int, ...], str]:
        """What retrieval alone depends on."""
        return self.lengths, self.model

    @property
    def cached(self) -> bool:
        """Is it the kept answer?"""
        return not any(self.lengths)


@dataclass(frozen=True)
class ActionSpace:
    """A joint actions stand for D ≤ A distinct settings."""

    settings: list[Setting]  # D
    distinct: np.ndarray  # joint action → its setting, int64 (A,)
    kept: int  # the setting whose answers are kept

    @property
    def names(self) -> list[str]:
        """A text per setting."""
        return [_name(setting) for setting in self.settings]


def action_space(config: RecommenderConfig) -> ActionSpace:
    """The joint actions of a config, in joint-index order."""
    spec = config.spec
    found: dict[Setting, int] = {}
    distinct = []
    for row in spec.joint_table():
        setting = _setting(config, dict(zip(spec.sub_actions, row.tolist())))
        distinct.append(found.setdefault(setting, len(found)))
    kept = found[_setting(config, config.cached_answer)]
    return ActionSpace(list(found), np.array(distinct, np.int64), kept)


def _setting(config: RecommenderConfig, choice: dict[str, int]) -> Setting:
    lengths: dict[str, int] = dict.fromkeys(CHANNELS, 0)
    chosen: dict[str, Any] = {}  # a level's type follows from the kind, as the config has checked
    for name, action in config.actions.items():
        level: Any = action.levels[choice[name]]
        if action.kind == "queue":
            lengths |= dict.fromkeys(action.channels, level)
        else:
            chosen[action.kind] = level
    opened = chosen["channels"]
    if opened == [CACHED]:
        return Setting((0,) * len(CHANNELS), MODELS[0], 0, RANKERS[0])
    asked = tuple(length if channel in opened else 0 for channel, length in lengths.items())
    model = chosen["model"] if set(opened) & set(PERSONAL) else MODELS[0]
    return Setting(asked, model, chosen["truncation"], chosen["ranker"])


def _name(setting: Setting) -> str:
    if setting.cached:
        return CACHED
    channels = "+".join(f"{name} {n}" for name, n in zip(CHANNELS, setting.lengths) if n)
    return f"{channels} | {setting.model} | {setting.truncation} | {setting.ranker}"
