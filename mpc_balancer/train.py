"""Train the system model g on a minute table: ``python -m mpc_balancer.train --config configs/mpc_balancer/train.yaml``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from marca_common.cli import run_cli
from marca_common.compute import resolve_device, set_threads
from marca_common.figures import new_figure, save_figure
from marca_common.progress import MetricsLog, progress
from marca_common.run_folder import RunFolder
from mpc_balancer.config import GainConfig, TrainConfig
from mpc_balancer.controllers.pi_tuning import PI_KINDS, tune_on_model
from mpc_balancer.evaluate import error_table
from mpc_balancer.forecasting.traffic_forecast import fit_forecast
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.features import Features
from mpc_balancer.system_model.minute_table import SystemData, from_frame, read_system
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.observer import run_observers, tune_observer
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.system_model.training_loop import fit_network
from mpc_balancer.system_model.training_windows import Windows, make_windows

log = logging.getLogger(__name__)
_QUANTILES = np.array([0.05, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])


@dataclass
class TrainResult:
    """The trained model and how good it is."""

    model: SystemModel
    summary: dict[str, Any]


def train(config: TrainConfig, out: str | Path) -> TrainResult:
    """Learn how traffic and λ drive CPU; write system_model.pt, metrics.csv, errors.csv and summary.json to ``out``."""
    set_threads(config.threads)
    data = load_data(config)
    with RunFolder(out, config) as folder:
        bar = progress(what="system model", total=config.epochs, unit="epoch")
        metrics = MetricsLog(folder.path / "metrics.csv", ["epoch", "train_loss", "valid_rmse", "seconds"])

        def report(epoch: int, loss: float, error: float, seconds: float) -> None:
            metrics.write(epoch=epoch, train_loss=loss, valid_rmse=error, seconds=seconds)
            bar.update()
            bar.set_postfix(rmse=f"{error:.3f}")

        model, summary = fit_model(data, config, report)
        bar.close()
        model.save(folder.path / "system_model.pt")
        _, valid = data.split(config.validation_share)
        errors = error_table(model, valid, config.forecast_horizon)
        errors.to_csv(folder.path / "errors.csv", index=False, lineterminator="\n")
        _figure(pd.read_csv(metrics.path), errors, folder.path / "training.png")
        folder.write_summary(summary)
    return TrainResult(model, summary)


def load_data(config: TrainConfig) -> SystemData:
    """The configured table, or days of the commissioned reference plant."""
    if config.table is not None:
        return read_system(config.table, config.columns, config.services)
    from mpc_balancer.testbed.commissioning import commission
    from mpc_balancer.testbed.reference_plant import ReferenceConfig

    reference = ReferenceConfig()
    parts = config.commission_steps_per_minute
    frame = commission(reference, config.commission_days, config.seed, steps_per_minute=parts)
    return from_frame(frame, config.columns, list(reference.services), "reference plant")


def fit_model(data: SystemData, config: TrainConfig, report: Any = None) -> tuple[SystemModel, dict[str, Any]]:
    """Everything that is learned from a table, in memory: g, forecasts, observer, residual quantiles, PI gains."""
    device = resolve_device(config.device)
    early, late = data.split(config.validation_share)
    features = Features.fit(early, config.rollout_steps - 1)
    prices = PriceScale.from_data(data.price, config.price_high, config.box_margin)
    windows = make_windows(early, features, prices, config.rollout_steps)
    valid = make_windows(late, features, prices, config.rollout_steps)
    net = _network(config, windows, data).to(device)
    best = fit_network(net, windows, valid, config, report or (lambda *_: None))
    model = SystemModel.from_network(
        net.cpu(), config.services, features, prices, data.layout.columns, int(data.step.astype(np.int64))
    )
    model.tuned["extras"] = list(data.layout.extras)
    model.tuned["forecasts"] = _forecasts(data, model, config)
    tuned = tune_observer(model, late, GainConfig())
    model.tuned["observer"] = {
        "rate": tuned.rate,
        "trust": tuned.trust,
        "scores": np.round(tuned.scores, 5).tolist(),
        "errors": _sample(tuned.errors),
    }
    model.quantiles = _QUANTILES
    model.residuals = _operational_quantiles(model, late, tuned.rate, tuned.trust)
    if config.tune_pi:
        target = np.nanquantile(data.cpu, 0.75, axis=0)
        model.tuned["pi_gains"] = {
            name: tune_on_model(
                model, data, name, target, config.seed, days=config.tune_days, candidates=config.tune_candidates
            ).to_dict()
            for name in PI_KINDS[:2]
        }
    return model, _summary(model, data, best, tuned.errors, windows)


def _network(config: TrainConfig, windows: Windows, data: SystemData) -> SystemNetwork:
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


def _forecasts(data: SystemData, model: SystemModel, config: TrainConfig) -> dict[str, Any]:
    out = {}
    for g, name in enumerate(data.groups):
        part = data.take(np.flatnonzero(data.group == g))
        fitted = fit_forecast(part.qps, part.timestamps, part.arrivals, config.forecast_horizon, model.step_seconds)
        out[name] = fitted.to_dict()
    return out


def _operational_quantiles(model: SystemModel, data: SystemData, rate: float, trust: float) -> np.ndarray:
    """Quantiles (Q, S) of one-step errors when the coming minute's traffic is a forecast, as it is in operation."""
    from mpc_balancer.forecasting.traffic_forecast import Forecaster, TrafficForecast

    errors = []
    for g, name in enumerate(data.groups):
        part = data.take(np.flatnonzero(data.group == g)[-3000:])
        if len(part) < 20:
            continue
        forecaster = Forecaster(TrafficForecast.from_dict(model.tuned["forecasts"][name]), None)
        coming = np.empty(len(part))
        for i in range(len(part)):
            forecaster.update(part.timestamps[i], part.qps[i], None if part.arrivals is None else part.arrivals[i])
            coming[i] = forecaster.predict(1)[0]
        # the forecast error enters CPU in proportion: error' = error + cpu·(1 - ρ)·(actual/forecast - 1)
        base = run_observers(model, part, np.array([[rate, trust]]), GainConfig())[:, 0]  # (n, S)
        ratio = np.log(np.maximum(part.next_qps, 1e-9) / np.maximum(coming, 1e-9))
        ratio = ratio[np.isfinite(ratio)][-len(base) :]
        size = min(len(base), len(ratio))
        level = np.nanmean(part.cpu, axis=0)
        errors.append(base[-size:] + level * (1 - model.carry) * np.clip(ratio[-size:, None], -0.5, 0.5))
    return np.nanquantile(np.concatenate(errors), _QUANTILES, axis=0)


