"""Undisturbed work, to hold against what was disturbed; made once."""

import pytest

from tests.faults.killing import Worker
from tests.sampling import tiny


@pytest.fixture(scope="session")
def light():
    worker = Worker("tests.faults.trainings")
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def other():
    worker = Worker("tests.faults.trainings")
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def heavy():
    worker = Worker("tests.faults.recipes")
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def training(light, tmp_path_factory):
    """An undisturbed run, and how many file events it had."""
    folder = tmp_path_factory.mktemp("training") / "run"
    return folder, light.count_events("train", folder, root=folder)


@pytest.fixture(scope="session")
def recipe(heavy, tmp_path_factory):
    """The folder of an undisturbed run and its store, file events and seconds of it."""
    root = tmp_path_factory.mktemp("recipe")
    num_events = heavy.count_events("train", root / "run", root=root)
    return root, num_events, heavy.seconds_of("train", root / "again" / "run")


@pytest.fixture(scope="session")
def store(light, tmp_path_factory):
    """The folder of an undisturbed preparation, and how many file events it had."""
    root = tmp_path_factory.mktemp("store")
    return root, light.count_events("encode", root / "store", root=root)


@pytest.fixture(scope="session")
def evaluation(heavy, tmp_path_factory):
    """A run, the folder of an undisturbed evaluation of it, file events and seconds of that."""
    root = tmp_path_factory.mktemp("evaluation")
    run, folder = tiny.write_run(root / "run"), root / "suite"
    num_events = heavy.count_events("evaluate", run, folder, root=folder)
    return run, folder, num_events, heavy.seconds_of("evaluate", run, root / "again")
