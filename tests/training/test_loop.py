"""What the loop computes and when: minutes, the clock, microbatches, observers, learning."""

import pytest
import torch

from rectiflow.runs import Run, read_json
from rectiflow.training import loop
from rectiflow.training.batches import Batches
from rectiflow.training.settings.sections import RetainSettings
from rectiflow.training.stepping import Stepper
from tests.training.tiny import TinySource, tiny_objective, tiny_settings, tiny_train


def test_a_small_model_learns_and_the_average_with_it(tmp_path):
    """Constant pictures told by their text: the loss falls far under the untrained 1 + variance."""
    settings = tiny_settings(
        num_steps=60, num_microbatches=1, learning_rate=2e-2, muon_learning_rate=4e-2, ema_decay=0.9
    )
    tiny_train(tmp_path, settings)
    rows = [row for row in Run(tmp_path).metrics() if "val_loss" in row]
    assert rows[-1]["val_loss"] < 0.6 * rows[0]["val_loss"]
    assert rows[-1]["val_loss_ema"] < 0.6 * rows[0]["val_loss"]
    losses = rows[-1]["val_loss_by_t"]
    assert rows[-1]["val_loss"] == pytest.approx(sum(losses[:7]) / 7)
    assert len(losses) == 8


def test_microbatches_change_neither_the_draws_nor_the_terms():
    def terms(num_microbatches):
        objective = tiny_objective()
        torch.manual_seed(0)
        for parameter in objective.model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        batches = Batches(TinySource(), 3, 8, num_microbatches).after(5)
        parts = [objective.loss(*next(batches)) for _ in range(num_microbatches)]
        loss = torch.cat([part.loss for part in parts])
        (loss.sum() / 8).backward()
        gradient = torch.cat([p.grad.flatten() for p in objective.model.parameters()])
        return loss.detach(), torch.cat([part.t for part in parts]), gradient

    loss, t, gradient = terms(1)
    assert len(t.unique()) == 8
    for num_microbatches in (2, 3, 8):  # 3 does not divide 8
        other_loss, other_t, other_gradient = terms(num_microbatches)
        assert torch.equal(other_t, t)
        torch.testing.assert_close(other_loss, loss)
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_a_run_of_microbatches_has_the_weights_of_a_run_without(tmp_path):
    states = []
    for num in (1, 4):
        objective = tiny_objective()
        settings = tiny_settings(num_microbatches=num, optimizer="adamw", num_steps=4)
        tiny_train(tmp_path / str(num), settings, objective)
        states.append(objective.model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-5)


@pytest.fixture
def slow_steps(monkeypatch):
    """Steps that the loop believes to take ten seconds, without the wait."""
    original = Stepper.step

    class Clock:
        offset = 0.0

        @classmethod
        def perf_counter(cls):
            return cls.offset

        monotonic = perf_counter

    def step(self, *arguments):
        metrics = original(self, *arguments)
        Clock.offset += 10.0
        return metrics

    monkeypatch.setattr(Stepper, "step", step)
    monkeypatch.setattr(loop, "time", Clock)
    return Clock


def minutes_settings(**changes):
    length = {"num_steps": None, "minutes": 10.0, "warmup_steps": 25}
    return tiny_settings(**{**length, "log_every_steps": 10, **changes})


def test_minutes_become_steps_once_by_the_rate_of_steps_6_to_25(slow_steps, tmp_path):
    seen = []
    result = tiny_train(
        tmp_path, minutes_settings(), on_progress=lambda step, num, _: seen.append(num)
    )
    assert result.status == "finished"
    assert result.step == result.num_steps == 60  # 600 s at 10 s a step
    assert seen[:24] == [None] * 24
    assert set(seen[24:]) == {60}
    pace = read_json(Run(tmp_path).pace_path)
    assert pace["num_steps"] == 60
    assert pace["step_seconds"] == 10.0


def test_a_resumed_run_does_not_measure_again(slow_steps, tmp_path):
    settings = minutes_settings(checkpoint_every_steps=10)

    def stop(step, num_steps, metrics):
        if step == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_train(tmp_path, settings, on_progress=stop)
    slow_steps.offset = 0.0
    result = tiny_train(tmp_path, settings)
    assert (result.step, result.num_steps) == (60, 60)
    # Also if every checkpoint is lost: the recorded number stands.
    for folder in Run(tmp_path).checkpoints.iterdir():
        folder.rename(tmp_path / folder.name)
    Run(tmp_path).result_path.unlink()
    assert tiny_train(tmp_path, settings).num_steps == 60


