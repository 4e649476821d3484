"""How large a dither of λ, and for how long, until a table can tell what λ does? And what does it cost meanwhile?

With offsets of deviation d (box units) held for h rows, λ's independent movement is d·√(2/h - 1/h²) a row. The regression of
``price_effects`` then knows an effect b (log points per box unit) from n rows with noise σ to

    se(b) / b = σ / (b · d · √(2/h - 1/h²) · √n)

A system model has no past prices among its inputs. It confounds λ's effect with λ's own answer (deviation f) to past CPU
by at most f² / (f² + d²) of the effect. The plan's d is the smallest that keeps both within the precision asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from mpc_balancer.config import CommissionConfig
from mpc_balancer.system_model.price_effects import PriceEffects


@dataclass(frozen=True)
class Knowledge:
    """What is known before the trial, per service and the price that it pays; log points and box units."""

    price: list[int]  # index of the price of each service
    effect: np.ndarray  # (D,) what the whole box takes off log CPU
    noise: np.ndarray  # (D,) noise of log CPU one row later, traffic and λ known
    answer: np.ndarray  # (D,) how far λ moves in answer to past CPU
    row_seconds: int

    @classmethod
    def declared(cls, config: CommissionConfig, prices: int) -> Knowledge:
        """From the configured numbers alone."""
        size = len(config.services)
        own = list(range(size)) if prices == size else [0] * size
        effect, noise, answer = (np.full(size, one) for one in (config.effect, config.noise, config.answer))
        return cls(own, effect, noise, answer, config.step_seconds)

    @classmethod
    def of_table(cls, config: CommissionConfig, effects: PriceEffects, row_seconds: int) -> Knowledge:
        """From a table's regression, and the configured numbers where it can't tell.

        What present CPU and prices explain of λ is its answer only as long as λ has no movement of its own, which lasts, too.
        """
        own = effects.own()
        sure = effects.sure[np.arange(len(own)), own]
        effect = np.where(sure, effects.slope[np.arange(len(own)), own], config.effect)
        noise = np.where(effects.noise > 0, effects.noise, config.noise)
        answer = np.where(sure, config.answer, np.maximum(effects.answer[own], config.answer))
        return cls(own, effect, noise, answer, row_seconds)


def held_share(rows: float) -> float:
    """Independent movement a row of offsets of deviation 1 that are held for ``rows`` rows (at least one)."""
    return float(np.sqrt(2 / max(rows, 1) - 1 / max(rows, 1) ** 2))


@dataclass(frozen=True)
class Trial:
    """A trial of some days, per service (D,)."""

    days: float
    dither: np.ndarray  # deviation of λ's offsets, box units
    relief_se: np.ndarray  # standard error of the effect over the effect
    confounded: np.ndarray  # most of the effect that λ's answer to past CPU can hide, as a share
    swing: np.ndarray  # deviation of CPU that the dither makes, points
    over_use: np.ndarray  # ν that it adds while it runs


def plan_trial(known: Knowledge, config: CommissionConfig, days: float) -> Trial:
    """The smallest dither that tells every service's effect to within the precision in ``days``."""
    rows = days * 86_400 / known.row_seconds
    unit = known.noise / (known.effect * held_share(config.hold * 60 / known.row_seconds) * np.sqrt(rows))
    needed = np.maximum(unit / config.precision, known.answer * np.sqrt(1 / config.precision - 1))
    dither = np.array([needed[[p == own for p in known.price]].max() for own in known.price])
    deviation = np.hypot(known.noise, dither * known.effect)
    return Trial(
        days,
        dither,
        unit / dither,
        known.answer**2 / (known.answer**2 + dither**2),
        dither * known.effect * config.target,
        expected_over_use(deviation, config) - expected_over_use(known.noise, config),
    )


def expected_over_use(deviation: np.ndarray, config: CommissionConfig) -> np.ndarray:
    """ν of a CPU that is log-normal around the target with that deviation (D,) of its logarithm."""
    edge = np.log(config.target / config.budget) / deviation
    ahead = config.target / config.budget * np.exp(deviation**2 / 2) * norm.cdf(edge + deviation)
    return np.asarray(ahead - norm.cdf(edge))