def _sample(errors: np.ndarray, count: int = 500) -> list[list[float]]:
    """Some of the errors, to be drawn from as noise when controllers are tuned on the model."""
    good = errors[np.isfinite(errors).all(axis=1)]
    return np.round(good[np.linspace(0, len(good) - 1, min(count, len(good))).astype(int)], 4).tolist()


def _summary(model: SystemModel, data: SystemData, best: float, errors: np.ndarray, windows: Windows) -> dict[str, Any]:
    chosen = {name: values["chosen"][0] for name, values in model.tuned["forecasts"].items()}
    return {
        "rows": len(data),
        "windows": len(windows),
        "groups": list(data.groups),
        "rollout_rmse_points": best,
        "one_step_rmse_points": float(np.sqrt(np.nanmean(errors**2))),
        "gain_rate": model.tuned["observer"]["rate"],
        "reading_trust": model.tuned["observer"]["trust"],
        "forecast_one_step": chosen,
        "price_high": model.prices.high.tolist(),
        "pi_gains": model.tuned.get("pi_gains", {}),
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
        title="Error by look-ahead (true traffic)", xlabel="minutes ahead", ylabel="RMSE (CPU points)", ylim=(0, None)
    )
    right.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run_cli(train, TrainConfig, default_config="configs/mpc_balancer/train.yaml", default_out="runs/mpc_train")
