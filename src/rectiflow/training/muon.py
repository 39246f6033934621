"""Muon: a matrix moves by the orthogonal factor of its averaged gradient, many matrices at a time.

The arithmetic is that of `torch.optim.Muon` (Nesterov's momentum, five quintic Newton-Schulz
iterations in bf16, `match_rms_adamw`): a process computes the same update, bit for bit where it
multiplies matrices one by one, else to the rounding of bf16.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rectiflow.tensor_folder import local_part
from rectiflow.training.owners import Grid, Piece, Round, pieces_of, rounds_of
from rectiflow.training.settings.training import TrainingSettings

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5 in the iteration on singular values: K. Jordan's, as in torch."""

NUM_ITERATIONS = 5
SMALLEST_NORM = 1e-7
RMS_OF_ADAMW = 0.2
"""That the update is given, per unit of the rate (arXiv:2502.16982, Section 2.2)."""

CPU_BATCH_ELEMENTS = 2**14
"""Of a matrix that a CPU still multiplies faster in a batch than alone (measured: 128 x 128)."""

ROUND_ELEMENTS = {"cpu": 2**18}
"""That one process works on at once, by device: on a CPU they then stay in its cache (measured)."""

MANY_ELEMENTS = 2**26
"""The same elsewhere: 128 MiB in bf16, enough matrices to fill a GPU."""


class Muon:
    """Muon for some parameters, each of them one matrix or several stacked along the rows.

    Where processes share the work, every matrix is made orthogonal by one of them (`owners`); where
    parameters are sharded, so is the average of their gradients.

    Args:
        parameters: 2-D, by name.
        parts: Number of matrices in each.
        settings: Rate, momentum and decay.
        grid: The processes.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        parts: Mapping[str, int],
        settings: TrainingSettings,
        grid: Grid,
    ) -> None:
        self.parameters = dict(parameters)
        self.rate = settings.muon_learning_rate
        self.momenta = {n: torch.zeros_like(p.detach()) for n, p in self.parameters.items()}
        self._momentum, self._decay = settings.muon_momentum, settings.weight_decay
        self._grid, self._parts = grid, parts
        device = next((p.device.type for p in self.parameters.values()), "cpu")
        self._max_elements = ROUND_ELEMENTS.get(device, MANY_ELEMENTS)
        self._rounds: dict[tuple[str, ...], list[Round]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move the matrices that have a gradient; those of all processes must be the same."""
        moving = tuple(n for n, p in self.parameters.items() if p.grad is not None)
        if moving not in self._rounds:
            pieces = [
                piece
                for name in moving
                for piece in pieces_of(name, self.parameters[name].shape, self._parts[name])
            ]
            self._rounds = {moving: rounds_of(pieces, self._grid, self._max_elements)}
        for each in self._rounds[moving]:
            self._move(each)

    def _move(self, each: Round) -> None:
        grads = [self._rows(self.parameters[p.name].grad, p) for p in each.pieces]
        momenta = [self._rows(self.momenta[p.name], p) for p in each.pieces]
        torch._foreach_lerp_(momenta, grads, 1 - self._momentum)  # pyright: ignore[reportPrivateImportUsage]
        ahead = torch._foreach_lerp(grads, momenta, self._momentum)  # pyright: ignore[reportPrivateImportUsage]
        updates = each.apply(orthogonal, [values.bfloat16() for values in ahead])
        weights = [self._rows(self.parameters[p.name], p) for p in each.pieces]
        torch._foreach_mul_(weights, 1 - self.rate * self._decay)  # pyright: ignore[reportPrivateImportUsage]
        for piece, weight, update in zip(each.pieces, weights, updates, strict=True):
            scale = RMS_OF_ADAMW * math.sqrt(max(piece.shape))
            weight.add_(update, alpha=-self.rate * scale)

    def _rows(self, tensor: Tensor | None, piece: Piece) -> Tensor:
        """The rows of a matrix that this process holds, of its parameter or what is shaped so."""
        assert tensor is not None
        first, num = piece.held_by(self._grid.shard, self._grid.num_shards)
        return local_part(tensor).narrow(0, first, num)


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The orthogonal factor U V^T of each matrix U S V^T, its singular values within about 0.5-1.5.

    Args:
        matrices: bf16; those of equal sides are multiplied as one batch, except big ones on a CPU.

    Returns:
        bf16, of the same shapes.
    """
    found: list[Tensor | None] = [None] * len(matrices)
    batches: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, matrix in enumerate(matrices):
        is_single = matrix.device.type == "cpu" and matrix.numel() > CPU_BATCH_ELEMENTS
        batches[(place,) if is_single else (-1, *sorted(matrix.shape))].append(place)
    for places in batches.values():
        wide = [_wide(matrices[place]) for place in places]
        norms = torch.stack(torch._foreach_norm([matrices[k] for k in places]))  # pyright: ignore[reportPrivateImportUsage]
        if len(places) == 1:
            done = [_iterated(wide[0] / norms[0].clamp(min=SMALLEST_NORM))]
        else:
            batch = torch.stack(wide).div_(norms.clamp(min=SMALLEST_NORM)[:, None, None])
            done = list(_iterated(batch))
        for place, values in zip(places, done, strict=True):
            found[place] = values.mT if _is_tall(matrices[place]) else values
    return [each for each in found if each is not None]


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if _is_tall(matrix) else matrix


def _iterated(x: Tensor) -> Tensor:
    """Newton-Schulz iterations on one matrix or a batch, wide, of norms at most 1."""
    a, b, c = COEFFICIENTS
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
