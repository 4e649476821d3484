"""What a file of cost maps has to hold: types and ranges; marca_common.cost_maps gives it its meaning."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, model_validator

from marca_common.config import Config


class CurvePart(Config):
    """Points of a queue curve and its band."""

    x: list[float]
    cost: list[float]
    low: list[float] | None = None
    high: list[float] | None = None

    @model_validator(mode="after")
    def _rises(self) -> CurvePart:
        rising = all(a < b for a, b in zip(self.x, self.x[1:]))
        falls = any(a > b for a, b in zip(self.cost, self.cost[1:]))
        sizes = {len(one) for one in (self.x, self.cost, self.low, self.high) if one is not None}
        if not self.x or not rising or falls or len(sizes) > 1:
            raise ValueError(
                f"expected rising x and as many costs that never fall, got {self.x[:8]} and {self.cost[:8]}"
            )
        return self


class _Lines(Config):
    """Values at rising points; the names of both lists differ."""

    @model_validator(mode="after")
    def _fits(self) -> _Lines:
        x, y = (getattr(self, name) for name in type(self).model_fields)
        if not x or len(x) != len(y) or any(a >= b for a, b in zip(x, x[1:])):
            raise ValueError("expected rising points and as many values")
        return self


class LoadPart(_Lines):
    """Factor of the cost at a load."""

    percent: list[float]
    factor: list[float]


class DegradationPart(_Lines):
    """Cost added at a degradation level."""

    level: list[float]
    cost: list[float]


class ServicePart(Config):
    """One service's map; copies of parts under other names, for simple readers, are left out."""

    model_config = ConfigDict(extra="ignore")

    base: float
    switches: dict[str, dict[str, float]]
    channels: dict[str, dict[str, float]]
    queues: dict[str, dict[str, CurvePart]]
    load: LoadPart | None = None
    degradation: DegradationPart | None = None
    idle_percent: float = 0.0
    quality: dict[str, Any] = {}
