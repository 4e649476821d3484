"""What a price of computation is stated in, and which price each service pays: declared, and compared where parts meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from marca_common.errors import UserError

PRICE_UNIT = "money per core-ms"


def require_price_unit(one: str, unit: str, other: str, other_unit: str) -> None:
    """UserError where two parts state λ in different units. Nothing is converted: boxes, caches and gains hold λ, too."""
    if unit != other_unit:
        raise UserError(
            f"price_unit: {one} states λ in {unit!r}, {other} in {other_unit!r}; expected one unit, declared in both"
        )


def price_of_service(
    declared: Mapping[str, int] | None, services: Sequence[str], prices: int, place: str
) -> np.ndarray:
    """Which price each service pays, int64 (D,): as declared; else its own, or the only one. A UserError for anything else."""
    if declared is None and prices not in (1, len(services)):
        raise UserError(
            f"{place}: {prices} prices for the services {', '.join(services)}; expected price_of_service, the price that each"
            " of them pays"
        )
    if declared is None:
        return np.arange(len(services)) % prices
    paid = [declared.get(name, -1) for name in services]
    if set(declared) != set(services) or sorted(set(paid)) != list(range(prices)):
        raise UserError(
            f"{place}: price_of_service: got {dict(declared)}; expected each of {', '.join(services)} with a price from 0 to"
            f" {prices - 1}, and no price without a service"
        )
    return np.array(paid, np.int64)
