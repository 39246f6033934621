"""Estimates from the shape against what autograd keeps and what a forward pass holds."""

import dataclasses
import weakref
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rectiflow.conditioning import Conditioning
from rectiflow.nn import attention, blocks, kernels
from rectiflow.nn.memory import activation_bytes, sampling_bytes, training_bytes
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.nn.releases import RELEASES
from rectiflow.nn.sizes import num_parameters

TINY = MMDiTConfig(
    depth=3,
    num_heads=2,
    patch_size=1,
    latent_channels=4,
    context_width=24,
    pooled_width=20,
    base_side=4,
    table_side=8,
)
VARIANTS = {
    "plain": {},
    "no QK norm": {"qk_norm": False},
    "MMDiT-X": {"dual_attention": (0, 1)},
    "three weight sets": {"num_weight_sets": 3},
    "wide": {"num_heads": 4, "head_width": 32},
    "patches": {"patch_size": 2},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
SIDES, TEXTS = (8, 6), (9, 6)


class FusedNorm(torch.autograd.Function):
    """RMS norm that keeps its input only, as the kernels of GPUs do; torch's on CPU keeps more."""

    @staticmethod
    def forward(ctx, x, shape, scale, eps):
        ctx.save_for_backward(x)
        return torch.rms_norm(x, shape, scale, eps)


@pytest.fixture(autouse=True)
def plain_forms(monkeypatch):
    """What other devices than the CPU compute with."""
    monkeypatch.setattr(blocks, "gelu", kernels.plain_gelu)
    monkeypatch.setattr(attention, "join_heads", attention.plain_join_heads)
    monkeypatch.setattr(nn.functional, "rms_norm", FusedNorm.apply)
    monkeypatch.setattr(attention, "attention", nn.functional.scaled_dot_product_attention)


def inputs(config: MMDiTConfig, batch: int, dtype: torch.dtype = torch.float32):
    cond = Conditioning(
        torch.ones(batch, sum(TEXTS), config.context_width, dtype=dtype),
        torch.ones(batch, config.pooled_width, dtype=dtype),
        TEXTS,
    )
    return torch.ones(batch, 4, *SIDES, dtype=dtype), torch.ones(batch), cond


def kept_bytes(model: MMDiT, batch: int, autocast: bool) -> int:
    """Distinct memory that autograd keeps for the backward pass, but for the weights."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    arguments = inputs(model.config, batch)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        velocity = model(*arguments)
    del velocity
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    return sum(nbytes for pointer, nbytes in kept.items() if pointer not in weights)


@every_variant
def test_activations_are_those_that_autograd_keeps_in_float32(variant):
    config = dataclasses.replace(TINY, **variant)
    told = 3 * activation_bytes(config, *SIDES, sum(TEXTS), product_bytes=4)
    assert told == pytest.approx(kept_bytes(MMDiT(config), 3, autocast=False), rel=0.02)


@every_variant
def test_activations_and_copies_of_weights_are_those_that_autograd_keeps_in_bf16(variant):
    config = dataclasses.replace(TINY, **variant)
    told = training_bytes(config, *SIDES, sum(TEXTS), batch_size=3)
    kept = kept_bytes(MMDiT(config), 3, autocast=True)
    assert told["activations"] + told["weight_copies"] == pytest.approx(kept, rel=0.02)


class Held(TorchDispatchMode):
    """The most memory that results held at once, but for that which was there before."""

    def __init__(self, before) -> None:
        super().__init__()
        self.before = {tensor.untyped_storage().data_ptr() for tensor in before}
        self.users, self.held, self.peak = Counter(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        return result

    def hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        pointer, nbytes = storage.data_ptr(), storage.nbytes()
        if pointer in self.before:
            return
        self.held += nbytes * (not self.users[pointer])
        self.users[pointer] += 1
        self.peak = max(self.peak, self.held)
        weakref.finalize(tensor, self.release, pointer, nbytes)

    def release(self, pointer: int, nbytes: int) -> None:
        self.users[pointer] -= 1
        self.held -= nbytes * (not self.users[pointer])


@pytest.mark.parametrize("variant", [{}, {"dual_attention": (0, 1)}], ids=str)
def test_sampling_holds_what_is_told(variant, monkeypatch):
    monkeypatch.setattr(nn.functional, "rms_norm", lambda x, shape, scale, eps: x * scale)
    config = dataclasses.replace(TINY, **variant)
    model, arguments = MMDiT(config).bfloat16(), inputs(config, 3, torch.bfloat16)
    x, t, cond = arguments
    before = [*model.state_dict().values(), x, t, cond.context, cond.pooled]
    with torch.no_grad(), Held(before) as held:
        model(*arguments)
    told = sampling_bytes(config, *SIDES, sum(TEXTS), batch_size=3)
    assert told["activations"] == pytest.approx(held.peak, rel=0.1)


def test_parts_of_training_follow_the_weights():
    count = num_parameters(TINY)
    told = training_bytes(TINY, *SIDES, 15)
    assert {name: told[name] // (4 * count) for name in ("gradients", "ema", "optimizer")} == {
        "gradients": 1,
        "ema": 1,
        "optimizer": 2,
    }
    assert told["positions"] == 4 * 8 * 8 * 128
    assert told["total"] == sum(told.values()) - told["total"]
    lean = training_bytes(
        TINY, *SIDES, 15, product_bytes=4, num_optimizer_states=1, has_ema=False, batch_size=2
    )
    assert (lean["ema"], lean["weight_copies"], lean["optimizer"]) == (0, 0, 4 * count)
    assert lean["activations"] == 2 * activation_bytes(TINY, *SIDES, 15, product_bytes=4)


@pytest.mark.parametrize(("name", "gib"), [("sd3.5-medium", 12), ("sd3.5-large", 24)])
def test_the_released_models_fit_the_cards_they_are_used_on(name, gib):
    """At 1024 px, with guidance and 333 text tokens; encoders and autoencoder run before, after."""
    told = sampling_bytes(RELEASES[name], 128, 128, 333)
    assert told["parameters"] == 2 * num_parameters(RELEASES[name])
    assert told["total"] < (gib - 1) * 2**30
