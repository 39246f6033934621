"""Matrices travel to their owners and back: every grid gives what one process gives."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from torch import nn

from rectiflow.training.owners import Grid, pieces_of, rounds_of

SHAPES = {"qkv": ((21, 4), 3), "up": ((10, 3), 1), "down": ((2, 9), 1), "out": ((4, 4), 2)}


class Group(dist.ProcessGroup):
    """Threads that exchange as the processes of a group do: a stand-in for gloo and NCCL."""

    def __init__(self, rank, meeting):
        super().__init__(rank, meeting.parties)
        self.place, self.meeting = rank, meeting

    def offers(self, values):
        """What every thread offers, by rank."""
        self.meeting.offered[self.place] = values
        self.meeting.wait()
        offered = dict(self.meeting.offered)
        self.meeting.wait()
        return [offered[rank] for rank in range(self.meeting.parties)]


def meeting_of(num):
    meeting = threading.Barrier(num, timeout=10)
    meeting.offered = {}
    return meeting


def all_to_all_single(output, values, coming, going, group):
    parts = [each[group.place] for each in group.offers(values.split(going))]
    assert [len(part) for part in parts] == coming
    output.copy_(torch.cat(parts))


def all_gather(outputs, values, group):
    for output, given in zip(outputs, group.offers(values), strict=True):
        output.copy_(given)


def grids(num_replicas, num_shards):
    replicas = [meeting_of(num_replicas) for _ in range(num_shards)]
    shards = [meeting_of(num_shards) for _ in range(num_replicas)]
    for replica in range(num_replicas):
        for shard in range(num_shards):
            yield Grid(
                num_replicas,
                num_shards,
                replica,
                shard,
                Group(replica, replicas[shard]) if num_replicas > 1 else None,
                Group(shard, shards[replica]) if num_shards > 1 else None,
            )


@pytest.mark.parametrize(
    ("num_replicas", "num_shards"), [(1, 1), (3, 1), (1, 2), (1, 3), (2, 2), (2, 4), (1, 16)]
)
def test_every_process_holds_its_rows_of_what_the_owners_made(
    num_replicas, num_shards, monkeypatch
):
    """The work mixes rows and columns, and tells matrices and their order apart."""
    monkeypatch.setattr(dist, "all_to_all_single", all_to_all_single)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    generator = torch.Generator().manual_seed(0)
    whole = {n: torch.randn(shape, generator=generator) for n, (shape, _) in SHAPES.items()}
    whole = {name: values.bfloat16() for name, values in whole.items()}
    worked = []

    def work(matrices):
        worked.extend(tuple(matrix.flatten().tolist()) for matrix in matrices)
        return [matrix.flip(0, 1) * matrix[0, 0] for matrix in matrices]

    def held(values, piece, grid):
        padding = [values[:0]] * grid.num_shards
        part = [*values.chunk(grid.num_shards), *padding][grid.shard]
        return part.narrow(0, *piece.held_by(grid.shard, grid.num_shards))

    expected = {name: torch.cat(work(whole[name].chunk(num))) for name, (_, num) in SHAPES.items()}
    num_worked, worked[:] = len(worked), []

    def process(grid):
        pieces = [p for n, (shape, num) in SHAPES.items() for p in pieces_of(n, shape, num)]
        rounds = rounds_of(pieces, grid, 40)
        assert len(rounds) > 1 or grid.num_owners > 2
        for each in rounds:
            rows = [held(whole[piece.name], piece, grid) for piece in each.pieces]
            for piece, found in zip(each.pieces, each.apply(work, rows), strict=True):
                assert torch.equal(found, held(expected[piece.name], piece, grid)), piece

    with ThreadPoolExecutor(num_replicas * num_shards) as pool:
        for done in [pool.submit(process, grid) for grid in grids(num_replicas, num_shards)]:
            done.result()
    assert len(worked) == len(set(worked)) == num_worked


def test_weights_must_lie_as_the_processes_do():
    whole = nn.Parameter(torch.zeros(4, 4))
    Grid(num_replicas=2).check("weight", whole)
    sharded = next(grids(1, 2))
    with pytest.raises(ValueError, match="weight must be split along its rows on"):
        sharded.check("weight", whole)
