"""How is a trained learner used: scores of joint actions, and decisions at a price."""

from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.predictor import Predictor

__all__ = ["HullPolicy", "Predictor"]
