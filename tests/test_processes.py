import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rectiflow
from rectiflow.processes import Group, run, run_rectiflow


@pytest.fixture(autouse=True)
def _package_is_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(rectiflow.__file__).parent.parent))


def python(program, environment=None):
    return run([sys.executable, "-c", program], environment)


def test_a_process_tells_its_output_its_time_and_its_memory():
    started = time.perf_counter()
    done = python("import time; block = bytearray(64 << 20); time.sleep(0.05); print('drawn')")
    assert done.output == "drawn\n"
    assert 0.05 <= done.seconds <= time.perf_counter() - started
    assert done.peak_mib is None or done.peak_mib > 64


def test_a_mistake_of_the_caller_is_passed_on_as_its_one_line():
    program = "import sys; sys.stderr.write('note\\nrectiflow: no such run\\n'); sys.exit(2)"
    with pytest.raises(ValueError, match=r"^no such run$"):
        python(program)


def test_a_failure_names_the_command_and_shows_the_end_of_what_it_said():
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1:.*ZeroDivisionError"):
        python("1 / 0")
    with pytest.raises(RuntimeError, match="it said nothing"):
        python("import sys; sys.exit(3)")


PATIENT = """
import os, pathlib, signal, sys, time
def stop(*_):
    pathlib.Path("saved").write_text(str(os.getsid(0)))
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_an_interruption_reaches_the_process_as_one_sigterm_which_it_may_take_its_time_over(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    def interrupted(process):
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("rectiflow.processes._wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        python(PATIENT)
    session = int((tmp_path / "saved").read_text())
    assert session != os.getsid(0)  # where the terminal's Ctrl-C does not reach


def test_processes_that_have_just_ended_do_not_keep_the_others_from_being_ended():
    """They may be waited for already and still be counted in."""
    group, idle = Group(), [sys.executable, "-c", "import time; time.sleep(60)"]
    processes = [subprocess.Popen(idle, text=True) for _ in range(3)]
    ended = [processes[0], processes[2]]
    for process in ended:
        process.kill()
        process.wait()
    with group.holding(processes[0]), group.holding(processes[1]), group.holding(processes[2]):
        group.end()
    assert processes[1].wait(timeout=30) == -signal.SIGTERM


def test_settings_of_the_environment_are_added_to_ours(monkeypatch):
    monkeypatch.setenv("RECTIFLOW_OURS", "kept")
    program = "import os; print(os.environ['RECTIFLOW_OURS'], os.environ['OMP_NUM_THREADS'])"
    assert python(program, {"OMP_NUM_THREADS": "1"}).output == "kept 1\n"


def test_the_program_itself_can_be_run():
    assert run_rectiflow("--version").output.strip() == rectiflow.__version__
    with pytest.raises(ValueError, match="No such command"):
        run_rectiflow("sampel")
