"""Where a step went wrong: the first module that is not finite, the times, the samples.

What is told costs nothing while all is well: the step is computed once more, with every module
watched, after it has failed. It is the same again, since a loss is a function of samples, draws and
weights, and the weights have not moved.
"""

import dataclasses
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectiflow.data.draws import Draws
from rectiflow.nn.regions import uncompiled
from rectiflow.tensor_folder import local_part
from rectiflow.training.metrics import NUM_TIME_BINS, time_bins
from rectiflow.training.objectives.base import Batch, Terms
from rectiflow.training.ranks import ALONE, Ranks

SPIKE_AFTER = 20
"""Steps before a gradient can be a spike."""
SPIKE_WINDOW = 100
"""Steps whose gradients it is compared with."""
_MOST_IDS = 20


@dataclass(frozen=True, slots=True)
class Part:
    """A microbatch of the step at hand.

    Args:
        batch: Its samples, where the source left them: a step's would not all fit on a GPU.
        draws: Their randomness.
        terms: Their loss, detached; on the CPU once the step is looked at.
    """

    batch: Batch
    draws: Draws
    terms: Terms

    @property
    def ids(self) -> list[str]:
        """Names of the samples; a source without them is named by position."""
        return [str(each) for each in self.batch.get("ids", self.draws.positions)]


def explain(
    what: str,
    step: int,
    where: str,
    parts: Sequence[Part],
    ranks: Ranks = ALONE,
    bad: Sequence[str] = (),
) -> str:
    """One line: what, the step, where, mean loss per tenth of time, and which samples.

    All processes call it and are told the same, of the samples of all: those whose loss is not
    finite, else those named in `bad`, else all.
    """
    heard = ranks.gather([(part.ids, part.terms.loss, part.terms.t) for part in parts])
    seen = [each for of_all in zip(*heard, strict=True) for each in of_all]
    loss = torch.cat([each[1] for each in seen])
    ids = [name for each in seen for name in each[0]]
    told = [name for name, ok in zip(ids, loss.isfinite().tolist(), strict=True) if not ok]
    told = told or list(bad) or ids
    listed = ", ".join(told[:_MOST_IDS]) + (", ..." if len(told) > _MOST_IDS else "")
    line = f"{what} at step {step}; {where}{_bins(loss, [t for *_, t in seen if t is not None])}"
    return f"{line}; {len(told)} samples: {listed}"


def _bins(loss: Tensor, times: Sequence[Tensor]) -> str:
    if not times:
        return ""
    tenth = torch.from_numpy(time_bins(torch.cat(list(times))))
    means = [loss[tenth == k].mean().item() for k in range(NUM_TIME_BINS)]
    told = [f"{mean:.4g}" if (tenth == k).any() else "-" for k, mean in enumerate(means)]
    return f"; mean loss per tenth of t: {' '.join(told)}"


def first_bad_output(
    model: nn.Module, part: Part, compute: Callable[[], Any], ranks: Ranks = ALONE
) -> str:
    """Name the first weight, entry of the batch or module's output that is not finite.

    All processes call it, and are told what the first that has something to tell has found.

    Args:
        model: Whose modules are watched.
        part: The microbatch.
        compute: Computes its loss.
        ranks: The processes of the job.
    """
    if before := _first(ranks.gather(_bad_before(model, part))):
        return before
    bad: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not _is_finite(output):
                bad.append(name)

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules()]
    try:
        with torch.no_grad(), uncompiled(model):
            compute()
    finally:
        _remove(handles)
    where = f"first not finite: the output of {bad[0] or 'the model'}" if bad else ""
    return _first(ranks.gather(where)) or "every module's output is finite"


