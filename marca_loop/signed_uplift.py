"""What personalised pricing of computation would earn, from logs alone: ``python -m marca_loop.signed_uplift``.

``docs/own_uplift.md`` explains the tables, and what is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

import awrq_mixer.config
import awrq_mixer.train
from autobucket.costs.cost_model import CostModel
from awrq_mixer.anchoring.global_profile import estimate_profile, result_columns
from marca_common.cli import run_cli
from marca_common.config import Config, replaced
from marca_common.errors import UserError
from marca_common.files import file_hash
from marca_common.html_page import write_page
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import Column, read_table, write_table
from marca_loop.judged_half import JudgedHalf, PerState, judge_half
from marca_loop.uplift_power import power_table
from marca_loop.uplift_tables import summary_of, uplift_table
from marca_report.uplift_sections import uplift_facts, uplift_lead, uplift_sections


class CostSource(Config):
    """What computation costs: learned cost maps, or a table of joint actions."""

    estimator: str | None = Field(default=None, description="estimator.pt of autobucket.train; null: see table")
    maps: str | None = Field(default=None, description="cost_maps.json of autobucket.fit_costs; null: see table")
    table: str | None = Field(
        default=None,
        description="one row per joint action: its sub-actions and a column per service, core-ms; null: maps",
    )
    services: list[str] = Field(default=[], description="service columns of the table, which are added up")

    @model_validator(mode="after")
    def _one_of_two(self) -> CostSource:
        learned = self.estimator is not None and self.maps is not None
        if learned == (self.table is not None) or (self.estimator is None) != (self.maps is None):
            raise ValueError("give either estimator and maps, or table")
        if self.table is not None and not self.services:
            raise ValueError("services: got none; expected the table's service columns")
        if len(set(self.services)) < len(self.services):
            raise ValueError(f"services: got {self.services}; expected each once")
        return self

    def per_state(self, spec: RequestSpec) -> PerState:
        """Cost of every joint action in states, core-ms, all services together: (S, A)."""
        if self.table is None:
            assert self.estimator is not None
            assert self.maps is not None
            model = CostModel.load(self.estimator, self.maps)
            return lambda states: np.asarray(model.costs(states).sum(axis=-1))
        actions = [name for name in self.services if name in spec.sub_actions]
        if actions:
            raise UserError(
                f"costs.services: got {actions[0]!r}, a sub-action; expected service columns of {self.table}"
            )
        columns = [Column(name, "int", 0, spec.sizes[name] - 1) for name in spec.sub_actions]
        rows = read_table(self.table, [*columns, *(Column(name, "float", 0) for name in self.services)])
        joint = spec.joint_index(rows)
        if len(np.unique(joint)) != len(joint) or len(joint) != spec.n_joint:
            raise UserError(f"{self.table}: {len(joint)} rows; expected each of {spec.n_joint} joint actions once")
        cost = np.empty(spec.n_joint, np.float32)
        cost[joint] = rows[self.services].sum(axis=1)
        return lambda states: np.tile(cost, (len(states), 1))


class SignedUplift(Config):
    """What ``python -m marca_loop.signed_uplift`` needs."""

    seed: int = Field(default=0, ge=0, description="seed of the halves and of the sample that prices are found on")
    requests: str = Field(description="request log")
    spec: RequestSpec = Field(default=RequestSpec(), description="columns of the request log")
    learner: awrq_mixer.config.TrainConfig = Field(description="awrq_mixer.train, of each half")
    costs: CostSource = Field(description="what computation costs")
    split_by: list[str] | None = Field(
        default=None,
        description="state columns whose equal values fall into one half and share luck, such as a user; null: every request by itself",
    )
    static_by: Literal["profile", "learner"] = Field(
        default="profile", description="what chooses the static rivals: awrq_mixer.profile, or the learner's own mean"
    )
    spend_shares: list[Annotated[float, Field(gt=0)]] = Field(
        default=[0.5, 0.6, 0.7, 0.8, 1.0, 1.1], min_length=1, description="spends that are judged, over today's"
    )
    price_requests: int = Field(default=2000, ge=10, description="sampled requests that prices are found on")
    most_rows: int = Field(default=400000, ge=100, description="most rows of the log, the latest, that are read")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="coverage of the intervals")

    @model_validator(mode="after")
    def _fits(self) -> SignedUplift:
        if 1.0 not in self.spend_shares:
            raise ValueError(f"spend_shares: got {self.spend_shares}; expected 1.0, today's spend, among them")
        for name in self.split_by or []:
            if name not in self.spec.state:
                raise ValueError(f"split_by: got {name!r}; expected some of {list(self.spec.state)}")
        return self


@dataclass
class UpliftResult:
    """The uplift by spend and rival, as in uplift.csv; ``summary`` is also in summary.json."""

    out: Path
    table: pd.DataFrame
    summary: dict[str, Any]


def signed_uplift_of_log(config: SignedUplift, out: str | Path) -> UpliftResult:
    """Learn a policy on either half of a request log, and judge it by the other half's revenue, beside its rivals.

    Writes uplift.csv, power.csv, their figures, report.html for those who decide, and summary.json. Trained halves are reused by a later run of the same config.
    """
    with RunFolder(out, config, resumes_from="halves") as folder:
        halves, log = judged_halves(config, config.costs.per_state(config.spec), folder.path / "halves")
        clusters = clusters_of(halves, config.split_by)
        table = uplift_table(halves, clusters, config.confidence)
        for text in table["warning"].dropna().unique():
            folder.warn(str(text))
        for name in decided(halves, config.spec):
            folder.warn(f"{name} hardly varies among like requests: what it does is guessed, and intervals say little")
        power = power_table(halves, table, _days(log, config.spec), config.spec, config.seed)
        write_table(table, folder.path / "uplift.csv")
        write_table(power, folder.path / "power.csv")
        summary = summary_of(table, halves, clusters, config.confidence)
        known = summary | {"warnings": folder.warnings}
        sections = uplift_sections(folder.path, known, folder.path)
        write_page(folder.path / "report.html", _TITLE, uplift_lead(known), uplift_facts(known), sections)
        folder.write_summary(summary)
        return UpliftResult(folder.out, table, summary)


def judged_halves(config: SignedUplift, costs: PerState, folder: Path) -> tuple[list[JudgedHalf], pd.DataFrame]:
    """Each half of the log, judging what was learned on the other one, and the log as read."""
    spec, surrogate = config.spec, config.learner.plus.surrogate
    side = [Column(name, "float", 0) for name in config.learner.observed_columns()]
    log = spec.read(config.requests, extra=[*side, *result_columns(spec)])
    log = log.iloc[-config.most_rows :].reset_index(drop=True)
    if config.split_by and (groups := len(log[config.split_by].drop_duplicates())) < _LEAST_GROUPS:
        name = " × ".join(config.split_by)
        raise UserError(
            f"split_by: {groups} values of {name}; expected at least {_LEAST_GROUPS}, or luck cannot be told"
        )
    half = halves_of(log, config.split_by, config.seed)
    folder = folder / file_hash(config.requests)[:8]  # of another log nothing is reused
    judged = []
    for k in (0, 1):
        learned = log[half == k]
        spec.require_rows(len(learned), config.requests)
        path = folder / str(k) / "requests.parquet"
        if not path.exists():
            write_table(learned, path)
        own = {
            "requests": str(path),
            "spec": spec.model_copy(update=_AS_WRITTEN),
            "split": _SPLIT,
            "max_rows": None,
        }
        model = awrq_mixer.train.train(replaced(config.learner, own), folder / str(k) / "values").model
        profile = estimate_profile(learned, spec, surrogate) if config.static_by == "profile" else None
        rows = log[half != k].reset_index(drop=True)
        judged.append(
            judge_half(
                model.values, costs, profile, rows, spec, config.spend_shares, config.price_requests, config.seed
            )
        )
    return judged, log


_TITLE = "What personalised pricing of computation would earn"
_AS_WRITTEN: dict[str, Any] = {"columns": {}, "header": None, "separator": ",", "negative": {}, "timezone": "UTC"}
_LEAST_GROUPS = 20  # rows that share luck, together: with fewer an interval knows little of it
_DECIDED = 0.97  # mean probability of the choice that was taken, from which on there is no exploration
_SPLIT = awrq_mixer.config.SplitConfig(train=0.9, validation=0.1, test=0.0)


def halves_of(log: pd.DataFrame, columns: list[str] | None, seed: int) -> np.ndarray:
    """0 or 1 of each row (M,): rows of equal ``columns`` share a half; None: every row by itself."""
    groups = np.arange(len(log)) if columns is None else log.groupby(columns, observed=True).ngroup().to_numpy()
    return np.asarray((numpy_generator(seed, "halves").random(int(groups.max()) + 1) < 0.5)[groups], np.int64)


def decided(halves: Sequence[JudgedHalf], spec: RequestSpec) -> list[str]:
    """Sub-actions with more than one choice that the state all but decides."""
    shares = np.max([one.propensities.decided(one.sub_actions) for one in halves], axis=0)
    return [name for name, share in zip(spec.sub_actions, shares) if share > _DECIDED and spec.sizes[name] > 1]


def clusters_of(halves: Sequence[JudgedHalf], columns: list[str] | None) -> list[np.ndarray] | None:
    """Which rows of each half may share luck, (M,); None: no two."""
    if columns is None:
        return None
    return [np.asarray(one.states.groupby(columns, observed=True).ngroup().to_numpy()[one.ids]) for one in halves]


def _days(log: pd.DataFrame, spec: RequestSpec) -> float | None:
    """Days that a log covers; None without times."""
    if not spec.timestamp:
        return None
    times = log[spec.timestamp]
    return float((times.max() - times.min()) / pd.Timedelta(days=1)) or None


if __name__ == "__main__":
    run_cli(
        signed_uplift_of_log, SignedUplift, default_config="configs/own_uplift.yaml", default_out="runs/signed_uplift"
    )
