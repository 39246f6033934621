"""Trackers get the numbers of every line, and none of them can stop a training."""

import importlib.util
import sys
import types

import pytest

from rectiflow.runs import Run
from rectiflow.training.metrics import MetricsLog
from rectiflow.training.trackers import Service, check_trackers, curves, run_label

LINE = {"loss": 0.25, "step_seconds": 0.5, "loss_by_t": [1.0, None, 3.0], "note": "text"}


class MadeUpService(types.ModuleType):
    """A tracking service whose runs remember what they were told."""

    def __init__(self, name):
        super().__init__(name)
        self.begun, self.told, self.finished, self.axes = [], [], 0, []
        self.breaks = False

    def init(self, **told):
        self.begun.append(told)
        return self

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))

    def log(self, values, step=None):
        if self.breaks:
            raise ConnectionError("the service is down")
        self.told.append((step, values))

    def finish(self):
        self.finished += 1

    def Image(self, path):
        return ("image", path)

    def Settings(self, **settings):
        return settings


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    module = MadeUpService(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_curves_are_named_alike_for_every_tracker():
    assert curves(LINE) == {
        "loss": 0.25,
        "clock/step_seconds": 0.5,
        "loss_by_t/0": 1.0,
        "loss_by_t/2": 3.0,
    }


def test_a_service_is_told_the_recipe_every_line_and_every_sheet(service, tmp_path):
    run = Run(tmp_path / "first").create()
    run.config_path.write_text('{"name": "tiny"}')
    run.samples.mkdir()
    run.sheet_path(7).write_bytes(b"png")
    log = MetricsLog(run, 0, (service.__name__,))
    log.write(5, LINE)
    log.write(7, {"loss": 0.125})
    log.sync()
    log.close()
    (begun,) = service.begun
    assert (begun["project"], begun["name"]) == ("rectiflow", run_label(run))
    assert begun["config"] == {"name": "tiny"}
    steps = [told.get("step", step) for step, told in service.told]
    values = [{n: v for n, v in told.items() if n != "step"} for _, told in service.told]
    assert steps == [5, 7, 7]
    assert values == [curves(LINE), {"loss": 0.125}, {"samples": ("image", str(run.sheet_path(7)))}]
    assert service.finished == 1
    assert [row["step"] for row in run.metrics()] == [5, 7]


def test_the_same_folder_is_the_same_run_of_a_service(service, tmp_path):
    first, second = Run(tmp_path / "a" / "x").create(), Run(tmp_path / "b" / "x").create()
    for run in (first, first, second):
        Service(service.__name__, run)
    names = [begun["name"] for begun in service.begun]
    assert names[0] == names[1] != names[2]
    assert all(begun["resume"] == "allow" for begun in service.begun)
    assert run_label(first).startswith("x-")


def test_a_service_that_breaks_is_left_out_with_one_warning_and_training_goes_on(service, tmp_path):
    run = Run(tmp_path)
    log = MetricsLog(run, 0, (service.__name__,))
    log.write(1, LINE)
    service.breaks = True
    with pytest.warns(UserWarning, match=f"{service.__name__} fails .*the service is down") as told:
        log.write(2, LINE)
    log.write(3, LINE)  # a second warning would be an error
    log.close()
    assert len(told) == 1
    assert len(service.told) == 1
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]


def test_a_service_that_cannot_be_reached_at_the_start_costs_no_run(service, tmp_path):
    service.init = lambda **_: (_ for _ in ()).throw(RuntimeError("no key"))
    with pytest.warns(UserWarning, match="no key"):
        log = MetricsLog(Run(tmp_path), 0, (service.__name__,))
    log.write(1, LINE)
    log.close()
    assert len(Run(tmp_path).metrics()) == 1


def test_a_broken_disk_under_tensorboard_is_not_passed_over(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="tensorboard"):
        MetricsLog(Run(tmp_path), 0)


def test_no_tracker_leaves_the_file_alone(tmp_path):
    log = MetricsLog(Run(tmp_path), 0, ())
    log.write(1, LINE)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_tracker_that_is_not_installed_is_refused_with_the_command(monkeypatch):
    check_trackers(("tensorboard",))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "wandb" else found(n))
    with pytest.raises(
        ValueError, match=r"wandb is not installed; pip install 'rectiflow\[track\]'"
    ):
        check_trackers(("tensorboard", "wandb"))
