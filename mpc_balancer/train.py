"""Train the system model g on a minute table: ``python -m mpc_balancer.train --config configs/mpc_balancer/train.yaml``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from marca_common.cli import run_cli
from marca_common.compute import resolve_device, set_threads, take_own_gpu
from marca_common.errors import UserError
from marca_common.figures import new_figure, save_figure
from marca_common.progress import MetricsLog, progress
from marca_common.ranks import Ranks
from marca_common.run_folder import RunFolder
from marca_common.shared_batches import require_shareable
from mpc_balancer.config import GainConfig, SystemModelConfig
from mpc_balancer.controllers.pi_tuning import LEAST_CPU, PI_KINDS, tune_on_model
from mpc_balancer.forecasting.traffic_forecast import TrafficForecast, fit_forecast, one_step_forecasts
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.error_table import error_table
from mpc_balancer.system_model.features import Features
from mpc_balancer.system_model.identifiability import learned_relief, price_move_skill, swapped, unidentified, unsure
from mpc_balancer.system_model.minute_table import SystemData, read_system
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.observer import run_observers, tune_observer
from mpc_balancer.system_model.price_effects import PriceEffects, price_effects
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.system_model.table_checks import odd_data, require_learnable, require_moving_price, require_rows
from mpc_balancer.system_model.training_loop import Report, fit_network
from mpc_balancer.system_model.training_windows import Windows, make_windows
from mpc_balancer.system_model.tuned import ObserverTuning, Tuned
from mpc_balancer.testbed.commissioning import commissioned_table

_QUANTILES = np.array([0.05, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])


@dataclass
class TrainedSystemModel:
    """The trained model and how good it is."""

    model: SystemModel
    summary: dict[str, Any]


def train(config: SystemModelConfig, out: str | Path) -> TrainedSystemModel:
    """Learn how traffic and λ drive CPU; write system_model.pt, metrics.csv, errors.csv and summary.json to ``out``.

    Start it with ``torchrun --standalone --nproc-per-node N -m mpc_balancer.train …`` to share every batch among N processes.
    """
    set_threads(config.threads)
    take_own_gpu()
    folder = RunFolder(out, config)
    with Ranks() as ranks:
        require_shareable("batch_size", config.batch_size, ranks)
        data = ranks.each(lambda: load_data(config))
        with ranks.folder(folder):
            bar = progress(what="system model", total=config.epochs, unit="epoch", disable=ranks.rank > 0)
            columns = ["epoch", "train_loss", "valid_rmse", "seconds"]
            metrics = ranks.lead(lambda: MetricsLog(folder.path / "metrics.csv", columns))

            def report(epoch: int, loss: float, error: float, seconds: float) -> None:
                if ranks.rank == 0:
                    metrics.write(epoch=epoch, train_loss=loss, valid_rmse=error, seconds=seconds)
                bar.update()
                bar.set_postfix(rmse=f"{error:.3f}")

            model, summary = fit_model(data, config, report, folder.warn, ranks)
            bar.close()
            ranks.lead(lambda: _write(model, summary, data, config, folder))
    return TrainedSystemModel(model, summary)


def _write(
    model: SystemModel, summary: dict[str, Any], data: SystemData, config: SystemModelConfig, folder: RunFolder
) -> None:
    model.save(folder.path / "system_model.pt")
    _, valid = data.split(config.validation_share)
    errors = error_table(model, valid, config.forecast_horizon)
    errors.to_csv(folder.path / "errors.csv", index=False, lineterminator="\n")
    _figure(pd.read_csv(folder.path / "metrics.csv"), errors, folder.path / "training.png")
    folder.write_summary(summary)


def load_data(config: SystemModelConfig) -> SystemData:
    """The configured table, or days of the commissioned reference plant."""
    if config.table is not None:
        return read_system(config.table, config.columns, config.services)
    return commissioned_table(
        config.columns,
        config.commission_days,
        config.seed,
        config.commission_steps_per_minute,
        config.commission_dither,
    )


def fit_model(
    data: SystemData,
    config: SystemModelConfig,
    report: Report | None = None,
    warn: Callable[[str], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> tuple[SystemModel, dict[str, Any]]:
    """Everything that is learned from a table, in memory: g, forecasts, observer, residual quantiles, PI gains.

    ``warn`` takes what a reader of the results must know. ``ranks`` train g together, all with the same ``data``; rank 0
    fits the rest and tells it. Raises UserError for a table that nothing can be learned from, or not what λ does (unless
    ``allow_unidentified``), and for a loss that is not a number.
    """
    ranks = ranks or Ranks()
    start = ranks.each(lambda: _start(data, config, warn))
    best = fit_network(start.net, start.windows, start.valid, config, report or (lambda *_: None), ranks)
    return ranks.lead(lambda: _with_the_rest(start, best, data, config, warn))


@dataclass(frozen=True)
class _Start:
    """What training g begins with."""

    net: SystemNetwork
    windows: Windows
    valid: Windows
    features: Features
    prices: PriceScale
    effects: PriceEffects


def _start(data: SystemData, config: SystemModelConfig, warn: Callable[[str], None]) -> _Start:
    require_rows(data)
    require_learnable(data)
    if config.price_high is None:
        require_moving_price(data)
    device = resolve_device(config.device)
    early, late = data.split(config.validation_share)
    features = Features.fit(early, config.rollout_steps - 1)
    prices = PriceScale.from_data(data.price, config.price_high, config.box_margin)
    effects = _judged_effects(data, prices, config, warn)
    windows = make_windows(early, features, prices, config.rollout_steps)
    valid = make_windows(late, features, prices, config.rollout_steps)
    return _Start(_network(config, windows, data).to(device), windows, valid, features, prices, effects)


def _with_the_rest(
    start: _Start, best: float, data: SystemData, config: SystemModelConfig, warn: Callable[[str], None]
) -> tuple[SystemModel, dict[str, Any]]:
    """The model of a trained network with what is fitted beside it, and the summary."""
    step = int(data.step.astype(np.int64))
    net, columns, late = start.net.cpu(), data.layout.columns, data.split(config.validation_share)[1]
    model = SystemModel.from_network(net, config.services, start.features, start.prices, columns, step)
    found = tune_observer(model, late, GainConfig())
    kept = replace(found, scores=np.round(found.scores, 5), errors=_sample(found.errors))
    model.tuned = Tuned(data.layout.extras, _forecasts(data, model, config), kept)
    model.quantiles = _QUANTILES
    model.residuals = _operational_quantiles(model, late, found)
    if config.tune_pi:
        target = np.maximum(np.nanquantile(data.cpu, 0.75, axis=0), LEAST_CPU)
        tune = partial(
            tune_on_model, model, data, seed=config.seed, days=config.tune_days, candidates=config.tune_candidates
        )
        model.tuned = replace(model.tuned, pi_gains={kind: tune(kind, target) for kind in PI_KINDS})
    relief = learned_relief(model, data, start.effects)
    for note in unsure(relief, start.effects):
        warn(note)
    seen = {"price_move_skill": price_move_skill(model, late), **relief}
    return model, _summary(model, data, best, found, start.windows) | seen


def _judged_effects(
    data: SystemData, prices: PriceScale, config: SystemModelConfig, warn: Callable[[str], None]
) -> PriceEffects:
    """What the table says of λ; a UserError where that is nothing for a service."""
    effects = price_effects(data, prices)
    notes = unidentified(data, effects)
    if notes and not config.allow_unidentified:
        raise UserError(
            f"system table: {'; '.join([notes[0], *swapped(data, effects)])}; a controller would guess it. Let each λ move by "
            "itself for some days (python -m mpc_balancer.commission writes the plan), or set allow_unidentified: true"
        )
    for note in [*odd_data(data), *swapped(data, effects), *notes]:
        warn(note)
    return effects


def _network(config: SystemModelConfig, windows: Windows, data: SystemData) -> SystemNetwork:
    with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator
        torch.manual_seed(config.seed)
        net = SystemNetwork(
            windows.cpu.shape[1], windows.unit.shape[2], windows.exogenous.shape[2], config.hidden, config.head
        )
    if config.head == "utilisation_law":
        typical = np.nanmean(data.cpu, axis=0)
        with torch.no_grad():
            net.level.copy_(torch.from_numpy(np.log(np.maximum(typical, 1.0)).astype(np.float32)))
    return net


def _forecasts(data: SystemData, model: SystemModel, config: SystemModelConfig) -> dict[str, TrafficForecast]:
    out = {}
    for g, name in enumerate(data.groups):
        part = data.take(np.flatnonzero(data.group == g))
        out[name] = fit_forecast(part.qps, part.timestamps, part.arrivals, config.forecast_horizon, model.step_seconds)
    return out


def _operational_quantiles(model: SystemModel, data: SystemData, found: ObserverTuning) -> np.ndarray:
    """Quantiles (Q, D) of one-step errors when the coming minute's traffic is a forecast, as it is in operation."""
    pair = np.array([[found.rate, found.trust]])
    errors = []
    for g, name in enumerate(data.groups):
        part = data.take(np.flatnonzero(data.group == g)[-3000:])
        if len(part) < 20:
            continue
        coming = one_step_forecasts(model.traffic_forecast(name), part.timestamps, part.qps, part.arrivals)
        # the forecast error enters CPU in proportion: error' = error + cpu·(1 - ρ)·(actual/forecast - 1)
        base = run_observers(model, part, pair, GainConfig())[:, 0]  # (n, D)
        ratio = np.log(np.maximum(part.next_qps, 1e-9) / np.maximum(coming, 1e-9))
        ratio = ratio[np.isfinite(ratio)][-len(base) :]
        size = min(len(base), len(ratio))
        level = np.nanmean(part.cpu, axis=0)
        errors.append(base[-size:] + level * (1 - model.carry) * np.clip(ratio[-size:, None], -0.5, 0.5))
    return np.asarray(np.nanquantile(np.concatenate(errors), _QUANTILES, axis=0))


