"""A request log of served decisions: python -m examples.decision_service.join --set outcomes=F.parquet --out DIR"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from examples.decision_service.config import JoinConfig
from examples.decision_service.decision_log import read_log
from marca_common.cli import run_cli
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.tables import Column, read_table, write_table


@dataclass
class Joined:
    """The request log, also in requests.parquet, and how many rows met."""

    requests: pd.DataFrame
    summary: dict[str, Any]


def join(config: JoinConfig, out: str | Path) -> Joined:
    """Join what came of the requests to the decision log; write requests.parquet, a log that every program here reads.

    Decisions without an outcome are left out and counted. So are those of unknown states with an empty or impossible value,
    which no program reads. A UserError for a log of shadow mode, whose decisions were never applied, for a request with two
    outcomes, and where no decision has one.
    """
    with RunFolder(out, config) as folder:
        decisions, outcomes = read_log(config.log, config.spec), _outcomes(config)
        if decisions["shadow"].any():
            raise UserError(f"{config.log}: holds decisions of shadow mode, which were never applied; expected none")
        twice = [name for name in outcomes if name in decisions and name != "request"]
        if twice:
            raise UserError(f"{config.outcomes}: column {twice[0]!r} is one of the decision log's own; expected others")
        both = decisions.merge(outcomes, on="request", how="inner", validate="one_to_one").sort_values("request")
        if not len(both):
            raise UserError(
                f"{config.outcomes}: no request of {config.log} stands in it; expected outcomes of its requests"
            )
        readable = both[_readable(both, config.spec)]
        requests = _columns(readable, config.spec, config.extra)
        write_table(requests, folder.path / "requests.parquet")
        summary = {
            "decisions": len(decisions),
            "joined": len(readable),
            "unreadable_states": len(both) - len(readable),
            "without_outcome": len(decisions) - len(both),
            "outcomes_of_other_requests": len(outcomes) - len(both),
            "rules": readable["rule"].value_counts().to_dict(),
        }
        folder.write_summary(summary)
        return Joined(requests, summary)


def _outcomes(config: JoinConfig) -> pd.DataFrame:
    numbers = [*config.spec.results, config.spec.reward, *config.extra]
    outcomes = read_table(
        config.outcomes, [Column("request", "int", 0), *(Column(name, "float", 0) for name in numbers)]
    )
    twice = outcomes["request"].duplicated()
    if twice.any():
        raise UserError(
            f"{config.outcomes}: request {outcomes['request'][twice].iloc[0]} stands in it twice; expected it once"
        )
    return outcomes


def _readable(both: pd.DataFrame, spec: RequestSpec) -> pd.Series:
    """Rows whose state columns hold what their kinds can hold; what a client sent for an unknown state may be anything."""
    readable = pd.Series(True, both.index)
    for name, kind in spec.state.items():
        words = both[name].astype(str)
        numeric = kind == "numeric"
        fits = np.isfinite(pd.to_numeric(words, errors="coerce")) if numeric else words.str.fullmatch(r"[^\x00\x1f]+")
        readable &= fits.astype(bool)
    return readable


def _columns(both: pd.DataFrame, spec: RequestSpec, extra: list[str]) -> pd.DataFrame:
    """The spec's columns, by its names, and further ones."""
    named = {spec.timestamp: "time"} if spec.timestamp else {}
    named |= {name: name for name in (*spec.state, *spec.sub_actions, *spec.results, spec.reward, *extra)}
    named |= {spec.propensity: "propensity"} if spec.propensity else {}
    frame = pd.DataFrame({name: both[column] for name, column in named.items()})
    for name, kind in spec.state.items():
        if kind == "numeric":
            frame[name] = pd.to_numeric(frame[name])
    return frame.reset_index(drop=True)


if __name__ == "__main__":
    run_cli(
        join,
        JoinConfig,
        default_config="configs/decision_service/join.yaml",
        default_out="runs/decision_service/requests",
    )
