"""Numbers that went wrong are traced to a module, and the run stops or rolls back, no more."""

import json

import pytest
import torch
from torch import nn

from rectiflow import checkpoints
from rectiflow.errors import DivergenceError, NonFiniteError, SpikeError
from rectiflow.runs import Run, without_clock
from rectiflow.training import checkpoint
from rectiflow.training.divergence import SPIKE_AFTER, spike_of
from rectiflow.training.roll_backs import RollBack, num_skipped, read_roll_backs
from rectiflow.training.settings.sections import GuardSettings
from tests.training.test_restart import Killed, killing_at
from tests.training.tiny import TinySource, tiny_objective, tiny_settings, tiny_train

MODULES = ("blocks.1.image.out", "blocks.0.context.project")
ROLL_BACK = GuardSettings(on_divergence="roll_back", max_roll_backs=2)


class BadGradient(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


class Spoiled(TinySource):
    """Latents of some positions in the global order are multiplied."""

    def __init__(self, positions, factor):
        super().__init__(num_samples=400)
        self.positions, self.factor, self.seen = positions, factor, []

    def batch(self, positions, draws):
        batch = super().batch(positions, draws)
        self.seen.append(positions.tolist())
        wrong = torch.tensor([int(p) in self.positions for p in positions])
        latent = torch.where(wrong[:, None, None, None], self.factor, batch["latent"])
        return {**batch, "latent": latent}


def module_named(objective, name):
    return dict(objective.model.named_modules())[name]


def message_of(folder, objective=None, source=None, **changes):
    with pytest.raises(DivergenceError) as caught:
        tiny_train(folder, tiny_settings(**changes), objective, source=source)
    told = Run(folder).diverged()
    assert told["why"] == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["blocks.1.image.out", "blocks.0.context.project", "final.project"]
)
def test_the_first_output_that_is_not_finite_is_named(tmp_path, name):
    objective = tiny_objective()

    def spoil(module, inputs, output):
        return output * torch.nan

    module_named(objective, name).register_forward_hook(spoil)
    message = message_of(tmp_path, objective)
    assert message.startswith(
        f"the loss is not finite at step 1; first not finite: the output of {name}; mean loss per"
    )


@pytest.mark.parametrize(
    "name", ["blocks.1.image.out", "blocks.0.context.project", "final.project"]
)
def test_the_module_in_which_a_gradient_turns_is_named(tmp_path, name):
    objective = tiny_objective()
    # The gate of a block is 0 at first, and 0 times inf is nan in any block before it.
    for parameter in objective.model.parameters():
        nn.init.constant_(parameter, 0.01)

    def spoil(module, inputs, output):
        return BadGradient.apply(output)

    module_named(objective, name).register_forward_hook(spoil)
    message = message_of(tmp_path, objective)
    assert message.startswith(
        "the gradient is not finite at step 1; "
        f"first not finite: the gradient within {name}; mean loss per"
    )
    assert "; 8 samples: " in message


def test_a_weight_and_an_entry_of_the_batch_are_named(tmp_path):
    objective = tiny_objective()
    nn.init.constant_(objective.model.blocks[1].image.out.bias, torch.inf)
    message = message_of(tmp_path / "weight", objective)
    assert "first not finite: the weight blocks.1.image.out.bias" in message
    source = Spoiled({9}, torch.inf)
    message = message_of(tmp_path / "batch", source=source)
    assert message.startswith("the loss is not finite at step 2; first not finite: latent of the b")
    sample = int(source.order.indices(torch.tensor([9]).numpy())[0])
    assert message.endswith(f"; 1 samples: sample {sample}")


def test_a_gradient_of_a_weight_alone_and_of_one_microbatch_is_named(tmp_path):
    objective, calls = tiny_objective(), []

    def spoil(gradient):
        calls.append(1)
        # The second microbatch of two, in the step and in its repetition.
        return gradient * torch.inf if len(calls) % 2 == 0 else gradient

    objective.model.final.project.bias.register_hook(spoil)
    source = TinySource()
    message = message_of(tmp_path, objective, source=source)
    assert "first not finite: the gradient of final.project.bias" in message
    second = source.order.indices(torch.arange(4, 8).numpy())
    assert message.endswith("; 4 samples: " + ", ".join(f"sample {i}" for i in second))


def test_a_spike_is_a_multiple_of_the_median_before_it():
    norms = [1.0] * (SPIKE_AFTER - 1)
    assert spike_of(1e9, norms, 10.0) is None  # too early to tell
    norms = [*norms, 3.0]
    assert spike_of(10.0, norms, 10.0) is None
    assert spike_of(1e9, norms, 0.0) is None
    assert "norm 10.1 is 10.1 times the median of the 20 steps" in str(spike_of(10.1, norms, 10.0))


