"""A learner of one's own: defined outside the package, named by dotted path, trained, loaded, scored and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from awrq_mixer.config import EvaluateConfig, PredictConfig, TrainConfig
from awrq_mixer.evaluate import evaluate
from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.predict import predict
from awrq_mixer.serving import Predictor
from awrq_mixer.train import train
from marca_common.config import load_config
from marca_common.errors import UserError


class OneProfile(Learner):
    """A level per category of each state column plus one effect per joint action, the same for all states."""

    metrics = ("tot",)

    def build(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "columns": nn.ModuleList([nn.Embedding(n, 1) for n in self.space.categories]),
                "actions": nn.Embedding(self.space.n_joint, 1),
            }
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        taken = (batch.actions[:, None] == self.joint).all(2).long().argmax(1)  # (B,) joint index
        raw = self.raw_table(batch.codes, batch.numbers).gather(1, taken[:, None])[:, 0]
        loss = self.fit_to(raw, batch.reward).mean()
        return loss, {"tot": loss.detach()}

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        level = torch.stack([table(codes[:, j]) for j, table in enumerate(self.online["columns"])]).sum(0)  # (S, 1)
        q: torch.Tensor = level + self.online["actions"].weight[:, 0]  # (S, A)
        return q


class Unfinished(Learner):
    """Defines no loss."""

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)


def test_it_trains_loads_scores_and_is_judged(small_world: Any, small_config: Any, tmp_path: Path) -> None:
    values = {**small_config, "learner": f"{__name__}:OneProfile", "epochs": 10, "optimiser": {"lr": 0.05}}
    trained = train(TrainConfig.model_validate(values), tmp_path / "run")
    assert trained.summary["validation_shape_gain"] > 0.01
    checkpoint = str(tmp_path / "run/best.pt")
    model = Predictor.load(checkpoint)
    assert isinstance(model.scorer, OneProfile)
    scores = predict(PredictConfig(checkpoint=checkpoint, states=values["requests"]), tmp_path / "scores").scores
    assert np.array_equal(scores.scores["q"], trained.model.values(scores.states))
    judged = evaluate(
        EvaluateConfig(checkpoint=checkpoint, requests=values["requests"], slices=["place"], buckets=10),
        tmp_path / "judged",
    ).summary
    assert judged["learner"] == values["learner"]
    assert judged["observed"]["shape_gain"] > 0.01
    assert "eta_max" not in (tmp_path / "run/metrics.csv").read_text()  # only the metrics that it names


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("awrq_mixr", r"learner: got 'awrq_mixr'; expected one of .*awrq_mixer.*lightgbm.*, or module:Class"),
        ("nowhere.to_be_found:Learner", r"learner: got 'nowhere\.to_be_found:Learner'; expected .* can be imported"),
        (f"{__name__}:Nobody", r"learner: got .*Nobody'; expected module:name that can be imported"),
        ("collections:OrderedDict", r"learner: got 'collections:OrderedDict'; expected a class derived from Learner"),
        (f"{__name__}:Unfinished", r"learner: .*Unfinished' does not define loss, raw_table"),
    ],
)
def test_a_name_that_is_no_learner_is_refused_before_any_work(name: Any, complaint: Any) -> None:
    with pytest.raises(UserError, match=complaint) as refused:
        load_config(TrainConfig, None, [f"learner={name}"])
    assert "\n" not in str(refused.value)
