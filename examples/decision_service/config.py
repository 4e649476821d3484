"""Configs of the decision service and of the join that makes a request log of its decisions."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from marca_common.config import Config
from marca_common.requests import RequestSpec

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DecisionServiceConfig(Config):
    """What ``python -m examples.decision_service.serve`` needs."""

    policy: str = Field(description="policy cache (npz) that HullPolicy.save wrote; read again at POST /reload")
    spec: RequestSpec = Field(default_factory=RequestSpec, description="state columns and sub-actions of the policy")
    prices: list[str] = Field(min_length=1, description="names of the prices in the order of the policy's λ")
    groups: list[str] = Field(min_length=1, description="data centres served, as the balancer names them")
    group_column: str | None = Field(
        None, description="state column that names a request's data centre; null = one data centre is served"
    )
    stale_s: float = Field(180.0, gt=0, description="λ older than this is stale: fallback_prices hold, seconds")
    fallback_prices: dict[str, Price] = Field(
        description="λ in force before the first push and once λ is stale, by price, in the policy's unit"
    )
    fallback_action: dict[str, int] = Field(description="sub-actions for a state that the policy does not know")
    explore_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of decisions drawn evenly from the actions that win at some λ, while λ is fresh",
    )
    shadow: bool = Field(
        False, description="decisions are asked for but not applied: the log says so, and is not joined"
    )
    seed: int | None = Field(None, ge=0, description="seed of the exploration; null = a new one at each start")
    host: str = Field("127.0.0.1", description="address to listen at")
    port: int = Field(8080, ge=0, le=65535, description="port to listen at; 0 = any that is free")
    log_s: float = Field(5.0, gt=0, description="the log becomes a Parquet part this often, seconds")
    body_mb: float = Field(64.0, gt=0, description="a larger request body is refused, megabytes")

    @model_validator(mode="after")
    def _fits(self) -> DecisionServiceConfig:
        for key in ("prices", "groups"):
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ValueError(f"{key}: expected each name once")
        if set(self.fallback_prices) != set(self.prices):
            raise ValueError(f"fallback_prices: expected one of each of {', '.join(self.prices)}")
        if self.group_column is None and len(self.groups) != 1:
            raise ValueError(
                "group_column: null serves one data centre; expected the state column that tells them apart"
            )
        if self.group_column is not None and self.group_column not in self.spec.state:
            raise ValueError(f"group_column: got {self.group_column!r}; expected one of {', '.join(self.spec.state)}")
        sizes, action = self.spec.sizes, self.fallback_action
        if set(action) != set(sizes) or any(not 0 <= one < sizes[name] for name, one in action.items()):
            raise ValueError(f"fallback_action: expected each sub-action below its size: {sizes}")
        return self

    @property
    def fallback_joint(self) -> int:
        """Joint index of ``fallback_action``."""
        chosen = [self.fallback_action[name] for name in self.spec.sub_actions]
        return int(np.ravel_multi_index(chosen, self.spec.shape))


class JoinConfig(Config):
    """What ``python -m examples.decision_service.join`` needs."""

    log: str = Field("runs/decision_service/log", description="decision log: folder `log` of the service's --out")
    outcomes: str = Field(
        description="table of what came of the requests: column request, results and reward of the spec"
    )
    extra: list[str] = Field(
        [], description="further columns of numbers to take over, such as one to learn from beside revenue"
    )
    spec: RequestSpec = Field(default_factory=RequestSpec, description="columns of the request log to write")
