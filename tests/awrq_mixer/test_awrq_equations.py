"""Equations against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from awrq_mixer import equations as eq
from marca_common.seeding import torch_generator
from marca_measures.deviance import tweedie_deviance


def test_td_target_adds_the_discounted_next_value() -> None:
    target = eq.td_target(torch.tensor([1.0, 2.0]), torch.tensor([[10.0, 20.0], [0.0, 1.0]]), 0.9)
    assert torch.allclose(target, torch.tensor([[10.0, 19.0], [2.0, 2.9]]))
    assert torch.equal(eq.td_target(torch.tensor([3.0]), None, 0.9), torch.tensor([[3.0]]))


def test_td_target_refuses_a_wrong_rank() -> None:
    with pytest.raises(ValueError, match="rank 2"):
        eq.td_target(torch.ones(3), torch.ones(3), 0.9)


def test_chosen_takes_the_logged_sub_action_of_every_head() -> None:
    q = torch.arange(12.0).reshape(2, 2, 3)
    assert eq.chosen(q, torch.tensor([2, 0])).tolist() == [[2.0, 5.0], [6.0, 9.0]]


def test_adaptive_weights_are_loss_shares() -> None:
    weights = eq.adaptive_weights(torch.tensor([[1.0, 3.0], [0.0, 0.0]], requires_grad=True))
    assert weights.tolist() == [[0.25, 0.75], [0.5, 0.5]]  # equal where nothing is lost: no 0/0
    assert not weights.requires_grad


def test_credit_is_the_variance_of_mean_rewards_over_present_choices() -> None:
    reward = torch.tensor([1.0, 3.0, 5.0, 7.0])
    actions = torch.tensor([[0, 0], [0, 2], [1, 0], [1, 2]])
    # first: means 2 and 6 → variance 4; second: choice 1 is absent, means 3 and 5 → variance 1
    assert eq.credit_variances(eq.choice_sums(reward, actions, (2, 3))).tolist() == [4.0, 1.0]
    assert eq.credit_weights(eq.choice_sums(reward, actions, (2, 3)), "paper").tolist() == [4.0, 1.0]
    assert torch.allclose(
        eq.credit_weights(eq.choice_sums(reward, actions, (2, 3)), "normalised"), torch.tensor([0.8, 1.0])
    )


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_normalised_credit_does_not_depend_on_the_unit_of_money(unit: float) -> None:
    reward, actions = torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([[0, 0], [0, 2], [1, 0], [1, 2]])
    found = eq.credit_weights(eq.choice_sums(unit * reward, actions, (2, 3)), "normalised")
    assert torch.allclose(found, torch.tensor([0.8, 1.0]))


def test_constant_reward_gives_no_zero_over_zero() -> None:
    reward, actions = torch.full((6,), 2.0), torch.randint(0, 2, (6, 3), generator=torch_generator(0, "x"))
    assert eq.credit_weights(eq.choice_sums(reward, actions, (2, 2, 2)), "paper").tolist() == [0.0, 0.0, 0.0]
    even = eq.credit_weights(eq.choice_sums(reward, actions, (2, 2, 2)), "normalised")
    assert torch.allclose(even, torch.tensor([1 / 3, 2 / 3, 1.0]))


@pytest.mark.parametrize("y, mean, expected", [(0.0, 4.0, 8.0), (4.0, 4.0, 0.0), (1.0, 4.0, 2.0), (9.0, 1.0, 16.0)])
def test_tweedie_deviance_at_power_one_and_a_half(y: Any, mean: Any, expected: Any) -> None:
    # p = 1.5: d = 4 (√y − √μ)² / √μ
    got = tweedie_deviance(torch.tensor(np.log(mean)), torch.tensor(y, dtype=torch.float64), 1.5)
    assert float(got) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(
    y=st.floats(0, 1e4),
    log_mean=st.floats(-6, 6),
    power=st.floats(1.05, 1.95),
    kind=st.sampled_from(["mse", "tweedie"]),
)
def test_losses_are_never_negative_and_least_at_the_target(y: Any, log_mean: Any, power: Any, kind: Any) -> None:
    target = torch.tensor(y, dtype=torch.float64)
    here = eq.elementwise_loss(torch.tensor(log_mean, dtype=torch.float64), target, kind, power=power)
    assert float(here) >= -1e-6 * (1 + y)
    best = torch.log(target.clamp_min(1e-12)) if kind == "tweedie" else target
    assert float(eq.elementwise_loss(best, target, kind, power=power)) <= float(here) + 1e-6 * (1 + y)


def test_other_losses_by_hand() -> None:
    raw, target = torch.tensor([3.0]), torch.tensor([1.0])
    assert eq.elementwise_loss(raw, target, "mse").item() == 4.0
    assert eq.elementwise_loss(raw, target, "mae").item() == 2.0
    assert eq.elementwise_loss(raw, target, "huber", delta=1.0).item() == 1.5
    assert eq.elementwise_loss(raw, target, "huber", delta=0.5).item() == 0.5 * (2 - 0.25)
    assert eq.elementwise_loss(raw, target, "huber").item() == 1.5
    assert torch.equal(eq.elementwise_loss(raw, target, "tweedie"), tweedie_deviance(raw, target, 1.5))


def test_link_is_bounded_exp_only_for_tweedie() -> None:
    assert eq.link(torch.tensor(1000.0), "tweedie").item() == pytest.approx(np.exp(30.0), rel=1e-5)
    assert eq.link(torch.tensor(-2.0), "mse").item() == -2.0
    assert eq.link(torch.tensor(0.0), "tweedie").item() == 1.0


def test_random_mixture_is_convex_and_seeded() -> None:
    draws = [eq.random_mixture(5, torch_generator(3, "rem")) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert float(draws[0].sum()) == pytest.approx(1)
    assert (draws[0] >= 0).all()
    assert eq.random_mixture(1, torch_generator(0, "rem")).tolist() == [1.0]


def test_weights_of_weighted_qmix() -> None:
    q_tot, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 1.0])
    assert eq.optimistic_weights(q_tot, target, 0.25).tolist() == [1.0, 0.25, 0.25]
    greedy = torch.tensor([False, True, False])
    assert eq.central_weights(target, torch.tensor([5.0, 5.0, 0.5]), greedy, 0.25).tolist() == [0.25, 1.0, 1.0]
    assert (eq.optimistic_weights(q_tot, target, 1.0) == 1).all()  # α = 1: Weighted QMIX is QMIX
