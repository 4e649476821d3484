import numpy as np
import pytest

from common.errors import UserError
from common.protocols import Measurement
from revenue_sim.static import StaticPolicy, StaticRule, best_mixture


def test_two_services_by_hand():
    # Actions: cheap (1 | 1, 1), retrieval-heavy (4 | 4, 1), ranking-heavy (3 | 1, 3); budget (2.5, 1): half and half.
    values = np.array([1.0, 4.0, 3.0])
    costs = np.array([[1.0, 1.0], [4.0, 1.0], [1.0, 3.0]])
    np.testing.assert_allclose(best_mixture(values, costs, np.array([2.5, 1.0])), [0.5, 0.5, 0.0], atol=1e-9)
    np.testing.assert_allclose(best_mixture(values, costs, np.array([9.0, 9.0])), [0, 1, 0], atol=1e-9)


def test_no_fixed_action_beats_the_mixture():
    rng = np.random.default_rng(0)
    values, costs, budgets = rng.random(200) * 1e-4, rng.random((200, 2)) + 0.1, np.array([0.5, 0.6])
    weights = best_mixture(values, costs, budgets)
    assert (weights @ costs <= budgets * (1 + 1e-6)).all()
    assert weights @ values >= values[(costs <= budgets).all(axis=1)].max() - 1e-12
    assert (weights > 1e-9).sum() <= 3


def test_a_budget_below_the_cheapest_action_is_named():
    with pytest.raises(UserError, match=r"the least possible is \[2. 2.\]"):
        best_mixture(np.ones(2), np.full((2, 2), 2.0), np.ones(2))


def test_the_policy_draws_the_mixture_of_its_level():
    policy = StaticPolicy(np.array([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]), np.random.default_rng(0))
    drawn = policy.decide(np.zeros(40_000), np.array([0.0, 0.0]))
    assert np.bincount(drawn, minlength=3)[2] == 0
    assert np.mean(drawn == 1) == pytest.approx(0.75, abs=0.01)
    assert (policy.decide(np.zeros(100), np.array([1.0, 1.0])) == 0).all()


def measured(*cpu):
    return Measurement(0, np.datetime64("2026-01-01"), "idc0", 1.0, np.array(cpu), 0.0, np.zeros(2))


def test_the_rule_steps_down_at_once_and_up_with_patience():
    rule = StaticRule(np.array([60.0, 60.0]), levels=3, patience=2, headroom=0.8)
    levels = [
        rule.step(measured(*cpu))[0]
        for cpu in [(50, 61), (70, 10), (90, 90), (50, 10), (40, 10), (40, 10), (np.nan, np.nan), (40, 47)]
    ]
    assert levels == [1, 2, 2, 2, 2, 1, 1, 1]
