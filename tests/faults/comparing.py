"""What is left of a run that was disturbed, against what is left of one that was not."""

import json

from safetensors.torch import load_file

from rectiflow import checkpoints
from rectiflow.data.manifest import MANIFEST
from rectiflow.data.store import Store
from rectiflow.runs import Run, without_clock
from rectiflow.sealing import verify
from rectiflow.training import checkpoint

CLOCK = "tensorboard"  # its files tell the time and the process, and so do their names
LOCK = ".partial.lock"  # empty; a kill after the last shard leaves it, until the store is used next
CHECKSUMS = ("state.json", "bundle.json")  # of what else is compared, and of seconds


def assert_nothing_half(folder):
    """All that has its name is whole: checkpoints, exports, stores, and every line of JSON."""
    run = Run(folder)
    kept = (checkpoints.list_checkpoints, checkpoints.list_best, checkpoints.list_averages)
    for listed in (folder for each in kept for folder in each(run)):
        checkpoint.load(listed)
    if run.export.exists():
        verify(run.export)
    run.metrics()
    run.result()
    assert_stores_whole(folder.parent)


def assert_stores_whole(folder):
    """Every store below a folder that has its name is whole."""
    for manifest in folder.rglob(MANIFEST):
        if ".partial" not in manifest.parent.name:
            Store.open(manifest.parent).verify()


def contents(folder):
    """What a folder holds but for the clock's part: relative path to bytes or values."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_dir() or CLOCK in name.split("/") or name.endswith(LOCK):
            continue
        if file.name == "metrics.jsonl":
            lines = file.read_text().splitlines()
            found[name] = [without_clock(json.loads(line)) for line in lines]
        elif file.name in CHECKSUMS:
            found[name] = sorted(json.loads(file.read_text())["files"])
        elif file.suffix == ".safetensors":  # whose header names its facts in any order
            found[name] = {key: value.numpy().tobytes() for key, value in load_file(file).items()}
        elif file.name == "result.json":
            found[name] = without_clock(json.loads(file.read_text())["metrics"])
        else:
            found[name] = file.read_bytes()
    return found


def assert_same_contents(folder, undisturbed):
    """Two folders hold the same files of the same bytes."""
    ours, theirs = contents(folder), contents(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, content in theirs.items():
        assert ours[name] == content, name