def _sample(errors: np.ndarray, count: int = 500) -> np.ndarray:
    """Some of the errors, to be drawn from as noise when controllers are tuned on the model."""
    good = errors[np.isfinite(errors).all(axis=1)]
    return np.asarray(np.round(good[np.linspace(0, len(good) - 1, min(count, len(good))).astype(int)], 4))


def _summary(
    model: SystemModel, data: SystemData, best: float, found: ObserverTuning, windows: Windows
) -> dict[str, Any]:
    return {
        "rows": len(data),
        "windows": len(windows),
        "groups": list(data.groups),
        "rollout_rmse_points": best,
        "one_step_rmse_points": float(np.sqrt(np.nanmean(found.errors**2))),
        "gain_rate": found.rate,
        "reading_trust": found.trust,
        "forecast_one_step": {name: one.chosen[0] for name, one in model.tuned.forecasts.items()},
        "price_high": model.prices.high.tolist(),
        "pi_gains": model.tuned.to_dict()["pi_gains"],
    }


def _figure(metrics: pd.DataFrame, errors: pd.DataFrame, path: Path) -> None:
    figure, (left, right) = new_figure(1, 2, width=9.0, height=3.4)
    left.plot(metrics["epoch"], metrics["valid_rmse"])
    left.set(
        title="System model: validation error of the rollout",
        xlabel="epoch",
        ylabel="RMSE (CPU points)",
        ylim=(0, None),
    )
    part = errors[errors["regime"] == "all"]
    for name, rows in part.groupby("service", sort=False):
        right.plot(rows["step"], rows["rmse"], marker="o", ms=3, label=str(name))
    right.set(
        title="Error by look-ahead (actual traffic)", xlabel="minutes ahead", ylabel="RMSE (CPU points)", ylim=(0, None)
    )
    right.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run_cli(train, SystemModelConfig, default_config="configs/mpc_balancer/train.yaml", default_out="runs/mpc_train")
