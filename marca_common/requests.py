"""The request log: what its columns mean, and the joint action space they declare."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from marca_common.column_values import Zone
from marca_common.errors import UserError
from marca_common.table_format import TableFormat
from marca_common.tables import Column, read_table


class RequestSpec(TableFormat):
    """Columns of a request log; nothing about agents or sub-actions is hard-coded elsewhere."""

    state: dict[str, Literal["category", "numeric"]] = Field(
        default={"user_value": "category", "placement": "category", "segment": "category", "idc": "category"},
        description="state columns in order",
    )
    agents: dict[str, list[str]] = Field(
        default={"retrieval": ["a1", "a2", "a3", "a4"], "preranking": ["a5"]},
        description="agents in the order they act, each with its sub-action columns in order",
    )
    sizes: dict[str, int] = Field(
        default={"a1": 4, "a2": 5, "a3": 5, "a4": 2, "a5": 5},
        description="number of choices of each sub-action",
    )
    results: list[str] = Field(default=["retrieved", "preranked"], description="observed result columns (counts)")
    reward: str = Field(default="revenue", description="money earned by the request")
    timestamp: str | None = Field(default="timestamp", description="time column; null: the file is in time order")
    propensity: str | None = Field(
        default="propensity", description="probability of the logged joint action; null: not logged"
    )
    columns: dict[str, str] = Field(default={}, description="names in the file → names here, where they differ")
    timezone: Zone = Field(default="UTC", description="IANA zone of times without an offset")

    @model_validator(mode="after")
    def _sizes_fit_agents(self) -> RequestSpec:
        if self.sub_actions != tuple(self.sizes):
            raise ValueError(f"sizes must name the agents' sub-actions {list(self.sub_actions)} in that order")
        if len(set(self.sub_actions)) != len(self.sub_actions):
            raise ValueError("a sub-action column belongs to one agent only")
        if not self.sub_actions or min(self.sizes.values()) < 1:
            raise ValueError("every sub-action needs at least one choice")
        if not self.state:
            raise ValueError("at least one state column is needed")
        return self

    @cached_property
    def sub_actions(self) -> tuple[str, ...]:
        """Sub-action columns in the order they are taken."""
        return tuple(column for columns in self.agents.values() for column in columns)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Choices per sub-action, in order."""
        return tuple(self.sizes[name] for name in self.sub_actions)

    @property
    def n_joint(self) -> int:
        """Number of joint actions A; joint index = row-major index of the sub-actions (last varies fastest)."""
        return int(np.prod(self.shape))

    def joint_table(self) -> np.ndarray:
        """Sub-actions of every joint action, int64 (A, sub-actions), row = joint index."""
        return np.stack(np.unravel_index(np.arange(self.n_joint), self.shape), axis=1).astype(np.int64)

    def joint_index(self, frame: pd.DataFrame) -> np.ndarray:
        """Joint index of each row's sub-actions, int64 (M,)."""
        index = np.ravel_multi_index([frame[name].to_numpy() for name in self.sub_actions], self.shape)
        return np.asarray(index, dtype=np.int64)

    def table_schema(self, *, actions: bool = True, reward: bool = True, results: bool = False) -> list[Column]:
        """Schema of the log; parts that a caller does not need can be left out."""
        columns = [Column(self.timestamp, "time")] if self.timestamp else []
        columns += [Column(name, "category" if kind == "category" else "float") for name, kind in self.state.items()]
        if actions:
            columns += [Column(name, "int", 0, self.sizes[name] - 1) for name in self.sub_actions]
        if results:
            columns += [Column(name, "float", 0) for name in self.results]
        if reward:
            columns.append(Column(self.reward, "float", 0))
        if actions and self.propensity:
            columns.append(Column(self.propensity, "float", 1e-12, 1, required=False))
        return columns

    def read(self, path: str | Path, *, extra: list[Column] | None = None, **parts: bool) -> pd.DataFrame:
        """Read a log under ``table_schema(**parts)`` plus ``extra`` columns; rows are put in time order."""
        frame = read_table(
            path,
            [*self.table_schema(**parts), *(extra or [])],
            rename=self.columns,
            timezone=self.timezone,
            **self.reading,
        )
        if self.timestamp and not frame[self.timestamp].is_monotonic_increasing:
            frame = frame.sort_values(self.timestamp, kind="stable", ignore_index=True)
        return frame

    def require_rows(self, rows: int, place: str | Path) -> None:
        """A UserError where there are fewer rows to learn from than choices of all sub-actions together."""
        choices = sum(self.shape)
        if rows < choices:
            raise UserError(
                f"{place}: {rows} rows to learn from are too few for the effects of {choices} choices; expected at least {choices}"
            )

    def distinct_states(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """Distinct states in order of first appearance, the state id of every row (M,), and counts (S,)."""
        codes = np.stack([pd.factorize(frame[name])[0] for name in self.state], axis=1)
        key = pd.MultiIndex.from_arrays(list(codes.T)) if codes.shape[1] > 1 else pd.Index(codes[:, 0])
        ids, unique = pd.factorize(key)
        first = np.full(len(unique), len(frame), dtype=np.int64)
        np.minimum.at(first, ids, np.arange(len(frame)))
        states = frame[list(self.state)].iloc[first].reset_index(drop=True)
        return states, ids.astype(np.int64), np.bincount(ids, minlength=len(unique))
