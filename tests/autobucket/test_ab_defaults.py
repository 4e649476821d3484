"""The shipped settings are the defaults of the code, so that a config made in Python is the tuned one, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from autobucket.bench.bench_config import LiveConfig, TestbenchConfig
from autobucket.config import EvaluateConfig, PredictConfig, TrainConfig
from autobucket.costs.cost_config import FitCostsConfig
from marca_common.config import Config, load_config

# what the YAML says of the shipped example service and worlds, or names as a file of this machine's
OF_THE_EXAMPLE = {"actions", "buckets.values", "load.degradations", "accounting.idcs", "cost_maps"}


def differences(shipped: Config, default: Config | None = None, place: str = "") -> Iterator[Any]:
    for name, field in type(shipped).model_fields.items():
        value = getattr(shipped, name)
        other = getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        if f"{place}{name}" in OF_THE_EXAMPLE:
            continue
        if isinstance(value, Config):
            yield from differences(value, other if isinstance(other, Config) else None, f"{place}{name}.")
        elif other is not PydanticUndefined and value != other:
            yield f"{place}{name}: {value!r} in the YAML, {other!r} in the code"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TrainConfig, "default"),
        (EvaluateConfig, "evaluate"),
        (PredictConfig, "predict"),
        (FitCostsConfig, "costs"),
        (TestbenchConfig, "testbench"),
        (LiveConfig, "live"),
    ],
)
def test_yaml_and_code_agree(config: Any, name: Any) -> None:
    assert list(differences(load_config(config, f"configs/autobucket/{name}.yaml"))) == []
