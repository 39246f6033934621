"""`training.speed`: what each lever does to a run, and what it refuses."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from rectiflow.config import leaves
from rectiflow.errors import NonFiniteError
from rectiflow.nn.counting import held_bytes
from rectiflow.training import engine
from rectiflow.training.engine import prepare_network, use_fp8
from rectiflow.training.settings.speed import SpeedSettings
from tests.nn.test_mmdit import awake, inputs, relative
from tests.training.test_divergence import BadGradient
from tests.training.tiny import draws, tiny_objective, tiny_settings, tiny_train

CPU = torch.device("cpu")


def settings(**levers):
    return tiny_settings(num_steps=4, speed=SpeedSettings(**levers))


def weights_after(folder, **levers):
    objective = tiny_objective()
    result = tiny_train(folder, settings(**levers), objective)
    assert result.status == "finished"
    return torch.cat([p.detach().flatten() for p in objective.model.parameters()])


@pytest.mark.parametrize("policy", ["selective", "full"])
def test_a_run_that_forgets_activations_ends_in_the_same_weights(tmp_path, policy):
    plain = weights_after(tmp_path / "plain")
    assert weights_after(tmp_path / policy, activation_checkpointing=policy).equal(plain)


def test_what_a_step_holds_falls_with_each_lever():
    def held(**levers):
        network = awake()
        prepare_network(network, SpeedSettings(**levers), CPU)
        return held_bytes(lambda: network(*inputs()))

    full = held(activation_checkpointing="full")
    half = held(activation_checkpointing="full", activation_budget=0.8)
    assert full < half < held()
    assert full < held(activation_checkpointing="selective") < held()


def test_a_divergence_in_a_block_that_forgets_is_traced_to_its_module(tmp_path):
    objective = tiny_objective()
    for parameter in objective.model.parameters():
        nn.init.constant_(parameter, 0.01)
    objective.model.blocks[0].context.project.register_forward_hook(
        lambda module, inputs, output: BadGradient.apply(output)
    )
    with pytest.raises(NonFiniteError, match=r"gradient within blocks\.0\.context\.project"):
        tiny_train(tmp_path, settings(activation_checkpointing="full"), objective)


def test_all_but_fp8_may_change_when_a_run_resumes():
    free = {name: is_free for name, _, is_free in leaves(SpeedSettings())}
    assert free == {
        "compile": True,
        "activation_checkpointing": True,
        "activation_budget": True,
        "fp8": False,
    }


def test_what_cannot_work_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"activation_budget must be in \[0, 1\], got 2"):
        SpeedSettings(activation_checkpointing="full", activation_budget=2)
    with pytest.raises(ValueError, match=r"must be 0 where activation_checkpointing is none, got"):
        SpeedSettings(activation_budget=0.5)
    with pytest.raises(ValueError, match="needs a network with blocks, Linear has none"):
        prepare_network(nn.Linear(2, 2), SpeedSettings(compile="blocks"), CPU)
    with pytest.raises(ValueError, match=r"needs a GPU of compute capability >= 8\.9, got cpu"):
        prepare_network(awake(), SpeedSettings(fp8=True), CPU)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler on a CPU"):
        prepare_network(awake(), SpeedSettings(compile="blocks"), CPU)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs torchao: pip install 'rectiflow\[fp8\]'"):
        use_fp8(list(awake().blocks))


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is an extra")
def test_fp8_replaces_the_large_products_and_rounds_them(monkeypatch):
    """Emulated: in the usual precision, on numbers rounded to 8 bits."""
    network = awake()
    with pytest.raises(ValueError, match="needs a product of 1536 x 1536 or more"):
        use_fp8(list(network.blocks), is_emulated=True)
    names, before = list(network.state_dict()), network(*inputs())
    monkeypatch.setattr(engine, "MIN_FP8_SIDE", 32)
    assert use_fp8(list(network.blocks), is_emulated=True) == 4 + 4 + 1 + 4
    assert list(network.state_dict()) == names
    after = network(*inputs())
    assert 1e-3 < relative(after, before) < 0.3
    after.square().mean().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if "blocks.0" in name)


PROGRAM = """
import json, sys
import torch
from rectiflow.training.settings.speed import SpeedSettings
from tests.training.test_engine import compiled_run
print(json.dumps(compiled_run(sys.argv[1])))
"""


def compiled_run(folder):
    """In a process without checks of shapes, which cannot be traced."""
    found = {}
    for kind in ("none", "blocks"):
        levers = {"compile": kind, "activation_checkpointing": "selective"}
        objective, losses = tiny_objective(), []
        tiny_train(
            f"{folder}/{kind}",
            settings(**levers),
            objective,
            on_progress=lambda step, num, row, to=losses: to.append(row["loss"]),
        )
        found[kind] = losses
    spoiled = tiny_objective()
    spoiled.model.blocks[1].image.out.register_forward_hook(lambda *_: _[-1] * torch.nan)
    try:
        tiny_train(f"{folder}/spoiled", settings(compile="blocks"), spoiled)
    except NonFiniteError as error:
        found["told"] = str(error)
    return found | {"graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"]}


@pytest.mark.slow
def test_a_compiled_run_has_the_same_losses_and_its_divergence_is_traced(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["blocks"] == pytest.approx(found["none"], rel=1e-4)
    assert found["graphs"] > 1
    assert "the output of blocks.1.image.out" in found["told"]


def test_levers_leave_the_draws_of_a_loss_alone():
    plain, forgetting = tiny_objective(), tiny_objective()
    prepare_network(forgetting.model, SpeedSettings(activation_checkpointing="full"), CPU)
    batch = {"latent": torch.ones(4, 2, 4, 4), "states": torch.ones(4, 3)}
    assert forgetting.loss(batch, draws(4)).loss.equal(plain.loss(batch, draws(4)).loss)
