"""The update of Muon: torch's own alone, the same matrices whoever owns them."""

import itertools

import pytest
import torch
from torch import nn

from rectiflow.training.muon import CPU_BATCH_ELEMENTS, Muon, orthogonal
from rectiflow.training.owners import Grid, Piece, pieces_of, rounds_of
from tests.training.tiny import tiny_settings

SMALL = {"square": (48, 48), "wide": (16, 96), "tall": (96, 16), "again": (48, 48)}
BIG = {"square": (160, 160), "wide": (128, 256), "tall": (320, 160)}
RATES = {"muon_learning_rate": 0.02, "weight_decay": 0.1, "muon_momentum": 0.9}


def weights_after(shapes, parts, num_steps, make, device="cpu"):
    """Weights after some steps along gradients of one seed, in the optimizer that `make` makes."""
    generator = torch.Generator().manual_seed(0)
    named = {
        n: nn.Parameter(torch.randn(shape, generator=generator).to(device))
        for n, shape in shapes.items()
    }
    optimizer = make(named, parts)
    for _ in range(num_steps):
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in named.items()}


def ours(named, parts):
    return Muon(named, parts, tiny_settings(**RATES), Grid())


class TorchsMuon:
    """torch's, on the matrices within each parameter."""

    def __init__(self, named, parts):
        self.split = [
            (p, [nn.Parameter(v) for v in p.detach().chunk(parts[n])]) for n, p in named.items()
        ]
        self.optimizer = torch.optim.Muon(
            [view for _, views in self.split for view in views],
            lr=RATES["muon_learning_rate"],
            weight_decay=RATES["weight_decay"],
            momentum=RATES["muon_momentum"],
            adjust_lr_fn="match_rms_adamw",
        )

    def step(self):
        for parameter, views in self.split:
            for view, grad in zip(views, parameter.grad.chunk(len(views)), strict=True):
                view.grad = grad
        self.optimizer.step()


def test_big_matrices_move_as_in_torch_bit_for_bit():
    assert all(rows * columns > CPU_BATCH_ELEMENTS for rows, columns in BIG.values())
    parts = {"square": 1, "wide": 1, "tall": 2}
    expected = weights_after(BIG, parts, 3, TorchsMuon)
    found = weights_after(BIG, parts, 3, ours)
    for name, weight in found.items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batches_of_matrices_move_as_in_torch_to_the_rounding_of_bf16(device):
    parts = {"square": 1, "wide": 1, "tall": 3, "again": 1}
    start = weights_after(SMALL, parts, 0, ours, device)
    expected = weights_after(SMALL, parts, 3, TorchsMuon, device)
    found = weights_after(SMALL, parts, 3, ours, device)
    for name, weight in found.items():
        moved, difference = expected[name] - start[name], weight - expected[name]
        assert difference.norm() < 2**-8 * moved.norm(), name


def test_a_batch_keeps_its_matrices_apart():
    """One of them 1000 times as large: each is divided by its own norm, in its own place."""
    generator = torch.Generator().manual_seed(1)
    plain = [torch.randn(shape, generator=generator).bfloat16() for shape in SMALL.values()]
    scaled = [m * s for m, s in zip(plain, (1024, 1, 2**-10, 64), strict=True)]
    for one, other in zip(orthogonal(plain), orthogonal(scaled), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2**-7)


def test_the_factor_has_the_singular_vectors_of_its_matrix():
    """U V^T is the nearest orthogonal matrix; the iteration leaves singular values of 0.7-1.2."""
    torch.manual_seed(2)
    for rows, columns in ((12, 40), (40, 12)):
        matrix = torch.randn(rows, columns)
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        (found,) = orthogonal([matrix.bfloat16()])
        middle = u.T @ found.float() @ vh.T
        assert middle.diagonal().min() > 0.6
        assert middle.diagonal().max() < 1.3
        assert (middle - middle.diagonal().diag()).abs().max() < 0.05


def test_a_matrix_of_zeros_stays_where_it_is():
    (found,) = orthogonal([torch.zeros(4, 6, dtype=torch.bfloat16)])
    assert torch.equal(found, torch.zeros(4, 6, dtype=torch.bfloat16))


def test_a_matrix_without_a_gradient_neither_moves_nor_decays():
    named = {n: nn.Parameter(torch.ones(4, 4)) for n in ("still", "moving")}
    optimizer = ours(named, {"still": 1, "moving": 1})
    for _ in range(2):
        named["moving"].grad = torch.eye(4)
        optimizer.step()
    assert torch.equal(named["still"], torch.ones(4, 4))
    assert not torch.equal(named["moving"], torch.ones(4, 4))
    assert not optimizer.momenta["still"].any()


@pytest.mark.parametrize(("height", "num"), [(12, 3), (10, 3), (7, 1)])
def test_shards_hold_every_row_once_as_chunk_cuts_them(height, num):
    parameter = torch.arange(float(height))[:, None].expand(height, 2)
    for num_shards in (1, 2, 3, 4, 16):
        shards = [*parameter.chunk(num_shards), *[parameter[:0]] * num_shards][:num_shards]
        for piece, matrix in zip(
            pieces_of("qkv", parameter.shape, num), parameter.chunk(num), strict=True
        ):
            held = [shards[k].narrow(0, *piece.held_by(k, num_shards)) for k in range(num_shards)]
            assert torch.equal(torch.cat(held), matrix)


def test_every_matrix_has_one_owner_and_owners_have_alike_to_do():
    sides = [(64, 64)] * 9 + [(64, 256)] * 5 + [(32, 32)] * 8
    pieces = [Piece(f"p{k}", rows, 0, (rows, columns)) for k, (rows, columns) in enumerate(sides)]
    for num_replicas, num_shards in itertools.product((1, 2, 3), (1, 2, 4)):
        (one,) = rounds_of(pieces, Grid(num_replicas, num_shards), 2**20)
        places = [place for owned in one.owned.values() for place in owned]
        assert sorted(places) == list(range(len(pieces)))
        loads = [sum(one.pieces[place].cost for place in owned) for owned in one.owned.values()]
        dearest = max(piece.cost for piece in pieces)
        assert max(loads) - min(loads) <= dearest
    assert [piece.name for piece in one.pieces[:5]] == [f"p{k}" for k in range(9, 14)]


def test_rounds_bound_what_an_owner_holds():
    pieces = [Piece(f"p{k}", 8, 0, (8, 8)) for k in range(7)]
    assert [len(each.pieces) for each in rounds_of(pieces, Grid(), 128)] == [2, 2, 2, 1]
    assert [len(each.pieces) for each in rounds_of(pieces, Grid(num_replicas=3), 128)] == [6, 1]
    huge = Piece("huge", 99, 0, (99, 99))
    assert [len(each.pieces) for each in rounds_of([huge, *pieces[:1]], Grid(), 128)] == [1, 1]
