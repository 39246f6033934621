"""Blocks that forget keep less, and lose nothing: the gradients are the same bit for bit."""

import copy
import dataclasses

import pytest
import torch

from rectiflow.nn.backbones import new_network
from rectiflow.nn.counting import bytes_kept_by, held_bytes
from rectiflow.nn.recompute import forget_activations
from rectiflow.nn.regions import blocks_of
from tests.nn.test_backbones import SETTINGS, inputs
from tests.nn.test_backbones import awake as awake_of_kind
from tests.nn.test_mmdit import awake
from tests.nn.test_mmdit import inputs as mmdit_inputs

POLICIES = ("selective", "full")
QUICK = ("mmdit", "uvit")  # blocks of two streams, and blocks with a skip from one to another


def gradients(network, arguments, is_bf16=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        output = network(*arguments)
    weights = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(output.float().square().mean(), weights, allow_unused=True)
    return torch.cat([output.flatten(), *[g.flatten() for g in found if g is not None]])


def deep(depth):
    config = dataclasses.replace(awake().config, depth=depth, num_heads=2, dual_attention=())
    network, generator = new_network(config), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return network


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SETTINGS],
)
def test_every_kind_forgets_and_has_the_same_gradients(name):
    arguments = inputs()
    network = awake_of_kind(name)
    before, names = gradients(network, arguments), list(network.state_dict())
    whole = held_bytes(lambda: network(*arguments))
    held = {}
    for policy in POLICIES:
        network = awake_of_kind(name)
        assert forget_activations(network, policy) == len(blocks_of(network))
        assert list(network.state_dict()) == names
        assert gradients(network, arguments).equal(before)
        held[policy] = held_bytes(lambda network=network: network(*arguments))
    assert held["full"] < held["selective"] < whole


def test_the_same_in_bf16_and_of_a_copy():
    network, arguments = awake(), mmdit_inputs()
    before = gradients(network, arguments, is_bf16=True)
    for policy in POLICIES:
        network = awake()
        forget_activations(network, policy)
        assert gradients(network, arguments, is_bf16=True).equal(before)
        other = copy.deepcopy(network)
        torch.nn.init.zeros_(network.blocks[0].image.qkv.weight)
        assert gradients(other, arguments, is_bf16=True).equal(before)  # its blocks are its own


def test_what_is_held_is_what_autograd_keeps_where_nothing_is_forgotten():
    network, arguments = deep(3), mmdit_inputs()
    kept = bytes_kept_by(lambda: network(*arguments), network)
    assert held_bytes(lambda: network(*arguments)) == pytest.approx(kept, rel=0.05)
    with torch.no_grad():  # then there is the result alone
        assert held_bytes(lambda: network(*arguments)) <= 2 * arguments[0].nbytes


def test_of_a_full_block_its_input_is_left():
    arguments = mmdit_inputs()
    held = []
    for depth in (3, 5):
        network = deep(depth)
        forget_activations(network, "full")
        held.append(held_bytes(lambda network=network: network(*arguments)))
    batch, texts, width = *arguments[2].context.shape[:2], network.config.width
    tokens = texts + arguments[0].shape[-1] * arguments[0].shape[-2] // network.config.patch_size**2
    assert held[1] - held[0] == 2 * batch * tokens * width * 4


@pytest.mark.parametrize(
    ("depth", "forgetting"),
    [
        (3, [False, True, False]),
        pytest.param(6, [False, True, False, False, True, False], marks=pytest.mark.slow),
    ],
)
def test_a_budget_is_met_by_as_few_blocks_as_it_takes_evenly_spread(depth, forgetting):
    """One of three keeps a third less; of a sample in the form that GPUs compute."""
    arguments, network = mmdit_inputs(), deep(depth)
    whole = held_bytes(lambda: network(*arguments))
    assert forget_activations(network, "full", 0.75) == sum(forgetting)
    assert ["forward" in vars(block) for block in network.blocks] == forgetting
    assert 0.6 * whole < held_bytes(lambda: network(*arguments)) <= 0.75 * whole


@pytest.mark.slow
def test_a_budget_of_all_lets_no_block_forget():
    assert forget_activations(deep(2), "full", 1.0) == 0


def test_a_budget_that_is_never_met_takes_all_blocks():
    assert forget_activations(deep(2), "selective", 0.01) == 2


def test_without_gradients_nothing_is_computed_twice(monkeypatch):
    network, arguments = deep(1), mmdit_inputs()
    forget_activations(network, "full")
    calls = []
    network.blocks[0].image.qkv.register_forward_hook(lambda *_: calls.append(0))
    with torch.no_grad():
        network(*arguments)
    assert len(calls) == 1
    gradients(network, arguments)
    assert len(calls) == 3
