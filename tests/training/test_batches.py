"""The samples of a step are the same however many threads and processes read them."""

from itertools import islice

import numpy as np
import pytest
import torch

from rectiflow.bench.stores import random_store
from rectiflow.data.manifest import ArraySpec
from rectiflow.data.store import Store
from rectiflow.data.stored import StoreSource
from rectiflow.encoders.states import TextStates
from rectiflow.training.batches import Batches
from rectiflow.training.ranks import Ranks
from rectiflow.training.roll_backs import RollBack
from rectiflow.training.validation import to_device

SHAPES = {"clip_l": (2, 3), "clip_g": (2, 4), "t5": (2, 8), "pooled_l": (3,), "pooled_g": (4,)}
ARRAYS = {
    "latent": ArraySpec(shape=(2, 2, 2), dtype="float32"),
    "log_variance": ArraySpec(shape=(2, 2, 2), dtype="float16"),
    **{name: ArraySpec(shape=shape, dtype="float16") for name, shape in SHAPES.items()},
}
BATCH_SIZE = 10


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "store"
    random_store(folder, ARRAYS, 47, 9)
    return StoreSource(Store.open(folder), seed=5, states=TextStates)


def microbatches(source, step: int, num_steps: int, parts: int = 1, **settings):
    feed = Batches(source, 11, BATCH_SIZE, parts, **settings).after(step)
    taken = list(islice(feed, num_steps * parts))
    feed.close()
    return taken


def told(microbatch) -> list[tuple]:
    """What a sample is, and what is drawn for it."""
    batch, draws = microbatch
    columns = (batch["ids"], batch["latent"].flatten(1).tolist(), batch["states"].t5[:, 0].tolist())
    return list(zip(*columns, draws.normal("noise").tolist(), strict=True))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize(("num_ranks", "parts"), [(1, 1), (1, 3), (2, 1), (4, 2), (3, 3)])
def test_a_step_holds_the_same_samples_at_any_number_of_ranks_parts_and_threads(
    source, num_workers, num_ranks, parts
):
    """Steps 3 to 6 lie in two epochs; each microbatch is dealt to the ranks in order."""
    expected = [told(each) for each in microbatches(source, 3, 4)]
    by_rank = [
        microbatches(source, 3, 4, parts, num_workers=num_workers, ranks=Ranks(rank, num_ranks))
        for rank in range(num_ranks)
    ]
    for number, samples in enumerate(expected):
        found = [
            sample
            for part in range(parts)
            for taken in by_rank
            for sample in told(taken[number * parts + part])
        ]
        assert found == samples
    sizes = {len(draws) for taken in by_rank for _, draws in taken}
    assert max(sizes) - min(sizes) <= 2


def test_a_run_goes_on_at_any_step_without_reading_what_came_before(source):
    whole = [told(each) for each in microbatches(source, 0, 9)]
    assert [told(each) for each in microbatches(source, 6, 3, num_workers=2)] == whole[6:]
    far = microbatches(source, 10**12, 1)[0][1]
    assert far.positions.tolist() == list(range(10**13, 10**13 + BATCH_SIZE))


def test_samples_of_a_failed_step_are_passed_over_on_every_rank(source):
    passed = (RollBack(4, 2, "spike"),)
    whole = [told(each) for each in microbatches(source, 0, 9)]
    ranks = [Ranks(rank, 2) for rank in range(2)]
    halves = [microbatches(source, 2, 2, ranks=each, roll_backs=passed) for each in ranks]
    found = [told(first) + told(second) for first, second in zip(*halves, strict=True)]
    assert found == whole[4:6]


def test_on_the_device_half_floats_are_the_same_numbers_in_float32(source):
    batch, _ = microbatches(source, 0, 1)[0]
    assert batch["states"].t5.dtype == torch.float16
    batch = {**batch, "mask": torch.tensor([True]), "count": torch.tensor([3]), "text": ["a"]}
    placed = to_device(batch, torch.device("cpu"))
    assert placed["states"].t5.dtype == placed["states"].pooled_l.dtype == torch.float32
    expected = batch["states"].t5.numpy().astype(np.float64)
    assert np.array_equal(placed["states"].t5.numpy().astype(np.float64), expected)
    assert placed["latent"] is batch["latent"]
    assert (placed["mask"].dtype, placed["count"].dtype) == (torch.bool, torch.int64)
    assert placed["text"] == ["a"]


@pytest.mark.gpu
def test_what_a_cuda_device_reads_is_pinned_and_arrives_whole(source):
    device = torch.device("cuda")
    for batch, _ in microbatches(source, 0, 20, num_workers=2, is_pinned=True):
        assert batch["latent"].is_pinned()
        assert batch["states"].t5.is_pinned()
        placed = to_device(batch, device)
        assert torch.equal(placed["states"].t5.cpu(), batch["states"].t5.float())
        assert torch.equal(placed["latent"].cpu(), batch["latent"])
