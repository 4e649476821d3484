"""QMIX is VDN with a monotone mixer in place of the sum: weights from a hypernetwork of the state, made positive by
their absolute value, ELU between the layers."""

from __future__ import annotations

from torch import nn

from awrq_mixer.learners.vdn import VDN
from awrq_mixer.networks.mixers import MonotonicMixer


class QMIX(VDN):
    """Rashid et al., 2018."""

    def make_mixer(self) -> nn.Module:
        """Absolute weights and ELU."""
        config = self.config.mixer.model_copy(update={"weights": "abs", "activation": "elu"})
        return MonotonicMixer(self.space, config, self.config.network)
