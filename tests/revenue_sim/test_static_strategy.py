import numpy as np
import pytest

from marca_common.protocols import Measurement
from marca_loop.static_strategy import StaticPolicy, StaticRule
from marca_measures.static_mixture import static_mixture


def test_the_policy_draws_the_mixture_of_its_level():
    # cheap (1 | 1, 1), retrieval-heavy (4 | 4, 1), ranking-heavy (3 | 1, 3): half and half fills the budget (2.5, 1).
    values, costs = np.array([1.0, 4.0, 3.0]), np.array([[1.0, 1.0], [4.0, 1.0], [1.0, 3.0]])
    levels = [static_mixture(values, costs, np.array([2.5, 1.0])), static_mixture(values, costs, np.array([1.0, 1.0]))]
    policy = StaticPolicy(levels, np.random.default_rng(0))
    drawn = policy.decide(np.zeros(40_000), np.array([0.0, 0.0]))
    assert np.bincount(drawn, minlength=3)[2] == 0
    assert np.mean(drawn == 1) == pytest.approx(0.5, abs=0.01)
    assert (policy.decide(np.zeros(100), np.array([1.0, 1.0])) == 0).all()


def measured(*cpu):
    return Measurement(0, np.datetime64("2026-01-01"), "idc0", 1.0, np.array(cpu), 0.0, np.zeros(2))


def test_the_rule_steps_down_at_once_and_up_with_patience():
    rule = StaticRule(np.array([60.0, 60.0]), levels=3, patience=2, headroom=0.8)
    minutes = [(50, 61), (70, 10), (90, 90), (50, 10), (40, 10), (40, 10), (np.nan, np.nan), (40, 47)]
    assert [rule.step(measured(*cpu))[0] for cpu in minutes] == [1, 2, 2, 2, 2, 1, 1, 1]
