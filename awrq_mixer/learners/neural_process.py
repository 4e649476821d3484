"""neural_process is regression plus a set encoder over the state's other rows.

Observes what awrq_plus does: state, joint action, revenue, the surrogate, and each state's own training rows. Every row of a
state becomes a vector of (columns, joint action, log surrogate); their mean and their number go into the first layer. In
training a row's own vector is left out. Without a surrogate it is regression.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.regression import JointNet, loss_of
from awrq_mixer.learners.state_memory import Rows, StateMemory
from awrq_mixer.networks.agents import StateNet
from marca_common.torch_seeding import OwnInit


class NeuralProcess(StateMemory):
    """A conditional neural process over joint actions: a state is served with its training rows."""

    def build(self) -> nn.Module:
        """Regression's network, and the encoder of rows."""
        return nn.ModuleDict({"joint": JointNet(self.space, self), "rows": RowNet(self)})

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Regression's loss, each row with what the other rows of its state say."""
        net = self.online["joint"]
        x = net.first(net.state(batch.codes, batch.numbers))  # (B, H)
        if self.remembers:
            rows, first = self.rows_of(batch)
            vectors = self.encoded(rows)
            sums, counts = pool(vectors, rows.state, len(first))
            x = x + self.online["rows"].read(sums[rows.state] - vectors, counts[rows.state] - 1)
        return loss_of(self, net.outputs(x, batch.actions), batch)

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Raw value of all joint actions, (S, A)."""
        net = self.online["joint"]
        x = net.first(net.state(codes, numbers))
        if self.remembers:
            rows = self.remembered(codes)
            x = x + self.online["rows"].read(*pool(self.encoded(rows), rows.state, len(codes)))
        table: Tensor = net.joint_outputs(x, self.joint)
        return table

    def encoded(self, rows: Rows) -> Tensor:
        """A vector for each row, (B, H)."""
        vectors: Tensor = self.online["rows"](rows.codes, rows.numbers, self.joint[rows.joint], rows.signal)
        return vectors


def pool(vectors: Tensor, state: Tensor, states: int) -> tuple[Tensor, Tensor]:
    """Sum of the vectors of each state (S, H), and how many there are (S,)."""
    sums = vectors.new_zeros(states, vectors.shape[1]).index_add(0, state, vectors)
    return sums, torch.bincount(state, minlength=states)


class RowNet(OwnInit):
    """One hidden layer over columns, sub-actions and signal of a row; and what pooled rows add to a first layer."""

    def __init__(self, learner: StateMemory) -> None:
        super().__init__()
        config, space = learner.config.network, learner.space
        self.state = StateNet(space, config)
        self.first = nn.Linear(self.state.width, config.hidden)
        self.tables = nn.ParameterList([nn.Parameter(torch.zeros(n, config.hidden)) for n in space.sizes])
        self.signal = nn.Parameter(torch.zeros(config.hidden))
        self.second = nn.Linear(config.hidden, config.hidden)
        self.out = nn.Linear(config.hidden + 1, config.hidden)

    def reset(self, generator: torch.Generator) -> None:
        """Tables of sub-actions and a slope of the signal large enough for hidden units to read both at once."""
        for table in [*self.tables, self.signal]:
            nn.init.normal_(table, std=0.5, generator=generator)

    def forward(self, codes: Tensor, numbers: Tensor, actions: Tensor, signal: Tensor) -> Tensor:
        """Vectors of rows, (B, H)."""
        x = self.first(self.state(codes, numbers)) + signal[:, None] * self.signal
        for t, table in enumerate(self.tables):
            x = x + table[actions[:, t]]
        return torch.relu(self.second(torch.relu(x)))

    def read(self, sums: Tensor, counts: Tensor) -> Tensor:
        """What ``counts`` (S,) rows with these sums of vectors (S, H) add to the first layer; no rows have the mean 0."""
        many = counts.to(sums.dtype)[:, None]
        added: Tensor = self.out(torch.cat([sums / many.clamp_min(1), many.log1p()], 1))
        return added
