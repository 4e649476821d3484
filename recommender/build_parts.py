"""The parts of a build: each is written to a file once and read from there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.errors import UserError
from marca_common.files import atomic_path
from marca_common.scores import ScoreMatrix, write_scores
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from recommender.cascade.action_space import ActionSpace, action_space
from recommender.cascade.all_pages import Plan
from recommender.cascade.channels import Channels
from recommender.cascade.stages import Cascade
from recommender.config import SERVICES, RecommenderConfig
from recommender.histories.people import People, people_of
from recommender.histories.split import JUDGED, LOGGED
from recommender.histories.state_columns import state_frame, taste_groups
from recommender.models.taste_models import fit_taste_models
from recommender.models.training import fit_rankers, load_models, save_models
from recommender.movielens.formats import read_movielens
from recommender.movielens.ratings import cleaned
from recommender.movielens.wheel import LICENCE, movielens_100k
from recommender.records.load_requests import load_requests
from recommender.records.request_log import request_log
from recommender.request import Request
from recommender.truth.costs import Costs, measure_costs
from recommender.truth.page_table import PageTable, page_table, shown
from recommender.truth.worth import Worth, value_table

log = logging.getLogger(__name__)
MODELS_FILE, PAGES_FILE, VALUES_FILE = "models.pt", "truth/pages.npz", "truth/values.npz"
COSTS_FILE, VISITS_FILE, STATES_FILE = "truth/cost_rounds.parquet", "truth/visits.parquet", "truth/states.parquet"
LOG_FILE, LOAD_FILE = "logs/requests.parquet", "load/requests.parquet"


def load_people(config: RecommenderConfig) -> People:
    """Data, split and visits of a config; licence and citation are said."""
    log.info("%s", LICENCE)
    data = config.data
    place = Path(data.folder) if data.folder else movielens_100k(data.cache)
    ratings = cleaned(read_movielens(place), data.min_ratings, str(place), data.most_users, config.seed)
    return people_of(ratings, config.split, data.like, config.seed, str(place))


class Parts:
    """What a build makes, in the order of ``stages``; whatever a later part needs is read from the file of an earlier one."""

    def __init__(self, config: RecommenderConfig, folder: Path, people: People) -> None:
        self.config, self.folder, self.people = config, folder, people
        self.space: ActionSpace = action_space(config)
        ratings = people.ratings
        self.worth = Worth.of(config.page, len(ratings.films), len(ratings.users), config.seed)

    def stages(self) -> list[tuple[str, str, Callable[[Path], None]]]:
        """(name, file, what writes it)."""
        return [
            ("models", MODELS_FILE, self._write_models),
            ("pages", PAGES_FILE, lambda path: page_table(self.cascade, self.people, self.space).save(path)),
            ("values", VALUES_FILE, self._write_values),
            ("costs", COSTS_FILE, lambda path: write_table(self._measured().frame(self.space.names), path)),
            ("visits", VISITS_FILE, self._write_visits),
            ("states", STATES_FILE, self._write_states),
            ("log", LOG_FILE, self._write_log),
            ("load", LOAD_FILE, lambda path: write_table(self.load_requests(), path)),
        ]

    @cached_property
    def cascade(self) -> Cascade:
        """The trained cascade."""
        taste, rankers = load_models(self.folder / MODELS_FILE)
        channels = Channels(taste, self.config.models.fusion)
        money = np.log(self.worth.film)
        return Cascade(channels, rankers.preranker, rankers.small, rankers.large, money, self.config.page.slots)

    @cached_property
    def pages(self) -> PageTable:
        """Pages of all visits and settings."""
        return PageTable.load(self.folder / PAGES_FILE)

    @cached_property
    def values(self) -> np.ndarray:
        """Expected revenue by the logged and by the judged half, float32 (2, V, D)."""
        try:
            with np.load(self.folder / VALUES_FILE) as file:
                return np.stack([file["logged"], file["judged"]])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.folder / VALUES_FILE}: not a readable table of values: {error}") from None

    @cached_property
    def costs(self) -> Costs:
        """What was measured."""
        return Costs.of_frame(pd.read_parquet(self.folder / COSTS_FILE))

    @cached_property
    def states(self) -> pd.DataFrame:
        """State columns of all visits (V rows)."""
        split = self.config.split
        taste = taste_groups(self.cascade.taste.user_light, split.tastes, self.config.seed)
        return state_frame(self.people.visits, self.people.ratings, taste, self.worth.user, split.tiers)

    def cost_of_visits(self) -> np.ndarray:
        """Core-milliseconds per visit, setting and service, float64 (V, D, services): that of the visit's history tier."""
        return np.asarray(self.costs.table[self.states["history"].to_numpy()])

    def load_requests(self) -> pd.DataFrame:
        """What the service is asked in a load test (V rows)."""
        return load_requests(self.states, self.space, self.config.spec, self.config.seed)

    def _write_models(self, path: Path) -> None:
        people, config = self.people, self.config
        ratings, part = people.ratings, people.split.features()
        taste = fit_taste_models(
            ratings.user[part], ratings.film[part], ratings.stars[part], people.split.liked[part], ratings.genres,
            len(ratings.users), config.models, config.seed,
        )  # fmt: skip
        channels, longest = Channels(taste, config.models.fusion), Plan.of(self.space).longest

        def offered(request: Request) -> np.ndarray:
            return np.unique(np.concatenate(list(channels.offers(request, longest).values())))

        rows = range(len(people.training))
        requests = [people.request(people.training, row) for row in rows]
        likes = [people.later_likes(people.training, row) for row in rows]
        save_models(path, taste, fit_rankers(taste, requests, likes, offered, config.models, config.seed))

    def _write_values(self, path: Path) -> None:
        logged, judged = (value_table(self.people, self.pages.films, self.worth, half) for half in (LOGGED, JUDGED))
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, logged=logged, judged=judged)

    def _measured(self) -> Costs:
        generator, history = numpy_generator(self.config.seed, "measured visits"), self.states["history"].to_numpy()
        requests = []
        for tier in range(int(history.max()) + 1):
            there = np.flatnonzero(history == tier)
            rows = generator.choice(there, min(self.config.cost.visits, len(there)), replace=False)
            requests.append([self._request(row) for row in rows])
        return measure_costs(self.cascade, requests, self.space, self.config.cost, self.config.seed)

    def _request(self, row: int) -> Request:
        return self.people.request(self.people.visits, row, shown(self.pages.kept[self.people.visits.user[row]]))

    def _write_visits(self, path: Path) -> None:
        """One row per visit: what its requests look like, and where it stands in the tables of pages and values."""
        visits, ratings = self.people.visits, self.people.ratings
        frame = pd.DataFrame({"visit": np.arange(len(visits)), "timestamp": visits.time.astype("datetime64[s]")})
        write_table(pd.concat([frame.assign(user=ratings.users[visits.user]), self.states], axis=1), path)

    def _write_states(self, path: Path) -> None:
        """Judged value and cost of every joint action, mean over the visits of each distinct state."""
        states, ids, count = self.config.spec.distinct_states(self.states)
        distinct = self.space.distinct

        def mean(of_visits: np.ndarray) -> np.ndarray:
            total = np.zeros((len(states), of_visits.shape[1]))
            np.add.at(total, ids, of_visits)
            return np.asarray((total / count[:, None])[:, distinct], np.float32)

        cost = self.cost_of_visits()
        scores = {"value": mean(self.values[1])}
        scores |= {f"cost_{name}": mean(cost[:, :, j]) for j, name in enumerate(SERVICES)}
        write_scores(ScoreMatrix(states.astype(str), scores), path)

    def _write_log(self, path: Path) -> None:
        config = self.config
        frame = request_log(
            self.people, self.states, self.pages, self.space.distinct, self.worth, config.spec, config.log,
            config.split.tiers, config.seed,
        )  # fmt: skip
        write_table(frame, path)
