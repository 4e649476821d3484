"""A plan for learning what λ does: ``python -m mpc_balancer.commission --plan``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marca_common.cli import run_cli
from marca_common.errors import UserError
from marca_common.files import write_text
from marca_common.run_folder import RunFolder
from mpc_balancer.config import CommissionConfig
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.minute_table import Layout, read_system
from mpc_balancer.system_model.price_effects import price_effects
from mpc_balancer.system_model.table_checks import require_learnable
from mpc_balancer.testbed.commission_plan import Knowledge, Trial, plan_trial
from mpc_balancer.testbed.commissioning import dither_offsets

_DAYS = (0.5, 1.0, 2.0, 5.0, 10.0)  # trials that plan.csv compares
_LARGEST = 0.3  # box units: a dither beyond it would meet the ends of the box most of the time


@dataclass
class CommissionPlan:
    """The trial, and λ's factor of every minute."""

    trial: Trial
    schedule: pd.DataFrame
    summary: dict[str, Any]


def commission(config: CommissionConfig, out: str | Path) -> CommissionPlan:
    """Plan how far and how long to throw λ about; write plan.md, plan.csv, schedule.csv and summary.json to ``out``.

    From a minute table, or from declared numbers alone. A UserError where no dither inside λ's box is enough.
    """
    known, scale, prices = _knowledge(config)
    trial = plan_trial(known, config, config.days)
    _require_inside(trial, config)
    with RunFolder(out, config) as folder:
        schedule = _schedule(trial, known, scale, prices, config)
        others = [one for one in (plan_trial(known, config, days) for days in _DAYS) if one.dither.max() <= _LARGEST]
        rows = [{"service": s, **one} for t in others for s, one in zip(config.services, _rows(t))]
        pd.DataFrame(rows).to_csv(folder.path / "plan.csv", index=False, lineterminator="\n")
        schedule.to_csv(folder.path / "schedule.csv", index=False, float_format="%.6g", lineterminator="\n")
        write_text(folder.path / "plan.md", _page(trial, scale, prices, config))
        summary = {
            "days": config.days,
            "hold_minutes": config.hold,
            **{
                name: dict(zip(config.services, map(float, values)))
                for name, values in asdict(trial).items()
                if name != "days"
            },
        }
        folder.write_summary(summary)
    return CommissionPlan(trial, schedule, summary)


def _knowledge(config: CommissionConfig) -> tuple[Knowledge, PriceScale, tuple[str, ...]]:
    if config.table is not None:
        data = read_system(config.table, config.columns, config.services)
        require_learnable(data)
        scale = PriceScale.from_data(data.price, config.price_high)
        seconds = int(data.step.astype(np.int64))
        return Knowledge.of_table(config, price_effects(data, scale), seconds), scale, data.layout.price
    names = Layout.of(config.columns, config.services).price
    high = np.array(config.price_high or [1.0] * len(names))
    if len(high) != len(names):
        raise UserError(f"price_high: got {len(high)} values; expected one per price, {len(names)}")
    return Knowledge.declared(config, len(names)), PriceScale(np.zeros_like(high), high, high / 20), names


def _require_inside(trial: Trial, config: CommissionConfig) -> None:
    if trial.dither.max() > _LARGEST:
        worst = int(trial.dither.argmax())
        raise UserError(
            f"days: got {config.days:g}; λ of {config.services[worst]} would have to move by {trial.dither[worst]:.2g} of its box, "
            f"more than {_LARGEST:g}; expected more days, a wider precision than {config.precision:g} or a smaller answer"
        )


def _schedule(
    trial: Trial, known: Knowledge, scale: PriceScale, prices: tuple[str, ...], config: CommissionConfig
) -> pd.DataFrame:
    """One row per control step: minutes since the start, and the factor of each price."""
    steps, hold = round(config.days * 86_400 / known.row_seconds), round(config.hold * 60 / known.row_seconds)
    dither = np.zeros(len(prices))
    dither[known.price] = trial.dither
    offsets = dither * dither_offsets(steps, len(prices), max(hold, 1), config.seed)  # (T, L) box units
    factors = np.exp(offsets * np.log1p(scale.high / scale.ref))
    minute = np.arange(steps) * known.row_seconds / 60
    return pd.DataFrame({"minute": minute, **dict(zip(prices, factors.T))})


def _rows(trial: Trial) -> list[dict[str, float]]:
    parts = {name: values for name, values in asdict(trial).items() if name != "days"}
    return [
        {"days": trial.days, **{name: float(one[i]) for name, one in parts.items()}} for i in range(len(trial.dither))
    ]


def _page(trial: Trial, scale: PriceScale, prices: tuple[str, ...], config: CommissionConfig) -> str:
    """The plan in words, for whoever carries it out."""
    unit = ", as a share of its box" if config.table is None and config.price_high is None else ""
    lines = [
        "# How to learn what λ does",
        "",
        f"For {config.days:g} days, an offset of each λ is drawn anew every {config.hold} minutes. `schedule.csv` holds it as a",
        "factor per control step, counted in minutes from the start. In every step, apply",
        "",
        "    λ applied = max((λ of the controller + ref) · factor - ref, 0)",
        "",
        "with the ref below. The controller goes on from its own λ, not from the one applied.",
        f"Let it aim at {config.target:g} % CPU meanwhile. Log the λ that was applied.",
        "",
        f"| price{unit} | ref | upper end of the box |",
        "|---|---|---|",
        *(f"| {name} | {ref:.6g} | {high:.6g} |" for name, ref, high in zip(prices, scale.ref, scale.high)),
        "",
        f"| service | dither, box units | CPU swing, points | ν added, budget {config.budget:g} % | standard error of the effect | hidden by λ's answer, at most |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {one['dither']:.3f} | {one['swing']:.1f} | {one['over_use']:.2%} | {one['relief_se']:.1%} | {one['confounded']:.1%} |"
            for name, one in zip(config.services, _rows(trial))
        ),
        "",
        "`plan.csv` compares shorter and longer trials. Afterwards `python -m mpc_balancer.train` prints the relief that was",
        "learned, with its standard error.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_cli(
        commission,
        CommissionConfig,
        default_config="configs/mpc_balancer/commission.yaml",
        default_out="runs/mpc_commission",
        flags={"--plan": ("configs/mpc_balancer/commission.yaml", "write the plan, as without the flag")},
    )
