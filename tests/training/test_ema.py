"""The average obeys its recurrence from the first step on."""

import pytest
import torch
from torch import nn

from rectiflow.training.ema import Ema, copy_into, exponential, named_tensors


class Counted(nn.Module):
    """A weight, a buffer of each type, and a second name for the weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.again = self.weight
        self.register_buffer("scale", torch.tensor(3.0))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("scratch", torch.tensor(0.0), persistent=False)


def test_the_average_follows_the_recurrence_with_its_warm_up():
    model = Counted()
    ema, expected = Ema(model, exponential(0.5)), torch.tensor([1.0, -2.0])
    for step in range(1, 30):
        with torch.no_grad():
            model.weight += step
            model.count += 1
        decay = min(0.5, (1 + step) / (10 + step))
        assert ema.decay_at(step) == decay
        expected = decay * expected + (1 - decay) * model.weight.detach()
        ema.update(step)
    torch.testing.assert_close(ema.tensors["weight"], expected)
    assert ema.tensors["count"].item() == 29


def test_the_first_weights_are_forgotten_in_a_short_run():
    """Product of the decays over 200 steps: 10! / (202 ... 210), not 0.999^200 = 0.82."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = Ema(model, exponential(0.999))
    nn.init.zeros_(model.weight)
    for step in range(1, 201):
        ema.update(step)
    assert ema.tensors["weight"].item() < 1e-9


def test_tensors_are_named_once_and_scratch_is_left_out():
    assert set(named_tensors(Counted())) == {"weight", "scale", "count"}


def test_applied_lends_the_averaged_weights_and_gives_back_the_same_memory():
    model = Counted()
    ema = Ema(model, exponential(0.0))
    with torch.no_grad():
        model.weight.fill_(7.0)
    memory = model.weight.data_ptr()
    with ema.applied():
        assert model.weight.tolist() == [1.0, -2.0]
        assert model.again is model.weight
    assert model.weight.tolist() == [7.0, 7.0]
    assert model.weight.data_ptr() == memory
    with pytest.raises(RuntimeError, match="stop"), ema.applied():
        raise RuntimeError("stop")
    assert model.weight.tolist() == [7.0, 7.0]


def test_applied_weights_are_those_that_autocast_computes_with():
    model = nn.Linear(4, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = Ema(model, exponential(0.0))
    nn.init.zeros_(model.weight)
    x = torch.ones(1, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).item() == 0
        with ema.applied():
            assert model(x).item() == 4
        assert model(x).item() == 0


def test_foreign_weights_are_refused_by_name_and_shape():
    target = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(ValueError, match="b is missing from the file"):
        copy_into(target, {"a": torch.zeros(2)}, "the file")
    with pytest.raises(ValueError, match="c is unknown to the model but in the file"):
        copy_into(target, {**target, "c": torch.zeros(1)}, "the file")
    with pytest.raises(ValueError, match=r"b has shape \(4,\) in the file, the model needs \(3,\)"):
        copy_into(target, {"a": torch.zeros(2), "b": torch.zeros(4)}, "the file")