def test_the_clock_stops_a_run_at_one_and_a_half_times_its_minutes(slow_steps, tmp_path):
    def later(step, num_steps, metrics):
        slow_steps.offset += 20.0  # the machine gets busy: 30 s a step, 60 steps are 30 minutes

    result = tiny_train(tmp_path, minutes_settings(), on_progress=later)
    assert result.status == "out_of_time"
    assert result.step == 31  # the first after 900 s
    assert "stopped by the clock at 1.5 x 10.0 minutes: checkpoint of step 31" in result.message
    assert Run(tmp_path).result() is None
    assert tiny_train(tmp_path, minutes_settings()).status == "finished"


def test_checkpoints_come_by_the_clock_too(slow_steps, tmp_path):
    settings = tiny_settings(
        num_steps=20,
        checkpoint_every_steps=0,
        checkpoint_every_minutes=1.0,
        retain=RetainSettings(newest=9),
    )
    tiny_train(tmp_path, settings)
    names = sorted(path.name[-2:] for path in Run(tmp_path).checkpoints.iterdir())
    assert names == ["06", "12", "18", "20"]


def test_observers_see_the_averaged_weights_and_are_logged(tmp_path):
    seen = []

    def observe(state):
        assert not state.model.training
        with state.ema.applied():
            total = sum(p.abs().sum().item() for p in state.model.parameters())
        seen.append(state.step)
        return {"size": total}

    tiny_train(tmp_path, tiny_settings(sample_every_steps=4), observers=[observe])
    assert seen == [4, 8, 12]
    assert [row["step"] for row in Run(tmp_path).metrics() if "size" in row] == [4, 8, 12]


def test_each_line_tells_where_the_time_went(tmp_path):
    tiny_train(tmp_path)
    for row in Run(tmp_path).metrics():
        if "loss" not in row:
            continue
        phases = ("data", "forward", "backward", "optimizer", "other")
        total = sum(row[f"{phase}_seconds"] for phase in phases)
        assert row["step_seconds"] == pytest.approx(total)
        assert row["samples_per_second"] == pytest.approx(8 / total)
        assert row["learning_rate"] <= tiny_settings().learning_rate
    assert Run(tmp_path).result()["metrics"]["val_loss"] > 0


def test_a_gradient_that_is_not_finite_stops_before_it_moves_a_weight(tmp_path):
    objective = tiny_objective()
    before = {n: t.clone() for n, t in objective.model.state_dict().items()}
    objective.model.final.project.bias.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(RuntimeError, match=r"the gradient is not finite at step 1;.*; 8 samples"):
        tiny_train(tmp_path, objective=objective)
    for name, tensor in objective.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_bf16_keeps_float32_weights_and_changes_the_result(tmp_path):
    results = {}
    for precision in ("fp32", "bf16"):
        objective = tiny_objective()
        tiny_train(tmp_path / precision, tiny_settings(precision=precision), objective)
        assert {p.dtype for p in objective.model.parameters()} == {torch.float32}
        results[precision] = objective.model.final.project.weight
    assert not torch.equal(results["fp32"], results["bf16"])
    torch.testing.assert_close(results["fp32"], results["bf16"], rtol=0.2, atol=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw"},
        {"learning_rate": 2e-3},
        {"muon_learning_rate": 2e-3},
        {"weight_decay": 0.5},
        {"betas": (0.5, 0.95)},
        {"betas": (0.9, 0.5)},
        {"eps": 1e-2},
        {"muon_momentum": 0.5},
        {"warmup_steps": 2},
        {"decay": "cosine"},
        {"decay_fraction": 0.3},
        {"clip_norm": 1e-4},
        {"batch_size": 6},
        {"num_steps": 8},
        {"ema_decay": 0.1},
    ],
    ids=str,
)
def test_every_setting_of_the_loop_changes_what_is_learned(change, plain_result, tmp_path):
    assert not torch.equal(averaged_after_training(tmp_path, change), plain_result)


@pytest.fixture(scope="module")
def plain_result(tmp_path_factory):
    return averaged_after_training(tmp_path_factory.mktemp("plain"), {})


def averaged_after_training(folder, change):
    """All averaged weights in one vector; the averages depend on all that the weights do."""
    objective, seen = tiny_objective(), []
    settings = tiny_settings(**{"num_steps": 7, "checkpoint_every_steps": 0, **change})

    def observe(state):
        seen.append(torch.cat([t.flatten().clone() for t in state.ema.tensors.values()]))
        return {}

    tiny_train(folder, settings, objective, observers=[observe])
    return seen[-1]
