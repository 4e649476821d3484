"""μ at ν = 0.64 %: the target offset is searched per run until the run meets the paper's over-utilisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NU = 0.0064
Run = Callable[[float], tuple[float, float]]  # target offset in percent → (μ, ν)


@dataclass(frozen=True)
class Point:
    """μ at ν = NU by interpolation between two runs, or at the least ν where NU can't be reached."""

    mu: float
    nu: float
    offset: float
    reached: bool
    runs: int


def at_nu(
    run: Run, start: float = 0.0, low: float = -25.0, high: float = 12.0, tries: int = 6, step: float = 2.0
) -> Point:
    """Secant search on the offset (ν rises with it); ends on two runs that enclose NU closely, and interpolates."""
    seen: dict[float, tuple[float, float]] = {}

    def go(offset: float) -> tuple[float, float]:
        offset = float(np.clip(offset, low, high))
        if offset not in seen:
            seen[offset] = run(offset)
        return seen[offset]

    go(start)
    for _ in range(tries):
        under = [o for o, (_, nu) in seen.items() if nu <= NU]
        over = [o for o, (_, nu) in seen.items() if nu > NU]
        if under and over:
            a, b = max(under), min(over)
            if abs(b - a) < 0.35 or seen[b][1] - seen[a][1] < 0.0012:
                break
            la, lb = (np.log(max(seen[o][1], 1e-5)) for o in (a, b))
            t = np.clip((np.log(NU) - la) / max(lb - la, 1e-9), 0.12, 0.88)
            go(a + t * (b - a))
        elif under:
            if max(under) >= high:
                break
            go(max(under) + step)
            step *= 2
        else:
            if min(over) <= low:
                break
            go(min(over) - step)
            step *= 2
    return _interpolate(seen)


def _interpolate(seen: dict[float, tuple[float, float]]) -> Point:
    under = [o for o, (_, nu) in seen.items() if nu <= NU]
    over = [o for o, (_, nu) in seen.items() if nu > NU]
    if not under:  # even the most careful target is over: the least ν, marked
        o = min(seen, key=lambda offset: seen[offset][1])
        return Point(*seen[o], o, False, len(seen))
    if not over:
        o = max(seen, key=lambda offset: seen[offset][0])
        return Point(*seen[o], o, True, len(seen))
    a, b = max(under), min(over)
    (mu_a, nu_a), (mu_b, nu_b) = seen[a], seen[b]
    t = (NU - nu_a) / max(nu_b - nu_a, 1e-12)
    return Point(mu_a + t * (mu_b - mu_a), NU, a + t * (b - a), True, len(seen))
