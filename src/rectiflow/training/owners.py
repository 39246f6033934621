"""Matrices dealt out to the processes of a job: each is worked on whole by one of them, its owner.

Processes form a grid of replicas, which hold the same, by shards, which hold some rows of every
parameter. A piece travels to its owner within the owner's replica, and what became of it travels
back by the same way and on to the other replicas. All of it is in bf16.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Shard

from rectiflow.training.ranks import Ranks


@dataclass(frozen=True)
class Grid:
    """This process among replicas and shards.

    Args:
        num_replicas: Processes that hold the same rows.
        num_shards: Processes that the rows are split over.
        replica: Of this process.
        shard: Of this process.
        replicas: The group of those that hold the same rows; None if there is one.
        shards: The group of those that together hold all rows; None if there is one.
    """

    num_replicas: int = 1
    num_shards: int = 1
    replica: int = 0
    shard: int = 0
    replicas: ProcessGroup | None = None
    shards: ProcessGroup | None = None

    @classmethod
    def of(cls, ranks: Ranks) -> "Grid":
        """The grid of a job."""
        mesh = ranks.mesh
        if mesh is None:
            return cls()
        names = mesh.mesh_dim_names or ()

        def along(name: str) -> tuple[int, int, ProcessGroup | None]:
            if name not in names:
                return 1, 0, None
            group = mesh.get_group(name)
            return dist.get_world_size(group), mesh.get_local_rank(name), group

        num_replicas, replica, replicas = along("replicate")
        num_shards, shard, shards = along("shard")
        return cls(num_replicas, num_shards, replica, shard, replicas, shards)

    @property
    def num_owners(self) -> int:
        return self.num_replicas * self.num_shards

    def check(self, name: str, tensor: Tensor) -> None:
        """Refuse a tensor that does not lie as the grid says.

        Raises:
            ValueError: If it is not split along its rows just where there are shards.
        """
        split = isinstance(tensor, DTensor) and tensor.placements[-1] == Shard(0)
        if split != (self.shards is not None):
            held = f"{tensor.placements}" if isinstance(tensor, DTensor) else "whole"
            must = "split along its rows" if self.shards is not None else "whole"
            raise ValueError(f"{name} must be {must} on a grid like this, it is {held}")


@dataclass(frozen=True)
class Piece:
    """A matrix that is some rows of a parameter, or all of them.

    Args:
        name: Of the parameter.
        height: Rows of the parameter.
        first: First row of the matrix within it.
        shape: Rows and columns of the matrix.
    """

    name: str
    height: int
    first: int
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def cost(self) -> int:
        """Multiplications of one product with its own transpose."""
        return self.size * min(self.shape)

    def held_by(self, shard: int, num_shards: int) -> tuple[int, int]:
        """First row within the shard's part of the parameter, and number of rows, of this matrix.

        FSDP2 cuts as `torch.chunk`: parts of equal height, the last ones less high or empty.
        """
        part = math.ceil(self.height / num_shards)
        low, high = min(shard * part, self.height), min((shard + 1) * part, self.height)
        start, stop = max(low, self.first), min(high, self.first + self.shape[0])
        return (start - low, stop - start) if start < stop else (0, 0)


def pieces_of(name: str, shape: Sequence[int], num: int) -> list[Piece]:
    """The `num` matrices that a parameter stacks along its rows, cut as `torch.chunk` cuts."""
    height, width = shape
    part = math.ceil(height / num)
    return [
        Piece(name, height, first, (min(part, height - first), width))
        for first in range(0, height, part)
    ]


def rounds_of(pieces: Sequence[Piece], grid: Grid, max_elements: int) -> list["Round"]:
    """All pieces, the dearest first, in rounds that bound what an owner holds at once.

    Args:
        pieces: In the order in which processes agree.
        grid: The processes.
        max_elements: Of the pieces of one owner in a round, on average, unless one has more.
    """
    rounds: list[list[Piece]] = [[]]
    elements = 0
    for piece in sorted(pieces, key=lambda piece: (-piece.cost, piece.shape)):
        if rounds[-1] and elements + piece.size > max_elements * grid.num_owners:
            rounds.append([])
            elements = 0
        rounds[-1].append(piece)
        elements += piece.size
    return [Round(tuple(each), grid) for each in rounds if each]


@dataclass(frozen=True)
class Round:
    """Pieces that are worked on at once, each by its owner.

    Args:
        pieces: In the order of `apply`, the dearest first.
        grid: Who there is.
    """

    pieces: tuple[Piece, ...]
    grid: Grid

    @cached_property
    def owned(self) -> Mapping[tuple[int, int], tuple[int, ...]]:
        """Places of pieces by owner (replica, shard): each goes to who has the least to do."""
        owners = [
            (replica, shard)
            for shard in range(self.grid.num_shards)
            for replica in range(self.grid.num_replicas)
        ]
        dealt: dict[tuple[int, int], list[int]] = {owner: [] for owner in owners}
        load = dict.fromkeys(owners, 0)
        for place, piece in enumerate(self.pieces):
            owner = min(owners, key=load.__getitem__)
            dealt[owner].append(place)
            load[owner] += piece.cost
        return {owner: tuple(places) for owner, places in dealt.items()}

    def apply(
        self, work: Callable[[Sequence[Tensor]], Sequence[Tensor]], rows: Sequence[Tensor]
    ) -> list[Tensor]:
        """What `work` makes of the whole matrices, of each the rows that this process holds.

        Args:
            work: Matrices in bf16 to as many of the same shapes; each owner calls it on its own.
            rows: Of each piece, the rows held here, bf16, (rows held, columns).
        """
        grid = self.grid
        if grid.num_owners == 1:
            return list(work(rows))
        flat = self._return(work(self._collect(rows)), rows[0])
        found: dict[int, Tensor] = {}
        for replica, part in enumerate(self._spread(flat)):
            places = self._order(replica)
            parts = part.split([self._num_held(place, grid.shard) for place in places])
            for place, values in zip(places, parts, strict=True):
                found[place] = values.view(-1, self.pieces[place].shape[1])
        return [found[place] for place in range(len(self.pieces))]

    @cached_property
    def _mine(self) -> tuple[int, ...]:
        return self.owned[self.grid.replica, self.grid.shard]

    def _order(self, replica: int) -> list[int]:
        """Places of the pieces that a replica owns, by owner."""
        return [k for shard in range(self.grid.num_shards) for k in self.owned[replica, shard]]

    def _num_held(self, place: int, shard: int) -> int:
        piece = self.pieces[place]
        return piece.held_by(shard, self.grid.num_shards)[1] * piece.shape[1]

    @cached_property
    def _going(self) -> list[int]:
        """Elements that this process holds of the matrices of each owner in its replica."""
        grid = self.grid
        return [
            sum(self._num_held(k, grid.shard) for k in self.owned[grid.replica, shard])
            for shard in range(grid.num_shards)
        ]

    @cached_property
    def _coming(self) -> list[int]:
        """Elements that each process of the replica holds of this one's matrices."""
        return [
            sum(self._num_held(k, shard) for k in self._mine)
            for shard in range(self.grid.num_shards)
        ]

    def _collect(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """The matrices that this process owns, whole."""
        grid = self.grid
        if grid.shards is None:
            return [rows[place] for place in self._mine]
        going = [rows[place].reshape(-1) for place in self._order(grid.replica)]
        sent = torch.cat([*going, rows[0].new_empty(0)])
        parts = _exchange(sent, self._going, self._coming, grid.shards).split(self._coming)
        held = [
            part.split([self._num_held(k, shard) for k in self._mine])
            for shard, part in enumerate(parts)
        ]
        return [
            torch.cat([held[shard][i] for shard in range(grid.num_shards)]).view(
                self.pieces[place].shape
            )
            for i, place in enumerate(self._mine)
        ]

    def _return(self, matrices: Sequence[Tensor], like: Tensor) -> Tensor:
        """Of all that this replica owns the rows held here, one after the other by `_order`."""
        shards = range(self.grid.num_shards)
        cut = [
            matrix.reshape(-1).split([self._num_held(place, shard) for shard in shards])
            for place, matrix in zip(self._mine, matrices, strict=True)
        ]
        sent = [parts[shard] for shard in shards for parts in cut]
        flat = torch.cat([*sent, like.new_empty(0)])
        return _exchange(flat, self._coming, self._going, self.grid.shards)

    def _spread(self, flat: Tensor) -> list[Tensor]:
        """By replica, what `_return` gave there."""
        grid = self.grid
        if grid.replicas is None:
            return [flat]
        sizes = [
            sum(self._num_held(place, grid.shard) for place in self._order(replica))
            for replica in range(grid.num_replicas)
        ]
        found = list(flat.new_empty(grid.num_replicas, max(sizes)))
        if max(sizes):
            padded = torch.cat([flat, flat.new_zeros(max(sizes) - len(flat))])
            dist.all_gather([_bytes(part) for part in found], _bytes(padded), grid.replicas)
        return [part[:size] for part, size in zip(found, sizes, strict=True)]


def _exchange(
    flat: Tensor, going: list[int], coming: list[int], group: ProcessGroup | None
) -> Tensor:
    """What the others of the group send, in their order; `going` and `coming` count elements."""
    if group is None:
        return flat
    found = flat.new_empty(sum(coming))
    num = flat.element_size()
    dist.all_to_all_single(
        _bytes(found), _bytes(flat), [num * n for n in coming], [num * n for n in going], group
    )
    return found


def _bytes(tensor: Tensor) -> Tensor:
    """The same memory as bytes, which every backend can send."""
    return tensor.view(torch.uint8)
