"""The states that can arrive in a run, known before it, so that a policy can prepare its decisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cascade_world.population.states import Population
from cascade_world.population.world_traffic import Traffic
from cascade_world.request_luck import hash_columns
from marca_common.seeding import integer_seed


@dataclass(frozen=True)
class Catalogue:
    """The distinct states that can arrive in a run, known before it; a state's id is its row."""

    states: pd.DataFrame  # state columns (S rows)
    codes: np.ndarray  # int64 (S, columns)
    classes: np.ndarray  # int64 (S,)
    scale: np.ndarray  # float64 (S,)
    ids: np.ndarray  # states of each group's hours, int64 (groups, hours, states_per_hour)


def build_catalogue(population: Population, traffic: Traffic) -> Catalogue:
    """Draw ``states_per_hour`` states per data centre and hour from that hour's mix; requests come from them evenly."""
    per_hour = population.config.plant.states_per_hour
    first = int(traffic.start_day * 24)
    hours = int(np.ceil((traffic.start_day * 24) % 1 + len(traffic.timestamps) / 60))
    shape = (len(traffic.groups), hours, per_hour)
    group, hour, number = (one.ravel() for one in np.indices(shape))
    luck = hash_columns(integer_seed(traffic.seed, "catalogue"), group, hour + first, number)
    codes = population.sample(luck, (hour + first).astype(float), idc=group)
    unique, inverse = np.unique(codes, axis=0, return_inverse=True)
    classes, scale = population.latent(unique)
    return Catalogue(population.frame(unique), unique, classes, scale, inverse.reshape(shape).astype(np.int64))
