import sys
from pathlib import Path

import pytest

import rectiflow
from rectiflow.bench.processes import call_on_one_core, import_seconds
from rectiflow.processes import run


@pytest.fixture(autouse=True)
def _package_is_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(rectiflow.__file__).parent.parent))


def test_an_import_counts_without_the_interpreters_own_start():
    assert import_seconds("time.sleep(0.05)") >= 0.05
    assert import_seconds("pass") < run([sys.executable, "-c", "pass"]).seconds


def test_scenes_are_counted_in_a_process_of_their_own():
    measured = call_on_one_core("scene_rates", num_scenes=3, num_repeats=2, size_px=32)
    assert set(measured) == {"rendered", "made"}
    assert all(len(each) == 2 and min(each) > 0 for each in measured.values())
