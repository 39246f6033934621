"""Times of a step by hand: computing, collectives, and what is hidden of them."""

import pytest

from rectiflow.planning import simulation
from rectiflow.planning.collectives import (
    across_seconds,
    all_reduce_seconds,
    exchange_seconds,
    gather_seconds,
)
from rectiflow.planning.simulation import (
    OPTIMIZER_BYTES,
    TRAFFIC_PER_KEPT,
    Passes,
    muon_exchange_seconds,
    optimizer_seconds,
    passes,
    simulate,
)
from tests.planning.made_up import gpu, workload


def test_passes_take_products_attention_and_what_lies_between():
    found = passes(workload(), gpu(), 2)
    # Half the peak, 500/s; attention, 200 FLOPs forward, once more as it runs at half that rate.
    between = TRAFFIC_PER_KEPT * 900 / 500
    assert found.forward == pytest.approx(2 * (2200 / 500 + 200 / 500 + between / 3))
    assert found.backward == pytest.approx(2 * (4200 / 500 + 400 / 500 + 2 * between / 3))


def test_uncompiled_the_operations_between_take_three_times_as_long():
    fused, eager = (passes(workload(), gpu(), 1, is_compiled=each) for each in (True, False))
    added = eager.forward + eager.backward - fused.forward - fused.backward
    assert added == pytest.approx(2 * TRAFFIC_PER_KEPT * 900 / 500)


def test_a_measured_efficiency_stands_for_the_whole_model():
    found = passes(workload(), gpu(), 1, efficiency=0.25)
    assert found == Passes(forward=2200 / 250, backward=4200 / 250)


def test_checkpointing_goes_forward_twice():
    plain = passes(workload(), gpu(), 1, efficiency=0.25)
    again = passes(workload(), gpu(), 1, efficiency=0.25, is_checkpointed=True)
    assert again.backward - plain.backward == again.forward == plain.forward


def test_an_update_reads_and_writes_a_shard_and_muon_multiplies_besides():
    streamed = OPTIMIZER_BYTES * 1000 / (0.9 * 1000)
    assert optimizer_seconds(workload(), gpu(), 4, 8, "adamw") == pytest.approx(streamed / 4)
    products = 25 * 8 * 600 / 500 / 8  # dealt out to 8 GPUs
    muon = optimizer_seconds(workload(), gpu(), 4, 8, "muon")
    assert muon == pytest.approx(streamed / 4 + products)


def test_collectives_take_a_start_their_hops_and_their_bytes():
    assert gather_seconds(1e9, 1, gpu()) == all_reduce_seconds(1e9, 1, gpu()) == 0
    assert across_seconds(1e9, 1, gpu()) == 0
    inside = 8.4e-6 + 3 * 3.4e-6 + 3 / 4 * 1e9 / 0.8e9
    assert gather_seconds(1e9, 4, gpu()) == pytest.approx(inside, rel=1e-9)
    # Four nodes of four: three hops of the ring between nodes; four adapters of a node together.
    between = 8.4e-6 + 3 * 14e-6 + 12 * 3.4e-6 + 15 / 16 * 1e9 / (0.8 * 4e8)
    assert gather_seconds(1e9, 16, gpu()) == pytest.approx(between, rel=1e-9)
    summed = 8.4e-6 + 2 * (3 * 3.4e-6 + 2 * 14e-6) + 2 * 15 / 16 * 1e9 / (0.8 * 4e8)
    assert all_reduce_seconds(1e9, 16, gpu()) == pytest.approx(summed, rel=1e-9)
    own = 8.4e-6 + 2 * 2 * 14e-6 + 2 * 3 / 4 * 1e9 / 0.8e8
    assert across_seconds(1e9, 4, gpu()) == pytest.approx(own, rel=1e-9)


def played(forward, backward, gather, reduce):
    return simulation._play(10, Passes(forward=forward, backward=backward), gather, reduce)


