import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import rectiflow
from rectiflow import processes
from rectiflow.processes import Finished
from rectiflow.scaling import scheduling
from rectiflow.scaling.scheduling import Crew, Interrupted, Slot, slots_of

ROOT = Path(rectiflow.__file__).parents[2]


def devices(monkeypatch, gpus, cores):
    monkeypatch.setattr(scheduling, "_num_gpus", lambda: gpus)
    monkeypatch.setattr(scheduling, "num_cores", lambda: cores)


def test_without_gpus_there_is_room_for_one_process_a_core_with_one_thread(monkeypatch):
    devices(monkeypatch, gpus=0, cores=2)
    assert slots_of() == [Slot({"OMP_NUM_THREADS": "1"})] * 2
    assert slots_of(num_jobs=1) == [Slot({"OMP_NUM_THREADS": "2"})]
    assert slots_of(num_jobs=5) == [Slot({"OMP_NUM_THREADS": "1"})] * 5


def test_with_gpus_there_is_room_for_one_process_a_gpu_which_sees_no_other(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices(monkeypatch, gpus=8, cores=16)
    visible = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots_of()]
    assert visible == list("01234567")
    assert {slot.environment["OMP_NUM_THREADS"] for slot in slots_of()} == {"2"}
    shared = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots_of(2, 5)]
    assert shared == list("01010")
    # Of a machine that others use too, as a queue of jobs gives it away.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-1f,6")
    devices(monkeypatch, gpus=3, cores=16)
    given = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots_of()]
    assert given == ["4", "GPU-1f", "6"]
    hidden = slots_of(0)
    assert len(hidden) == 16
    assert {slot.environment["CUDA_VISIBLE_DEVICES"] for slot in hidden} == {""}


@pytest.mark.parametrize(
    ("arguments", "said"), [((9,), "gpus must be 0 to 8.*got 9"), ((None, 0), "jobs must be >= 1")]
)
def test_devices_that_are_not_there_are_refused(monkeypatch, arguments, said):
    devices(monkeypatch, gpus=8, cores=16)
    with pytest.raises(ValueError, match=said):
        slots_of(*arguments)


def work_off(crew, tasks, work, folder, on_done=lambda task: None):
    crew.work_off(tasks, work, lambda task: folder / f"{task}.lock", on_done)


def test_as_many_are_in_work_as_there_are_slots_each_with_its_own_environment(tmp_path):
    seen, together = [], threading.Barrier(2)

    def run(command, environment, *, group, keep_open):
        together.wait(timeout=10)  # passes only if two are in work at a time
        seen.append((command[-1], environment["GPU"]))
        return Finished(0.0, None, "")

    done = []
    crew = Crew([Slot({"GPU": "0"}), Slot({"GPU": "1"})], run)
    work_off(crew, list("abcd"), lambda task, program: program(task), tmp_path, done.append)
    assert sorted(done) == list("abcd")
    assert {task for task, _ in seen[:2]} == {"a", "b"}
    assert {gpu for _, gpu in seen[:2]} == {gpu for _, gpu in seen[2:]} == {"0", "1"}


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_a_failure_is_told_at_once_and_raised_when_the_others_are_done(tmp_path, kind, caplog):
    def work(task, program):
        if task in "ac":
            raise kind(f"{task} failed")

    done = []
    with pytest.raises(kind, match=r"a failed\n\(1 more failed\)"):
        work_off(Crew([Slot({})]), list("abcd"), work, tmp_path, done.append)
    assert done == ["b", "d"]
    assert [record.message for record in caplog.records] == [
        "failed, the others go on: a failed",
        "failed, the others go on: c failed",
    ]


def test_what_fails_after_a_task_does_not_end_the_others_either(tmp_path):
    """A page that cannot be written is no reason to stop hours of training."""
    done = []

    def on_done(task):
        done.append(task)
        if task == "a":
            raise OSError("no room for the page")

    with pytest.raises(RuntimeError, match="no room for the page"):
        work_off(Crew([Slot({})]), list("abc"), lambda *_: None, tmp_path, on_done)
    assert done == list("abc")


STUDY = """
import os, signal, sys, time
from pathlib import Path
from rectiflow.processes import run
from rectiflow.scaling.scheduling import Crew, Slot

CHILD = '''
import os, signal, sys, time
from pathlib import Path
name = sys.argv[1]
def stop(*_):
    time.sleep(0.3)
    Path(name + ".stopped").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
Path(name + ".begun").write_text(str(os.getpid()))
for _ in range(100 if name != "orphan" else 15):
    time.sleep(0.1)
Path(name + ".done").touch()
'''

def fake(command, environment, **options):
    return run([sys.executable, "-c", CHILD, command[-1]], environment, **options)

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
# A shell's background job, as this test may be part of, ignores Ctrl-C and passes that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
crew = Crew([Slot({})] * 2, fake)
work = lambda task, program: Path(task + ".done").exists() or program(task)
crew.work_off(sys.argv[1:], work, lambda task: Path(task + ".lock"), lambda task: None)
"""


def start_study(folder, *tasks):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", STUDY, *tasks]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE)


def wait_for(*files):
    deadline = time.monotonic() + 30
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_ends_all_processes_and_waits_until_they_have_tidied_up(tmp_path, number):
    study = start_study(tmp_path, "a", "b", "c")
    wait_for(tmp_path / "a.begun", tmp_path / "b.begun")
    study.send_signal(number)
    study.communicate(timeout=30)
    assert study.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)
    assert (tmp_path / "a.stopped").exists()
    assert (tmp_path / "b.stopped").exists()
    assert not (tmp_path / "c.begun").exists()


def test_what_a_killed_study_left_running_is_waited_for_and_not_done_twice(tmp_path):
    study = start_study(tmp_path, "orphan")
    wait_for(tmp_path / "orphan.begun")
    first = (tmp_path / "orphan.begun").read_text()
    study.kill()
    study.communicate(timeout=30)
    again = start_study(tmp_path, "orphan")
    again.communicate(timeout=30)
    assert again.returncode == 0
    assert (tmp_path / "orphan.done").exists()
    assert (tmp_path / "orphan.begun").read_text() == first


def test_what_waits_for_an_orphan_can_be_interrupted(tmp_path):
    group = processes.Group()
    with scheduling._sole_user(tmp_path / "lock", group):
        group.is_ending = True
        with (
            pytest.raises(Interrupted, match="held by another process"),
            scheduling._sole_user(tmp_path / "lock", group),
        ):
            pass
