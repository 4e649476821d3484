"""The cascade: joint actions, stages, and tables that agree with a slow run of one request and one action at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from marca_common.config import load_config, parse_config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from recommender.build_parts import Parts
from recommender.cascade.all_pages import Plan, all_pages
from recommender.cascade.channels import best_unseen
from recommender.cascade.stages import Cascade
from recommender.config import RecommenderConfig
from recommender.truth.page_table import shown
from tests.recommender.conftest import SHIPPED
from tests.reference.recommender_reference import slow_page, slow_value


def test_the_shipped_cascade_has_enough_actions_in_three_stages() -> None:
    config = load_config(RecommenderConfig, SHIPPED)
    assert list(config.spec.agents) == ["retrieval", "preranking", "ranking"]
    assert config.spec.n_joint == 810
    from recommender.cascade.action_space import action_space

    space = action_space(config)
    assert len(space.settings) == 298  # 1 kept, 3 popular lists, 6 + 6 + 18 personal ones, times 3 · 3; see the docs
    assert len(space.settings) == 1 + (3 + 6 + 6 + 18) * 9
    kept = [name for name in space.names if name == "cached"]
    assert len(kept) == 1
    assert (space.distinct[: 3 * 3 * 2 * 3 * 3] == 0).all()  # whatever else is chosen, the kept answer is the same


@pytest.mark.parametrize(
    "override, said",
    [
        ("actions.a1.levels=[[als, radio]]", r"actions.a1: got \['als', 'radio'\]; expected \[cached\] or some of"),
        ("actions.a1.levels=[[cached, als]]", "expected .cached. or some of"),
        ("actions.a4.levels=[light, huge]", "actions.a4: got 'huge'; expected"),
        ("actions.a5.levels=[0, 5]", "actions.a5: got 0; expected a length from 1"),
        ("actions.a3.channels=[popular]", "the queues set the lengths of"),
        ("actions.a3.kind=truncation", "got 2 of kind truncation; expected one"),
        ("cached_answer.a1=0", "the kept answer cannot be the kept answer itself"),
        ("cached_answer.a2=7", "expected one choice for every sub-action"),
        ("split.features=0.9", "must leave at least .05 for later"),
    ],
)
def test_cascades_that_make_no_sense_are_refused(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        load_config(RecommenderConfig, SHIPPED, [override])
    assert "\n" not in str(refused.value)


def test_pages_and_values_equal_a_slow_run_of_every_joint_action(parts: Parts) -> None:
    config, visits = parts.config, parts.people.visits
    table = config.spec.joint_table()
    generator = np.random.default_rng(0)
    for row in generator.choice(len(visits), 3, replace=False):
        request = parts.people.request(visits, row, shown(parts.pages.kept[visits.user[row]]))
        liked = set(parts.people.later_likes(visits, row, half=1).tolist())
        for joint in generator.choice(len(table), 60, replace=False):
            choice = dict(zip(config.spec.sub_actions, table[joint].tolist()))
            setting = parts.space.distinct[joint]
            page = slow_page(parts.cascade, request, config, choice)
            assert shown(parts.pages.films[row, setting]).tolist() == page, choice
            money = parts.worth.film, parts.worth.user[visits.user[row]]
            slow = slow_value(page, liked, config.page.click, config.page.stray, *money)
            assert parts.values[1, row, setting] == pytest.approx(slow, rel=1e-5)


def test_all_settings_at_once_equal_the_cascade_that_serves(parts: Parts) -> None:
    plan = Plan.of(parts.space)
    visits = parts.people.visits
    for row in (0, len(visits) // 2, len(visits) - 1):
        request = parts.people.request(visits, row, shown(parts.pages.kept[visits.user[row]]))
        pages = all_pages(parts.cascade, request, plan, len(parts.space.settings))
        for d, setting in enumerate(parts.space.settings):
            page, retrieved, preranked = parts.cascade.serve(request, setting)
            assert shown(pages.films[d]).tolist() == page.tolist(), parts.space.names[d]
            assert (pages.retrieved[d], pages.preranked[d]) == (retrieved, preranked)
        assert (parts.pages.films[row] == pages.films).all()


def test_pages_hold_no_film_twice_and_none_that_was_rated(parts: Parts) -> None:
    for row in range(0, len(parts.people.visits), 7):
        seen = parts.people.request(parts.people.visits, row).films
        for page in parts.pages.films[row]:
            films = shown(page)
            assert len(set(films.tolist())) == len(films) > 0
            assert not np.isin(films, seen).any()


def test_the_kept_answer_was_made_from_the_features_part(parts: Parts) -> None:
    people, pages, split = parts.people, parts.pages, parts.people.split
    cached = next(d for d, one in enumerate(parts.space.settings) if one.cached)
    for row in range(0, len(people.visits), 9):
        user = int(people.visits.user[row])
        old = people.request_at(user, int(split.ranker[user]))
        assert old.films.tolist() == people.ratings.film[split.begin[user] : split.ranker[user]].tolist()
        made = parts.cascade.serve(old, parts.space.settings[parts.space.kept])[0].tolist()
        seen = people.request(people.visits, row).films
        left = [film for film in made if film not in seen]
        assert pages.films[row, cached, : len(left)].tolist() == left


def test_history_of_a_user_without_likes_is_served(parts: Parts) -> None:
    visits = parts.people.visits
    request: Any = parts.people.request(visits, 0)
    nobody = type(request)(
        request.user, request.films, request.films[:0], np.zeros(len(request.films), bool), request.kept
    )
    for setting in parts.space.settings:
        assert len(parts.cascade.serve(nobody, setting)[0]) > 0


def test_rankers_order_by_expected_money_and_what_comes_before_does_not(parts: Parts) -> None:
    visits, cascade = parts.people.visits, parts.cascade
    request, films = parts.people.request(visits, 3), np.setdiff1d(np.arange(60), parts.people.request(visits, 3).films)
    assert cascade.log_money == pytest.approx(np.log(parts.worth.film))
    dear = dataclasses.replace(cascade, log_money=cascade.log_money + np.where(np.arange(60) == films[-1], 50.0, 0.0))
    for ranker in ("small", "large"):
        gain = dear.ranking_scores(request, films, ranker) - cascade.ranking_scores(request, films, ranker)
        assert gain == pytest.approx(np.where(films == films[-1], 50.0, 0.0))
        assert dear.rank(request, films, np.zeros(len(films)), ranker)[0] == films[-1]
    assert (dear.preranking_scores(request, films) == cascade.preranking_scores(request, films)).all()


def test_best_unseen_by_hand() -> None:
    scores = np.array([5.0, 1, 4, 3, 2])
    assert best_unseen(scores, np.array([0]), 3).tolist() == [2, 3, 4]
    assert best_unseen(scores, np.array([0, 2, 3, 4]), 3).tolist() == [1]
    assert best_unseen(scores, np.arange(5), 3).tolist() == []


def test_a_cascade_is_what_its_checkpoint_says(parts: Parts) -> None:
    cascade: Cascade = parts.cascade
    again = Parts(parts.config, parts.folder, parts.people).cascade
    request = parts.people.request(parts.people.visits, 1)
    for setting in parts.space.settings[::17]:
        assert cascade.serve(request, setting)[0].tolist() == again.serve(request, setting)[0].tolist()


def test_the_page_shows_the_spec_as_it_is_configured() -> None:
    page = (Path(__file__).parents[2] / "docs/real_data.md").read_text(encoding="utf-8")
    block = page[page.index("    spec:\n") :].partition("\n\n")[0]
    shown_there = parse_config(RequestSpec, yaml.safe_load(block)["spec"], "docs/real_data.md")
    assert shown_there == load_config(RecommenderConfig, SHIPPED).spec
