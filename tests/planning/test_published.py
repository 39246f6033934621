"""The cost model beside what is in print, and beside what was measured on two cores.

Sources of runs: `planning.published`. FLOPs per image: hand counts of published throughput studies,
which give the text of the last block all it has, hence a little more at 256 px.
"""

import dataclasses

import pytest

from rectiflow.jobs.subjects import subject_of
from rectiflow.nn.releases import RELEASES
from rectiflow.planning.advice import Cluster, advised, ways_of
from rectiflow.planning.forecast import paper_run
from rectiflow.planning.gpus import gpu_named
from rectiflow.planning.published import REACHED, published_runs
from rectiflow.planning.simulation import OPTIMIZER_BYTES, passes
from rectiflow.planning.workload import of_depth, workload_of

# 72 h^2 d S + 12 S^2 h d + 72 h^2 d per image, S = image and 154 text tokens, in 10^12.
HAND_COUNTS = {
    12: (0.23, 0.75, 4.16),
    18: (0.75, 2.37, 11.8),
    24: (1.75, 5.42, 25.3),
    38: (6.84, 20.6, 88.8),
}


@pytest.mark.parametrize("depth", HAND_COUNTS)
def test_training_flops_of_an_image_are_the_hand_counts(depth):
    config = of_depth(RELEASES["mmdit-d24"], depth)
    for side, expected in zip((32, 64, 128), HAND_COUNTS[depth], strict=True):
        counted = workload_of(config, side, (77, 77)).products.training_flops / 1e12
        assert counted == pytest.approx(expected, rel=0.03 if side == 32 else 0.005)


def test_no_published_run_beats_the_model_and_none_falls_far_short():
    reached = {run.name: run.reached for run in published_runs()}
    assert len(reached) == 5
    assert min(reached.values()) == pytest.approx(REACHED[0], abs=0.02)
    assert max(reached.values()) == pytest.approx(REACHED[1], abs=0.02)
    assert REACHED[1] < 1


def test_the_rates_of_two_cards_keep_their_order():
    """16 H100 against 16 A100 in print: 1.55 times; the model, which nothing disturbs: more."""
    a100, h100 = (run for run in published_runs() if run.name.startswith("SD3"))
    printed = h100.flops_per_gpu / a100.flops_per_gpu
    modelled = h100.modelled_flops_per_gpu / a100.modelled_flops_per_gpu
    assert printed == pytest.approx(1.55, abs=0.01)
    assert printed < modelled < 989.4 / 312


@pytest.mark.parametrize(
    ("depth", "fused", "eager"), [(12, 0.68, 0.40), (24, 0.80, 0.58), (38, 0.87, 0.68)]
)
def test_shares_of_the_matmul_peak_are_those_of_its_traffic(depth, fused, eager):
    """Hand estimates for an H200 by bytes per token and block, at 256 px."""
    work, device = workload_of(of_depth(RELEASES["mmdit-d24"], depth), 32, (77, 77)), "h200"
    for is_compiled, expected in ((True, fused), (False, eager)):
        found = passes(work, gpu_named(device), 1, is_compiled=is_compiled)
        share = work.products.training_flops / (found.forward + found.backward) / 790e12
        assert share == pytest.approx(expected, abs=0.06)


def test_steps_on_two_cores_take_what_was_measured():
    """docs/benchmarks.md: scenes-tiny 0.194 to 0.272 s a step; d12, batch 4, AdamW 1.63 s."""
    cluster = Cluster(gpu=gpu_named("cpu"), num_gpus=1, batch=32, is_compiled=False)
    tiny = subject_of("scenes-tiny").workload
    (way,) = ways_of(tiny, dataclasses.replace(cluster, optimizer="muon"))
    assert way.step.seconds == pytest.approx(0.22, rel=0.2)
    d12 = dataclasses.replace(of_depth(RELEASES["mmdit-d24"], 12), qk_norm=True)
    best = advised(
        ways_of(workload_of(d12, 32, (77, 77)), dataclasses.replace(cluster, batch=4)), 1
    )
    without_average = best.step.computing + best.step.optimizer * 28 / OPTIMIZER_BYTES
    assert without_average == pytest.approx(1.63, rel=0.1)


def test_the_papers_run_is_more_than_either_count_of_its_first_stage():
    """arXiv:2403.03206, Sec. 5.3: 8B, 5e22 FLOPs; of what, it does not say."""
    run = paper_run()
    assert run["printed_flops"] == 5e22
    assert run["counted_flops"] == pytest.approx(1.39e22, rel=0.005)
    assert run["naive_flops"] == pytest.approx(4.06e22, rel=0.005)
    assert run["naive_flops"] < run["printed_flops"]
