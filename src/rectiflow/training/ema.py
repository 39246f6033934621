"""Moving averages of the weights, kept from the first step on.

The exponential one: after optimizer step n (counted from 1) the average moves by 1 - d with
d = min(decay, (1 + n) / (10 + n)), the warm-up that TensorFlow's
`ExponentialMovingAverage(num_updates)` defines. While it lasts, the average reaches back over about
the last ninth of the steps, so a run of a few hundred steps does not report its first weights.

The power-function one (arXiv:2312.02696, Section 3.1) weighs the weights after step s by s^gamma,
whatever the length of the run: its width relative to the steps so far stays the same.

Of weights that are split among processes (DTensors) each process averages its part.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rectiflow.tensor_folder import local_part


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
            objects (they do: checkpoints are copied into them). Where it is to be split among
            processes, it already is.
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
                averaged.append(local_part(self.tensors[name]))
                current.append(local_part(tensor).detach())
            else:
                local_part(self.tensors[name]).copy_(local_part(tensor))
        get_ema_multi_avg_fn(self.decay_at(step))(averaged, current, step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights, for as long as the context lasts.

        Values change places, one tensor at a time, and not memory: that of a weight may be known
        to what gathers it from its parts, or to a captured graph.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self._current.items():
            current, averaged = local_part(tensor), local_part(self.tensors[name])
            before = current.clone()
            current.copy_(averaged)
            averaged.copy_(before)
        # An autocast around this has kept bf16 copies of the weights, by tensor and not by value.
        torch.clear_autocast_cache()


@torch.no_grad()
def copy_into(targets: Mapping[str, Tensor], values: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors by name, in place, so that memory stays where torch aligned it.

    Args:
        targets: Whole tensors, or DTensors, of which each process takes its part.
        values: Whole tensors, the same in every process.
        what: Where the values come from, for the message.

    Raises:
        ValueError: If names or shapes differ; the first difference is named.
    """
    refuse_misfit(targets, {name: value.shape for name, value in values.items()}, what)
    for name, target in targets.items():
        value = values[name]
        if isinstance(target, DTensor):
            there = value.to(target.device)
            mesh, places = target.device_mesh, target.placements
            value = distribute_tensor(there, mesh, places, src_data_rank=None).to_local()
        local_part(target).copy_(value)


def refuse_misfit(
    targets: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], what: str
) -> None:
    """Refuse values whose names or shapes are not those of the tensors they are for.

    Raises:
        ValueError: The first difference is named.
    """
    for name in sorted(targets.keys() ^ shapes.keys()):
        where = "is missing from" if name in targets else "is unknown to the model but in"
        raise ValueError(f"{name} {where} {what}")
    for name, target in targets.items():
        if target.shape != shapes[name]:
            raise ValueError(
                f"{name} has shape {tuple(shapes[name])} in {what}, "
                f"the model needs {tuple(target.shape)}"
            )
