"""Optimizers: AdamW, or Muon for the matrices of the blocks (not modulations) and AdamW else."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rectiflow.training.ema import copy_into
from rectiflow.training.objectives.base import Objective
from rectiflow.training.settings.training import TrainingSettings


class Optimizers:
    """The optimizers of one objective behind one step, with their state as named tensors.

    Muon makes the update of a matrix orthogonal, so matrices that are merely stored as one
    (queries, keys and values) are handed to it as views, one each.

    Args:
        objective: Its model, and the split of its parameters.
        settings: Rates and constants.
    """

    def __init__(self, objective: Objective, settings: TrainingSettings) -> None:
        trained = {n: p for n, p in objective.model.named_parameters() if p.requires_grad}
        parts = objective.matrices() if settings.optimizer == "muon" else {}
        unknown = parts.keys() - trained.keys()
        if unknown:
            raise ValueError(f"matrices must name trained parameters, got {sorted(unknown)[0]}")
        self._parameters = list(trained.values())
        self._views: list[tuple[nn.Parameter, int, list[nn.Parameter]]] = []
        self._muon_names: dict[str, nn.Parameter] = {}
        for name, num in parts.items():
            views = [nn.Parameter(view) for view in trained[name].detach().chunk(num)]
            self._views.append((trained[name], num, views))
            self._muon_names |= {f"{name}.{k}": view for k, view in enumerate(views)}
        self._adamw_names = {n: p for n, p in trained.items() if n not in parts}
        self._optimizers = [*self._adamw(settings), *self._muon(settings)]
        self._peaks = [[g["lr"] for g in each.param_groups] for each in self._optimizers]

    def set_rate(self, factor: float) -> None:
        """Set the learning rates to `factor` of their peaks."""
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def clip(self, max_norm: float) -> Tensor:
        """Total norm of the gradient before clipping it to `max_norm` (0 clips nothing)."""
        if max_norm:
            return nn.utils.clip_grad_norm_(self._parameters, max_norm)
        return nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])

    def step(self) -> None:
        """Move the weights along their gradients, then forget the gradients."""
        for parameter, num, views in self._views:
            grads = parameter.grad.chunk(num) if parameter.grad is not None else [None] * num
            for view, grad in zip(views, grads, strict=True):
                view.grad = grad
        for optimizer in self._optimizers:
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        for parameter in (*self._parameters, *self._muon_names.values()):
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """All running averages under `<parameter>/<name>`."""
        found = {}
        for optimizer in self._optimizers:
            for name, parameter in self._names(optimizer).items():
                for key, value in optimizer.state.get(parameter, {}).items():
                    found[f"{name}/{key}"] = value
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the running averages of a checkpoint.

        Raises:
            ValueError: If they belong to other parameters or another optimizer.
        """
        for optimizer in self._optimizers:
            for name, parameter in self._names(optimizer).items():
                prefix = f"{name}/"
                keys = [key for key in tensors if key.rpartition("/")[0] == name]
                # Copies in memory of torch's own, aligned as in an uninterrupted run.
                optimizer.state[parameter] = {
                    key.removeprefix(prefix): torch.empty_like(
                        tensors[key], device=parameter.device
                    )
                    for key in keys
                }
        copy_into(self.state(), tensors, "the state of the optimizer")

    def _adamw(self, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
        named = self._adamw_names.items()
        matrices = [p for name, p in named if p.ndim >= 2 and not _is_vector(name)]
        vectors = [p for name, p in named if p.ndim < 2 or _is_vector(name)]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if not groups:
            return []
        rest = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.eps}
        return [torch.optim.AdamW(groups, fused=True, **rest)]

    def _muon(self, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
        if not self._muon_names:
            return []
        return [
            torch.optim.Muon(
                list(self._muon_names.values()),
                lr=settings.muon_learning_rate,
                weight_decay=settings.weight_decay,
                momentum=settings.muon_momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        ]

    def _names(self, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
        return self._muon_names if isinstance(optimizer, torch.optim.Muon) else self._adamw_names


def _is_vector(name: str) -> bool:
    """Whether a parameter is no matrix, however it is stored, and so does not decay.

    Scales of norms (that of queries and keys is 2-D), and diffusers' tables of modulations and
    learned position.
    """
    return any(word in name for word in ("norm", "scale_shift_table", "positional_embedding"))
