"""Low-rank embedding network of revenue on (state, action): log mean = b(s) + c(a) + u(s)·v(a), Tweedie loss.

All actions share v and all states share u, so that sparse rewards of many states speak about the same few directions.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from marca_common.checkpoint import load_weights, require_fit, require_keys
from marca_common.config import Config
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator, torch_generator
from marca_measures.deviance import tweedie_deviance


class NetConfig(Config):
    """Network member of the ensemble."""

    RENAMED: ClassVar[dict[str, str]] = {"batch": "batch_size", "learning_rate": "lr"}

    members: int = Field(default=1, ge=0, description="networks per fold, each from its own seed")
    epochs: int = Field(default=4, ge=1, description="passes over the training rows")
    batch_size: int = Field(default=4096, ge=1, description="rows per update")
    lr: float = Field(default=0.01, gt=0, description="peak rate of Adam; rises for a tenth, then falls")
    embedding: int = Field(default=16, ge=1, description="width of each state column's embedding")
    hidden: int = Field(default=64, ge=1, description="width of the hidden layers")
    rank: int = Field(default=16, ge=1, description="directions shared by states and actions")
    tweedie_power: float = Field(default=1.5, gt=1, lt=2, description="variance power of the Tweedie loss")
    weight_decay: float = Field(default=1e-5, ge=0, description="decoupled weight decay")
    unseen: float = Field(default=0.02, ge=0, lt=1, description="share of category codes replaced by 'unseen'")


class LowRankNet(nn.Module):
    """log expected revenue (in units of the mean) of states × joint actions."""

    def __init__(self, sizes: list[int], numbers: int, shape: tuple[int, ...], config: NetConfig) -> None:
        super().__init__()
        self.shape, self.rank = shape, config.rank
        width = config.embedding * len(sizes) + numbers
        self.embeddings = nn.ModuleList(nn.Embedding(size, config.embedding) for size in sizes)
        self.state = nn.Sequential(
            nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.rank + 1)
        )
        actions = np.stack(np.unravel_index(np.arange(int(np.prod(shape))), shape), axis=1)
        one_hot = np.concatenate([np.eye(size)[actions[:, j]] for j, size in enumerate(shape)], axis=1)
        self.register_buffer("actions", torch.tensor(one_hot, dtype=torch.float32), persistent=False)
        self.action = nn.Sequential(
            nn.Linear(one_hot.shape[1], config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.rank + 1)
        )

    def state_side(self, codes: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """b (M,) and u (M, rank)."""
        parts = [embedding(codes[:, j]) for j, embedding in enumerate(self.embeddings)]
        out = self.state(torch.cat([*parts, numbers], dim=1))  # (M, rank + 1)
        return out[:, 0], out[:, 1:]

    def action_side(self) -> tuple[Tensor, Tensor]:
        """c (A,) and v (A, rank)."""
        out = self.action(self.actions)
        return out[:, 0], out[:, 1:] / self.rank**0.5

    def forward(self, codes: Tensor, numbers: Tensor, joint: Tensor) -> Tensor:
        """Log mean of each row's own action (M,)."""
        b, u = self.state_side(codes, numbers)
        c, v = self.action_side()
        return b + c[joint] + (u * v[joint]).sum(dim=1)


class NetModel:
    """A fitted network with its encoder and scale."""

    def __init__(self, net: LowRankNet, encoder: StateEncoder, scale: float, config: NetConfig) -> None:
        self.net, self.encoder, self.scale, self.config = net, encoder, scale, config

    @torch.inference_mode()
    def values(self, states: pd.DataFrame) -> np.ndarray:
        """Expected revenue of every joint action, float32 (S, A)."""
        codes, numbers = self.encoder.transform(states)
        b, u = self.net.state_side(torch.from_numpy(codes), torch.from_numpy(numbers))
        c, v = self.net.action_side()
        return (self.scale * torch.exp(b[:, None] + c[None] + u @ v.T)).numpy()

    @torch.inference_mode()
    def rows(self, frame: pd.DataFrame, spec: RequestSpec) -> np.ndarray:
        """Expected revenue of each row's own state and action, float64 (M,)."""
        codes, numbers = self.encoder.transform(frame)
        joint = torch.from_numpy(spec.joint_index(frame))
        return np.asarray(
            self.scale * np.exp(self.net(torch.from_numpy(codes), torch.from_numpy(numbers), joint).double().numpy())
        )

    def payload(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint."""
        return {
            "net": self.net.state_dict(),
            "encoder": self.encoder.to_dict(),
            "scale": self.scale,
            "config": self.config.model_dump(),
            "shape": list(self.net.shape),
        }

    @classmethod
    def from_payload(cls, payload: dict[str, Any], spec: RequestSpec) -> NetModel:
        """What ``payload`` described; content that does not fit the spec or itself is a UserError."""
        require_keys(payload, {"net", "encoder", "scale", "config", "shape"})
        known = {NetConfig.RENAMED.get(key, key): value for key, value in payload["config"].items()}
        config, encoder = NetConfig.model_validate(known), StateEncoder.from_dict(payload["encoder"], spec.state)
        if tuple(payload["shape"]) != spec.shape or not payload["scale"] > 0:
            raise UserError(
                f"shape {payload['shape']}, scale {payload['scale']}; expected {list(spec.shape)} and money"
            )
        build = partial(LowRankNet, encoder.sizes, len(encoder.means), spec.shape, config)
        require_fit(build, payload["net"])
        net = build()
        load_weights(net, payload["net"])
        return cls(net.eval(), encoder, payload["scale"], config)


def fit_net(frame: pd.DataFrame, spec: RequestSpec, config: NetConfig, seed: int, name: str) -> NetModel:
    """Fit on the rows of a request log; ``name`` separates the members' random streams."""
    encoder = StateEncoder.fit(frame, spec.state, name)
    codes, numbers = (torch.from_numpy(part) for part in encoder.transform(frame))
    joint, reward = torch.from_numpy(spec.joint_index(frame)), torch.from_numpy(frame[spec.reward].to_numpy(np.float32))
    scale = float(reward.double().mean())
    generator, order = torch_generator(seed, "nets", name), numpy_generator(seed, "nets", name, "order")
    with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator
        torch.default_generator.manual_seed(generator.initial_seed())
        net = LowRankNet(encoder.sizes, len(encoder.means), spec.shape, config)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(frame) // config.batch_size)
    total = steps + 1 if steps != 9 else 11  # of 10 steps a tenth is one, over whose length less one torch divides
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=total, pct_start=0.1)
    for _ in range(config.epochs):
        for rows in torch.split(torch.from_numpy(order.permutation(len(frame))), config.batch_size):
            hidden = torch.rand((len(rows), codes.shape[1]), generator=generator) < config.unseen
            log_mean = net(codes[rows].masked_fill(hidden, 0), numbers[rows], joint[rows])
            loss = tweedie_deviance(log_mean, reward[rows] / scale, config.tweedie_power).mean() / 2
            if not torch.isfinite(loss):
                raise UserError(
                    f"{name}: the loss is {float(loss.detach()):g} at step {schedule.last_epoch + 1}; try a smaller nets.lr"
                )
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return NetModel(net.eval(), encoder, scale, config)
