"""Moving averages of the weights, kept from the first step on.

The exponential one: after optimizer step n (counted from 1) the average moves by 1 - d with
d = min(decay, (1 + n) / (10 + n)), the warm-up that TensorFlow's
`ExponentialMovingAverage(num_updates)` defines. While it lasts, the average reaches back over about
the last ninth of the steps, so a run of a few hundred steps does not report its first weights.

The power-function one (arXiv:2312.02696, Section 3.1) weighs the weights after step s by s^gamma,
whatever the length of the run: its width relative to the steps so far stays the same.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each tensor once (shared ones under their first name)."""
    named, seen = {}, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[name] = tensor
    return named


Decay = Callable[[int], float]
"""Decay of the update after optimizer step n, counted from 1."""


def exponential(decay: float) -> Decay:
    """That of an exponential average with its warm-up; `decay` in [0, 1] is the limit."""
    return lambda step: min(decay, (1 + step) / (10 + step))


def power_function(exponent: float) -> Decay:
    """(1 - 1 / n)^(exponent + 1): weights after step s are weighed by s^exponent.

    The first is 0: an average of this kind forgets what it began with.
    """
    return lambda step: math.exp((exponent + 1) * math.log1p(-1 / step)) if step > 1 else 0.0


class Ema:
    """Averaged copy of a model's tensors, float32 if the weights are.

    Args:
        model: Its present weights are the start of the average; its tensors must stay the same
            objects (they do: checkpoints are copied into them).
        decay: `exponential` or `power_function`.
    """

    def __init__(self, model: nn.Module, decay: Decay) -> None:
        self.decay_at = decay
        self._current = named_tensors(model)
        self.tensors = {name: t.detach().clone() for name, t in self._current.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after optimizer step `step`, counted from 1."""
        averaged, current = [], []
        for name, tensor in self._current.items():
            if tensor.is_floating_point():
                averaged.append(self.tensors[name])
                current.append(tensor.detach())
            else:
                self.tensors[name].copy_(tensor)
        get_ema_multi_avg_fn(self.decay_at(step))(averaged, current, step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights, for as long as the context lasts; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the values of a checkpoint."""
        copy_into(self.tensors, tensors, "the averaged weights")

    def _swap(self) -> None:
        for name, tensor in self._current.items():
            tensor.data, self.tensors[name] = self.tensors[name], tensor.data
        # An autocast around this has kept bf16 copies of the weights, by tensor and not by value.
        torch.clear_autocast_cache()


@torch.no_grad()
def copy_into(targets: Mapping[str, Tensor], values: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors by name, in place, so that memory stays where torch aligned it.

    Raises:
        ValueError: If names or shapes differ; the first difference is named.
    """
    for name in sorted(targets.keys() ^ values.keys()):
        where = "is missing from" if name in targets else "is unknown to the model but in"
        raise ValueError(f"{name} {where} {what}")
    for name, target in targets.items():
        if target.shape != values[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(values[name].shape)} in {what}, "
                f"the model needs {tuple(target.shape)}"
            )
        target.copy_(values[name])
