"""Published games: what VDN, QMIX and Weighted QMIX must and must not be able to represent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from awrq_mixer.equations import central_weights, optimistic_weights
from awrq_mixer.learner_config import MixerConfig, NetworkConfig
from awrq_mixer.networks.agents import initialise
from awrq_mixer.networks.mixers import MonotonicMixer, VDNMixer
from awrq_mixer.networks.space import Space
from marca_common.seeding import torch_generator

CLIMB = torch.tensor([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])


class Game(nn.Module):
    """Two tabular agents over a few states, and a mixer of this package."""

    def __init__(self, states: int, choices: int, mixer: str, seed: int = 0) -> None:
        super().__init__()
        space = Space((states,), 0, ((choices,), (choices,)))
        network = NetworkConfig(embedding=8, oov_rate=0.0)
        config = MixerConfig(embed=16, weights="abs", activation="elu", hyper_layers=[32])
        self.mixer = VDNMixer() if mixer == "vdn" else MonotonicMixer(space, config, network)
        initialise(self, "torch", torch_generator(seed, "game"))
        g = torch_generator(seed, "agents")
        self.q = nn.ParameterList([nn.Parameter(0.1 * torch.randn(states, choices, generator=g)) for _ in range(2)])
        self.choices = choices

    def table(self, states: torch.Tensor) -> torch.Tensor:
        """Q_tot of all joint choices, (S, choices, choices)."""
        q = [table[states][:, None] for table in self.q]
        numbers = torch.zeros(len(states), 0)
        return self.mixer.table(q, states[:, None], numbers, torch.zeros(0)).reshape(
            len(states), self.choices, self.choices
        )


def fit(game: Game, targets: Any, steps: int, lr: float = 0.02, weights: Any = None) -> torch.Tensor:
    """Minimise the (weighted) squared error to targets(game) over all states and joint choices."""
    optimiser = torch.optim.Adam(game.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=lr / 100)
    every = torch.arange(len(game.q[0]))
    for _ in range(steps):
        table, target = game.table(every), targets(game)
        w = torch.ones_like(table) if weights is None else weights(table, target)
        loss = (w * (table - target).square()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return game.table(every).detach()


def greedy_reward(table: torch.Tensor, payoff: torch.Tensor) -> float:
    return float(payoff.flatten()[table.flatten().argmax()])


def two_step(game: Game, gamma: float = 0.99) -> torch.Tensor:
    """Targets of the two-step game: agent 1's first choice leads to 2A (all 7) or 2B [[0, 1], [1, 8]]."""
    second = torch.tensor([[[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])
    with torch.no_grad():
        best = game.table(torch.arange(3))[1:].flatten(1).max(1).values
    first = gamma * best[:, None].expand(2, 2)
    return torch.cat([first[None], second])


def test_vdn_takes_seven_in_the_two_step_game() -> None:
    table = fit(Game(3, 2, "vdn"), two_step, 1500)
    expected = torch.tensor([[[6.93, 6.93], [6.44, 6.44]], [[7, 7], [7, 7]], [[-1.5, 2.5], [2.5, 6.5]]])
    assert torch.allclose(table, expected, atol=0.05)


@pytest.mark.slow
def test_qmix_finds_eight_in_the_two_step_game() -> None:
    table = fit(Game(3, 2, "qmix"), two_step, 1500)
    expected = torch.tensor([[[6.93, 6.93], [7.92, 7.92]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]])
    assert torch.allclose(table, expected, atol=0.05)


def test_vdn_on_the_matrix_game() -> None:
    table = fit(Game(1, 3, "vdn"), lambda _: CLIMB[None], 1500)[0]
    assert table[0, 0] == pytest.approx(-6.22, abs=0.05)
    assert table[0, 1] == pytest.approx(-4.89, abs=0.05)
    assert table[1, 1] == pytest.approx(-3.56, abs=0.05)
    assert float((table - CLIMB).square().mean()) == pytest.approx(50.57, abs=0.05)
    assert greedy_reward(table, CLIMB) == 0


@pytest.mark.slow
def test_qmix_cannot_represent_the_matrix_game() -> None:
    table = fit(Game(1, 3, "qmix"), lambda _: CLIMB[None], 1000)[0]
    error = float((table - CLIMB).square().mean())
    assert error == pytest.approx(35.56, abs=0.3) or error == pytest.approx(32.0, abs=0.3)
    if error > 33:
        assert greedy_reward(table, CLIMB) == 0
        assert table[1:, 1:].abs().max() < 0.3
        assert table[0, 0] == pytest.approx(-8, abs=0.3)


@pytest.mark.slow
def test_centrally_weighted_qmix_finds_the_best_cell() -> None:
    def weights(table: Any, target: Any) -> Any:
        flat, goal = table.detach().flatten(), target.flatten()
        greedy = flat.argmax()
        is_greedy = torch.arange(9) == greedy
        return central_weights(goal, goal[greedy].expand(9), is_greedy, 0.1).reshape(1, 3, 3)  # Q̂* is the truth here

    table = fit(Game(1, 3, "qmix"), lambda _: CLIMB[None], 1000, weights=weights)[0]
    assert greedy_reward(table, CLIMB) == 8
    assert table[0, 0] == pytest.approx(8, abs=0.3)
    assert torch.allclose(table.flatten()[1:], torch.full((8,), -6.0), atol=0.3)
    assert float((table - CLIMB).square().mean()) == pytest.approx(32, abs=0.5)


@pytest.mark.slow
def test_optimistically_weighted_qmix_finds_the_best_cell() -> None:
    alpha = 0.1

    def weights(table: Any, target: Any) -> Any:
        return optimistic_weights(table.flatten(), target.flatten(), alpha).reshape(1, 3, 3)

    table = fit(Game(1, 3, "qmix"), lambda _: CLIMB[None], 1000, weights=weights)[0]
    assert greedy_reward(table, CLIMB) == 8
    assert table[0, 0] == pytest.approx(8, abs=0.3)
    off = table.flatten()[1:]
    assert torch.allclose(off, torch.full((8,), -12 * alpha / (1 + alpha)), atol=0.3)