def test_a_spike_stops_before_it_moves_a_weight(tmp_path):
    source = Spoiled(set(range(24 * 8, 24 * 8 + 8)), 1e4)
    settings = dict(num_steps=30, guard=GuardSettings(spike_factor=10.0), checkpoint_every_steps=24)
    with pytest.raises(SpikeError) as caught:
        tiny_train(tmp_path, tiny_settings(**settings), source=source)
    message = str(caught.value)
    assert "times the median of the 24 steps before it" in message
    assert " at step 25; most of it in final." in message
    assert message.count("sample ") == 8
    assert Run(tmp_path).diverged()["step"] == 24
    kept = checkpoint.load(checkpoints.newest(Run(tmp_path)))
    assert len(kept.state["gradient_norms"]) == 24
    del settings["guard"]  # the same command, the guard off: it goes on
    assert tiny_train(tmp_path, tiny_settings(**settings), source=source).status == "finished"
    assert Run(tmp_path).diverged() is None


def test_a_guard_that_finds_nothing_changes_nothing(tmp_path):
    tiny_train(tmp_path / "plain")
    guard = GuardSettings(on_divergence="roll_back", spike_factor=1e6)
    with pytest.raises(Killed):
        tiny_train(tmp_path / "run", tiny_settings(guard=guard), on_progress=killing_at(8))
    tiny_train(tmp_path / "run", tiny_settings(guard=guard))
    ours, theirs = (
        checkpoint.load(checkpoints.newest(Run(tmp_path / n))) for n in ("run", "plain")
    )
    assert len(ours.state["gradient_norms"]) == 12
    assert "gradient_norms" not in theirs.state
    for group, tensors in theirs.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(ours.tensors[group][name], tensor)
    assert not Run(tmp_path / "run").roll_backs_path.exists()


def test_a_roll_back_goes_on_behind_the_samples_that_failed(tmp_path, caplog):
    """Step 8 fails: back to 5, and on with what steps 9, 10, ... would have seen."""
    source = Spoiled({7 * 8 + 3}, torch.nan)
    settings = tiny_settings(guard=ROLL_BACK, num_microbatches=1)
    result = tiny_train(tmp_path, settings, source=source)
    assert (result.status, result.step) == ("finished", 12)
    assert "rolled back to the checkpoint of step 5" in caplog.text
    (taken,) = read_roll_backs(Run(tmp_path))
    assert (taken.step, taken.to_step) == (8, 5)
    assert taken.why.startswith("the loss is not finite at step 8; first not finite: latent of the")
    seen = [positions[0] // 8 for positions in source.seen if len(positions) == 8]
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert [row["step"] for row in Run(tmp_path).metrics()] == [2, 4, 5, 6, 8, 10, 12]
    assert Run(tmp_path).result()["roll_backs"] == 1
    assert Run(tmp_path).diverged() is None


def test_a_run_killed_after_a_roll_back_ends_as_if_it_had_not_been(tmp_path):
    settings = tiny_settings(guard=ROLL_BACK)
    tiny_train(tmp_path / "whole", settings, source=Spoiled({7 * 8 + 3}, torch.nan))
    run, rolled = Run(tmp_path / "run"), []

    def kill(step, num_steps, metrics):
        rolled.append(step)
        if rolled.count(6) == 2:  # after the roll-back, before any checkpoint
            raise Killed

    with pytest.raises(Killed):
        tiny_train(run.folder, settings, on_progress=kill, source=Spoiled({7 * 8 + 3}, torch.nan))
    tiny_train(run.folder, settings, source=Spoiled({7 * 8 + 3}, torch.nan))
    assert read_roll_backs(run) == read_roll_backs(Run(tmp_path / "whole"))
    ours, theirs = (
        checkpoint.load(checkpoints.newest(Run(tmp_path / n))) for n in ("run", "whole")
    )
    for group, tensors in theirs.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(ours.tensors[group][name], tensor)
    assert [without_clock(row) for row in run.metrics()] == [
        without_clock(row) for row in Run(tmp_path / "whole").metrics()
    ]


def test_roll_backs_are_bounded(tmp_path):
    source = Spoiled(set(range(7 * 8, 400)), torch.inf)
    message = message_of(tmp_path, source=source, guard=ROLL_BACK)
    assert message.endswith("rolled back 2 times before, training.guard.max_roll_backs allows 2")
    assert "at step 6;" in message  # 8, then the samples of 9 and of 10 in the place of 6's
    assert [(r.step, r.to_step) for r in read_roll_backs(Run(tmp_path))] == [(8, 5), (6, 5)]
    assert json.loads(Run(tmp_path).diverged_path.read_text())["step"] == 5


def test_without_a_checkpoint_there_is_nothing_to_roll_back_to(tmp_path):
    source = Spoiled({17}, torch.inf)
    with pytest.raises(NonFiniteError, match="there is no checkpoint to roll back to"):
        tiny_train(tmp_path, tiny_settings(guard=ROLL_BACK), source=source)
    assert read_roll_backs(Run(tmp_path)) == []


def test_what_is_passed_over_is_a_function_of_the_step():
    taken = [RollBack(8, 5, ""), RollBack(6, 5, ""), RollBack(14, 10, "")]
    assert [num_skipped(taken, step) for step in (4, 5, 9, 10, 11)] == [0, 4, 4, 8, 8]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_roll_backs": 0}, "max_roll_backs must be >= 1, got 0"),
        ({"spike_factor": 1.0}, "spike_factor must be 0 or > 1, got 1.0"),
    ],
)
def test_a_guard_that_cannot_work_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        GuardSettings(**values)
