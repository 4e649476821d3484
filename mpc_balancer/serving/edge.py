"""The edge between a live system and the controllers: other units outside, doubtful values; inside plain numbers in ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from marca_common.plain_numbers import attribute, plain_mapping, plain_number, plain_numbers, plain_text
from marca_common.protocols import Measurement
from mpc_balancer.controllers.clock import instant
from mpc_balancer.serving.serve_config import UnitsConfig

_SECONDS = {"per second": 1.0, "per minute": 60.0, "per hour": 3600.0}


class Edge:
    """Converts measurements inwards and prices outwards; whatever comes in, nothing raises."""

    def __init__(self, units: UnitsConfig, services: Sequence[str], prices: Sequence[str]) -> None:
        self.services, self.prices = tuple(services), tuple(prices)
        self._price = 1000.0 if units.price == "money per core-s" else 1.0  # outside in multiples of inside
        self._seconds = _SECONDS[units.traffic]
        self._cpu = 100.0 if units.cpu == "fraction" else 1.0

    def group(self, one: Any) -> str | None:
        """The data centre a measurement names."""
        return plain_text(attribute(one, "group"))

    def inwards(self, one: Any, group: str) -> Measurement:
        """A measurement in our units; what is no number is NaN, a row of another length NaNs, a mapping that is none None.

        CPU and λ may be mappings from names. The checks of the controllers count and survive all of these.
        """
        mapping: Any = plain_mapping(_or(attribute(one, "aggregates"), {}))
        if mapping is not None:
            mapping = {str(name): _honest(value) for name, value in mapping.items()}
        arrivals = attribute(one, "arrivals")
        return Measurement(
            minute=0,
            timestamp=instant(attribute(one, "timestamp")),
            group=self.group(one) or group,
            qps=plain_number(attribute(one, "qps")) / self._seconds,
            cpu=_row(attribute(one, "cpu"), self.services) * self._cpu,
            degradation=_honest(attribute(one, "degradation")),  # type: ignore[arg-type]
            lambda_=_row(attribute(one, "lambda_"), self.prices) / self._price,
            arrivals=None if arrivals is None else _or(plain_numbers(arrivals), np.full(1, np.nan)),
            aggregates=mapping,
        )

    def outwards(self, prices: np.ndarray) -> dict[str, float]:
        """Prices (L,) by name, in the declared unit."""
        return {name: float(price * self._price) for name, price in zip(self.prices, prices)}


def price_names(services: Sequence[str], prices: int) -> tuple[str, ...]:
    """Services where each has its own price, else numbers from 0."""
    return tuple(services) if prices == len(services) else tuple(str(number) for number in range(prices))


def _row(value: Any, names: Sequence[str]) -> np.ndarray:
    mapping = plain_mapping(value)
    found = plain_numbers([mapping.get(name) for name in names] if mapping is not None else value, len(names))
    return np.full(len(names), np.nan) if found is None else found


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _honest(value: Any) -> float | None:
    """A number; NaN only where NaN was said ("not known"), None for what is no number."""
    number = plain_number(value)
    said = type(value) in (float, np.float64, np.float32, np.float16)
    return number if said or np.isfinite(number) else None
