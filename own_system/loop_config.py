"""From the declaration to the settings of the whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autobucket.results.estimator_config import TaskConfig
from awrq_mixer.config import TrainConfig
from marca_common.config import load_config, parse_config, to_dict
from marca_loop.settings import Orchestration
from own_system.declaration import OwnSystem
from own_system.translated import cost_actions, minute_columns


def loop_config(own: OwnSystem, tables: dict[str, Path]) -> Orchestration:
    """``own.loop`` with the translated tables (requests, minutes, load_tests), their columns, services and cost settings.

    Sizes and learners stay as there; a learner that does not fit the columns is a UserError.
    """
    base = load_config(Orchestration, own.loop)
    spec, values = to_dict(own.spec), to_dict(base)
    categories = [name for name, kind in own.state.items() if kind == "category"]
    values |= {"world": None, "logs": _logs(own, base, tables)}
    values["learners"] = {name: _learner(own, one) for name, one in base.learners.items()}
    values["profile"]["surrogate"] = next(iter(own.side_columns), None)
    values["judge"]["slices"] = categories[:2]
    if base.uplift is not None:
        values["uplift"] |= {"learner": _learner(own, base.uplift.learner), "spec": spec}
    values["results"]["data"] |= {"requests": str(tables["requests"]), "spec": spec}
    values["results"]["tasks"] = _tasks(own, base)
    values["results"]["model"]["gates"] = []
    values["costs"] |= {"loadtest": str(tables["load_tests"]), "columns": {}, "actions": cost_actions(own)}
    values["balancer"]["services"] = list(own.services)
    values["balancer"]["columns"] |= minute_columns(own)
    return parse_config(Orchestration, values, f"{own.loop}, with your columns")


def _logs(own: OwnSystem, base: Orchestration, tables: dict[str, Path]) -> dict[str, Any]:
    kept = {"policy_states": base.logs.policy_states} if base.logs else {}
    paths = {"requests": "requests", "loadtest": "load_tests", "system": "minutes"}
    files = {ours: str(tables[name]) for ours, name in paths.items()}
    return {**files, "spec": to_dict(own.spec), "services": list(own.services), **kept}


def _learner(own: OwnSystem, one: TrainConfig) -> dict[str, Any]:
    """A learner's settings, its columns replaced by the platform's."""
    values = to_dict(one) | {"spec": to_dict(own.spec)}
    if one.stack.members:
        values["stack"] |= {"side_columns": list(own.side_columns), "history": _history(own)}
    if one.plus.surrogate is not None:
        values["plus"]["surrogate"] = next(iter(own.side_columns), None)
    if one.plus.history is not None:
        values["plus"]["history"] = _history(own)
    return values


def _history(own: OwnSystem) -> list[str] | None:
    """As declared; where nothing is, and some columns are numbers, which are hardly ever equal, the category columns."""
    categories = [name for name, kind in own.state.items() if kind == "category"]
    return categories if own.history is None and len(categories) < len(own.state) else own.history


def _tasks(own: OwnSystem, base: Orchestration) -> dict[str, Any]:
    """How each result is learned: as the settings say where they name it, else as a share of what the action allows."""
    known = base.results.tasks
    return {name: to_dict(known.get(name, TaskConfig(loss="share"))) for name in own.results}
