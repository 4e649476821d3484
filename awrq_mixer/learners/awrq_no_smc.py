"""AWRQ-Mixer without SMC: absolute values in place of softplus in the mixer (Table 2)."""

from __future__ import annotations

from torch import nn

from awrq_mixer.learners.awrq_mixer import AWRQMixer
from awrq_mixer.networks.mixers import MonotonicMixer


class AWRQNoSMC(AWRQMixer):
    """Mixing weights |W̃|."""

    def make_mixer(self) -> nn.Module:
        """As configured, but absolute."""
        config = self.config.mixer.model_copy(update={"weights": "abs"})
        return MonotonicMixer(self.space, config, self.config.network)
