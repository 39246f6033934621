"""Optimizers: AdamW, or Muon for the matrices of the blocks (not modulations) and AdamW else."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rectiflow.tensor_folder import local_part
from rectiflow.training.muon import Muon
from rectiflow.training.objectives.base import Objective
from rectiflow.training.owners import Grid
from rectiflow.training.ranks import ALONE, Ranks
from rectiflow.training.settings.training import TrainingSettings


class Optimizers:
    """The optimizers of one objective behind one step, with their state as named tensors.

    Muon makes the update of a matrix orthogonal, so matrices that are merely stored as one
    (queries, keys and values) are told apart. Where parameters are sharded (DTensors), so are the
    running averages; names and global shapes do not depend on the number of processes.

    Args:
        objective: Its model, and the split of its parameters; already sharded where it is to be.
        settings: Rates and constants.
        ranks: The processes of the job.

    Raises:
        ValueError: If `matrices` of the objective names no trained parameter, or a trained
            parameter is whole where the job shards, or the reverse.
    """

    def __init__(
        self, objective: Objective, settings: TrainingSettings, ranks: Ranks = ALONE
    ) -> None:
        trained = {n: p for n, p in objective.model.named_parameters() if p.requires_grad}
        parts = objective.matrices() if settings.optimizer == "muon" else {}
        unknown = parts.keys() - trained.keys()
        if unknown:
            raise ValueError(f"matrices must name trained parameters, got {sorted(unknown)[0]}")
        self._grid = Grid.of(ranks)
        for name, parameter in trained.items():
            self._grid.check(name, parameter)
        self._parameters = list(trained.values())
        self._muon = Muon({n: trained[n] for n in parts}, parts, settings, self._grid)
        self._muon_peak = self._muon.rate
        self._rest = {n: p for n, p in trained.items() if n not in parts}
        self._adamw = _adamw(self._rest, settings) if self._rest else None
        self._adamw_peak = settings.learning_rate

    def set_rate(self, factor: float) -> None:
        """Set the learning rates to `factor` of their peaks."""
        self._muon.rate = self._muon_peak * factor
        if self._adamw is not None:
            for group in self._adamw.param_groups:
                group["lr"] = self._adamw_peak * factor

    @torch.no_grad()
    def clip(self, max_norm: float) -> Tensor:
        """Total norm of the gradient before clipping it to `max_norm` (0 clips nothing).

        Of the whole gradient, the same in every process, however it is sharded.
        """
        grads = [local_part(p.grad) for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(grads)
        if self._grid.shards is not None:
            squared = norm.square()
            dist.all_reduce(squared, group=self._grid.shards)
            norm = squared.sqrt()
        # Read at once on a CPU only: the host waits for other devices once a step.
        is_within = norm.device.type == "cpu" and bool(norm + _CLIP_EPS <= max_norm)
        if max_norm and not is_within:
            nn.utils.clip_grads_with_norm_(self._parameters, max_norm, norm)
        return norm

    def step(self) -> None:
        """Move the weights along their gradients, then forget the gradients."""
        if self._adamw is not None:
            self._adamw.step()
        self._muon.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """All running averages under `<parameter>/<name>`, there from the start.

        Checkpoints are copied into them.
        """
        found = {f"{name}/momentum_buffer": tensor for name, tensor in self._muon.momenta.items()}
        for name, parameter in self._rest.items():
            assert self._adamw is not None
            for key, value in self._adamw.state[parameter].items():
                found[f"{name}/{key}"] = value
        return found


_CLIP_EPS = 1e-6  # of torch's clipping: up to there its factor is 1


def _adamw(named: Mapping[str, nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    matrices = [p for name, p in named.items() if p.ndim >= 2 and not _is_vector(name)]
    vectors = [p for name, p in named.items() if p.ndim < 2 or _is_vector(name)]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )
    for parameter in named.values():
        # What torch would make in the first step, so that a checkpoint can be read before it.
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter.detach()),
            "exp_avg_sq": torch.zeros_like(parameter.detach()),
        }
    return optimizer


def _is_vector(name: str) -> bool:
    """Whether a parameter is no matrix, however it is stored, and so does not decay.

    Scales of norms (that of queries and keys is 2-D), and diffusers' tables of modulations and
    learned position.
    """
    return any(word in name for word in ("norm", "scale_shift_table", "positional_embedding"))
