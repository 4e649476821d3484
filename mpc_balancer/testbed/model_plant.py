"""The system model as its own plant: what the paper's code simulates, and the placebo where MPC has no model error."""

from __future__ import annotations

import numpy as np

from marca_common.protocols import Measurement
from marca_common.seeding import numpy_generator
from mpc_balancer.system_model.model import SystemModel


class ModelPlant:
    """g plus its own one-step errors, drawn at random (``noise`` scales them; 0 = a perfect model)."""

    def __init__(self, model: SystemModel, group: str, seed: int, start: np.datetime64, noise: float = 1.0) -> None:
        self.model, self.group = model, group
        self.index = model.features.group_index(group)
        self.time = np.datetime64(str(start), "s")
        self._generator = numpy_generator(seed, "mpc_balancer", "model_plant")
        self._errors = noise * model.noise
        self._cpu = np.full(len(model.services), 60.0)
        self._qps: float | None = None
        self._minute = 0
        self.truth: list[np.ndarray] = []

    def step(self, lambda_: np.ndarray, exogenous: np.ndarray) -> Measurement:
        """One interval of the model under these prices and arrivals."""
        model = self.model
        arrivals = np.asarray(exogenous, np.float64)
        qps = float(arrivals.sum() / model.step_seconds)
        before = qps if self._qps is None else self._qps
        step = np.timedelta64(model.step_seconds, "s")
        inputs = model.features.typical_row(self.index, before, qps, self.time - step)
        unit = model.prices.to_unit(np.clip(lambda_, model.prices.low, model.prices.high))
        traffic = model.relative_traffic(np.array([qps]), self.index)
        cpu = model.step_rows(self._cpu[None], unit[None], inputs, traffic)[0]
        self._cpu = np.clip(cpu + self._errors[self._generator.integers(len(self._errors))], 0, 100)
        self._qps = qps
        self.truth.append(self._cpu.copy())
        report = Measurement(
            self._minute, self.time, self.group, qps, self._cpu.copy(), 0.0, np.array(lambda_), arrivals
        )
        self._minute += 1
        self.time = self.time + step
        return report