def test_a_step_without_collectives_takes_its_computing():
    assert played(10.0, 20.0, 0.0, 0.0) == pytest.approx(30.0)


def test_short_collectives_are_hidden_but_for_the_first_and_the_last():
    assert played(10.0, 20.0, 0.0, 0.5) == pytest.approx(30.5)  # gradients of the last block
    assert played(10.0, 20.0, 0.5, 0.5) == pytest.approx(31.0)  # and weights of the first


def test_long_collectives_set_the_pace():
    # Forward nine gathers pass while blocks wait; the network is never idle from the first on.
    assert played(1.0, 2.0, 5.0, 0.0) == pytest.approx(20 * 5.0 + 0.2)
    assert played(1.0, 2.0, 0.0, 5.0) == pytest.approx(1.0 + 0.2 + 10 * 5.0)
    assert played(1.0, 2.0, 5.0, 5.0) == pytest.approx(30 * 5.0, rel=0.01)


def test_gradients_are_exchanged_once_a_step_and_weights_gathered_in_every_pass():
    work, device = workload(), gpu(link=1e6, nic=1e6)
    once, twice = (
        simulate(work, device, "fsdp", 4, 1, n, efficiency=1.0).communicating for n in (1, 2)
    )
    each = gather_seconds(400, 4, device)  # of a block's weights, or gradients, in float32
    assert once == pytest.approx(10 * 3 * each)
    assert twice - once == pytest.approx(10 * 2 * each)
    summed = all_reduce_seconds(400, 4, device)
    for num in (1, 2):
        found = simulate(work, device, "ddp", 4, 1, num, efficiency=1.0)
        assert found.communicating == pytest.approx(10 * summed)


def test_hsdp_sums_within_the_node_then_its_shard_across():
    device = gpu()
    found = simulate(workload(), device, "hsdp", 8, 1, 1, efficiency=1.0).communicating
    inside = 3 * gather_seconds(400, 4, device)
    assert found == pytest.approx(10 * (inside + across_seconds(100, 2, device)))


def test_all_send_each_other_their_part():
    assert exchange_seconds(1e9, 1, gpu()) == 0
    inside = 8.4e-6 + 3.4e-6 + 3 * (1e9 / 16) / 0.8e9  # a sixteenth of all to each of three
    assert exchange_seconds(1e9, 4, gpu()) == pytest.approx(inside, rel=1e-9)
    between = 8.4e-6 + 14e-6 + 7 * (1e9 / 64) / 0.8e8
    assert exchange_seconds(1e9, 8, gpu()) == pytest.approx(between, rel=1e-9)


def test_muons_matrices_travel_to_their_owners_and_back_and_nothing_hides_it():
    work, device = workload(muon_weights=6 * 10**8), gpu()
    expected = {
        "single": 0.0,
        "ddp": gather_seconds(12e8, 8, device),
        "fsdp": 2 * exchange_seconds(12e8, 8, device),
        # Two nodes of four: each owns half of the matrices; its GPUs send their quarter across.
        "hsdp": 2 * exchange_seconds(6e8, 4, device) + across_seconds(1.5e8, 2, device),
    }
    for strategy, seconds in expected.items():
        num = 1 if strategy == "single" else 8
        assert muon_exchange_seconds(work, device, strategy, num) == pytest.approx(seconds)
        plain, muon = (
            simulate(work, device, strategy, num, 1, 1, optimizer=each, efficiency=1.0)
            for each in ("adamw", "muon")
        )
        assert muon.communicating - plain.communicating == pytest.approx(seconds)
        assert muon.exposed - plain.exposed == pytest.approx(seconds)


def test_one_gpu_exchanges_nothing():
    step = simulate(workload(), gpu(), "single", 1, 2, 3, efficiency=1.0)
    assert (step.communicating, step.exposed) == (0, 0)
    assert step.computing == pytest.approx(6 * 6.4)
    assert step.seconds == pytest.approx(step.computing + step.optimizer)
