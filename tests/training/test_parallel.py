"""What a job of several processes refuses, and what they can tell each other; of one process."""

import pickle

import pytest
import torch

from rectiflow.training.parallel import joined
from rectiflow.training.ranks import portable
from rectiflow.training.settings.parallel import ParallelSettings


class Stubborn(Exception):
    """Cannot be made again from its text alone, as some of clients of object stores cannot."""

    def __init__(self, text, response):
        super().__init__(text)
        self.response = response


def test_an_error_that_cannot_be_pickled_travels_by_its_text():
    error = OSError(28, "No space left on device", "there")
    assert portable(error) is error
    told = pickle.loads(pickle.dumps(portable(Stubborn("no such bucket", object()))))
    assert isinstance(told, RuntimeError)
    assert str(told) == "Stubborn: no such bucket"


def test_more_processes_than_gpus_are_refused_before_they_meet(monkeypatch):
    place = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ValueError, match=r"one process for each GPU .* started 2 and there are 1"),
        joined(ParallelSettings(kind="ddp"), torch.device("cuda")),
    ):
        pass
