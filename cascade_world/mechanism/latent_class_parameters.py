"""Parameters of the classes: the part of the world that makes users differ in what computation brings."""

from __future__ import annotations

import numpy as np

from cascade_world.config import WorldConfig
from cascade_world.mechanism.cascade import CascadeParameters
from cascade_world.population.states import Population
from cascade_world.request_luck import NORMALS
from marca_common.seeding import numpy_generator


def build_parameters(config: WorldConfig, population: Population) -> CascadeParameters:
    """Kernel parameters of every class of the population."""
    classes, cascade = config.classes, config.cascade
    channels = len(cascade.channels)

    def spread(name: str, columns: int = 1) -> np.ndarray:
        return population.spread(name, columns)

    click_sd, supply_sd = classes.click_rate_sd, classes.supply_sd
    return CascadeParameters(
        log_click=np.log(classes.click_rate) + click_sd * spread("click_rate")[:, 0],
        dispersion=classes.dispersion * np.exp(classes.dispersion_sd * spread("dispersion")[:, 0]),
        log_bid=np.log(classes.bid) + classes.money_sd * spread("money")[:, 0],
        conversion=np.minimum(classes.conversion * np.exp(classes.conversion_sd * spread("conversion")[:, 0]), 1.0),
        basket=np.full(population.n_classes, classes.basket),
        affinity=classes.affinity_sd * spread("affinity", channels),
        supply=classes.supply * np.exp(supply_sd * spread("supply", channels)),
        supply_request_sd=classes.supply_request_sd,
        bid_sd=classes.bid_sd,
        basket_sd=classes.basket_sd,
        commission=classes.commission,
        reserve=classes.reserve,
        max_candidates=cascade.max_candidates,
        model_noise=np.array(list(cascade.models.values()), dtype=float),
        model_correlation=cascade.model_correlation,
        preranking_noise=cascade.preranking_noise,
        preranking_memory=cascade.preranking_memory,
        ranker_noise=np.array(list(cascade.rankers.values()), dtype=float),
        slots=np.array(cascade.slots, dtype=float),
        normals=NORMALS,
    )


def prediction_bias(config: WorldConfig) -> np.ndarray:
    """Ranker's predicted value over what it should say, by placement (placements,)."""
    cascade, placements = config.cascade, len(config.states.placements)
    rng = numpy_generator(config.seed, "prediction_bias")
    return cascade.prediction_bias * np.exp(cascade.prediction_bias_sd * rng.standard_normal(placements))
