"""What is advised: the fastest that fits, the simpler of equals, and why."""

from dataclasses import replace

import pytest

from rectiflow.nn.releases import RELEASES
from rectiflow.planning.advice import Cluster, advised, reasons, ways_of
from rectiflow.planning.gpus import GPUS, gpu_named
from rectiflow.planning.workload import workload_of
from tests.planning.made_up import gpu, workload


def of(num_gpus, batch, **changes):
    return Cluster(gpu=gpu(**changes), num_gpus=num_gpus, batch=batch)


def test_the_largest_pass_that_fits_is_taken():
    # 22 016 bytes without activations, of which a single pass saves the 4000 of its gradients.
    # 0.9 of 29 700 are 26 730: too few for one pass of 10 (27 016), enough for 5 samples (26 516).
    (way,) = ways_of(workload(checkpointed_bytes=None), of(1, 10, memory_bytes=29_700))
    assert (way.strategy, way.microbatch, way.num_microbatches) == ("single", 5, 2)
    (way,) = ways_of(workload(checkpointed_bytes=None), of(1, 10, memory_bytes=30_100))
    assert (way.microbatch, way.num_microbatches) == (10, 1)
    assert way.fits
    assert not way.is_checkpointed
    assert way.images_per_second == pytest.approx(10 / way.step.seconds)


def test_blocks_are_computed_anew_only_where_memory_asks_for_it():
    (roomy,) = ways_of(workload(), of(1, 10))
    (tight,) = ways_of(workload(), of(1, 10, memory_bytes=25_000))
    assert (roomy.is_checkpointed, tight.is_checkpointed) == (False, True)
    assert tight.step.computing > roomy.step.computing


def test_a_given_pass_is_taken_whether_it_fits_or_not():
    cluster = replace(of(1, 10, memory_bytes=25_000), microbatch=4, is_checkpointed=False)
    (way,) = ways_of(workload(), cluster)
    assert (way.microbatch, way.num_microbatches, way.is_checkpointed) == (4, 3, False)
    assert way.memory["activations"] == 4 * 900
    assert not way.fits
    with pytest.raises(ValueError, match=r"nothing fits: at 4 samples a pass a GPU would hold"):
        advised([way], 1)


def test_ways_of_a_cluster_are_those_that_its_nodes_allow():
    names = {n: [way.strategy for way in ways_of(workload(), of(n, 48))] for n in (1, 4, 6, 8)}
    assert names[1] == ["single"]
    assert names[4] == names[6] == ["single", "ddp", "fsdp"]
    assert names[8] == ["single", "ddp", "hsdp", "fsdp"]


def test_of_ways_that_take_as_long_the_simplest_is_advised():
    ways = ways_of(workload(), of(8, 64, bandwidth=1e9))
    assert advised(ways, 8).strategy == "ddp"
    assert advised(ways, 8, "fsdp").strategy == "fsdp"


def test_a_network_that_takes_no_time_is_not_sharded():
    tiny = ways_of(workload(), of(8, 64, peak_flops=1e7, bandwidth=1e7))
    fastest = min(tiny[1:], key=lambda way: way.step.seconds)
    assert advised(tiny, 8).strategy == "ddp" != fastest.strategy


def test_what_does_not_fit_is_not_advised_and_named_as_the_reason():
    ways = ways_of(workload(), of(8, 64, memory_bytes=20_000, bandwidth=1e9))
    best = advised(ways, 8)
    assert best.strategy == "hsdp"
    assert "ddp would hold 0.0 GB" in reasons(best, ways, 18_000)
    with pytest.raises(ValueError, match="nothing fits: at one sample a pass"):
        advised(ways_of(workload(), of(8, 64, memory_bytes=1000)), 8)


def test_a_way_that_the_cluster_has_not_is_refused():
    with pytest.raises(ValueError, match="hsdp does not suit 4 GPUs"):
        advised(ways_of(workload(), of(4, 64)), 4, "hsdp")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_gpus": 0}, "gpus must be >= 1, got 0"),
        ({"batch": 10}, "batch of 10 on 4 GPUs"),
        ({"efficiency": 0.0}, r"efficiency must be in \(0, 1\], got 0.0"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(changes, message):
    settings = {"gpu": gpu(), "num_gpus": 4, "batch": 8} | changes
    with pytest.raises(ValueError, match=message):
        Cluster(**settings)


def test_an_unknown_gpu_names_the_nearest():
    with pytest.raises(ValueError, match="unknown gpu 'h20'; did you mean h200"):
        gpu_named("h20")


def test_every_gpu_tells_where_its_numbers_are_from_and_none_is_out_of_proportion():
    for device in GPUS.values():
        assert len(device.source) > 40
        if device.name != "cpu":
            assert 100 < device.peak_flops / device.bandwidth < 500  # FLOPs per byte
            assert device.nic <= device.link < device.bandwidth


def test_the_papers_largest_is_sharded_and_its_two_billion_fits_whole():
    """d38 holds 161 GB of weights, gradients and averages; an H200 has 141."""
    large, small = (workload_of(RELEASES[f"mmdit-d{d}"], 32, (77, 77)) for d in (38, 24))
    cluster = Cluster(gpu=gpu_named("h200"), num_gpus=256, batch=16_384)
    fits = {way.strategy: way.fits for way in ways_of(large, cluster)}
    assert fits == {"single": False, "ddp": False, "hsdp": True, "fsdp": True}
    assert all(way.fits for way in ways_of(small, cluster))
