"""Means are over all samples since the last line, and survive a restart."""

import json

import pytest
import torch

from rectiflow.errors import DataError
from rectiflow.runs import Run, is_clock_field, without_clock
from rectiflow.training.metrics import Meter, MetricsLog
from rectiflow.training.objectives.base import Terms


def terms(loss, t):
    return Terms(torch.tensor(loss), torch.tensor(t), {"kl": 2 * torch.tensor(loss)})


def test_losses_fall_into_their_tenth_of_time():
    meter = Meter()
    meter.add_terms(terms([1.0, 3.0], [0.05, 0.0999]))
    meter.add_terms(terms([5.0, 7.0, 9.0], [0.5, 0.1, 1.0]))
    means = meter.means()
    assert means["loss"] == 5.0
    assert means["kl"] == 10.0
    assert means["loss_by_t"] == [2.0, 7.0, None, None, None, 5.0, None, None, None, 9.0]


def test_a_meter_survives_json_bit_for_bit():
    one, other = Meter(), Meter()
    one.add_terms(terms([0.1, 0.7], [0.3, 0.4]))
    one.add("gradient_norm", 1 / 3)
    other.load(json.loads(json.dumps(one.state())))
    for meter in (one, other):
        meter.add_terms(terms([0.2], [0.35]))
    assert one.means() == other.means()


def test_a_model_without_time_has_no_bins():
    meter = Meter()
    meter.add_terms(Terms(torch.tensor([1.0])))
    assert meter.means() == {"loss": 1.0}


def test_lines_after_the_checkpoint_are_cut_and_half_lines_dropped(tmp_path):
    run = Run(tmp_path)
    log = MetricsLog(run, 0)
    for step in (0, 2, 4, 6):
        log.write(step, {"loss": step / 3, "step_seconds": 0.1, "loss_by_t": [1.0, None]})
    log.close()
    with run.metrics_path.open("ab") as stream:
        stream.write(b'{"step": 8, "lo')
    assert [row["step"] for row in run.metrics()] == [0, 2, 4, 6]
    MetricsLog(run, 4).close()
    assert [row["step"] for row in run.metrics()] == [0, 2, 4]
    MetricsLog(run, 0).close()
    assert run.metrics() == []


def test_a_damaged_line_is_named(tmp_path):
    run = Run(tmp_path)
    for damage in (b"{\n", b"[]\n", b'{"loss": 1}\n'):
        run.metrics_path.write_bytes(b'{"step": 1}\n' + damage)
        with pytest.raises(DataError, match=r"metrics\.jsonl line 2 is damaged"):
            run.metrics()


def test_clock_fields_are_told_by_their_names():
    row = {"step": 1, "loss": 2.0, "data_seconds": 3.0, "samples_per_second": 4.0}
    assert without_clock(row) == {"step": 1, "loss": 2.0}
    assert not is_clock_field("seconds_of_arc")


def test_tensorboard_reads_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(Run(tmp_path), 0)
    log.write(5, {"loss": 0.25, "step_seconds": 0.5, "loss_by_t": [1.0, None, 3.0]})
    log.close()
    events = EventAccumulator(str(Run(tmp_path).tensorboard))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags == {"loss", "clock/step_seconds", "loss_by_t/0", "loss_by_t/2"}
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(5, 0.25)]
