"""The attention of the last blocks, with QK norm and without."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from rectiflow.errors import NonFiniteError
from rectiflow.flow.formulations import formulation
from rectiflow.nn.mmdit import MMDiT
from rectiflow.runs import Run
from rectiflow.training.attention_observer import AttentionObserver
from rectiflow.training.ema import Ema, exponential
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.optim import Optimizers
from rectiflow.training.recipe import load_recipe
from rectiflow.training.state import TrainState
from tests.training.tiny import TinySource, assemble, tiny_objective, tiny_settings, tiny_train

HEAD_WIDTH = 8


def objective_with(qk_norm, gain, depth=2):
    """The tiny network with its queries and keys times `gain`."""
    shape = dataclasses.replace(tiny_objective().model.config, qk_norm=qk_norm, depth=depth)
    model = MMDiT(shape)
    model.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name:
                parameter[: 2 * len(parameter) // 3] *= gain
    return FlowObjective(model, formulation("rf"), 0.0, assemble)


def observed(objective, num_blocks=2):
    observer = AttentionObserver(objective, TinySource(6, seed=9), seed=3, num_blocks=num_blocks)
    optimizers = Optimizers(objective, tiny_settings())
    ema = Ema(objective.model, exponential(0.9))
    return observer(TrainState(Run(Path("unused")), objective.model, ema, optimizers))


def test_large_weights_make_large_logits_and_little_entropy_unless_normalised():
    plain = {gain: observed(objective_with(False, gain)) for gain in (1.0, 30.0)}
    grown = plain[30.0]["attention_logit_max"] / plain[1.0]["attention_logit_max"]
    assert grown > 30**2 / 4  # queries and keys; later blocks see other tokens
    assert plain[30.0]["attention_entropy"] < 0.3 * plain[1.0]["attention_entropy"]
    for gain in (1.0, 30.0):
        normed = observed(objective_with(True, gain))
        # q and k have the norm sqrt(head_width) while their scales are 1.
        assert normed["attention_logit_max"] <= math.sqrt(HEAD_WIDTH) * 1.0001
        assert normed["attention_entropy"] > 0.3 * math.log(7)


def test_the_last_blocks_are_watched_in_order_and_averaged():
    objective = objective_with(False, 1.0, depth=3)
    every = observed(objective, num_blocks=9)
    last = observed(objective, num_blocks=2)
    for name in ("attention_logit_max", "attention_entropy"):
        assert len(every[f"{name}_by_block"]) == 3
        assert last[f"{name}_by_block"] == every[f"{name}_by_block"][1:]
        assert last[name] == pytest.approx(sum(last[f"{name}_by_block"]) / 2)
    # 4 image tokens and 2 + 1 of text: no more entropy than of 7 equal ones.
    assert 0 < every["attention_entropy"] <= math.log(7) * 1.0001


def test_it_sees_the_same_in_a_bf16_run_as_in_float32():
    objective = objective_with(True, 3.0)
    expected = observed(objective)
    with torch.autocast("cpu", torch.bfloat16):
        assert observed(objective) == expected


def test_attention_that_is_not_finite_is_a_divergence():
    with pytest.raises(NonFiniteError, match="the attention is not finite at step 0"):
        observed(objective_with(False, 1e30))


def test_watching_changes_nothing_that_is_trained_and_is_logged(tmp_path):
    objective = tiny_objective()
    observer = AttentionObserver(objective, TinySource(6, seed=9), seed=3, num_blocks=1)
    settings = tiny_settings(num_steps=6, sample_every_steps=3, validate_every_steps=0)
    tiny_train(tmp_path / "watched", settings, objective, observers=[observer])
    plain = tiny_objective()
    tiny_train(tmp_path / "plain", settings, plain)
    for (name, ours), theirs in zip(
        objective.model.named_parameters(), plain.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    rows = {row["step"]: row for row in Run(tmp_path / "watched").metrics()}
    assert rows[3]["attention_logit_max"] != rows[6]["attention_logit_max"]
    assert "attention_entropy" not in rows[4]


@pytest.mark.parametrize("recipe", ["autoencoder-tiny", "encoders-tiny"])
def test_a_recipe_without_a_network_refuses_it(recipe):
    with pytest.raises(ValueError, match=r"attention_blocks watches the network of .*, got 2"):
        load_recipe(recipe, ["training.attention_blocks=2"])
