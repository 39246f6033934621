"""Watches the attention of the last blocks, where training in bf16 becomes unstable first."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rectiflow.data.draws import Draws
from rectiflow.encoders.states import ENCODERS
from rectiflow.errors import NonFiniteError
from rectiflow.nn.attention_statistics import AttentionWatch
from rectiflow.nn.kernels import no_autocast
from rectiflow.nn.regions import uncompiled
from rectiflow.training.objectives.base import BatchSource
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.state import TrainState
from rectiflow.training.validation import own_times, to_device

NUM_SAMPLES = 8


class AttentionObserver:
    """An observer of the loop: largest logit and entropy of the last attentions (Fig. 5).

    Logits that grow and entropy that falls to 0 tell of a divergence to come, which QK norm
    prevents (arXiv:2403.03206, Section 5.3.2 and App. C.2). Held-out samples with all texts, each
    at one of the validation's times with a noise of its own: the same at every call. In
    float32, whatever the run's precision, so that what is seen is the weights' doing.

    Args:
        objective: What is trained; its present weights are watched, not their average.
        source: Held-out samples, of which the first `NUM_SAMPLES` are used.
        seed: Seed of the noise, the run's.
        num_blocks: How many of the last attentions; all, if there are fewer.
    """

    def __init__(
        self, objective: FlowObjective, source: BatchSource, seed: int, num_blocks: int
    ) -> None:
        self._objective, self._num_blocks = objective, num_blocks
        num = min(NUM_SAMPLES, source.num_samples)
        self._draws = Draws(seed ^ 0x415454, np.arange(num, dtype=np.int64))  # "ATT"
        self._batch = source.batch(self._draws.positions, self._draws)
        self._t = torch.tensor(own_times(objective.formulation)[:num])

    @torch.no_grad()
    def __call__(self, state: TrainState) -> Mapping[str, Any]:
        """`attention_logit_max` and `attention_entropy`, means over blocks, and each `_by_block`.

        Of a block, the logit is the largest of all samples, heads and tokens, and the entropy, in
        nats, their mean.

        Raises:
            NonFiniteError: If one is inf or nan.
        """
        device = next(state.model.parameters()).device
        batch = to_device(self._batch, device)
        noise = self._draws.normal("noise", batch["latent"].shape[1:])
        keep = torch.ones(len(self._draws), len(ENCODERS), dtype=torch.bool)
        with no_autocast(device), uncompiled(state.model), AttentionWatch() as watch:
            self._objective.loss_at(batch, self._t, noise, keep)
        last = watch.seen[-self._num_blocks :]
        logits, entropies = [each.logit_max for each in last], [each.entropy for each in last]
        if not math.isfinite(sum(logits) + sum(entropies)):
            raise NonFiniteError(f"the attention is not finite at step {state.step}: {last}")
        return {
            "attention_logit_max": sum(logits) / len(logits),
            "attention_logit_max_by_block": logits,
            "attention_entropy": sum(entropies) / len(entropies),
            "attention_entropy_by_block": entropies,
        }