def first_bad_gradient(
    model: nn.Module, parts: Sequence[Part], descend: Callable[[Part], Any], ranks: Ranks = ALONE
) -> tuple[str, list[str]]:
    """Name the module in which a gradient first stops being finite, and samples that it is of.

    It is the first whose own gradient comes in finite and leaves otherwise; without one, the first
    weight, in the order of the backward pass, whose gradient is not finite. All processes call it
    and are told the same.

    Args:
        model: Whose modules are watched; its gradients are gone afterwards.
        parts: The microbatches.
        descend: Computes the loss of one and its gradient.
        ranks: The processes of the job.
    """
    told, bad = "", []
    for part in parts:
        model.zero_grad()
        where = _first(ranks.gather(_bad_before(model, part)))
        mine = "" if where else _watched_backward(model, lambda p=part: descend(p))
        # Of a model that is split, the gradient's parts are of all samples: hooks see more.
        is_bad = bool(mine or not all(_is_finite(p.grad) for p in model.parameters()))
        heard = ranks.gather((is_bad, mine, part.ids))
        if where or any(each[0] for each in heard):
            guilty = [each for each in heard if each[1]] or [each for each in heard if each[0]]
            bad += [name for each in guilty or heard for name in each[2]]
            told = told or where or _first([each[1] for each in heard])
    model.zero_grad()
    return told or "every microbatch's gradient is finite, but not their sum", bad


def _first(told: Sequence[str]) -> str:
    return next((each for each in told if each), "")


def _watched_backward(model: nn.Module, descend: Callable[[], Any]) -> str:
    modules: list[str] = []
    weights: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, leaving: Any, coming: Any) -> None:
            if _is_finite(coming) and not _is_finite(leaving):
                modules.append(name)

        return hook

    def watch_weight(name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not _is_finite(gradient):
                weights.append(name)

        return hook

    handles = [m.register_full_backward_hook(watch(name)) for name, m in model.named_modules()]
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    handles += [p.register_hook(watch_weight(name)) for name, p in trained]
    try:
        with warnings.catch_warnings(), uncompiled(model):
            # That a first module's inputs need no gradient.
            warnings.simplefilter("ignore", UserWarning)
            descend()
    finally:
        _remove(handles)
    if modules:
        return f"first not finite: the gradient within {modules[0] or 'the model'}"
    return f"first not finite: the gradient of {weights[0]}" if weights else ""


def spike_of(norm: float, norms: Sequence[float], factor: float) -> str | None:
    """Tell of a gradient that is more than `factor` times the median of those before it.

    Args:
        norm: Of the gradient at hand.
        norms: Of those before it, up to `SPIKE_WINDOW`.
        factor: From `training.guard.spike_factor`; 0 finds none.
    """
    if not factor or len(norms) < SPIKE_AFTER:
        return None
    median = statistics.median(norms)
    if norm <= factor * median:
        return None
    return (
        f"the gradient's norm {norm:.4g} is {norm / median:.4g} times the median of the "
        f"{len(norms)} steps before it, training.guard.spike_factor allows {factor:g}"
        if median
        else f"the gradient's norm is {norm:.4g} after {len(norms)} steps of mostly 0"
    )


def largest_gradient(model: nn.Module, ranks: Ranks = ALONE) -> str:
    """Name the weight with the largest part of the gradient; all processes call it."""
    norms = {
        name: float(torch.linalg.vector_norm(local_part(p.grad), dtype=torch.float64))
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    squares = ranks.total(np.array(list(norms.values())) ** 2)
    most = int(squares.argmax())
    return f"most of it in {list(norms)[most]}, {squares[most] / squares.sum():.0%} of its square"


def _bad_before(model: nn.Module, part: Part) -> str:
    for name, weight in model.named_parameters():
        if not _is_finite(weight):
            return f"first not finite: the weight {name}"
    for name, entry in part.batch.items():
        if not _is_finite(entry):
            return f"first not finite: {name} of the batch"
    return ""


def _is_finite(value: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a module's output or a batch's entry."""
    if isinstance(value, Tensor):
        yield local_part(value.detach())
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _remove(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()
